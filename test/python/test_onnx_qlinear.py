# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""ONNX Runtime's operators on codes (QOperator), against NumPy in float64."""

from __future__ import annotations

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx import helper, numpy_helper  # noqa: E402
from onnx_models import compile_model, refuse, run_package  # noqa: E402


def make(op: str, inputs: list, **attributes) -> onnx.ModelProto:
    """One node; the arrays of rank 2 and more of bytes are the graph's inputs."""
    names, infos, weights = [], [], []
    for i, value in enumerate(inputs):
        names.append("" if value is None else f"x{i}")
        if value is None:
            continue
        value = np.asarray(value)
        is_data = value.ndim >= 2 and not (op == "QGemm" and i == 3)
        if is_data:
            kind = helper.np_dtype_to_tensor_dtype(value.dtype)
            shape = [f"n{i}", *value.shape[1:]]
            infos.append(helper.make_tensor_value_info(names[-1], kind, shape))
        else:
            weights.append(numpy_helper.from_array(value, names[-1]))
    result = attributes.pop("result", onnx.TensorProto.UINT8)
    graph = helper.make_graph(
        [helper.make_node(op, names, ["y"], name="odd", domain="com.microsoft",
                          **attributes)],
        "g", infos, [helper.make_tensor_value_info("y", result, None)], weights,
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def run(tmp_path, op: str, inputs: list, **attributes) -> np.ndarray:
    model = make(op, inputs, **attributes)
    names = {info.name for info in model.graph.input}
    given = {f"x{i}": x for i, x in enumerate(inputs) if f"x{i}" in names}
    return run_package(compile_model(tmp_path, model), **given)["y"]


def real(codes, scale, zero=0) -> np.ndarray:
    return (codes.astype(np.float64) - np.float64(zero)) * np.float64(scale)


def check(codes: np.ndarray, values: np.ndarray, scale, zero) -> None:
    """What lies between two codes may become either, in float32."""
    exact = np.clip(values / np.float64(scale) + float(zero), 0, 255)
    assert codes.dtype == np.uint8 and codes.shape == exact.shape
    assert np.abs(codes - exact).max() < 0.5 + 1e-3
    assert codes.std() > 5


def draw(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


F, Z = np.float32, np.uint8
FIRST, SECOND = (F(0.02), Z(120)), (F(0.013), Z(7))


@pytest.mark.parametrize("op, combine", [("QLinearAdd", np.add),
                                         ("QLinearMul", np.multiply)])
def test_pairs(tmp_path, op, combine):
    a, b = draw(1, 3, 5, 7), draw(2, 1, 7)
    out = (F(0.03), Z(99))
    got = run(tmp_path, op, [a, *FIRST, b, *SECOND, *out])
    check(got, combine(real(a, *FIRST), real(b, *SECOND)), *out)


def test_zero_points_may_be_left_out(tmp_path):
    a, b = draw(1, 3, 7), draw(2, 3, 7)
    got = run(tmp_path, "QLinearAdd", [a, F(0.02), None, b, F(0.013), None, F(0.05)])
    check(got, real(a, 0.02) + real(b, 0.013), 0.05, 0)
    got = run(tmp_path, "QLinearLeakyRelu", [a, F(0.02), None, F(0.03)], alpha=0.5)
    check(got, real(a, 0.02), 0.03, 0)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("op, attributes, function, out", [
    ("QLinearSigmoid", {}, sigmoid, (F(1 / 256), Z(0))),
    ("QLinearLeakyRelu", {"alpha": 0.25}, lambda x: np.where(x < 0, x / 4, x),
     (F(0.012), Z(60))),
    ("QLinearGlobalAveragePool", {"channels_last": 0},
     lambda x: x.mean(axis=(2, 3), keepdims=True), (F(0.002), Z(100))),
    ("QLinearAveragePool", {"kernel_shape": [2, 2], "strides": [2, 2]},
     lambda x: x.reshape(2, 3, 3, 2, 2, 2).mean(axis=(3, 5)), (F(0.015), Z(120))),
    ("QLinearSoftmax", {"axis": -1, "opset": 17},
     lambda x: np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True), (F(1 / 256), Z(0))),
])  # fmt: skip
def test_single_ones(tmp_path, op, attributes, function, out):
    x = draw(3, 2, 3, 6, 4)
    got = run(tmp_path, op, [x, *FIRST, *out], **attributes)
    check(got, function(real(x, *FIRST)), *out)


def test_parts_put_together(tmp_path):
    a, b, out = draw(4, 2, 3, 4), draw(5, 2, 5, 4), (F(0.025), Z(110))
    got = run(tmp_path, "QLinearConcat", [*out, a, *FIRST, b, *SECOND], axis=1)
    check(got, np.concatenate([real(a, *FIRST), real(b, *SECOND)], 1), *out)


def test_choices(tmp_path):
    a, b, out = draw(6, 3, 5), draw(7, 3, 5), (F(0.025), Z(110))
    chosen = np.random.default_rng(8).random((3, 5)) < 0.5
    got = run(tmp_path, "QLinearWhere", [chosen, a, *FIRST, b, *SECOND, *out])
    check(got, np.where(chosen, real(a, *FIRST), real(b, *SECOND)), *out)


@pytest.mark.parametrize("turned", [0, 1])
@pytest.mark.parametrize("per_column", [False, True])
@pytest.mark.parametrize("is_float", [False, True])
def test_products_with_biases(tmp_path, turned, per_column, is_float):
    rng = np.random.default_rng(9)
    x = draw(10, 4, 33)
    w = rng.integers(-127, 128, (33, 9)).astype(np.int8)
    count = 9 if per_column else 1
    scale = (rng.random(count) / 100 + 0.01).astype(F)
    c = rng.integers(-5000, 5000, 9).astype(np.int32)
    inputs = [x, *FIRST, w.T.copy() if turned else w, scale, np.zeros(count, np.int8), c]
    expected = real(x, *FIRST) @ real(w, scale) + c * (FIRST[0] * np.float64(scale))
    if is_float:
        got = run(tmp_path, "QGemm", inputs, transB=turned, result=1)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-4)
        return
    out = (F(0.05), Z(128))
    check(run(tmp_path, "QGemm", [*inputs, *out], transB=turned), expected, *out)


@pytest.mark.parametrize("op, inputs, attributes, message", [
    ("QGemm", [draw(0, 2, 3), *FIRST, draw(0, 3, 4), *SECOND], {"alpha": 0.5},
     "alpha must be 1"),
    ("QLinearAdd", [draw(0, 2, 3), *FIRST, draw(0, 2, 3), None, None, F(1)], {},
     "input 4 is missing"),
    ("QLinearConcat", [*FIRST, draw(0, 2, 3), F(1)], {"axis": 1},
     "takes 5 to"),
    ("QLinearGlobalAveragePool", [draw(0, 2, 3, 4, 4), *FIRST, *FIRST],
     {"channels_last": 1}, "channels must come before the image's sizes"),
    ("QLinearSoftmax", [draw(0, 2, 3, 4), *FIRST, *FIRST], {"axis": 1, "opset": 12},
     "Softmax before opset 13 must be along the last axis"),
])  # fmt: skip
def test_bad_ones_are_refused(tmp_path, op, inputs, attributes, message):
    text = refuse(tmp_path, make(op, inputs, **attributes))
    assert f"node 'odd' (com.microsoft.{op}): {message}" in text

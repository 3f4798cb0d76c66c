# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""MatMulInteger and ConvInteger as quantize_dynamic of ONNX Runtime writes them:
on packed weights, against NumPy and, where it is installed, ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
import toolchain

onnx = pytest.importorskip("onnx")

import onnx_models  # noqa: E402
from onnx import TensorProto, helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402
from onnx_models import compile_model, make_model, run_package  # noqa: E402


def make_dynamic(kind, x_shape, y_shape, weight, axis, **attributes):
    """x rounded by its own range, summed in int32, and scaled by channel."""
    shape = [1] * len(y_shape)
    shape[axis] = y_shape[axis]
    rng = np.random.default_rng(7)
    scales = rng.uniform(0.001, 0.01, shape).astype(np.float32)
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"], name="round"),
        helper.make_node(kind, ["q", "w", "z", "wz"], ["i"], name="sum", **attributes),
        helper.make_node("Cast", ["i"], ["f"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["s", "ws"], ["m"], name="scale"),
        helper.make_node("Mul", ["f", "m"], ["y"], name="product"),
    ]
    return make_model(nodes, {"x": x_shape}, {"y": y_shape},
                      {"w": weight, "wz": np.zeros((), np.int8), "ws": scales})  # fmt: skip


def round_dynamically(x):
    low, high = min(x.min(), 0), max(x.max(), 0)
    scale = np.float32((high - low) / np.float32(255))
    zero = np.clip(np.rint((0 - low) / scale), 0, 255)
    return np.clip(np.rint(x / scale) + zero, 0, 255).astype(np.int64), scale, zero


def is_packed(package, columns, rows):
    """Whether the weight lies there in bytes."""
    arrays = toolchain.read_safetensors(package / "weights.safetensors").values()
    return any(a.itemsize == 1 and a.nbytes >= columns * rows for a in arrays)


@pytest.mark.parametrize("inner, outer", [(1, 1), (64, 17), (129, 33), (1000, 48)])
@pytest.mark.parametrize("shift", [-0.5, 0, 9])
def test_products_equal_sums_of_integers(tmp_path, inner, outer, shift):
    rng = np.random.default_rng(inner)
    w = rng.integers(-128, 128, (inner, outer), dtype=np.int8)
    model = make_dynamic("MatMulInteger", ("rows", inner), ("rows", outer), w, 1)
    scales = onnx.numpy_helper.to_array(model.graph.initializer[2]).astype(np.float64)
    package = compile_model(tmp_path, model)
    for rows in (1, 37):
        x = rng.standard_normal((rows, inner)).astype(np.float32) + np.float32(shift)
        codes, scale, zero = round_dynamically(x)
        sums = (codes - int(zero)) @ w.astype(np.int64)
        expected = sums * (np.float64(scale) * scales)
        got = run_package(package, x=x)["y"]
        # A code that is halfway may be rounded either way.
        step = float(scale) * np.abs(w.astype(np.float64) * scales).max()
        np.testing.assert_allclose(got, expected, atol=1.01 * step, rtol=1e-5)
        assert np.abs(got - expected).mean() < step / 50
    assert is_packed(package, inner, outer)


def test_more_dimensions_and_signed_codes(tmp_path):
    rng = np.random.default_rng(1)
    w = rng.integers(-128, 128, (24, 10), dtype=np.int8)
    q = rng.integers(-128, 128, (2, 3, 24), dtype=np.int8)
    for point in (None, np.array(5, np.int8)):
        extra = {} if point is None else {"z": point}
        nodes = [
            helper.make_node("MatMulInteger", ["q", "w", *extra], ["i"], name="sum"),
            helper.make_node("Cast", ["i"], ["y"], name="cast", to=TensorProto.FLOAT),
        ]
        model = make_model(nodes, {"q": (2, 3, 24)}, {"y": (2, 3, 10)}, {"w": w} | extra)
        model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT8
        package = compile_model(tmp_path, model)
        expected = (q.astype(np.int64) - int(point or 0)) @ w.astype(np.int64)
        np.testing.assert_array_equal(run_package(package, q=q)["y"], expected)
        assert is_packed(package, 24, 10)


def test_sums_that_stay_integers_are_exact(tmp_path):
    """2^24 and more: nothing of f32 is between."""
    w = np.full((2048, 3), 127, np.int8)
    nodes = [
        helper.make_node("MatMulInteger", ["q", "w"], ["i"], name="sum"),
        helper.make_node("Cast", ["i"], ["y"], name="cast", to=TensorProto.FLOAT),
    ]
    model = make_model(nodes, {"q": (1, 2048)}, {"i": (1, 3), "y": (1, 3)}, {"w": w})
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT32
    q = np.full((1, 2048), 255, np.uint8)
    q[0, 0] = 254
    got = run_package(compile_model(tmp_path, model), q=q)
    assert got["i"].tolist() == [[127 * (255 * 2048 - 1)] * 3]


@pytest.mark.parametrize("pads", [[0, 0, 0, 0], [1, 0, 2, 1]])
@pytest.mark.parametrize("group", [1, 2])
def test_convolutions(tmp_path, pads, group):
    rng = np.random.default_rng(2)
    w = rng.integers(-128, 128, (6, 4 // group, 3, 2), dtype=np.int8)
    out = [9 + pads[0] + pads[2] - 2, 8 + pads[1] + pads[3] - 1]
    model = make_dynamic("ConvInteger", (2, 4, 9, 8), (2, 6, *out), w, 1, pads=pads,
                         group=group)  # fmt: skip
    x = onnx_models.random(rng, 2, 4, 9, 8) + np.float32(0.5)
    [expected] = ReferenceEvaluator(model).run(None, {"x": x})
    got = run_package(compile_model(tmp_path, model), x=x)["y"]
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_what_quantize_dynamic_writes(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    from onnxruntime import quantization

    rng = np.random.default_rng(3)
    onnx.save(onnx_models.make_mlp(rng), tmp_path / "f32.onnx")
    quantization.quantize_dynamic(
        tmp_path / "f32.onnx", tmp_path / "int8.onnx", per_channel=True,
        weight_type=quantization.QuantType.QInt8,
    )  # fmt: skip
    model = onnx.load(tmp_path / "int8.onnx")
    kinds = {node.op_type for node in model.graph.node}
    assert "MatMulInteger" in kinds and "MatMul" not in kinds
    x = onnx_models.random(rng, 9, model.graph.input[0].type.tensor_type.shape.dim[1].dim_value)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in model.graph.output]
    expected = session.run(None, {model.graph.input[0].name: x})
    got = run_package(compile_model(tmp_path, model), **{model.graph.input[0].name: x})
    for name, value in zip(names, expected):
        # Codes that are halfway differ by a step, here and there.
        np.testing.assert_allclose(got[name], value, atol=np.abs(value).max() / 50)

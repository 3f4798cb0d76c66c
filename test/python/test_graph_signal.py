# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Convolutions and pools of one dimension, on the kernels of images."""

from __future__ import annotations

import numpy as np
import pytest
import toolchain

onnx = pytest.importorskip("onnx")

import onnx_models  # noqa: E402
from onnx import helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402
from onnx_models import compile_model, run_package  # noqa: E402

node = helper.make_node
LENGTH = 29
# maps, taps and attributes of convolutions of six channels.
CONVOLUTIONS = [
    (17, 3, {"pads": [1, 1]}),
    (1, 1, {}),
    (5, 10, {"strides": [5]}),
    (8, 4, {"dilations": [3], "pads": [0, 2], "strides": [2]}),
    (6, 5, {"group": 6, "pads": [2, 2]}),
    (4, 3, {"group": 2, "auto_pad": "SAME_LOWER"}),
]
POOLS = [
    ("MaxPool", {"kernel_shape": [3], "strides": [2], "pads": [1, 1]}),
    ("MaxPool", {"kernel_shape": [4], "ceil_mode": 1, "strides": [3]}),
    ("AveragePool", {"kernel_shape": [5], "pads": [2, 2]}),
    ("GlobalAveragePool", {}),
    ("GlobalMaxPool", {}),
]


def make_signals(rng, batch) -> onnx.ModelProto:
    nodes, weights, outputs = [], {}, {}
    for i, (maps, taps, attributes) in enumerate(CONVOLUTIONS):
        depth = 6 // attributes.get("group", 1)
        weights[f"w{i}"] = onnx_models.random(rng, maps, depth, taps)
        weights[f"b{i}"] = onnx_models.random(rng, maps)
        inputs = ["x", f"w{i}", f"b{i}"][: 2 + i % 2]
        nodes.append(node("Conv", inputs, [f"c{i}"], **attributes))
        nodes.append(node("Relu", [f"c{i}"], [f"y{i}"]))
        outputs[f"y{i}"] = ("n", maps, f"l{i}")
    for i, (op, attributes) in enumerate(POOLS):
        nodes.append(node(op, ["x"], [f"p{i}"], **attributes))
        outputs[f"p{i}"] = ("n", 6, f"k{i}")
    return onnx_models.make_model(nodes, {"x": (batch, 6, LENGTH)}, outputs, weights)


@pytest.mark.parametrize("batch", ["n", 2])
def test_signals_equal_the_reference(tmp_path, batch):
    rng = np.random.default_rng(0)
    model = make_signals(rng, batch)
    package = compile_model(tmp_path, model)
    text = toolchain.succeed("quantc", tmp_path / "model.onnx", "--to", "import")
    assert text.count("graph.conv") == len(CONVOLUTIONS)
    assert text.count("graph.pool") == len(POOLS)
    for count in (1, 3) if batch == "n" else (2,):
        x = onnx_models.random(rng, count, 6, LENGTH)
        expected = ReferenceEvaluator(model).run(None, {"x": x})
        # The evaluator takes the maximum of all channels.
        expected[-1] = x.max(axis=2, keepdims=True)
        got = run_package(package, x=x)
        for info, want in zip(model.graph.output, expected, strict=True):
            np.testing.assert_allclose(
                got[info.name], want, rtol=1e-4, atol=1e-4, err_msg=info.name
            )


def test_weights_of_a_file_of_their_own(tmp_path):
    """More elements than become constants: read when the package is written."""
    rng = np.random.default_rng(1)
    w = onnx_models.random(rng, 64, 32, 3) / 10
    model = onnx_models.make_model(
        [node("Conv", ["x", "w"], ["y"], pads=[1, 1], strides=[2])],
        {"x": ("n", 32, 40)}, {"y": ("n", 64, 20)}, {"w": w},
    )  # fmt: skip
    x = onnx_models.random(rng, 2, 32, 40)
    [expected] = ReferenceEvaluator(model).run(None, {"x": x})
    for options, bound in (
        ((), 1e-6), (("--weights", "int8", "--activations", "int8-dynamic"), 0.02)
    ):  # fmt: skip
        got = run_package(compile_model(tmp_path, model, *options), x=x)["y"]
        error = np.linalg.norm(got - expected) / np.linalg.norm(expected)
        assert error < bound
        assert bound < 1e-3 or error > 1e-4


def test_codes_of_signals_are_summed_in_int32(tmp_path):
    rng = np.random.default_rng(2)
    weights = {
        "w": rng.integers(-127, 128, (17, 6, 3)).astype(np.int8),
        "ws": (rng.random(17) / 50 + 0.01).astype(np.float32),
        "wz": np.zeros(17, np.int8), "xs": np.float32(0.02), "xz": np.uint8(131),
        "ys": np.float32(0.3), "yz": np.uint8(9),
        "b": rng.integers(-500, 500, 17).astype(np.int32),
    }  # fmt: skip
    weights["bs"] = weights["xs"] * weights["ws"]
    nodes = [
        node("QuantizeLinear", ["x", "xs", "xz"], ["q"]),
        node("QLinearConv",
             ["q", "xs", "xz", "w", "ws", "wz", "ys", "yz", "b"], ["y"], pads=[1, 1]),
        node("DequantizeLinear", ["q", "xs", "xz"], ["xd"]),
        node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=0),
        node("DequantizeLinear", ["b", "bs"], ["bd"], axis=0),
        node("Conv", ["xd", "wd", "bd"], ["c"], pads=[1, 1]),
        node("QuantizeLinear", ["c", "ys", "yz"], ["z"]),
    ]  # fmt: skip

    def make(kept, *names: str) -> onnx.ModelProto:
        return onnx_models.make_model(
            kept, {"x": ("n", 6, LENGTH)},
            {name: ("n", 17, LENGTH) for name in names}, weights,
            types={name: onnx.TensorProto.UINT8 for name in names},
        )  # fmt: skip

    x = onnx_models.random(rng, 2, 6, LENGTH)
    # The evaluator has no QLinearConv of one dimension; it is the other path's.
    plain = make(nodes[:1] + nodes[2:], "z")
    [want] = ReferenceEvaluator(plain).run(None, {"x": x})
    got = run_package(compile_model(tmp_path, make(nodes, "y", "z")), x=x)
    for name in ("y", "z"):
        apart = np.abs(got[name].astype(int) - want.astype(int))
        assert apart.max() <= 1 and (apart > 0).mean() < 0.01, name
    path = tmp_path / "model.onnx"
    text = toolchain.succeed("quantc", path, "--to", "quantize")
    assert text.count("qlm.quantized_linear") + text.count("qlm.packed_linear") == 2
    assert "graph.conv" not in text and "qlm.linear " not in text

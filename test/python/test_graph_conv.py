# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Convolutions, pools and what goes with them, against the standard's evaluator."""

from __future__ import annotations

import numpy as np
import pytest
import toolchain

onnx = pytest.importorskip("onnx")

import onnx_models  # noqa: E402
from onnx import helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402
from test_onnx import compile_model, run_package  # noqa: E402

# channels, maps, kernel, and attributes: each past a tile, odd, or one.
SHAPES = [
    (3, 17, (7, 7), {"strides": [2, 2], "pads": [3, 3, 3, 3]}),
    (3, 1, (1, 1), {}),
    (3, 33, (1, 1), {"strides": [3, 2]}),
    (3, 5, (3, 2), {"pads": [0, 1, 2, 0], "dilations": [2, 3]}),
    (3, 16, (5, 1), {"auto_pad": "SAME_UPPER", "strides": [2, 1]}),
    (3, 8, (2, 4), {"auto_pad": "SAME_LOWER", "strides": [1, 3]}),
    (3, 8, (3, 3), {"auto_pad": "VALID", "strides": [4, 4]}),
    (3, 9, (11, 9), {}),
    (3, 6, (3, 3), {"group": 3, "pads": [1, 1, 1, 1]}),
    (3, 3, (3, 2), {"group": 3, "strides": [2, 1], "dilations": [1, 2]}),
]
HEIGHT, WIDTH = 11, 9


def make_convs(rng, batch):
    """One graph of all SHAPES of one image; each result's ReLU is an output."""
    nodes, weights, outputs = [], {}, {}
    for i, (channels, maps, kernel, attributes) in enumerate(SHAPES):
        depth = channels // attributes.get("group", 1)
        weights[f"w{i}"] = onnx_models.random(rng, maps, depth, *kernel)
        inputs = ["x", f"w{i}"]
        if i % 2:
            weights[f"b{i}"] = onnx_models.random(rng, maps)
            inputs.append(f"b{i}")
        nodes.append(
            helper.make_node("Conv", inputs, [f"c{i}"], name=f"conv{i}", **attributes)
        )
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"y{i}"]))
        outputs[f"y{i}"] = ("n", maps, f"h{i}", f"v{i}")
    return onnx_models.make_model(
        nodes, {"x": (batch, 3, HEIGHT, WIDTH)}, outputs, weights
    )


def check(model, package, atol=1e-4, **inputs):
    expected = ReferenceEvaluator(model).run(None, inputs)
    got = run_package(package, **inputs)
    for output, value in zip(model.graph.output, expected, strict=True):
        np.testing.assert_allclose(
            got[output.name], value, rtol=1e-4, atol=atol, err_msg=output.name
        )
    return got


@pytest.mark.parametrize("batch", ["n", 2])
def test_convolutions_equal_the_reference(tmp_path, batch):
    rng = np.random.default_rng(0)
    model = make_convs(rng, batch)
    package = compile_model(tmp_path, model)
    for count in (1, 3) if batch == "n" else (2,):
        x = onnx_models.random(rng, count, 3, HEIGHT, WIDTH)
        check(model, package, x=x)


def test_each_result_alike_on_more_threads(tmp_path):
    rng = np.random.default_rng(1)
    model = make_convs(rng, "n")
    package = compile_model(tmp_path, model)
    x = onnx_models.random(rng, 7, 3, HEIGHT, WIDTH)
    one = run_package(package, x=x)
    np.savez(tmp_path / "x.npz", x=x)
    toolchain.succeed("quant-run", "run", package, "--input", tmp_path / "x.npz",
                      "--threads", 3, "-o", tmp_path / "three.npz")  # fmt: skip
    with np.load(tmp_path / "three.npz") as three:
        for name, value in one.items():
            np.testing.assert_array_equal(three[name], value)


# Channels, maps, height, width and pads of 3 x 3 convolutions that are computed
# four results at once: odd sizes, no pads, pads of more than an element, more
# quads than a block has, several pairs of blocks, and a residual.
QUADS = [
    (16, 32, 11, 9, [1, 1, 1, 1]),
    (32, 96, 8, 8, [1, 1, 1, 1]),
    (16, 32, 9, 10, [0, 0, 0, 0]),
    (48, 64, 7, 13, [2, 0, 3, 4]),
    (16, 64, 31, 33, [1, 1, 1, 1]),
]


def make_quads(rng, channels, maps, height, width, pads):
    """ReLU of a convolution, and the sum of it and one of itself."""
    weights = {
        "w": onnx_models.random(rng, maps, channels, 3, 3),
        "b": onnx_models.random(rng, maps),
        "v": onnx_models.random(rng, maps, maps, 3, 3) / maps,
    }
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=pads),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Conv", ["r", "v"], ["d"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["d", "r"], ["s"]),
        helper.make_node("Relu", ["s"], ["y"]),
    ]
    outputs = {name: ("n", maps, "h", "v") for name in ("c", "y")}
    return onnx_models.make_model(
        nodes, {"x": ("n", channels, height, width)}, outputs, weights
    )


@pytest.mark.parametrize("shape", QUADS)
def test_four_results_at_once_equal_the_reference(tmp_path, shape):
    rng = np.random.default_rng(5)
    model = make_quads(rng, *shape)
    package = compile_model(tmp_path, model)
    for count in (1, 3):
        x = onnx_models.random(rng, count, shape[0], shape[2], shape[3])
        got = check(model, package, x=x)
    np.savez(tmp_path / "x.npz", x=x)
    toolchain.succeed("quant-run", "run", package, "--input", tmp_path / "x.npz",
                      "--threads", 3, "-o", tmp_path / "three.npz")  # fmt: skip
    with np.load(tmp_path / "three.npz") as three:
        for name, value in got.items():
            np.testing.assert_array_equal(three[name], value)


POOLS = [
    ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("MaxPool", {"kernel_shape": [2, 5], "dilations": [3, 2], "ceil_mode": 1}),
    ("MaxPool", {"kernel_shape": [1, 2], "strides": [3, 1]}),
    ("AveragePool", {"kernel_shape": [3, 2], "pads": [1, 0, 2, 1], "strides": [2, 1]}),
    ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 3],
                     "count_include_pad": 1}),
    ("GlobalMaxPool", {}),
    ("GlobalAveragePool", {}),
]  # fmt: skip


@pytest.mark.parametrize("channels", [1, 8, 21])
def test_pools_equal_the_reference(tmp_path, channels):
    rng = np.random.default_rng(channels)
    nodes = [helper.make_node(op, ["x"], [f"y{i}"], name=f"pool{i}", **attributes)
             for i, (op, attributes) in enumerate(POOLS)]  # fmt: skip
    outputs = {f"y{i}": ("n", channels, f"h{i}", f"v{i}") for i in range(len(POOLS))}
    model = onnx_models.make_model(
        nodes, {"x": ("n", channels, HEIGHT, WIDTH)}, outputs, {}
    )
    package = compile_model(tmp_path, model)
    check(model, package, x=onnx_models.random(rng, 2, channels, HEIGHT, WIDTH))


def make_residual(rng) -> onnx.ModelProto:
    """Two blocks of a residual network, with normalization everywhere."""
    weights, nodes = {}, []

    def conv(source, name, depth, maps, size, relu=True, stride=1, add=None):
        weights[f"{name}.w"] = onnx_models.random(rng, maps, depth, size, size) / depth
        for part in ("scale", "shift", "mean", "variance"):
            weights[f"{name}.{part}"] = onnx_models.random(rng, maps)
        weights[f"{name}.variance"] = np.abs(weights[f"{name}.variance"]) + 0.5
        pad = size // 2
        nodes.append(helper.make_node(
            "Conv", [source, f"{name}.w"], [f"{name}.c"], name=name,
            strides=[stride] * 2, pads=[pad] * 4))  # fmt: skip
        nodes.append(helper.make_node(
            "BatchNormalization", [f"{name}.c"] + [f"{name}.{part}" for part in (
                "scale", "shift", "mean", "variance")], [f"{name}.n"]))  # fmt: skip
        last = f"{name}.n"
        if add:
            nodes.append(helper.make_node("Add", [last, add], [f"{name}.s"]))
            last = f"{name}.s"
        if relu:
            nodes.append(helper.make_node("Relu", [last], [f"{name}.r"]))
            last = f"{name}.r"
        return last

    x = conv("x", "stem", 3, 16, 3)
    y = conv(x, "a1", 16, 16, 3)
    x = conv(y, "a2", 16, 16, 3, add=x)
    y = conv(x, "b1", 16, 24, 3, stride=2)
    side = conv(x, "bs", 16, 24, 1, relu=False, stride=2)
    x = conv(y, "b2", 24, 24, 3, add=side)
    nodes.append(helper.make_node("GlobalAveragePool", [x], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"]))
    weights["fc"] = onnx_models.random(rng, 24, 10)
    nodes.append(helper.make_node("MatMul", ["flat", "fc"], ["y"], name="fc"))
    return onnx_models.make_model(
        nodes, {"x": (2, 3, 13, 10)}, {"y": (2, 10), x: (2, 24, 7, 5)}, weights
    )


def test_residual_network_equals_the_reference(tmp_path):
    rng = np.random.default_rng(2)
    model = make_residual(rng)
    package = compile_model(tmp_path, model)
    check(model, package, x=onnx_models.random(rng, 2, 3, 13, 10))


@pytest.mark.parametrize("activations", ["int8-dynamic", "int8-static"])
def test_residual_network_in_int8_is_close(tmp_path, activations):
    rng = np.random.default_rng(3)
    model = make_residual(rng)
    x = onnx_models.random(rng, 2, 3, 13, 10)
    [expected] = ReferenceEvaluator(model).run(["y"], {"x": x})
    options = ["--weights", "int8", "--activations", activations]
    if activations == "int8-static":
        np.savez(tmp_path / "seen.npz", x=x)
        options += ["--calibration", tmp_path / "seen.npz"]
    got = run_package(compile_model(tmp_path, model, *options), x=x)["y"]
    error = np.linalg.norm(got - expected) / np.linalg.norm(expected)
    assert 0 < error < 0.05


def make_codes(rng, zero: int, kind: type, per_channel: bool) -> onnx.ModelProto:
    """QLinearConv, and the same between QuantizeLinear and DequantizeLinear."""
    maps = 17
    weights = {
        "w": rng.integers(-127, 128, (maps, 3, 3, 3)).astype(np.int8),
        "ws": (rng.random(maps if per_channel else 1) / 50 + 0.01).astype(np.float32),
        "wz": np.zeros(maps if per_channel else 1, np.int8),
        "xs": np.float32(0.02), "xz": kind(zero),
        "ys": np.float32(0.3), "yz": kind(zero - 3),
        "b": rng.integers(-500, 500, maps).astype(np.int32),
    }  # fmt: skip
    if not per_channel:
        weights["ws"], weights["wz"] = weights["ws"].reshape(()), np.int8(0)
    weights["bs"] = weights["xs"] * weights["ws"]
    place = {"strides": [2, 1], "pads": [1, 0, 2, 1]}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["q"]),
        helper.make_node(
            "QLinearConv", ["q", "xs", "xz", "w", "ws", "wz", "ys", "yz", "b"],
            ["y"], name="codes", **place),
        helper.make_node("DequantizeLinear", ["q", "xs", "xz"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=0),
        helper.make_node("DequantizeLinear", ["b", "bs"], ["bd"], axis=0),
        helper.make_node("Conv", ["xd", "wd", "bd"], ["c"], name="floats", **place),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("QuantizeLinear", ["r", "ys", "yz"], ["z"]),
        helper.make_node("DequantizeLinear", ["z", "ys", "yz"], ["zd"]),
        helper.make_node("MaxPool", ["zd"], ["m"], kernel_shape=[2, 2]),
        helper.make_node("QuantizeLinear", ["m", "ys", "yz"], ["p"]),
    ]  # fmt: skip
    code = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    return onnx_models.make_model(
        nodes, {"x": (2, 3, 9, 7)},
        {name: ("n", maps, f"h{name}", f"w{name}") for name in ("y", "z", "p")},
        weights, types={name: code for name in ("y", "z", "p")},
    )  # fmt: skip


@pytest.mark.parametrize(
    "zero, kind, per_channel",
    [(0, np.int8, True), (-7, np.int8, False), (131, np.uint8, True)],
)
def test_codes_are_summed_in_int32(tmp_path, zero, kind, per_channel):
    rng = np.random.default_rng(4)
    model = make_codes(rng, zero, kind, per_channel)
    x = onnx_models.random(rng, 2, 3, 9, 7)
    expected = ReferenceEvaluator(model).run(None, {"x": x})
    got = run_package(compile_model(tmp_path, model), x=x)
    for output, value in zip(model.graph.output, expected, strict=True):
        assert got[output.name].dtype == value.dtype
        apart = np.abs(got[output.name].astype(int) - value.astype(int))
        # What lies between two codes may be rounded to either.
        assert apart.max() <= 1 and (apart > 0).mean() < 0.01, output.name
    path = tmp_path / "model.onnx"
    text = toolchain.succeed("quantc", path, "--to", "quantize")
    assert text.count("qlm.quantized_linear") + text.count("qlm.packed_linear") == 2
    assert "graph.conv" not in text and "qlm.linear " not in text


def test_products_of_codes_are_linears(tmp_path):
    rng = np.random.default_rng(5)
    weights = {
        "w": rng.integers(-127, 128, (100, 21)).astype(np.int8),
        "ws": (rng.random(21) / 50 + 0.01).astype(np.float32),
        "wz": np.zeros(21, np.int8), "xs": np.float32(0.02), "xz": np.uint8(113),
        "ys": np.float32(0.1), "yz": np.uint8(140),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["q"]),
        helper.make_node("QLinearMatMul", ["q", "xs", "xz", "w", "ws", "wz", "ys", "yz"],
                         ["y"], name="codes"),
    ]  # fmt: skip
    model = onnx_models.make_model(
        nodes, {"x": ("rows", 100)}, {"y": ("rows", 21)}, weights,
        types={"y": onnx.TensorProto.UINT8},
    )  # fmt: skip
    package = compile_model(tmp_path, model)
    for rows in (1, 70):
        x = onnx_models.random(rng, rows, 100)
        [expected] = ReferenceEvaluator(model).run(None, {"x": x})
        apart = np.abs(run_package(package, x=x)["y"].astype(int) - expected)
        assert apart.max() <= 1 and (apart > 0).mean() < 0.01
    text = toolchain.succeed("quantc", tmp_path / "model.onnx", "--to", "quantize")
    assert "qlm.packed_linear" in text or "qlm.quantized_linear" in text

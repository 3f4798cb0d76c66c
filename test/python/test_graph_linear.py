# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Linears of ONNX graphs: packed, quantized and folded, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import toolchain

onnx = pytest.importorskip("onnx")

import onnx_models  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402
from test_onnx import compile_model, refuse, run_package  # noqa: E402


def weights_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def make_linear(rng, inner: int, outer: int) -> onnx.ModelProto:
    """x times a constant, plus a constant, and its ReLU."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="product"),
        helper.make_node("Add", ["b", "h"], ["s"], name="sum"),
        helper.make_node("Relu", ["s"], ["y"], name="relu"),
    ]
    return onnx_models.make_model(
        nodes,
        {"x": ("rows", inner)},
        {"s": ("rows", outer), "y": ("rows", outer)},
        {"w": onnx_models.random(rng, inner, outer), "b": onnx_models.random(rng, outer)},
    )


@pytest.mark.parametrize("inner, outer", [(1, 1), (7, 17), (33, 129), (300, 16)])
def test_linears_equal_numpy_in_float64(tmp_path, inner, outer):
    rng = np.random.default_rng(inner)
    model = make_linear(rng, inner, outer)
    w = {k: v.astype(np.float64) for k, v in weights_of(model).items()}
    package = compile_model(tmp_path, model)
    # Block sizes are 512 rows at most: one past it, and two of them.
    for rows in (0, 1, 3, 100, 513, 1025):
        x = onnx_models.random(rng, rows, inner)
        expected = x.astype(np.float64) @ w["w"] + w["b"]
        got = run_package(package, x=x)
        np.testing.assert_allclose(got["s"], expected, rtol=1e-5, atol=inner * 2**-21)
        np.testing.assert_array_equal(got["y"], np.maximum(got["s"], 0))


def test_more_dimensions_and_a_shared_product(tmp_path):
    rng = np.random.default_rng(1)
    w = onnx_models.random(rng, 12, 9)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="product"),
        helper.make_node("Add", ["h", "b"], ["s"], name="sum"),
        helper.make_node("Mul", ["s", "h"], ["y"], name="both"),
    ]
    b = onnx_models.random(rng, 9)
    model = onnx_models.make_model(
        nodes, {"x": (2, "rows", 12)}, {"y": (2, "rows", 9)}, {"w": w, "b": b}
    )
    x = onnx_models.random(rng, 2, 5, 12)
    h = x.astype(np.float64) @ w
    got = run_package(compile_model(tmp_path, model), x=x)
    np.testing.assert_allclose(got["y"], (h + b) * h, rtol=1e-4, atol=1e-4)


def round_rows(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scale = np.abs(x).max(axis=1, keepdims=True) / 127
    return np.rint(x / np.where(scale == 0, 1, scale)), scale


def test_dynamic_int8_equals_products_of_codes(tmp_path):
    rng = np.random.default_rng(2)
    model = make_linear(rng, 129, 33)
    w = weights_of(model)
    options = ("--weights", "int8", "--activations", "int8-dynamic")
    package = compile_model(tmp_path, model, *options)
    codes, scales = round_rows(w["w"].T.astype(np.float64))
    for rows in (1, 37, 100):
        x = onnx_models.random(rng, rows, 129)
        xCodes, xScales = round_rows(x.astype(np.float64))
        expected = xCodes @ codes.T * xScales * scales.T + w["b"]
        got = run_package(package, x=x)["s"]
        # A code that is halfway may be rounded either way: one step of a row.
        step = (xScales * np.abs(codes * scales).max()).max()
        np.testing.assert_allclose(got, expected, atol=2 * step)
        assert np.abs(got - expected).mean() < step / 50


def test_static_int8_of_calibrated_ranges(tmp_path):
    rng = np.random.default_rng(3)
    model = make_linear(rng, 64, 40)
    w = weights_of(model)
    x = onnx_models.random(rng, 50, 64)
    np.savez(tmp_path / "calibration.npz", x=x)
    package = compile_model(
        tmp_path, model, "--weights", "int8", "--activations", "int8-static",
        "--calibration", tmp_path / "calibration.npz",
    )  # fmt: skip
    codes, scales = round_rows(w["w"].T.astype(np.float64))
    scale = np.abs(x).max() / 127
    expected = np.rint(x / scale) @ codes.T * scale * scales.T + w["b"]
    got = run_package(package, x=x)["s"]
    step = scale * np.abs(codes * scales).max()
    np.testing.assert_allclose(got, expected, atol=2 * step)
    assert np.abs(got - expected).mean() < step / 50
    # Beyond the range that was seen, codes saturate.
    far = run_package(package, x=x * 100)["s"]
    expected = np.clip(np.rint(x * 100 / scale), -127, 127) @ codes.T
    np.testing.assert_allclose(far, expected * scale * scales.T + w["b"], atol=2 * step)


def find_entropy_threshold(counts: np.ndarray, width: float) -> float:
    """Of Migacz's method, written down anew."""
    def lost(bins: int) -> float:
        p = counts[:bins].copy()
        p[-1] += counts[bins:].sum()
        edges = np.arange(129) * bins // 128
        q = np.zeros(bins)
        for low, high in zip(edges[:-1], edges[1:]):
            level = counts[low:high]
            filled = max((level > 0).sum(), 1)
            q[low:high] = np.where(level > 0, level.sum() / filled, 0)
        inside = p > 0
        ratio = p[inside] / np.maximum(q[inside], 1e-3)
        return (p[inside] / counts.sum() * np.log(ratio)).sum()

    sizes = np.arange(128, 2049, 16)
    return width * sizes[np.argmin([lost(bins) for bins in sizes])]


@pytest.mark.parametrize("choice", ["minmax", "average", "percentile", "entropy"])
def test_ranges_of_static_int8(tmp_path, choice):
    rng = np.random.default_rng(5)
    model = make_linear(rng, 64, 40)
    w = weights_of(model)
    x = rng.standard_t(3, (400, 64)).astype(np.float32)
    x[0, 0] = 40
    np.savez(tmp_path / "calibration.npz", x=x)
    package = compile_model(
        tmp_path, model, "--weights", "int8", "--activations", "int8-static",
        "--calibration", tmp_path / "calibration.npz", "--range", choice,
    )  # fmt: skip
    magnitudes = np.abs(x.astype(np.float64)).ravel()
    counts, edges = np.histogram(magnitudes, 2048, (0, magnitudes.max()))
    parts = counts.cumsum() / counts.sum()
    largest = {
        "minmax": magnitudes.max(),
        "average": magnitudes.max(),  # all rows are one run
        "percentile": edges[1 + np.argmax(parts >= 0.9999)],
        "entropy": find_entropy_threshold(counts.astype(np.float64), edges[1]),
    }[choice]
    assert choice in ("minmax", "average") or largest < 0.9 * magnitudes.max()
    stored = toolchain.read_safetensors(package / "weights.safetensors")
    [scale] = [float(array.item()) for name, array in stored.items()
               if name.endswith("input_scale")]  # fmt: skip
    np.testing.assert_allclose(scale * 127, largest, rtol=1e-5)
    codes, scales = round_rows(w["w"].T.astype(np.float64))
    xCodes = np.clip(np.rint(x.astype(np.float64) / scale), -127, 127)
    expected = xCodes @ codes.T * scale * scales.T + w["b"]
    step = scale * np.abs(codes * scales).max()
    np.testing.assert_allclose(run_package(package, x=x)["s"], expected, atol=2 * step)


def test_static_int8_needs_calibration_of_all_inputs(tmp_path):
    model = make_linear(np.random.default_rng(4), 8, 8)
    static = ("--weights", "int8", "--activations", "int8-static")
    assert "needs --calibration FILE.npz" in refuse(tmp_path, model, *static)
    np.savez(tmp_path / "c.npz", other=np.zeros((1, 8), np.float32))
    line = refuse(tmp_path, model, *static, "--calibration", tmp_path / "c.npz")
    assert "calibration lacks the input 'x'" in line
    np.savez(tmp_path / "c.npz", x=np.full((1, 8), np.nan, np.float32))
    line = refuse(tmp_path, model, *static, "--calibration", tmp_path / "c.npz")
    assert "not finite" in line
    line = refuse(tmp_path, model, "--calibration", tmp_path / "c.npz")
    assert "--activations int8-static" in line
    line = refuse(tmp_path, model, "--activations", "int8-dynamic")
    assert "needs weights of integer codes" in line
    line = refuse(tmp_path, model, "--range", "entropy")
    assert "--range without --activations int8-static is not supported" in line


def make_qdq(rng, code: int, perChannel: bool) -> onnx.ModelProto:
    """Two linears between QuantizeLinear and DequantizeLinear, as exporters of
    quantization-aware training write them."""
    isUnsigned = code == TensorProto.UINT8
    inner, hidden, outer = 50, 35, 11
    weights, nodes = {}, []
    zero = np.array(131 if isUnsigned else -3, np.uint8 if isUnsigned else np.int8)

    def quantize(x: str, scale: float) -> str:
        weights[x + ".s"] = np.array(scale, np.float32)
        weights[x + ".z"] = zero
        parameters = [x + ".s", x + ".z"]
        nodes.append(helper.make_node("QuantizeLinear", [x, *parameters], [x + ".q"]))
        nodes.append(
            helper.make_node("DequantizeLinear", [x + ".q", *parameters], [x + ".d"])
        )
        return x + ".d"

    def weigh(name: str, rows: int, columns: int) -> str:
        weights[name] = rng.integers(-128, 128, (rows, columns)).astype(np.int8)
        size = (columns,) if perChannel else ()
        weights[name + ".s"] = rng.uniform(0.005, 0.02, size).astype(np.float32)
        nodes.append(
            helper.make_node(
                "DequantizeLinear", [name, name + ".s"], [name + ".d"], axis=1
            )
        )
        return name + ".d"

    weights["b"] = onnx_models.random(rng, hidden)
    nodes.append(
        helper.make_node("MatMul", [quantize("x", 0.03), weigh("v", inner, hidden)], ["h"])
    )
    nodes.append(helper.make_node("Add", ["h", "b"], ["a"]))
    nodes.append(helper.make_node("Relu", ["a"], ["r"]))
    nodes.append(
        helper.make_node("MatMul", [quantize("r", 0.02), weigh("w", hidden, outer)], ["y"])
    )
    return onnx_models.make_model(
        nodes, {"x": ("rows", inner)}, {"y": ("rows", outer)}, weights
    )


@pytest.mark.parametrize("code", [TensorProto.INT8, TensorProto.UINT8])
@pytest.mark.parametrize("perChannel", [False, True])
def test_codes_are_folded_and_equal_the_standards(tmp_path, code, perChannel):
    rng = np.random.default_rng(5)
    model = make_qdq(rng, code, perChannel)
    path = tmp_path / "model.onnx"
    package = compile_model(tmp_path, model)
    text = toolchain.succeed("quantc", path, "--to", "quantize", "-o", "-")
    assert text.count("qlm.packed_linear") == 2
    assert text.count(" input_scales ") == 2
    for rows in (1, 19, 100):
        x = onnx_models.random(rng, rows, 50)
        [expected] = ReferenceEvaluator(model).run(None, {"x": x})
        got = run_package(package, x=x)["y"]
        # Sums are exact here and rounded there; a hidden code next to a half
        # may differ by one.
        step = 0.02 * 128 * 0.02
        assert np.abs(got - expected).max() <= 2 * step
        assert (np.abs(got - expected) > 1e-4).mean() < 0.02


@pytest.mark.parametrize("scale", [0.1, 0.0307, 3.0, 1e-20, 1e20])
def test_codes_round_the_quotient_that_division_gives(tmp_path, scale):
    scale = np.float32(scale)
    rng = np.random.default_rng(6)
    halves = (np.arange(-130, 130) + 0.5).astype(np.float32) * scale
    x = np.concatenate([
        halves, np.nextafter(halves, np.float32(np.inf)),
        np.nextafter(halves, np.float32(-np.inf)),
        onnx_models.random(rng, 3000) * 60 * scale,
        np.float32([0, -0.0, np.inf, -np.inf, 1e38, -1e38]),
    ]).astype(np.float32).reshape(1, -1)  # fmt: skip
    model = onnx_models.make_model(
        [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"])],
        {"x": ("rows", x.size)}, {"y": ("rows", x.size)},
        {"s": scale, "z": np.int8(3)}, types={"y": TensorProto.INT8},
    )  # fmt: skip
    got = run_package(compile_model(tmp_path, model), x=x)["y"]
    with np.errstate(over="ignore"):
        expected = np.clip(np.rint(x / scale) + np.float32(3), -128, 127)
    np.testing.assert_array_equal(got, expected.astype(np.int8))

# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""ONNX Runtime's operators, against NumPy in float64 and, where it is
installed, ONNX Runtime."""

from __future__ import annotations

import math

import numpy as np
import pytest
import toolchain

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx_models import compile_model, refuse, run_package  # noqa: E402

try:
    import onnxruntime
except ImportError:  # Its results are checked where there is one.
    onnxruntime = None

MICROSOFT = "com.microsoft"


def make_model(kind, inputs, outputs, weights=None, domain=MICROSOFT, **attributes):
    """One node; *inputs* are arrays by name, "" for absent ones."""
    weights = weights or {}
    node = helper.make_node(
        kind, list(inputs), outputs, name="it", domain=domain, **attributes
    )
    def describe(name, array):
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        return helper.make_tensor_value_info(name, kind, array.shape)

    first = next(array for array in inputs.values() if array is not None)
    graph = helper.make_graph(
        [node], "g",
        [describe(n, a) for n, a in inputs.items() if a is not None and n not in weights],
        [helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(first.dtype), None)
         for name in outputs if name],
        [numpy_helper.from_array(inputs[name], name) for name in weights],
    )  # fmt: skip
    return helper.make_model(
        graph, ir_version=10,
        opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid(MICROSOFT, 1)],
    )  # fmt: skip


def check(folder, kind, inputs, expected, weights=(), domain=MICROSOFT, atol=2e-5,
          **attributes):  # fmt: skip
    """Our outputs, and ONNX Runtime's, are the *expected* ones by name."""
    model = make_model(kind, inputs, list(expected), weights, domain, **attributes)
    given = {n: a for n, a in inputs.items() if a is not None and n not in weights}
    got = run_package(compile_model(folder, model), **given)
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, atol=atol, rtol=1e-4, err_msg=name)
    if onnxruntime:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        for name, value in zip(expected, session.run(None, given)):
            np.testing.assert_allclose(got[name], value, atol=10 * atol, rtol=1e-3,
                                       err_msg=name)  # fmt: skip
    return got


def random(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def wide(x):
    return x.astype(np.float64)


def gelu(x):
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def tanh_gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


X, BIAS = random(0, 3, 5, 8), random(1, 8)


def test_gelus(tmp_path):
    check(tmp_path, "Gelu", {"x": X}, {"y": gelu(wide(X))})
    check(tmp_path, "BiasGelu", {"x": X, "b": BIAS}, {"y": gelu(wide(X) + BIAS)})
    check(tmp_path, "FastGelu", {"x": X}, {"y": tanh_gelu(wide(X))})
    check(tmp_path, "FastGelu", {"x": X, "b": BIAS}, {"y": tanh_gelu(wide(X) + BIAS)})
    for alpha in ({}, {"alpha": 0.5}):
        factor = alpha.get("alpha", 1.702)
        check(tmp_path, "QuickGelu", {"x": X},
              {"y": wide(X) / (1 + np.exp(-factor * wide(X)))}, **alpha)  # fmt: skip


def rms(x, epsilon):
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + epsilon)


def centre(x, epsilon):
    x = x - x.mean(axis=-1, keepdims=True)
    return rms(x, epsilon)


@pytest.mark.parametrize("domain", ["", MICROSOFT])
def test_simplified_layer_normalization(tmp_path, domain, monkeypatch):
    if domain == MICROSOFT:  # Not every ONNX Runtime has it there.
        monkeypatch.setattr("test_onnx_contributed.onnxruntime", None)
    check(tmp_path, "SimplifiedLayerNormalization", {"x": X, "g": BIAS},
          {"y": rms(wide(X), 1e-3) * BIAS}, domain=domain, epsilon=1e-3, axis=-1)  # fmt: skip


@pytest.mark.parametrize("has_bias", [False, True])
def test_skip_normalizations(tmp_path, has_bias):
    skip, gamma, beta = random(2, 3, 5, 8), random(3, 8), random(4, 8)
    total = wide(X) + skip + (wide(BIAS) if has_bias else 0)
    bias = {"bias": BIAS} if has_bias else {}
    common = {"x": X, "skip": skip, "gamma": gamma}
    check(tmp_path, "SkipSimplifiedLayerNormalization", common | bias,
          {"y": rms(total, 1e-5) * gamma}, epsilon=1e-5)  # fmt: skip
    check(tmp_path, "SkipLayerNormalization", common | {"beta": beta} | bias,
          {"y": centre(total, 1e-5) * gamma + beta}, epsilon=1e-5)  # fmt: skip


def test_the_sum_that_is_normalized_is_an_output(tmp_path):
    skip, gamma = random(2, 3, 5, 8), random(3, 8)
    model = make_model("SkipSimplifiedLayerNormalization",
                       {"x": X, "skip": skip, "gamma": gamma}, ["y", "", "", "sum"],
                       epsilon=1e-5)  # fmt: skip
    got = run_package(compile_model(tmp_path, model), x=X, skip=skip, gamma=gamma)
    np.testing.assert_array_equal(got["sum"], X + skip)
    expected = rms(wide(X) + skip, 1e-5) * gamma
    np.testing.assert_allclose(got["y"], expected, atol=1e-5)
    model.graph.node[0].output[1] = "mean"
    model.graph.output[1].name = "mean"
    text = refuse(tmp_path, model)
    assert "SkipSimplifiedLayerNormalization): output 1 is not handled" in text


@pytest.mark.parametrize("x_shape, y_shape, turns", [
    ((3, 4), (4, 5), (0, 0)), ((4, 3), (5, 4), (1, 1)), ((2, 3, 4), (2, 5, 4), (0, 1)),
    ((2, 4, 3), (4, 5), (1, 0)), ((4,), (4, 5), (1, 0)), ((1, 7), (5, 7), (0, 1)),
])  # fmt: skip
@pytest.mark.parametrize("alpha", [1.0, 0.25])
def test_fused_products(tmp_path, x_shape, y_shape, turns, alpha):
    x, y = random(5, *x_shape), random(6, *y_shape)
    turned = [np.swapaxes(wide(a), -1, -2) if turn and a.ndim > 1 else wide(a)
              for a, turn in zip((x, y), turns)]  # fmt: skip
    check(tmp_path, "FusedMatMul", {"x": x, "y": y},
          {"z": alpha * (turned[0] @ turned[1])}, alpha=alpha,
          transA=turns[0], transB=turns[1])  # fmt: skip


class TestMatMulNBits:
    def make(self, n, k, block, bits=4, zeros="packed", seed=0, dtype=np.float32):
        """(inputs by name, the weight in float64)"""
        rng = np.random.default_rng(seed)
        blocks = -(-k // block)
        codes = rng.integers(0, 1 << bits, (n, blocks * block), dtype=np.uint8)
        scales = rng.uniform(0.01, 0.1, (n, blocks)).astype(dtype)
        points = np.full((n, blocks), 1 << (bits - 1), np.float64)
        inputs = {"b": self.pack(codes, bits).reshape(n, blocks, -1), "s": scales}
        if zeros == "packed":
            whole = rng.integers(0, 1 << bits, (n, blocks), dtype=np.uint8)
            inputs["z"], points = self.pack(whole, bits), whole.astype(np.float64)
        elif zeros == "float":
            inputs["z"] = rng.uniform(5, 9, (n, blocks)).astype(dtype)
            points = inputs["z"].astype(np.float64)
        spread = lambda a: np.repeat(a.astype(np.float64), block, axis=1)  # noqa: E731
        weight = (codes.astype(np.float64) - spread(points)) * spread(scales)
        return inputs, weight[:, :k]

    def pack(self, codes, bits):
        """Each row's codes, the first in the lowest bits."""
        each = 8 // bits
        codes = np.pad(codes, ((0, 0), (0, -codes.shape[1] % each)))
        parts = codes.reshape(codes.shape[0], -1, each)
        return sum(parts[:, :, i] << (bits * i) for i in range(each)).astype(np.uint8)

    @pytest.mark.parametrize("zeros", ["none", "packed", "float"])
    @pytest.mark.parametrize("bits", [4, 8])
    @pytest.mark.parametrize("n, k, block", [(5, 32, 16), (7, 37, 16), (17, 130, 64),
                                             (64, 256, 128)])  # fmt: skip
    def test_products(self, tmp_path, monkeypatch, n, k, block, bits, zeros):
        if bits == 8 and zeros == "float":
            # "does not support 8-bit weights with floating-point zero points"
            monkeypatch.setattr("test_onnx_contributed.onnxruntime", None)
        inputs, weight = self.make(n, k, block, bits, zeros)
        x = random(9, 3, k)
        check(tmp_path, "MatMulNBits", {"x": x, **inputs}, {"y": wide(x) @ weight.T},
              weights=inputs, atol=2e-4, K=k, N=n, bits=bits, block_size=block)  # fmt: skip

    @pytest.mark.parametrize("zeros", ["none", "packed"])
    @pytest.mark.parametrize("bits, block", [(2, 32), (4, 16), (4, 32), (4, 64), (4, 128),
                                             (8, 32)])  # fmt: skip
    def test_codes_are_kept(self, tmp_path, bits, block, zeros):
        """Packages hold codes, not what they stand for; some scales are negative,
        as ONNX Runtime's own quantizer makes them."""
        inputs, weight = self.make(48, 256, block, bits, zeros)
        inputs["s"][::3] *= -1
        weight[::3] *= -1
        x = random(9, 3, 256)
        check(tmp_path, "MatMulNBits", {"x": x, **inputs}, {"y": wide(x) @ weight.T},
              weights=inputs, atol=2e-4, K=256, N=48, bits=bits, block_size=block)  # fmt: skip
        package = next(tmp_path.glob("*.qlm"))
        [codes] = [array for array in toolchain.read_safetensors(
            package / "weights.safetensors").values() if array.nbytes > 48 * 64]  # fmt: skip
        assert codes.nbytes == 48 * 256 * (1 if bits == 8 else 0.5)

    def test_kept_codes_with_rounded_inputs(self, tmp_path):
        """--activations applies to them, --weights does not."""
        inputs, weight = self.make(48, 256, 32)
        x = random(9, 3, 256)
        model = make_model("MatMulNBits", {"x": x, **inputs}, ["y"], inputs,
                           K=256, N=48, bits=4, block_size=32)  # fmt: skip
        package = compile_model(tmp_path, model, "--weights", "int8",
                                "--activations", "int8-dynamic")  # fmt: skip
        scale = np.abs(x).max(axis=1, keepdims=True).astype(np.float64) / 127
        rounded = np.rint(x / scale) * scale
        got = run_package(package, x=x)["y"]
        np.testing.assert_allclose(got, rounded @ weight.T, atol=2e-3)

    def test_two_bits_bias_and_order(self, tmp_path, monkeypatch):
        monkeypatch.setattr("test_onnx_contributed.onnxruntime", None)
        inputs, weight = self.make(6, 48, 16, bits=2)
        x, bias = random(9, 2, 3, 48), random(8, 6)
        order = (np.arange(48) // 16).astype(np.int32)
        check(tmp_path, "MatMulNBits", {"x": x, **inputs, "g": order, "bias": bias},
              {"y": wide(x) @ weight.T + bias}, weights=[*inputs, "g"], atol=2e-4,
              K=48, N=6, bits=2, block_size=16)  # fmt: skip

    def test_float16(self, tmp_path):
        inputs, weight = self.make(6, 48, 16, dtype=np.float16)
        x = random(9, 5, 48).astype(np.float16)
        check(tmp_path, "MatMulNBits", {"x": x, **inputs}, {"y": wide(x) @ weight.T},
              weights=inputs, atol=2e-2, K=48, N=6, bits=4, block_size=16)  # fmt: skip

    @pytest.mark.parametrize("change, message", [
        ({"bits": 3}, "bits must be 2, 4 or 8, got 3"),
        ({"block_size": 24}, "block_size must be a power of two"),
        ({"block_size": 0}, "block_size must be a power of two"),
        ({"N": 7}, "codes must have 168 bytes, got 144"),
        ({"K": -3}, "K and N must be positive, got -3 and 6"),
        ({"K": 2**40}, "K and N must be positive"),
        ({"s": np.ones((6, 2), np.float32)}, "there must be 18 scales, got 12"),
        ({"z": np.ones((6, 3), np.uint8)}, "zero points must have 12 bytes, got 18"),
        ({"z": np.ones((6, 2), np.float32)}, "there must be 18 zero points, got 12"),
        ({"g": np.zeros(48, np.int32)}, "g_idx must give column 16 to block 1, got 0"),
        ({"x": random(0, 2, 40)}, "the input's last dimension must be K, 48"),
        ({"computed": True}, "input 1 ('b') must be an initializer"),
    ])  # fmt: skip
    def test_bad_inputs_are_refused(self, tmp_path, change, message):
        inputs, _ = self.make(6, 48, 16)
        sizes = {"K": 48, "N": 6, "bits": 4, "block_size": 16}
        weights = ["s", "z", "g"] + ([] if "computed" in change else ["b"])
        for name, value in change.items():
            if name in sizes:
                sizes[name] = value
            elif name != "computed":
                inputs[name] = value
        inputs = {"x": inputs.pop("x", random(0, 2, 48)), **inputs}
        model = make_model("MatMulNBits", inputs, ["y"],
                           [name for name in weights if name in inputs], **sizes)  # fmt: skip
        assert f"node 'it' (com.microsoft.MatMulNBits): {message}" in refuse(tmp_path, model)


def turn(x, angles, interleaved=False):
    """x [batch, tokens, heads, size] by angles [batch, tokens, 1, size / 2]."""
    size = 2 * angles.shape[-1]
    first = slice(0, size, 2) if interleaved else slice(0, size // 2)
    second = slice(1, size, 2) if interleaved else slice(size // 2, size)
    y = x.copy()
    c, s = np.cos(angles), np.sin(angles)
    y[..., first] = x[..., first] * c - x[..., second] * s
    y[..., second] = x[..., second] * c + x[..., first] * s
    return y


def make_tables(half):
    """Angles of 12 positions, and their cosines and sines."""
    angles = np.arange(12)[:, None] / 10.0 ** np.arange(half)
    return angles, {"c": np.cos(angles).astype(np.float32),
                    "s": np.sin(angles).astype(np.float32)}  # fmt: skip


ANGLES, TABLES = make_tables(4)


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("positions", [np.array([2]), np.array([[0, 3, 1], [7, 8, 9]])])
@pytest.mark.parametrize("heads", [0, 3])
def test_rotary_embedding(tmp_path, interleaved, positions, heads):
    x = random(11, 2, 3, 24)
    spread = positions + np.arange(3) if positions.size == 1 else positions
    angles = ANGLES[np.broadcast_to(spread, (2, 3))][:, :, None]
    expected = turn(wide(x).reshape(2, 3, 3, 8), angles, interleaved).reshape(x.shape)
    check(tmp_path, "RotaryEmbedding", {"x": x, "p": positions, **TABLES},
          {"y": expected}, interleaved=interleaved,
          **({"num_heads": heads} if heads else {}))  # fmt: skip


@pytest.mark.parametrize("style", ["apart", "packed", "rotary", "softcap", "scale"])
def test_grouped_attention_without_a_cache(tmp_path, style):
    batch, tokens, heads, kv_heads, size = 2, 5, 4, 2, 16
    q, k, v = (random(i, batch, tokens, n * size)
               for i, n in ((1, heads), (2, kv_heads), (3, kv_heads)))  # fmt: skip
    lengths = np.full(batch, tokens - 1, np.int32)
    total = np.array(tokens, np.int32)
    inputs = {"q": q, "k": k, "v": v, "": None}
    node_inputs = ["q", "k", "v", "", "", "l", "t"]
    attributes = {"num_heads": heads, "kv_num_heads": kv_heads}
    if style == "packed":
        inputs = {"q": np.concatenate([q, k, v], axis=2)}
        node_inputs[1:3] = ["", ""]
    given = {n: a for n, a in inputs.items() if a is not None}
    given |= {"l": lengths, "t": total}
    parts = [wide(a).reshape(batch, tokens, -1, size) for a in (q, k, v)]
    if style == "rotary":
        angles, tables = make_tables(size // 2)
        given |= tables
        node_inputs += ["c", "s"]
        attributes |= {"do_rotary": 1}
        angles = angles[:tokens][None, :, None]
        parts[:2] = [turn(part, angles) for part in parts[:2]]
    scale = 1 / math.sqrt(size)
    if style == "scale":
        scale = attributes["scale"] = 0.5
    # [batch, heads, tokens, size]
    query, key, value = (part.transpose(0, 2, 1, 3) for part in parts)
    shared = [np.repeat(a, heads // kv_heads, axis=1) for a in (key, value)]
    scores = query @ shared[0].transpose(0, 1, 3, 2) * scale
    if style == "softcap":
        attributes["softcap"] = 2.0
        scores = 2 * np.tanh(scores / 2)
    scores = np.where(np.tri(tokens, dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    expected = (weights @ shared[1]).transpose(0, 2, 1, 3).reshape(batch, tokens, -1)
    model = make_model("GroupQueryAttention", given, ["y", "pk", "pv"], **attributes)
    del model.graph.node[0].input[:]
    model.graph.node[0].input.extend(node_inputs)
    got = run_package(compile_model(tmp_path, model), **given)
    np.testing.assert_allclose(got["y"], expected, atol=2e-5)
    np.testing.assert_allclose(got["pk"], key, atol=2e-5)
    np.testing.assert_allclose(got["pv"], value, atol=2e-5)
    if onnxruntime:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        for name, theirs in zip(("y", "pk", "pv"), session.run(None, given)):
            np.testing.assert_allclose(got[name], theirs, atol=2e-4)


def test_grouped_attention_with_a_cache_needs_a_decoder(tmp_path):
    q, k, past = random(1, 1, 2, 16), random(2, 1, 2, 8), random(3, 1, 1, 4, 8)
    given = {"q": q, "k": k, "v": k, "pk": past, "pv": past,
             "l": np.array([5], np.int32), "t": np.array(6, np.int32)}  # fmt: skip
    model = make_model("GroupQueryAttention", given, ["y"], num_heads=2, kv_num_heads=1)
    assert "a cache needs a decoder (quantc --tokenizer)" in refuse(tmp_path, model)

# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""ONNX operators that carry a state, of open sizes, against onnx's evaluator."""

from __future__ import annotations

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

import onnx_models  # noqa: E402
from onnx import TensorProto, helper  # noqa: E402
from onnx_models import compare, compile_model, random, refuse, run_package  # noqa: E402

node = helper.make_node


def make(nodes, inputs, outputs, types=None) -> onnx.ModelProto:
    return onnx_models.make_model(nodes, inputs, outputs, {}, opset=28, types=types)


@pytest.mark.parametrize("rule", ["linear", "gated", "delta", "gated_delta"])
@pytest.mark.parametrize("by_head", [False, True])
def test_linear_attention(tmp_path, rule, by_head):
    """Four heads that read two states, of keys of 3 and values of 5."""
    inputs = {
        "q": ("b", "t", 12), "k": ("b", "t", 6), "v": ("b", "t", 10),
        "s": ("b", 2, 3, 5), "g": ("b", "t", 2 if by_head else 6),
        "r": ("b", "t", 2 if by_head else 1),
    }  # fmt: skip
    names = list(inputs)
    if "gated" not in rule:
        names[4] = ""
        del inputs["g"]
    if "delta" not in rule:
        names[5] = ""
        del inputs["r"]
    operator = node(
        "LinearAttention", names, ["y", "z"], update_rule=rule, q_num_heads=4,
        kv_num_heads=2,
    )  # fmt: skip
    model = make([operator], inputs, {"y": ("b", "t", 20), "z": ("b", 2, 3, 5)})
    rng = np.random.default_rng(1)

    def draw(batch: int, tokens: int) -> dict[str, np.ndarray]:
        sizes = {"b": batch, "t": tokens}
        return {
            name: random(rng, *(sizes.get(size, size) for size in shape)) / 2
            for name, shape in inputs.items()
        }

    compare(tmp_path, model, draw(1, 1), draw(3, 7))


@pytest.mark.parametrize("has_past", [False, True])
@pytest.mark.parametrize("taps, tokens", [(1, 3), (4, 1), (4, 9)])
def test_causal_convolution(tmp_path, has_past, taps, tokens):
    inputs = {"x": ("b", 3, "t"), "w": (3, 1, taps), "c": (3,)}
    if has_past:
        inputs["p"] = ("b", 3, taps - 1)
    operator = node(
        "CausalConvWithState", list(inputs), ["y", "z"], activation="silu"
    )
    model = make(
        [operator], inputs, {"y": ("b", 3, "t"), "z": ("b", 3, taps - 1)}
    )
    rng = np.random.default_rng(2)
    sizes = {"b": 2, "t": tokens}
    compare(tmp_path, model, {
        name: random(rng, *(sizes.get(size, size) for size in shape))
        for name, shape in inputs.items()
    })  # fmt: skip


@pytest.mark.parametrize("mode", ["linear", "circular"])
def test_caches_that_are_written_into(tmp_path, mode):
    operator = node("TensorScatter", ["x", "u", "i"], ["y"], mode=mode, axis=1)
    model = make(
        [operator], {"x": ("b", 5, 2), "u": ("b", "t", 2), "i": ("b",)},
        {"y": ("b", 5, 2)}, {"i": TensorProto.INT64},
    )  # fmt: skip
    rng = np.random.default_rng(3)
    first = [0, 3, 2] if mode == "linear" else [4, 3, 9]
    compare(tmp_path, model, {
        "x": random(rng, 3, 5, 2), "u": random(rng, 3, 2, 2), "i": np.array(first)
    })  # fmt: skip


def test_gates_of_two_projections(tmp_path):
    model = make(
        [node("SwiGLU", ["a", "b"], ["y"], alpha=1.5)],
        {"a": ("n", 7), "b": ("n", 7)}, {"y": ("n", 7)},
    )  # fmt: skip
    rng = np.random.default_rng(4)
    a, b = random(rng, 3, 7), random(rng, 3, 7)
    got = run_package(compile_model(tmp_path, model), a=a, b=b)["y"]
    wide = a.astype(np.float64)
    expected = wide / (1 + np.exp(-1.5 * wide)) * b
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("order", [0, 1])
def test_places_of_maxima(tmp_path, order):
    """Counted in NumPy: the first of equals, padding never chosen."""
    operator = node(
        "MaxPool", ["x"], ["y", "i"], kernel_shape=[3, 2], strides=[2, 2],
        pads=[1, 0, 1, 1], storage_order=order,
    )  # fmt: skip
    model = make(
        [operator], {"x": ("n", 2, 5, 6)},
        {"y": ("n", 2, 3, 3), "i": ("n", 2, 3, 3)}, {"i": TensorProto.INT64},
    )  # fmt: skip
    rng = np.random.default_rng(5)
    x = rng.integers(-3, 0, (2, 2, 5, 6)).astype(np.float32)
    got = run_package(compile_model(tmp_path, model), x=x)
    for n, c, h, w in np.ndindex(2, 2, 3, 3):
        places = [
            (i, j)
            for i in range(2 * h - 1, 2 * h + 2) for j in range(2 * w, 2 * w + 2)
            if 0 <= i < 5 and j < 6
        ]  # fmt: skip
        i, j = max(places, key=lambda place: x[n, c, *place])
        inner = i * 6 + j if order == 0 else j * 5 + i
        assert got["y"][n, c, h, w] == x[n, c, i, j]
        assert got["i"][n, c, h, w] == (n * 2 + c) * 30 + inner


@pytest.mark.parametrize("op, attributes, shapes, message", [
    ("LinearAttention", {"q_num_heads": 3, "kv_num_heads": 2},
     [(1, 2, 6), (1, 2, 4), (1, 2, 4)],
     "kv_num_heads must divide q_num_heads, got 2 and 3"),
    ("LinearAttention", {"q_num_heads": 2, "kv_num_heads": 2},
     [(1, 2, 6), (1, 2, 6), (1, 2, 4)], "has a decay exactly if it is gated"),
    ("LinearAttention",
     {"q_num_heads": 2, "kv_num_heads": 2, "update_rule": "linear"},
     [(1, 2, 6), (1, 2, 4), (1, 2, 4)],
     "keys must have kv_num_heads * head size = 6 features, got 4"),
    ("CausalConvWithState", {"activation": "relu"}, [(1, 2, 6), (2, 1, 3)],
     "activation must be none, silu or swish, got relu"),
    ("CausalConvWithState", {}, [(1, 2, 6), (3, 1, 3)],
     "channels must agree, got 2 and 3"),
    ("TensorScatter", {"mode": "round"}, [(1, 2, 6), (1, 1, 6)],
     "mode must be linear or circular, got round"),
    ("TensorScatter", {"axis": 0}, [(1, 2, 6), (1, 1, 6)], "axis 0 is the batch's"),
])  # fmt: skip
def test_bad_states_are_refused(tmp_path, op, attributes, shapes, message):
    names = [f"x{i}" for i in range(len(shapes))]
    graph = helper.make_graph(
        [node(op, names, ["y"], name="odd", **attributes)], "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s)
         for n, s in zip(names, shapes)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 28)])
    assert f"node 'odd' ({op}): {message}" in refuse(tmp_path, model)

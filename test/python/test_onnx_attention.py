# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Attention, as a node and as exporters spell it, on shapes of all kinds."""

from __future__ import annotations

import math

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

import toolchain  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx_models import compile_model, run_package  # noqa: E402

TYPES = {np.float32: TensorProto.FLOAT, np.float16: TensorProto.FLOAT16,
         np.float64: TensorProto.DOUBLE, np.bool_: TensorProto.BOOL,
         np.int64: TensorProto.INT64}  # fmt: skip
INPUTS = ("q", "k", "v", "mask", "past_k", "past_v", "lengths")
TOLERANCES = {np.float32: 2e-5, np.float16: 3e-3, np.float64: 1e-12}


def compute(given, scale=None, softcap=0.0, causal=False, left=-1, right=-1):
    """The standard's formula in float64; a query without keys gives 0."""
    q, k, v = (given[name].astype(np.float64) for name in ("q", "k", "v"))
    first = np.zeros(len(q), np.int64)
    if "past_k" in given:
        first += given["past_k"].shape[2]
        k = np.concatenate([given["past_k"].astype(np.float64), k], 2)
        v = np.concatenate([given["past_v"].astype(np.float64), v], 2)
    group, keys = q.shape[1] // k.shape[1], np.arange(k.shape[2])
    k, v = np.repeat(k, group, 1), np.repeat(v, group, 1)
    scores = q @ k.swapaxes(2, 3) * (q.shape[3] ** -0.5 if scale is None else scale)
    if softcap:
        scores = softcap * np.tanh(scores / softcap)
    if "lengths" in given:
        first = given["lengths"] - q.shape[2]
        hidden = keys >= given["lengths"][:, None, None, None]
        scores = np.where(hidden, -np.inf, scores)
    place = (first[:, None] + np.arange(q.shape[2]))[:, None, :, None]
    if causal:
        scores = np.where(keys > place, -np.inf, scores)
    if left >= 0:
        scores = np.where(keys < place - left, -np.inf, scores)
    if right >= 0:
        scores = np.where(keys > place + right, -np.inf, scores)
    if "mask" in given:
        mask = given["mask"]
        if mask.dtype == np.bool_:
            mask = np.where(mask, 0.0, -np.inf)
        missing = k.shape[2] - mask.shape[-1]
        widths = [(0, 0)] * (mask.ndim - 1) + [(0, missing)]
        scores = scores + np.pad(mask.astype(np.float64), widths,
                                 constant_values=-np.inf)  # fmt: skip
    highest = scores.max(-1, keepdims=True)
    powers = np.exp(scores - np.where(highest == -np.inf, 0, highest))
    sums = powers.sum(-1, keepdims=True)
    return powers @ v / np.where(sums == 0, 1, sums)


def make_node_model(given, is_flat=False, opset=25, outputs=1, **attributes):
    """One Attention; heads side by side in three dimensions when flat."""
    names = [name if name in given else "" for name in INPUTS]
    while not names[-1]:
        names.pop()
    if is_flat:
        attributes |= {"q_num_heads": given["q"].shape[1],
                       "kv_num_heads": given["k"].shape[1]}  # fmt: skip
    results = ["y", "present_k", "present_v", "shown"][:outputs]
    element = TYPES[given["q"].dtype.type]
    fed = feed(given, is_flat)
    graph = helper.make_graph(
        [helper.make_node("Attention", names, results, **attributes)], "attention",
        [helper.make_tensor_value_info(name, TYPES[value.dtype.type], value.shape)
         for name, value in fed.items()],
        [helper.make_tensor_value_info(name, element, None) for name in results],
    )  # fmt: skip
    return helper.make_model(
        graph, ir_version=11, opset_imports=[helper.make_opsetid("", opset)]
    )


def feed(given, is_flat):
    if not is_flat:
        return given
    return given | {
        name: given[name].swapaxes(1, 2).reshape(*given[name].shape[::2], -1)
        for name in ("q", "k", "v")
    }


def flatten(result):
    return result.swapaxes(1, 2).reshape(result.shape[0], result.shape[2], -1)


def make_inputs(rng, dtype=np.float32, batch=1, heads=2, group=1, queries=3, keys=5,
                size=8, value_size=None):  # fmt: skip
    def draw(*shape):
        return rng.standard_normal(shape).astype(dtype)

    return {
        "q": draw(batch, heads * group, queries, size),
        "k": draw(batch, heads, keys, size),
        "v": draw(batch, heads, keys, value_size or size),
    }


def check(folder, model, given, expected, *options, is_flat=False):
    package = compile_model(folder, model, *options)
    got = run_package(package, **feed(given, is_flat))["y"]
    if is_flat:
        expected = flatten(expected)
    assert got.dtype == given["q"].dtype and got.shape == expected.shape
    tolerance = TOLERANCES[given["q"].dtype.type]
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


def add_mask(rng, given, keys):
    """A mask of booleans or floats that broadcasts, maybe of fewer keys, and of
    which a row may hide all."""
    batch, heads, queries = given["q"].shape[:3]
    covered = keys if rng.random() < 0.6 else int(rng.integers(1, keys + 1))
    whole = (batch, heads, queries)
    shape = tuple(n if rng.random() < 0.6 else 1 for n in whole)[int(rng.integers(4)) :]
    shown = rng.random((*shape, covered)) < 0.7
    if rng.random() < 0.5:
        given["mask"] = shown
        return
    mask = np.where(shown, rng.standard_normal(shown.shape), -np.inf)
    given["mask"] = mask.astype(given["q"].dtype)


@pytest.mark.parametrize("seed", range(40))
def test_attention_of_any_shape(tmp_path, seed):
    """Sizes about those of blocks, slices and registers, every option."""
    rng = np.random.default_rng(seed)
    dtype = [np.float32, np.float32, np.float16, np.float64][seed % 4]
    keys = int(rng.choice([1, 2, 15, 16, 17, 63, 64, 65, 129, 200]))
    given = make_inputs(
        rng, dtype, batch=int(rng.integers(1, 4)), heads=int(rng.integers(1, 4)),
        group=int(rng.integers(1, 4)), keys=keys,
        queries=int(rng.choice([1, 1, 2, 5, 6, 7, 8, 9, 63, 64, 65, 130])),
        size=int(rng.choice([1, 3, 8, 16, 17, 24, 64, 80])),
        value_size=int(rng.choice([1, 5, 8, 16, 33, 64, 96])),
    )  # fmt: skip
    options, attributes = {}, {}
    if rng.random() < 0.3:
        options["scale"] = attributes["scale"] = 0.25
    if rng.random() < 0.3:
        options["softcap"] = attributes["softcap"] = 1.5
    if rng.random() < 0.4:
        options["causal"], attributes["is_causal"] = True, 1
    for side in ("left", "right"):
        if rng.random() < 0.2:
            size = int(rng.integers(0, keys + 2))
            options[side] = attributes[f"{side}_window_size"] = size
    cache = rng.integers(3)
    if cache == 1:
        past = make_inputs(rng, dtype, batch=len(given["q"]), heads=given["k"].shape[1],
                           keys=int(rng.integers(1, 70)), size=given["k"].shape[3],
                           value_size=given["v"].shape[3])  # fmt: skip
        given |= {"past_k": past["k"], "past_v": past["v"]}
        keys += past["k"].shape[2]
    elif cache == 2:
        given["lengths"] = rng.integers(0, keys + 1, len(given["q"])).astype(np.int64)
    if rng.random() < 0.6:
        add_mask(rng, given, keys)
    is_flat = bool(rng.random() < 0.4)
    model = make_node_model(given, is_flat, outputs=3 if cache == 1 else 1, **attributes)
    cpu = ["native", "x86-64-v3"][seed // 4 % 2]
    check(tmp_path, model, given, compute(given, **options), "--target-cpu", cpu,
          is_flat=is_flat)  # fmt: skip


@pytest.mark.parametrize("queries", [1, 9])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_more_keys_than_float16_can_count(tmp_path, dtype, queries):
    """The sums of probabilities, and of the values before they are divided, are
    past 65,504; so are products of queries and keys that one key hides."""
    given = make_inputs(np.random.default_rng(0), dtype, heads=1, queries=queries,
                        keys=70_000, size=16)  # fmt: skip
    given["q"] *= 0
    given["v"] = np.full_like(given["v"], 3)
    check(tmp_path, make_node_model(given), given, compute(given))
    given["q"] += 200
    given["k"] = np.where(np.arange(70_000)[:, None] == 69_999, 100, -100)[None, None]
    given["k"] = np.broadcast_to(given["k"], given["v"].shape).astype(dtype)
    given["v"][..., 69_999, :] = 7
    check(tmp_path, make_node_model(given), given, compute(given))


@pytest.mark.parametrize("cpu", ["native", "x86-64-v3"])
@pytest.mark.parametrize("queries", [1, 20])
def test_bfloat16(tmp_path, queries, cpu):
    """Of what Casts round, beside a mask that a node computes."""
    given = make_inputs(np.random.default_rng(0), group=2, queries=queries, keys=77,
                        size=24)  # fmt: skip
    names = ("q", "k", "v")
    nodes = [helper.make_node("Cast", [n], [f"{n}b"], to=TensorProto.BFLOAT16)
             for n in names]  # fmt: skip
    nodes += [helper.make_node("Greater", ["mask", "none"], ["shown"]),
              helper.make_node("Attention", ["qb", "kb", "vb", "shown"], ["yb"]),
              helper.make_node("Cast", ["yb"], ["y"], to=TensorProto.FLOAT)]  # fmt: skip
    mask = np.random.default_rng(1).standard_normal((queries, 77)).astype(np.float32)
    describe = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g",
        [describe(n, TensorProto.FLOAT, v.shape)
         for n, v in (given | {"mask": mask}).items()],
        [describe("y", TensorProto.FLOAT, given["q"].shape)],
        [numpy_helper.from_array(np.float32(0), "none")],
    )  # fmt: skip
    model = helper.make_model(
        graph, ir_version=10, opset_imports=[helper.make_opsetid("", 23)]
    )
    package = compile_model(tmp_path, model, "--target-cpu", cpu)
    got = run_package(package, **given, mask=mask)["y"]
    rounded = {
        n: (v.view(np.uint32) + 0x8000 & 0xFFFF0000).view(np.float32)
        for n, v in given.items()
    }
    wanted = compute(rounded | {"mask": mask > 0})
    np.testing.assert_allclose(got, wanted, rtol=6e-3, atol=6e-3)


@pytest.mark.parametrize("mode", range(4))
def test_what_is_between_is_given_as_before(tmp_path, mode):
    """The scores of a qk_matmul_output_mode come from loops, as does all else
    then."""
    rng = np.random.default_rng(mode)
    given = make_inputs(rng, heads=2, group=2, queries=3, keys=70)
    given["mask"] = rng.standard_normal((3, 70)).astype(np.float32)
    model = make_node_model(given, outputs=4, qk_matmul_output_mode=mode)
    got = run_package(compile_model(tmp_path, model), **given)
    expected = onnx.reference.ReferenceEvaluator(model).run(None, given)
    for info, want in zip(model.graph.output, expected, strict=True):
        np.testing.assert_allclose(got[info.name], want, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("queries", [1, 11])
def test_rows_of_the_lowest_number_are_means(tmp_path, queries):
    """Masks of finfo.min, as exporters write them, hide all keys alike."""
    given = make_inputs(np.random.default_rng(0), queries=queries, keys=90)
    lowest = np.finfo(np.float32).min
    given["mask"] = np.full((queries, 90), lowest, np.float32)
    expected = np.broadcast_to(given["v"].mean(2, keepdims=True), given["q"].shape)
    check(tmp_path, make_node_model(given), given, expected)


def test_values_past_the_length_are_not_read(tmp_path):
    """What lies in a cache behind its last token may be anything."""
    given = make_inputs(np.random.default_rng(0), batch=2, queries=2, keys=150)
    given["lengths"] = np.array([70, 3])
    wanted = compute(given)
    for row, length in enumerate(given["lengths"]):
        given["k"][row, :, length:] = given["v"][row, :, length:] = np.nan
    check(tmp_path, make_node_model(given), given, wanted)


def test_open_sizes_in_one_package(tmp_path):
    """Batch, queries and keys are the runs'."""
    def describe(name, *shape):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        [helper.make_node("Attention", ["q", "k", "v", "m"], ["y"], is_causal=1)], "g",
        [describe("q", "n", 4, "t", 16), describe("k", "n", 2, "u", 16),
         describe("v", "n", 2, "u", 16), describe("m", "n", 1, "t", "u")],
        [describe("y", "n", 4, "t", 16)],
    )  # fmt: skip
    model = helper.make_model(
        graph, ir_version=10, opset_imports=[helper.make_opsetid("", 23)]
    )
    package = compile_model(tmp_path, model)
    rng = np.random.default_rng(0)
    for batch, queries, keys in ((1, 1, 1), (3, 70, 70), (2, 1, 300), (1, 5, 0)):
        given = make_inputs(rng, batch=batch, heads=2, group=2, queries=queries,
                            keys=keys, size=16)  # fmt: skip
        mask = rng.standard_normal((batch, 1, queries, keys)).astype(np.float32)
        got = run_package(package, **given, m=mask)["y"]
        if keys == 0:
            np.testing.assert_array_equal(got, np.zeros_like(got))
            continue
        wanted = compute(given | {"mask": mask}, causal=True)
        np.testing.assert_allclose(got, wanted, rtol=2e-5, atol=2e-5)


#
# Spelled with other nodes
#


def make_nodes_model(style, shape, keys, value_size, dtype=np.float32, mask=None):
    """Scores, softmax and values of [n, heads, tokens, size], as `style` says."""
    element = TYPES[dtype]
    rank, size = len(shape), shape[-1]
    nodes, weights = [], []

    def add(kind, inputs, output, **attributes):
        nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(name, value):
        weights.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    turned = list(range(rank))
    turned[-2:] = turned[:-3:-1]
    q, k, v = "q", "k", "v"
    order, shapes = None, {"q": shape, "k": (*shape[:-2], keys, size),
                           "v": (*shape[:-2], keys, value_size)}  # fmt: skip
    if style == "tokens first":
        # As torch.nn.Linear's results are cut to heads.
        order = [0, 2, 1, 3]
        shapes = {name: tuple(s[i] for i in order) for name, s in shapes.items()}
        q, v = (add("Transpose", [n], f"{n}h", perm=order) for n in "qv")
        k = add("Transpose", [k], "kt", perm=[0, 2, 3, 1])
    else:
        k = add("Transpose", [k], "kt", perm=turned)
    if style == "roots":
        # As torch.onnx spells scaled_dot_product_attention.
        root = constant("root", size**-0.25)
        q, k = add("Mul", [q, root], "qs"), add("Mul", [root, k], "ks")
        scores = add("MatMul", [q, k], "s")
    else:
        scores = add("MatMul", [q, k], "s")
        if style == "divided":
            scores = add("Div", [scores, constant("by", [size**0.5])], "d")
        elif style == "computed":
            weights.append(numpy_helper.from_array(np.asarray(size, dtype), "size"))
            add("Sqrt", ["size"], "by")
            scores = add("Div", [scores, "by"], "d")
        else:
            scores = add("Mul", [scores, constant("by", size**-0.5)], "d")
    inputs = dict(shapes)
    if mask is not None:
        inputs["mask"] = mask
        scores = add("Add", ["mask", scores], "masked")
    p = add("Softmax", [scores], "p", axis=-1)
    if style == "roots":
        add("IsNaN", [p], "isnan")
        p = add("Where", ["isnan", constant("zero", 0), p], "kept")
    add("MatMul", [p, v], "y")
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info(n, element, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info("y", element, (*shape[:-1], value_size))],
        weights,
    )  # fmt: skip
    return helper.make_model(
        graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)]
    )


def imported(folder, model):
    path = folder / "import.onnx"
    path.write_bytes(model.SerializeToString())
    return toolchain.succeed("quantc", path, "--to", "import")


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    "style", ["times", "divided", "computed", "roots", "tokens first"]
)
@pytest.mark.parametrize("shape", [(2, 3, 20, 16), (6, 9, 24), (65, 8)])
def test_nodes_that_spell_attention(tmp_path, style, shape, masked):
    if style == "tokens first" and len(shape) != 4:
        pytest.skip("heads need four dimensions")
    rng = np.random.default_rng(0)
    keys, value_size = 70, 24
    mask = None
    if masked:
        mask = rng.standard_normal((*shape[:1], *[1] * (len(shape) - 3), shape[-2],
                                    keys)[-len(shape) :])  # fmt: skip
        mask = mask.astype(np.float32)
    model = make_nodes_model(style, shape, keys, value_size,
                             mask=None if mask is None else mask.shape)  # fmt: skip
    assert "graph.attention" in imported(tmp_path, model)
    arrays = {
        info.name: rng.standard_normal(
            [d.dim_value for d in info.type.tensor_type.shape.dim]).astype(np.float32)
        for info in model.graph.input
    }  # fmt: skip
    expected = onnx.reference.ReferenceEvaluator(model).run(None, arrays)[0]
    got = run_package(compile_model(tmp_path, model), **arrays)["y"]
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("style", ["times", "roots"])
def test_rows_that_nodes_hide(tmp_path, style):
    """A softmax of nothing is NaN, where the nodes don't say 0."""
    model = make_nodes_model(style, (1, 2, 4, 8), 9, 8, mask=(4, 9))
    given = make_inputs(np.random.default_rng(0), queries=4, keys=9)
    mask = np.zeros((4, 9), np.float32)
    mask[1] = -np.inf
    got = run_package(compile_model(tmp_path, model), **given, mask=mask)["y"]
    wanted = compute(given | {"mask": mask})
    wanted[:, :, 1] = 0 if style == "roots" else math.nan
    np.testing.assert_allclose(got, wanted, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("change", ["axis", "mask of one key", "mask of more rows"])
def test_nodes_that_spell_something_else(tmp_path, change):
    shape, mask = (1, 2, 6, 8), (6, 6)
    if change == "mask of one key":
        mask = (6, 1)
    elif change == "mask of more rows":
        mask = (3, 1, 6, 6)
    model = make_nodes_model("times", shape, 6, 8, mask=mask)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    if change == "axis":
        for node in model.graph.node:
            if node.op_type == "Softmax":
                node.attribute[0].i = 2
    assert "graph.attention" not in imported(tmp_path, model)
    rng = np.random.default_rng(0)
    given = make_inputs(rng, queries=6, keys=6)
    given["mask"] = rng.standard_normal(mask).astype(np.float32)
    expected = onnx.reference.ReferenceEvaluator(model).run(None, given)[0]
    got = run_package(compile_model(tmp_path, model), **given)["y"]
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)

# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Resize against ONNX's own evaluator, and Einsum against NumPy, on shapes that
the standard's cases don't have."""

from __future__ import annotations

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402
from onnx_models import compile_model, make_model, refuse, run_package  # noqa: E402


def make_resize(shape, result, scales=None, sizes=None, roi=None, **attributes):
    weights = {}
    for name, values, dtype in (("roi", roi, np.float32), ("scales", scales, np.float32),
                                ("sizes", sizes, np.int64)):  # fmt: skip
        if values is not None:
            weights[name] = np.array(values, dtype)
    names = [name if name in weights else "" for name in ("roi", "scales", "sizes")]
    node = helper.make_node("Resize", ["x", *names], ["y"], name="it", **attributes)
    return make_model([node], {"x": shape}, {"y": result}, weights)


COORDINATES = ["half_pixel", "half_pixel_symmetric", "pytorch_half_pixel",
               "align_corners", "asymmetric"]  # fmt: skip


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_modes_equal_the_reference(tmp_path, mode, coordinates):
    """Odd sizes, up one way and down the other, and an axis of one element."""
    x = np.random.default_rng(0).standard_normal((2, 3, 7, 5)).astype(np.float32)
    for name, sizes in (("a", [11, 3]), ("b", [1, 13])):
        model = make_resize(("n", 3, 7, 5), ("n", 3, *sizes), sizes=sizes, axes=[2, 3],
                            mode=mode, coordinate_transformation_mode=coordinates)  # fmt: skip
        [expected] = ReferenceEvaluator(model).run(None, {"x": x})
        (tmp_path / name).mkdir()
        got = run_package(compile_model(tmp_path / name, model), x=x)["y"]
        np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("scales", [(0.31, 1.7), (2.5, 0.6)])
@pytest.mark.parametrize("attributes", [
    {"antialias": 1}, {"exclude_outside": 1, "mode": "cubic"},
    {"antialias": 1, "mode": "cubic", "cubic_coeff_a": -0.5},
    *({"mode": "nearest", "nearest_mode": mode}
      for mode in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")),
])  # fmt: skip
def test_scales_that_do_not_give_whole_sizes(tmp_path, scales, attributes):
    attributes = {"mode": "linear"} | attributes
    x = np.random.default_rng(1).standard_normal((1, 2, 9, 10)).astype(np.float32)
    result = [int(np.floor(n * np.float32(s))) for n, s in zip((9, 10), scales)]
    model = make_resize((1, 2, 9, 10), (1, 2, *result), scales=scales, axes=[2, 3],
                        **attributes)  # fmt: skip
    [expected] = ReferenceEvaluator(model).run(None, {"x": x})
    got = run_package(compile_model(tmp_path, model), x=x)["y"]
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_halves_and_integers(tmp_path):
    x = np.random.default_rng(2).standard_normal((1, 1, 4, 6)).astype(np.float16)
    model = make_resize((1, 1, 4, 6), (1, 1, 8, 9), sizes=[8, 9], axes=[2, 3],
                        mode="linear")  # fmt: skip
    for info in (*model.graph.input, *model.graph.output):
        info.type.tensor_type.elem_type = TensorProto.FLOAT16
    [expected] = ReferenceEvaluator(model).run(None, {"x": x.astype(np.float32)})
    got = run_package(compile_model(tmp_path, model), x=x)["y"]
    np.testing.assert_allclose(got, expected, atol=3e-3)
    codes = np.arange(12, dtype=np.int8).reshape(1, 1, 3, 4)
    model = make_resize((1, 1, 3, 4), (1, 1, 6, 8), scales=[1, 1, 2, 2],
                        coordinate_transformation_mode="asymmetric", nearest_mode="floor")  # fmt: skip
    for info in (*model.graph.input, *model.graph.output):
        info.type.tensor_type.elem_type = TensorProto.INT8
    got = run_package(compile_model(tmp_path, model), x=codes)["y"]
    np.testing.assert_array_equal(got, codes.repeat(2, 2).repeat(2, 3))


@pytest.mark.parametrize("change, message", [
    ({"scales": [1, 1, 2]}, "scales must have a number for each axis, got 3 and 4"),
    ({"scales": [1, 1, -2, 2]}, "scales must be positive"),
    ({"scales": [1, 1, 1e30, 2]}, "sizes at most"),
    ({"scales": [1, 1, np.nan, 2]}, "scales must be positive"),
    ({"scales": None}, "either scales or sizes must be given"),
    ({"sizes": [1, 1, 4, 4]}, "either scales or sizes must be given"),
    ({"scales": None, "sizes": [1, 1, -4, 4]}, "sizes must be from 0"),
    ({"mode": "lanczos"}, "mode 'lanczos' is not handled"),
    ({"axes": [7], "scales": [2]}, "node 'it' (Resize)"),
    ({"scales": [1, 1, 1e-9, 2], "antialias": 1, "mode": "linear"}, "x"),
    ({"coordinate_transformation_mode": "tf_crop_and_resize", "roi": [0, 1]},
     "roi must have 8 numbers, got 2"),
])  # fmt: skip
def test_bad_resizes_are_refused(tmp_path, change, message):
    model = make_resize((1, 1, 3, 4), ("a", "b", "c", "d"), **({"scales": [1, 1, 2, 2]} | change))
    if message == "x":  # a size of 0: nothing to weigh
        x = np.ones((1, 1, 3, 4), np.float32)
        got = run_package(compile_model(tmp_path, model), x=x)["y"]
        assert got.shape == (1, 1, 0, 8)
        return
    text = refuse(tmp_path, model)
    assert "node 'it' (Resize)" in text and message in text


def test_scales_must_be_known(tmp_path):
    node = helper.make_node("Resize", ["x", "", "s"], ["y"], name="it")
    model = make_model([node], {"x": (1, 1, 3, 4), "s": (4,)}, {"y": ("a", "b", "c", "d")}, {})
    text = refuse(tmp_path, model)
    assert "node 'it' (Resize): input 2 ('s') must be known" in text


@pytest.mark.parametrize("equation, shapes", [
    ("bhqd,bhkd->bhqk", [(2, 3, 5, 4), (2, 3, 7, 4)]),
    ("bhqk,bkhd->bqhd", [(2, 3, 5, 7), (2, 7, 3, 4)]),
    ("...ij,...jk->...ik", [(2, 1, 3, 4), (5, 4, 2)]),
    ("ab,bc,cd", [(2, 3), (3, 4), (4, 5)]),
    ("ba", [(2, 3)]),
    ("iij->j", [(3, 3, 2)]),
    (" i j , j -> i ", [(3, 4), (4,)]),
    ("ij,ij->", [(3, 4), (3, 4)]),
    ("i,j->ij", [(1,), (5,)]),
])  # fmt: skip
def test_einsum_equals_numpy(tmp_path, equation, shapes):
    rng = np.random.default_rng(3)
    inputs = {f"x{i}": rng.standard_normal(s).astype(np.float32)
              for i, s in enumerate(shapes)}  # fmt: skip
    wide = [array.astype(np.float64) for array in inputs.values()]
    expected = np.einsum(equation.replace(" ", ""), *wide)
    node = helper.make_node("Einsum", list(inputs), ["y"], name="it", equation=equation)
    model = make_model([node], {n: a.shape for n, a in inputs.items()},
                       {"y": expected.shape}, {})  # fmt: skip
    got = run_package(compile_model(tmp_path, model), **inputs)["y"]
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("equation, message", [
    ("ij", "there must be a term for each input, got 1 for 2"),
    ("ij,kl->ix", "the result's dimensions must each be one of the inputs'"),
    ("ij,kl->ii", "the result's dimensions must each be one of the inputs'"),
    ("ijk,jk->i", "'ijk' names 3 dimensions of 2"),
    ("i1,jk->i", "'i1' is no term"),
    ("i......,jk->i", "is no term"),
    ("ij,ik->jk", "dimensions of one letter"),
    ("", "there must be a term"),
    ("i...,j...->j", "dimensions of '...' must be the result's too"),
])  # fmt: skip
def test_bad_equations_are_refused(tmp_path, equation, message):
    node = helper.make_node("Einsum", ["x", "z"], ["y"], name="it", equation=equation)
    model = make_model([node], {"x": (3, 4), "z": (5, 6)}, {"y": ("a", "b")}, {})
    text = refuse(tmp_path, model)
    assert "node 'it' (Einsum)" in text and message in text

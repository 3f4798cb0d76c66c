# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Conversions of floats of 8 and 4 bits, bit for bit those of ml_dtypes."""

from __future__ import annotations

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
ml_dtypes = pytest.importorskip("ml_dtypes")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx_models import compile_model, run_package  # noqa: E402

TYPES = {
    "FLOAT8E4M3FN": ml_dtypes.float8_e4m3fn,
    "FLOAT8E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
    "FLOAT8E5M2": ml_dtypes.float8_e5m2,
    "FLOAT8E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
    "FLOAT4E2M1": ml_dtypes.float4_e2m1fn,
    "FLOAT8E8M0": ml_dtypes.float8_e8m0fnu,
}
WIDE = {
    TensorProto.FLOAT: np.float32, TensorProto.DOUBLE: np.float64,
    TensorProto.FLOAT16: np.float16, TensorProto.INT32: np.int32,
    TensorProto.INT64: np.int64, TensorProto.UINT8: np.uint8,
}  # fmt: skip


def run_casts(folder, source, array, outputs):
    """Casts of x, one an output; attributes by output name."""
    nodes = [helper.make_node("Cast", ["x"], [name], **attributes)
             for name, attributes in outputs.items()]  # fmt: skip
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", source, array.shape)],
        [helper.make_tensor_value_info(name, attributes["to"], array.shape)
         for name, attributes in outputs.items()],
    )  # fmt: skip
    model = helper.make_model(
        graph, ir_version=11, opset_imports=[helper.make_opsetid("", 24)]
    )
    if array.dtype.type.__module__ == "ml_dtypes":
        array = array.view("V1")
    return run_package(compile_model(folder, model), x=array)


def awkward_numbers() -> np.ndarray:
    """Every value of each format, what lies between two, and one step beside."""
    rng = np.random.default_rng(5)
    marks = [np.array([0, np.inf, np.nan, 1e-45, 1e-38, 3e38], np.float32)]
    for kind in TYPES.values():
        values = np.arange(256, dtype=np.uint8).view(kind).astype(np.float32)
        values = np.unique(np.abs(values[np.isfinite(values)]))
        marks += [values, values * 1.5, (values[1:] + values[:-1]) / 2]
    marks.append(np.exp(rng.uniform(-30, 30, 3000)).astype(np.float32))
    all_marks = np.concatenate(marks).astype(np.float32)
    near = [all_marks, np.nextafter(all_marks, np.float32(0)),
            np.nextafter(all_marks, np.float32(np.inf))]  # fmt: skip
    values = np.concatenate(near)
    return np.concatenate([values, -values])


@pytest.mark.parametrize("source", [TensorProto.FLOAT, TensorProto.DOUBLE,
                                    TensorProto.FLOAT16])  # fmt: skip
def test_every_rounding_is_that_of_ml_dtypes(tmp_path, source):
    x = awkward_numbers()
    if source == TensorProto.DOUBLE:
        # One step of float64 off what float32 rounds to.
        wide = x.astype(np.float64)
        x = np.concatenate([wide, np.nextafter(wide, 0), np.nextafter(wide, np.inf)])
    with np.errstate(over="ignore"):
        x = x.astype(WIDE[source])
    outputs = {
        f"{name}_{saturate}": {"to": getattr(TensorProto, name), "saturate": saturate}
        for name in TYPES for saturate in (0, 1) if name != "FLOAT8E8M0"
    }  # fmt: skip
    got = run_casts(tmp_path, source, x, outputs)
    for name in outputs:
        kind, saturate = TYPES[name[:-2]], name.endswith("1")
        with np.errstate(invalid="ignore", over="ignore"):
            if saturate and name[:-2] != "FLOAT4E2M1":
                expected = onnx.numpy_helper.saturate_cast(x, np.dtype(kind))
            else:
                expected = x.astype(kind)
        expected, codes = expected.view(np.uint8), got[name].view(np.uint8)
        # Which of the codes that are NaN one gets is nobody's rule.
        nan = np.isnan(x) if name[:-2] != "FLOAT4E2M1" else np.isnan(x) & np.signbit(x)
        with np.errstate(invalid="ignore"):
            if name[:-2] != "FLOAT4E2M1":
                assert np.isnan(codes.view(kind).astype(np.float32)[nan]).all()
        wrong = (codes != expected) & ~nan
        assert not wrong.any(), (name, x[wrong][:5], codes[wrong][:5], expected[wrong][:5])


@pytest.mark.parametrize("mode", ["up", "down", "nearest"])
def test_powers_of_two_round_as_the_standard_says(tmp_path, mode):
    x = awkward_numbers()
    outputs = {
        f"y{saturate}": {"to": TensorProto.FLOAT8E8M0, "saturate": saturate,
                         "round_mode": mode}
        for saturate in (0, 1)
    }  # fmt: skip
    got = run_casts(tmp_path, TensorProto.FLOAT, x, outputs)
    for saturate in (0, 1):
        expected = numpy_helper.to_float8e8m0(x, bool(saturate), mode)
        np.testing.assert_array_equal(
            got[f"y{saturate}"].view(np.uint8), expected.view(np.uint8)
        )


@pytest.mark.parametrize("name", TYPES)
def test_every_code_becomes_its_number(tmp_path, name):
    count = 16 if name == "FLOAT4E2M1" else 256
    codes = np.arange(count, dtype=np.uint8).view(TYPES[name])
    outputs = {
        f"y{to}": {"to": to}
        for to in (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)
    }
    got = run_casts(tmp_path, getattr(TensorProto, name), codes, outputs)
    for to in (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16):
        with np.errstate(over="ignore"):
            expected = codes.astype(np.float32).astype(WIDE[to])
        np.testing.assert_array_equal(got[f"y{to}"], expected)
        some = ~np.isnan(expected)
        np.testing.assert_array_equal(np.signbit(got[f"y{to}"])[some],
                                      np.signbit(expected)[some])  # fmt: skip


@pytest.mark.parametrize("source", [TensorProto.INT32, TensorProto.INT64,
                                    TensorProto.UINT8])  # fmt: skip
def test_integers_are_those_of_ml_dtypes(tmp_path, source):
    info = np.iinfo(WIDE[source])
    near = np.concatenate([2**k + np.arange(-3, 4) for k in range(4, 31)])
    # Above 2^24 float32 has no odd numbers.
    far = np.array([2**25 + 2**21 + 1, 2**25 + 2**22 - 1, info.max, info.min])
    x = np.concatenate([near, far]).clip(info.min, info.max).astype(WIDE[source])
    outputs = {name: {"to": getattr(TensorProto, name), "saturate": 0}
               for name in list(TYPES)[:5]}  # fmt: skip
    got = run_casts(tmp_path, source, x, outputs)
    for name in outputs:
        expected = x.astype(TYPES[name]).view(np.uint8)
        np.testing.assert_array_equal(got[name].view(np.uint8), expected)


def test_float64_becomes_float16_in_one_rounding(tmp_path):
    rng = np.random.default_rng(2)
    half = np.abs(rng.integers(0, 0x7C00, 2000).astype(np.uint16).view(np.float16))
    middle = half.astype(np.float64) * (1 + 2.0**-11)
    x = np.concatenate([middle, np.nextafter(middle, 0), np.nextafter(middle, 9e9),
                        [65519.99999, 65520, 1e300, -np.inf, np.nan, 1e-320]])  # fmt: skip
    outputs = {"y": {"to": TensorProto.FLOAT16}}
    got = run_casts(tmp_path, TensorProto.DOUBLE, x, outputs)["y"]
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(got, x.astype(np.float16))

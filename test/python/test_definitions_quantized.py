"""Compares definitions of operations on codes with float64 NumPy formulas."""

import numpy as np
import pytest
from referee import (CHANNEL, ROW, SYMMETRIC, ZERO_POINTS, normal,
                     relative_error, rng, run, tensor)


def test_rtn_symmetric_groups(tmp_path, rng):
    w = normal(rng, 5, 24)
    w[1, 8:16] = 0
    codes, scales, back = run(tmp_path, f"""
      %c, %s = qlm.rtn %w {{scheme = {SYMMETRIC}}}
        : {tensor(w)} to tensor<5x24xi4>, tensor<5x3xf16>
      %d = qlm.dequantize %c scales %s {{scheme = {SYMMETRIC}}}
        : tensor<5x24xi4>, tensor<5x3xf16> -> {tensor(w)}""",
                              {"w": (w, "f32")},
                              {"c": (w.shape, "i4"), "s": ((5, 3), "f16"),
                               "d": (w.shape, "f32")})
    groups = w.reshape(5, 3, 8)
    expected_scales = (np.abs(groups).max(-1) / np.float32(7.5)).astype(
        np.float16)
    wide = expected_scales.astype(np.float32)[..., None]
    with np.errstate(all="ignore"):
        expected = np.clip(np.rint(groups / wide), -8, 7)
    expected = np.where(wide == 0, 0, expected)
    assert np.array_equal(scales, expected_scales)
    assert np.array_equal(codes, expected.reshape(5, 24))
    assert np.array_equal(back, (expected * wide).reshape(5, 24))
    assert not back[1, 8:16].any()


def test_rtn_zero_points(tmp_path, rng):
    w = normal(rng, 3, 16) + 1
    w[2, :8] = 0
    codes, scales, zeros = run(tmp_path, f"""
      %c, %s, %z = qlm.rtn %w {{scheme = {ZERO_POINTS}}} : {tensor(w)}
        to tensor<3x16xui4>, tensor<3x2xf16>, tensor<3x2xui4>""",
                               {"w": (w, "f32")},
                               {"c": (w.shape, "ui4"), "s": ((3, 2), "f16"),
                                "z": ((3, 2), "ui4")})
    groups = w.reshape(3, 2, 8)
    low = np.minimum(groups.min(-1), 0)
    high = np.maximum(groups.max(-1), 0)
    expected_scales = ((high - low) / np.float32(15)).astype(np.float16)
    wide = expected_scales.astype(np.float32)
    with np.errstate(all="ignore"):
        expected_zeros = np.clip(np.rint(-low / wide), 0, 15)
        expected_zeros = np.where(wide == 0, 0, expected_zeros)
        expected = np.clip(np.rint(groups / wide[..., None])
                           + expected_zeros[..., None], 0, 15)
    expected = np.where(wide[..., None] == 0, 0, expected)
    assert np.array_equal(scales, expected_scales)
    assert np.array_equal(zeros, expected_zeros)
    assert np.array_equal(codes, expected.reshape(3, 16))


def test_dynamic_quantize_to_float8_and_product(tmp_path, rng):
    """Codes by ml_dtypes' rounding; the product of what they stand for."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x, w = normal(rng, 5, 24), normal(rng, 6, 24)
    x[2] = 0
    # Halfway between neighbours, subnormal and beneath, largest first.
    x[3] = np.ldexp(448 * (1 + np.arange(24) / 16) / 2,
                    -np.arange(24)).astype(np.float32)
    x[3, 0] = 448
    row = "#qlm.scheme<f8E4M3FN, row, bound 448.0, scales f32>"
    channel = "#qlm.scheme<f8E4M3FN, channel, bound 448.0, scales f32>"
    xb, xs, xv, cv, s, y = run(tmp_path, f"""
      %xq, %xs = qlm.dynamic_quantize %x {{scheme = {row}}}
        : {tensor(x)} -> tensor<5x24xf8E4M3FN>, tensor<5xf32>
      %xb = qlm.dequantize %xq scales %one {{scheme = {row}}}
        : tensor<5x24xf8E4M3FN>, tensor<5xf32> -> {tensor(x)}
      %xv = qlm.dequantize %xq scales %xs {{scheme = {row}}}
        : tensor<5x24xf8E4M3FN>, tensor<5xf32> -> {tensor(x)}
      %c, %s = qlm.rtn %w {{scheme = {channel}}}
        : {tensor(w)} to tensor<6x24xf8E4M3FN>, tensor<6xf32>
      %cv = qlm.dequantize %c scales %s {{scheme = {channel}}}
        : tensor<6x24xf8E4M3FN>, tensor<6xf32> -> {tensor(w)}
      %y = qlm.quantized_linear %xq input_scales %xs, %c scales %s
        {{scheme = {channel}}} : (tensor<5x24xf8E4M3FN>, tensor<5xf32>,
        tensor<6x24xf8E4M3FN>, tensor<6xf32>) -> tensor<5x6xf32>""",
                              {"x": (x, "f32"), "w": (w, "f32"),
                               "one": (np.ones(5, np.float32), "f32")},
                              {"xb": (x.shape, "f32"), "xs": ((5,), "f32"),
                               "xv": (x.shape, "f32"), "cv": (w.shape, "f32"),
                               "s": ((6,), "f32"), "y": ((5, 6), "f32")})
    largest = np.abs(x).max(1)
    with np.errstate(all="ignore"):
        scaled = x * (np.float32(448) / largest)[:, None]
    scaled[2] = 0
    codes = np.clip(scaled, -448, 448).astype(ml_dtypes.float8_e4m3fn)
    assert np.array_equal(xb, codes.astype(np.float32))
    assert np.array_equal(xs, largest / np.float32(448))
    assert np.array_equal(xv, codes.astype(np.float32) * xs[:, None])
    expected = xv.astype(np.float64) @ cv.astype(np.float64).T
    assert relative_error(y, expected) < 1e-6


def test_dynamic_quantize_and_integer_product(tmp_path, rng):
    x, w = normal(rng, 4, 24), normal(rng, 6, 24)
    x[2] = 0
    xq, xs, c, s, y = run(tmp_path, f"""
      %xq, %xs = qlm.dynamic_quantize %x {{scheme = {ROW}}}
        : {tensor(x)} -> tensor<4x24xi8>, tensor<4xf32>
      %c, %s = qlm.rtn %w {{scheme = {CHANNEL}}}
        : {tensor(w)} to tensor<6x24xi8>, tensor<6xf32>
      %y = qlm.quantized_linear %xq input_scales %xs, %c scales %s
        {{scheme = {CHANNEL}}} : (tensor<4x24xi8>, tensor<4xf32>,
        tensor<6x24xi8>, tensor<6xf32>) -> tensor<4x6xf32>""",
                          {"x": (x, "f32"), "w": (w, "f32")},
                          {"xq": (x.shape, "i8"), "xs": ((4,), "f32"),
                           "c": (w.shape, "i8"), "s": ((6,), "f32"),
                           "y": ((4, 6), "f32")})
    largest = np.abs(x).max(1)
    with np.errstate(all="ignore"):
        inverse = np.float32(127) / largest
        expected = np.clip(np.rint(x * inverse[:, None]), -127, 127)
    expected[2] = 0
    assert np.array_equal(xq, expected)
    assert np.array_equal(xs, largest / np.float32(127))
    product = xq.astype(np.int64) @ c.T.astype(np.int64)
    assert relative_error(y, product * xs[:, None].astype(np.float64)
                          * s.astype(np.float64)) < 1e-6


def split_outliers(x, threshold):
    """LLM.int8's rule (arXiv 2208.07339) on single rows: what stays wide."""
    wide = np.where(np.abs(x) >= threshold, x, 0)
    return wide, x - wide


@pytest.mark.parametrize("features", [1, 8, 19, 24])
@pytest.mark.parametrize("zero_points", [False, True])
def test_outliers_in_product(tmp_path, rng, features, zero_points):
    x, w = 3 * normal(rng, 5, features), normal(rng, 6, features)
    x[2] = 0
    x[3] = -50  # nothing but outliers
    x[4, 0] = 6  # reaches the threshold
    lists = f"tensor<5x{1 + 2 * features}xf32>"
    scheme = CHANNEL
    if zero_points:
        scheme = ("#qlm.scheme<ui8, channel, zero_points, range [0, 255], "
                  "scales f32>")
    storage = "ui8" if zero_points else "i8"
    zeros = ", %z" if zero_points else ""
    more = f", tensor<6x{storage}>" if zero_points else ""
    blocks = -(-features // 4)
    shape = f"tensor<5x{features}xi8>"
    codes = f"tensor<6x{features}x{storage}>"
    results = {"xq": (x.shape, "i8"), "xs": ((5,), "f32"),
               "o": ((5, 1 + 2 * features), "f32"), "xd": (x.shape, "f32"),
               "d": (w.shape, "f32"), "y": ((5, 6), "f32"),
               "p": ((5, 6), "f32")}
    packed_zeros = '''%pz = qlm.pack %z {layout = #qlm.layout<zero16>,
        name = "z"} : tensor<6xui8> to tensor<1x1x16xi8>'''
    xq, xs, o, xd, d, y, p = run(tmp_path, f"""
      %xq, %xs, %o = qlm.dynamic_quantize %x
        {{scheme = {ROW}, threshold = 6.0 : f32}}
        : {tensor(x)} -> {shape}, tensor<5xf32>, {lists}
      %xd = qlm.dequantize %xq scales %xs outliers %o : {lists}
        {{scheme = {ROW}}} : {shape}, tensor<5xf32> -> {tensor(x)}
      %c, %s{zeros} = qlm.rtn %w {{scheme = {scheme}}}
        : {tensor(w)} to {codes}, tensor<6xf32>{more}
      %d = qlm.dequantize %c scales %s {"zero_points %z" if zeros else ""}
        {{scheme = {scheme}}} : {codes}, tensor<6xf32>{more} -> {tensor(w)}
      %y = qlm.quantized_linear %xq input_scales %xs outliers %o, %c scales %s
        {"zero_points %z" if zeros else ""} {{scheme = {scheme}}}
        : ({shape}, tensor<5xf32>, {lists}, {codes}, tensor<6xf32>{more})
        -> tensor<5x6xf32>
      %pc = qlm.pack %c {{layout = #qlm.layout<i8x16x4>, name = "c"}}
        : {codes} to tensor<1x{blocks}x64xi8>
      %ps = qlm.pack %s {{layout = #qlm.layout<scale16>, name = "s"}}
        : tensor<6xf32> to tensor<1x1x16xf32>
      {packed_zeros if zeros else ""}
      %p = qlm.packed_linear %xq input_scales %xs outliers %o, %pc scales %ps
        {"zero_points %pz" if zeros else ""} {{inFeatures = {features} : i64,
        outFeatures = 6 : i64, layout = #qlm.layout<i8x16x4>,
        scheme = {scheme}}} : ({shape}, tensor<5xf32>, {lists},
        tensor<1x{blocks}x64xi8>, tensor<1x1x16xf32>
        {", tensor<1x1x16xi8>" if zeros else ""}) -> tensor<5x6xf32>""",
                               {"x": (x, "f32"), "w": (w, "f32")}, results)
    wide, rest = split_outliers(x, 6)
    assert (wide[3] != 0).all() and wide[4, 0] == 6
    for t, row in enumerate(wide):
        [columns] = np.nonzero(row)
        count = len(columns)
        assert o[t, 0] == count
        assert np.array_equal(o[t, 1:1 + count], columns)
        start = 1 + features
        assert np.array_equal(o[t, start:start + count], row[columns])
    largest = np.abs(rest).max(1)
    assert np.array_equal(xs, largest / np.float32(127))
    with np.errstate(all="ignore"):
        expected = np.rint(rest * (np.float32(127) / largest)[:, None])
    assert np.array_equal(xq, np.where(largest[:, None] == 0, 0, expected))
    assert np.array_equal(xd, np.where(wide != 0, wide, xq * xs[:, None]))
    exact = (xq * xs[:, None].astype(np.float64) + wide) @ d.astype(np.float64).T
    assert relative_error(y, exact) < 1e-6
    assert relative_error(p, exact) < 1e-6


@pytest.mark.parametrize("features", [1, 19, 64])
def test_static_quantize(tmp_path, rng, features):
    x, a = 3 * normal(rng, 4, features), normal(rng, features)
    x[0, 0] = 1000
    c, s, scale = run(tmp_path, f"""
      %t = qlm.static_scale %a : {tensor(a)} -> tensor<1xf32>
      %c, %s = qlm.static_quantize %x scale %t {{scheme = {ROW}}}
        : {tensor(x)}, tensor<1xf32> -> tensor<4x{features}xi8>,
        tensor<4xf32>""", {"x": (x, "f32"), "a": (a, "f32")},
                      {"c": (x.shape, "i8"), "s": ((4,), "f32"),
                       "t": ((1,), "f32")})
    assert scale[0] == np.abs(a).max() / np.float32(127)
    assert np.array_equal(s, np.repeat(scale, 4))
    assert np.array_equal(c, np.clip(np.rint(x / scale[0]), -127, 127))


def test_static_scale_of_zeros_is_one(tmp_path):
    a = np.zeros(5, np.float32)
    [scale] = run(tmp_path, f"""
      %t = qlm.static_scale %a : {tensor(a)} -> tensor<1xf32>""",
                  {"a": (a, "f32")}, {"t": ((1,), "f32")})
    assert scale[0] == 1


@pytest.mark.parametrize("shared, head", [(1, 1), (2, 4), (3, 2)])
def test_migrated_scales(tmp_path, rng, shared, head):
    columns = 24
    w, h = normal(rng, 7, columns), normal(rng, columns, columns)
    s = np.exp(normal(rng, columns // shared))
    heads = "" if shared == 1 else f"heads [{shared}, {head}]"
    c, m, r, t = run(tmp_path, f"""
      %c = qlm.scale_columns %w by %s {heads}
        : {tensor(w)}, {tensor(s)} -> {tensor(w)}
      %m = qlm.scale_moments %h by %s {heads} : {tensor(h)}, {tensor(s)}
      %p = qlm.scale_rows %h by %s from {columns - len(s)}
        : {tensor(h)}, {tensor(s)} -> {tensor(h)}
      %r = qlm.scale_rows %p by %s from 0
        : {tensor(h)}, {tensor(s)} -> {tensor(h)}
      %a = qlm.static_scale %k over %s : {tensor(s)} {heads}
        : tensor<{columns}xf32> -> tensor<1xf32>""",
                     {"w": (w, "f32"), "h": (h, "f32"), "s": (s, "f32"),
                      "k": (w[0], "f32")},
                     {"c": (w.shape, "f32"), "m": (h.shape, "f32"),
                      "r": (h.shape, "f32"), "a": ((1,), "f32")})
    wide = np.repeat(s.reshape(-1, 1, head), shared, axis=1).ravel()
    assert np.array_equal(c, w * wide)
    assert np.array_equal(m, h / (wide[:, None] * wide))
    rows = h.copy()
    rows[columns - len(s):] /= s[:, None]
    rows[:len(s)] /= s[:, None]
    assert np.array_equal(r, rows)
    assert t[0] == (np.abs(w[0]) / wide).max() / np.float32(127)

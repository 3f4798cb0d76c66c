"""Compares definitions of a planned step's operations with NumPy formulas."""

import numpy as np
import pytest
from referee import (ROW, SYMMETRIC, ZERO_POINTS, attend, normal,
                     relative_error, rng, rotate, run, tensor)


def assert_rounded(codes, scales, expected):
    """Codes and scales are those of float64 rows, half to even.

    A value that f32 moves across the middle between two codes may get either.
    """
    largest = np.abs(expected).max(1)
    with np.errstate(all="ignore"):
        exact = expected * (127 / largest)[:, None]
    exact[largest == 0] = 0
    assert np.allclose(scales, largest / 127, rtol=1e-6, atol=0)
    sure = np.abs(np.abs(exact % 1) - 0.5) > 1e-4
    assert sure.mean() > 0.9
    assert np.array_equal(codes[sure], np.rint(exact)[sure])
    assert np.abs(codes - exact).max() < 0.5 + 1e-4


def test_rms_norm_quantize(tmp_path, rng):
    x, w = normal(rng, 4, 19), normal(rng, 19)
    x[1] = 0
    rows = np.array([3, 1, 3, 0, 2], np.int32)
    values = f"epsilon = 1.0e-5 : f32, scheme = {ROW}"
    c, s, rc, rs = run(tmp_path, f"""
      %c, %s = qlm.rms_norm_quantize %x, %w {{{values}}}
        : {tensor(x)}, {tensor(w)} -> tensor<4x19xi8>, tensor<4xf32>
      %rc, %rs = qlm.rms_norm_quantize %x, %w rows %r : tensor<5xi32> {{{values}}}
        : {tensor(x)}, {tensor(w)} -> tensor<5x19xi8>, tensor<5xf32>""",
                       {"x": (x, "f32"), "w": (w, "f32"), "r": (rows, "i32")},
                       {"c": ((4, 19), "i8"), "s": ((4,), "f32"),
                        "rc": ((5, 19), "i8"), "rs": ((5,), "f32")})
    wide = x.astype(np.float64)
    root = np.sqrt((wide ** 2).mean(axis=1, keepdims=True) + 1e-5)
    assert_rounded(c, s, wide / root * w)
    assert np.array_equal(rc, c[rows]) and np.array_equal(rs, s[rows])
    # In two steps, the same bits.
    d, e = run(tmp_path, f"""
      %n = qlm.rms_norm %x, %w {{epsilon = 1.0e-5 : f32}}
        : {tensor(x)}, {tensor(w)}
      %d, %e = qlm.dynamic_quantize %n {{scheme = {ROW}}}
        : {tensor(x)} -> tensor<4x19xi8>, tensor<4xf32>""",
               {"x": (x, "f32"), "w": (w, "f32")},
               {"d": ((4, 19), "i8"), "e": ((4,), "f32")})
    assert np.array_equal(c, d) and np.array_equal(s, e)


def test_swiglu_quantize(tmp_path, rng):
    x = 3 * normal(rng, 4, 46)
    x[2, 23:] = 0
    c, s = run(tmp_path, f"""
      %c, %s = qlm.swiglu_quantize %x {{scheme = {ROW}}}
        : {tensor(x)} -> tensor<4x23xi8>, tensor<4xf32>""",
               {"x": (x, "f32")}, {"c": ((4, 23), "i8"), "s": ((4,), "f32")})
    gate, up = x[:, :23].astype(np.float64), x[:, 23:].astype(np.float64)
    assert_rounded(c, s, gate / (1 + np.exp(-gate)) * up)
    # In two steps, the same bits.
    d, e = run(tmp_path, f"""
      %y = qlm.swiglu %x : {tensor(x)} -> tensor<4x23xf32>
      %d, %e = qlm.dynamic_quantize %y {{scheme = {ROW}}}
        : tensor<4x23xf32> -> tensor<4x23xi8>, tensor<4xf32>""",
               {"x": (x, "f32")}, {"d": ((4, 23), "i8"), "e": ((4,), "f32")})
    assert np.array_equal(c, d) and np.array_equal(s, e)


@pytest.mark.parametrize("outside, inside", [(5, 16), (16, 24), (33, 40)])
@pytest.mark.parametrize("scheme", [SYMMETRIC, ZERO_POINTS])
def test_packed_product_equals_unpacked(tmp_path, rng, outside, inside, scheme):
    x, w = normal(rng, 3, inside), normal(rng, outside, inside)
    blocks, groups = -(-outside // 16), inside // 8
    storage = "ui4" if "zero_points" in scheme else "i4"
    zeros = storage == "ui4"
    codes = f"tensor<{outside}x{inside}x{storage}>"
    scales = f"tensor<{outside}x{groups}xf16>"
    zero_type = f"tensor<{outside}x{groups}x{storage}>"
    packed = f"tensor<{blocks}x{inside // 8}x64xi8>"
    packed_scales = f"tensor<{blocks}x{groups}x16xf16>"
    packed_zeros = f"tensor<{blocks}x{groups}x16xi8>"
    result = f"tensor<3x{outside}xf32>"
    plain, ordered = run(tmp_path, f"""
      %c, %s{', %z' if zeros else ''} = qlm.rtn %w {{scheme = {scheme}}}
        : {tensor(w)} to {codes}, {scales}{', ' + zero_type if zeros else ''}
      %a = qlm.quantized_linear %x, %c scales %s
        {'zero_points %z' if zeros else ''} {{scheme = {scheme}}}
        : ({tensor(x)}, {codes}, {scales}{', ' + zero_type if zeros else ''})
        -> {result}
      %pc = qlm.pack %c {{layout = #qlm.layout<i4x16x8>, name = "c"}}
        : {codes} to {packed}
      %ps = qlm.pack %s {{layout = #qlm.layout<scale16>, name = "s"}}
        : {scales} to {packed_scales}
      {f'''%pz = qlm.pack %z {{layout = #qlm.layout<zero16>, name = "z"}}
        : {zero_type} to {packed_zeros}''' if zeros else ''}
      %b = qlm.packed_linear %x, %pc scales %ps
        {'zero_points %pz' if zeros else ''} {{inFeatures = {inside},
        outFeatures = {outside}, layout = #qlm.layout<i4x16x8>,
        scheme = {scheme}}} : ({tensor(x)}, {packed}, {packed_scales}
        {', ' + packed_zeros if zeros else ''}) -> {result}""",
                         {"x": (x, "f32"), "w": (w, "f32")},
                         {"a": ((3, outside), "f32"),
                          "b": ((3, outside), "f32")})
    assert np.array_equal(plain, ordered)
    assert relative_error(plain, x.astype(np.float64) @ w.T) < 0.2


def test_packed_product_of_bf16(tmp_path, rng):
    """Activations rounded half to even, then products summed in f32."""
    x, w = normal(rng, 3, 11), normal(rng, 5, 11)
    [y] = run(tmp_path, f"""
      %v = qlm.convert %w : {tensor(w)} to tensor<5x11xbf16>
      %p = qlm.pack %v {{layout = #qlm.layout<bf16x16x2>, name = "w"}}
        : tensor<5x11xbf16> to tensor<1x6x32xbf16>
      %h = qlm.convert %x : {tensor(x)} to tensor<3x11xbf16>
      %y = qlm.packed_linear %h, %p {{inFeatures = 11, outFeatures = 5,
        layout = #qlm.layout<bf16x16x2>}}
        : (tensor<3x11xbf16>, tensor<1x6x32xbf16>) -> tensor<3x5xf32>""",
              {"x": (x, "f32"), "w": (w, "f32")}, {"y": ((3, 5), "f32")})

    def rounded(values):
        bits = values.view(np.uint32).astype(np.uint64)
        bits += 0x7FFF + ((bits >> 16) & 1)
        return (bits.astype(np.uint32) & 0xFFFF0000).view(np.float32)

    expected = rounded(x).astype(np.float64) @ rounded(w).T
    assert relative_error(y, expected) < 1e-6


def test_gated_packed_product(tmp_path, rng):
    """The gate of both halves of a product."""
    x, w = normal(rng, 3, 11), normal(rng, 64, 11)
    [y] = run(tmp_path, f"""
      %p = qlm.pack %w {{layout = #qlm.layout<f32x16>, name = "w"}}
        : {tensor(w)} to tensor<4x11x16xf32>
      %y = qlm.packed_linear %x, %p {{qlm.gated, inFeatures = 11,
        outFeatures = 64, layout = #qlm.layout<f32x16>}}
        : ({tensor(x)}, tensor<4x11x16xf32>) -> tensor<3x32xf32>""",
              {"x": (x, "f32"), "w": (w, "f32")}, {"y": ((3, 32), "f32")})
    gate, up = np.split(x.astype(np.float64) @ w.T, 2, axis=1)
    assert relative_error(y, gate / (1 + np.exp(-gate)) * up) < 1e-6


def test_paged_step_equals_attention(tmp_path, rng):
    """Two sequences over scattered pages against plain attention."""
    heads, kv_heads, size, page, pages = 4, 2, 6, 4, 7
    lengths = [6, 3]
    qkv = normal(rng, sum(lengths), (heads + 2 * kv_heads) * size)
    positions = np.concatenate([np.arange(n) for n in lengths]).astype(np.int32)
    sequences = np.repeat([0, 1], lengths).astype(np.int32)
    tables = np.array([[5, 2], [3, 0]], np.int32)
    frequencies = (1e4 ** (-np.arange(3) / 3)).astype(np.float32)
    cache = f"tensor<{pages}x2x{kv_heads}x{size * page}xf32>"
    tokens = len(positions)
    query = f"tensor<{tokens}x{heads * size}xf32>"
    step = f"tensor<{tokens}xi32>, tensor<{tokens}xi32>, tensor<2x2xi32>"
    [y] = run(tmp_path, f"""
      %t = qlm.rope_table %f : tensor<3xf32> to tensor<16x3x2xf32>
      %q, %c2 = qlm.rope_append %x, %t, %c at %p, %s, %b heads {heads}
        kv_heads {kv_heads} page_tokens {page} : ({tensor(qkv)},
        tensor<16x3x2xf32>, {cache}, {step}) -> ({query}, {cache})
      %y = qlm.paged_attention %q, %c2 at %p, %s, %b heads {heads}
        kv_heads {kv_heads} page_tokens {page} scale 4.0e-01
        : ({query}, {cache}, {step}) -> {query}""",
              {"x": (qkv, "f32"), "f": (frequencies, "f32"),
               "c": (normal(rng, pages, 2, kv_heads, size * page), "f32"),
               "p": (positions, "i32"), "s": (sequences, "i32"),
               "b": (tables, "i32")},
              {"y": ((tokens, heads * size), "f32")})
    expected = []
    start = 0
    for length in lengths:
        rows = qkv[start:start + length].astype(np.float64)
        start += length
        split = rows.reshape(length, heads + 2 * kv_heads, size)
        at = np.arange(length)
        q = rotate(split[:, :heads], at, frequencies)
        k = rotate(split[:, heads:heads + kv_heads], at, frequencies)
        v = split[:, heads + kv_heads:]
        expected.append(attend(q, k, v, np.float32(0.4)))
    assert relative_error(
        y, np.concatenate(expected).reshape(tokens, -1)) < 1e-6


E4M3 = np.array([(2 ** (code // 8 - 7) * (1 + code % 8 / 8) if code >= 8
                  else code / 8 * 2 ** -6) for code in range(127)])
"""The numbers of E4M3FN's positive codes, in ascending order."""


def to_e4m3(x):
    """The codes nearest to numbers within 448, halves to even codes."""
    magnitude = np.abs(x).astype(np.float64)
    below = np.searchsorted(E4M3, magnitude, side="right") - 1
    above = np.minimum(below + 1, 126)
    down, up = magnitude - E4M3[below], E4M3[above] - magnitude
    code = np.where((up < down) | ((up == down) & (below % 2 == 1)),
                    above, below)
    return (code | (np.signbit(x) * 128)).astype(np.uint8)


def quantize_rows(x, codes):
    """Codes, f32 scales and numbers of rows, as qlm.rope_append has them."""
    bound = 127 if codes == "i8" else 448
    largest = np.abs(x).max(axis=-1, keepdims=True).astype(np.float32)
    with np.errstate(divide="ignore"):
        inverse = np.where(largest == 0, np.float32(0),
                           np.float32(bound) / largest)
    scaled = x.astype(np.float32) * inverse
    scales = largest / np.float32(bound)
    scaled = np.clip(scaled, -bound, bound)
    if codes == "i8":
        stored = np.rint(scaled).astype(np.int8)
        numbers = stored.astype(np.float64)
    else:
        stored = to_e4m3(scaled)
        numbers = E4M3[stored & 127] * np.where(stored & 128, -1, 1)
    return stored.view(np.int8), scales[..., 0], numbers * scales


@pytest.mark.parametrize("codes", ["i8", "f8E4M3FN"])
def test_paged_step_with_a_quantized_cache(tmp_path, rng, codes):
    """The bytes of the cache, and attention to what they stand for."""
    heads, kv_heads, size, page, pages, tokens = 4, 2, 6, 4, 3, 5
    qkv = normal(rng, tokens, (heads + 2 * kv_heads) * size)
    qkv[2, (heads + kv_heads) * size:][:size] = 0  # one value of zeros
    positions = np.arange(tokens, dtype=np.int32)
    sequences = np.zeros(tokens, np.int32)
    tables = np.array([[2, 0]], np.int32)
    angles = np.zeros((8, size // 2, 2), np.float32)
    angles[..., 0] = 1  # no rotation: keys are exact
    half = page * (size + 4)
    cache = f"tensor<{pages}x2x{kv_heads}x{half}xi8>"
    query = f"tensor<{tokens}x{heads * size}xf32>"
    step = f"tensor<{tokens}xi32>, tensor<{tokens}xi32>, tensor<1x2xi32>"
    stored, y = run(tmp_path, f"""
      %q, %stored = qlm.rope_append %x, %t, %c at %p, %s, %b heads {heads}
        kv_heads {kv_heads} page_tokens {page} codes {codes} : ({tensor(qkv)},
        {tensor(angles)}, {cache}, {step}) -> ({query}, {cache})
      %y = qlm.paged_attention %q, %stored at %p, %s, %b heads {heads}
        kv_heads {kv_heads} page_tokens {page} codes {codes} scale 4.0e-01
        : ({query}, {cache}, {step}) -> {query}""",
                    {"x": (qkv, "f32"), "t": (angles, "f32"),
                     "c": (np.full((pages, 2, kv_heads, half), 7, np.int8),
                           "i8"),
                     "p": (positions, "i32"), "s": (sequences, "i32"),
                     "b": (tables, "i32")},
                    {"stored": ((pages, 2, kv_heads, half), "i8"),
                     "y": ((tokens, heads * size), "f32")})
    split = qkv.reshape(tokens, heads + 2 * kv_heads, size)
    expected = np.full((pages, 2, kv_heads, half), 7, np.int8)
    rows = []
    for kind, row in enumerate((split[:, heads:heads + kv_heads],
                                split[:, heads + kv_heads:])):
        stored_row, scales, numbers = quantize_rows(row, codes)
        rows.append(numbers)
        for t, position in enumerate(positions):
            block = expected[tables[0, position // page], kind]
            data, slot = block[:, :page * size], position % page
            data = (data.reshape(kv_heads, page, size)[:, slot] if kind
                    else data.reshape(kv_heads, size, page)[:, :, slot])
            data[...] = stored_row[t]
            block[:, page * size:].view(np.float32)[:, slot] = scales[t]
    assert np.array_equal(stored, expected)
    expected = attend(split[:, :heads].astype(np.float64), *rows,
                      np.float32(0.4))
    assert relative_error(y, expected.reshape(tokens, -1)) < 1e-6

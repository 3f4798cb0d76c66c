"""Compares the definition of each operation with a float64 NumPy formula."""

import subprocess

import numpy as np
import pytest
from toolchain import BIN

REFEREE = BIN / "qlm-referee"

NUMPY = {"f32": np.float32, "f16": np.float16, "i32": np.int32,
         "i8": np.int8, "i4": np.int8, "ui8": np.uint8, "ui4": np.uint8, "f8E4M3FN": np.uint8}


def tensor(array, element="f32"):
    return f"tensor<{'x'.join(map(str, array.shape))}x{element}>"


def run(folder, body, inputs, results):
    """Runs `body`, whose values are named as the inputs and the results.

    inputs: {name: (array, element)}; results: {name: (shape, element)}.
    """
    arguments = ", ".join(f"%{name}: {tensor(array, element)}"
                          for name, (array, element) in inputs.items())
    types = ", ".join(f"tensor<{'x'.join(map(str, shape))}x{element}>"
                      for shape, element in results.values())
    names = ", ".join(f"%{name}" for name in results)
    text = (f"func.func @main({arguments}) -> ({types}) {{\n{body}\n"
            f"  return {names} : {types}\n}}\n")
    path = folder / "main.mlir"
    path.write_text(text)
    command = [REFEREE, path]
    for name, (array, element) in inputs.items():
        file = folder / f"{name}.in"
        array = np.ascontiguousarray(array, NUMPY[element])
        if element == "i4":
            array = array & 15
        array.tofile(file)
        command.append(f"--input={file}")
    for name in results:
        command.append(f"--output={folder / name}.out")
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    outputs = []
    for name, (shape, element) in results.items():
        array = np.fromfile(folder / f"{name}.out", NUMPY[element])
        if element == "i4":
            array = ((array & 15) ^ 8) - 8
        if element == "ui4":
            array = array & 15
        outputs.append(array.reshape(shape))
    return outputs


def relative_error(actual, expected):
    expected = np.asarray(expected, np.float64)
    difference = np.linalg.norm(actual.astype(np.float64) - expected)
    return difference / max(np.linalg.norm(expected), 1e-30)


@pytest.fixture
def rng():
    return np.random.default_rng(20261123)


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("tokens, inside, outside",
                         [(1, 1, 1), (3, 17, 5), (2, 64, 33)])
def test_linear(tmp_path, rng, tokens, inside, outside):
    x, w = normal(rng, tokens, inside), normal(rng, outside, inside)
    b, r = normal(rng, outside), normal(rng, tokens, outside)
    [y] = run(tmp_path, f"""
      %y = qlm.linear %x, %w bias %b : {tensor(b)} residual %r : {tensor(r)}
        : {tensor(x)}, {tensor(w)} -> {tensor(r)}""",
              {"x": (x, "f32"), "w": (w, "f32"), "b": (b, "f32"),
               "r": (r, "f32")}, {"y": (r.shape, "f32")})
    expected = x.astype(np.float64) @ w.T.astype(np.float64) + b + r
    assert relative_error(y, expected) < 1e-6


def test_embedding(tmp_path, rng):
    table = normal(rng, 11, 7)
    tokens = np.array([3, 0, 10, 3], np.int32)
    [y] = run(tmp_path, f"""
      %y = qlm.embedding %t, %w : tensor<4xi32>, {tensor(table)} -> tensor<4x7xf32>""",
              {"t": (tokens, "i32"), "w": (table, "f32")},
              {"y": ((4, 7), "f32")})
    assert np.array_equal(y, table[tokens])


def test_rms_norm(tmp_path, rng):
    x, w = normal(rng, 3, 19), normal(rng, 19)
    [y] = run(tmp_path, f"""
      %y = qlm.rms_norm %x, %w {{epsilon = 1.0e-5 : f32}} : {tensor(x)}, {tensor(w)}""",
              {"x": (x, "f32"), "w": (w, "f32")}, {"y": (x.shape, "f32")})
    wide = x.astype(np.float64)
    root = np.sqrt((wide ** 2).mean(axis=1, keepdims=True) + 1e-5)
    assert relative_error(y, wide / root * w) < 1e-6


def rotate(x, positions, frequencies):
    """x: [tokens, heads, headDim] float64."""
    half = x.shape[-1] // 2
    angle = (positions[:, None].astype(np.float32)
             * frequencies[None, :].astype(np.float32)).astype(np.float64)
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    first, second = x[..., :half], x[..., half:]
    return np.concatenate([first * cos - second * sin,
                           second * cos + first * sin], axis=-1)


def test_rope(tmp_path, rng):
    x = normal(rng, 4, 3 * 10)
    positions = np.array([0, 5, 6, 977], np.int32)
    frequencies = (1e4 ** (-np.arange(5) / 5)).astype(np.float32)
    [y] = run(tmp_path, f"""
      %y = qlm.rope %x, %p, %f : {tensor(x)}, tensor<4xi32>, tensor<5xf32>""",
              {"x": (x, "f32"), "p": (positions, "i32"),
               "f": (frequencies, "f32")}, {"y": (x.shape, "f32")})
    expected = rotate(x.reshape(4, 3, 10).astype(np.float64), positions,
                      frequencies)
    assert relative_error(y, expected.reshape(4, 30)) < 1e-6


def attend(q, k, v, scale, causal=True):
    """q: [tokens, heads, d]; k, v: [tokens, kvHeads, d]; float64."""
    group = q.shape[1] // k.shape[1]
    k, v = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)
    scores = np.einsum("thd,uhd->htu", q, k) * scale
    if causal:
        hidden = np.triu(np.ones(scores.shape[1:], bool), 1)
        scores = np.where(hidden, -np.inf, scores)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return np.einsum("htu,uhd->thd", weights, v)


@pytest.mark.parametrize("heads, kv_heads, size", [(1, 1, 2), (6, 2, 5),
                                                   (4, 4, 8)])
def test_attention_and_its_unfused_spelling(tmp_path, rng, heads, kv_heads,
                                            size):
    tokens = 7
    q = normal(rng, tokens, heads * size)
    k, v = (normal(rng, tokens, kv_heads * size) for _ in range(2))
    cube = f"tensor<{heads}x{tokens}x{size}xf32>"
    square = f"tensor<{heads}x{tokens}x{tokens}xf32>"
    repeat = heads // kv_heads
    fused, unfused = run(tmp_path, f"""
      %a = qlm.attention %q, %k, %v heads {heads} kv_heads {kv_heads}
        scale 3.0e-01 causal : {tensor(q)}, {tensor(k)}
      %qh = qlm.split_heads %q repeat 1 : {tensor(q)} -> {cube}
      %kh = qlm.split_heads %k repeat {repeat} : {tensor(k)} -> {cube}
      %vh = qlm.split_heads %v repeat {repeat} : {tensor(v)} -> {cube}
      %s = qlm.matmul %qh, %kh transpose_rhs : {cube}, {cube} -> {square}
      %t = qlm.scale %s by 3.0e-01 : {square}
      %m = qlm.causal_mask %t : {square}
      %p = qlm.softmax %m : {square}
      %o = qlm.matmul %p, %vh : {square}, {cube} -> {cube}
      %b = qlm.merge_heads %o : {cube} -> {tensor(q)}""",
                         {"q": (q, "f32"), "k": (k, "f32"), "v": (v, "f32")},
                         {"a": (q.shape, "f32"), "b": (q.shape, "f32")})
    expected = attend(q.reshape(tokens, heads, size).astype(np.float64),
                      k.reshape(tokens, kv_heads, size).astype(np.float64),
                      v.reshape(tokens, kv_heads, size).astype(np.float64),
                      np.float32(0.3)).reshape(q.shape)
    assert relative_error(fused, expected) < 1e-6
    assert relative_error(unfused, expected) < 1e-6


def test_swiglu_silu_mul_add_split(tmp_path, rng):
    x = normal(rng, 3, 14)
    half = "tensor<3x7xf32>"
    y, z, w = run(tmp_path, f"""
      %y = qlm.swiglu %x : {tensor(x)} -> {half}
      %g, %u = qlm.split %x : {tensor(x)} -> {half}, {half}
      %s = qlm.silu %g : {half}
      %z = qlm.mul %s, %u : {half}
      %w = qlm.add %g, %u : {half}""", {"x": (x, "f32")},
                  {name: ((3, 7), "f32") for name in "yzw"})
    gate, up = x[:, :7].astype(np.float64), x[:, 7:].astype(np.float64)
    expected = gate / (1 + np.exp(-gate)) * up
    assert relative_error(y, expected) < 1e-6
    assert relative_error(z, expected) < 1e-6
    assert relative_error(w, gate + up) < 1e-6


SYMMETRIC = "#qlm.scheme<i4, group, 8, range [-8, 7], bound 7.5, scales f16>"
ZERO_POINTS = "#qlm.scheme<ui4, group, 8, zero_points, range [0, 15], scales f16>"
ROW = "#qlm.scheme<i8, row, range [-127, 127], bound 127.0, scales f32>"
CHANNEL = "#qlm.scheme<i8, channel, range [-127, 127], bound 127.0, scales f32>"


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


@pytest.mark.parametrize("window", [1, 3, 6, 7, 100])
def test_windows(tmp_path, rng, window):
    """The last keys alone, in all three spellings of attention."""
    heads, kv_heads, size, page, tokens = 4, 2, 6, 4, 7
    q = normal(rng, tokens, heads * size)
    k, v = (normal(rng, tokens, kv_heads * size) for _ in range(2))
    cube = f"tensor<{heads}x{tokens}x{size}xf32>"
    square = f"tensor<{heads}x{tokens}x{tokens}xf32>"
    cache = np.full((3, 2, kv_heads, size * page), np.nan, np.float32)
    tables = np.array([[2, 0]], np.int32)
    for t in range(tokens):
        pages = cache[tables[0, t // page]]
        keys = pages[0].reshape(kv_heads, size, page)
        keys[:, :, t % page] = k[t].reshape(kv_heads, size)
        values = pages[1].reshape(kv_heads, page, size)
        values[:, t % page] = v[t].reshape(kv_heads, size)
    positions = np.arange(tokens, dtype=np.int32)
    attributes = f"heads {heads} kv_heads {kv_heads}"
    fused, unfused, paged = run(tmp_path, f"""
      %a = qlm.attention %q, %k, %v {attributes} scale 3.0e-01 causal
        window {window} : {tensor(q)}, {tensor(k)}
      %qh = qlm.split_heads %q repeat 1 : {tensor(q)} -> {cube}
      %kh = qlm.split_heads %k repeat 2 : {tensor(k)} -> {cube}
      %vh = qlm.split_heads %v repeat 2 : {tensor(v)} -> {cube}
      %s = qlm.matmul %qh, %kh transpose_rhs : {cube}, {cube} -> {square}
      %t = qlm.scale %s by 3.0e-01 : {square}
      %m = qlm.causal_mask %t window {window} : {square}
      %p = qlm.softmax %m : {square}
      %o = qlm.matmul %p, %vh : {square}, {cube} -> {cube}
      %b = qlm.merge_heads %o : {cube} -> {tensor(q)}
      %y = qlm.paged_attention %q, %c at %pos, %seq, %tab {attributes}
        page_tokens {page} scale 3.0e-01 window {window} : ({tensor(q)},
        {tensor(cache)}, tensor<7xi32>, tensor<7xi32>, tensor<1x2xi32>)
        -> {tensor(q)}""",
                                {"q": (q, "f32"), "k": (k, "f32"),
                                 "v": (v, "f32"), "c": (cache, "f32"),
                                 "pos": (positions, "i32"),
                                 "seq": (np.zeros(tokens, np.int32), "i32"),
                                 "tab": (tables, "i32")},
                                {"a": (q.shape, "f32"), "b": (q.shape, "f32"),
                                 "y": (q.shape, "f32")})
    expected = []
    for t in range(tokens):
        seen = slice(max(0, t - window + 1), t + 1)
        rows = (part[seen].reshape(-1, kv_heads, size).astype(np.float64)
                for part in (k, v))
        last = np.zeros((len(k[seen]), heads, size))
        last[-1] = q[t].reshape(heads, size)
        expected.append(attend(last, *rows, np.float32(0.3))[-1].ravel())
    for actual in (fused, unfused, paged):
        assert relative_error(actual, np.array(expected)) < 1e-6


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


@pytest.mark.parametrize("rows, columns", [(1, 1), (3, 7), (17, 5)])
def test_transpose(tmp_path, rng, rows, columns):
    w = normal(rng, rows, columns)
    [v] = run(tmp_path, f"""
      %v = qlm.transpose %w : {tensor(w)} -> tensor<{columns}x{rows}xf32>""",
              {"w": (w, "f32")}, {"v": ((columns, rows), "f32")})
    assert np.array_equal(v, w.T)

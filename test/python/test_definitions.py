"""Compares the definition of each operation with a float64 NumPy formula."""

import numpy as np
import pytest
from referee import attend, normal, relative_error, rng, rotate, run, tensor


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


@pytest.mark.parametrize("rows, columns", [(1, 1), (3, 7), (17, 5)])
def test_transpose(tmp_path, rng, rows, columns):
    w = normal(rng, rows, columns)
    [v] = run(tmp_path, f"""
      %v = qlm.transpose %w : {tensor(w)} -> tensor<{columns}x{rows}xf32>""",
              {"w": (w, "f32")}, {"v": ((columns, rows), "f32")})
    assert np.array_equal(v, w.T)

# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The functional API gives what the NumPy reference and its examples say."""

from __future__ import annotations

import doctest

import numpy as np
import numpy_reference as reference
import pytest
from numpy_reference import Scheme

functional = pytest.importorskip("qlm.functional")


def matrix(rows: int = 9, columns: int = 96) -> np.ndarray:
    """Random values, with a row and a group of zeros."""
    rng = np.random.default_rng(rows * columns)
    x = rng.normal(0, 0.05, (rows, columns)).astype(np.float32)
    x[2] = 0
    x[4, :32] = 0
    return x


def compare(q, x, scheme: Scheme) -> None:
    """Asserts codes, scales, zero points and values, bit for bit."""
    codes, scales, zeros = reference.rtn(x, scheme)
    assert q.codes.dtype == scheme.code_type
    assert np.array_equal(q.codes, codes)
    if scheme.zero_points:
        assert np.array_equal(q.zero_points.ravel(), zeros.ravel())
    else:
        assert q.zero_points is None
    if scheme.double:
        stored, supers = reference.quantize_scales(scales)
        assert np.array_equal(q.scale_codes, stored)
        assert np.array_equal(q.super_scales, supers)
    else:
        assert np.array_equal(q.scales.ravel(), scales.ravel())
    expected = reference.dequantize(codes, scales, zeros, scheme)
    assert functional.dequantize(q).tobytes() == expected.tobytes()


def test_examples_hold():
    assert doctest.testmod(functional).failed == 0
    assert doctest.testmod(functional).attempted > 10


def test_uniform_functions_equal_reference():
    x = matrix()
    compare(functional.quantize_symmetric(x), x, Scheme(8, "tensor"))
    compare(functional.quantize_symmetric(x, 4), x,
            Scheme(4, "tensor", 0, False, -8, 7, 7.5, "f16"))
    compare(functional.quantize_asymmetric(x), x,
            Scheme(8, "tensor", 0, True, 0, 255))
    compare(functional.quantize_per_channel(x), x, Scheme(8, "channel"))
    compare(functional.quantize_per_channel(x, zero_points=True), x,
            Scheme(8, "channel", 0, True, 0, 255))
    compare(functional.quantize_per_group(x, 32), x,
            Scheme(4, "group", 32, False, -8, 7, 7.5, "f16"))
    compare(functional.quantize_per_group(x, 48, 8, True), x,
            Scheme(8, "group", 48, True, 0, 255))


def test_codebooks_equal_reference():
    x = matrix()
    compare(functional.quantize_nf4(x, 32), x,
            Scheme(4, "group", 32, codebook="nf4"))
    compare(functional.quantize_nf4(x, 16, double_quant=True), x,
            Scheme(4, "group", 16, codebook="nf4", double=True))
    compare(functional.quantize_fp8(x), x, Scheme(8, "channel", codebook="fp8"))


def test_other_types_and_shapes():
    x = matrix(8, 64).reshape(2, 4, 64)
    by_group = functional.quantize_per_group(x, 32)
    assert by_group.codes.shape == x.shape and by_group.scales.shape == (8, 2)
    assert functional.dequantize(by_group).shape == x.shape
    by_channel = functional.quantize_per_channel(x)
    assert by_channel.scales.shape == (2,)
    half = functional.quantize_per_channel(x.astype(np.float16))
    wide = functional.quantize_per_channel(x.astype(np.float16).astype(np.float32))
    assert np.array_equal(half.codes, wide.codes)
    assert np.array_equal(functional.quantize_symmetric(x[0].T).codes,
                          functional.quantize_symmetric(x[0]).codes.T)
    assert functional.quantize_symmetric([3.0, -1.0]).codes.tolist() == [127, -42]


def test_dlpack_tensors():
    torch = pytest.importorskip("torch")
    x = matrix()
    q = functional.quantize_per_group(torch.tensor(x, requires_grad=True), 32)
    assert np.array_equal(q.codes, functional.quantize_per_group(x, 32).codes)
    brain = torch.tensor(x).bfloat16()
    q = functional.quantize_per_channel(brain)
    expected = functional.quantize_per_channel(brain.float().numpy())
    assert np.array_equal(q.codes, expected.codes)


@pytest.mark.parametrize("call, message", [
    (lambda f, x: f.quantize_symmetric(x, 3), "bits must be 4 or 8, got 3"),
    (lambda f, x: f.quantize_per_group(x, 40),
     "group size must divide the columns, got 40 and 96"),
    (lambda f, x: f.quantize_nf4(x, 0),
     "group size must divide the columns, got 0 and 96"),
    (lambda f, x: f.quantize_symmetric(np.float32([[1, np.inf]])),
     r"weight must be finite, got inf at \[0, 1\]"),
    (lambda f, x: f.quantize_symmetric(x[:0]), "the array must not be empty"),
    (lambda f, x: f.quantize_symmetric(x.astype(np.int32)),
     "elements must be float32, float16 or bfloat16"),
])
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(functional, matrix())


def test_dequantize_checks_sizes():
    q = functional.quantize_per_channel(matrix())
    bad = functional.Quantized(q.codes, q.scales[1:], None, "int8", "channel")
    with pytest.raises(ValueError, match="must number 9, got 8"):
        functional.dequantize(bad)

# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The compiler's quantization as functions on arrays.

The same code rounds the weights of packages, so codes are equal bit for bit.
Arrays are NumPy's, or of any library with DLPack (a PyTorch tensor on the
CPU), of float32, float16 or bfloat16. What has more than two dimensions is
seen as ``[shape[0], -1]`` by channel, and as ``[-1, shape[-1]]`` by group.

>>> import numpy as np
>>> q = quantize_symmetric(np.float32([[1.0, -0.5], [0.25, 0.0]]))
>>> q.codes.tolist(), q.scales.tolist()
([[127, -64], [32, 0]], [0.007874015718698502])
>>> print(dequantize(q).round(3))
[[ 1.    -0.504]
 [ 0.252  0.   ]]
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from . import _numerics

__all__ = [
    "Quantized",
    "dequantize",
    "quantize_asymmetric",
    "quantize_fp8",
    "quantize_nf4",
    "quantize_per_channel",
    "quantize_per_group",
    "quantize_symmetric",
]


@dataclasses.dataclass(frozen=True)
class Quantized:
    """Codes of an array, and what turns them back into numbers.

    Attributes
    ----------
    codes : int8 or uint8 array of the array's shape, one code a byte
        Signed in a symmetric scheme; unsigned with zero points; an index into
        the table of nf4; the bits of f8E4M3FN.
    scales : float32 array
        ``[1]`` for a tensor, ``[rows]`` by channel, ``[rows, groups]``.
    zero_points : uint8 array of the scales' shape, or None
    kind : str
        "int8", "int4", "nf4" or "fp8".
    granularity : str
        "tensor", "channel" or "group".
    group_size : int
        Columns that share a scale, by group.
    scale_codes, super_scales : arrays or None
        Of double quantization; `scales` are what they stand for.
    """

    codes: np.ndarray
    scales: np.ndarray
    zero_points: np.ndarray | None
    kind: str
    granularity: str
    group_size: int = 0
    scale_codes: np.ndarray | None = None
    super_scales: np.ndarray | None = None


def _as_array(x: Any) -> Any:
    """Return an array of at least one dimension, without copying."""
    if hasattr(x, "detach"):  # a PyTorch tensor that wants a gradient
        x = x.detach()
    if not hasattr(x, "shape"):
        x = np.asarray(x, np.float32)
    if getattr(x, "dtype", None) == np.float64:
        x = x.astype(np.float32)
    if len(x.shape) == 0 or 0 in x.shape:
        raise ValueError(f"the array must not be empty, got shape {tuple(x.shape)}")
    return x


def _quantize(
    x: Any,
    kind: str,
    granularity: str,
    group_size: int = 0,
    zero_points: bool = False,
    double_quant: bool = False,
) -> Quantized:
    x = _as_array(x)
    shape = tuple(x.shape)
    rows = 1 if len(shape) == 1 else shape[0]
    if granularity == "group":
        rows = math.prod(shape[:-1])
    matrix = x.reshape(rows, math.prod(shape) // rows)
    if isinstance(matrix, np.ndarray):
        matrix = np.ascontiguousarray(matrix)
    else:
        matrix = matrix.contiguous() if hasattr(matrix, "contiguous") else matrix
    codes, scales, zeros, scale_codes, super_scales = _numerics.quantize(
        matrix, kind, granularity, group_size, zero_points, double_quant
    )
    signed = kind in ("int8", "int4") and not zero_points
    codes = codes.view(np.int8) if signed else codes
    return Quantized(
        codes.reshape(shape), scales, zeros, kind, granularity, group_size,
        scale_codes, super_scales,
    )  # fmt: skip


def _kind(bits: int) -> str:
    if bits not in (4, 8):
        raise ValueError(f"bits must be 4 or 8, got {bits}")
    return f"int{bits}"


def quantize_symmetric(x: Any, bits: int = 8) -> Quantized:
    """Round to signed codes with one scale.

    ``scale = max|x| / bound``, ``code = clamp(round(x / scale), lo, hi)``; the
    bound is 127 for 8 bits, in [-127, 127], and 7.5 for 4 bits, in [-8, 7].

    Parameters
    ----------
    x : array
    bits : int
        8 or 4.

    Raises
    ------
    ValueError
        For an infinity or NaN, another number of bits, or an empty array.

    Examples
    --------
    >>> quantize_symmetric([[-7.5, 7.5, 1.0]], bits=4).codes.tolist()
    [[-8, 7, 1]]
    """
    return _quantize(x, _kind(bits), "tensor")


def quantize_asymmetric(x: Any, bits: int = 8) -> Quantized:
    """Round to unsigned codes with one scale and one zero point.

    With ``a = min(0, min x)``, ``b = max(0, max x)``: ``scale = (b - a) / hi``,
    ``zero = clamp(round(-a / scale), 0, hi)``,
    ``code = clamp(round(x / scale) + zero, 0, hi)``.

    Examples
    --------
    >>> q = quantize_asymmetric([[-1.0, 0.0, 4.1]])
    >>> q.codes.tolist(), q.zero_points.tolist()
    ([[0, 50, 255]], [50])
    """
    return _quantize(x, _kind(bits), "tensor", zero_points=True)


def quantize_per_channel(
    x: Any, bits: int = 8, zero_points: bool = False
) -> Quantized:
    """Round with a scale for each row (output channel) ``x[i]``.

    Examples
    --------
    >>> q = quantize_per_channel([[1.0, 2.0], [0.0, 0.0]])
    >>> q.codes.tolist(), q.scales.shape
    ([[64, 127], [0, 0]], (2,))
    """
    return _quantize(x, _kind(bits), "channel", zero_points=zero_points)


def quantize_per_group(
    x: Any, group_size: int = 128, bits: int = 4, zero_points: bool = False
) -> Quantized:
    """Round with a scale for each `group_size` elements of the last axis.

    Examples
    --------
    >>> quantize_per_group([[15.0, -15.0, 1.5, 0.1]], group_size=2).scales.tolist()
    [[2.0, 0.199951171875]]
    """
    return _quantize(x, _kind(bits), "group", group_size, zero_points)


def quantize_nf4(
    x: Any, group_size: int = 64, double_quant: bool = False
) -> Quantized:
    """Round to NormalFloat4, as bitsandbytes does.

    Parameters
    ----------
    x : array
    group_size : int
        Elements of the last axis that share an absmax.
    double_quant : bool
        Quantize the scales too, 256 to a scale of their own.

    Examples
    --------
    >>> quantize_nf4([[2.0, -2.0, 0.0, 0.2]], group_size=4).codes.tolist()
    [[15, 0, 7, 8]]
    """
    return _quantize(x, "nf4", "group", group_size, False, double_quant)


def quantize_fp8(x: Any) -> Quantized:
    """Round to f8E4M3FN with a scale, ``max|x| / 448``, for each row.

    Examples
    --------
    >>> quantize_fp8([[448.0, -1.0, 0.0]]).codes.tolist()
    [[126, 184, 0]]
    """
    return _quantize(x, "fp8", "channel")


def dequantize(q: Quantized) -> np.ndarray:
    """Return the float32 numbers that the codes stand for.

    Examples
    --------
    >>> print(dequantize(quantize_nf4([[2.0, -2.0, 0.0, 0.2]], 4)).round(3))
    [[ 2.    -2.     0.     0.159]]
    """
    shape = q.codes.shape
    rows = 1 if len(shape) == 1 else shape[0]
    if q.granularity == "group":
        rows = math.prod(shape[:-1])
    codes = np.ascontiguousarray(q.codes).view(np.uint8).reshape(rows, -1)
    values = _numerics.dequantize(
        codes, np.ascontiguousarray(q.scales), q.zero_points, q.kind,
        q.granularity, q.group_size,
    )  # fmt: skip
    return values.reshape(shape)

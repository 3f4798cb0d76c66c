# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Quantization and packing in NumPy, from the operations' descriptions.

Written from `include/qlm/Dialect/Qlm{Attrs,ParameterOps,QuantizationOps}.td`
and `include/qlm/Package/Format.h` alone, to be obviously right and not fast.
"""

from __future__ import annotations

import dataclasses

import numpy as np

BLOCK = 16


@dataclasses.dataclass(frozen=True)
class Scheme:
    """`#qlm.scheme`: how real numbers are stored as small ones.

    Attributes
    ----------
    bits : int
        4 or 8.
    granularity : str
        "tensor", "channel" or "group".
    group_size : int
        Columns that share a scale, with "group".
    zero_points : bool
        Whether codes are unsigned, with a zero point for each scale.
    lo, hi : int
        The codes' range.
    bound : float
        A symmetric scale is the largest magnitude over this.
    scale_type : str
        "f32" or "f16".
    """

    bits: int
    granularity: str
    group_size: int = 0
    zero_points: bool = False
    lo: int = -127
    hi: int = 127
    bound: float = 127.0
    scale_type: str = "f32"

    @property
    def code_type(self) -> type:
        """NumPy type of the codes, one a byte."""
        return np.uint8 if self.zero_points else np.int8

    @property
    def offset(self) -> int:
        """Minus the lowest value of the storage type."""
        return 0 if self.zero_points else 2 ** (self.bits - 1)

    def grouped(self, matrix: np.ndarray) -> np.ndarray:
        """Views `[rows, columns]` as `[scale rows, scale columns, shared]`."""
        rows, columns = matrix.shape
        if self.granularity == "tensor":
            return matrix.reshape(1, 1, rows * columns)
        if self.granularity == "channel":
            return matrix.reshape(rows, 1, columns)
        return matrix.reshape(rows, columns // self.group_size,
                              self.group_size)


def round_scale(scale: np.ndarray, scheme: Scheme) -> np.ndarray:
    """Rounds f32 scales to the scheme's scale type; back in f32."""
    if scheme.scale_type == "f16":
        with np.errstate(over="ignore"):
            return scale.astype(np.float16).astype(np.float32)
    return scale


def rtn(weights: np.ndarray,
        scheme: Scheme) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`qlm.rtn`: rounds each value to the nearest code.

    Parameters
    ----------
    weights : f32 array `[rows, columns]`

    Returns
    -------
    codes : `[rows, columns]`, int8 or uint8
    scales : `[scale rows, scale columns]`, f32 values of the scale type
    zero_points : of the scales' shape, uint8 (zeros in a symmetric scheme)

    Examples
    --------
    >>> int8 = Scheme(8, "channel")
    >>> codes, scales, _ = rtn(np.float32([[127, -0.5, 1.5, 2.5]]), int8)
    >>> codes.tolist(), scales.tolist()
    ([[127, 0, 2, 2]], [[1.0]])
    """
    groups = scheme.grouped(weights.astype(np.float32))
    zero_points = np.zeros(groups.shape[:2], np.float32)
    if scheme.zero_points:
        low = np.minimum(np.float32(0), groups.min(axis=2))
        high = np.maximum(np.float32(0), groups.max(axis=2))
        scale = round_scale((high - low) / np.float32(scheme.hi), scheme)
        with np.errstate(divide="ignore", invalid="ignore"):
            zero_points = np.clip(np.rint(-low / scale), 0, scheme.hi)
        zero_points = np.where(scale == 0, 0, zero_points)
    else:
        largest = np.abs(groups).max(axis=2)
        scale = round_scale(largest / np.float32(scheme.bound), scheme)
    assert scale.dtype == np.float32
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        quotient = groups / scale[:, :, None]
    codes = np.clip(np.rint(quotient) + zero_points[:, :, None], scheme.lo,
                    scheme.hi)
    codes = np.where(scale[:, :, None] == 0, 0, codes)
    return (codes.astype(scheme.code_type).reshape(weights.shape), scale,
            zero_points.astype(np.uint8))


def dequantize(codes: np.ndarray, scales: np.ndarray, zero_points: np.ndarray,
               scheme: Scheme) -> np.ndarray:
    """`qlm.dequantize`: `(code - zero point) * scale` in f32."""
    groups = scheme.grouped(codes).astype(np.int32)
    shifted = groups - zero_points[:, :, None].astype(np.int32)
    values = shifted.astype(np.float32) * scales[:, :, None]
    return values.reshape(codes.shape)


def dynamic_quantize(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`qlm.dynamic_quantize`: int8 codes and a scale for each row."""
    largest = np.abs(values).max(axis=1)
    bound = np.float32(127)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        product = values * (bound / largest)[:, None]
    # A zero's code is zero, where the factor overflows to infinity too.
    product = np.where(values == 0, np.float32(0), product)
    return np.clip(np.rint(product), -127, 127).astype(np.int8), largest / bound


def pad(matrix: np.ndarray, column_unit: int) -> np.ndarray:
    """Adds zero rows and columns up to whole blocks of 16 and units."""
    rows, columns = matrix.shape
    return np.pad(matrix, ((0, -rows % BLOCK), (0, -columns % column_unit)))


def unsigned(codes: np.ndarray, offset: int) -> np.ndarray:
    """Codes less the lowest value of their storage type."""
    return (codes.astype(np.int32) + offset).astype(np.uint8)


def pack_columns(matrix: np.ndarray, per_cell: int) -> np.ndarray:
    """`[NB][ceil(K / per_cell)][16][per_cell]` of a `[N, K]` matrix."""
    padded = pad(matrix, per_cell)
    blocks, cells = padded.shape[0] // BLOCK, padded.shape[1] // per_cell
    return np.ascontiguousarray(
        padded.reshape(blocks, BLOCK, cells, per_cell).transpose(0, 2, 1, 3))


def pack(layout: str, matrix: np.ndarray, offset: int = 0) -> bytes:
    """`qlm.pack`: the bytes of a matrix in a package.

    Parameters
    ----------
    layout : str
        A layout's name in `qlm/Package/Format.h`.
    matrix : array `[N, K]`
        f32 or 16-bit values, codes one a byte, scales or zero points
        `[N, groups]`, or a bias `[N, 1]`.
    offset : int
        Minus the lowest value of the codes' storage type.
    """
    if layout in ("f32x16", "f16x16", "scale16"):
        return pack_columns(matrix, 1).tobytes()
    if layout == "bf16x16x2":
        return pack_columns(matrix, 2).tobytes()
    if layout == "i8x16x4":
        return pack_columns(unsigned(matrix, offset), 4).tobytes()
    if layout == "i4x16x8":
        cells = pack_columns(unsigned(matrix, offset), 8)
        return (cells[..., :4] | cells[..., 4:] << 4).tobytes()
    if layout == "zero16":
        return pack_columns(unsigned(matrix, offset), 1).tobytes()
    assert layout == "bias" and matrix.shape[1] == 1
    return pad(matrix, 1).tobytes()


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Rounds f32 to bfloat16, half to even; as uint16. No NaN."""
    bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    low, kept = bits & 0xffff, bits >> 16
    up = (low > 0x8000) | ((low == 0x8000) & (kept & 1 == 1))
    return (kept + up).astype(np.uint16)

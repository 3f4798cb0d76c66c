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
    codebook : str
        "uniform", "nf4" or "fp8" (f8E4M3FN).
    double : bool
        Whether scales are quantized too.
    """

    bits: int
    granularity: str
    group_size: int = 0
    zero_points: bool = False
    lo: int = -127
    hi: int = 127
    bound: float = 127.0
    scale_type: str = "f32"
    codebook: str = "uniform"
    double: bool = False

    @property
    def code_type(self) -> type:
        """NumPy type of the codes, one a byte."""
        return np.int8 if self.offset else np.uint8

    @property
    def layout(self) -> str:
        """Order of the packed codes."""
        wide = "f8x16x4" if self.codebook == "fp8" else "i8x16x4"
        return "i4x16x8" if self.bits == 4 else wide

    @property
    def offset(self) -> int:
        """Minus the lowest value of the storage type."""
        symmetric = self.codebook == "uniform" and not self.zero_points
        return 2 ** (self.bits - 1) if symmetric else 0

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
    if scheme.codebook != "uniform":
        return rtn_to_table(groups, scheme, weights.shape)
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


NF4 = np.float32([
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634,
    0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0])
"""NormalFloat4."""

FLOAT8 = np.float32([
    m * 2.0**-9 if e == 0 else (8 + m) * 2.0 ** (e - 10)
    for e in range(16) for m in range(8)][:127])
"""f8E4M3FN from 0 to 448."""


def dynamic_map() -> np.ndarray:
    """The signed dynamic map of 8 bits, ascending."""
    values = [0.0, 1.0]
    for i in range(7):
        # Steps of f32, boundaries rounded once.
        steps = 2**i
        step = np.float64((np.float32(1) - np.float32(0.1)) / np.float32(steps))
        k = np.arange(steps + 1)
        left = np.float64(np.float32(0.1)) + step * k
        right = 1.0 - step * (steps - k)
        bounds = np.where(k < (steps + 1) // 2, left, right).astype(np.float32)
        means = (bounds[:-1] + bounds[1:]) / np.float32(2)
        decade = np.float32(10.0 ** (i - 6)) * means
        values += [*decade, *-decade]
    return np.sort(np.float32(values))


def index_in(table: np.ndarray, values: np.ndarray,
             absmax: np.ndarray) -> np.ndarray:
    """Codes of a table: the number of bounds below the scaled value."""
    inverse = np.float32(1) / np.maximum(absmax, np.float32(1e-38))
    bounds = (table[:-1] + table[1:]) / np.float32(2)
    return np.searchsorted(bounds, values * inverse).astype(np.uint8)


def to_float8(values: np.ndarray) -> np.ndarray:
    """Bits of f8E4M3FN, half to even, at most 448 in magnitude."""
    magnitude = np.minimum(np.abs(values.astype(np.float64)), 448)
    table = FLOAT8.astype(np.float64)
    above = np.minimum(np.searchsorted(table, magnitude), 126)
    below = np.maximum(above - 1, 0)
    up, down = table[above] - magnitude, magnitude - table[below]
    nearest = np.where((up < down) | ((up == down) & (above % 2 == 0)),
                       above, below)
    return (nearest + 128 * np.signbit(values)).astype(np.uint8)


def from_float8(bits: np.ndarray) -> np.ndarray:
    """f32 of the bits of f8E4M3FN."""
    magnitude = FLOAT8[bits & 127]
    return np.where(bits & 128, -magnitude, magnitude)


def rtn_to_table(groups: np.ndarray, scheme: Scheme,
                 shape: tuple) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`qlm.rtn` with nf4 or f8E4M3FN."""
    largest = np.abs(groups).max(axis=2)
    if scheme.codebook == "nf4":
        scale = round_scale(largest, scheme)
        codes = index_in(NF4, groups, scale[:, :, None])
    else:
        scale = round_scale(largest / np.float32(448), scheme)
        with np.errstate(divide="ignore", invalid="ignore"):
            quotient = groups / scale[:, :, None]
        codes = to_float8(np.where(scale[:, :, None] == 0, 0, quotient))
    return codes.reshape(shape), scale, np.zeros(scale.shape, np.uint8)


def quantize_scales(scales: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`qlm.quantize_scales`: codes, and the offset with blocks' scales."""
    flat = scales.ravel()
    offset = np.float32(np.cumsum(flat.astype(np.float64))[-1] / flat.size)
    centred = np.pad(flat - offset, (0, -flat.size % 256)).reshape(-1, 256)
    absmax = np.abs(centred).max(axis=1)
    codes = index_in(dynamic_map(), centred, absmax[:, None])
    codes = codes.ravel()[:flat.size].reshape(scales.shape)
    return codes, np.concatenate([[offset], absmax]).astype(np.float32)


def dequantize_scales(codes: np.ndarray, superscales: np.ndarray) -> np.ndarray:
    """`qlm.dequantize_scales`, f32."""
    block = 1 + np.arange(codes.size) // 256
    values = dynamic_map()[codes.ravel()] * superscales[block]
    return (values + superscales[0]).reshape(codes.shape)


def dequantize(codes: np.ndarray, scales: np.ndarray, zero_points: np.ndarray,
               scheme: Scheme) -> np.ndarray:
    """`qlm.dequantize`: `(code - zero point) * scale` in f32."""
    if scheme.double:
        scales = dequantize_scales(*quantize_scales(scales))
    if scheme.codebook != "uniform":
        real = NF4[codes] if scheme.codebook == "nf4" else from_float8(codes)
        return (scheme.grouped(real) * scales[:, :, None]).reshape(codes.shape)
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


def dynamic_quantize_float8(
    values: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """The same to f8E4M3FN: its bits, and a scale for each row."""
    largest = np.abs(values).max(axis=1)
    bound = np.float32(448)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        product = values * (bound / largest)[:, None]
    product = np.where(values == 0, np.float32(0), product)
    return to_float8(product), largest / bound


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


# How a fragment layout's line is made: the parts of a row's columns, slowest
# first, and where the axes (block, lower half, row, line, columns' parts) go.
FRAGMENTS = {
    "frag16": ((2, 4, 2), (0, 3, 2, 5, 4, 1, 6)),
    "frag8": ((2, 2, 4, 2), (0, 3, 2, 6, 4, 1, 5, 7)),
    "frag8x8": ((2, 4, 4), (0, 3, 2, 5, 4, 1, 6)),
    "frag4": ((4, 2, 4, 2), (0, 3, 2, 6, 4, 7, 5, 1)),
}


def pack_fragments(layout: str, values: np.ndarray) -> bytes:
    """Lines of 512 bytes, the registers of a warp's left operand."""
    parts, order = FRAGMENTS[layout]
    padded = pad(values, 64)
    blocks, lines = padded.shape[0] // BLOCK, padded.shape[1] // np.prod(parts)
    cells = padded.reshape(blocks, 2, BLOCK // 2, lines, *parts)
    cells = np.ascontiguousarray(cells.transpose(order))
    if layout != "frag4":
        return cells.tobytes()
    return (cells[..., 0] | cells[..., 1] << 4).tobytes()


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
    if layout in FRAGMENTS:
        values = matrix if layout == "frag16" else unsigned(matrix, offset)
        if layout == "frag4":
            values &= 15
        return pack_fragments(layout, values)
    if layout == "bf16x16x2":
        return pack_columns(matrix, 2).tobytes()
    if layout in ("i8x16x4", "f8x16x4"):
        return pack_columns(unsigned(matrix, offset), 4).tobytes()
    if layout == "i4x16x8":
        cells = pack_columns(unsigned(matrix, offset), 8)
        return (cells[..., :4] | cells[..., 4:] << 4).tobytes()
    if layout in ("zero16", "scale8"):
        return pack_columns(unsigned(matrix, offset), 1).tobytes()
    assert layout == "bias" and matrix.shape[1] == 1
    return pad(matrix, 1).tobytes()


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Rounds f32 to bfloat16, half to even; as uint16. No NaN."""
    bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    low, kept = bits & 0xffff, bits >> 16
    up = (low > 0x8000) | ((low == 0x8000) & (kept & 1 == 1))
    return (kept + up).astype(np.uint16)

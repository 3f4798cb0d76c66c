# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Weights, caches and activations of a package for GPUs, in float64.

Unpacks what kernels read by the formulas of qlm/Package/Format.h and the
operations' definitions, for gpu_launches.py. Needs NumPy alone.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

# QLoRA's NormalFloat4, as bitsandbytes has it.
NF4 = np.array([
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634,
    0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0])
SCALE_BLOCK = 256  # scales that share one, with double quantization
CACHE_BYTES = {"f16": 2, "bf16": 2, "int8": 1, "fp8": 1}


def from_bf16(raw: np.ndarray) -> np.ndarray:
    return (raw.astype(np.uint32) << 16).view(np.float32)


def from_e4m3(codes: np.ndarray) -> np.ndarray:
    """float64 of E4M3 codes (uint8); NaN has none here."""
    codes = codes.astype(np.int64)
    exponent, mantissa = codes >> 3 & 15, codes & 7
    size = np.where(exponent > 0, (8 + mantissa) * 2.0 ** (exponent - 10),
                    mantissa * 2.0 ** -9)
    return np.where(codes >> 7, -size, size)


def dynamic_map() -> np.ndarray:
    """The signed dynamic map of 8 bits, as bitsandbytes makes it."""
    values = [0.0, 1.0]
    for decade in range(7):
        bounds = np.linspace(0.1, 1, 2**decade + 1)
        means = 10.0 ** (decade - 6) * (bounds[:-1] + bounds[1:]) / 2
        values += [*means, *-means]
    return np.sort(values)


class Weights:
    """Tensors of a safetensors file, as it holds them and unpacked."""

    def __init__(self, file: Path, quantization: dict) -> None:
        data = np.memmap(file, np.uint8, "r")
        size = int(data[:8].view(np.uint64)[0])
        table = json.loads(data[8 : 8 + size].tobytes())
        self.scheme = quantization["scheme"]
        self.is_nf4 = quantization["weights"].startswith("nf4")
        self.is_fp8 = quantization["weights"].startswith("fp8")
        # Inputs of 8 bits: weights lie otherwise, integers with their sign.
        self.is_signed = quantization["activations"] != "none"
        self.raw = {key: (entry, data[8 + size + entry["data_offsets"][0] :
                                      8 + size + entry["data_offsets"][1]])
                    for key, entry in table.items() if key != "__metadata__"}
        self.made: dict[str, np.ndarray] = {}

    def plain(self, key: str) -> np.ndarray:
        entry, raw = self.raw[key]
        kind = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16,
                "U8": np.uint8, "I8": np.int8}[entry["dtype"]]
        values = np.frombuffer(raw.tobytes(), kind).reshape(entry["shape"])
        return from_bf16(values) if entry["dtype"] == "BF16" else values

    def matrix(self, weight: str, outputs: int, inputs: int) -> np.ndarray:
        """[outputs, inputs] of a packed weight."""
        if weight not in self.made:
            values = self.codes(weight)
            stem = weight.rsplit(".", 1)[0]
            if f"{stem}.scales" in self.raw:
                values = self.values(stem, values)
                scales = self.scales(stem, outputs, inputs)
                values = values * self.spread(scales, values, inputs)
            self.made[weight] = values[:outputs, :inputs]
        return self.made[weight]

    def codes(self, key: str) -> np.ndarray:
        """[blocks * 16, padded columns] of codes, or of floats."""
        entry, raw = self.raw[key]
        blocks = entry["shape"][0]
        lane = np.arange(32)
        r, q = lane[:, None, None] // 4, lane[:, None, None] % 4
        w = np.arange(4)[None, :, None]
        raw = np.frombuffer(raw.tobytes(), np.uint8)
        i = np.arange(4)[None, None, :]
        if "i4" in self.scheme and entry["dtype"] == "U8":
            words = raw.view(np.uint32).reshape(blocks, -1, 32, 4)
            j = np.arange(8)[None, None, :]
            lines = (words[..., None] >> (4 * j).astype(np.uint32)) & 15
            rows = r + 8 * (j % 2) + 0 * w
            columns = 16 * w + 2 * q + 8 * (j % 4 // 2) + j // 4
        elif entry["dtype"] == "U8" and self.is_signed:
            lines = raw.view(np.int8).reshape(blocks, -1, 32, 4, 4)
            rows = r + 8 * (w % 2) + 0 * i
            columns = 16 * (w // 2) + 4 * q + i
        elif entry["dtype"] == "U8":
            lines = raw.reshape(blocks, -1, 32, 4, 4)
            rows = r + 8 * (w % 2) + 0 * i
            columns = 16 * (w // 2) + 2 * q + i % 2 + 8 * (i // 2)
        else:
            bits = raw.view(np.uint16).reshape(blocks, -1, 32, 4, 2)
            lines = (from_bf16(bits) if entry["dtype"] == "BF16"
                     else bits.view(np.float16))
            i = np.arange(2)[None, None, :]
            rows = r + 8 * (w % 2) + 0 * i
            columns = 2 * q + 8 * (w // 2) + i
        width = int(columns.max()) + 1
        values = np.zeros((blocks, lines.shape[1], 16, width))
        values[:, :, rows, columns] = lines
        return values.transpose(0, 2, 1, 3).reshape(blocks * 16, -1)

    def values(self, stem: str, codes: np.ndarray) -> np.ndarray:
        """What codes stand for, without scale."""
        if self.is_nf4:
            return NF4[codes.astype(np.int64)]
        if self.is_fp8:
            return from_e4m3(codes)
        if f"{stem}.zero_points" in self.raw:
            zeros = self.plain(f"{stem}.zero_points").astype(np.float64)
            return codes - self.spread(zeros, codes, codes.shape[1])
        if self.is_signed:
            return codes
        return codes - (8 if "i4" in self.scheme else 128)

    def scales(self, stem: str, outputs: int, inputs: int) -> np.ndarray:
        """[blocks, groups, 16], decoded where they are codes."""
        packed = self.plain(f"{stem}.scales").astype(np.float64)
        if f"{stem}.super_scales" not in self.raw:
            return packed
        blocks, groups, _ = packed.shape
        supers = self.plain(f"{stem}.super_scales").ravel().astype(np.float64)
        row = (np.arange(blocks)[:, None, None] * 16
               + np.arange(16)[None, None])
        index = row * groups + np.arange(groups)[None, :, None]
        index = np.minimum(index, outputs * groups - 1)
        return (dynamic_map()[packed.astype(np.int64)]
                * supers[1 + index // SCALE_BLOCK] + supers[0])

    def spread(self, packed: np.ndarray, values: np.ndarray,
               inputs: int) -> np.ndarray:
        """One of [blocks, groups, 16] for each of `values`."""
        blocks, groups, _ = packed.shape
        rows = packed.transpose(0, 2, 1).reshape(blocks * 16, groups)
        columns = np.arange(values.shape[1])
        group = self.group or values.shape[1]
        return rows[:, np.minimum(columns // group, groups - 1)]

    @property
    def group(self) -> int:
        words = self.scheme.split(",")
        return int(words[2]) if len(words) > 2 and "group" in words[1] else 0


def cache_page(raw: np.ndarray, kind: str, dim: int,
               tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Values [..., tokens, dim] and scales [..., tokens] of one head's part of
    a page, bytes [..., n]."""
    size = CACHE_BYTES[kind]
    row = dim * size
    t, byte = np.arange(tokens)[:, None], size * np.arange(dim)[None]
    place = t * row + byte
    if row % 128 == 0:  # planes whose 16-byte chunks change places
        place = (byte // 128 * tokens * 128 + t * 128
                 + ((byte // 16 ^ t) & 7) * 16 + byte % 16)
    codes = np.ascontiguousarray(raw[..., : tokens * row]).view(
        {1: np.uint8, 2: np.uint16}[size])[..., place // size]
    if kind == "bf16":
        values = from_bf16(codes).astype(np.float64)
    elif kind == "f16":
        values = codes.view(np.float16).astype(np.float64)
    elif kind == "fp8":
        values = from_e4m3(codes)
    else:
        values = codes.view(np.int8).astype(np.float64)
    if size == 2:
        return values, np.ones(values.shape[:-1])
    scales = np.ascontiguousarray(raw[..., tokens * row :]).view(np.float32)
    return values, scales[..., :tokens].astype(np.float64)


def code_step(kind: str, scaled: np.ndarray) -> np.ndarray:
    """Half of the distance of neighbouring codes at `scaled` values."""
    if kind == "int8":
        return np.full_like(scaled, 0.5)
    exponent = np.floor(np.log2(np.maximum(np.abs(scaled), 2.0 ** -6)))
    return 2.0 ** (exponent - 4)

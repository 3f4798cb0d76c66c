#!/usr/bin/env python3
# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Carries a package to another machine without its weights.

Speed depends on the shapes and formats of weights, not on their values, so a
package for benchmarks needs only its manifest, its kernels and the table of
its tensors: some hundred kilobytes instead of gigabytes.

    fill_package.py strip PACKAGE SKELETON   copies all but the weights' data
    fill_package.py fill SKELETON            writes weights of random values

`fill` runs on the other machine, in place, and needs NumPy alone. Codes are
random, scales are such that activations keep their size, norms are ones. The
checksum of the weights no longer holds: run the package with --no-verify.
"""

from __future__ import annotations

import argparse
import json
import shutil
import struct
import sys
from pathlib import Path

import numpy as np

WEIGHTS = "weights.safetensors"
TABLE = "weights.table"  # the header of WEIGHTS, as it stands there
BLOCK_BYTES = 1 << 24
# Odd, so that equal tensors don't begin at equal places of the block.
STEP = 1_000_003 * 64
SIZES = {"U8": 1, "BF16": 2, "F16": 2, "F32": 4}


def read_header(path: Path) -> bytes:
    """Returns the length and the JSON text that begin a safetensors file."""
    with open(path, "rb") as file:
        length = file.read(8)
        if len(length) != 8:
            sys.exit(f"{path} is no safetensors file")
        size = struct.unpack("<Q", length)[0]
        if size > path.stat().st_size - 8:
            sys.exit(f"{path} is shorter than its header of {size} bytes")
        return length + file.read(size)


def strip(package: Path, skeleton: Path) -> None:
    """Copies `package` with the table of its tensors in the weights' place."""
    skeleton.mkdir(parents=True)
    for file in package.iterdir():
        if file.name != WEIGHTS:
            shutil.copy(file, skeleton / file.name)
    (skeleton / TABLE).write_bytes(read_header(package / WEIGHTS))


def bf16(values: np.ndarray) -> np.ndarray:
    return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def e4m3_deviation() -> float:
    """Of random codes of E4M3, where 0 stands for NaN."""
    codes = np.arange(127)
    exponent, mantissa = codes >> 3, codes & 7
    sizes = np.where(exponent, (8 + mantissa) * 2.0 ** (exponent - 10),
                     mantissa * 2.0 ** -9)
    return float(np.sqrt((sizes**2).sum() / 128))


class Values:
    """Blocks of random values to copy tensors from, one for each kind."""

    def __init__(self, bits: int, is_e4m3: bool = False):
        self.bits, self.is_e4m3 = bits, is_e4m3
        self.random = np.random.Generator(np.random.PCG64(1))
        self.blocks: dict[str, np.ndarray] = {}

    def kind(self, key: str, tensor: dict) -> str:
        """What the values of a tensor stand for, by its name and type."""
        name, dtype = key.rsplit(".", 1)[-1], tensor["dtype"]
        if name == "zero_points":
            return "zero points"
        if dtype == "U8":  # scales too, with double quantization
            return "codes"
        if name in ("scales", "bias"):
            return f"{name} {dtype}"
        return f"{'norm' if 'norm' in key else 'values'} {dtype}"

    def make(self, kind: str) -> np.ndarray:
        """`BLOCK_BYTES` bytes of values of one kind."""
        if kind == "codes":
            codes = self.random.integers(0, 256, BLOCK_BYTES, np.uint8)
            if self.is_e4m3:
                codes[codes & 127 == 127] = 0  # NaN
            return codes
        if kind == "zero points":
            middle = 1 << (self.bits - 1)
            return self.random.integers(middle - 1, middle + 2, BLOCK_BYTES,
                                        np.uint8)
        name, dtype = kind.split()
        count = BLOCK_BYTES // SIZES[dtype]
        if name == "norm":
            values = np.ones(count, np.float32)
        elif name == "scales":
            # Random codes of `bits` bits times this deviate by about 0.02.
            scale = 0.02 * np.sqrt(12) / (1 << self.bits)
            if self.is_e4m3:
                scale = 0.02 / e4m3_deviation()
            values = scale * self.random.uniform(0.9, 1.1, count)
        elif name == "bias":
            values = np.zeros(count, np.float32)
        else:
            values = 0.02 * self.random.standard_normal(count, np.float32)
        if dtype == "BF16":
            return bf16(values).view(np.uint8)
        return values.astype({"F16": np.float16, "F32": np.float32}[dtype]
                             ).view(np.uint8)

    def write(self, out, kind: str, start: int, size: int) -> None:
        """Writes `size` bytes of the kind's block from `start`, around it."""
        if kind not in self.blocks:
            self.blocks[kind] = self.make(kind)
        block = self.blocks[kind]
        start %= BLOCK_BYTES
        while size:
            part = block[start : start + size]
            out.write(part.data)
            size -= part.size
            start = 0


def fill(skeleton: Path) -> None:
    """Writes the weights that the skeleton's table describes."""
    manifest = json.loads((skeleton / "manifest.json").read_text())
    header = (skeleton / TABLE).read_bytes()
    tensors = json.loads(header[8:])
    tensors.pop("__metadata__", None)
    weights = manifest["quantization"]["weights"]
    values = Values(4 if weights.startswith("int4") else 8,
                    weights.startswith("fp8"))
    with open(skeleton / WEIGHTS, "wb") as out:
        out.write(header)
        order = sorted(tensors.items(), key=lambda t: t[1]["data_offsets"])
        for index, (key, tensor) in enumerate(order):
            begin, end = tensor["data_offsets"]
            values.write(out, values.kind(key, tensor), index * STEP,
                         end - begin)
    size = (skeleton / WEIGHTS).stat().st_size
    if size != manifest["weights"]["bytes"]:
        sys.exit(f"the manifest wants {manifest['weights']['bytes']} bytes of "
                 f"weights, the table gave {size}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        formatter_class=argparse.RawTextHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    action = actions.add_parser("strip", help="leave the weights' data out")
    action.add_argument("package", type=Path)
    action.add_argument("skeleton", type=Path)
    action = actions.add_parser("fill", help="write random weights")
    action.add_argument("skeleton", type=Path)
    arguments = parser.parse_args()
    if arguments.action == "strip":
        strip(arguments.package, arguments.skeleton)
    else:
        fill(arguments.skeleton)


if __name__ == "__main__":
    main()

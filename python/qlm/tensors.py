# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Tensors of safetensors files, in NumPy, in any type that tools store."""

from __future__ import annotations

import json
import math
import shutil
import struct
import tempfile
from pathlib import Path

import numpy as np

__all__ = [
    "CheckpointError",
    "Tensor",
    "read_folder",
    "read_tensors",
    "round_floats",
    "store_floats",
    "write_folder",
    "write_tensors",
]

_TYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8",
    "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1", "F8_E4M3": "u1",
    "BOOL": "u1",
}  # fmt: skip


class CheckpointError(ValueError):
    """A checkpoint that contradicts itself or is of no known kind."""


class Tensor:
    """A stored tensor: its type's name and its elements (16-bit brains as
    uint16, f8 as uint8)."""

    def __init__(self, kind: str, array: np.ndarray):
        self.kind, self.array = kind, array

    def floats(self) -> np.ndarray:
        """Return the values in float32."""
        if self.kind == "BF16":
            return (self.array.astype(np.uint32) << 16).view(np.float32)
        if self.kind == "F8_E4M3":
            return _from_float8(self.array)
        return self.array.astype(np.float32)


def _from_float8(bits: np.ndarray) -> np.ndarray:
    """Return float32 of the bits of f8E4M3FN."""
    exponent, mantissa = bits >> 3 & 15, (bits & 7).astype(np.float32)
    power = np.where(exponent > 0, exponent, 1).astype(np.int32) - 10
    magnitude = np.ldexp(np.where(exponent > 0, mantissa + 8, mantissa), power)
    return np.where(bits & 128, -magnitude, magnitude).astype(np.float32)


def round_floats(values: np.ndarray, kind: str) -> np.ndarray:
    """Round float32 to a type and back, half to even."""
    if kind == "F16":
        return values.astype(np.float16).astype(np.float32)
    if kind == "BF16":
        bits = values.view(np.uint32).astype(np.uint64)
        bits = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16
        return bits.astype(np.uint32).view(np.float32)
    return values


def _read_header(path: Path, data: bytes) -> tuple[dict, int]:
    """The entries of a safetensors file, and where its tensors begin."""
    if len(data) < 8:
        raise CheckpointError(f"{path} is too short for a safetensors file")
    (size,) = struct.unpack_from("<Q", data)
    if size > len(data) - 8:
        raise CheckpointError(f"{path}: the header's size, {size}, is too large")
    try:
        header = json.loads(data[8 : 8 + size])
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its header is no JSON: {error}") from None
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: its header is no object")
    header.pop("__metadata__", None)
    return header, 8 + size


def _is_size(value) -> bool:
    return type(value) is int and value >= 0


def _read_entry(path: Path, name: str, entry, data: bytes, first: int) -> Tensor:
    """The tensor that an entry describes; `first` is where tensors begin."""
    fields = entry if isinstance(entry, dict) else {}
    kind, shape = fields.get("dtype"), fields.get("shape")
    offsets = fields.get("data_offsets")
    if not (isinstance(shape, list) and all(map(_is_size, shape))
            and isinstance(offsets, list) and len(offsets) == 2
            and all(map(_is_size, offsets))):
        raise CheckpointError(
            f"{path}: {name} must have a shape and two data_offsets, got "
            f"{str(entry)[:80]}"
        )
    if not isinstance(kind, str) or kind not in _TYPES:
        raise CheckpointError(f"{path}: {name} has the unknown type {kind}")
    element, (begin, end) = np.dtype(_TYPES[kind]), offsets
    expected = math.prod(shape) * element.itemsize
    if not begin <= end <= len(data) - first or end - begin != expected:
        raise CheckpointError(
            f"{path}: {name} must have {expected} bytes in the file, "
            f"got {begin} to {end}"
        )
    raw = np.frombuffer(data, element, math.prod(shape), first + begin)
    try:
        return Tensor(kind, raw.reshape(shape))
    except ValueError as error:  # too many dimensions, or too large beside a 0
        raise CheckpointError(f"{path}: {name}: {error}") from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a safetensors file.

    Raises
    ------
    CheckpointError
        For a file that is cut short, no safetensors file, or contradicts itself.
    """
    data = path.read_bytes()
    header, first = _read_header(path, data)
    return {name: _read_entry(path, name, entry, data, first)
            for name, entry in header.items()}  # fmt: skip


def read_folder(folder: Path) -> dict[str, Tensor]:
    """Read all tensors of a folder's safetensors files."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{folder} has no safetensors file")
    tensors: dict[str, Tensor] = {}
    for path in files:
        tensors.update(read_tensors(path))
    return tensors


def store_floats(values: np.ndarray, kind: str) -> np.ndarray:
    if kind == "F16":
        return values.astype(np.float16)
    if kind == "BF16":
        return (np.ascontiguousarray(values).view(np.uint32) >> 16).astype(
            np.uint16)  # fmt: skip
    return values.astype(np.float32)


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, tensor in tensors.items():
        end = offset + tensor.array.nbytes
        header[name] = {"dtype": tensor.kind, "shape": list(tensor.array.shape),
                        "data_offsets": [offset, end]}  # fmt: skip
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            file.write(np.ascontiguousarray(tensor.array).tobytes())


def write_folder(source: Path, output: Path, config: dict,
                 files: dict[str, dict[str, Tensor]]) -> None:
    """Write a model's folder whole, or not at all.

    Parameters
    ----------
    source : path
        The model whose tokenizer and other files are copied, its weights and
        config.json not.
    output : path
        The folder to write, which must not exist.
    config : dict
        The config.json.
    files : dict
        By name of a safetensors file, its tensors.

    Raises
    ------
    CheckpointError
        Where `output` exists.
    OSError
        Where something can't be read or written.
    """
    if output.exists():
        raise CheckpointError(f"{output} exists")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent) as scratch:
        partial = Path(scratch) / "output"
        partial.mkdir()
        for path in source.iterdir():
            if path.is_file() and ".safetensors" not in path.suffixes:
                shutil.copy(path, partial / path.name)
        (partial / "config.json").write_text(json.dumps(config, indent=2))
        for name, tensors in files.items():
            write_tensors(partial / name, tensors)
        partial.rename(output)

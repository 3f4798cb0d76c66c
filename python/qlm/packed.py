# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Reads the quantized weights of a package, in the order of their model.

Layouts are those of ``include/qlm/Package/Format.h``; linears that the compiler
joined (query, key and value; gate and up) are cut into the model's own again.
"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np

from .tensors import CheckpointError, Tensor, read_tensors

__all__ = ["Linear", "read_linears"]

_DOUBLE_BLOCK = 256


@dataclasses.dataclass
class Linear:
    """Codes and scales of one weight ``[rows, columns]``.

    Attributes
    ----------
    codes : array of int16, ``[rows, columns]``
        Signed with a symmetric scheme; else from 0. Bits of f8E4M3 with fp8.
    scales : array, ``[rows, groups]``
        float16 or float32; with nf4 the groups run through the whole weight.
    zero_points : array of int16 or None
        As `scales`.
    doubled : tuple or None
        Of nf4 with double quantization: codes of scales ``[rows, groups]``,
        their offset, and the scale of each block of 256.
    bias : array of float32 or None
    """

    codes: np.ndarray
    scales: np.ndarray
    zero_points: np.ndarray | None = None
    doubled: tuple | None = None
    bias: np.ndarray | None = None

    def cut(self, first: int, last: int) -> Linear:
        """Return the rows from `first` on, before `last`."""
        def part(array):
            return None if array is None else array[first:last]

        doubled = None
        if self.doubled is not None:
            codes, offset, super_scales = self.doubled
            groups = codes.shape[1]
            if first * groups % _DOUBLE_BLOCK:
                raise CheckpointError(
                    f"rows must begin with a block of {_DOUBLE_BLOCK} scales, "
                    f"got row {first} of {groups} scales each: compile without "
                    "--double-quant"
                )
            begin = first * groups // _DOUBLE_BLOCK
            end = -(-last * groups // _DOUBLE_BLOCK)
            doubled = (codes[first:last], offset, super_scales[begin:end])
        return Linear(part(self.codes), part(self.scales),
                      part(self.zero_points), doubled, part(self.bias))


def _unpack_codes(packed: np.ndarray, bits: int, rows: int, columns: int):
    """Undo i4x16x8 or i8x16x4 (f8x16x4): ``[rows, columns]`` of uint8."""
    if bits == 8:
        cells = packed.reshape(packed.shape[0], -1, 16, 4)
        order = cells.transpose(0, 2, 1, 3)
    else:
        cells = packed.reshape(packed.shape[0], -1, 16, 4)
        halves = np.stack([cells & 15, cells >> 4], axis=-2)
        order = halves.transpose(0, 2, 1, 3, 4)
    flat = order.reshape(packed.shape[0] * 16, -1)
    return np.ascontiguousarray(flat[:rows, :columns])


def _unpack_scales(packed: np.ndarray, rows: int) -> np.ndarray:
    """Undo scale16, zero16 or scale8: ``[rows, groups]``."""
    order = packed.reshape(-1, packed.shape[1], 16).transpose(0, 2, 1)
    return np.ascontiguousarray(order.reshape(-1, packed.shape[1])[:rows])


def _read_linear(tensors: dict[str, Tensor], label: str, scheme: dict,
                 rows: int, columns: int) -> Linear:
    def array(part: str):
        tensor = tensors.get(f"{label}.{part}")
        return None if tensor is None else tensor.array

    bits = scheme["bits"]
    codes = _unpack_codes(array("weight"), bits, rows, columns).astype(np.int16)
    codes -= scheme["offset"]
    doubled = None
    scales = _unpack_scales(array("scales"), rows)
    super_scales = array("super_scales")
    if super_scales is not None:
        offset, *blocks = super_scales.astype(np.float32)
        doubled = (scales.astype(np.uint8), np.float32(offset),
                   np.array(blocks, np.float32))
    zeros = array("zero_points")
    if zeros is not None:
        zeros = _unpack_scales(zeros, rows).astype(np.int16)
    bias = array("bias")
    return Linear(codes, scales, zeros, doubled,
                  None if bias is None else bias[:rows])


def _parse_scheme(text: str, name: str) -> dict:
    """What the scheme's spelling says of codes."""
    storage = re.match(r"#qlm\.scheme<(\w+),", text)
    if not storage:
        raise CheckpointError(f"the package's weights are not quantized: {name}")
    kind = storage[1]
    bits = 4 if kind.endswith("4") else 8
    signed = kind in ("i4", "i8")
    return {"storage": kind, "bits": 4 if kind in ("i4", "ui4") else bits,
            "offset": (1 << (bits - 1)) if signed else 0,
            "table": "nf4" if "nf4" in text else None}


def read_linears(package) -> tuple[dict[str, Linear], dict, dict]:
    """Read the quantized linears of a package.

    Parameters
    ----------
    package : path
        A package for the CPU.

    Returns
    -------
    linears : dict of Linear
        By the name that the weight has in the model, without ``.weight``.
    norms : dict of array
        Weights of norms in float32, by the model's names.
    scheme : dict
        ``storage``, ``bits``, ``offset``, ``table``.

    Raises
    ------
    CheckpointError
        If its weights are not quantized.
    """
    package = Path(package)
    manifest = json.loads((package / "manifest.json").read_text())
    tensors = read_tensors(package / "weights.safetensors")
    quantization, model = manifest["quantization"], manifest["model"]
    scheme = _parse_scheme(quantization["scheme"], quantization["weights"])
    hidden, inner = model["hidden_size"], model["intermediate_size"]
    query = model["heads"] * model["head_dim"]
    value = model["kv_heads"] * model["head_dim"]
    parts = {
        "qkv": (hidden, [("self_attn.q_proj", query), ("self_attn.k_proj", value),
                         ("self_attn.v_proj", value)]),
        "o": (query, [("self_attn.o_proj", hidden)]),
        "gate_up": (hidden, [("mlp.gate_proj", inner), ("mlp.up_proj", inner)]),
        "down": (inner, [("mlp.down_proj", hidden)]),
    }  # fmt: skip
    linears, norms = {}, {}
    for layer in range(model["layers"]):
        prefix = f"model.layers.{layer}."
        for label, (columns, pieces) in parts.items():
            rows = sum(size for _, size in pieces)
            whole = _read_linear(tensors, f"layers.{layer}.{label}", scheme,
                                 rows, columns)
            first = 0
            for name, size in pieces:
                linears[prefix + name] = whole.cut(first, first + size)
                first += size
        for label, name in (("attention_norm", "input_layernorm"),
                            ("mlp_norm", "post_attention_layernorm")):
            norms[f"{prefix}{name}.weight"] = tensors[
                f"layers.{layer}.{label}.weight"].floats()
    norms["model.norm.weight"] = tensors["norm.weight"].floats()
    return linears, norms, scheme

# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""How other tools lay out quantized weights, and what they stand for.

========================  ===================================================
quant_method              what is read
========================  ===================================================
gptq                      2, 4 or 8 bits, v1 and v2 zero points, ``g_idx``
awq                       4 bits, gemm packing
bitsandbytes              4 bits (NF4, FP4), nested statistics or not; int8
compressed-tensors        pack-quantized 4 or 8 bits, int-quantized,
                          float-quantized (f8E4M3)
========================  ===================================================
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np

from .tensors import CheckpointError, Tensor, read_folder, round_floats

__all__ = [
    "AWQ_ORDER",
    "checking",
    "dynamic_map",
    "normal_float4",
    "part_of",
    "read_config",
    "read_weights",
    "unpack",
]

AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)
"""Which nibble of a word holds column j of eight."""


def normal_float4() -> np.ndarray:
    """Return the table of nf4, float32 ``[16]``."""
    return np.array([
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
        -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
        0.07958029955625534, 0.16093020141124725, 0.24611230194568634,
        0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
        0.7229568362236023, 1.0], np.float32)  # fmt: skip


def dynamic_map() -> np.ndarray:
    """Return the signed dynamic map of 8 bits, float32 ``[256]``.

    A sign, a run of zeros for the power of ten, and the middles of equal steps
    from 0.1 to 1 in the bits that are left (Dettmers, arXiv 1511.04561).
    """
    values = [np.float32(0), np.float32(1)]
    for power in range(7):
        steps = 2**power
        step = np.float64((np.float32(1) - np.float32(0.1)) / np.float32(steps))
        count = np.arange(steps + 1)
        # From the left in the first half, from the right in the second, so that
        # both ends are exact; one rounding, as PyTorch's linspace has it.
        edges = np.where(count < (steps + 1) // 2,
                         np.float64(np.float32(0.1)) + step * count,
                         1.0 + step * (count - steps)).astype(np.float32)
        middles = (edges[:-1] + edges[1:]) / np.float32(2)
        scaled = np.float32(10.0 ** (power - 6)) * middles
        values += [*scaled, *-scaled]
    return np.sort(np.array(values, np.float32))


def _expect(name: str, what: str, actual: tuple, expected: tuple) -> None:
    if tuple(actual) != tuple(expected):
        raise CheckpointError(
            f"{name}: {what} must be {tuple(expected)}, got {tuple(actual)}"
        )


def unpack(words: np.ndarray, bits: int, axis: int) -> np.ndarray:
    """Unpack int32 words into codes along an axis, low bits first."""
    per_word = 32 // bits
    shifts = np.arange(per_word, dtype=np.uint32) * bits
    words = np.moveaxis(words.view(np.uint32), axis, -1)
    codes = words[..., None] >> shifts & ((1 << bits) - 1)
    codes = codes.reshape(*words.shape[:-1], -1)
    return np.moveaxis(codes, -1, axis).astype(np.int32)


#
# A reader for each kind: takes the tensors below a module's name and returns
# the weight [out, in] in float32 and the type it is rounded to.
#


def _gptq(part: dict[str, Tensor], name: str, config: dict):
    bits = int(config.get("bits", 4))
    if bits not in (2, 4, 8):
        raise CheckpointError(f"{name}: bits must be 2, 4 or 8, got {bits}")
    scales = part["scales"]
    groups, rows = scales.array.shape
    codes = unpack(part["qweight"].array, bits, axis=0)
    columns = codes.shape[0]
    _expect(name, "codes", codes.shape, (columns, rows))
    zeros = unpack(part["qzeros"].array, bits, axis=1)[:, :rows]
    _expect(name, "zero points", zeros.shape, (groups, rows))
    if config.get("checkpoint_format", "gptq") == "gptq":
        zeros = zeros + 1  # v1 stores one less
    group = int(config.get("group_size", 128))
    index = np.arange(columns) // (group if group > 0 else columns)
    if "g_idx" in part:
        index = part["g_idx"].array.astype(np.int64)
        _expect(name, "g_idx", index.shape, (columns,))
    if columns and not (0 <= index.min() and index.max() < groups):
        raise CheckpointError(
            f"{name}: groups must be from 0 to {groups - 1}, got "
            f"{index.min()} to {index.max()}"
        )
    difference = (codes - zeros[index]).astype(np.float32)
    values = difference * scales.floats()[index]
    return round_floats(values.T.copy(), scales.kind), scales.kind


def _awq(part: dict[str, Tensor], name: str, config: dict):
    if int(config.get("bits", 4)) != 4 or config.get("version", "gemm") != "gemm":
        raise CheckpointError(
            f"{name}: awq must be of 4 bits in gemm packing, got "
            f"{config.get('bits')} and {config.get('version')}"
        )
    scales = part["scales"]
    groups, rows = scales.array.shape

    def codes_of(words):
        nibbles = unpack(words, 4, axis=1).reshape(words.shape[0], -1, 8)
        return nibbles[:, :, AWQ_ORDER].reshape(words.shape[0], -1)

    codes, zeros = codes_of(part["qweight"].array), codes_of(part["qzeros"].array)
    columns = codes.shape[0]
    _expect(name, "codes", codes.shape, (columns, rows))
    _expect(name, "zero points", zeros.shape, (groups, rows))
    if groups == 0 or columns % groups:
        raise CheckpointError(
            f"{name}: groups must divide the columns, got {groups} and {columns}"
        )
    index = np.arange(columns) // (columns // groups)
    values = (codes - zeros[index]).astype(np.float32) * scales.floats()[index]
    return round_floats(values.T.copy(), scales.kind), scales.kind


def _bitsandbytes(part: dict[str, Tensor], name: str, config: dict):
    if "SCB" in part:
        codes, scales = part["weight"].array, part["SCB"].floats()
        _expect(name, "SCB", scales.shape, (codes.shape[0],))
        # The order and the constant of bitsandbytes.
        product = codes.astype(np.float32) * scales[:, None]
        return product * np.float32(7.874015718698502e-3), "F32"
    states = [key for key in part if key.startswith("weight.quant_state.")]
    if len(states) != 1:
        raise CheckpointError(f"{name} has no quant_state")
    state = json.loads(part[states[0]].array.tobytes())
    rows, columns = state["shape"]
    block = int(state["blocksize"])
    packed = part["weight"].array.view(np.uint8).ravel()
    _expect(name, "packed codes", packed.shape, ((rows * columns + 1) // 2,))
    codes = np.stack([packed >> 4, packed & 15], axis=1).ravel()
    table = part["weight.quant_map"].floats()
    absmax = part["weight.absmax"]
    blocks = -(-rows * columns // block)
    _expect(name, "absmax", absmax.array.shape, (blocks,))
    if "weight.nested_absmax" in part:
        nested = part["weight.nested_absmax"].floats()
        inner = int(state["nested_blocksize"])
        _expect(name, "nested absmax", nested.shape, (-(-blocks // inner),))
        scales = part["weight.nested_quant_map"].floats()[absmax.array]
        scales = scales * nested[np.arange(blocks) // inner]
        scales = scales + np.float32(state["nested_offset"])
    else:
        scales = absmax.floats()
    count = rows * columns
    values = table[codes[:count]] * scales[np.arange(count) // block]
    kind = {"bfloat16": "BF16", "float16": "F16"}.get(state["dtype"], "F32")
    return round_floats(values.reshape(rows, columns), kind), kind


def _compressed(part: dict[str, Tensor], name: str, config: dict):
    scale = part["weight_scale"]
    scales = scale.floats()
    if "weight_packed" in part:
        rows, columns = (int(n) for n in part["weight_shape"].array.ravel())
        words = part["weight_packed"].array
        groups = config.get("config_groups", {})
        bits = {int(g["weights"]["num_bits"]) for g in groups.values()}
        if len(bits) != 1 or not bits <= {4, 8}:
            raise CheckpointError(f"{name}: bits must be 4 or 8, got {bits}")
        (width,) = bits
        offset = 1 << (width - 1)
        codes = unpack(words, width, axis=1)[:, :columns] - offset
        _expect(name, "codes", codes.shape, (rows, columns))
        codes = codes.astype(np.float32)
        if "weight_zero_point" in part:
            zeros = unpack(part["weight_zero_point"].array, width, axis=0)
            zeros = (zeros[:rows] - offset).astype(np.float32)
            _expect(name, "zero points", zeros.shape, scales.shape)
            codes = codes - np.repeat(zeros, columns // zeros.shape[1], axis=1)
    else:
        codes = part["weight"].floats()
        rows, columns = codes.shape
    if scales.size == 1:
        scales = scales.reshape(1, 1)
    elif scales.ndim != 2 or scales.shape[0] != rows or columns % scales.shape[1]:
        raise CheckpointError(
            f"{name}: scales must be [{rows}, groups], got {scales.shape}"
        )
    wide = np.repeat(scales, columns // scales.shape[1], axis=1)
    return round_floats(codes * wide, scale.kind), scale.kind


_READERS = {
    "gptq": ("qweight", _gptq),
    "awq": ("qweight", _awq),
    "bitsandbytes": ("weight", _bitsandbytes),
    "compressed-tensors": ("weight_scale", _compressed),
}
_PARTS = (
    "qweight", "qzeros", "scales", "g_idx", "SCB", "weight_format",
    "weight_packed", "weight_scale", "weight_shape", "weight_zero_point",
    "input_scale", "weight_g_idx",
)  # fmt: skip


def part_of(tensors: dict[str, Tensor], module: str) -> dict[str, Tensor]:
    """The tensors below a module's name, by the rest of theirs."""
    first = len(module) + 1
    return {name[first:]: tensor for name, tensor in tensors.items()
            if name.startswith(module + ".")}  # fmt: skip


def read_config(folder: Path) -> dict:
    """Read the config.json of a checkpoint quantized by a known method.

    Raises
    ------
    CheckpointError
        Where it is no such config.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is no JSON: {error}") from None
    section = config.get("quantization_config") if isinstance(config, dict) else None
    if not isinstance(section, dict):
        raise CheckpointError(f"{folder} has no quantization_config")
    method = section.get("quant_method")
    if not isinstance(method, str) or method not in _READERS:
        known = ", ".join(_READERS)
        raise CheckpointError(f"quant_method must be {known}, got {method!r}")
    return config


@contextlib.contextmanager
def checking(module: str):
    """Turns what a reader trips over in a module's tensors into the error."""
    try:
        yield
    except CheckpointError:
        raise
    except KeyError as missing:
        raise CheckpointError(f"{module} lacks {missing}") from None
    except (AttributeError, IndexError, MemoryError, OverflowError,
            RecursionError, TypeError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{module}: its tensors contradict its config or each other: {error}"
        ) from None


def read_weights(folder) -> dict[str, tuple[np.ndarray, str]]:
    """Read all weights of a quantized checkpoint.

    Parameters
    ----------
    folder : path
        With config.json and safetensors files.

    Returns
    -------
    dict
        By name, the values in float32 and the type that they are rounded to
        ("F32", "F16" or "BF16").

    Raises
    ------
    CheckpointError
        For an unknown method, or tensors that contradict each other or the
        config.
    """
    folder = Path(folder)
    quantization = read_config(folder)["quantization_config"]
    method = quantization["quant_method"]
    marker, reader = _READERS[method]
    tensors = read_folder(folder)

    def module_of(name: str) -> str | None:
        for key in (marker, "SCB"):
            if name.endswith("." + key):
                return name[: -len(key) - 1]
        return None

    modules = {m for m in map(module_of, tensors) if m is not None}
    if method == "bitsandbytes":
        modules = {
            m for m in modules
            if f"{m}.SCB" in tensors
            or any(n.startswith(f"{m}.weight.quant_state.") for n in tensors)
        }  # fmt: skip
    weights, used = {}, set()
    for module in sorted(modules):
        part = {
            key: tensor for key, tensor in part_of(tensors, module).items()
            if key == "weight" or key.startswith("weight.") or key in _PARTS
        }  # fmt: skip
        used.update(f"{module}.{key}" for key in part)
        with checking(module):
            values, kind = reader(part, module, quantization)
        if kind not in ("F32", "F16", "BF16"):
            raise CheckpointError(
                f"{module}: scales must be of F32, F16 or BF16, got {kind}")
        weights[module + ".weight"] = values, kind
    for name, tensor in tensors.items():
        if name not in used:
            kind = tensor.kind if tensor.kind in ("F32", "F16", "BF16") else "F32"
            weights[name] = (tensor.floats(), kind)
    return weights

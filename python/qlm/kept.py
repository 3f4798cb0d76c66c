# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Keeps the codes of another tool's checkpoint.

``restore`` of `qlm.checkpoints` writes plain weights. Where the checkpoint's
scheme is one of ours, its scales are written beside them, in the order of the
compiler's linears, and ``quantc --method keep`` finds the same codes again.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from .tensors import Tensor, read_folder
from .tool_formats import AWQ_ORDER, checking, part_of, read_config, unpack

__all__ = ["KEPT_FILE", "find_known_scales", "label_scales", "read_scales"]

KEPT_FILE = "kept-scales.safetensors"

_PARTS = {"self_attn.q_proj": ("qkv", 0), "self_attn.k_proj": ("qkv", 1),
          "self_attn.v_proj": ("qkv", 2), "self_attn.o_proj": ("o", 0),
          "mlp.gate_proj": ("gate_up", 0), "mlp.up_proj": ("gate_up", 1),
          "mlp.down_proj": ("down", 0)}  # fmt: skip


class NotOurs(Exception):
    """Why a checkpoint's codes can't be kept."""


def _gptq(part: dict[str, Tensor], config: dict):
    bits = int(config.get("bits", 4))
    if bits not in (4, 8):
        raise NotOurs(f"{bits} bits are no scheme of ours")
    scales = part["scales"].floats().T
    rows, groups = scales.shape
    zeros = unpack(part["qzeros"].array, bits, 1)[:, :rows].T
    if config.get("checkpoint_format", "gptq") == "gptq":
        zeros = zeros + 1
    columns = part["qweight"].array.shape[0] * 32 // bits
    if "g_idx" in part and not np.array_equal(
        part["g_idx"].array, np.arange(columns) // (columns // groups)
    ):
        raise NotOurs("its groups are not columns side by side (act order)")
    return scales, zeros, bits, columns // groups


def _awq(part: dict[str, Tensor], config: dict):
    scales = part["scales"].floats().T
    words = unpack(part["qzeros"].array, 4, 1).reshape(scales.shape[1], -1, 8)
    zeros = words[:, :, AWQ_ORDER].reshape(scales.shape[1], -1).T
    return scales, zeros, 4, part["qweight"].array.shape[0] // scales.shape[1]


def _bitsandbytes(part: dict[str, Tensor], config: dict):
    if "SCB" not in part:
        raise NotOurs("--weights nf4 finds its codes without help")
    scales = part["SCB"].floats()[:, None] * np.float32(7.874015718698502e-3)
    return scales, None, 8, None


def _compressed(part: dict[str, Tensor], config: dict):
    scales = part["weight_scale"].floats()
    groups = next(iter(config["config_groups"].values()))["weights"]
    bits = int(groups["num_bits"])
    if "weight_packed" not in part:
        kind = "fp8" if part["weight"].kind == "F8_E4M3" else 8
        if scales.ndim != 2 or scales.shape[1] != 1:
            raise NotOurs("its scales are not one a row")
        return scales, None, kind, None
    if bits not in (4, 8):
        raise NotOurs(f"{bits} bits are no scheme of ours")
    rows, columns = (int(n) for n in part["weight_shape"].array.ravel())
    zeros = None
    if "weight_zero_point" in part:
        zeros = unpack(part["weight_zero_point"].array, bits, 0)[:rows]
    return scales, zeros, bits, columns // scales.shape[1]


_READERS = {"gptq": (_gptq, "qweight"), "awq": (_awq, "qweight"),
            "bitsandbytes": (_bitsandbytes, "weight"),
            "compressed-tensors": (_compressed, "weight_scale")}  # fmt: skip


def read_scales(folder) -> dict[str, tuple]:
    """Read what the codes of a quantized checkpoint stand for.

    Parameters
    ----------
    folder : path
        A quantized checkpoint of a LLaMA.

    Returns
    -------
    dict
        By linear, "model.layers.0.mlp.up_proj": scales ``[rows, groups]`` in
        float32, zero points of codes from 0 on (or None: the middle one), bits
        of a code (or "fp8"), and columns of a group (None: a row's).

    Raises
    ------
    NotOurs
        Where its scheme is none of ours.
    CheckpointError
        As `qlm.checkpoints.read_weights`.
    """
    folder = Path(folder)
    section = read_config(folder)["quantization_config"]
    reader, marker = _READERS[section["quant_method"]]
    tensors = read_folder(folder)
    found = {}
    for name in tensors:
        match = re.fullmatch(
            rf"(model\.layers\.\d+\.([\w.]+))\.{re.escape(marker)}", name)
        if not match or match[2] not in _PARTS:
            continue
        with checking(match[1]):
            found[match[1]] = reader(part_of(tensors, match[1]), section)
    if not found:
        raise NotOurs("it has no quantized linears of a LLaMA")
    return found


def find_known_scales(folder) -> tuple[dict[str, Tensor], list[str]]:
    """Find the scales to keep, and quantc's options that keep the codes.

    Parameters
    ----------
    folder : path
        A quantized checkpoint of a LLaMA.

    Returns
    -------
    tensors : dict of Tensor
        ``LABEL.scales`` and ``LABEL.zero_points``, for `KEPT_FILE`.
    options : list of str
        ``["--weights", "int4", "--group-size", "128", …]``.

    Raises
    ------
    NotOurs
        Where its scheme is none of ours.
    CheckpointError
        As `qlm.checkpoints.read_weights`.
    """
    return label_scales(read_scales(folder))


def label_scales(parts: dict[str, tuple]) -> tuple[dict[str, Tensor], list[str]]:
    """Join scales as the compiler joins linears.

    Parameters
    ----------
    parts : dict
        As `read_scales` gives them, of all linears of a LLaMA.

    Returns
    -------
    tensors, options
        As `find_known_scales`.
    """
    modules: dict[str, dict[int, tuple]] = {}
    for name, part in parts.items():
        _, _, layer, linear = name.split(".", 3)
        label, place = _PARTS[linear]
        modules.setdefault(f"layers.{layer}.{label}", {})[place] = part
    kinds = {(part[2], part[3]) for part in parts.values()}
    if len(kinds) != 1:
        raise NotOurs("its linears have different schemes")
    ((kind, group),) = kinds
    middle = {4: 8, 8: 128}.get(kind)
    symmetric = all(part[1] is None or (part[1] == middle).all()
                    for part in parts.values())
    tensors = {}
    for label, places in modules.items():
        joined = [places[place] for place in sorted(places)]
        scales = np.concatenate([part[0] for part in joined]).astype(np.float32)
        channel = group is None
        tensors[label + ".scales"] = Tensor(
            "F32", np.ascontiguousarray(scales[:, 0] if channel else scales))
        if not symmetric:
            zeros = np.concatenate([
                np.full(part[0].shape, middle) if part[1] is None else part[1]
                for part in joined]).astype(np.float32)
            tensors[label + ".zero_points"] = Tensor(
                "F32", np.ascontiguousarray(zeros))
    options = ["--weights", kind if kind == "fp8" else f"int{kind}",
               "--keep-lm-head", "--method", "keep"]
    if group is not None:
        options += ["--group-size", str(group)]
        if kind == 8:
            options += ["--granularity", "group"]
    if not symmetric:
        options.append("--zero-points")
    return tensors, options

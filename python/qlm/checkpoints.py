# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Turns the quantized checkpoints of other tools into plain weights.

``restore`` turns a folder whose ``config.json`` has a ``quantization_config``
(`qlm.tool_formats` lists what is read) into one of plain weights, which have
the bits that the tool itself gives when it dequantizes, and which ``quantc``
compiles.

An NF4 checkpoint becomes, with ``quantc --weights nf4`` and its block size,
the same codes and scales again: the largest magnitude of a block is its scale.
"""

from __future__ import annotations

import sys
from pathlib import Path

from .kept import KEPT_FILE, NotOurs, find_known_scales
from .tensors import (
    CheckpointError, Tensor, read_folder, read_tensors, store_floats,
    write_folder, write_tensors)  # fmt: skip
from .tool_formats import (
    dynamic_map, normal_float4, read_config, read_weights, unpack)  # fmt: skip

__all__ = [
    "CheckpointError",
    "Tensor",
    "dynamic_map",
    "normal_float4",
    "read_folder",
    "read_tensors",
    "read_weights",
    "restore",
    "unpack",
    "write_tensors",
]


def restore(folder, output, keep: bool = True) -> Path:
    """Write a quantized checkpoint as a folder of plain weights.

    Where its scheme is one of ours, ``kept-scales.safetensors`` is written too,
    from which ``quantc --method keep --statistics`` finds its codes.

    Parameters
    ----------
    folder, output : paths
        `output` must not exist; its weights have the types that the tool's
        own have after dequantizing.
    keep : bool
        Whether to write the scales to keep.

    Returns
    -------
    Path

    Raises
    ------
    CheckpointError
        As `read_weights`, and where `output` exists; nothing is written then.
    """
    _restore(Path(folder), Path(output), keep)
    return Path(output)


def _restore(folder: Path, output: Path, keep: bool):
    """`restore`; gives quantc's options that keep the codes, or why they can't
    be kept."""
    if output.exists():
        raise CheckpointError(f"{output} exists")
    weights, known, found = read_weights(folder), {}, None
    if keep:
        try:
            known, found = find_known_scales(folder)
        except NotOurs as reason:
            found = reason
    config = read_config(folder)
    del config["quantization_config"]
    files = {"model.safetensors": {name: Tensor(kind, store_floats(values, kind))
                                   for name, (values, kind) in weights.items()}}
    if known:
        files[KEPT_FILE] = known
    write_folder(folder, output, config, files)
    return found


def main(arguments: list[str]) -> int:
    """``python -m qlm.checkpoints FOLDER OUTPUT``."""
    if len(arguments) != 2:
        print("usage: python -m qlm.checkpoints FOLDER OUTPUT", file=sys.stderr)
        return 2
    try:
        found = _restore(Path(arguments[0]), Path(arguments[1]), keep=True)
        if isinstance(found, NotOurs):
            print(f"qlm.checkpoints: codes are not kept: {found}",
                  file=sys.stderr)
        else:
            words = [*found, "--statistics", f"{arguments[1]}/{KEPT_FILE}"]
            print("qlm.checkpoints: to keep its codes: quantc", arguments[1],
                  *words, file=sys.stderr)
    except (CheckpointError, OSError) as error:
        print(f"qlm.checkpoints: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Runs the compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from ._runtime import Error


def _find_compiler() -> str:
    """Return quantc's path: beside the build this package is in, or on PATH."""
    beside = Path(__file__).resolve().parents[2] / "bin" / "quantc"
    if beside.is_file():
        return str(beside)
    found = shutil.which("quantc")
    if found:
        return found
    raise Error(f"quantc is neither at {beside} nor on PATH")


def compile(  # noqa: A001 (the compiler's own verb)
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    weights: str = "f32",
    **options: str | int | bool,
) -> Path:
    """Compile a model's folder to a package.

    Parameters
    ----------
    model : path
        A Hugging Face folder: config.json, safetensors, tokenizer.json.
    output : path
        The package's folder, made anew.
    weights : str
        ``"f32"``, ``"bf16"``, ``"f16"``, ``"int8"`` or ``"int4"``.
    **options
        quantc's other options, with ``_`` for ``-``: ``group_size=64``,
        ``activations="int8-dynamic"``, ``target_cpu="x86-64-v3"``,
        ``max_batch=4``, ``zero_points=True``, …

    Returns
    -------
    pathlib.Path
        The package.

    Raises
    ------
    qlm.Error
        With the compiler's message.
    """
    command = [_find_compiler(), os.fspath(model), "-o", os.fspath(output)]
    command.append(f"--weights={weights}")
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        if value is True:
            command.append(flag)
        elif value is not False and value is not None:
            command.append(f"{flag}={value}")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        message = lines[-1] if lines else f"quantc ended with {done.returncode}"
        raise Error(message.removeprefix("quantc: error: "))
    return Path(output)

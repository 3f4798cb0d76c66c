# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Calls the built tools, for the tests of the whole way."""

from __future__ import annotations

import functools
import json
import os
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import Sequence

import make_references
import numpy as np
import random_llama

BUILD = Path(os.environ.get("QLM_BUILD", "build/release")).resolve()
BIN = BUILD / "bin"
TIMEOUT = 240
"""Seconds after which a tool counts as hanging."""

Tokens = Sequence[int]


def run(tool: str, *arguments: object) -> subprocess.CompletedProcess:
    """Runs a tool of the build folder; its output is text."""
    return subprocess.run(
        [str(BIN / tool), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )


def succeed(tool: str, *arguments: object) -> str:
    """Runs a tool that must exit with 0; returns its standard output."""
    done = run(tool, *arguments)
    assert done.returncode == 0, f"{tool} {arguments}: {done.stderr}"
    return done.stdout


def join(tokens: Tokens) -> str:
    """Token ids as the tools take them.

    Examples
    --------
    >>> join([3, 1, 2])
    '3,1,2'
    """
    return ",".join(str(int(token)) for token in tokens)


def logits(package: Path, tokens: Tokens, *options: object) -> np.ndarray:
    """Logits float32 [tokens, vocabulary] of one sequence."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "logits.npy"
        succeed(
            "quant-run", "logits", package, "--tokens", join(tokens),
            "-o", path, *options,
        )  # fmt: skip
        return np.load(path)


def generate(
    package: Path, prompts: Sequence[Tokens], *options: object
) -> list[dict]:
    """Continues prompts of token ids in one batch.

    Returns
    -------
    list of dict
        For each prompt ``text``, ``tokens``, ``finish_reason`` and, with
        ``--logprobs``, ``logprobs``.
    """
    lists = [f"--tokens={join(prompt)}" for prompt in prompts]
    text = succeed(
        "quant-run", "generate", package, *lists, "--json", *options
    )
    return json.loads(text)["results"]


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Norm of the difference over the norm of what is expected."""
    expected = np.asarray(expected, np.float64)
    difference = np.asarray(actual, np.float64) - expected
    return float(np.linalg.norm(difference) / np.linalg.norm(expected))


def reference(name: str) -> np.lib.npyio.NpzFile:
    """What transformers computes for a model; see `make_references`."""
    return np.load(make_references.REFERENCES / f"{name}.npz")


@functools.lru_cache(maxsize=None)
def processor_flags() -> frozenset[str]:
    """Features of this machine's processor, as Linux names them."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            return frozenset(line.split(":")[1].split())
    return frozenset()


def has_avx512() -> bool:
    """Whether packages for x86-64-v4 run here."""
    needed = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
    return needed <= processor_flags()


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Tensors of a file by name; bfloat16 as float32.

    Parameters
    ----------
    path : Path
        A well-formed file; nothing is checked.
    """
    data = path.read_bytes()
    (size,) = struct.unpack_from("<Q", data)
    types = {
        "F32": "<f4", "F16": "<f2", "BF16": "<u2", "U8": "u1", "I8": "i1"
    }  # fmt: skip
    tensors = {}
    for name, entry in json.loads(data[8 : 8 + size]).items():
        if name == "__metadata__":
            continue
        begin, end = (8 + size + offset for offset in entry["data_offsets"])
        values = np.frombuffer(data[begin:end], types[entry["dtype"]])
        if entry["dtype"] == "BF16":
            values = (values.astype(np.uint32) << 16).view(np.float32)
        tensors[name] = values.reshape(entry["shape"])
    return tensors


class Packages:
    """Models and packages below a folder, each made once.

    Parameters
    ----------
    folder : Path
        Where they go; it must exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: dict[tuple[str, ...], Path] = {}

    def model(self, name: str) -> Path:
        """The folder of a model in `random_llama.SPECS`, or the tiny one."""
        if name == "tiny-llama":
            return make_references.TINY
        folder = self.folder / name
        if not folder.exists():
            random_llama.write_model(random_llama.find(name), folder)
        return folder

    def compile(self, name: str, *options: object) -> Path:
        """The package of a model, compiled with quantc's options."""
        key = (name, *map(str, options))
        if key not in self.made:
            package = self.folder / f"{name}.{len(self.made)}.qlm"
            succeed("quantc", self.model(name), "-o", package, *options)
            self.made[key] = package
        return self.made[key]

# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Runs a graph's package for AMX on processors that have none.

What `quantc --to lower` writes is emulated as `amx_emulation` does it, and
this module is the runtime: it gives memory, and runs each launch's tiles in
parts, as two threads would that take turns.
"""

from __future__ import annotations

import ctypes
import json
import re
from pathlib import Path

import amx_emulation
import numpy as np
import toolchain

PARTS = 3
Pointer, Word = ctypes.c_void_p, ctypes.c_int64
Launch = ctypes.CFUNCTYPE(None, Pointer, Pointer, Pointer, Word, Word)
Kernel = ctypes.CFUNCTYPE(None, Pointer, Pointer, Word, Word, Pointer)
Allocate = ctypes.CFUNCTYPE(Pointer, Word)
Release = ctypes.CFUNCTYPE(None, Pointer)


def describe(address: int, shape: tuple[int, ...]) -> ctypes.Array:
    """The descriptor of a dense array."""
    strides = [int(np.prod(shape[i + 1 :])) for i in range(len(shape))]
    words = [address, address, 0, *shape, *strides]
    return (Word * len(words))(*words)


class Graph:
    """A model compiled by `quantc` with `options` for `sapphirerapids`, of
    one float32 input and one float32 output of rows."""

    def __init__(self, model: Path, folder: Path, *options: object):
        target = ("--quiet", "--target-cpu", "sapphirerapids", *options)
        toolchain.succeed("quantc", model, "-o", folder / "amx.qlm", *target)
        toolchain.succeed("quantc", model, "-o", folder / "amx.mlir", "--to",
                          "lower", *target)
        text = (folder / "amx.mlir").read_text()
        # Attributes of ours, which mlir-translate doesn't know.
        text = re.sub(r"^(module|  llvm\.func)(.*) attributes \{.*\} \{$",
                      r"\1\2 {", text, flags=re.MULTILINE)
        self.library = amx_emulation.build(text, folder)
        manifest = json.loads((folder / "amx.qlm/manifest.json").read_text())
        tensors = toolchain.read_safetensors(folder / "amx.qlm/weights.safetensors")
        self.weights = [amx_emulation.Guarded(tensors[argument["key"]])
                        for argument in manifest["weight_arguments"]]
        self.shapes = [tuple(argument["shape"])
                       for argument in manifest["weight_arguments"]]
        self.launches, self.memory = 0, []
        self.callbacks = {"launch": Launch(self.launch),
                          "allocate": Allocate(self.allocate),
                          "release": Release(lambda address: None)}
        for name, callback in self.callbacks.items():
            Pointer.in_dll(self.library, f"qlm_graph_{name}").value = (
                ctypes.cast(callback, Pointer).value)

    def allocate(self, size: int) -> int:
        self.memory.append(amx_emulation.Guarded(
            np.full(size, amx_emulation.POISON, np.uint8)))
        return self.memory[-1].address

    def launch(self, kernel: int, buffers: int, sizes: int, tiles: int,
               scratch_bytes: int) -> None:
        self.launches += 1
        function = Kernel(kernel)
        memory = np.full(scratch_bytes, amx_emulation.POISON, np.uint8)
        memory[:8] = 0  # qlm/Package/LaunchScratch.h
        threads = [amx_emulation.Guarded(memory) for _ in range(2)]
        for part in range(PARTS):
            lo, hi = (tiles * i // PARTS for i in (part, part + 1))
            if lo < hi:
                function(buffers, sizes, lo, hi, threads[part % 2].address)
        assert all(thread.is_intact() for thread in threads)

    def __call__(self, x: np.ndarray, columns: int) -> np.ndarray:
        """The output, `columns` wide, for the rows of `x`."""
        self.memory.clear()
        source = amx_emulation.Guarded(x)
        result = (Word * 7)()
        arrays = [result, describe(source.address, x.shape)]
        arrays += [describe(weight.address, shape)
                   for weight, shape in zip(self.weights, self.shapes, strict=True)]
        pointers = (Pointer * len(arrays))(
            *(ctypes.addressof(array) for array in arrays))
        self.library.qlm_graph(pointers)
        assert all(memory.is_intact() for memory in [source, *self.memory])
        assert list(result[3:5]) == [len(x), columns]
        values = (ctypes.c_float * (len(x) * columns)).from_address(result[1])
        return np.array(values, np.float32).reshape(len(x), columns)

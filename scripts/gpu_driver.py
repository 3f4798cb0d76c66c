# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""An NVIDIA GPU's memory and launches through its driver, for
gpu_launches.py. Needs NumPy alone."""

from __future__ import annotations

import ctypes
import struct

import numpy as np


class LaunchConfig(ctypes.Structure):
    """CUlaunchConfig."""

    _fields_ = [("grid", ctypes.c_uint * 3), ("block", ctypes.c_uint * 3),
                ("shared", ctypes.c_uint), ("stream", ctypes.c_void_p),
                ("attributes", ctypes.c_void_p), ("count", ctypes.c_uint)]


class Gpu:
    """The first GPU, through the driver's API; one call at a time."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL("libcuda.so.1")
        self.call("cuInit", 0)
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self.call("cuDeviceGet", ctypes.byref(device), 0)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self.call("cuCtxSetCurrent", context)
        self.memory: list[int] = []

    def call(self, name: str, *arguments) -> None:
        error = getattr(self.library, name)(*arguments)
        if error:
            raise RuntimeError(f"{name} failed with error {error}")

    def allocate(self, size: int, byte: int = 0xFF) -> int:
        pointer = ctypes.c_uint64()
        self.call("cuMemAlloc_v2", ctypes.byref(pointer),
                  ctypes.c_size_t(max(size, 256)))
        self.memory.append(pointer.value)
        self.fill(pointer.value, max(size, 256), byte)
        return pointer.value

    def fill(self, pointer: int, size: int, byte: int) -> None:
        self.call("cuMemsetD8_v2", ctypes.c_uint64(pointer),
                  ctypes.c_ubyte(byte), ctypes.c_size_t(size))

    def write(self, pointer: int, values: np.ndarray) -> None:
        values = np.ascontiguousarray(values)
        self.call("cuMemcpyHtoD_v2", ctypes.c_uint64(pointer),
                  ctypes.c_void_p(values.ctypes.data),
                  ctypes.c_size_t(values.nbytes))

    def read(self, pointer: int, shape, dtype) -> np.ndarray:
        values = np.empty(shape, dtype)
        self.call("cuMemcpyDtoH_v2", ctypes.c_void_p(values.ctypes.data),
                  ctypes.c_uint64(pointer), ctypes.c_size_t(values.nbytes))
        return values

    def load(self, image: bytes) -> ctypes.c_void_p:
        module = ctypes.c_void_p()
        self.call("cuModuleLoadData", ctypes.byref(module), image)
        return module

    def function(self, module, name: str, shared: int) -> ctypes.c_void_p:
        function = ctypes.c_void_p()
        self.call("cuModuleGetFunction", ctypes.byref(function), module,
                  name.encode())
        self.call("cuFuncSetAttribute", function, 8, shared)
        return function

    def launch(self, function, variant: dict, grid, pointers) -> None:
        values = [ctypes.c_uint64(pointer) for pointer in pointers]
        parameters = (ctypes.c_void_p * len(values))(
            *(ctypes.addressof(value) for value in values))
        # One CUlaunchAttribute: the cluster's size.
        attribute = ctypes.create_string_buffer(
            struct.pack("<i4xIII52x", 4, variant.get("cluster", 1), 1, 1), 72)
        config = LaunchConfig((grid[0], grid[1], 1),
                              (variant["block_threads"], 1, 1),
                              variant["shared_bytes"], None,
                              ctypes.addressof(attribute),
                              int(variant.get("cluster", 1) > 1))
        self.call("cuLaunchKernelEx", ctypes.byref(config), function,
                  parameters, None)
        self.call("cuCtxSynchronize")

    def release(self) -> None:
        for pointer in self.memory:
            self.call("cuMemFree_v2", ctypes.c_uint64(pointer))
        self.memory.clear()

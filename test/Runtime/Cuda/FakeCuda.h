//===- FakeCuda.h - A CUDA driver without a GPU -----------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// libfakecuda exports the functions of the driver that the runtime uses. Device
// memory is the host's, kernels are host functions (FakeGpuKernels.cpp) in a
// shared object that stands for a cubin. What a stream is given runs as late as
// the driver would allow, when something waits for it, so that a buffer changed
// or freed too early is found. Wrong use is recorded as a violation.
//
// The functions below steer it and ask what it saw. One test at a time.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_TEST_RUNTIME_CUDA_FAKECUDA_H
#define QLM_TEST_RUNTIME_CUDA_FAKECUDA_H

#include <cstddef>
#include <cstdint>

namespace qlm::test {

/// What a module for the fake driver exports, as an array `fakeGpuKernels`
/// that ends with a null name.
struct FakeGpuKernel {
  const char *name;
  int parameters;
  int mostSharedBytes;
  /// Runs block \p x, \p y; the last buffer is StepSizes.
  void (*run)(void *const *buffers, int64_t x, int64_t y);
};

extern "C" {
/// Forgets all that was set and seen; objects must have been destroyed.
void fakeCudaReset();

void fakeCudaSetDevices(int count);
void fakeCudaSetCapability(int capability);
void fakeCudaSetVersion(int version);
void fakeCudaSetMemory(size_t bytes);
void fakeCudaSetSharedBytes(int bytes);
/// From now on, the \p nth call (1 is the next) of \p function fails with
/// \p error, and all after it when \p forever.
void fakeCudaFail(const char *function, int nth, int error, bool forever);

/// Calls of \p function since the reset.
int fakeCudaCalls(const char *function);
/// Objects that live: memory, streams, events, modules, graphs, the context.
int fakeCudaLiveObjects();
/// What was done wrong, one a line; empty when nothing was.
const char *fakeCudaViolations();
/// Launches so far that had the attribute of a programmatic launch.
int fakeCudaDependentLaunches();
/// Bytes that were copied from the device to the host so far.
size_t fakeCudaFetchedBytes();
}

} // namespace qlm::test

#endif // QLM_TEST_RUNTIME_CUDA_FAKECUDA_H

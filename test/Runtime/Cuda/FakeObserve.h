//===- FakeObserve.h - What the observing kernel finds ----------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_TEST_RUNTIME_CUDA_FAKEOBSERVE_H
#define QLM_TEST_RUNTIME_CUDA_FAKEOBSERVE_H

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace qlm::test {

/// The kernel of lib/Lower/Cuda/Observe.cpp by its description, for all columns
/// of \p rows rows; \p buffers are its six.
inline void observeRows(void *const *buffers, int64_t rows, int64_t features) {
  auto *values = static_cast<const float *>(buffers[0]);
  auto *window = static_cast<int32_t *>(buffers[5]);
  auto bitsOf = [](float magnitude) {
    int32_t bits;
    std::memcpy(&bits, &magnitude, sizeof(bits));
    return bits;
  };
  if (window[2] == 0) {
    for (int64_t i = 0; i < rows * features; ++i) {
      float magnitude = std::fabs(values[i]);
      auto *absmax = static_cast<int32_t *>(buffers[2]) + i % features;
      static_cast<double *>(buffers[1])[i % features] += magnitude;
      *absmax = std::max(*absmax, bitsOf(magnitude));
      int32_t &largest = window[std::signbit(values[i]) ? 0 : 1];
      largest = std::max(largest, bitsOf(magnitude));
    }
    return;
  }
  auto *top = static_cast<int32_t *>(buffers[4]);
  if (*top == 0)
    *top = std::max(window[0], window[1]);
  float highest;
  std::memcpy(&highest, top, sizeof(highest));
  for (int64_t i = 0; i < rows * features && highest != 0; ++i) {
    double place = std::fabs(static_cast<double>(values[i])) *
                   (2048.0 / static_cast<double>(highest));
    int64_t bin = place < 2047 ? static_cast<int64_t>(place) : 2047;
    ++static_cast<int64_t *>(buffers[3])[bin];
  }
}

} // namespace qlm::test

#endif // QLM_TEST_RUNTIME_CUDA_FAKEOBSERVE_H

//===- FakeSolver.cpp - A cuSOLVER without a GPU --------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The functions that factor a matrix, columns first, on the memory of
// libfakecuda. A call waits for what its stream was given before it.
//
//===----------------------------------------------------------------------===//

#include <cmath>
#include <cstdint>

extern "C" {

int cuStreamSynchronize(void *stream);

struct FakeSolverHandle {
  void *stream;
};

int cusolverDnCreate(FakeSolverHandle **handle) {
  *handle = new FakeSolverHandle{nullptr};
  return 0;
}

int cusolverDnDestroy(FakeSolverHandle *handle) {
  delete handle;
  return 0;
}

int cusolverDnSetStream(FakeSolverHandle *handle, void *stream) {
  handle->stream = stream;
  return 0;
}

int cusolverDnDpotrf_bufferSize(FakeSolverHandle *, int, int size,
                                const double *, int, int *elements) {
  *elements = size;
  return 0;
}

/// U with Uᵀ U = matrix takes the place of its upper triangle (fill 1); \p info
/// is the first column whose pivot isn't positive, from 1 on.
int cusolverDnDpotrf(FakeSolverHandle *handle, int fill, int size,
                     double *matrix, int stride, double *, int elements,
                     int *info) {
  constexpr int kInvalidValue = 3;
  if (fill != 1 || stride < size || elements < size || !handle->stream)
    return kInvalidValue;
  if (int error = cuStreamSynchronize(handle->stream))
    return error;
  auto at = [&](int64_t row, int64_t column) -> double & {
    return matrix[row + column * stride];
  };
  *info = 0;
  for (int64_t j = 0; j < size; ++j)
    for (int64_t i = 0; i <= j; ++i) {
      double sum = at(i, j);
      for (int64_t k = 0; k < i; ++k)
        sum -= at(k, i) * at(k, j);
      if (i == j && !(sum > 0)) {
        *info = static_cast<int>(j + 1);
        return 0;
      }
      at(i, j) = i == j ? std::sqrt(sum) : sum / at(i, i);
    }
  return 0;
}
}

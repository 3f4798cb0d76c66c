//===- FakeBlas.cpp - A cuBLAS without a GPU ------------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The functions that calibration uses, columns first, on the memory of
// libfakecuda. A call waits for what its stream was given before it, as the
// order of a stream says, and is over when it returns.
//
//===----------------------------------------------------------------------===//

#include <cstdint>

extern "C" {

int cuStreamSynchronize(void *stream);

struct FakeBlasHandle {
  void *stream;
};

int cublasCreate_v2(FakeBlasHandle **handle) {
  *handle = new FakeBlasHandle{nullptr};
  return 0;
}

int cublasDestroy_v2(FakeBlasHandle *handle) {
  delete handle;
  return 0;
}

int cublasSetStream_v2(FakeBlasHandle *handle, void *stream) {
  handle->stream = stream;
  return 0;
}

/// c = alpha * a * aᵀ + beta * c in the triangle \p fill (0: lower, 1: upper);
/// a is [size, depth].
int cublasSsyrk_v2(FakeBlasHandle *handle, int fill, int transposed, int size,
                   int depth, const float *alpha, const float *a, int aStride,
                   const float *beta, float *c, int cStride) {
  constexpr int kInvalidValue = 7;
  if (transposed != 0 || aStride < size || cStride < size || !handle->stream)
    return kInvalidValue;
  if (int error = cuStreamSynchronize(handle->stream))
    return error;
  for (int64_t column = 0; column < size; ++column)
    for (int64_t row = 0; row < size; ++row) {
      if (fill == 1 ? row > column : row < column)
        continue;
      double sum = 0;
      for (int64_t k = 0; k < depth; ++k)
        sum +=
            static_cast<double>(a[row + k * aStride]) * a[column + k * aStride];
      float &at = c[row + column * cStride];
      at = static_cast<float>(*alpha * sum + *beta * at);
    }
  return 0;
}

/// x *= alpha for \p count elements, \p stride apart.
int cublasSscal_v2(FakeBlasHandle *handle, int count, const float *alpha,
                   float *x, int stride) {
  if (int error = cuStreamSynchronize(handle->stream))
    return error;
  for (int64_t i = 0; i < count; ++i)
    x[i * stride] *= *alpha;
  return 0;
}

/// c = alpha * op(a) + beta * op(b), where op transposes or not.
int cublasSgeam(FakeBlasHandle *handle, int aTransposed, int bTransposed,
                int rows, int columns, const float *alpha, const float *a,
                int aStride, const float *beta, const float *b, int bStride,
                float *c, int cStride) {
  constexpr int kInvalidValue = 7;
  if (c == a || c == b || cStride < rows)
    return kInvalidValue;
  if (int error = cuStreamSynchronize(handle->stream))
    return error;
  auto at = [](const float *matrix, int64_t row, int64_t column, int64_t stride,
               int isTransposed) {
    return isTransposed ? matrix[column + row * stride]
                        : matrix[row + column * stride];
  };
  for (int64_t column = 0; column < columns; ++column)
    for (int64_t row = 0; row < rows; ++row)
      c[row + column * cStride] =
          *alpha * at(a, row, column, aStride, aTransposed) +
          *beta * at(b, row, column, bStride, bTransposed);
  return 0;
}
}

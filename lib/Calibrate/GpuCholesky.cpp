//===- GpuCholesky.cpp - Factors of matrices on a GPU ---------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Calibrate/GpuCholesky.h"

#include "../Runtime/Cuda/Device.h"
#include "GpuLibrary.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <mutex>

using namespace qlm;
using namespace qlm::cuda;

namespace {

// Of cuSOLVER's stable binary interface. It counts columns first: the lower
// triangle of our rows is the upper one of its columns.
constexpr int kFillUpper = 1;
/// Of each buffer that matrices pass through, a row of 2^21 columns at least.
constexpr int64_t kStagingBytes = int64_t(16) << 20;

class GpuCholesky {
public:
  ~GpuCholesky() {
    if (handle && gpu->makeCurrent().ok())
      destroy(handle);
  }
  Status open(const std::string &driver,
              const std::vector<std::string> &solver);
  /// Sets \p isDefinite, or fails.
  Status factor(const numerics::FactoredRows &rows, bool &isDefinite);

private:
  bool findAll(void *library);
  Status reserve(DeviceMemory &memory, int64_t &held, int64_t bytes,
                 const char *purpose);
  /// Moves rows to the GPU's matrix, or from it: of two buffers one is given
  /// or taken while the other is copied.
  Status send(const numerics::FactoredRows &rows);
  Status fetch(const numerics::FactoredRows &rows);
  Status sync() {
    return QLM_CUDA_CALL(gpu->getDriver(), "copying a matrix",
                         cuStreamSynchronize, stream.get());
  }
  DevicePointer rowAt(int64_t row, int64_t size) const {
    return matrixMemory.get() + static_cast<DevicePointer>(8 * row * size);
  }
  Status solve(int size, int &info);

  std::mutex mutex;
  std::unique_ptr<Gpu> gpu;
  OwnedStream stream;
  PinnedMemory staging[2];
  DeviceMemory matrixMemory, workspace, infoMemory;
  int64_t matrixBytes = 0, workspaceBytes = 0;
  void *handle = nullptr;
  int (*create)(void **handle) = nullptr;
  int (*destroy)(void *handle) = nullptr;
  int (*setStream)(void *handle, Stream stream) = nullptr;
  int (*potrfSize)(void *handle, int fill, int size, DevicePointer matrix,
                   int stride, int *elements) = nullptr;
  int (*potrf)(void *handle, int fill, int size, DevicePointer matrix,
               int stride, DevicePointer workspace, int elements,
               DevicePointer info) = nullptr;
};

} // namespace

bool GpuCholesky::findAll(void *library) {
  return findSymbol(library, "cusolverDnCreate", create) &&
         findSymbol(library, "cusolverDnDestroy", destroy) &&
         findSymbol(library, "cusolverDnSetStream", setStream) &&
         findSymbol(library, "cusolverDnDpotrf_bufferSize", potrfSize) &&
         findSymbol(library, "cusolverDnDpotrf", potrf);
}

Status GpuCholesky::open(const std::string &driver,
                         const std::vector<std::string> &solver) {
  Result<std::unique_ptr<Gpu>> opened = Gpu::open(driver);
  if (!opened.ok())
    return opened.status();
  gpu = opened.take();
  QLM_RETURN_IF_ERROR(gpu->makeCurrent());
  std::vector<std::string> names = solver;
  if (names.empty())
    names = {"libcusolver.so.12", "libcusolver.so.11", "libcusolver.so"};
  QLM_RETURN_IF_ERROR(openGpuLibrary(
      "cuSOLVER", names, [&](void *library) { return findAll(library); }));
  Result<OwnedStream> made = makeStream(*gpu);
  if (!made.ok())
    return made.status();
  stream = made.take();
  for (PinnedMemory &buffer : staging) {
    Result<PinnedMemory> pinned =
        allocatePinned(*gpu, kStagingBytes, "matrices on their way");
    if (!pinned.ok())
      return pinned.status();
    buffer = pinned.take();
  }
  QLM_RETURN_IF_ERROR(checkGpuLibrary(create(&handle), "cusolverDnCreate"));
  return checkGpuLibrary(setStream(handle, stream.get()),
                         "cusolverDnSetStream");
}

Status GpuCholesky::reserve(DeviceMemory &memory, int64_t &held, int64_t bytes,
                            const char *purpose) {
  if (bytes <= held)
    return Status();
  memory = {};
  held = 0;
  Result<DeviceMemory> taken = allocateDevice(*gpu, bytes, purpose);
  if (!taken.ok())
    return taken.status();
  memory = taken.take();
  held = bytes;
  return Status();
}

Status GpuCholesky::send(const numerics::FactoredRows &rows) {
  int64_t most = kStagingBytes / (8 * rows.size);
  for (int64_t first = 0, use = 0; first < rows.size; first += most, ++use) {
    int64_t count = std::min(most, rows.size - first);
    auto *buffer = static_cast<double *>(staging[use % 2].get());
    rows.give(first, count, buffer);
    // The other buffer is given to next.
    QLM_RETURN_IF_ERROR(sync());
    QLM_CUDA_TRY(gpu->getDriver(), "copying a matrix", cuMemcpyHtoDAsync,
                 rowAt(first, rows.size), buffer,
                 static_cast<size_t>(8 * count * rows.size), stream.get());
  }
  return sync();
}

Status GpuCholesky::fetch(const numerics::FactoredRows &rows) {
  int64_t most = kStagingBytes / (8 * rows.size);
  auto begin = [&](int64_t first, int64_t use) {
    if (first >= rows.size)
      return Status();
    int64_t count = std::min(most, rows.size - first);
    return QLM_CUDA_CALL(
        gpu->getDriver(), "copying a matrix", cuMemcpyDtoHAsync,
        staging[use % 2].get(), rowAt(first, rows.size),
        static_cast<size_t>(8 * count * rows.size), stream.get());
  };
  QLM_RETURN_IF_ERROR(begin(0, 0));
  for (int64_t first = 0, use = 0; first < rows.size; first += most, ++use) {
    QLM_RETURN_IF_ERROR(sync());
    QLM_RETURN_IF_ERROR(begin(first + most, use + 1));
    rows.take(first, std::min(most, rows.size - first),
              static_cast<const double *>(staging[use % 2].get()));
  }
  return Status();
}

Status GpuCholesky::solve(int size, int &info) {
  const Driver &driver = gpu->getDriver();
  int elements = 0;
  QLM_RETURN_IF_ERROR(checkGpuLibrary(
      potrfSize(handle, kFillUpper, size, matrixMemory.get(), size, &elements),
      "cusolverDnDpotrf_bufferSize"));
  QLM_RETURN_IF_ERROR(reserve(workspace, workspaceBytes,
                              std::max<int64_t>(elements, 1) * 8,
                              "a factorization"));
  QLM_RETURN_IF_ERROR(
      checkGpuLibrary(potrf(handle, kFillUpper, size, matrixMemory.get(), size,
                            workspace.get(), elements, infoMemory.get()),
                      "cusolverDnDpotrf"));
  QLM_RETURN_IF_ERROR(QLM_CUDA_CALL(
      driver, "factoring a matrix", cuMemcpyDtoHAsync, staging[0].get(),
      infoMemory.get(), sizeof(int), stream.get()));
  QLM_RETURN_IF_ERROR(QLM_CUDA_CALL(driver, "factoring a matrix",
                                    cuStreamSynchronize, stream.get()));
  std::memcpy(&info, staging[0].get(), sizeof(int));
  return Status();
}

Status GpuCholesky::factor(const numerics::FactoredRows &rows,
                           bool &isDefinite) {
  std::lock_guard<std::mutex> lock(mutex);
  if (8 * rows.size > kStagingBytes)
    return Status(StatusCode::Unsupported, "a matrix of too many rows");
  QLM_RETURN_IF_ERROR(gpu->makeCurrent());
  int64_t bytes = rows.size * rows.size * 8, infoBytes = 0;
  QLM_RETURN_IF_ERROR(
      reserve(matrixMemory, matrixBytes, bytes, "second moments"));
  if (!infoMemory)
    QLM_RETURN_IF_ERROR(
        reserve(infoMemory, infoBytes, sizeof(int), "a factorization"));
  Status sent = send(rows);
  if (!sent.ok()) {
    // Buffers may be in use.
    (void)sync();
    return sent;
  }
  int info = 0;
  QLM_RETURN_IF_ERROR(solve(static_cast<int>(rows.size), info));
  isDefinite = info == 0;
  if (!isDefinite)
    return Status();
  Status fetched = fetch(rows);
  if (!fetched.ok())
    (void)sync();
  return fetched;
}

Result<numerics::CholeskyFunction>
qlm::openGpuCholesky(const std::string &driver,
                     const std::vector<std::string> &solver) {
  auto gpu = std::make_shared<GpuCholesky>();
  QLM_RETURN_IF_ERROR(gpu->open(driver, solver));
  return numerics::CholeskyFunction(
      [gpu](const numerics::FactoredRows &rows) -> std::optional<bool> {
        bool isDefinite = false;
        if (!gpu->factor(rows, isDefinite).ok())
          return std::nullopt;
        return isDefinite;
      });
}

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
#include <limits>
#include <memory>
#include <mutex>

using namespace qlm;
using namespace qlm::cuda;

namespace {

// Of cuSOLVER's stable binary interface. It counts columns first: the lower
// triangle of our rows is the upper one of its columns.
constexpr int kFillUpper = 1;
/// Of the memory that matrices pass through.
constexpr int64_t kStagingBytes = int64_t(64) << 20;

class GpuCholesky {
public:
  ~GpuCholesky() {
    if (handle && gpu->makeCurrent().ok())
      destroy(handle);
  }
  Status open(const std::string &driver,
              const std::vector<std::string> &solver);
  /// Sets \p isDefinite, or fails.
  Status factor(double *matrix, int64_t size, bool &isDefinite);

private:
  bool findAll(void *library);
  Status reserve(DeviceMemory &memory, int64_t &held, int64_t bytes,
                 const char *purpose);
  /// Copies \p bytes to the GPU's matrix, or from it.
  Status copy(char *host, int64_t bytes, bool isDown);
  Status solve(int size, int &info);

  std::mutex mutex;
  std::unique_ptr<Gpu> gpu;
  OwnedStream stream;
  PinnedMemory staging;
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
  Result<PinnedMemory> pinned =
      allocatePinned(*gpu, kStagingBytes, "matrices on their way");
  if (!pinned.ok())
    return pinned.status();
  staging = pinned.take();
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

Status GpuCholesky::copy(char *host, int64_t bytes, bool isDown) {
  const Driver &driver = gpu->getDriver();
  const char *doing = "copying a matrix";
  for (int64_t done = 0; done < bytes; done += kStagingBytes) {
    auto count = static_cast<size_t>(std::min(kStagingBytes, bytes - done));
    DevicePointer at = matrixMemory.get() + static_cast<DevicePointer>(done);
    if (isDown) {
      std::memcpy(staging.get(), host + done, count);
      QLM_RETURN_IF_ERROR(QLM_CUDA_CALL(driver, doing, cuMemcpyHtoDAsync, at,
                                        staging.get(), count, stream.get()));
    } else {
      QLM_RETURN_IF_ERROR(QLM_CUDA_CALL(driver, doing, cuMemcpyDtoHAsync,
                                        staging.get(), at, count,
                                        stream.get()));
    }
    QLM_RETURN_IF_ERROR(
        QLM_CUDA_CALL(driver, doing, cuStreamSynchronize, stream.get()));
    if (!isDown)
      std::memcpy(host + done, staging.get(), count);
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
      driver, "factoring a matrix", cuMemcpyDtoHAsync, staging.get(),
      infoMemory.get(), sizeof(int), stream.get()));
  QLM_RETURN_IF_ERROR(QLM_CUDA_CALL(driver, "factoring a matrix",
                                    cuStreamSynchronize, stream.get()));
  std::memcpy(&info, staging.get(), sizeof(int));
  return Status();
}

Status GpuCholesky::factor(double *matrix, int64_t size, bool &isDefinite) {
  std::lock_guard<std::mutex> lock(mutex);
  if (size > std::numeric_limits<int>::max())
    return Status(StatusCode::Unsupported, "a matrix of too many rows");
  QLM_RETURN_IF_ERROR(gpu->makeCurrent());
  int64_t bytes = size * size * 8, infoBytes = 0;
  QLM_RETURN_IF_ERROR(
      reserve(matrixMemory, matrixBytes, bytes, "second moments"));
  if (!infoMemory)
    QLM_RETURN_IF_ERROR(
        reserve(infoMemory, infoBytes, sizeof(int), "a factorization"));
  QLM_RETURN_IF_ERROR(
      copy(reinterpret_cast<char *>(matrix), bytes, /*isDown=*/true));
  int info = 0;
  QLM_RETURN_IF_ERROR(solve(static_cast<int>(size), info));
  isDefinite = info == 0;
  if (!isDefinite)
    return Status();
  return copy(reinterpret_cast<char *>(matrix), bytes, /*isDown=*/false);
}

Result<CholeskyFunction>
qlm::openGpuCholesky(const std::string &driver,
                     const std::vector<std::string> &solver) {
  auto gpu = std::make_shared<GpuCholesky>();
  QLM_RETURN_IF_ERROR(gpu->open(driver, solver));
  return CholeskyFunction(
      [gpu](double *matrix, int64_t size) -> std::optional<bool> {
        bool isDefinite = false;
        if (!gpu->factor(matrix, size, isDefinite).ok())
          return std::nullopt;
        return isDefinite;
      });
}

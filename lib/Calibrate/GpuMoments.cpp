//===- GpuMoments.cpp - Sums of x xᵀ on a GPU -----------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "GpuMoments.h"
#include "GpuLibrary.h"

#include <algorithm>
#include <cstring>

using namespace qlm;
using namespace qlm::cuda;

namespace {

// Values of cuBLAS's stable binary interface. It counts columns first: our
// rows are its columns, and our lower triangle its upper one.
constexpr int kFillUpper = 1;
constexpr int kNotTransposed = 0;
constexpr int64_t kLeastStaging = int64_t(1) << 20;

} // namespace

/// What we use of cuBLAS.
struct GpuMoments::Blas {
  void *handle = nullptr;
  int (*create)(void **handle) = nullptr;
  int (*destroy)(void *handle) = nullptr;
  int (*setStream)(void *handle, Stream stream) = nullptr;
  int (*ssyrk)(void *handle, int fill, int transposed, int size, int depth,
               const float *alpha, DevicePointer a, int aStride,
               const float *beta, DevicePointer c, int cStride) = nullptr;

  ~Blas() {
    if (handle)
      destroy(handle);
  }

  bool findAll(void *library) {
    return findSymbol(library, "cublasCreate_v2", create) &&
           findSymbol(library, "cublasDestroy_v2", destroy) &&
           findSymbol(library, "cublasSetStream_v2", setStream) &&
           findSymbol(library, "cublasSsyrk_v2", ssyrk);
  }
};

std::vector<std::string> qlm::getBlasNames() {
  return {"libcublas.so.13", "libcublas.so.12", "libcublas.so"};
}

GpuMoments::GpuMoments() : blas(std::make_unique<Blas>()) {}

GpuMoments::~GpuMoments() {
  if (gpu)
    (void)gpu->makeCurrent();
  blas.reset();
}

Status GpuMoments::start(const std::vector<std::string> &names) {
  QLM_RETURN_IF_ERROR(gpu->makeCurrent());
  Result<OwnedStream> made = makeStream(*gpu);
  if (!made.ok())
    return made.status();
  stream = made.take();
  QLM_RETURN_IF_ERROR(openGpuLibrary(
      "cuBLAS", names, [&](void *library) { return blas->findAll(library); }));
  QLM_RETURN_IF_ERROR(
      checkGpuLibrary(blas->create(&blas->handle), "cublasCreate"));
  return checkGpuLibrary(blas->setStream(blas->handle, stream.get()),
                         "cublasSetStream");
}

Result<std::unique_ptr<GpuMoments>>
GpuMoments::open(const std::string &driver,
                 const std::vector<std::string> &names) {
  Result<std::unique_ptr<Gpu>> opened = Gpu::open(driver);
  if (!opened.ok())
    return opened.status();
  std::unique_ptr<GpuMoments> moments(new GpuMoments);
  moments->gpu = opened.take();
  QLM_RETURN_IF_ERROR(moments->start(names));
  return moments;
}

Result<GpuMoments::Sums> GpuMoments::makeSums(int64_t features) {
  std::lock_guard<std::mutex> lock(mutex);
  QLM_RETURN_IF_ERROR(gpu->makeCurrent());
  auto bytes = static_cast<size_t>(4 * features * features);
  Result<DeviceMemory> memory =
      allocateDevice(*gpu, static_cast<int64_t>(bytes), "second moments");
  if (!memory.ok())
    return memory.status();
  Sums sums{memory.take(), features};
  const Driver &driver = gpu->getDriver();
  QLM_RETURN_IF_ERROR(QLM_CUDA_CALL(driver, "clearing moments", cuMemsetD8Async,
                                    sums.memory.get(), 0, bytes, stream.get()));
  QLM_RETURN_IF_ERROR(QLM_CUDA_CALL(driver, "clearing moments",
                                    cuStreamSynchronize, stream.get()));
  return sums;
}

Status GpuMoments::reserve(int64_t bytes) {
  bytes = std::max(bytes, kLeastStaging);
  if (bytes <= rowBytes)
    return Status();
  rowMemory = {};
  staging = {};
  rowBytes = 0;
  Result<DeviceMemory> memory =
      allocateDevice(*gpu, bytes, "inputs of a linear");
  if (!memory.ok())
    return memory.status();
  Result<PinnedMemory> pinned =
      allocatePinned(*gpu, bytes, "inputs of a linear");
  if (!pinned.ok())
    return pinned.status();
  rowMemory = memory.take();
  staging = pinned.take();
  rowBytes = bytes;
  return Status();
}

Status GpuMoments::add(Sums &sums, const float *rows, int64_t count) {
  std::lock_guard<std::mutex> lock(mutex);
  QLM_RETURN_IF_ERROR(gpu->makeCurrent());
  int64_t bytes = 4 * count * sums.features;
  QLM_RETURN_IF_ERROR(reserve(bytes));
  std::memcpy(staging.get(), rows, static_cast<size_t>(bytes));
  const Driver &driver = gpu->getDriver();
  QLM_RETURN_IF_ERROR(QLM_CUDA_CALL(driver, "copying inputs", cuMemcpyHtoDAsync,
                                    rowMemory.get(), staging.get(),
                                    static_cast<size_t>(bytes), stream.get()));
  float one = 1;
  auto size = static_cast<int>(sums.features);
  QLM_RETURN_IF_ERROR(checkGpuLibrary(
      blas->ssyrk(blas->handle, kFillUpper, kNotTransposed, size,
                  static_cast<int>(count), &one, rowMemory.get(), size, &one,
                  sums.memory.get(), size),
      "cublasSsyrk"));
  // The next rows take the place of these.
  return QLM_CUDA_CALL(driver, "adding moments", cuStreamSynchronize,
                       stream.get());
}

Status GpuMoments::fetch(const Sums &sums, float *target) {
  std::lock_guard<std::mutex> lock(mutex);
  QLM_RETURN_IF_ERROR(gpu->makeCurrent());
  QLM_RETURN_IF_ERROR(reserve(kLeastStaging));
  const Driver &driver = gpu->getDriver();
  int64_t bytes = 4 * sums.features * sums.features;
  for (int64_t done = 0; done < bytes; done += rowBytes) {
    auto count = static_cast<size_t>(std::min(rowBytes, bytes - done));
    QLM_RETURN_IF_ERROR(QLM_CUDA_CALL(
        driver, "fetching moments", cuMemcpyDtoHAsync, staging.get(),
        sums.memory.get() + static_cast<DevicePointer>(done), count,
        stream.get()));
    QLM_RETURN_IF_ERROR(QLM_CUDA_CALL(driver, "fetching moments",
                                      cuStreamSynchronize, stream.get()));
    std::memcpy(reinterpret_cast<char *>(target) + done, staging.get(), count);
  }
  return Status();
}

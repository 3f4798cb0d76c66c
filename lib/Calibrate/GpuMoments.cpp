//===- GpuMoments.cpp - Statistics of rows that a GPU has -----------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "GpuMoments.h"
#include "GpuLibrary.h"
#include "qlm/Calibrate/RangeObserver.h"

#include <algorithm>
#include <cstring>

using namespace qlm;
using namespace qlm::cuda;

// Values of cuBLAS's stable binary interface. It counts columns first: our
// rows are its columns, and our lower triangle its upper one.
static constexpr int kFillUpper = 1;
static constexpr int kNotTransposed = 0;
static constexpr int kTransposed = 1;
/// What passes through pinned memory at once, of two such buffers.
static constexpr int64_t kStagingBytes = int64_t(16) << 20;

namespace {

/// Where the statistics lie that lib/Lower/Cuda/Observe.cpp finds, each
/// aligned to 256 bytes as kernels want it.
struct Places {
  explicit Places(int64_t features) {
    auto take = [&](int64_t size) {
      int64_t at = bytes;
      bytes += (size + kAlignment - 1) / kAlignment * kAlignment;
      return at;
    };
    magnitudes = take(8 * features);
    absmax = take(4 * features);
    counts = take(8 * RangeObserver::kBins);
    top = take(4);
    windows = bytes;
  }
  int64_t window(int64_t index) const { return windows + index * kAlignment; }

  static constexpr int64_t kAlignment = 256;
  int64_t bytes = 0;
  int64_t magnitudes, absmax, counts, top, windows;
};

} // namespace

/// What we use of cuBLAS.
struct GpuMoments::Blas {
  void *handle = nullptr;
  int (*create)(void **handle) = nullptr;
  int (*destroy)(void *handle) = nullptr;
  int (*setStream)(void *handle, void *stream) = nullptr;
  int (*ssyrk)(void *handle, int fill, int transposed, int size, int depth,
               const float *alpha, DevicePointer a, int aStride,
               const float *beta, DevicePointer c, int cStride) = nullptr;
  int (*sscal)(void *handle, int count, const float *alpha, DevicePointer x,
               int stride) = nullptr;
  int (*sgeam)(void *handle, int aTransposed, int bTransposed, int rows,
               int columns, const float *alpha, DevicePointer a, int aStride,
               const float *beta, DevicePointer b, int bStride, DevicePointer c,
               int cStride) = nullptr;

  ~Blas() {
    if (handle)
      destroy(handle);
  }

  bool findAll(void *library) {
    return findSymbol(library, "cublasCreate_v2", create) &&
           findSymbol(library, "cublasDestroy_v2", destroy) &&
           findSymbol(library, "cublasSetStream_v2", setStream) &&
           findSymbol(library, "cublasSsyrk_v2", ssyrk) &&
           findSymbol(library, "cublasSscal_v2", sscal) &&
           findSymbol(library, "cublasSgeam", sgeam);
  }
  Status use(void *stream) {
    return checkGpuLibrary(setStream(handle, stream), "cublasSetStream");
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
  QLM_RETURN_IF_ERROR(openGpuLibrary(
      "cuBLAS", names, [&](void *library) { return blas->findAll(library); }));
  return checkGpuLibrary(blas->create(&blas->handle), "cublasCreate");
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

//===----------------------------------------------------------------------===//
// Sums
//===----------------------------------------------------------------------===//

Result<GpuMoments::Sums> GpuMoments::makeSums(int64_t features,
                                              int64_t windows) {
  QLM_RETURN_IF_ERROR(gpu->makeCurrent());
  Sums sums;
  sums.features = features;
  sums.mostWindows = windows;
  Result<OwnedStream> stream = makeStream(*gpu);
  if (!stream.ok())
    return stream.status();
  const Driver &driver = gpu->getDriver();
  const std::pair<DeviceMemory *, int64_t> areas[] = {
      {&sums.moments, 4 * features * features},
      {&sums.smallOnes, Places(features).window(windows)}};
  for (auto [memory, bytes] : areas) {
    Result<DeviceMemory> taken = allocateDevice(*gpu, bytes, "second moments");
    if (!taken.ok())
      return taken.status();
    *memory = taken.take();
    QLM_CUDA_TRY(driver, "clearing moments", cuMemsetD8Async, memory->get(), 0,
                 static_cast<size_t>(bytes), stream->get());
  }
  QLM_CUDA_TRY(driver, "clearing moments", cuStreamSynchronize, stream->get());
  return sums;
}

Status GpuMoments::add(Sums &sums, const Executor::DeviceRows &rows) {
  if (sums.windows >= sums.mostWindows)
    return Status(StatusCode::Internal, "sums have room for " +
                                            std::to_string(sums.mostWindows) +
                                            " windows, got another");
  auto size = static_cast<int>(sums.features);
  float one = 1;
  {
    std::lock_guard<std::mutex> lock(mutex);
    QLM_RETURN_IF_ERROR(blas->use(rows.stream));
    QLM_RETURN_IF_ERROR(checkGpuLibrary(
        blas->ssyrk(blas->handle, kFillUpper, kNotTransposed, size,
                    static_cast<int>(rows.count), &one, rows.address, size,
                    &one, sums.moments.get(), size),
        "cublasSsyrk"));
  }
  Places places(sums.features);
  uint64_t base = sums.smallOnes.get();
  uint64_t window = base + static_cast<uint64_t>(places.window(sums.windows++));
  const std::vector<uint64_t> buffers = {
      base + static_cast<uint64_t>(places.magnitudes),
      base + static_cast<uint64_t>(places.absmax),
      base + static_cast<uint64_t>(places.counts),
      base + static_cast<uint64_t>(places.top), window};
  QLM_RETURN_IF_ERROR(rows.start(buffers));
  // Its range is known now; values are counted next.
  QLM_CUDA_TRY(gpu->getDriver(), "adding statistics", cuMemsetD8Async,
               window + 8, 1, 1, static_cast<Stream>(rows.stream));
  return rows.start(buffers);
}

//===----------------------------------------------------------------------===//
// Results
//===----------------------------------------------------------------------===//

/// Bits of a magnitude as a float.
static float toFloat(int32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

Result<GpuMoments::Ranges> GpuMoments::fetchRanges(const Sums &sums) {
  QLM_RETURN_IF_ERROR(gpu->makeCurrent());
  Places places(sums.features);
  auto bytes = static_cast<size_t>(places.window(sums.windows));
  Result<OwnedStream> stream = makeStream(*gpu);
  if (!stream.ok())
    return stream.status();
  Result<PinnedMemory> pinned = allocatePinned(
      *gpu, static_cast<int64_t>(bytes), "statistics of a linear");
  if (!pinned.ok())
    return pinned.status();
  const Driver &driver = gpu->getDriver();
  const char *doing = "fetching statistics";
  QLM_CUDA_TRY(driver, doing, cuMemcpyDtoHAsync, pinned->get(),
               sums.smallOnes.get(), bytes, stream->get());
  QLM_CUDA_TRY(driver, doing, cuStreamSynchronize, stream->get());
  const char *base = static_cast<const char *>(pinned->get());
  Ranges ranges;
  auto *magnitudes = reinterpret_cast<const double *>(base + places.magnitudes);
  ranges.magnitudes.assign(magnitudes, magnitudes + sums.features);
  auto *absmax = reinterpret_cast<const float *>(base + places.absmax);
  ranges.absmax.assign(absmax, absmax + sums.features);
  auto *counts = reinterpret_cast<const int64_t *>(base + places.counts);
  for (int64_t bin = 0; bin < RangeObserver::kBins; ++bin)
    ranges.histogram.push_back(static_cast<double>(counts[bin]));
  ranges.histogramTop =
      toFloat(*reinterpret_cast<const int32_t *>(base + places.top));
  for (int64_t i = 0; i < sums.windows; ++i) {
    auto *window = reinterpret_cast<const int32_t *>(base + places.window(i));
    ranges.windows.emplace_back(toFloat(window[0]), toFloat(window[1]));
  }
  return ranges;
}

Status GpuMoments::mirror(const Sums &sums, float factor, int64_t first,
                          int64_t count, DevicePointer target, void *stream) {
  auto size = static_cast<int>(sums.features);
  DevicePointer from = sums.moments.get();
  auto row = static_cast<DevicePointer>(4 * first);
  std::lock_guard<std::mutex> lock(mutex);
  QLM_RETURN_IF_ERROR(blas->use(stream));
  // Row i is row i of the lower triangle and its column i.
  return checkGpuLibrary(
      blas->sgeam(blas->handle, kNotTransposed, kTransposed, size,
                  static_cast<int>(count), &factor,
                  from + row * static_cast<DevicePointer>(size), size, &factor,
                  from + row, size, target, size),
      "cublasSgeam");
}

Status GpuMoments::halveDiagonal(const Sums &sums, void *stream) {
  auto size = static_cast<int>(sums.features);
  float half = 0.5f;
  std::lock_guard<std::mutex> lock(mutex);
  QLM_RETURN_IF_ERROR(blas->use(stream));
  return checkGpuLibrary(
      blas->sscal(blas->handle, size, &half, sums.moments.get(), size + 1),
      "cublasSscal");
}

Status GpuMoments::fetchMoments(Sums &sums, float factor, const Sink &sink) {
  QLM_RETURN_IF_ERROR(gpu->makeCurrent());
  int64_t size = sums.features;
  int64_t most = std::clamp<int64_t>(kStagingBytes / (4 * size), 1, size);
  DeviceMemory panels[2];
  PinnedMemory buffers[2];
  for (int i : {0, 1}) {
    Result<DeviceMemory> panel =
        allocateDevice(*gpu, 4 * most * size, "moments on their way");
    if (!panel.ok())
      return panel.status();
    panels[i] = panel.take();
    Result<PinnedMemory> pinned =
        allocatePinned(*gpu, 4 * most * size, "moments on their way");
    if (!pinned.ok())
      return pinned.status();
    buffers[i] = pinned.take();
  }
  // After the memory: it is destroyed first, when its copies are done.
  Result<OwnedStream> stream = makeStream(*gpu);
  if (!stream.ok())
    return stream.status();
  const Driver &driver = gpu->getDriver();
  const char *doing = "fetching moments";
  auto begin = [&](int64_t first) {
    int64_t count = std::min(most, size - first), use = first / most % 2;
    QLM_RETURN_IF_ERROR(
        mirror(sums, factor, first, count, panels[use].get(), stream->get()));
    return QLM_CUDA_CALL(driver, doing, cuMemcpyDtoHAsync, buffers[use].get(),
                         panels[use].get(),
                         static_cast<size_t>(4 * count * size), stream->get());
  };
  // The other triangle is 0, and the diagonal would count twice.
  Status status = halveDiagonal(sums, stream->get());
  if (status.ok())
    status = begin(0);
  for (int64_t first = 0; status.ok() && first < size; first += most) {
    status = QLM_CUDA_CALL(driver, doing, cuStreamSynchronize, stream->get());
    // The next rows come while these are taken.
    if (status.ok() && first + most < size)
      status = begin(first + most);
    if (status.ok())
      status = sink(first * size,
                    static_cast<const float *>(buffers[first / most % 2].get()),
                    std::min(most, size - first) * size);
  }
  // Copies may be under way after a failure.
  Status synced =
      QLM_CUDA_CALL(driver, doing, cuStreamSynchronize, stream->get());
  sums.moments = {};
  return status.ok() ? synced : status;
}

//===- Device.h - A GPU and what lives on it --------------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Owners of the driver's objects. Each is created by a function that says why
// it could not be, and destroyed with its owner; errors of destruction are
// dropped, since after a lost GPU every call fails. The Gpu must outlive all
// that was made on it.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_RUNTIME_CUDA_DEVICE_H
#define QLM_LIB_RUNTIME_CUDA_DEVICE_H

#include "Driver.h"

#include <utility>

namespace qlm::cuda {

/// The first GPU, with its primary context.
class Gpu {
public:
  /// Errors: Unsupported (no driver, no GPU), Io.
  static Result<std::unique_ptr<Gpu>> open(const std::string &library);
  ~Gpu();
  Gpu(const Gpu &) = delete;
  Gpu &operator=(const Gpu &) = delete;

  const Driver &getDriver() const { return *driver; }
  const std::string &getName() const { return name; }
  /// Compute capability, 90 for 9.0.
  int getCapability() const { return capability; }
  int getMaxSharedBytes() const { return maxSharedBytes; }

  /// Makes the context current on this thread; each thread that calls the
  /// driver needs it.
  Status makeCurrent() const;

private:
  Gpu() = default;
  Status start();

  std::unique_ptr<Driver> driver;
  Device device = 0;
  Context context = nullptr;
  std::string name;
  int capability = 0, maxSharedBytes = 0;
};

/// Owns a handle that \p Destroy of the driver frees.
template <typename Handle, int (*Driver::*Destroy)(Handle)> class Owner {
public:
  Owner() = default;
  Owner(const Gpu &gpu, Handle handle) : gpu(&gpu), handle(handle) {}
  Owner(Owner &&other) noexcept { swap(other); }
  Owner &operator=(Owner &&other) noexcept {
    swap(other);
    return *this;
  }
  ~Owner() {
    if (handle && gpu->makeCurrent().ok())
      (gpu->getDriver().*Destroy)(handle);
  }
  Handle get() const { return handle; }
  explicit operator bool() const { return handle != Handle(); }

private:
  void swap(Owner &other) {
    std::swap(gpu, other.gpu);
    std::swap(handle, other.handle);
  }
  const Gpu *gpu = nullptr;
  Handle handle = Handle();
};

using OwnedStream = Owner<Stream, &Driver::cuStreamDestroy>;
using OwnedEvent = Owner<Event, &Driver::cuEventDestroy>;
using OwnedModule = Owner<Module, &Driver::cuModuleUnload>;
using OwnedGraph = Owner<Graph, &Driver::cuGraphDestroy>;
using OwnedGraphExec = Owner<GraphExec, &Driver::cuGraphExecDestroy>;
using DeviceMemory = Owner<DevicePointer, &Driver::cuMemFree>;
/// Memory of the host that the GPU can copy from and to by itself.
using PinnedMemory = Owner<void *, &Driver::cuMemFreeHost>;

Result<OwnedStream> makeStream(const Gpu &gpu);
Result<OwnedEvent> makeEvent(const Gpu &gpu);
/// \p purpose names the memory in messages: "the arena". No memory is taken
/// for no bytes.
Result<DeviceMemory> allocateDevice(const Gpu &gpu, int64_t bytes,
                                    const char *purpose);
Result<PinnedMemory> allocatePinned(const Gpu &gpu, int64_t bytes,
                                    const char *purpose);

} // namespace qlm::cuda

#endif // QLM_LIB_RUNTIME_CUDA_DEVICE_H

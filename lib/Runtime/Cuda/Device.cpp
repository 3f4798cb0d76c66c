//===- Device.cpp - A GPU and what lives on it ----------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Device.h"

using namespace qlm;
using namespace qlm::cuda;

Result<std::unique_ptr<Gpu>> Gpu::open(const std::string &library) {
  Result<std::unique_ptr<Driver>> driver = Driver::open(library);
  if (!driver.ok())
    return driver.status();
  std::unique_ptr<Gpu> gpu(new Gpu());
  gpu->driver = driver.take();
  QLM_RETURN_IF_ERROR(gpu->start());
  return gpu;
}

Status Gpu::start() {
  int count = 0;
  QLM_CUDA_TRY(*driver, "counting GPUs", cuDeviceGetCount, &count);
  if (count < 1)
    return Status(StatusCode::Unsupported,
                  "the CUDA driver finds no GPU; the package needs one");
  const char *doing = "asking what the GPU is";
  QLM_CUDA_TRY(*driver, doing, cuDeviceGet, &device, 0);
  char text[256] = {};
  QLM_CUDA_TRY(*driver, doing, cuDeviceGetName, text, sizeof(text) - 1, device);
  name = text;
  int major = 0, minor = 0;
  QLM_CUDA_TRY(*driver, doing, cuDeviceGetAttribute, &major,
               kComputeCapabilityMajor, device);
  QLM_CUDA_TRY(*driver, doing, cuDeviceGetAttribute, &minor,
               kComputeCapabilityMinor, device);
  QLM_CUDA_TRY(*driver, doing, cuDeviceGetAttribute, &maxSharedBytes,
               kMaxSharedBytesOptin, device);
  capability = 10 * major + minor;
  QLM_CUDA_TRY(*driver, "opening the GPU " + name, cuDevicePrimaryCtxRetain,
               &context, device);
  return makeCurrent();
}

Gpu::~Gpu() {
  if (context)
    driver->cuDevicePrimaryCtxRelease(device);
}

Status Gpu::makeCurrent() const {
  return QLM_CUDA_CALL(*driver, "turning to the GPU", cuCtxSetCurrent, context);
}

Result<OwnedStream> cuda::makeStream(const Gpu &gpu) {
  Stream stream = nullptr;
  QLM_CUDA_TRY(gpu.getDriver(), "making a stream", cuStreamCreate, &stream,
               kStreamNonBlocking);
  return OwnedStream(gpu, stream);
}

Result<OwnedEvent> cuda::makeEvent(const Gpu &gpu) {
  Event event = nullptr;
  QLM_CUDA_TRY(gpu.getDriver(), "making an event", cuEventCreate, &event,
               kEventDefault);
  return OwnedEvent(gpu, event);
}

static std::string takingText(int64_t bytes, const char *purpose,
                              const char *where) {
  return "taking " + std::to_string(bytes) + " bytes of " + where + " for " +
         purpose;
}

Result<DeviceMemory> cuda::allocateDevice(const Gpu &gpu, int64_t bytes,
                                          const char *purpose) {
  if (bytes == 0)
    return DeviceMemory();
  DevicePointer pointer = 0;
  QLM_CUDA_TRY(gpu.getDriver(), takingText(bytes, purpose, "GPU memory"),
               cuMemAlloc, &pointer, static_cast<size_t>(bytes));
  return DeviceMemory(gpu, pointer);
}

Result<PinnedMemory> cuda::allocatePinned(const Gpu &gpu, int64_t bytes,
                                          const char *purpose) {
  void *pointer = nullptr;
  QLM_CUDA_TRY(gpu.getDriver(), takingText(bytes, purpose, "pinned memory"),
               cuMemAllocHost, &pointer, static_cast<size_t>(bytes));
  return PinnedMemory(gpu, pointer);
}

//===- StepArguments.cpp - A step's arguments on the GPU ------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "StepArguments.h"

#include <cstring>

using namespace qlm;
using namespace qlm::cuda;

/// Entries of each StepArgument in a step of \p sizes, in its order.
static void countEntries(const format::StepSizes &sizes,
                         int64_t (&counts)[format::kStepArgumentCount]) {
  const int64_t all[format::kStepArgumentCount] = {
      sizes.tokens,    sizes.tokens,
      sizes.tokens,    sizes.sequences + 1,
      sizes.sequences, sizes.sequences * sizes.maxPagesPerSequence,
      sizes.logitRows};
  std::memcpy(counts, all, sizeof(all));
}

static int64_t aligned(int64_t bytes) {
  int64_t unit = static_cast<int64_t>(format::kDeviceAlignment);
  return (bytes + unit - 1) / unit * unit;
}

StepLayout::StepLayout(const format::StepSizes &most) : most(most) {
  int64_t counts[format::kStepArgumentCount];
  countEntries(most, counts);
  int64_t offset = aligned(sizeof(format::StepSizes));
  for (int i = 0; i < format::kStepArgumentCount; ++i) {
    arguments[i] = offset;
    offset += aligned(counts[i] * static_cast<int64_t>(sizeof(int32_t)));
  }
  sampling = offset;
  bytes = offset +
          most.logitRows * static_cast<int64_t>(sizeof(format::SampleRequest));
}

Result<StepArguments> StepArguments::create(const Gpu &gpu,
                                            const format::StepSizes &most) {
  StepArguments result;
  result.gpu = &gpu;
  int64_t bytes = bytesFor(most);
  Result<PinnedMemory> host =
      allocatePinned(gpu, bytes, "the step's arguments");
  if (!host.ok())
    return host.status();
  result.host = host.take();
  Result<DeviceMemory> device =
      allocateDevice(gpu, bytes, "the step's arguments");
  if (!device.ok())
    return device.status();
  result.device = device.take();
  return result;
}

Status StepArguments::send(const StepBatch &batch, const StepLayout &layout,
                           const std::vector<format::SampleRequest> &requests,
                           Stream stream) {
  char *block = static_cast<char *>(host.get());
  const format::StepSizes &sizes = batch.getSizes();
  std::memcpy(block, &sizes, sizeof(sizes));
  int64_t counts[format::kStepArgumentCount];
  countEntries(sizes, counts);
  for (int i = 0; i < format::kStepArgumentCount; ++i)
    std::memcpy(block + layout.arguments[i],
                batch.argument(static_cast<format::StepArgument>(i)),
                static_cast<size_t>(counts[i]) * sizeof(int32_t));
  int64_t bytes = layout.sampling;
  if (!requests.empty()) {
    size_t size = requests.size() * sizeof(format::SampleRequest);
    std::memcpy(block + layout.sampling, requests.data(), size);
    bytes += static_cast<int64_t>(size);
  }
  return QLM_CUDA_CALL(gpu->getDriver(), "bringing a step's arguments",
                       cuMemcpyHtoDAsync, device.get(), host.get(),
                       static_cast<size_t>(bytes), stream);
}

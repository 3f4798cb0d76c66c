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
  for (PinnedMemory &block : result.host) {
    Result<PinnedMemory> host =
        allocatePinned(gpu, bytes, "the step's arguments");
    if (!host.ok())
      return host.status();
    block = host.take();
  }
  Result<DeviceMemory> device =
      allocateDevice(gpu, bytes, "the step's arguments");
  if (!device.ok())
    return device.status();
  result.device = device.take();
  return result;
}

/// Writes what the copy brings; its bytes.
int64_t StepArguments::pack(const StepBatch &batch, const StepLayout &layout,
                            const std::vector<format::SampleRequest> &requests,
                            int turn) {
  char *block = static_cast<char *>(host[turn].get());
  const format::StepSizes &sizes = batch.getSizes();
  std::memcpy(block, &sizes, sizeof(sizes));
  int64_t counts[format::kStepArgumentCount];
  countEntries(sizes, counts);
  for (int i = 0; i < format::kStepArgumentCount; ++i)
    std::memcpy(block + layout.arguments[i],
                batch.argument(static_cast<format::StepArgument>(i)),
                static_cast<size_t>(counts[i]) * sizeof(int32_t));
  if (requests.empty())
    return layout.sampling;
  size_t size = requests.size() * sizeof(format::SampleRequest);
  std::memcpy(block + layout.sampling, requests.data(), size);
  return layout.sampling + static_cast<int64_t>(size);
}

Status StepArguments::send(const StepBatch &batch, const StepLayout &layout,
                           const std::vector<format::SampleRequest> &requests,
                           int turn, Stream stream) {
  int64_t bytes = pack(batch, layout, requests, turn);
  return QLM_CUDA_CALL(gpu->getDriver(), "bringing a step's arguments",
                       cuMemcpyHtoDAsync, device.get(), host[turn].get(),
                       static_cast<size_t>(bytes), stream);
}

Status
StepArguments::sendNext(const StepBatch &batch, const StepLayout &layout,
                        const std::vector<format::SampleRequest> &requests,
                        int turn, Stream stream) {
  int64_t bytes = pack(batch, layout, requests, turn);
  char *block = static_cast<char *>(host[turn].get());
  for (format::StepArgument argument : {format::StepArgument::Positions,
                                        format::StepArgument::ContextLengths}) {
    auto *numbers = reinterpret_cast<int32_t *>(
        block + layout.arguments[static_cast<int>(argument)]);
    for (int64_t i = 0; i < batch.getSizes().sequences; ++i)
      ++numbers[i];
  }
  // The sizes are the last step's, and the tokens lie behind them.
  int64_t begin =
      layout.arguments[static_cast<int>(format::StepArgument::Positions)];
  return QLM_CUDA_CALL(gpu->getDriver(), "bringing a step's arguments",
                       cuMemcpyHtoDAsync, at(begin), block + begin,
                       static_cast<size_t>(bytes - begin), stream);
}

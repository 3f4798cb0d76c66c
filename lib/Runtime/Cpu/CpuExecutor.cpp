//===- CpuExecutor.cpp - Runs a step on the processor's threads -----------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "CpuExecutor.h"

#include "qlm/Package/LaunchScratch.h"

#include <chrono>

using namespace qlm;
using Clock = std::chrono::steady_clock;

CpuExecutor::CpuExecutor(const Package &package, int threads)
    : Executor(package), pool(threads) {}

Result<std::unique_ptr<Executor>>
CpuExecutor::create(const Package &package, int threads, bool reserve) {
  std::unique_ptr<CpuExecutor> executor(new CpuExecutor(package, threads));
  QLM_RETURN_IF_ERROR(executor->allocate(reserve));
  executor->bind();
  return std::unique_ptr<Executor>(std::move(executor));
}

Status CpuExecutor::allocate(bool reserve) {
  const MemoryPlan &plan = package.getManifest().plan;
  auto map = [=](int64_t bytes, const char *purpose, MappedMemory &memory) {
    Result<MappedMemory> result =
        MappedMemory::allocate(static_cast<size_t>(bytes), purpose);
    if (!result.ok())
      return result.status();
    memory = result.take();
    return reserve ? memory.touch() : Status();
  };
  Result<StepBatch> batch = StepBatch::create(plan);
  if (!batch.ok())
    return batch.status();
  step = std::make_unique<StepBatch>(batch.take());
  QLM_RETURN_IF_ERROR(map(plan.arenaBytes, "the arena", arena));
  QLM_RETURN_IF_ERROR(map(plan.kv.poolBytes, "the KV cache", cache));
  QLM_RETURN_IF_ERROR(map(plan.logitsBytes, "the logits", logitsMemory));
  scratch.resize(static_cast<size_t>(pool.size()));
  for (MappedMemory &memory : scratch)
    QLM_RETURN_IF_ERROR(map(plan.scratchBytes, "scratch", memory));
  return Status();
}

void *CpuExecutor::address(const LaunchArgument &argument) const {
  const KvPlan &kv = package.getManifest().plan.kv;
  switch (argument.kind) {
  case LaunchArgumentKind::Weight:
    return weightsMemory().data() +
           package.getTensors().at(argument.key).offset;
  case LaunchArgumentKind::Arena:
    return arena.data() + argument.value;
  case LaunchArgumentKind::Step:
    return step->argument(static_cast<format::StepArgument>(argument.value));
  case LaunchArgumentKind::Cache:
    return cache.data() + argument.value * kv.pages * kv.pageBytes;
  case LaunchArgumentKind::Logits:
    return logitsMemory.data();
  case LaunchArgumentKind::Workspace:
  case LaunchArgumentKind::Sampling:
  case LaunchArgumentKind::Sampled:
    break; // checkLaunches allows them on GPUs alone
  }
  return nullptr;
}

/// Whether a launch computes the wanted rows only: the manifest says so of
/// launches by rows, and the logits have no others.
static bool isOnLogitRows(const Launch &launch) {
  if (launch.tiles.size == TileSize::LogitRows)
    return true;
  for (const LaunchArgument &argument : launch.arguments)
    if (argument.kind == LaunchArgumentKind::Logits)
      return true;
  return false;
}

void CpuExecutor::bind() {
  const Manifest &manifest = package.getManifest();
  for (size_t i = 0; i < manifest.launches.size(); ++i) {
    const Launch &launch = manifest.launches[i];
    BoundLaunch bound{package.getKernels()[i],
                      {},
                      launch.tiles,
                      isOnLogitRows(launch),
                      std::make_unique<TileQueue>(pool.size())};
    bound.isObserved = !launch.arguments.empty() &&
                       parseObserveLabel(launch.label).has_value();
    for (const LaunchArgument &argument : launch.arguments)
      bound.buffers.push_back(address(argument));
    launches.push_back(std::move(bound));
  }
}

/// Chunks of each thread's part of a launch: what a thread prepares for its
/// rows, it prepares once a launch.
static constexpr int64_t kChunks = 4;

void CpuExecutor::resetQueues() {
  const format::StepSizes &sizes = step->getSizes();
  for (BoundLaunch &launch : launches)
    launch.queue->reset(countTiles(launch.tiles, sizes), kChunks);
}

/// Every thread walks all launches and leaves one when all its tiles are
/// computed, by whichever thread.
void CpuExecutor::runThread(int index) {
  const format::StepSizes &sizes = step->getSizes();
  char *privateScratch = scratch[static_cast<size_t>(index)].data();
  for (size_t i = 0; i < launches.size(); ++i) {
    const BoundLaunch &launch = launches[i];
    bool timed = profile && index == 0;
    Clock::time_point begin = timed ? Clock::now() : Clock::time_point();
    format::beginLaunch(privateScratch);
    for (;;) {
      auto [lo, hi] = launch.queue->take(index);
      if (lo == hi)
        break;
      if (launch.isObserved && observer)
        observer(i, static_cast<const float *>(launch.buffers[0]), lo, hi);
      else
        launch.kernel(launch.buffers.data(), &sizes, lo, hi, privateScratch);
      launch.queue->finish(hi - lo);
    }
    launch.queue->wait();
    if (timed)
      profile->add(i,
                   std::chrono::duration<double>(Clock::now() - begin).count(),
                   launch.onLogitRows ? sizes.logitRows : sizes.tokens);
  }
}

Status CpuExecutor::run() {
  if (!step->getSizes().tokens)
    return Status();
  adoptCopy();
  resetQueues();
  pool.run([this](int index) { runThread(index); });
  if (package.isCopyDue() && !copy)
    copy = std::make_unique<WeightsCopy>(package);
  return Status();
}

/// Reads weights from the copy once it is complete.
void CpuExecutor::adoptCopy() {
  if (weights.data() || !copy || !copy->isReady())
    return;
  weights = copy->take();
  if (!weights.data())
    return; // It failed; the file stays mapped.
  const std::vector<Launch> &all = package.getManifest().launches;
  for (size_t i = 0; i < all.size(); ++i)
    for (size_t j = 0; j < all[i].arguments.size(); ++j)
      if (all[i].arguments[j].kind == LaunchArgumentKind::Weight)
        launches[i].buffers[j] = address(all[i].arguments[j]);
  package.weightsMemory().adviseDontNeed();
}

void CpuExecutor::settle() {
  if (!package.isCopyDue())
    return;
  if (!copy)
    copy = std::make_unique<WeightsCopy>(package);
  copy->wait();
  adoptCopy();
}

void CpuExecutor::forEach(int64_t count,
                          const std::function<void(int64_t)> &body) {
  std::atomic<int64_t> next{0};
  pool.run([&](int) {
    for (int64_t i; (i = next.fetch_add(1)) < count;)
      body(i);
  });
}

float *CpuExecutor::logits(int64_t row) {
  return reinterpret_cast<float *>(logitsMemory.data()) +
         row * package.getManifest().model.vocabularySize;
}

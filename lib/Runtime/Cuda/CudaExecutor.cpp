//===- CudaExecutor.cpp - Runs a step on a GPU ----------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "CudaExecutor.h"

#include "MemoryNeeds.h"

#include <algorithm>
#include <climits>
#include <cmath>

using namespace qlm;
using namespace qlm::cuda;

/// Rows that a request wasn't made for take the most likely token, which
/// nobody reads.
static constexpr format::SampleRequest kUnasked = {0, 1, 0, 0, 0, 0};

/// The first variant of \p launch for \p rows rows; checkLaunches made sure
/// that there is one for all that a step can have.
static const LaunchVariant &chooseVariant(const Launch &launch,
                                          const std::string &chip, int64_t rows,
                                          bool isDecode) {
  for (const LaunchVariant &variant : launch.variants)
    if (isFor(variant, chip) && variant.maxRows >= rows &&
        (isDecode || !variant.isDecodeOnly))
      return variant;
  return launch.variants.back();
}

static format::StepSizes largestStep(const MemoryPlan &plan) {
  return {plan.maxStepTokens, plan.maxBatch, plan.maxLogitRows,
          plan.maxPagesPerSequence()};
}

//===----------------------------------------------------------------------===//
// Creation
//===----------------------------------------------------------------------===//

CudaExecutor::CudaExecutor(const Package &package, std::unique_ptr<Gpu> gpu)
    : Executor(package), gpu(std::move(gpu)), weights(package) {
  for (const Launch &launch : package.getManifest().sampling)
    for (const LaunchArgument &argument : launch.arguments)
      feedsTokens |=
          argument.kind == LaunchArgumentKind::Step &&
          argument.value == static_cast<int64_t>(format::StepArgument::Tokens);
}

CudaExecutor::~CudaExecutor() {
  // What a failed step left running must not outlive its memory.
  if (stream && gpu->makeCurrent().ok())
    gpu->getDriver().cuStreamSynchronize(stream.get());
}

Result<std::unique_ptr<Executor>> CudaExecutor::create(const Package &package,
                                                       const Options &options) {
  Result<std::unique_ptr<Gpu>> gpu = Gpu::open(options.cudaDriver);
  if (!gpu.ok())
    return gpu.status();
  std::unique_ptr<CudaExecutor> executor(new CudaExecutor(package, gpu.take()));
  Result<GpuCode> code = GpuCode::load(*executor->gpu, package);
  if (!code.ok())
    return code.status();
  executor->code = code.take();
  QLM_RETURN_IF_ERROR(executor->checkGrids());
  QLM_RETURN_IF_ERROR(executor->allocate());
  QLM_RETURN_IF_ERROR(executor->weights.load(*executor->gpu, options.threads));
  QLM_RETURN_IF_ERROR(executor->clearMemory());
  QLM_RETURN_IF_ERROR(executor->captureBuckets());
  return std::unique_ptr<Executor>(std::move(executor));
}

/// Blocks of a grid that the GPU can count.
Status CudaExecutor::checkGrids() const {
  const Manifest &manifest = package.getManifest();
  format::StepSizes largest = largestStep(manifest.plan);
  for (const std::vector<Launch> *list :
       {&manifest.launches, &manifest.sampling})
    for (const Launch &launch : *list)
      for (const LaunchVariant &variant : launch.variants) {
        int64_t x = countTiles(variant.grid, largest);
        int64_t y = countTiles(variant.gridY, largest);
        if (isFor(variant, code.getChip()) && (x > INT_MAX || y > 65535))
          return Status(StatusCode::Corrupt,
                        package.getPath() + ": a grid must be at most " +
                            std::to_string(INT_MAX) + " by 65535 blocks, '" +
                            launch.label + "' has " + std::to_string(x) +
                            " by " + std::to_string(y));
      }
  return Status();
}

Status CudaExecutor::allocate() {
  const MemoryPlan &plan = package.getManifest().plan;
  format::StepSizes largest = largestStep(plan);
  int64_t sampledBytes =
      plan.maxLogitRows * static_cast<int64_t>(sizeof(format::SampleResult));
  std::vector<MemoryNeed> needs = {
      {"weights", weights.getBytes()},
      {"KV cache", plan.kv.poolBytes},
      {"arena", plan.arenaBytes},
      {"workspace", plan.workspaceBytes},
      {"logits", plan.logitsBytes},
      {"step arguments", StepArguments::bytesFor(largest) + sampledBytes}};
  QLM_RETURN_IF_ERROR(checkMemory(*gpu, needs));
  for (const MemoryNeed &need : needs)
    takenBytes += need.bytes;

  Result<StepBatch> batch = StepBatch::create(plan);
  if (!batch.ok())
    return batch.status();
  step = std::make_unique<StepBatch>(batch.take());
  Status status;
  auto keep = [&status](auto result, auto &place) {
    if (result.ok())
      place = result.take();
    else if (status.ok())
      status = result.status();
  };
  keep(makeStream(*gpu), stream);
  keep(allocateDevice(*gpu, plan.arenaBytes, "the arena"), arena);
  keep(allocateDevice(*gpu, plan.kv.poolBytes, "the KV cache"), cache);
  keep(allocateDevice(*gpu, plan.workspaceBytes, "the workspace"), workspace);
  keep(allocateDevice(*gpu, plan.logitsBytes, "the logits"), deviceLogits);
  keep(allocateDevice(*gpu, sampledBytes, "sampled tokens"), deviceSampled);
  keep(allocatePinned(*gpu, plan.logitsBytes, "the logits"), hostLogits);
  keep(allocatePinned(*gpu, 2 * sampledBytes, "sampled tokens"), hostSampled);
  for (OwnedEvent &event : done)
    keep(makeEvent(*gpu), event);
  keep(StepArguments::create(*gpu, largest), arguments);
  return status;
}

/// Kernels count on zeros in the workspace; the rest is cleared so that what
/// masked reads meet is a number.
Status CudaExecutor::clearMemory() {
  const MemoryPlan &plan = package.getManifest().plan;
  const std::pair<DevicePointer, int64_t> areas[] = {
      {arena.get(), plan.arenaBytes},
      {cache.get(), plan.kv.poolBytes},
      {workspace.get(), plan.workspaceBytes}};
  for (auto [pointer, bytes] : areas)
    if (bytes)
      QLM_CUDA_TRY(gpu->getDriver(), "clearing the plan's memory",
                   cuMemsetD8Async, pointer, 0, static_cast<size_t>(bytes),
                   stream.get());
  return QLM_CUDA_CALL(gpu->getDriver(), "clearing the plan's memory",
                       cuStreamSynchronize, stream.get());
}

Status CudaExecutor::captureBuckets() {
  const MemoryPlan &plan = package.getManifest().plan;
  int64_t most = std::min(plan.maxBatch, plan.maxStepTokens);
  for (int64_t rows = 1;; rows *= 2) {
    int64_t size = std::min(rows, most);
    StepLayout layout({size, size, std::min(size, plan.maxLogitRows),
                       plan.maxPagesPerSequence()});
    Result<OwnedGraphExec> exec = capture(layout, /*samples=*/false);
    if (!exec.ok())
      return exec.status();
    Bucket bucket{layout, exec.take(), {}};
    if (!package.getManifest().sampling.empty()) {
      Result<OwnedGraphExec> sampling = capture(layout, /*samples=*/true);
      if (!sampling.ok())
        return sampling.status();
      bucket.sampling = sampling.take();
    }
    buckets.emplace(size, std::move(bucket));
    if (size == most)
      return Status();
  }
}

Result<OwnedGraphExec> CudaExecutor::capture(const StepLayout &layout,
                                             bool samples) {
  const Driver &driver = gpu->getDriver();
  const char *doing = "capturing a step";
  QLM_CUDA_TRY(driver, doing, cuStreamBeginCapture, stream.get(),
               kCaptureThreadLocal);
  Status launched =
      launchAll(package.getManifest().launches, layout, /*isDecode=*/true);
  if (samples && launched.ok())
    launched =
        launchAll(package.getManifest().sampling, layout, /*isDecode=*/true);
  Graph handle = nullptr;
  // Also after a failure: it ends the stream's capturing.
  Status ended =
      QLM_CUDA_CALL(driver, doing, cuStreamEndCapture, stream.get(), &handle);
  OwnedGraph graph(*gpu, handle);
  QLM_RETURN_IF_ERROR(launched);
  QLM_RETURN_IF_ERROR(ended);
  GraphExec exec = nullptr;
  QLM_CUDA_TRY(driver, doing, cuGraphInstantiate, &exec, graph.get(), 0);
  OwnedGraphExec owned(*gpu, exec);
  QLM_CUDA_TRY(driver, doing, cuGraphUpload, exec, stream.get());
  return owned;
}

//===----------------------------------------------------------------------===//
// Launches
//===----------------------------------------------------------------------===//

DevicePointer CudaExecutor::address(const LaunchArgument &argument,
                                    const StepLayout &layout) const {
  const KvPlan &kv = package.getManifest().plan.kv;
  auto offset = static_cast<uint64_t>(argument.value);
  switch (argument.kind) {
  case LaunchArgumentKind::Weight:
    return weights.at(argument.key);
  case LaunchArgumentKind::Arena:
    return arena.get() + offset;
  case LaunchArgumentKind::Step:
    return arguments.at(layout.arguments[argument.value]);
  case LaunchArgumentKind::Cache:
    return cache.get() +
           offset * static_cast<uint64_t>(kv.pages * kv.pageBytes);
  case LaunchArgumentKind::Logits:
    return deviceLogits.get();
  case LaunchArgumentKind::Workspace:
    return workspace.get() + offset;
  case LaunchArgumentKind::Sampling:
    return arguments.at(layout.sampling);
  case LaunchArgumentKind::Sampled:
    return deviceSampled.get();
  }
  return 0;
}

/// The grid and the variant are those of the layout's largest step.
Status CudaExecutor::launch(const Launch &launch, const StepLayout &layout,
                            bool isDecode) {
  const LaunchVariant &variant = chooseVariant(
      launch, code.getChip(), sizeOf(launch.rows, layout.most), isDecode);
  int64_t gridX = countTiles(variant.grid, layout.most);
  int64_t gridY = countTiles(variant.gridY, layout.most);
  if (gridX == 0 || gridY == 0)
    return Status();
  std::vector<DevicePointer> buffers;
  for (const LaunchArgument &argument : launch.arguments)
    buffers.push_back(address(argument, layout));
  return start(launch, variant, gridX, gridY, std::move(buffers));
}

/// Starts the kernel of \p variant, whose arguments are \p buffers and the
/// step's sizes.
Status CudaExecutor::start(const Launch &launch, const LaunchVariant &variant,
                           int64_t gridX, int64_t gridY,
                           std::vector<DevicePointer> buffers) {
  buffers.push_back(arguments.at(0));
  // The driver copies the values before it returns.
  std::vector<void *> parameters;
  for (DevicePointer &value : buffers)
    parameters.push_back(&value);

  LaunchAttribute attributes[2] = {};
  LaunchConfig config = {static_cast<unsigned>(gridX),
                         static_cast<unsigned>(gridY),
                         1,
                         static_cast<unsigned>(variant.blockThreads),
                         1,
                         1,
                         static_cast<unsigned>(variant.sharedBytes),
                         stream.get(),
                         attributes,
                         0};
  if (variant.isDependent) {
    LaunchAttribute &attribute = attributes[config.attributeCount++];
    attribute.id = kProgrammaticStreamSerialization;
    attribute.value.programmaticStreamSerialization = 1;
  }
  if (variant.cluster > 1) {
    LaunchAttribute &attribute = attributes[config.attributeCount++];
    attribute.id = kClusterDimension;
    attribute.value.cluster = {static_cast<unsigned>(variant.cluster), 1, 1};
  }
  int error = gpu->getDriver().cuLaunchKernelEx(
      &config, code.getFunction(variant.kernel), parameters.data(), nullptr);
  if (error == kSuccess)
    return Status();
  return gpu->getDriver().check(error, "cuLaunchKernelEx",
                                "starting '" + launch.label + "' (" +
                                    variant.kernel + ")");
}

Status CudaExecutor::launchAll(const std::vector<Launch> &launches,
                               const StepLayout &layout, bool isDecode) {
  for (const Launch &entry : launches)
    QLM_RETURN_IF_ERROR(launch(entry, layout, isDecode));
  return Status();
}

/// With an event between every two launches, which so can't overlap. All are
/// under way before the first time is read: the GPU never waits for the host.
Status CudaExecutor::launchTimed(const StepLayout &layout, bool isDecode) {
  const Driver &driver = gpu->getDriver();
  const char *doing = "timing a launch";
  const std::vector<Launch> &launches = package.getManifest().launches;
  while (profileEvents.size() <= launches.size()) {
    Result<OwnedEvent> event = makeEvent(*gpu);
    if (!event.ok())
      return event.status();
    profileEvents.push_back(event.take());
  }
  auto record = [&](size_t index) {
    return QLM_CUDA_CALL(driver, doing, cuEventRecord,
                         profileEvents[index].get(), stream.get());
  };
  QLM_RETURN_IF_ERROR(record(0));
  for (size_t i = 0; i < launches.size(); ++i) {
    QLM_RETURN_IF_ERROR(launch(launches[i], layout, isDecode));
    QLM_RETURN_IF_ERROR(record(i + 1));
  }
  QLM_CUDA_TRY(driver, doing, cuEventSynchronize,
               profileEvents[launches.size()].get());
  for (size_t i = 0; i < launches.size(); ++i) {
    float milliseconds = 0;
    QLM_CUDA_TRY(driver, doing, cuEventElapsedTime, &milliseconds,
                 profileEvents[i].get(), profileEvents[i + 1].get());
    profile->add(i, milliseconds * 1e-3,
                 sizeOf(launches[i].rows, step->getSizes()));
  }
  return Status();
}

/// Brings the rows that launch \p index observes to the host, and shows them.
Status CudaExecutor::show(size_t index, int64_t features,
                          const StepLayout &layout) {
  const Launch &launch = package.getManifest().launches[index];
  int64_t rows = sizeOf(launch.rows, step->getSizes());
  int64_t bytes = rows * features * static_cast<int64_t>(sizeof(float));
  if (bytes > observedBytes) {
    hostObserved = {};
    observedBytes = 0;
    Result<PinnedMemory> memory = allocatePinned(*gpu, bytes, "observed rows");
    if (!memory.ok())
      return memory.status();
    hostObserved = memory.take();
    observedBytes = bytes;
  }
  const Driver &driver = gpu->getDriver();
  const char *doing = "bringing observed rows";
  QLM_CUDA_TRY(driver, doing, cuMemcpyDtoHAsync, hostObserved.get(),
               address(launch.arguments.front(), layout),
               static_cast<size_t>(bytes), stream.get());
  QLM_CUDA_TRY(driver, doing, cuStreamSynchronize, stream.get());
  observer(index, static_cast<const float *>(hostObserved.get()), 0, rows);
  return Status();
}

/// Shows the rows that launch \p index observes where they are.
Status CudaExecutor::showOnDevice(size_t index, const StepLayout &layout,
                                  bool isDecode) {
  const Launch &launch = package.getManifest().launches[index];
  DeviceRows rows;
  rows.launch = index;
  rows.address = address(launch.arguments.front(), layout);
  rows.count = sizeOf(launch.rows, step->getSizes());
  rows.stream = stream.get();
  rows.start = [&](const std::vector<uint64_t> &buffers) {
    const LaunchVariant &variant =
        chooseVariant(launch, code.getChip(), rows.count, isDecode);
    std::vector<DevicePointer> all = {rows.address};
    all.insert(all.end(), buffers.begin(), buffers.end());
    return start(launch, variant, /*gridX=*/1,
                 countTiles(variant.gridY, layout.most), std::move(all));
  };
  return rows.count ? deviceObserver(rows) : Status();
}

Status CudaExecutor::launchObserved(const StepLayout &layout, bool isDecode) {
  const std::vector<Launch> &launches = package.getManifest().launches;
  for (size_t i = 0; i < launches.size(); ++i) {
    auto observed = parseObserveLabel(launches[i].label);
    if (!observed)
      QLM_RETURN_IF_ERROR(launch(launches[i], layout, isDecode));
    else if (deviceObserver)
      QLM_RETURN_IF_ERROR(showOnDevice(i, layout, isDecode));
    else
      QLM_RETURN_IF_ERROR(show(i, observed->second, layout));
  }
  return Status();
}

//===----------------------------------------------------------------------===//
// Steps
//===----------------------------------------------------------------------===//

/// The smallest captured step that the batch's fits in, or null.
CudaExecutor::Bucket *CudaExecutor::findBucket() {
  const format::StepSizes &sizes = step->getSizes();
  if (sizes.tokens != sizes.sequences)
    return nullptr;
  auto found = buckets.lower_bound(sizes.tokens);
  return found == buckets.end() ? nullptr : &found->second;
}

/// The step's launches, then those that choose tokens, if any are asked for.
Status CudaExecutor::runLaunches(const StepLayout &layout, Bucket *bucket,
                                 bool isDecode) {
  const Manifest &manifest = package.getManifest();
  if (bucket && !profile && !observer && !deviceObserver)
    return QLM_CUDA_CALL(
        gpu->getDriver(), "starting a step", cuGraphLaunch,
        requested ? bucket->sampling.get() : bucket->exec.get(), stream.get());
  if (profile)
    QLM_RETURN_IF_ERROR(launchTimed(layout, isDecode));
  else if (observer || deviceObserver)
    QLM_RETURN_IF_ERROR(launchObserved(layout, isDecode));
  else
    QLM_RETURN_IF_ERROR(launchAll(manifest.launches, layout, isDecode));
  if (!requested)
    return Status();
  return launchAll(manifest.sampling, layout, isDecode);
}

format::SampleResult *CudaExecutor::results(int which) const {
  return static_cast<format::SampleResult *>(hostSampled.get()) +
         which * package.getManifest().plan.maxLogitRows;
}

/// Starts the copy of the step's results: tokens where all were asked for,
/// else logits too.
Status CudaExecutor::fetch() {
  const Driver &driver = gpu->getDriver();
  const char *doing = "bringing a step's results";
  auto rows = static_cast<size_t>(step->getSizes().logitRows);
  auto vocabulary =
      static_cast<size_t>(package.getManifest().model.vocabularySize);
  if (requested)
    QLM_CUDA_TRY(driver, doing, cuMemcpyDtoHAsync, results(turn),
                 deviceSampled.get(), rows * sizeof(format::SampleResult),
                 stream.get());
  if (requested < step->getSizes().logitRows)
    QLM_CUDA_TRY(driver, doing, cuMemcpyDtoHAsync, hostLogits.get(),
                 deviceLogits.get(), rows * vocabulary * sizeof(float),
                 stream.get());
  return QLM_CUDA_CALL(driver, doing, cuEventRecord, done[turn].get(),
                       stream.get());
}

/// Starts the step, from its arguments to its results.
Status CudaExecutor::begin() {
  const format::StepSizes &sizes = step->getSizes();
  bool isDecode = sizes.tokens == sizes.sequences;
  Bucket *bucket = findBucket();
  StepLayout layout = bucket ? bucket->layout : StepLayout(sizes);
  QLM_RETURN_IF_ERROR(
      arguments.send(*step, layout, requests, turn, stream.get()));
  QLM_RETURN_IF_ERROR(runLaunches(layout, bucket, isDecode));
  places.clear();
  for (int64_t i = 0; i < sizes.logitRows; ++i)
    places.push_back(i);
  return fetch();
}

/// Whether the step after this one can begin with what is known now.
bool CudaExecutor::canBeginNext() const {
  int64_t rows = step->getSizes().logitRows;
  bool isWhole = places.empty() || places.back() + 1 == rows;
  return feedsTokens && !profile && requested == rows && isWhole &&
         static_cast<int64_t>(nextUniforms.size()) == rows &&
         AheadStep::canFollow(*step, package.getManifest().plan);
}

/// Starts the step after this one, in the place of the one that is done.
Status CudaExecutor::beginNext() {
  for (size_t i = 0; i < requests.size(); ++i)
    requests[i].uniform = nextUniforms[i];
  Bucket *bucket = findBucket();
  StepLayout layout = bucket ? bucket->layout : StepLayout(step->getSizes());
  turn ^= 1;
  QLM_RETURN_IF_ERROR(
      arguments.sendNext(*step, layout, requests, turn, stream.get()));
  QLM_RETURN_IF_ERROR(runLaunches(layout, bucket, /*isDecode=*/true));
  QLM_RETURN_IF_ERROR(fetch());
  ahead.begin(*step, requests, package.getManifest().plan.kv.pageTokens);
  return Status();
}

Status CudaExecutor::run() {
  const format::StepSizes &sizes = step->getSizes();
  if (!sizes.tokens)
    return Status();
  QLM_RETURN_IF_ERROR(gpu->makeCurrent());
  if (requested)
    requests.resize(static_cast<size_t>(sizes.logitRows), kUnasked);
  bool wasAhead = ahead.isUnderWay();
  // The results of the step before are where the one ahead doesn't put its own.
  bool isBegun = wasAhead && !profile &&
                 ahead.match(*step, requests, results(turn), places);
  ahead.forget();
  Status status;
  if (isBegun)
    turn ^= 1;
  else
    status = begin();
  int mine = turn;
  // After a step for nothing, both blocks of arguments are under way.
  bool goesOn = status.ok() && isBegun == wasAhead && canBeginNext();
  if (goesOn) {
    status = beginNext();
    turn = mine;
  }
  if (goesOn && status.ok())
    status = QLM_CUDA_CALL(gpu->getDriver(), "waiting for a step",
                           cuEventSynchronize, done[mine].get());
  // Also after a failure: the next step writes what this one's copies read.
  if (!goesOn || !status.ok()) {
    Status synced = QLM_CUDA_CALL(gpu->getDriver(), "waiting for a step",
                                  cuStreamSynchronize, stream.get());
    ahead.forget();
    status = status.ok() ? synced : status;
  }
  requests.clear();
  nextUniforms.clear();
  requested = 0;
  return status;
}

float *CudaExecutor::logits(int64_t row) {
  return static_cast<float *>(hostLogits.get()) +
         row * package.getManifest().model.vocabularySize;
}

//===----------------------------------------------------------------------===//
// Sampling
//===----------------------------------------------------------------------===//

bool CudaExecutor::canSample(const SamplingOptions &options) const {
  // Penalties depend on all tokens of the text so far, which the device does
  // not keep, and biases on tables that it does not get.
  return !package.getManifest().sampling.empty() &&
         options.repetitionPenalty == 1 && options.frequencyPenalty == 0 &&
         options.presencePenalty == 0 && options.logitBias.empty();
}

void CudaExecutor::sampleRow(int64_t row, const SamplingOptions &options,
                             double uniform) {
  auto index = static_cast<size_t>(row);
  if (index >= requests.size())
    requests.resize(index + 1, kUnasked);
  int64_t vocabulary = package.getManifest().model.vocabularySize;
  requests[index] = {options.temperature,
                     options.topP,
                     options.minP,
                     static_cast<int32_t>(std::min(options.topK, vocabulary)),
                     uniform,
                     0};
  ++requested;
}

void CudaExecutor::expectNext(const std::vector<double> &uniforms) {
  nextUniforms = uniforms;
}

Result<SampledToken> CudaExecutor::sampled(int64_t row) {
  const format::SampleResult &result =
      results(turn)[places[static_cast<size_t>(row)]];
  if (std::isnan(result.logProbability))
    return Status(StatusCode::Internal,
                  "the model's logits are not finite numbers");
  return SampledToken{result.token, result.logProbability};
}

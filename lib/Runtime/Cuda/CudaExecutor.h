//===- CudaExecutor.h - Runs a step on a GPU --------------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A step is: one copy of its arguments from pinned memory, its launches, one
// copy of logits or of chosen tokens back, one wait.
//
// Steps in which every sequence has one row are captured while loading, one
// graph for each power of two of rows up to the largest batch: a graph's grids
// and variants are those of its largest step, and kernels leave the rows alone
// that a smaller step lacks. Other steps have prompts in them and take longer
// than the processor needs to launch their kernels one by one, with the grids
// that just fit; so no graph of unforeseen size asks for memory in mid-run.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_RUNTIME_CUDA_CUDAEXECUTOR_H
#define QLM_LIB_RUNTIME_CUDA_CUDAEXECUTOR_H

#include "AheadStep.h"
#include "GpuCode.h"
#include "StepArguments.h"
#include "WeightLoader.h"
#include "qlm/Runtime/Executor.h"

#include <map>
#include <vector>

namespace qlm {

class CudaExecutor final : public Executor {
public:
  /// See Executor::create.
  static Result<std::unique_ptr<Executor>> create(const Package &package,
                                                  const Options &options);
  ~CudaExecutor() override;

  Status run() override;
  float *logits(int64_t row) override;
  bool canSample(const SamplingOptions &options) const override;
  void sampleRow(int64_t row, const SamplingOptions &options,
                 double uniform) override;
  void expectNext(const std::vector<double> &uniforms) override;
  Result<SampledToken> sampled(int64_t row) override;
  int64_t deviceBytes() const override { return takenBytes; }
  int threads() const override { return 1; }
  bool hasDeviceRows() const override { return true; }

private:
  /// A captured step of all sizes up to those of its layout.
  struct Bucket {
    cuda::StepLayout layout;
    cuda::OwnedGraphExec exec;
    /// The same with the choice of tokens behind it, where there is one.
    cuda::OwnedGraphExec sampling;
  };

  CudaExecutor(const Package &package, std::unique_ptr<cuda::Gpu> gpu);
  Status allocate();
  Status clearMemory();
  Status checkGrids() const;
  Status captureBuckets();
  Result<cuda::OwnedGraphExec> capture(const cuda::StepLayout &layout,
                                       bool samples);
  cuda::DevicePointer address(const LaunchArgument &argument,
                              const cuda::StepLayout &layout) const;
  Status launch(const Launch &launch, const cuda::StepLayout &layout,
                bool isDecode);
  Status launchAll(const std::vector<Launch> &launches,
                   const cuda::StepLayout &layout, bool isDecode);
  Status launchTimed(const cuda::StepLayout &layout, bool isDecode);
  Status start(const Launch &launch, const LaunchVariant &variant,
               int64_t gridX, int64_t gridY,
               std::vector<cuda::DevicePointer> buffers);
  Status launchObserved(const cuda::StepLayout &layout, bool isDecode);
  Status show(size_t index, int64_t features, const cuda::StepLayout &layout);
  Status showOnDevice(size_t index, const cuda::StepLayout &layout,
                      bool isDecode);
  Status runLaunches(const cuda::StepLayout &layout, Bucket *bucket,
                     bool isDecode);
  Status fetch();
  Bucket *findBucket();
  Status begin();
  bool canBeginNext() const;
  Status beginNext();
  format::SampleResult *results(int which) const;

  // Declared in the order of creation: the GPU goes last.
  std::unique_ptr<cuda::Gpu> gpu;
  cuda::GpuCode code;
  cuda::DeviceWeights weights;
  cuda::DeviceMemory arena, cache, workspace, deviceLogits, deviceSampled;
  cuda::PinnedMemory hostLogits, hostSampled;
  cuda::StepArguments arguments;
  cuda::PinnedMemory hostObserved; ///< rows on their way to an observer
  int64_t observedBytes = 0;       ///< of it
  cuda::OwnedStream stream;
  std::vector<cuda::OwnedEvent> profileEvents; ///< made when first used
  std::map<int64_t, Bucket> buckets;           ///< by rows
  std::vector<format::SampleRequest> requests;
  int64_t requested = 0; ///< rows of the step with a request
  /// Draws the tokens of the step that is expected after this one; or empty.
  std::vector<double> nextUniforms;
  bool feedsTokens = false; ///< sampling launches leave tokens for a next step
  cuda::AheadStep ahead;
  /// Blocks of arguments, results and events are two of each: those of this
  /// step, and those of one that is ahead.
  int turn = 0;
  cuda::OwnedEvent done[2];
  std::vector<int64_t> places; ///< of the step's rows among the results
  int64_t takenBytes = 0;
};

} // namespace qlm

#endif // QLM_LIB_RUNTIME_CUDA_CUDAEXECUTOR_H

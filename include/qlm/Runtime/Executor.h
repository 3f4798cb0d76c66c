//===- Executor.h - Runs the launches of a step -----------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_RUNTIME_EXECUTOR_H
#define QLM_RUNTIME_EXECUTOR_H

#include "qlm/Runtime/Package.h"
#include "qlm/Runtime/Sampler.h"
#include "qlm/Runtime/StepBatch.h"
#include "qlm/Runtime/StepProfile.h"

#include <functional>
#include <memory>

namespace qlm {

/// The memory of a package's plan, and its launches bound to it, on the device
/// that the package was compiled for. Not thread safe: one step at a time.
class Executor {
public:
  struct Options {
    /// Threads that compute on the processor, or that load weights to a GPU.
    int threads = 1;
    /// On the processor memory is touched as it is used; with this, all of it
    /// at once. A GPU's is always taken at once.
    bool reserve = false;
    /// Library of the CUDA driver, opened for packages that need it.
    std::string cudaDriver = "libcuda.so.1";
  };

  /// Takes arena, caches and logits on the package's device, and brings the
  /// weights there. The package must outlive the executor.
  /// Errors: ResourceExhausted; Unsupported where the device is not there or
  /// cannot run the package's code; Corrupt (a damaged file); Io (the device
  /// failed).
  static Result<std::unique_ptr<Executor>> create(const Package &package,
                                                  const Options &options);
  virtual ~Executor() = default;
  Executor(const Executor &) = delete;
  Executor &operator=(const Executor &) = delete;

  /// Where the next step's rows are put.
  StepBatch &batch() { return *step; }

  /// Runs one step over batch() and returns when its logits can be read. A
  /// step without rows does nothing. After an error nothing of the step counts
  /// as computed. Errors: Io (the device failed).
  virtual Status run() = 0;

  /// Logits of the step's \p row -th wanted row, float32 [vocabularySize];
  /// valid, and free to be changed, until the next step.
  virtual float *logits(int64_t row) = 0;

  /// Whether the device can choose tokens by \p options itself; then logits
  /// need not come to the host.
  virtual bool canSample(const SamplingOptions &options) const {
    (void)options;
    return false;
  }

  /// Asks the next run() to choose the token of the step's \p row -th wanted
  /// row, by \p options and the number \p uniform in [0, 1); canSample must
  /// hold. The row's logits can't be read after it. The token is that which
  /// Sampler chooses by the same logits and number.
  virtual void sampleRow(int64_t row, const SamplingOptions &options,
                         double uniform) {
    (void)row, (void)options, (void)uniform;
  }

  /// Says, after sampleRow() for all of the step's rows, that the next step
  /// will probably go on with the same sequences, a row each, each by the token
  /// that this one chooses; \p uniforms draws their tokens in turn. The device
  /// may begin that step before run() returns: if the next one turns out
  /// otherwise, rows of ended sequences left out apart, it is run as always.
  virtual void expectNext(const std::vector<double> &uniforms) {
    (void)uniforms;
  }

  /// The token chosen for the step's \p row -th wanted row, for which
  /// sampleRow() was called. Errors: as Sampler::sample.
  virtual Result<SampledToken> sampled(int64_t row) {
    (void)row;
    return Status(StatusCode::Internal, "the device chooses no tokens");
  }

  /// Calls \p body with each number below \p count, on the threads that compute
  /// where the device has them, in any order; returns when all are done. Not
  /// during run().
  virtual void forEach(int64_t count,
                       const std::function<void(int64_t)> &body) {
    for (int64_t i = 0; i < count; ++i)
      body(i);
  }

  /// Returns when the weights lie where all later steps will read them; without
  /// it, steps may go on while they are copied. Not during run().
  virtual void settle() {}

  /// The bytes that steps read weights from: the package's, or a copy.
  virtual const MappedMemory &weightsMemory() const {
    return package.weightsMemory();
  }

  /// Whether these are a copy, and not a mapped file.
  bool areWeightsCopied() const {
    return package.areWeightsCopied() ||
           &weightsMemory() != &package.weightsMemory();
  }

  /// Memory that the executor holds on its device, in bytes; 0 on the
  /// processor, where peakResidentBytes() counts it.
  virtual int64_t deviceBytes() const { return 0; }

  /// Threads that compute.
  virtual int threads() const = 0;

  /// Weight bytes that one step reads.
  int64_t bytesPerStep() const;

  /// From now on, adds up each launch's time in \p newProfile (or stops, when
  /// null).
  void setProfile(StepProfile *newProfile) { profile = newProfile; }

  /// Sees rows lo .. hi - 1 of a value that launch \p launch observes (label
  /// "observe:..."); \p rows is its first row. Called while a step runs, from
  /// any of its threads, for different rows.
  using Observer = std::function<void(size_t launch, const float *rows,
                                      int64_t lo, int64_t hi)>;
  /// From now on shows observed values to \p newObserver (or nobody, when
  /// empty). A GPU's are brought to the host, a launch at a time.
  void setObserver(Observer newObserver) { observer = std::move(newObserver); }

  /// Rows of an observed value, where a GPU has them.
  struct DeviceRows {
    size_t launch;
    uint64_t address; ///< of f32 [count, features]
    int64_t count;
    /// The step's CUstream: what it is given is done before the next launch.
    void *stream;
    /// Gives the stream the kernel that finds their statistics, which adds to
    /// \p buffers, addresses in the order of lib/Lower/Cuda/Observe.cpp.
    std::function<Status(const std::vector<uint64_t> &buffers)> start;
  };
  using DeviceObserver = std::function<Status(const DeviceRows &rows)>;
  /// Whether values are on a GPU, where setDeviceObserver has an effect.
  virtual bool hasDeviceRows() const { return false; }
  /// The same as setObserver for rows that stay on the device; while set, it
  /// is called instead.
  void setDeviceObserver(DeviceObserver newObserver) {
    deviceObserver = std::move(newObserver);
  }

protected:
  explicit Executor(const Package &package) : package(package) {}

  const Package &package;
  std::unique_ptr<StepBatch> step;
  StepProfile *profile = nullptr;
  Observer observer;
  DeviceObserver deviceObserver;
};

} // namespace qlm

#endif // QLM_RUNTIME_EXECUTOR_H

//===- Device.h - A GPU for checks and timings of kernels -------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The driver's API through dlopen: no CUDA header, library or compiler is
// needed. Every failing call ends the program with one line. Test cases are
// lines of `key=value` words.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_BENCHMARKS_KERNELS_CUDA_DEVICE_H
#define QLM_BENCHMARKS_KERNELS_CUDA_DEVICE_H

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

namespace qlm::bench {

/// An address in the GPU's memory.
using Address = unsigned long long;

/// A kernel and how it is launched.
struct Kernel {
  void *function = nullptr;
  unsigned gridX = 1, gridY = 1, gridZ = 1, threads = 1, sharedBytes = 0;
  unsigned cluster = 1;   ///< blocks along x that form a cluster
  bool dependent = false; ///< programmatic dependent launch
};

/// The first GPU, with one stream.
class Device {
public:
  /// Opens the driver and makes a context; ends the program if it can't.
  Device();

  const std::string &getName() const { return name; }
  int getMultiprocessors() const { return multiprocessors; }

  /// Memory is released by `release` alone: all of it since the last one.
  Address allocate(size_t bytes);
  void release();
  Address upload(const void *data, size_t bytes);
  template <typename T> Address upload(const std::vector<T> &values) {
    return upload(values.data(), values.size() * sizeof(T));
  }
  void download(void *data, Address from, size_t bytes);
  void fill(Address to, uint8_t byte, size_t bytes);

  /// A kernel of a cubin (or PTX) file.
  Kernel load(const std::string &path, const std::string &kernel,
              unsigned sharedBytes = 0);
  /// Launches with 64-bit arguments.
  void launch(const Kernel &kernel, const std::vector<Address> &arguments);
  void synchronize();
  /// Registers of a thread, and bytes of local memory (spills).
  int getRegisters(const Kernel &kernel);
  int getLocalBytes(const Kernel &kernel);

  /// Microseconds of one of \p count calls of \p one (given its number) that
  /// are captured into a graph: median and range of its replays.
  struct Times {
    double median, low, high;
  };
  Times timeGraph(int count, const std::function<void(int)> &one,
                  int replays = 20);

private:
  void check(int result, const char *call);

  std::string name;
  int multiprocessors = 0;
  void *stream = nullptr;
  std::vector<Address> allocations;
};

/// Words of a line.
class Case {
public:
  explicit Case(const std::string &line);
  std::string text(const std::string &key,
                   const std::string &otherwise = "") const;
  int64_t number(const std::string &key, int64_t otherwise = 0) const;

private:
  std::map<std::string, std::string> words;
};
/// Lines of a file that aren't empty.
std::vector<Case> readCases(const std::string &path);

/// What was timed, for gpu_test.py.
struct Timing {
  std::string label;
  double microseconds, gigabytesPerSecond, teraOperations;
};
/// Writes \p timings as JSON: {"label": {"us": .., "gbps": .., "tflops": ..}}.
void writeTimings(const std::string &path, const std::vector<Timing> &timings);

/// A case on the device.
class CaseRun {
public:
  virtual ~CaseRun() = default;
  /// What the case is, for a table.
  virtual std::string describe() const = 0;
  virtual bool isTimed() const = 0;
  /// Compares a result with its definition; \p said gets the error.
  virtual bool check(std::string &said) = 0;
  virtual Timing time(std::string &said) = 0;
};
/// The main function of a program that checks and times the cases of
/// `DIR/cases.txt`: `PROGRAM DIR [check|time|all]`. \p make gets the folder, a
/// case and its number, from 1 on.
int runCases(
    int argc, char **argv,
    const std::function<std::unique_ptr<CaseRun>(
        Device &, const std::string &folder, const Case &, int number)> &make);

/// Runs body(i) for i in [0, count) on all processors.
void parallelFor(int64_t count, const std::function<void(int64_t)> &body);

/// Random numbers, reproducible.
std::vector<float> randomNormal(size_t count, float deviation, uint64_t seed);

/// Distance of \p result from \p reference: norm of the difference over norm
/// of the reference; NaN where any result is.
double relativeError(const std::vector<double> &reference,
                     const std::vector<double> &result);

} // namespace qlm::bench

#endif // QLM_BENCHMARKS_KERNELS_CUDA_DEVICE_H

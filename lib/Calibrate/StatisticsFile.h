//===- StatisticsFile.h - Writes statistics, pass by pass -------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_CALIBRATE_STATISTICSFILE_H
#define QLM_LIB_CALIBRATE_STATISTICSFILE_H

#include "Observer.h"
#include "qlm/Runtime/Status.h"

#include <map>
#include <memory>
#include <mutex>
#include <set>

namespace qlm {

/// A safetensors file of f32 tensors that grows label by label under the name
/// PATH.partial, with PATH.partial.json telling which labels are done; renamed
/// to PATH at the end. Threads may write labels side by side.
class StatisticsFile {
public:
  StatisticsFile(StatisticsFile &&other) = default;
  StatisticsFile &operator=(StatisticsFile &&other) = default;

  /// Opens or goes on with the partial file. \p identity tells runs apart: a
  /// partial file of another one is begun anew. \p tokens and \p window go into
  /// the metadata.
  static Result<StatisticsFile> open(const std::string &path,
                                     const std::string &identity,
                                     const std::vector<Statistic> &tensors,
                                     int64_t tokens, int64_t window);

  bool isDone(const std::string &label) const { return done.count(label) != 0; }
  bool wasResumed() const { return resumed; }

  /// Writes \p count of the tensor \p name's elements from \p first on.
  Status writeElements(const std::string &name, int64_t first,
                       const float *values, int64_t count);
  /// Writes \p values of \p statistics, those of \p label, and notes it. Empty
  /// ones were written by writeElements.
  Status write(const std::string &label,
               const std::vector<Statistic> &statistics,
               const std::vector<std::vector<float>> &values);
  /// Gives the file its name.
  Status finish();

private:
  /// A descriptor that is closed with its owner.
  struct Descriptor {
    explicit Descriptor(int number) : number(number) {}
    ~Descriptor();
    Descriptor(const Descriptor &) = delete;
    Descriptor &operator=(const Descriptor &) = delete;
    int number;
  };

  StatisticsFile() = default;
  Status note();

  std::string path, identity;
  std::map<std::string, int64_t> offsets; ///< of the file
  std::unique_ptr<std::mutex> mutex = std::make_unique<std::mutex>();
  std::set<std::string> done;
  std::unique_ptr<Descriptor> file;
  bool resumed = false;
};

} // namespace qlm

#endif // QLM_LIB_CALIBRATE_STATISTICSFILE_H

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

#include <fstream>
#include <map>
#include <set>

namespace qlm {

/// A safetensors file of f32 tensors that grows label by label under the name
/// PATH.partial, with PATH.partial.json telling which labels are done; renamed
/// to PATH at the end.
class StatisticsFile {
public:
  /// Opens or goes on with the partial file. \p identity tells runs apart: a
  /// partial file of another one is begun anew. \p tokens and \p window go into
  /// the metadata.
  static Result<StatisticsFile> open(const std::string &path,
                                     const std::string &identity,
                                     const std::vector<Statistic> &tensors,
                                     int64_t tokens, int64_t window);

  bool isDone(const std::string &label) const { return done.count(label) != 0; }
  bool wasResumed() const { return resumed; }

  /// Writes \p values of \p statistics, those of \p label, and notes it.
  Status write(const std::string &label,
               const std::vector<Statistic> &statistics,
               const std::vector<std::vector<float>> &values);
  /// Gives the file its name.
  Status finish();

private:
  Status note();

  std::string path, identity;
  std::map<std::string, int64_t> offsets; ///< of the file
  std::set<std::string> done;
  std::fstream stream;
  bool resumed = false;
};

} // namespace qlm

#endif // QLM_LIB_CALIBRATE_STATISTICSFILE_H

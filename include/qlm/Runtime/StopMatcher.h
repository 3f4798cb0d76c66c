//===- StopMatcher.h - Finds stop strings in a stream -----------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_RUNTIME_STOPMATCHER_H
#define QLM_RUNTIME_STOPMATCHER_H

#include <string>
#include <string_view>
#include <vector>

namespace qlm {

/// Watches a stream of text for stop strings. Text that could be the beginning
/// of one is held back until it is settled, so that nothing of a stop string
/// is ever shown.
class StopMatcher {
public:
  explicit StopMatcher(std::vector<std::string> stops)
      : stops(std::move(stops)) {}

  /// Takes \p text and returns what can be shown now: all before a stop string
  /// once one is complete, the earliest when there are several.
  std::string push(std::string_view text);

  /// Returns the text still held back, as no more follows.
  std::string finish();

  bool stopped() const { return isStopped; }

private:
  std::vector<std::string> stops;
  std::string held;
  bool isStopped = false;
};

} // namespace qlm

#endif // QLM_RUNTIME_STOPMATCHER_H

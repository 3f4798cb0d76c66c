//===- StopMatcher.cpp - Finds stop strings in a stream -------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/StopMatcher.h"

#include <algorithm>

using namespace qlm;

/// Length of the longest end of \p text that begins \p stop.
static size_t overlap(const std::string &text, const std::string &stop) {
  for (size_t length = std::min(text.size(), stop.size() - 1); length > 0;
       --length)
    if (text.compare(text.size() - length, length, stop, 0, length) == 0)
      return length;
  return 0;
}

std::string StopMatcher::push(std::string_view text) {
  if (isStopped)
    return "";
  held += text;
  size_t first = std::string::npos, keep = 0;
  for (const std::string &stop : stops) {
    first = std::min(first, held.find(stop));
    keep = std::max(keep, overlap(held, stop));
  }
  isStopped = first != std::string::npos;
  std::string shown = held.substr(0, isStopped ? first : held.size() - keep);
  held = isStopped ? "" : held.substr(held.size() - keep);
  return shown;
}

std::string StopMatcher::finish() {
  std::string rest;
  rest.swap(held);
  return rest;
}

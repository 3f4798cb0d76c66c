//===- StepProfile.cpp - Where the time of steps goes ---------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/StepProfile.h"

#include <algorithm>
#include <unordered_map>

using namespace qlm;

/// "layers.12.qkv" becomes "layers.*.qkv".
static std::string withoutLayer(const std::string &label) {
  std::string text;
  for (size_t i = 0; i < label.size();) {
    size_t end = label.find('.', i);
    end = end == std::string::npos ? label.size() : end;
    std::string part = label.substr(i, end - i);
    bool isNumber = !part.empty() &&
                    part.find_first_not_of("0123456789") == std::string::npos;
    text += (text.empty() ? "" : ".") + (isNumber ? std::string("*") : part);
    i = end + 1;
  }
  return text;
}

std::vector<ProfileEntry>
StepProfile::summarize(const Manifest &manifest) const {
  std::vector<ProfileEntry> entries;
  std::unordered_map<std::string, size_t> places;
  for (size_t i = 0; i < times.size(); ++i) {
    if (!times[i].runs)
      continue;
    const Launch &launch = manifest.launches[i];
    std::string label = withoutLayer(launch.label);
    auto [place, isNew] = places.try_emplace(label, entries.size());
    if (isNew)
      entries.push_back({label, 0, 0, 0, 0});
    ProfileEntry &entry = entries[place->second];
    entry.launches += times[i].runs;
    entry.seconds += times[i].seconds;
    entry.bytes += times[i].runs * launch.bytes;
    entry.operations += static_cast<double>(times[i].rows) *
                        static_cast<double>(launch.flopsPerRow);
  }
  std::sort(entries.begin(), entries.end(),
            [](const ProfileEntry &a, const ProfileEntry &b) {
              return a.seconds > b.seconds;
            });
  return entries;
}

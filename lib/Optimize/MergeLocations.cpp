//===- MergeLocations.cpp - Where fused operations come from --------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "MergeLocations.h"

using namespace mlir;

/// What stands before the last dot of a named location; none otherwise.
static std::optional<StringRef> getPrefix(Location location) {
  auto named = dyn_cast<NameLoc>(location);
  if (!named)
    return std::nullopt;
  StringRef name = named.getName().getValue();
  size_t dot = name.rfind('.');
  if (dot == StringRef::npos)
    return std::nullopt;
  return name.take_front(dot + 1);
}

Location mlir::qlm::mergeLocations(ArrayRef<Location> parts, StringRef name) {
  MLIRContext *context = parts.front().getContext();
  std::optional<StringRef> prefix = getPrefix(parts.front());
  bool shared = prefix && llvm::all_of(parts, [&](Location part) {
                  return getPrefix(part) == prefix;
                });
  if (!shared)
    return FusedLoc::get(context, parts);
  return NameLoc::get(StringAttr::get(context, *prefix + name));
}

//===- WeightLabels.cpp - What weights are called -------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "WeightLabels.h"

using namespace mlir;
using namespace mlir::qlm;

StringRef mlir::qlm::getWeightLabel(Operation *op) {
  StringRef label;
  op->getLoc()->walk([&](Location loc) {
    auto name = dyn_cast<NameLoc>(loc);
    if (!name || name.getName().empty())
      return WalkResult::advance();
    label = name.getName();
    return WalkResult::interrupt();
  });
  return label.empty() ? op->getName().stripDialect() : label;
}

std::string UniqueLabels::take(Operation *op) {
  StringRef label = getWeightLabel(op);
  std::string unique = label.str();
  for (int64_t counter = 1; !used.insert(unique).second; ++counter)
    unique = (label + "_" + Twine(counter)).str();
  return unique;
}

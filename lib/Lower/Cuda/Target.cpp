//===- Target.cpp - The GPU that kernels are emitted for ------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Lower/Cuda/Target.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/SmallVector.h"

using namespace mlir::qlm::cuda;

/// CUDA C++ Programming Guide, table "Technical specifications per compute
/// capability": a block's shared memory is the multiprocessor's less 1 KB.
static const Target kTargets[] = {
    {"sm_80", 80, 163 * 1024, 108},
    {"sm_89", 89, 99 * 1024, 142},
    {"sm_90a", 90, 227 * 1024, 132},
};

llvm::Expected<Target> Target::get(llvm::StringRef chip) {
  for (const Target &target : kTargets)
    if (chip == target.chip)
      return target;
  return llvm::createStringError(
      "unknown chip '%s', expected sm_80, sm_89 or sm_90a", chip.str().c_str());
}

llvm::Expected<std::vector<Target>> Target::parseList(llvm::StringRef chips) {
  llvm::SmallVector<llvm::StringRef> names;
  chips.split(names, ',');
  std::vector<Target> targets;
  for (llvm::StringRef name : names) {
    llvm::Expected<Target> target = get(name.trim());
    if (!target)
      return target.takeError();
    if (llvm::any_of(targets, [&](const Target &other) {
          return other.chip == target->chip;
        }))
      return llvm::createStringError("chip '%s' is named twice",
                                     target->chip.c_str());
    targets.push_back(std::move(*target));
  }
  llvm::sort(targets, [](const Target &a, const Target &b) {
    return a.capability < b.capability;
  });
  return targets;
}

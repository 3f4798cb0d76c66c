//===- GraphPlan.h - The weights that a graph's package packs ---*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_PACKAGE_GRAPHPLAN_H
#define QLM_LIB_PACKAGE_GRAPHPLAN_H

#include "Evaluate.h"
#include "qlm/Package/GraphParameters.h"

namespace mlir::qlm {

struct GraphParameters::Plan {
  /// The programs that `weights` evaluates, as they were before lowering.
  OwningOpRef<ModuleOp> module;
  ParameterArchive archive{""};
  ReaderContext context{archive};
  WeightPlan weights;
};

} // namespace mlir::qlm

#endif // QLM_LIB_PACKAGE_GRAPHPLAN_H

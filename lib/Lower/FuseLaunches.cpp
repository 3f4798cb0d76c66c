//===- FuseLaunches.cpp - Groups operations that one kernel may run -------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "StepRows.h"
#include "qlm/Lower/LaunchGroup.h"
#include "qlm/Lower/Passes.h"

namespace mlir::qlm {
#define GEN_PASS_DEF_FUSELAUNCHES
#include "qlm/Lower/Passes.h.inc"
} // namespace mlir::qlm

using namespace mlir;
using namespace mlir::qlm;

namespace {
struct FuseLaunchesPass : mlir::qlm::impl::FuseLaunchesBase<FuseLaunchesPass> {
  using Base::Base;
  void runOnOperation() override;
};
} // namespace

/// Whether a linear's kernel can begin with \p op.
static bool isPrologue(Operation *op, PackedLinearOp linear) {
  auto norm = dyn_cast<RmsNormOp>(op);
  return norm && norm.getResult() == linear.getInput();
}

/// Whether a linear's kernel can end with \p op.
static bool isEpilogue(Operation *op, PackedLinearOp linear) {
  if (linear.getResidual())
    return false;
  if (auto gate = dyn_cast<SwigluOp>(op))
    return gate.getInput() == linear.getResult();
  auto append = dyn_cast<RopeAppendOp>(op);
  return append && append.getQkv() == linear.getResult();
}

void FuseLaunchesPass::runOnOperation() {
  func::FuncOp step = findStep(getOperation());
  if (!step)
    return signalPassFailure();
  StepRows rows(step);
  ArrayRef<Operation *> operations = rows.getOperations();
  Builder b(&getContext());
  int64_t groups = 0;
  // Neighbours only: what one kernel does happens at one place in the list.
  for (auto [i, op] : llvm::enumerate(operations)) {
    auto linear = dyn_cast<PackedLinearOp>(op);
    if (!linear)
      continue;
    // Nothing else reads what lies between them.
    auto fits = [&](Operation *first, Operation *second) {
      return first->hasOneUse() && rows.get(first) == rows.get(second);
    };
    SmallVector<Operation *, 3> group = {op};
    if (i > 0 && isPrologue(operations[i - 1], linear) &&
        fits(operations[i - 1], op))
      group.push_back(operations[i - 1]);
    if (i + 1 < operations.size() && isEpilogue(operations[i + 1], linear) &&
        fits(op, operations[i + 1]))
      group.push_back(operations[i + 1]);
    if (group.size() == 1)
      continue;
    for (Operation *member : group)
      member->setAttr(kGroupAttr, b.getI64IntegerAttr(groups));
    ++groups;
  }
}

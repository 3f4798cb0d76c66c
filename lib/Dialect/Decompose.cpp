//===- Decompose.cpp - Replaces operations by their definitions -----------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Dialect/Passes.h"
#include "qlm/Dialect/Qlm.h"

#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/SCF/IR/SCF.h"

namespace mlir::qlm {
#define GEN_PASS_DEF_DECOMPOSE
#include "qlm/Dialect/Passes.h.inc"
} // namespace mlir::qlm

using namespace mlir;
using namespace mlir::qlm;

namespace {
struct Decompose : qlm::impl::DecomposeBase<Decompose> {
  void runOnOperation() override {
    SmallVector<DefinedOp> ops;
    getOperation()->walk([&](DefinedOp op) { ops.push_back(op); });
    for (DefinedOp op : ops) {
      OpBuilder builder(op);
      FailureOr<SmallVector<Value>> values = op.decompose(builder);
      if (failed(values))
        return signalPassFailure();
      op->replaceAllUsesWith(*values);
      op->erase();
    }
  }
};
} // namespace

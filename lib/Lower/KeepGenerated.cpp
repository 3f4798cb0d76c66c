//===- KeepGenerated.cpp - Keeps costly elements in memory ----------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Lower/GraphPasses.h"

#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/PatternMatch.h"

namespace mlir::qlm {
#define GEN_PASS_DEF_KEEPGENERATED
#include "qlm/Lower/GraphPasses.h.inc"
} // namespace mlir::qlm

using namespace mlir;
using namespace mlir::qlm;

/// Whether an element takes a loop, or a function, to compute.
static bool isCostly(tensor::GenerateOp op) {
  WalkResult result = op.getBody().walk([](Operation *inner) {
    return isa<scf::ForOp, scf::WhileOp>(inner) ||
                   isa<math::MathDialect>(inner->getDialect())
               ? WalkResult::interrupt()
               : WalkResult::advance();
  });
  return result.wasInterrupted();
}

/// The same elements by a linalg.map, whose body nobody takes apart.
static void toMap(IRRewriter &b, tensor::GenerateOp op) {
  b.setInsertionPoint(op);
  Location loc = op.getLoc();
  auto type = cast<RankedTensorType>(op.getType());
  Value empty = tensor::EmptyOp::create(b, loc, type, op.getDynamicExtents());
  auto map =
      linalg::MapOp::create(b, loc, type, /*inputs=*/ValueRange(), empty);
  Block &body = map.getMapper().emplaceBlock();
  body.addArgument(type.getElementType(), loc);
  b.setInsertionPointToStart(&body);
  SmallVector<Value> at;
  for (int64_t axis = 0; axis < type.getRank(); ++axis)
    at.push_back(linalg::IndexOp::create(b, loc, axis));
  b.mergeBlocks(&op.getBody().front(), &body, at);
  auto yield = cast<tensor::YieldOp>(body.getTerminator());
  b.setInsertionPoint(yield);
  b.replaceOpWithNewOp<linalg::YieldOp>(yield, yield.getValue());
  b.replaceOp(op, map.getResult());
}

namespace {
struct KeepGeneratedPass
    : mlir::qlm::impl::KeepGeneratedBase<KeepGeneratedPass> {
  void runOnOperation() override {
    SmallVector<tensor::GenerateOp> costly;
    getOperation().walk([&](tensor::GenerateOp op) {
      if (isCostly(op))
        costly.push_back(op);
    });
    IRRewriter b(&getContext());
    for (tensor::GenerateOp op : costly)
      toMap(b, op);
  }
};
} // namespace

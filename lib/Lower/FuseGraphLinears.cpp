//===- FuseGraphLinears.cpp - Adds biases inside of linears ---------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Lower/GraphPasses.h"

#include "mlir/Dialect/Linalg/IR/Linalg.h"

namespace mlir::qlm {
#define GEN_PASS_DEF_FUSEGRAPHLINEARS
#include "qlm/Lower/GraphPasses.h.inc"
} // namespace mlir::qlm

using namespace mlir;
using namespace mlir::qlm;

namespace {
struct FuseGraphLinearsPass
    : mlir::qlm::impl::FuseGraphLinearsBase<FuseGraphLinearsPass> {
  using Base::Base;
  void runOnOperation() override;
};
} // namespace

/// Whether \p op adds its two inputs element by element.
static bool isSum(linalg::GenericOp op) {
  if (op.getNumDpsInputs() != 2 || op.getNumDpsInits() != 1 ||
      op.getNumLoops() != op.getNumParallelLoops())
    return false;
  Block *body = op.getBody();
  auto sum =
      body->getTerminator()->getOperand(0).getDefiningOp<arith::AddFOp>();
  if (!sum || sum->getBlock() != body)
    return false;
  Value x = body->getArgument(0), y = body->getArgument(1);
  return (sum.getLhs() == x && sum.getRhs() == y) ||
         (sum.getLhs() == y && sum.getRhs() == x);
}

/// Whether \p value is a constant or a weight.
static bool isParameter(Value value) {
  if (auto argument = dyn_cast<BlockArgument>(value)) {
    auto function = dyn_cast<func::FuncOp>(argument.getOwner()->getParentOp());
    return function &&
           function.getArgAttr(argument.getArgNumber(), graph::kWeightAttr);
  }
  return value.getDefiningOp()->hasTrait<OpTrait::ConstantLike>();
}

/// Makes \p op's other operand the bias of the linear that is operand \p i.
static bool foldBias(linalg::GenericOp op, int64_t i) {
  auto linear = op.getDpsInputs()[i].getDefiningOp<LinearOp>();
  Value bias = op.getDpsInputs()[1 - i];
  auto type = cast<RankedTensorType>(bias.getType());
  if (!linear || linear.getBias() || linear.getResidual() ||
      !linear->hasOneUse() || !isParameter(bias) || type.getRank() != 1 ||
      linear.getType() != op.getResult(0).getType() ||
      type.getDimSize(0) != linear.getWeight().getType().getDimSize(0))
    return false;
  AffineMap own = op.getIndexingMapsArray()[i],
            other = op.getIndexingMapsArray()[1 - i];
  if (!own.isIdentity() ||
      other != own.getMinorIdentityMap(2, 1, op.getContext()))
    return false;
  OpBuilder b(op);
  auto fused = LinearOp::create(b, linear.getLoc(), linear.getType(),
                                linear.getInput(), linear.getWeight(), bias,
                                /*residual=*/Value());
  op.getResult(0).replaceAllUsesWith(fused.getResult());
  op.erase();
  linear.erase();
  return true;
}

void FuseGraphLinearsPass::runOnOperation() {
  SmallVector<linalg::GenericOp> sums;
  getOperation().walk([&](linalg::GenericOp op) {
    if (isSum(op))
      sums.push_back(op);
  });
  for (linalg::GenericOp op : sums)
    (void)(foldBias(op, 0) || foldBias(op, 1));
}

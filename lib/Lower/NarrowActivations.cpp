//===- NarrowActivations.cpp - Rounds activations to 16 bits --------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "StepRows.h"
#include "qlm/Lower/Passes.h"

namespace mlir::qlm {
#define GEN_PASS_DEF_NARROWACTIVATIONS
#include "qlm/Lower/Passes.h.inc"
} // namespace mlir::qlm

using namespace mlir;
using namespace mlir::qlm;

namespace {
struct NarrowActivationsPass
    : mlir::qlm::impl::NarrowActivationsBase<NarrowActivationsPass> {
  using Base::Base;
  void runOnOperation() override;

private:
  FailureOr<FloatType> chooseType(func::FuncOp step);
};
} // namespace

FailureOr<FloatType> NarrowActivationsPass::chooseType(func::FuncOp step) {
  Builder b(&getContext());
  if (type == "f16")
    return b.getF16Type();
  if (type == "bf16")
    return b.getBF16Type();
  if (type == "f32")
    return b.getF32Type();
  if (type != "auto")
    return getOperation().emitError()
           << "type must be f16, bf16, f32 or auto, got '" << type << "'";
  // Matrix units take both operands in one type.
  WalkResult hasBFloat16 = step.walk([](PackedLinearOp linear) {
    auto weight = cast<RankedTensorType>(linear.getWeight().getType());
    return weight.getElementType().isBF16() ? WalkResult::interrupt()
                                            : WalkResult::advance();
  });
  return hasBFloat16.wasInterrupted() ? b.getBF16Type() : b.getF16Type();
}

/// Whether \p user reads its operand \p value in any float type.
static bool takesNarrow(Operation *user, Value value) {
  if (auto linear = dyn_cast<PackedLinearOp>(user))
    return value == linear.getInput();
  if (auto append = dyn_cast<RopeAppendOp>(user))
    return value == append.getQkv();
  if (auto attention = dyn_cast<PagedAttentionOp>(user))
    return value == attention.getQuery();
  return isa<SwigluOp, SwigluQuantizeOp>(user);
}

/// Whether \p value may be rounded: what makes it can, and all that read it.
static bool canNarrow(OpResult value) {
  Operation *maker = value.getOwner();
  auto linear = dyn_cast<PackedLinearOp>(maker);
  bool isMade = isa<RmsNormOp, SwigluOp, PagedAttentionOp>(maker) ||
                (isa<RopeAppendOp>(maker) && value.getResultNumber() == 0) ||
                (linear && !linear.getResidual());
  return isMade && !value.use_empty() &&
         llvm::all_of(value.getUsers(), [&](Operation *user) {
           return takesNarrow(user, value);
         });
}

void NarrowActivationsPass::runOnOperation() {
  func::FuncOp step = findStep(getOperation());
  if (!step)
    return signalPassFailure();
  FailureOr<FloatType> element = chooseType(step);
  if (failed(element))
    return signalPassFailure();
  step.walk([&](Operation *op) {
    for (OpResult result : op->getResults())
      if (canNarrow(result))
        result.setType(
            cast<RankedTensorType>(result.getType()).clone(*element));
  });
}

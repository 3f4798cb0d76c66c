//===- QuantizeContract.cpp - What holds after Quantize -------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Contract.h"

#include "qlm/Dialect/MethodOps.h"
#include "llvm/ADT/StringMap.h"

using namespace mlir;
using namespace mlir::qlm;

static constexpr Stage kStage = Stage::Quantize;

static LogicalResult checkPackedLinear(PackedLinearOp linear) {
  Value operands[] = {linear.getWeight(), linear.getScales(),
                      linear.getSuperScales(), linear.getZeroPoints(),
                      linear.getBias()};
  for (Value operand : operands)
    if (operand && !operand.getDefiningOp<PackOp>())
      return breakContract(linear, kStage,
                           "weights, scales, zero points and biases of "
                           "linears must be made by qlm.pack",
                           "qlm-pack-weights");
  if (linear.getInputScales() &&
      !isa_and_nonnull<DynamicQuantizeOp, StaticQuantizeOp>(
          linear.getInput().getDefiningOp()))
    return breakContract(linear, kStage,
                         "int8 inputs must be made by qlm.dynamic_quantize or "
                         "qlm.static_quantize",
                         "qlm-quantize-activations");
  Type element =
      cast<RankedTensorType>(linear.getInput().getType()).getElementType();
  if (element.isBF16() && !linear.getInput().getDefiningOp<ConvertOp>())
    return breakContract(linear, kStage,
                         "bf16 inputs must be made by qlm.convert",
                         "qlm-quantize-activations");
  return success();
}

static LogicalResult checkOperation(Operation *op,
                                    llvm::StringMap<PackOp> &keys) {
  if (isa<LinearOp, QuantizedLinearOp>(op))
    return breakContract(op, kStage,
                         "every linear must be packed, got " +
                             op->getName().getStringRef(),
                         "qlm-pack-weights");
  if (isa<DequantizeOp, QuantizeOp>(op))
    return breakContract(op, kStage,
                         "scales must be folded into linears, got " +
                             op->getName().getStringRef(),
                         "qlm-fold-scales");
  if (auto linear = dyn_cast<PackedLinearOp>(op))
    return checkPackedLinear(linear);
  if (auto norm = dyn_cast<RmsNormOp>(op))
    if (!norm.getWeight().getType().getElementType().isF32())
      return breakContract(op, kStage, "norm weights must be f32",
                           "qlm-pack-weights");
  if (auto pack = dyn_cast<PackOp>(op))
    if (!keys.try_emplace(pack.getName(), pack).second)
      return breakContract(op, kStage, "keys must be distinct, got two of ")
             << pack.getNameAttr();
  return success();
}

// As after Optimize, but
// - every linear is packed;
// - its weight, scales, zero points and bias are made by qlm.pack;
// - int8 inputs are made by qlm.dynamic_quantize or qlm.static_quantize, bf16
//   ones by qlm.convert;
// - no qlm.quantize or qlm.dequantize is left: scales are folded;
// - norm weights are f32;
// - the keys of packed tensors are distinct.
LogicalResult mlir::qlm::verifyAfterQuantize(ModuleOp module) {
  if (failed(checkStage(module, kStage)) ||
      failed(checkForward(module, kStage)))
    return failure();
  llvm::StringMap<PackOp> keys;
  WalkResult result = module.walk(
      [&](Operation *op) -> WalkResult { return checkOperation(op, keys); });
  return failure(result.wasInterrupted());
}

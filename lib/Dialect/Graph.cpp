//===- Graph.cpp - What compiled graphs are made of -----------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Dialect/Graph.h"

using namespace mlir;
using namespace mlir::qlm::graph;

#include "qlm/Dialect/GraphDialect.cpp.inc"

#define GET_OP_CLASSES
#include "qlm/Dialect/GraphOps.cpp.inc"

void GraphDialect::initialize() {
  addOperations<
#define GET_OP_LIST
#include "qlm/Dialect/GraphOps.cpp.inc"
      >();
}

//===----------------------------------------------------------------------===//
// Codes
//===----------------------------------------------------------------------===//

static LogicalResult verifyCodes(Operation *op, Value input, Value scale,
                                 Value zeroPoint, int64_t axis) {
  auto type = dyn_cast<RankedTensorType>(input.getType());
  auto result = dyn_cast<RankedTensorType>(op->getResult(0).getType());
  auto scales = dyn_cast<RankedTensorType>(scale.getType());
  if (!type || !result || !scales || type.getShape() != result.getShape())
    return op->emitOpError("(C1) result must have the input's shape");
  bool isOne = scales.getRank() == 0 ||
               (scales.getRank() == 1 && scales.getDimSize(0) == 1);
  bool isChannel = scales.getRank() == 1 && axis >= 0 &&
                   axis < type.getRank() &&
                   scales.getDimSize(0) == type.getDimSize(axis);
  if (!isOne && !isChannel)
    return op->emitOpError("(C2) scales must be one, or one for each index of "
                           "dimension ")
           << axis << ", got " << scales;
  if (!zeroPoint)
    return success();
  auto zeros = dyn_cast<RankedTensorType>(zeroPoint.getType());
  Type codes = isa<FloatType>(type.getElementType()) ? result.getElementType()
                                                     : type.getElementType();
  if (!zeros || zeros.getShape() != scales.getShape() ||
      zeros.getElementType() != codes)
    return op->emitOpError("(C2) zero points must have the shape of the scales "
                           "and the type of codes, got ")
           << zeroPoint.getType();
  return success();
}

LogicalResult QuantizeOp::verify() {
  return verifyCodes(*this, getInput(), getScale(), getZeroPoint(), getAxis());
}

LogicalResult DequantizeOp::verify() {
  return verifyCodes(*this, getInput(), getScale(), getZeroPoint(), getAxis());
}

LogicalResult ShiftedBiasOp::verify() {
  auto weight = dyn_cast<RankedTensorType>(getWeight().getType());
  Type expected = weight && weight.getRank() == 2 && weight.hasStaticShape()
                      ? RankedTensorType::get({weight.getDimSize(0)},
                                              weight.getElementType())
                      : Type();
  if (getType() != expected || (getBias() && getBias().getType() != expected))
    return emitOpError("(C1) takes a static matrix, bias and result must have "
                       "an element for each of its rows");
  return success();
}

//===----------------------------------------------------------------------===//
// Launches
//===----------------------------------------------------------------------===//

void LaunchOp::getEffects(
    SmallVectorImpl<SideEffects::EffectInstance<MemoryEffects::Effect>>
        &effects) {
  for (OpOperand &operand : getInputsMutable())
    if (isa<MemRefType>(operand.get().getType()))
      effects.emplace_back(MemoryEffects::Read::get(), &operand);
  for (OpOperand &operand : getOutputsMutable())
    if (isa<MemRefType>(operand.get().getType()))
      effects.emplace_back(MemoryEffects::Write::get(), &operand);
}

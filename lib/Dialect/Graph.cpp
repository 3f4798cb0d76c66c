//===- Graph.cpp - What compiled graphs are made of -----------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Dialect/Graph.h"

#include "mlir/IR/TypeUtilities.h"

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
// Attention
//===----------------------------------------------------------------------===//

LogicalResult AttentionOp::verify() {
  auto left = static_cast<int64_t>(getLeft()),
       right = static_cast<int64_t>(getRight());
  if (getTokensFirst().size() != 3 || left < -1 || right < -1)
    return emitOpError("(C4) takes windows from -1 on and three orders, got ")
           << left << ", " << right << " and " << getTokensFirst().size();
  Value values[] = {getQuery(), getKey(), getValue(), getResult()};
  int64_t heads[4], sizes[4];
  for (int64_t i = 0; i < 4; ++i) {
    auto type = dyn_cast<RankedTensorType>(values[i].getType());
    if (!type || type.getRank() != 4 ||
        getElementTypeOrSelf(values[i]) != getElementTypeOrSelf(getQuery()))
      return emitOpError("(C1) takes tensors of rank 4 and of one type");
    heads[i] = type.getDimSize(getHeadsAxis(i % 3));
    sizes[i] = type.getDimSize(3);
    if (heads[i] < 1 || sizes[i] < 1)
      return emitOpError("(C1) heads and sizes must be known and not 0, got ")
             << type;
  }
  if (heads[0] % heads[1] || heads[1] != heads[2] || heads[0] != heads[3] ||
      sizes[0] != sizes[1] || sizes[2] != sizes[3])
    return emitOpError("(C1) heads and sizes must fit, got ")
           << getOperandTypes() << " and " << getType();
  if (Value mask = getMask()) {
    auto type = dyn_cast<RankedTensorType>(mask.getType());
    if (!type || type.getRank() < 1 || type.getRank() > 4)
      return emitOpError("(C2) a mask has one to four dimensions, got ")
             << mask.getType();
  }
  if (Value lengths = getLengths()) {
    auto type = dyn_cast<RankedTensorType>(lengths.getType());
    if (!type || type.getRank() != 1)
      return emitOpError("(C3) takes a vector of lengths, got ")
             << lengths.getType();
  }
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

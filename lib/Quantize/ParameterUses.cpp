//===- ParameterUses.cpp - Linears and their parameters -------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "ParameterUses.h"

#include "mlir/IR/Iterators.h"

using namespace mlir;
using namespace mlir::qlm;

LogicalResult mlir::qlm::checkParameter(Operation *op, Value value,
                                        StringRef what) {
  if (isParameterValue(value))
    return success();
  InFlightDiagnostic diagnostic = op->emitError()
                                  << what << " must be a parameter, got ";
  if (Operation *maker = value.getDefiningOp())
    diagnostic << "the result of " << maker->getName();
  else
    diagnostic << "an argument";
  diagnostic.attachNote() << "a parameter leads back to qlm.load or a constant "
                             "through parameter operations alone";
  return failure();
}

Value mlir::qlm::convertParameter(Value value, FloatType type,
                                  Operation *user) {
  auto tensor = cast<RankedTensorType>(value.getType());
  if (tensor.getElementType() == type)
    return value;
  OpBuilder builder(user);
  return ConvertOp::create(builder, user->getLoc(), tensor.clone(type), value);
}

void mlir::qlm::eraseUnusedParameters(ModuleOp module) {
  // Users before what they use, so that a program goes away whole.
  module.walk<WalkOrder::PostOrder, ReverseIterator>([](Operation *op) {
    // What activations were rounded to goes away with its last use too.
    bool removable = isa<DequantizeOp, ConvertOp>(op) || isParameterOp(op);
    if (removable && op->use_empty())
      op->erase();
  });
}

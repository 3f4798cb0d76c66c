//===- Qlm.cpp - The qlm dialect and its operations' syntax ---------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Dialect/MethodOps.h"

#include "mlir/IR/DialectImplementation.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;
using namespace mlir::qlm;

//===----------------------------------------------------------------------===//
// Syntax of bare numbers
//===----------------------------------------------------------------------===//

static ParseResult parseInteger(OpAsmParser &parser, IntegerAttr &attr) {
  int64_t value = 0;
  if (parser.parseInteger(value))
    return failure();
  attr = parser.getBuilder().getI64IntegerAttr(value);
  return success();
}

static void printInteger(OpAsmPrinter &printer, Operation *, IntegerAttr attr) {
  printer << attr.getInt();
}

/// "input, weight", and "-> result" where that isn't the input's type.
static ParseResult parseNormTypes(OpAsmParser &parser, Type &input,
                                  Type &weight, Type &result) {
  if (parser.parseType(input) || parser.parseComma() ||
      parser.parseType(weight))
    return failure();
  result = input;
  if (succeeded(parser.parseOptionalArrow()))
    return parser.parseType(result);
  return success();
}

static void printNormTypes(OpAsmPrinter &printer, Operation *, Type input,
                           Type weight, Type result) {
  printer << input << ", " << weight;
  if (result != input)
    printer << " -> " << result;
}

static ParseResult parseFloat(OpAsmParser &parser, FloatAttr &attr) {
  double value = 0;
  if (parser.parseFloat(value))
    return failure();
  attr = parser.getBuilder().getF32FloatAttr(static_cast<float>(value));
  return success();
}

static void printFloat(OpAsmPrinter &printer, Operation *, FloatAttr attr) {
  printer.printFloat(attr.getValue());
}

#include "qlm/Dialect/QlmDialect.cpp.inc"
#include "qlm/Dialect/QlmInterfaces.cpp.inc"

#define GET_OP_CLASSES
#include "qlm/Dialect/QlmOps.cpp.inc"

void QlmDialect::initialize() {
  registerAttributes();
  addOperations<
#define GET_OP_LIST
#include "qlm/Dialect/QlmOps.cpp.inc"
      >();
  addOperations<
#define GET_OP_LIST
#include "qlm/Dialect/QlmMethodOps.cpp.inc"
      >();
}

//===----------------------------------------------------------------------===//
// Parameters
//===----------------------------------------------------------------------===//

LogicalResult LoadOp::verifySymbolUses(SymbolTableCollection &symbols) {
  auto parameter =
      symbols.lookupNearestSymbolFrom<ParameterOp>(*this, getParameterAttr());
  if (!parameter)
    return emitOpError("names no qlm.parameter: ") << getParameterAttr();
  if (parameter.getType() != getType())
    return emitOpError("has type ")
           << getType() << ", but parameter " << getParameterAttr()
           << " has type " << parameter.getType();
  return success();
}

bool mlir::qlm::isParameterOp(Operation *op) {
  if (op->hasTrait<OpTrait::ConstantLike>())
    return isa<RankedTensorType>(op->getResult(0).getType());
  if (isa<LoadOp>(op))
    return true;
  if (!isa<ConvertOp, RopeTableOp, RtnOp, GptqOp, QuantizeScalesOp,
           DequantizeScalesOp, PackOp, tensor::ConcatOp, ScaleColumnsOp,
           ScaleRowsOp, TransposeOp, ScaleMomentsOp, AwqScalesOp,
           SmoothScalesOp, ClipOp, StaticScaleOp, KeepCodesOp>(op))
    return false;
  return llvm::all_of(op->getOperands(), isParameterValue);
}

bool mlir::qlm::isParameterValue(Value value) {
  Operation *op = value.getDefiningOp();
  return op && isParameterOp(op);
}

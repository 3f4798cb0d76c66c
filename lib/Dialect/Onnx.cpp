//===- Onnx.cpp - An ONNX graph's nodes as they stand ---------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Dialect/Onnx.h"

using namespace mlir;
using namespace mlir::qlm::onnxir;

#include "qlm/Dialect/OnnxDialect.cpp.inc"

#define GET_OP_CLASSES
#include "qlm/Dialect/OnnxOps.cpp.inc"

void OnnxDialect::initialize() {
  addOperations<
#define GET_OP_LIST
#include "qlm/Dialect/OnnxOps.cpp.inc"
      >();
}

Value NodeOp::input(unsigned i) {
  if (i >= getInputs().size() || getInputs()[i].getDefiningOp<AbsentOp>())
    return {};
  return getInputs()[i];
}

int64_t NodeOp::integer(StringRef name, int64_t missing) {
  auto attribute = (*this)->getAttrOfType<IntegerAttr>(name);
  return attribute ? attribute.getInt() : missing;
}

double NodeOp::number(StringRef name, double missing) {
  auto attribute = (*this)->getAttrOfType<FloatAttr>(name);
  return attribute ? attribute.getValueAsDouble() : missing;
}

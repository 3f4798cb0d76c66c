//===- Conversions.cpp - Operators that change the element type -----------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Node.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "qlm/Archive/OnnxFile.h"
#include "llvm/ADT/StringSwitch.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::onnx_import;

static LogicalResult convertTo(Node &node, int32_t to) {
  const Tensor &x = node.in(0);
  TensorBuilder &b = node.b;
  Type stored = getStoredType(b.getContext(), to);
  StringRef mode = node.text("round_mode", "up");
  auto round = llvm::StringSwitch<std::optional<ExponentRounding>>(mode)
                   .Case("up", ExponentRounding::Up)
                   .Case("down", ExponentRounding::Down)
                   .Case("nearest", ExponentRounding::Nearest)
                   .Default(std::nullopt);
  if (!round)
    return node.fail("round_mode must be up, down or nearest, got " + mode);
  bool isHandled = stored != nullptr, saturates = node.integer("saturate", 1);
  Value result =
      !isHandled ? Value()
                 : b.map({x.value}, stored, [&](ValueRange e) -> Value {
                     if (Value converted = convertElement(b, e[0], x.type, to,
                                                          saturates, *round))
                       return converted;
                     isHandled = false;
                     return b.integer(stored, 0);
                   });
  if (!isHandled)
    return node.fail("cannot convert " + getOnnxTypeName(x.type) + " to " +
                     getOnnxTypeName(to));
  return node.set(0, result, to);
}
static LogicalResult emitCast(Node &node) {
  return convertTo(node, static_cast<int32_t>(node.integer("to", 0)));
}
static LogicalResult emitCastLike(Node &node) {
  return convertTo(node, node.in(1).type);
}
static LogicalResult emitBitCast(Node &node) {
  const Tensor &x = node.in(0);
  TensorBuilder &b = node.b;
  auto to = static_cast<int32_t>(node.integer("to", 0));
  Type stored = getStoredType(b.getContext(), to);
  // Booleans take a byte where they can be seen.
  auto widthOf = [](Type type) {
    return std::max<unsigned>(type.getIntOrFloatBitWidth(), 8);
  };
  if (!stored || widthOf(stored) != widthOf(x.elementType()))
    return node.fail("element types must have the same width");
  if (isBoolType(x.type) || isBoolType(to))
    return convertTo(node, to);
  return node.set(0,
                  b.map({x.value}, stored,
                        [&](ValueRange e) -> Value {
                          if (stored == e[0].getType())
                            return e[0];
                          return arith::BitcastOp::create(b, b.loc, stored,
                                                          e[0]);
                        }),
                  to);
}

static const Operator operators[] = {
    {"", "BitCast", 1, 1, emitBitCast},
    {"", "Cast", 1, 1, emitCast},
    {"", "CastLike", 2, 2, emitCastLike},
};

ArrayRef<Operator> mlir::qlm::onnx_import::conversionOperators() {
  return operators;
}

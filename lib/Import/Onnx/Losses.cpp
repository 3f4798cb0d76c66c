//===- Losses.cpp - Losses of classifications -----------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Node.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"

using namespace mlir;
using namespace mlir::qlm::onnx_import;
using onnx::TensorProto;

namespace {
/// The weighted loss of one place, and its weight.
struct Term {
  Value loss, weight;
};

/// The negative of \p logs [N, C, d…] at the classes [N, d…], times the
/// classes' weights. A class that is ignored, or is none, weighs nothing.
class LossEmitter {
public:
  LossEmitter(Node &node, const Tensor &logs)
      : node(node), b(node.b), logs(logs), classes(node.in(1)),
        wide(accumulatorType(logs.type)),
        stored(getStoredType(b.getContext(), wide)) {}

  LogicalResult emit();

private:
  LogicalResult check();
  Term termAt(ValueRange at);

  Node &node;
  TensorBuilder &b;
  const Tensor &logs, &classes;
  int32_t wide;
  Type stored;
};
} // namespace

LogicalResult LossEmitter::check() {
  if (!isFloatType(logs.type))
    return node.fail("scores must be floats");
  if (classes.type != TensorProto::INT64 && classes.type != TensorProto::INT32)
    return node.fail("classes must be int32 or int64");
  if (logs.rank() < 2 || classes.rank() != logs.rank() - 1)
    return node.fail("scores must be [N, C, d...] and classes [N, d...], got " +
                     llvm::Twine(logs.rank()) + " and " +
                     llvm::Twine(classes.rank()) + " dimensions");
  if (node.has(2) && (node.in(2).rank() != 1 || node.in(2).type != logs.type))
    return node.fail("weights must be a vector of the scores' type");
  for (int64_t axis = 0; axis < classes.rank(); ++axis)
    b.requireEqual(b.dim(classes.value, axis),
                   b.dim(logs.value, axis + (axis > 0)), "scores and classes");
  if (node.has(2))
    b.requireEqual(b.dim(node.in(2).value, 0), b.dim(logs.value, 1),
                   "classes and weights");
  return success();
}

Term LossEmitter::termAt(ValueRange at) {
  Value given = b.toIndex(b.extract(classes.value, at));
  Value last = b.sub(b.dim(logs.value, 1), b.index(1));
  Value inside = b.max(b.min(given, last), b.index(0));
  Value counts = b.equal(given, inside);
  if (node.find("ignore_index")) {
    Value isOther =
        arith::CmpIOp::create(b, b.loc, arith::CmpIPredicate::ne, given,
                              b.index(node.integer("ignore_index", 0)));
    counts = arith::AndIOp::create(b, b.loc, counts, isOther);
  }
  SmallVector<Value> from(at);
  from.insert(from.begin() + 1, inside);
  Value weight = b.constant(stored, 1), zero = b.constant(stored, 0);
  if (node.has(2))
    weight = convertElement(b, b.extract(node.in(2).value, inside),
                            node.in(2).type, wide);
  Value log = convertElement(b, b.extract(logs.value, from), logs.type, wide);
  Value loss = subElements(b, zero, mulElements(b, log, weight));
  return {arith::SelectOp::create(b, b.loc, counts, loss, zero),
          arith::SelectOp::create(b, b.loc, counts, weight, zero)};
}

LogicalResult LossEmitter::emit() {
  StringRef reduction = node.text("reduction", "mean");
  if (reduction != "mean" && reduction != "sum" && reduction != "none")
    return node.fail("reduction must be none, sum or mean, got " + reduction);
  if (check().failed())
    return failure();
  SmallVector<Value> sizes = b.dims(classes.value);
  if (reduction == "none")
    return node.set(0,
                    b.generate(sizes, logs.elementType(),
                               [&](ValueRange at) {
                                 return convertElement(b, termAt(at).loss, wide,
                                                       logs.type);
                               }),
                    logs.type);
  Value zero = b.constant(stored, 0);
  auto sums =
      b.loopNest(sizes, {zero, zero},
                 [&](ValueRange at, ValueRange carried) -> SmallVector<Value> {
                   Term term = termAt(at);
                   return {addElements(b, carried[0], term.loss),
                           addElements(b, carried[1], term.weight)};
                 });
  Value result =
      reduction == "sum" ? sums[0] : divElements(b, sums[0], sums[1], wide);
  result = convertElement(b, result, wide, logs.type);
  return node.set(
      0,
      tensor::FromElementsOp::create(
          b, b.loc, RankedTensorType::get({}, logs.elementType()), result),
      logs.type);
}

static LogicalResult emitNegativeLogLikelihood(Node &node) {
  return LossEmitter(node, node.in(0)).emit();
}

static LogicalResult emitCrossEntropy(Node &node) {
  const Tensor &scores = node.in(0);
  if (!isFloatType(scores.type) || scores.rank() < 2)
    return node.fail("scores must be floats [N, C, d...]");
  Tensor logs{
      softmax(node.b, scores, /*axis=*/1, /*givesLog=*/true), scores.type, {}};
  (void)node.set(1, logs.value, logs.type);
  return LossEmitter(node, logs).emit();
}

static const Operator operators[] = {
    {"", "NegativeLogLikelihoodLoss", 2, 3, emitNegativeLogLikelihood},
    {"", "SoftmaxCrossEntropyLoss", 2, 3, emitCrossEntropy},
};

ArrayRef<Operator> mlir::qlm::onnx_import::lossOperators() { return operators; }

//===- ModelVerifiers.cpp - Constraints of the model operations -----------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Each check names the numbered constraint of the operation's description.
//
//===----------------------------------------------------------------------===//

#include "Checks.h"

#include <cmath>

using namespace mlir;
using namespace mlir::qlm;

LogicalResult EmbeddingOp::verify() {
  Operation *op = *this;
  if (failed(checkRank(op, "tokens", getTokens(), 1)) || // C1
      failed(checkRank(op, "table", getTable(), 2)) ||   // C2
      failed(checkRank(op, "result", getResult(), 2)) || // C3
      failed(checkSize(op, "result's features", dim(getResult(), 1),
                       "the table's columns", dim(getTable(), 1))))
    return failure();
  return checkSize(op, "result's tokens", dim(getResult(), 0),
                   "the number of tokens", dim(getTokens(), 0));
}

LogicalResult LinearOp::verify() {
  Operation *op = *this;
  // C2
  if (failed(checkRank(op, "weight", getWeight(), 2)))
    return failure();
  // C3
  if (getBias() &&
      (failed(checkRank(op, "bias", getBias(), 1)) ||
       failed(checkSize(op, "bias size", dim(getBias(), 0), "the weight's rows",
                        dim(getWeight(), 0)))))
    return failure();
  // C1, C4
  return checkLinear(op, getInput(), /*inputScales=*/{}, dim(getWeight(), 1),
                     dim(getWeight(), 0), getResidual(), getResult());
}

LogicalResult RmsNormOp::verify() {
  // C1
  auto input = cast<RankedTensorType>(getInput().getType());
  auto result = cast<RankedTensorType>(getResult().getType());
  if (result.getShape() != input.getShape())
    return emitOpError() << "result must have the input's shape, got "
                         << shapeText(result) << " and " << shapeText(input);
  // C1, C2, C3
  return checkNorm(*this, getInput(), getWeight(), getEpsilon());
}

LogicalResult RopeOp::verify() {
  Operation *op = *this;
  // C1, C2, C3
  if (failed(checkRank(op, "input", getInput(), 2)) ||
      failed(checkRank(op, "positions", getPositions(), 1)) ||
      failed(
          checkRank(op, "inverse frequencies", getInverseFrequencies(), 1)) ||
      failed(checkSize(op, "number of positions", dim(getPositions(), 0),
                       "the input's tokens", dim(getInput(), 0))))
    return failure();
  // C4
  int64_t features = dim(getInput(), 1);
  int64_t half = dim(getInverseFrequencies(), 0);
  if (features == kDynamic || half == kDynamic || half <= 0 ||
      features % (2 * half) != 0)
    return emitOpError() << "head size must divide the features, got "
                         << 2 * half << " and " << features;
  return success();
}

LogicalResult AttentionOp::verify() {
  Operation *op = *this;
  // C1, C2
  if (failed(checkRank(op, "query", getQuery(), 2)) ||
      failed(checkRank(op, "key", getKey(), 2)) ||
      failed(checkSize(op, "number of keys", dim(getKey(), 0),
                       "the query's tokens", dim(getQuery(), 0))))
    return failure();
  // C3
  if (failed(checkHeads(op, getHeads(), getKvHeads(), dim(getQuery(), 1),
                        dim(getKey(), 1))))
    return failure();
  // C4
  if (getWindow() && !getCausal())
    return emitOpError("has a window and is not causal");
  return checkWindow(op, getWindow());
}

LogicalResult SwigluOp::verify() {
  Operation *op = *this;
  // C1
  if (failed(checkRank(op, "input", getInput(), 2)) ||
      failed(checkRank(op, "result", getResult(), 2)))
    return failure();
  if (dim(getInput(), 1) != 2 * dim(getResult(), 1))
    return emitOpError() << "input must have twice the result's features, got "
                         << dim(getInput(), 1) << " and "
                         << dim(getResult(), 1);
  return success();
}

/// Checks that a tensor is ranked.
static LogicalResult checkRanked(Operation *op, Value value) {
  if (!isa<RankedTensorType>(value.getType()))
    return op->emitOpError("operands must be ranked tensors");
  return success();
}

LogicalResult SiluOp::verify() { return checkRanked(*this, getInput()); }
LogicalResult AddOp::verify() { return checkRanked(*this, getLhs()); }
LogicalResult MulOp::verify() { return checkRanked(*this, getLhs()); }

LogicalResult SplitOp::verify() {
  Operation *op = *this;
  // C1
  if (failed(checkRank(op, "input", getInput(), 2)))
    return failure();
  int64_t total = 0;
  for (Value part : getParts()) {
    if (failed(checkRank(op, "each part", part, 2)) ||
        failed(checkSize(op, "a part's tokens", dim(part, 0),
                         "the input's tokens", dim(getInput(), 0))))
      return failure();
    total += dim(part, 1);
  }
  if (total != dim(getInput(), 1))
    return emitOpError() << "parts must add up to the features, got " << total
                         << " and " << dim(getInput(), 1);
  return success();
}

LogicalResult SplitHeadsOp::verify() {
  Operation *op = *this;
  // C1
  if (failed(checkRank(op, "input", getInput(), 2)) ||
      failed(checkRank(op, "result", getResult(), 3)))
    return failure();
  int64_t repeat = getRepeat();
  if (repeat <= 0 || dim(getResult(), 0) % repeat != 0 ||
      dim(getResult(), 0) / repeat * dim(getResult(), 2) != dim(getInput(), 1))
    return emitOpError()
           << "result must be [heads * repeat, tokens, headDim] with heads * "
              "headDim features, got "
           << shapeText(getType()) << ", repeat " << repeat << " and "
           << dim(getInput(), 1) << " features";
  return checkSize(op, "result's tokens", dim(getResult(), 1),
                   "the input's tokens", dim(getInput(), 0));
}

LogicalResult MergeHeadsOp::verify() {
  Operation *op = *this;
  // C1
  if (failed(checkRank(op, "input", getInput(), 3)) ||
      failed(checkRank(op, "result", getResult(), 2)) ||
      failed(checkSize(op, "result's tokens", dim(getResult(), 0),
                       "the input's tokens", dim(getInput(), 1))))
    return failure();
  return checkSize(op, "result's features", dim(getResult(), 1),
                   "heads * head size",
                   dim(getInput(), 0) * dim(getInput(), 2));
}

LogicalResult MatmulOp::verify() {
  Operation *op = *this;
  // C1
  if (failed(checkRank(op, "left operand", getLhs(), 3)) ||
      failed(checkRank(op, "right operand", getRhs(), 3)) ||
      failed(checkRank(op, "result", getResult(), 3)) ||
      failed(checkSize(op, "right batch", dim(getRhs(), 0), "the left batch",
                       dim(getLhs(), 0))) ||
      failed(checkSize(op, "result's batch", dim(getResult(), 0),
                       "the left batch", dim(getLhs(), 0))))
    return failure();
  // C2
  int64_t inner = getTransposeRhs() ? 2 : 1, outer = getTransposeRhs() ? 1 : 2;
  if (failed(checkSize(op, "right inner size", dim(getRhs(), inner),
                       "the left inner size", dim(getLhs(), 2))) ||
      failed(checkSize(op, "result's rows", dim(getResult(), 1),
                       "the left rows", dim(getLhs(), 1))))
    return failure();
  return checkSize(op, "result's columns", dim(getResult(), 2),
                   "the right outer size", dim(getRhs(), outer));
}

LogicalResult ScaleOp::verify() {
  // C1
  if (!std::isfinite(getFactor().convertToFloat()))
    return emitOpError() << "factor must be finite, got "
                         << getFactor().convertToFloat();
  return success();
}

LogicalResult CausalMaskOp::verify() {
  Operation *op = *this;
  // C1
  if (failed(checkRank(op, "input", getInput(), 3)) ||
      failed(checkSize(op, "number of keys", dim(getInput(), 2),
                       "the number of queries", dim(getInput(), 1))))
    return failure();
  // C2
  return checkWindow(op, getWindow());
}

LogicalResult SoftmaxOp::verify() {
  // C1
  auto type = dyn_cast<RankedTensorType>(getInput().getType());
  if (!type || type.getRank() < 1 || type.getRank() > 4)
    return emitOpError() << "input must have rank 1 to 4, got "
                         << shapeText(getInput().getType());
  return success();
}

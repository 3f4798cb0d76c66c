//===- Einsum.cpp - Sums of products that an equation names ---------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Node.h"

#include "llvm/ADT/StringExtras.h"

#include <map>

using namespace mlir;
using namespace mlir::qlm::onnx_import;

/// A dimension's letter; those of "..." count from the last one, 1, on.
using Label = int;
using Labels = SmallVector<Label>;
static constexpr Label kEllipsis = 0, kLetters = 1 << 16;

namespace {
/// "ij, jk -> ik" with the operands' dimensions.
struct Equation {
  SmallVector<Labels> operands;
  Labels result, summed;
  std::map<Label, Value> sizes;
};
} // namespace

/// The labels of one term, kEllipsis for "..."; nothing for another text.
static std::optional<Labels> readTerm(StringRef text) {
  Labels labels;
  bool hasEllipsis = false;
  for (text = text.trim(); !text.empty();) {
    if (text.consume_front("...")) {
      if (std::exchange(hasEllipsis, true))
        return std::nullopt;
      labels.push_back(kEllipsis);
    } else if (llvm::isAlpha(text.front())) {
      labels.push_back(kLetters + text.front());
      text = text.drop_front();
    } else if (text.front() == ' ') {
      text = text.drop_front();
    } else {
      return std::nullopt;
    }
  }
  return labels;
}

/// kEllipsis of \p labels written out as \p rank dimensions.
static Labels spread(const Labels &labels, int64_t rank) {
  Labels result;
  for (Label label : labels)
    if (label != kEllipsis)
      result.push_back(label);
    else
      for (int64_t i = rank; i > 0; --i)
        result.push_back(static_cast<Label>(i));
  return result;
}

/// Without "->", the result has what "..." stands for, then letters that stand
/// once, in alphabetical order.
static Labels findResult(ArrayRef<Labels> operands) {
  std::map<Label, int> counts;
  for (const Labels &labels : operands)
    for (Label label : labels)
      ++counts[label];
  Labels result;
  for (auto [label, count] : counts)
    if (label == kEllipsis || count == 1)
      result.push_back(label);
  return result;
}

static std::optional<Equation> readEquation(Node &node) {
  TensorBuilder &b = node.b;
  StringRef text = node.text("equation", "");
  auto fail = [&](const Twine &what) {
    (void)node.fail(what + " in the equation '" + text + "'");
    return std::nullopt;
  };
  auto [left, right] = text.split("->");
  SmallVector<StringRef> terms;
  left.split(terms, ',');
  if (static_cast<int64_t>(terms.size()) != node.inputCount())
    return fail("there must be a term for each input, got " +
                Twine(terms.size()) + " for " + Twine(node.inputCount()));
  Equation equation;
  SmallVector<Labels> written;
  int64_t widest = 0;
  for (auto [i, term] : llvm::enumerate(terms)) {
    auto labels = readTerm(term);
    if (!labels)
      return fail("'" + term.trim() + "' is no term");
    int64_t rank = node.in(i).rank(),
            letters = labels->size() - llvm::count(*labels, kEllipsis);
    bool isOpen = llvm::is_contained(*labels, kEllipsis);
    if (isOpen ? letters > rank : letters != rank)
      return fail("'" + term.trim() + "' names " + Twine(letters) +
                  " dimensions of " + Twine(rank));
    if (isOpen)
      widest = std::max(widest, rank - letters);
    equation.operands.push_back(spread(*labels, rank - letters));
    written.push_back(*labels);
  }
  auto result = text.contains("->") ? readTerm(right)
                                    : std::optional(findResult(written));
  if (!result)
    return fail("'" + right.trim() + "' is no term");
  if (widest && !llvm::is_contained(*result, kEllipsis))
    return fail("dimensions of '...' must be the result's too");
  equation.result = spread(*result, widest);
  for (auto [i, labels] : llvm::enumerate(equation.operands))
    for (auto [axis, label] : llvm::enumerate(labels)) {
      Value size = b.dim(node.in(i).value, static_cast<int64_t>(axis));
      auto [known, isNew] = equation.sizes.try_emplace(label, size);
      if (isNew)
        continue;
      // Sizes of 1 are repeated.
      if (b.asConstant(known->second) == 1)
        known->second = size;
      else if (b.asConstant(size) != 1)
        b.requireEqual(known->second, size, "dimensions of one letter");
    }
  llvm::SmallDenseSet<Label> kept;
  for (Label label : equation.result)
    if (!equation.sizes.count(label) || !kept.insert(label).second)
      return fail("the result's dimensions must each be one of the inputs'");
  for (const auto &[label, size] : equation.sizes)
    if (!kept.contains(label))
      equation.summed.push_back(label);
  return equation;
}

static LogicalResult emitEinsum(Node &node) {
  TensorBuilder &b = node.b;
  auto equation = readEquation(node);
  if (!equation)
    return failure();
  int32_t type = node.in(0).type, wide = accumulatorType(type);
  for (const Tensor &x : node.ins())
    if (x.type != type)
      return node.fail("inputs must have the same element type");
  auto sizesOf = [&](ArrayRef<Label> labels) {
    SmallVector<Value> sizes;
    for (Label label : labels)
      sizes.push_back(equation->sizes.at(label));
    return sizes;
  };
  Type stored = getStoredType(b.getContext(), wide);
  SmallVector<Value> summed = sizesOf(equation->summed);
  auto multiply = [&](ValueRange at, ValueRange k) {
    std::map<Label, Value> places;
    for (auto [label, place] : llvm::zip_equal(equation->result, at))
      places[label] = place;
    for (auto [label, place] : llvm::zip_equal(equation->summed, k))
      places[label] = place;
    Value product;
    for (auto [x, labels] : llvm::zip_equal(node.ins(), equation->operands)) {
      SmallVector<Value> from;
      for (auto [axis, label] : llvm::enumerate(labels)) {
        bool repeats = x.dim(static_cast<int64_t>(axis)) == 1;
        from.push_back(repeats ? b.index(0) : places.at(label));
      }
      Value e = convertElement(b, b.extract(x.value, from), type, wide);
      product = product ? mulElements(b, product, e) : e;
    }
    return product;
  };
  Value result = b.generate(
      sizesOf(equation->result), getStoredType(b.getContext(), type),
      [&](ValueRange at) {
        if (summed.empty())
          return convertElement(b, multiply(at, {}), wide, type);
        auto sum = b.loopNest(
            summed, {b.integer(stored, 0)},
            [&](ValueRange k, ValueRange carried) -> SmallVector<Value> {
              return {addElements(b, carried[0], multiply(at, k))};
            });
        return convertElement(b, sum[0], wide, type);
      });
  return node.set(0, result, type);
}

static const Operator operators[] = {
    {"", "Einsum", 1, -1, emitEinsum},
};

ArrayRef<Operator> mlir::qlm::onnx_import::einsumOperators() {
  return operators;
}

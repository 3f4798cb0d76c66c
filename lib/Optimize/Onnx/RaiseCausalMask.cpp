//===- RaiseCausalMask.cpp - Recognises masks that hide later tokens ------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Evaluator.h"
#include "Matching.h"
#include "qlm/Optimize/Passes.h"

#include "llvm/Support/Format.h"

#include <set>

namespace mlir::qlm {
#define GEN_PASS_DEF_RAISECAUSALMASK
#include "qlm/Optimize/Passes.h.inc"
} // namespace mlir::qlm

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::onnxir;

/// Sums below it are hidden: f16's lowest number and all that exporters use.
static constexpr double kHidden = -1e4;
/// Whole numbers in a mask's nodes that may be a window's size.
static constexpr int64_t kLeastWindow = 9, kMostWindow = int64_t(1) << 24;
/// Without a cache a mask is square: the largest that is computed.
static constexpr int64_t kMostSquare = 1000;

/// Whole numbers among the constants that \p value depends on.
static std::set<int64_t> findNumbers(Value value) {
  std::set<int64_t> numbers;
  llvm::SmallDenseSet<Value> seen;
  SmallVector<Value> pending = {value};
  while (!pending.empty()) {
    Value next = pending.pop_back_val();
    if (!seen.insert(next).second)
      continue;
    if (auto list = getIntegers(next))
      for (int64_t number : *list)
        if (std::abs(number) >= kLeastWindow && std::abs(number) < kMostWindow)
          numbers.insert(std::abs(number));
    if (auto node = next.getDefiningOp<NodeOp>())
      llvm::append_range(pending, node.getInputs());
  }
  return numbers;
}

/// The probes that tell a causal mask from one with a window of any of
/// \p numbers tokens.
static SmallVector<Probe> makeProbes(bool cached, ArrayRef<int64_t> numbers) {
  SmallVector<Probe> probes = {{1, 0}, {2, 0}, {5, 0}, {12, 0}};
  if (cached)
    probes.append({{1, 1}, {3, 4}, {1, 9}});
  for (int64_t number : numbers)
    if (cached)
      probes.append({{1, number}, {2, number}, {1, number + 1}});
    else
      probes.push_back({number + 2, 0});
  return probes;
}

static std::string printNumber(double value) {
  std::string text;
  llvm::raw_string_ostream(text) << llvm::format("%g", value);
  return text;
}

/// What \p mask shows of \p probe that a causal mask doesn't; empty when it is
/// one.
static std::string findDifference(const Known *mask, Probe probe) {
  int64_t all = probe.tokens + probe.past;
  if (!mask || !mask->values)
    return "it depends on weights or on operators that are not understood";
  if (mask->rank() < 2 || mask->shape.back() != all ||
      mask->shape[mask->rank() - 2] != probe.tokens)
    return "it is not [tokens, all tokens]";
  bool isBoolean = mask->isInteger();
  for (int64_t i = 0; i < mask->count(); ++i) {
    int64_t column = i % all, row = i / all % probe.tokens;
    double value = (*mask->values)[i];
    bool shown = isBoolean ? value != 0 : value == 0;
    bool hidden = isBoolean ? value == 0 : value <= kHidden;
    bool later = column > row + probe.past;
    if (later ? !hidden : !shown)
      return "it is " + printNumber(value) + " for token " +
             std::to_string(row + probe.past) + " and token " +
             std::to_string(column);
  }
  return {};
}

namespace {
struct RaiseCausalMask : qlm::impl::RaiseCausalMaskBase<RaiseCausalMask> {
  void runOnOperation() override {
    for (auto graph : getOperation().getOps<func::FuncOp>())
      raise(graph);
  }

  void raise(func::FuncOp graph) {
    // One mask serves all layers.
    llvm::MapVector<Value, SmallVector<NodeOp>> users;
    graph.walk([&](NodeOp node) {
      if (node.is("Attention") && node.input(3))
        users[node.input(3)].push_back(node);
    });
    bool cached = hasCache(graph);
    SmallVector<std::pair<NodeOp, std::string>> verdicts;
    for (auto &[mask, nodes] : users)
      for (NodeOp node : nodes)
        verdicts.emplace_back(node, examine(graph, mask, node, cached));
    OpBuilder builder(graph.getContext());
    for (auto &[node, difference] : verdicts) {
      if (!difference.empty()) {
        node->setAttr("qlm.mask", builder.getStringAttr(difference));
        continue;
      }
      builder.setInsertionPoint(node);
      Value absent =
          AbsentOp::create(builder, node.getLoc(), builder.getNoneType());
      if (node.getInputs().size() > 4)
        node->setOperand(3, absent);
      else
        node->eraseOperand(3);
      node->setAttr("is_causal", builder.getI64IntegerAttr(1));
    }
  }

  std::string examine(func::FuncOp graph, Value mask, NodeOp node,
                      bool cached) {
    auto [known, isNew] = examined.try_emplace(mask);
    if (!isNew)
      return known->second;
    if (cached && !node.input(4))
      return known->second = "the graph has a cache that it doesn't use";
    std::set<int64_t> numbers = findNumbers(mask);
    SmallVector<int64_t> list(numbers.begin(), numbers.end());
    if (!cached)
      for (int64_t number : list)
        if (number > kMostSquare)
          return known->second = "the number " + std::to_string(number) +
                                 " in it may be a window";
    for (Probe probe : makeProbes(cached, list)) {
      Evaluator evaluator(graph, probe);
      std::string difference = findDifference(evaluator.get(mask), probe);
      if (!difference.empty())
        return known->second = difference;
    }
    return {};
  }

  llvm::DenseMap<Value, std::string> examined;
};
} // namespace

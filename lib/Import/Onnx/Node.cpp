//===- Node.cpp - One node of an ONNX graph on its way to IR --------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Node.h"

#include "Functions.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::onnx_import;

std::string
mlir::qlm::onnx_import::describeUnknownInput(const ::onnx::NodeProto &proto,
                                             int i) {
  return "input " + std::to_string(i) + " ('" + proto.input(i) +
         "') must be known when the graph is compiled; make it a constant, or "
         "fix it (--fix)";
}

std::string Node::describe() const { return describeNode(proto); }

const ::onnx::AttributeProto *Node::find(StringRef name) const {
  for (const ::onnx::AttributeProto &attribute : proto.attribute())
    if (attribute.name() == name)
      return &attribute;
  return nullptr;
}

int64_t Node::integer(StringRef name, int64_t missing) const {
  auto *attribute = find(name);
  return attribute ? attribute->i() : missing;
}

double Node::number(StringRef name, double missing) const {
  auto *attribute = find(name);
  return attribute ? attribute->f() : missing;
}

StringRef Node::text(StringRef name, StringRef missing) const {
  auto *attribute = find(name);
  return attribute ? StringRef(attribute->s()) : missing;
}

std::optional<SmallVector<int64_t>> Node::integers(StringRef name) const {
  auto *attribute = find(name);
  if (!attribute)
    return std::nullopt;
  return SmallVector<int64_t>(attribute->ints().begin(),
                              attribute->ints().end());
}

std::optional<SmallVector<int64_t>> Node::knownInput(int64_t i,
                                                     StringRef attribute) {
  if (!attribute.empty())
    if (auto values = integers(attribute))
      return values;
  if (!has(i))
    return std::nullopt;
  if (!in(i).known)
    (void)fail(describeUnknownInput(proto, static_cast<int>(i)));
  return in(i).known;
}

std::optional<int64_t> Node::axis(int64_t value, int64_t rank) {
  if (value < -rank || value >= rank) {
    (void)fail("axis must be from " + llvm::Twine(-rank) + " to " +
               llvm::Twine(rank - 1) + ", got " + llvm::Twine(value));
    return std::nullopt;
  }
  return value < 0 ? value + rank : value;
}

std::optional<SmallVector<int64_t>> Node::axes(ArrayRef<int64_t> values,
                                               int64_t rank) {
  SmallVector<int64_t> result;
  for (int64_t value : values) {
    auto one = axis(value, rank);
    if (!one)
      return std::nullopt;
    if (llvm::is_contained(result, *one)) {
      (void)fail("axis " + llvm::Twine(*one) + " stands twice");
      return std::nullopt;
    }
    result.push_back(*one);
  }
  return result;
}

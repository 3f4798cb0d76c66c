//===- NodeRules.h - What each operator gives of small values ---*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Each rule gives the shape, and the elements where those of all inputs are
// known. Operators mean what ONNX says of them from opset 13 on; axes may be
// attributes or inputs.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_OPTIMIZE_ONNX_NODERULES_H
#define QLM_LIB_OPTIMIZE_ONNX_NODERULES_H

#include "Evaluator.h"

namespace mlir::qlm::onnxir {

/// Values of more elements are not computed.
inline constexpr int64_t kMostElements = int64_t(1) << 20;

using Shape = SmallVector<int64_t>;
using Result = std::optional<Known>;

/// A node with what is known of its inputs.
struct Call {
  mutable NodeOp node; ///< accessors of operations are not const
  unsigned result;
  ArrayRef<const Known *> inputs;

  StringRef kind() const { return node.getKind(); }
  const Known *in(unsigned i) const {
    return i < inputs.size() ? inputs[i] : nullptr;
  }
  bool has(unsigned i) const { return static_cast<bool>(node.input(i)); }
  /// Input \p i as whole numbers, or attribute \p name.
  std::optional<Shape> integers(unsigned i, StringRef name = "") const {
    if (!name.empty())
      if (auto list = node->getAttrOfType<DenseI64ArrayAttr>(name))
        return Shape(list.asArrayRef());
    if (!in(i) || !in(i)->values)
      return std::nullopt;
    Shape list;
    for (double value : *in(i)->values)
      list.push_back(value >= 9.2e18    ? INT64_MAX
                     : value <= -9.2e18 ? INT64_MIN
                                        : static_cast<int64_t>(value));
    return list;
  }
};

/// The axes of a node's first input that its second one, or its attribute,
/// lists.
struct ListedAxes {
  /// The input they are of.
  const Known *of;
  /// Nothing where the node has no list.
  std::optional<Shape> axes;

  bool has(int64_t axis) const;
  /// Those of \p call; nothing where they, or the input, aren't known.
  static std::optional<ListedAxes> get(const Call &call);
};

/// \p value as an element of type \p element would keep it.
double roundTo(Type element, double value);
/// \p axis of \p rank, counted from the end when negative.
std::optional<int64_t> wrapAxis(int64_t axis, int64_t rank);
/// Calls \p visit with each index of \p shape, the last fastest.
void forEachIndex(ArrayRef<int64_t> shape,
                  llvm::function_ref<void(ArrayRef<int64_t>)> visit);
/// Where the element at \p index of a broadcast stands in \p shape.
int64_t offsetIn(ArrayRef<int64_t> shape, ArrayRef<int64_t> index);
/// The shape that \p inputs have together; nothing where they have none.
std::optional<Shape> broadcast(ArrayRef<const Known *> inputs);

// One element for each of the inputs' (EvaluateElements.cpp).
Result evaluateElementwise(const Call &call);
Result evaluateCast(const Call &call);

// Shapes, and the same elements in other ones (EvaluateShapes.cpp).
Result evaluateShape(const Call &call);
Result evaluateReshape(const Call &call);
Result evaluateUnsqueeze(const Call &call);
Result evaluateSqueeze(const Call &call);
Result evaluateFlatten(const Call &call);

// Elements at other places (EvaluateMoves.cpp).
Result evaluateTranspose(const Call &call);
Result evaluateExpand(const Call &call);
Result evaluateTile(const Call &call);
Result evaluateSlice(const Call &call);
Result evaluateConcat(const Call &call);
Result evaluateSplit(const Call &call);
Result evaluateGather(const Call &call);
Result evaluateGatherND(const Call &call);
Result evaluateScatterND(const Call &call);
Result evaluateTrilu(const Call &call);

// Ranges, sums and operators of layers (EvaluateLayers.cpp).
Result evaluateRange(const Call &call);
Result evaluateConstantOfShape(const Call &call);
Result evaluateReduction(const Call &call);
Result evaluateCumSum(const Call &call);
Result evaluateMatMul(const Call &call);
Result evaluateLayer(const Call &call);
Result evaluateGemm(const Call &call);

} // namespace mlir::qlm::onnxir

#endif // QLM_LIB_OPTIMIZE_ONNX_NODERULES_H

//===- EvaluateNode.cpp - Computes one node of a graph's small values -----===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "NodeRules.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringSwitch.h"

using namespace mlir;
using namespace mlir::qlm::onnxir;

double mlir::qlm::onnxir::roundTo(Type element, double value) {
  if (element && isa<FloatType>(element) && !element.isF64())
    return static_cast<double>(static_cast<float>(value));
  return value;
}

std::optional<int64_t> mlir::qlm::onnxir::wrapAxis(int64_t axis, int64_t rank) {
  if (axis < 0)
    axis += rank;
  if (axis < 0 || axis >= rank)
    return std::nullopt;
  return axis;
}

bool ListedAxes::has(int64_t axis) const {
  return axes && llvm::any_of(*axes, [&](int64_t listed) {
           return wrapAxis(listed, of->rank()) == axis;
         });
}

std::optional<ListedAxes> ListedAxes::get(const Call &call) {
  const Known *x = call.in(0);
  if (!x)
    return std::nullopt;
  auto axes = call.integers(1, "axes");
  if (!axes && call.has(1))
    return std::nullopt;
  return ListedAxes{x, axes};
}

void mlir::qlm::onnxir::forEachIndex(
    ArrayRef<int64_t> shape,
    llvm::function_ref<void(ArrayRef<int64_t>)> visit) {
  int64_t count = 1;
  for (int64_t size : shape)
    count *= size;
  Shape index(shape.size(), 0);
  for (int64_t i = 0; i < count; ++i) {
    visit(index);
    for (int64_t axis = shape.size() - 1; axis >= 0; --axis) {
      if (++index[axis] < shape[axis])
        break;
      index[axis] = 0;
    }
  }
}

int64_t mlir::qlm::onnxir::offsetIn(ArrayRef<int64_t> shape,
                                    ArrayRef<int64_t> index) {
  int64_t offset = 0;
  size_t skipped = index.size() - shape.size();
  for (size_t axis = 0; axis < shape.size(); ++axis)
    offset =
        offset * shape[axis] + (shape[axis] == 1 ? 0 : index[axis + skipped]);
  return offset;
}

std::optional<Shape>
mlir::qlm::onnxir::broadcast(ArrayRef<const Known *> inputs) {
  Shape shape;
  for (const Known *input : inputs) {
    if (!input)
      return std::nullopt;
    if (input->shape.size() > shape.size())
      shape.insert(shape.begin(), input->shape.size() - shape.size(), 1);
    size_t skipped = shape.size() - input->shape.size();
    for (auto [axis, size] : llvm::enumerate(input->shape)) {
      int64_t &known = shape[axis + skipped];
      if (known != size && known != 1 && size != 1)
        return std::nullopt;
      if (known == 1)
        known = size;
    }
  }
  return shape;
}

std::optional<Known>
mlir::qlm::onnxir::evaluateNode(NodeOp node, unsigned result,
                                ArrayRef<const Known *> inputs) {
  Call call{node, result, inputs};
  using Rule = Result (*)(const Call &);
  Rule rule =
      llvm::StringSwitch<Rule>(node.getKind())
          .Cases({"Cast", "CastLike"}, evaluateCast)
          .Cases({"Shape", "Size"}, evaluateShape)
          .Case("Reshape", evaluateReshape)
          .Case("Unsqueeze", evaluateUnsqueeze)
          .Case("Squeeze", evaluateSqueeze)
          .Case("Flatten", evaluateFlatten)
          .Case("Transpose", evaluateTranspose)
          .Case("Expand", evaluateExpand)
          .Case("Tile", evaluateTile)
          .Case("Slice", evaluateSlice)
          .Case("Concat", evaluateConcat)
          .Case("Split", evaluateSplit)
          .Case("Gather", evaluateGather)
          .Case("GatherND", evaluateGatherND)
          .Case("ScatterND", evaluateScatterND)
          .Case("Trilu", evaluateTrilu)
          .Case("Range", evaluateRange)
          .Case("ConstantOfShape", evaluateConstantOfShape)
          .Cases({"ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin",
                  "ReduceProd"},
                 evaluateReduction)
          .Case("CumSum", evaluateCumSum)
          .Case("MatMul", evaluateMatMul)
          .Case("Gemm", evaluateGemm)
          .Cases({"RMSNormalization", "LayerNormalization", "Softmax", "Gelu",
                  "SimplifiedLayerNormalization", "RotaryEmbedding",
                  "Attention"},
                 evaluateLayer)
          .Cases({"com.microsoft.RotaryEmbedding", "com.microsoft.MatMulNBits",
                  "com.microsoft.GroupQueryAttention",
                  "com.microsoft.SkipSimplifiedLayerNormalization",
                  "com.microsoft.FastGelu", "com.microsoft.Gelu",
                  "com.microsoft.QuickGelu"},
                 evaluateLayer)
          .Default(evaluateElementwise);
  return rule(call);
}

//===- KernelAttention.cpp - What becomes graph.attention -----------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "KernelAttention.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/IR/Matchers.h"
#include "qlm/Dialect/Graph.h"

using namespace mlir;
using namespace mlir::qlm::onnx_import;
using onnx::TensorProto;

bool mlir::qlm::onnx_import::isKernelType(int32_t type) {
  return type == TensorProto::FLOAT || type == TensorProto::FLOAT16 ||
         type == TensorProto::BFLOAT16;
}

Value KernelAttention::emit(TensorBuilder &b) const {
  SmallVector<Value> sizes = b.dims(query.value);
  sizes[3] = b.dim(value.value, 3);
  auto element = cast<RankedTensorType>(query.value.getType()).getElementType();
  auto result = graph::AttentionOp::create(
      b, b.loc, b.typeFor(sizes, element), query.value, key.value, value.value,
      mask, lengths, first, b.getF64FloatAttr(scale),
      b.getF64FloatAttr(softcap), b.getI64IntegerAttr(left),
      b.getI64IntegerAttr(right), isCausal ? b.getUnitAttr() : UnitAttr(),
      emptyIsNan ? b.getUnitAttr() : UnitAttr(),
      b.getDenseBoolArrayAttr(
          {query.tokensFirst, key.tokensFirst, value.tokensFirst}));
  for (int64_t axis = 0; axis < 3; ++axis)
    if (ShapedType::isDynamic(result.getType().getShape()[axis]))
      b.knowSize(result, axis, sizes[axis]);
  return result;
}

//===----------------------------------------------------------------------===//
// Nodes that spell it
//===----------------------------------------------------------------------===//

bool mlir::qlm::onnx_import::isPartOfAttention(const ::onnx::NodeProto &proto) {
  static constexpr StringLiteral kinds[] = {
      "Add", "Div", "IsNaN", "MatMul", "Mul", "Softmax", "Transpose", "Where"};
  return proto.domain().empty() && llvm::is_contained(kinds, proto.op_type());
}

namespace {
/// Goes back from the last product.
class AttentionMatcher {
public:
  explicit AttentionMatcher(Node &node)
      : node(node), b(node.b), rank(node.in(0).rank()) {}
  Value match();

private:
  const Produced *get(const Tensor &tensor, StringRef kind) {
    const Produced *made = node.findProduced(tensor.value);
    return made && made->proto.op_type() == kind ? made : nullptr;
  }
  bool isSame(Value x, Value y) {
    auto a = b.asConstant(x), c = b.asConstant(y);
    return x == y || (a && c && *a == *c);
  }
  bool isSoftmax(Tensor &probabilities);
  bool takeMask(Tensor &scores);
  bool takeFactor(Tensor &x, bool mayDivide);
  std::optional<SmallVector<int64_t>> takeTranspose(Tensor &x);
  bool takeProduct(const Tensor &scores);
  HeadsTensor toHeads(Tensor x);
  HeadsTensor keysToHeads(Tensor x);
  bool fits();
  Value scaleQueries(Value queries);
  Value toHeadsOf(Value x);

  Node &node;
  TensorBuilder &b;
  int64_t rank;
  KernelAttention attention;
  Tensor queries, turnedKeys;
  /// Numbers that scores are multiplied with, or divided by.
  SmallVector<std::pair<Value, bool>> factors;
};
} // namespace

static bool isOne(const Tensor &x) {
  return x.tensorType().hasStaticShape() &&
         x.tensorType().getNumElements() == 1;
}

static std::optional<double> getNumber(Value x) {
  DenseFPElementsAttr elements;
  if (!matchPattern(x, m_Constant(&elements)) || !elements.isSplat())
    return std::nullopt;
  APFloat number = elements.getSplatValue<APFloat>();
  bool losesInfo;
  number.convert(APFloat::IEEEdouble(), APFloat::rmNearestTiesToEven,
                 &losesInfo);
  return number.convertToDouble();
}

/// Whether \p probabilities are a softmax over the last dimension; becomes what
/// it is of.
bool AttentionMatcher::isSoftmax(Tensor &probabilities) {
  attention.emptyIsNan = true;
  if (const Produced *where = get(probabilities, "Where")) {
    const Produced *isNan = get(where->inputs[0], "IsNaN");
    if (!isNan || isNan->inputs[0].value != where->inputs[2].value ||
        getNumber(where->inputs[1].value) != 0.0)
      return false;
    probabilities = where->inputs[2];
    attention.emptyIsNan = false;
  }
  const Produced *softmax = get(probabilities, "Softmax");
  if (!softmax || probabilities.rank() != rank)
    return false;
  int64_t axis = -1;
  for (const auto &attribute : softmax->proto.attribute())
    if (attribute.name() == "axis")
      axis = attribute.i();
  if (axis != -1 && axis != rank - 1)
    return false;
  probabilities = softmax->inputs[0];
  return true;
}

/// Takes an addition off \p scores; false where it is of another kind.
bool AttentionMatcher::takeMask(Tensor &scores) {
  const Produced *sum = get(scores, "Add");
  if (!sum)
    return true;
  for (int64_t i = 0; i < 2; ++i) {
    const Tensor &rest = sum->inputs[i], &mask = sum->inputs[1 - i];
    if (!node.findProduced(rest.value) || rest.rank() != rank ||
        mask.rank() < 1 || mask.rank() > rank || !isKernelType(mask.type))
      continue;
    bool broadcasts = true;
    for (int64_t axis = 0; axis < mask.rank(); ++axis) {
      Value of = b.dim(rest.value, rank - mask.rank() + axis);
      bool isLast = axis + 1 == mask.rank();
      broadcasts &= isSame(b.dim(mask.value, axis), of) ||
                    (!isLast && mask.dim(axis) == 1);
    }
    Tensor product = rest;
    while (takeFactor(product, /*mayDivide=*/true))
      ;
    factors.clear();
    if (!broadcasts || !get(product, "MatMul"))
      continue;
    attention.mask = mask.value;
    scores = rest;
    return true;
  }
  return false;
}

/// Takes a product with one number, or a quotient, off \p x.
bool AttentionMatcher::takeFactor(Tensor &x, bool mayDivide) {
  bool divides = false;
  const Produced *made = get(x, "Mul");
  if (!made && mayDivide) {
    made = get(x, "Div");
    divides = made != nullptr;
  }
  if (!made)
    return false;
  for (int64_t i = 0; i < (divides ? 1 : 2); ++i) {
    const Tensor &rest = made->inputs[i], &number = made->inputs[1 - i];
    if (!isOne(number) || number.rank() > rank || rest.rank() != rank ||
        isOne(rest))
      continue;
    factors.push_back({number.value, divides});
    x = rest;
    return true;
  }
  return false;
}

/// Takes a transposition off \p x; gives its order.
std::optional<SmallVector<int64_t>> AttentionMatcher::takeTranspose(Tensor &x) {
  const Produced *made = get(x, "Transpose");
  if (!made)
    return std::nullopt;
  SmallVector<int64_t> order;
  for (const auto &attribute : made->proto.attribute())
    if (attribute.name() == "perm")
      order.assign(attribute.ints().begin(), attribute.ints().end());
  x = made->inputs[0];
  return order;
}

bool AttentionMatcher::takeProduct(const Tensor &scores) {
  const Produced *product = get(scores, "MatMul");
  if (!product)
    return false;
  queries = product->inputs[0];
  turnedKeys = product->inputs[1];
  return queries.rank() == rank && turnedKeys.rank() == rank &&
         queries.type == turnedKeys.type && isKernelType(queries.type);
}

/// \p x of any rank as [n, heads, tokens, size].
Value AttentionMatcher::toHeadsOf(Value x) {
  SmallVector<Value> sizes = b.dims(x);
  if (rank == 4)
    return x;
  sizes.insert(sizes.end() - 2, b.index(1));
  if (rank == 2)
    sizes.insert(sizes.begin(), b.index(1));
  return b.reshape(x, sizes);
}

/// \p x, or what it is the transposition of.
HeadsTensor AttentionMatcher::toHeads(Tensor x) {
  Tensor source = x;
  auto order = rank == 4 ? takeTranspose(source) : std::nullopt;
  if (order && *order == SmallVector<int64_t>{0, 2, 1, 3})
    return {source.value, /*tokensFirst=*/true};
  return {toHeadsOf(x.value), /*tokensFirst=*/false};
}

/// The same of \p x, whose last two dimensions are exchanged.
HeadsTensor AttentionMatcher::keysToHeads(Tensor x) {
  auto order = llvm::to_vector(llvm::seq<int64_t>(0, rank));
  std::swap(order[rank - 1], order[rank - 2]);
  Tensor source = x;
  if (auto found = takeTranspose(source)) {
    if (rank == 4 && *found == SmallVector<int64_t>{0, 2, 3, 1})
      return {source.value, /*tokensFirst=*/true};
    if (*found == order)
      return toHeads(source);
  }
  return {toHeadsOf(b.transpose(x.value, order)), /*tokensFirst=*/false};
}

/// Whether heads are known, and one for one; other sizes that must be equal
/// were compared by the products.
bool AttentionMatcher::fits() {
  auto dim = [&](const HeadsTensor &x, int64_t axis) {
    if (x.tokensFirst && (axis == 1 || axis == 2))
      axis = 3 - axis;
    return b.dim(x.value, axis);
  };
  const HeadsTensor &q = attention.query, &k = attention.key,
                    &v = attention.value;
  auto isKnown = [&](Value size) {
    auto known = b.asConstant(size);
    return known && *known > 0 && *known <= kMostFeatures;
  };
  return isKnown(dim(q, 1)) && isKnown(dim(q, 3)) && isKnown(dim(v, 3)) &&
         isSame(dim(q, 0), dim(k, 0)) && isSame(dim(q, 0), dim(v, 0)) &&
         isSame(dim(q, 1), dim(k, 1)) && isSame(dim(q, 1), dim(v, 1)) &&
         isSame(dim(q, 3), dim(k, 3)) && isSame(dim(k, 2), dim(v, 2));
}

/// Known factors become the scale, others are taken to the queries.
Value AttentionMatcher::scaleQueries(Value value) {
  for (auto [number, divides] : factors) {
    if (auto known = getNumber(number)) {
      attention.scale *= divides ? 1 / *known : *known;
      continue;
    }
    value = b.map({value, number},
                  cast<RankedTensorType>(value.getType()).getElementType(),
                  [&, byDivision = divides](ValueRange e) -> Value {
                    return byDivision ? divElements(b, e[0], e[1], queries.type)
                                      : mulElements(b, e[0], e[1]);
                  });
  }
  return value;
}

Value AttentionMatcher::match() {
  const Tensor &values = node.in(1);
  Tensor scores = node.in(0);
  if (rank < 2 || rank > 4 || values.rank() != rank ||
      !isKernelType(values.type) || !isSoftmax(scores) || !takeMask(scores))
    return {};
  while (takeFactor(scores, /*mayDivide=*/true))
    ;
  if (!takeProduct(scores))
    return {};
  while (takeFactor(turnedKeys, /*mayDivide=*/false))
    ;
  attention.query = toHeads(queries);
  attention.key = keysToHeads(turnedKeys);
  attention.value = toHeads(values);
  if (!fits())
    return {};
  attention.query.value = scaleQueries(attention.query.value);
  // Masks of stacks have no dimension of heads.
  if (Value mask = attention.mask;
      mask && rank == 3 &&
      cast<RankedTensorType>(mask.getType()).getRank() == 3)
    attention.mask = toHeadsOf(mask);
  Value result = attention.emit(b);
  if (attention.query.tokensFirst)
    result = b.transpose(result, {0, 2, 1, 3});
  if (rank == 4)
    return result;
  SmallVector<Value> sizes = b.dims(result);
  sizes.erase(sizes.begin() + 1);
  if (rank == 2)
    sizes.erase(sizes.begin());
  return b.reshape(result, sizes);
}

Value mlir::qlm::onnx_import::raiseAttention(Node &node) {
  // Operators that are spelled with a MatMul have no nodes.
  if (!node.findProduced)
    return {};
  return AttentionMatcher(node).match();
}

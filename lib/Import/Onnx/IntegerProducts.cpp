//===- IntegerProducts.cpp - MatMulInteger and ConvInteger on kernels -----===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// What onnxruntime's quantize_dynamic writes of a MatMul:
//
//   q, s, z = DynamicQuantizeLinear(x)
//   y = Cast(MatMulInteger(q, w, z, 0)) * (s * scale)
//
// The sum of (q - z) * w is that of (q - o) * w, less (z - o) times the sum of
// each column of w, which is known. With o = 128, or 0 of signed codes, the
// first one is a product of bytes for `qlm-fold-qdq`. It comes as f32, so that
// only a sum that is cast to f32 at once is taken here: sums up to 2^24 are
// exact, larger ones rounded as the Cast does.
//
//===----------------------------------------------------------------------===//

#include "Products.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/IR/Matchers.h"
#include "qlm/Dialect/Graph.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::onnx_import;
using onnx::TensorProto;

static bool isByte(int32_t type) {
  return type == TensorProto::UINT8 || type == TensorProto::INT8;
}

static bool isOne(const Tensor &tensor) {
  return tensor.rank() == 0 || (tensor.rank() == 1 && tensor.dim(0) == 1);
}

/// Whether input \p i is absent or nothing but zeros.
static bool isZero(Node &node, int64_t i) {
  if (!node.has(i))
    return true;
  DenseElementsAttr elements;
  return matchPattern(node.in(i).value, m_Constant(&elements)) &&
         llvm::all_of(elements.getValues<APInt>(),
                      [](APInt code) { return code.isZero(); });
}

/// \p codes, signed ones, as f32.
static Value toFloats(TensorBuilder &b, Value codes) {
  auto type = cast<RankedTensorType>(codes.getType());
  auto one = RankedTensorType::get({}, b.getF32Type());
  Value scale =
      arith::ConstantOp::create(b, b.loc, DenseElementsAttr::get(one, 1.0f));
  return graph::DequantizeOp::create(
      b, b.loc, type.clone(b.getF32Type()), codes, scale,
      /*zeroPoint=*/Value(), b.getI64IntegerAttr(0), UnitAttr());
}

/// The sum of each column of the int8 matrix that input \p i is; null where the
/// file doesn't hold it.
static Value sumColumns(Node &node, int64_t i) {
  const TensorProto *tensor =
      node.findTensor(node.getProto().input(static_cast<int>(i)));
  if (!tensor)
    return {};
  auto bytes = node.file->getData(*tensor);
  if (!bytes) {
    llvm::consumeError(bytes.takeError());
    return {};
  }
  int64_t columns = node.in(i).dim(1);
  std::vector<int64_t> sums(columns);
  for (size_t k = 0; k < bytes->size(); ++k)
    sums[k % columns] += static_cast<int8_t>((*bytes)[k]);
  SmallVector<float> floats(sums.begin(), sums.end());
  auto type = RankedTensorType::get({columns}, node.b.getF32Type());
  return arith::ConstantOp::create(
      node.b, node.b.loc,
      DenseElementsAttr::get(type, ArrayRef<float>(floats)));
}

Value mlir::qlm::onnx_import::multiplyCodes(Node &node) {
  TensorBuilder &b = node.b;
  const Tensor &x = node.in(0), &weight = node.in(1);
  if (!node.sumsBecomeFloats || !isByte(x.type) ||
      weight.type != TensorProto::INT8 || x.rank() < 2 || weight.rank() != 2 ||
      weight.dim(0) < 1 || weight.dim(1) < 1 ||
      x.dim(x.rank() - 1) != weight.dim(0) || !b.isParameter(weight.value) ||
      !isZero(node, 3) || (node.has(2) && !isOne(node.in(2))))
    return {};
  Value sums = sumColumns(node, 1);
  if (!sums)
    return {};
  Type i8 = b.getI8Type(), i32 = b.getI32Type();
  bool isUnsigned = x.type == TensorProto::UINT8;
  Value codes = x.value;
  if (isUnsigned)
    codes = b.map({codes}, i8, [&](ValueRange e) -> Value {
      return arith::XOrIOp::create(b, b.loc, e[0], b.integer(i8, -128));
    });
  // What is folded has one dimension of rows.
  SmallVector<Value> sizes = b.dims(codes);
  if (x.rank() > 2) {
    Value rows = sizes[0];
    for (int64_t axis = 1; axis + 1 < x.rank(); ++axis)
      rows = b.mul(rows, sizes[axis]);
    codes = b.reshape(codes, {rows, sizes.back()});
  }
  Tensor left{toFloats(b, codes), TensorProto::FLOAT, std::nullopt},
      right{toFloats(b, weight.value), TensorProto::FLOAT, std::nullopt};
  Value product = multiplyByParameter(b, left, right);
  if (product && (isUnsigned || !isZero(node, 2))) {
    Value zero = b.integer(i32, 0);
    if (node.has(2))
      zero = convertElement(b, b.scalar(node.in(2).value), x.type,
                            TensorProto::INT32);
    if (isUnsigned)
      zero = subElements(b, zero, b.integer(i32, 128));
    zero = convertElement(b, zero, TensorProto::INT32, TensorProto::FLOAT);
    product = b.map({product, sums}, b.getF32Type(), [&](ValueRange e) {
      return subElements(b, e[0], mulElements(b, zero, e[1]));
    });
  }
  sizes.back() = b.index(weight.dim(1));
  return product && x.rank() > 2 ? b.reshape(product, sizes) : product;
}

/// Windows reach into padding, where (q - z) is 0, so that a column's sum is no
/// constant: codes less their zero point are multiplied as f32.
Value mlir::qlm::onnx_import::convolveCodes(Node &node) {
  TensorBuilder &b = node.b;
  const Tensor &x = node.in(0), &weight = node.in(1);
  if (!node.sumsBecomeFloats || !isByte(x.type) ||
      weight.type != TensorProto::INT8 || !b.isParameter(weight.value) ||
      !isZero(node, 3) || (node.has(2) && !isOne(node.in(2))))
    return {};
  Value zero;
  if (node.has(2))
    zero = convertElement(b, b.scalar(node.in(2).value), x.type,
                          TensorProto::FLOAT);
  Value floats = b.map({x.value}, b.getF32Type(), [&](ValueRange e) {
    Value code = convertElement(b, e[0], x.type, TensorProto::FLOAT);
    return zero ? subElements(b, code, zero) : code;
  });
  return convolveImage(node, {floats, TensorProto::FLOAT, std::nullopt},
                       toFloats(b, weight.value), Value());
}

//===- QuantizedProduct.cpp - What a quantized linear computes ------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "QuantizedProduct.h"

using namespace mlir;
using namespace mlir::qlm;

Value mlir::qlm::doubleScale(DefinitionBuilder &d, const TableValues &map,
                             Value code, Value super, Value flat) {
  Value block = d.add(d.div(flat, ::qlm::format::kDoubleBlock), 1);
  Value product = d.mul(map.valueOf(d, code), d.at(super, {block}));
  return d.add(product, d.at(super, {d.index(0)}));
}

/// scale * sum of the products of the outliers of row \p t.
static Value buildOutlierProduct(DefinitionBuilder &d,
                                 const QuantizedProduct &p, Value t, Value n) {
  OutlierList list(p.outliers);
  Value sum = d.sum(d.index(0), list.count(d, t), d.f32(0), [&](Value j) {
    Value difference = d.toF32(p.difference(n, list.column(d, t, j)));
    return d.mul(list.value(d, t, j), difference);
  });
  return d.mul(sum, p.scale(n, d.index(0)));
}

Value mlir::qlm::buildQuantizedProduct(DefinitionBuilder &d,
                                       RankedTensorType type,
                                       const QuantizedProduct &p) {
  SmallVector<Value> sizes = d.rowSizes(type, p.input);
  bool isInteger = isa<IntegerType>(getElementTypeOrSelf(p.input.getType()));
  return d.generate(type, sizes, [&](ArrayRef<Value> i) {
    Value sum =
        d.sum(d.index(0), d.index(p.groups), d.f32(0), [&](Value group) {
          Value first = d.mul(group, p.perScale);
          Value last = d.add(first, p.perScale);
          Value zero = isInteger ? d.i32(0) : d.f32(0);
          Value inner = d.sum(first, last, zero, [&](Value k) {
            Value difference = p.difference(i[1], k);
            if (!isInteger && !isa<FloatType>(difference.getType()))
              difference = d.toF32(difference);
            return d.mul(d.at(p.input, {i[0], k}), difference);
          });
          if (isInteger)
            inner = d.toF32(inner);
          return d.mul(inner, p.scale(i[1], group));
        });
    if (p.inputScales)
      sum = d.mul(sum, d.at(p.inputScales, i[0]));
    if (p.outliers)
      sum = d.add(sum, buildOutlierProduct(d, p, i[0], i[1]));
    if (p.bias)
      sum = d.add(sum, p.bias(i[1]));
    if (p.residual)
      sum = d.add(sum, d.at(p.residual, i));
    return sum;
  });
}

//===- LinearEpilogue.cpp - What becomes of a linear's sums ---------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "LinearEpilogue.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cuda;
using namespace mlir::qlm::kernel;

/// What \p load gives where \p condition holds, else zero.
static Val valueOrZero(KernelBuilder &b, Val condition, Type type,
                       function_ref<Val()> load) {
  auto one = [&] { return SmallVector<Val>{load()}; };
  auto none = [&] { return SmallVector<Val>{b.zero(type)}; };
  return b.ifElse(condition, function_ref<SmallVector<Val>()>(one), none)[0];
}

Val cuda::loadPiece(KernelBuilder &b, Ptr row, Val column, int64_t columns,
                    int64_t elementBytes) {
  VectorType words = b.vec(4, b.i32());
  int64_t elements = 16 / elementBytes;
  Ptr from = row.at(column * elementBytes);
  if (columns % elements == 0)
    return valueOrZero(b, column < columns, words,
                       [&] { return from.load(words, 16); });
  // Rows that are not aligned: one element at a time.
  Type element = b.getIntegerType(8 * elementBytes);
  Val piece = b.zero(b.vec(elements, element));
  for (int64_t i = 0; i < elements; ++i) {
    Val one = valueOrZero(b, column + i < columns, element, [&] {
      return from.at(i * elementBytes).load(element);
    });
    piece = b.insert(piece, one, i);
  }
  return b.bitcast(piece, words);
}

Val cuda::gateUp(KernelBuilder &b, Val gate, Val up) {
  Val one = b.constant(b.f32(), 1.0);
  return gate / (one + b.exp(-gate)) * up;
}

void LinearEpilogue::loadFixed(EpilogueTerms &terms, Val feature) {
  if (shape.scales && !shape.grouped()) {
    Type type = shape.halfScales ? b.f16() : b.f32();
    terms.scale =
        b.toF32(buffers.scales.at(feature * shape.scaleBytes()).load(type));
  }
  if (shape.bias)
    terms.bias = buffers.bias.at(feature * 4).load(b.f32());
}

void LinearEpilogue::loadMoving(EpilogueTerms &terms, Val row, Val output) {
  if (shape.inputScales)
    terms.inputScale = buffers.inputScales.at(row * 4).load(b.f32());
  if (!shape.residual)
    return;
  Val place = b.extendUnsigned(row, b.i64()) * shape.outputFeatures() +
              b.extendUnsigned(output, b.i64());
  terms.residual = buffers.residual.at(place * 4).load(b.f32());
}

Ptr LinearEpilogue::outlierList(Val row) {
  return buffers.outliers.at(b.extendUnsigned(row, b.i64()) *
                             ((1 + 2 * shape.columns) * 4));
}

Val LinearEpilogue::countOutliers(Val row) {
  return b.toInteger(outlierList(row).load(b.f32()), b.i32());
}

/// The weight (f32, unscaled) of \p feature at a column: a byte of frag8x8
/// (Format.h).
Val LinearEpilogue::codeOf(Val feature, Val column) {
  Val inBlock = feature % kBlockRows;
  Ptr block = buffers.weights.at(
      b.extendUnsigned(feature / kBlockRows, b.i64()) * shape.blockBytes());
  Val place = column / 32 * kLineBytes + column % 16 / 4 * kLaneBytes +
              column % 32 / 16 * 8 + column % 4;
  Val ofRow = inBlock % 8 * (4 * kLaneBytes) + inBlock / 8 * 4;
  return b.toFloat(
      b.extendSigned(block.at(place + ofRow).load(b.i8()), b.i32()), b.f32());
}

/// A row's list is short, so that threads read its bytes one by one.
Val LinearEpilogue::sumOutliers(Val row, Val feature, Val count, Val first,
                                int64_t step) {
  constexpr int64_t kTogether = 8; // on their way at the same time
  Ptr list = outlierList(row);
  return b.forRange(
      first, count, kTogether * step, {b.zero(b.f32())},
      [&](Val first, ArrayRef<Val> sums) {
        SmallVector<Val> values, codes;
        for (int64_t i = 0; i < kTogether; ++i) {
          // Past the list's end the last one is read again and doesn't count.
          Val entry = b.min(first + i * step, count - 1);
          Ptr place = list.at(4).element(b.f32(), entry);
          Val value = place.at(shape.columns * 4).load(b.f32());
          values.push_back(
              b.select(first + i * step < count, value, b.zero(b.f32())));
          codes.push_back(
              codeOf(feature, b.toInteger(place.load(b.f32()), b.i32())));
        }
        Val sum = sums[0];
        for (auto [value, code] : llvm::zip_equal(values, codes))
          sum = b.fma(value, code, sum);
        return SmallVector<Val>{sum};
      })[0];
}

SmallVector<Val> LinearEpilogue::sumOutliers(Val row, Val first,
                                             int64_t features) {
  Ptr list = outlierList(row);
  SmallVector<Val> init(features, b.zero(b.f32()));
  return b.forRange(b.constant(b.i32(), int64_t(0)), countOutliers(row), 1,
                    init, [&](Val entry, ArrayRef<Val> sums) {
                      Ptr place = list.at(4).element(b.f32(), entry);
                      Val value = place.at(shape.columns * 4).load(b.f32());
                      Val column = b.toInteger(place.load(b.f32()), b.i32());
                      SmallVector<Val> next;
                      for (int64_t i = 0; i < features; ++i)
                        next.push_back(
                            b.fma(value, codeOf(first + i, column), sums[i]));
                      return next;
                    });
}

Val LinearEpilogue::finish(Val sum, const EpilogueTerms &terms, Val row,
                           Val feature) {
  Val value = shape.input == InputFormat::Int8 ? b.toFloat(sum, b.f32()) : sum;
  if (factor != 1)
    value = value * factor;
  if (terms.scale)
    value = value * terms.scale;
  if (terms.inputScale)
    value = value * terms.inputScale;
  if (shape.outliers)
    value =
        b.fma(terms.outliers ? terms.outliers : sumOutliers(row, feature, 1)[0],
              terms.scale, value);
  if (terms.bias)
    value = value + terms.bias;
  return value;
}

Val LinearEpilogue::finish(Val row, Val feature, Val sum) {
  EpilogueTerms terms;
  loadFixed(terms, feature);
  if (shape.inputScales)
    terms.inputScale = buffers.inputScales.at(row * 4).load(b.f32());
  return finish(sum, terms, row, feature);
}

Ptr LinearEpilogue::resultAt(Val row, Val output) {
  return buffers.result.at(
      (b.extendUnsigned(row, b.i64()) * shape.outputFeatures() +
       b.extendUnsigned(output, b.i64())) *
      shape.outputBytes());
}

Type LinearEpilogue::resultType() {
  switch (shape.output) {
  case OutputFormat::F32:
    return b.f32();
  case OutputFormat::F16:
    return b.f16();
  case OutputFormat::BF16:
    return b.bf16();
  }
  llvm_unreachable("all formats are covered");
}

void LinearEpilogue::storeFinished(Val row, Val output, Val value,
                                   Val residual) {
  if (residual)
    value = value + residual;
  resultAt(row, output).store(b.fromF32(value, resultType()));
}

void LinearEpilogue::storeValue(Val row, Val output, Val value) {
  Val residual;
  if (shape.residual) {
    Val place = b.extendUnsigned(row, b.i64()) * shape.outputFeatures() +
                b.extendUnsigned(output, b.i64());
    residual = buffers.residual.at(place * 4).load(b.f32());
  }
  storeFinished(row, output, value, residual);
}

void LinearEpilogue::store(Val row, Val feature, Val sum) {
  storeValue(row, feature, finish(row, feature, sum));
}

void LinearEpilogue::storeGated(Val row, Val output, Val gate, Val gateSum,
                                Val upSum) {
  storeValue(
      row, output,
      gateUp(b, finish(row, gate, gateSum), finish(row, gate + 8, upSum)));
}

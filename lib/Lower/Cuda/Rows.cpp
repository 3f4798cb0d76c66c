//===- Rows.cpp - A block's threads share a row ---------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Rows.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cuda;
using namespace mlir::qlm::kernel;

static int64_t getBytes(Type element) {
  return element.getIntOrFloatBitWidth() / 8;
}

Ptr RowSplit::row(GpuKernelFrame &frame, Ptr buffer, Type element, Val row,
                  int64_t length) {
  return buffer.at(frame.wide(row) * (length * getBytes(element)));
}

void RowSplit::forEach(GpuKernelFrame &frame,
                       function_ref<void(Val)> body) const {
  KernelBuilder &b = frame.builder();
  frame.forStride(frame.thread() * lanes, b.constant(b.i32(), features),
                  frame.threads() * lanes, body);
}

Val RowSplit::fold(GpuKernelFrame &frame, Val init,
                   function_ref<Val(Val, Val)> add) const {
  KernelBuilder &b = frame.builder();
  return b.forRange(frame.thread() * lanes, b.constant(b.i32(), features),
                    frame.threads() * lanes, {init},
                    [&](Val first, ArrayRef<Val> carried) {
                      return SmallVector<Val>{add(carried[0], first)};
                    })[0];
}

Val RowSplit::load(GpuKernelFrame &frame, Ptr row, Type element,
                   Val first) const {
  return frame.builder().toF32(
      row.element(element, first)
          .load(vectorOf(element), lanes * getBytes(element)));
}

void RowSplit::store(GpuKernelFrame &frame, Ptr row, Type element, Val first,
                     Val value) const {
  row.element(element, first)
      .store(frame.builder().fromF32(value, element),
             lanes * getBytes(element));
}

Val mlir::qlm::cuda::sumLanes(KernelBuilder &b, Val value) {
  return isa<VectorType>(value.type()) ? b.reduceSum(value) : value;
}

Val mlir::qlm::cuda::emitNormFactor(GpuKernelFrame &frame,
                                    const RowSplit &split,
                                    function_ref<Val(Val)> load,
                                    double epsilon) {
  KernelBuilder &b = frame.builder();
  Val squares = split.fold(frame, b.zero(split.vectorOf(b.f32())),
                           [&](Val sum, Val first) {
                             Val x = load(first);
                             return b.fma(x, x, sum);
                           });
  Val sum = frame.blockSum(sumLanes(b, squares));
  Val mean = sum / static_cast<double>(split.getFeatures());
  return b.constant(b.f32(), 1.0) / b.sqrt(mean + epsilon);
}

Val mlir::qlm::cuda::emitGate(GpuKernelFrame &frame, Val gate, Val up) {
  return gate / (frame.expFast(-gate) + 1.0) * up;
}

void mlir::qlm::cuda::emitRowCodes(GpuKernelFrame &frame, const RowSplit &split,
                                   SchemeAttr scheme,
                                   function_ref<Val(Val)> values, Ptr codes,
                                   Ptr scale) {
  KernelBuilder &b = frame.builder();
  Val largest = split.fold(
      frame, b.zero(split.vectorOf(b.f32())),
      [&](Val most, Val first) { return b.max(most, b.abs(values(first))); });
  if (isa<VectorType>(largest.type()))
    largest = b.reduceMax(largest);
  Val magnitude = frame.blockMax(largest);
  double bound = scheme.getBoundValue();
  frame.ifThread(0, [&] { scale.store(magnitude / bound); });
  // A row of zeros has codes 0, not 0 * infinity.
  Val inverse = b.select(magnitude == 0.0, b.zero(b.f32()), bound / magnitude);
  Val factor = b.broadcast(inverse, split.getLanes());
  split.forEach(frame, [&](Val first) {
    Val rounded = b.roundEven(values(first) * factor);
    Val low = constantLike(rounded, static_cast<double>(scheme.getLo()));
    Val high = constantLike(rounded, static_cast<double>(scheme.getHi()));
    Val code = b.toInteger(b.max(b.min(rounded, high), low), b.i32());
    codes.element(b.i8(), first)
        .store(b.truncate(code, b.i8()), split.getLanes());
  });
}

void mlir::qlm::cuda::forBlockRow(GpuKernelFrame &frame, SizeKind rows,
                                  function_ref<void(Val)> body) {
  Val row = frame.block(), count = frame.size(rows);
  frame.waitForPrevious();
  frame.launchDependents();
  frame.builder().ifThen(row < count, [&] { body(row); });
}

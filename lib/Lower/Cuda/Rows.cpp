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

RowPlaces RowPlaces::get(GpuKernelFrame &frame, int64_t first, Val row,
                         int64_t features,
                         std::optional<llvm::APFloat> threshold) {
  KernelBuilder &b = frame.builder();
  RowPlaces places{
      RowSplit::row(frame, frame.buffer(first), b.i8(), row, features),
      frame.buffer(first + 1).element(b.f32(), row),
      {}};
  if (threshold)
    places.outliers = RowSplit::row(frame, frame.buffer(first + 2), b.f32(),
                                    row, 1 + 2 * features);
  return places;
}

/// Elements of \p vector, which may be a scalar.
static SmallVector<Val> elementsOf(Val vector, int64_t lanes) {
  if (lanes == 1)
    return {vector};
  SmallVector<Val> elements;
  for (int64_t i = 0; i < lanes; ++i)
    elements.push_back(vector.lane(i));
  return elements;
}

/// Lists the row's elements of at least \p threshold in ascending order of
/// columns. Most rows have none, which all threads find together; else one warp
/// looks at 32 vectors at a time.
static void listOutliers(GpuKernelFrame &frame, const RowSplit &split,
                         double threshold, function_ref<Val(Val)> values,
                         Ptr list) {
  KernelBuilder &b = frame.builder();
  int64_t lanes = split.getLanes(), features = split.getFeatures();
  auto isOutlier = [&](Val x) { return b.abs(x) >= threshold; };
  Val zero = b.constant(b.i32(), int64_t(0)),
      one = b.constant(b.i32(), int64_t(1));
  Val largest = split.fold(frame, b.zero(b.f32()), [&](Val most, Val first) {
    for (Val x : elementsOf(values(first), lanes))
      most = b.select(isOutlier(x), b.constant(b.f32(), 1.0), most);
    return most;
  });
  Val isAny = frame.blockMax(largest);
  frame.ifThread(0, [&] { list.store(b.zero(b.f32())); });
  b.ifThen((isAny > 0.0) & (frame.warp() == 0), [&] {
    Val lane = frame.lane();
    Val steps = b.constant(
        b.i32(), int64_t(llvm::divideCeil(features, lanes * kWarpThreads)));
    SmallVector<Val> total = b.forRange(
        zero, steps, 1, {zero}, [&](Val step, ArrayRef<Val> carried) {
          Val first = (step * kWarpThreads + lane) * lanes;
          Val exists = first < features;
          Val inside = b.select(exists, first, zero);
          SmallVector<Val> x = elementsOf(values(inside), lanes), found;
          Val own = zero;
          for (Val element : x) {
            found.push_back(isOutlier(element) & exists);
            own = own + b.select(found.back(), one, zero);
          }
          // Outliers of the lanes up to this one.
          Val upTo = own;
          for (int64_t distance = 1; distance < kWarpThreads; distance *= 2) {
            Val from = frame.shuffle(upTo, b.max(lane - distance, zero));
            upTo = upTo + b.select(lane >= distance, from, zero);
          }
          Val place = carried[0] + upTo - own;
          for (int64_t i = 0; i < lanes; ++i) {
            b.ifThen(found[i], [&] {
              Ptr entry = list.at(4).element(b.f32(), place);
              entry.store(b.toFloat(first + i, b.f32()));
              entry.at(features * 4).store(x[i]);
            });
            place = place + b.select(found[i], one, zero);
          }
          Val all = frame.shuffle(
              upTo, b.constant(b.i32(), int64_t(kWarpThreads - 1)));
          return SmallVector<Val>{carried[0] + all};
        });
    b.ifThen(lane == 0, [&] { list.store(b.toFloat(total[0], b.f32())); });
  });
}

void mlir::qlm::cuda::emitRowCodes(GpuKernelFrame &frame, const RowSplit &split,
                                   SchemeAttr scheme,
                                   std::optional<llvm::APFloat> threshold,
                                   function_ref<Val(Val)> unbounded,
                                   const RowPlaces &places) {
  KernelBuilder &b = frame.builder();
  // Outliers have code 0 and don't count in the scale.
  auto values = [&](Val first) {
    Val x = unbounded(first);
    if (!threshold)
      return x;
    return b.select(b.abs(x) >= threshold->convertToDouble(), b.zero(x.type()),
                    x);
  };
  if (threshold)
    listOutliers(frame, split, threshold->convertToDouble(), unbounded,
                 places.outliers);
  Val largest = split.fold(
      frame, b.zero(split.vectorOf(b.f32())),
      [&](Val most, Val first) { return b.max(most, b.abs(values(first))); });
  if (isa<VectorType>(largest.type()))
    largest = b.reduceMax(largest);
  Val magnitude = frame.blockMax(largest);
  double bound = scheme.getBoundValue();
  frame.ifThread(0, [&] { places.scale.store(magnitude / bound); });
  // A row of zeros has codes 0, not 0 * infinity.
  Val inverse = b.select(magnitude == 0.0, b.zero(b.f32()), bound / magnitude);
  Val factor = b.broadcast(inverse, split.getLanes());
  split.forEach(frame, [&](Val first) {
    Val rounded = b.roundEven(values(first) * factor);
    Val low = constantLike(rounded, static_cast<double>(scheme.getLo()));
    Val high = constantLike(rounded, static_cast<double>(scheme.getHi()));
    Val code = b.toInteger(b.max(b.min(rounded, high), low), b.i32());
    places.codes.element(b.i8(), first)
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

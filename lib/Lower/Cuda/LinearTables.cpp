//===- LinearTables.cpp - Tables that some weights need -------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "LinearTables.h"
#include "qlm/Package/Tables.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cuda;
using namespace mlir::qlm::kernel;

static constexpr int64_t kCodes = 16, kPairs = kCodes * kCodes;
static constexpr int64_t kCopies = 16;
static constexpr int64_t kPairBytes = kCopies * 4;
static constexpr int64_t kScaleCodes = 256;
/// A pair's number, where `pair` finds it: times kPairBytes.
static constexpr int64_t kPairMask = (kPairs - 1) * kPairBytes;

static int64_t pairTableBytes(const LinearShape &shape) {
  return shape.weights == WeightFormat::Nf4 ? kPairs * kPairBytes : 0;
}

int64_t LinearTables::bytes(const LinearShape &shape) {
  return pairTableBytes(shape) + (shape.doubleScales ? kScaleCodes * 4 : 0);
}

void LinearTables::fill() {
  Val thread = frame.thread();
  if (shape.weights == WeightFormat::Nf4) {
    Ptr values = frame.constantTable(::qlm::format::kNormalFloat4);
    lanePairs = place.at(frame.lane() % kCopies * 4);
    frame.forStride(
        thread, b.constant(b.i32(), kPairs), frame.threads(), [&](Val pair) {
          Val two = b.zero(b.vec(2, b.f32()));
          for (int64_t half = 0; half < 2; ++half)
            two = b.insert(
                two,
                values.element(b.f32(), half ? pair / kCodes : pair % kCodes)
                    .load(b.f32()),
                half);
          Val word = b.bitcast(b.fromF32(two, b.f16()), b.i32());
          Val copies = b.broadcast(word, 4);
          for (int64_t i = 0; i < kCopies; i += 4)
            place.at(pair * kPairBytes).at(i * 4).store(copies, 16);
        });
  }
  if (!shape.doubleScales)
    return;
  Ptr values = frame.constantTable(::qlm::format::kDynamicMap);
  Ptr map = place.at(pairTableBytes(shape));
  frame.forStride(thread, b.constant(b.i32(), kScaleCodes), frame.threads(),
                  [&](Val code) {
                    map.element(b.f32(), code)
                        .store(values.element(b.f32(), code).load(b.f32()));
                  });
}

Val LinearTables::pair(Val bits) {
  return lanePairs.at(bits & kPairMask).load(b.i32());
}

Val LinearTables::scale(Ptr stored, Val feature, Val group) {
  if (!shape.doubleScales)
    return b.toF32(stored.load(shape.halfScales ? b.f16() : b.f32()));
  Val code = b.extendUnsigned(stored.load(b.i8()), b.i32());
  // Features past the last one have no scales.
  Val index = b.min(feature * shape.groups() + group,
                    b.constant(b.i32(), shape.features * shape.groups() - 1));
  Ptr super = buffers.superScales.readOnly();
  Val absmax = super.at(4)
                   .element(b.f32(), index / ::qlm::format::kDoubleBlock)
                   .load(b.f32());
  Val mapped =
      place.at(pairTableBytes(shape)).element(b.f32(), code).load(b.f32());
  return b.fma(mapped, absmax, super.load(b.f32()));
}

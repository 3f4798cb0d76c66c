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
static constexpr int64_t kScaleCodes = 256;
/// Bytes of a copy of a pair, and of what a thread stores of them at once.
static constexpr int64_t kCopyBytes = 4, kChunkBytes = 16;

static int64_t pairTableBytes(const LinearShape &shape, int64_t copies) {
  return shape.weights == WeightFormat::Nf4 ? kPairs * copies * kCopyBytes : 0;
}

int64_t LinearTables::bytes(const LinearShape &shape, int64_t copies) {
  return pairTableBytes(shape, copies) +
         (shape.doubleScales ? kScaleCodes * 4 : 0);
}

void LinearTables::fill() {
  if (shape.weights == WeightFormat::Nf4)
    fillPairs();
  if (!shape.doubleScales)
    return;
  offset = buffers.superScales.readOnly().load(b.f32());
  Ptr values = frame.constantTable(::qlm::format::kDynamicMap);
  Ptr map = place.at(pairTableBytes(shape, copies));
  frame.forStride(frame.thread(), b.constant(b.i32(), kScaleCodes),
                  frame.threads(), [&](Val code) {
                    map.element(b.f32(), code)
                        .store(values.element(b.f32(), code).load(b.f32()));
                  });
}

void LinearTables::fillPairs() {
  Ptr values = frame.constantTable(::qlm::format::kNormalFloat4);
  laneByte = frame.lane() % copies * kCopyBytes;
  int64_t rowBytes = copies * kCopyBytes;
  // What lies behind the last lane's copy is never read.
  int64_t chunks = std::min(copies, kWarp) * kCopyBytes / kChunkBytes;
  frame.forStride(
      frame.thread(), b.constant(b.i32(), kPairs), frame.threads(),
      [&](Val pair) {
        Val two = b.zero(b.vec(2, b.f32()));
        for (int64_t half = 0; half < 2; ++half)
          two = b.insert(
              two,
              values.element(b.f32(), half ? pair / kCodes : pair % kCodes)
                  .load(b.f32()),
              half);
        Val word = b.bitcast(b.fromF32(two, b.f16()), b.i32());
        Val four = b.broadcast(word, kChunkBytes / kCopyBytes);
        // Neighbouring lanes begin in different banks.
        for (int64_t i = 0; i < chunks; ++i)
          place.at(pair * rowBytes + (pair + i) % chunks * kChunkBytes)
              .store(four, kChunkBytes);
      });
}

/// Bits of \p a where \p mask has them, else of \p c, in one instruction.
static Val selectBits(Val mask, Val a, Val c) {
  KernelBuilder &b = *a.getBuilder();
  return b.val(inlinePtx(b, b.i32(), "lop3.b32 $0, $1, $2, $3, 0xE2;",
                         "=r,r,r,r", {a, mask, c}, /*effects=*/false));
}

/// A pair's number times the bytes of its row begins at bit `first`. Two pairs
/// are brought there by two shifts, one lies 8 bits above the other:
///
///   word        |7654|3210|   (nibbles; 0 and 4 are a pair, 2 and 6, ...)
///   moved          |6|2|4|0|  from `first` on
SmallVector<Val> LinearTables::lookUp(Val word) {
  if (copies == kByteCopies)
    return lookUpBytes(word);
  int64_t first = llvm::Log2_64(copies * kCopyBytes);
  Val lower = b.constant(b.i32(), int64_t(0x0F0F) << first);
  Val whole = b.constant(b.i32(), (kPairs - 1) << first);
  SmallVector<Val> registers(4);
  for (int64_t odd = 0; odd < 2; ++odd) {
    int64_t low = first - 4 * odd, high = 12 + 4 * odd - first;
    Val moved = selectBits(lower, word << low, word >> high);
    for (int64_t i = 0; i < 2; ++i) {
      Val at = andOr(i ? moved >> 8 : moved, whole, laneByte);
      registers[odd + 2 * i] = place.at(at).load(b.i32());
    }
  }
  return registers;
}

/// With rows of 256 bytes a pair's number is the second byte of its place, and
/// the lane's copy the first: one permutation makes the address. Four pairs
/// come to lie in bytes:
///
///   word   |7654|3210|
///   moved  |7351|6240|   (nibbles)
SmallVector<Val> LinearTables::lookUpBytes(Val word) {
  Val kept = b.constant(b.i32(), int64_t(0xF0F00F0F));
  Val lower = b.constant(b.i32(), int64_t(0x0000FFFF));
  Val moved = selectBits(kept, word, selectBits(lower, word >> 12, word << 12));
  SmallVector<Val> registers;
  for (int64_t number : {0, 2, 1, 3}) {
    // Bytes of the address: the copy, the pair, zeros.
    Val bytes = b.constant(b.i32(), int64_t(0x5504) | number << 4);
    registers.push_back(
        place.at(permuteBytes(moved, laneByte, bytes)).load(b.i32()));
  }
  return registers;
}

Val LinearTables::common(Val feature, Val group) {
  if (!shape.doubleScales)
    return {};
  // Features past the last one have no scales.
  Val index = b.min(feature * shape.groups() + group,
                    b.constant(b.i32(), shape.features * shape.groups() - 1));
  return buffers.superScales.readOnly()
      .at(4)
      .element(b.f32(), index / ::qlm::format::kDoubleBlock)
      .load(b.f32());
}

Val LinearTables::scale(Ptr stored, Val common) {
  if (!shape.doubleScales)
    return b.toF32(stored.load(shape.halfScales ? b.f16() : b.f32()));
  Val code = b.extendUnsigned(stored.load(b.i8()), b.i32());
  Val mapped = place.at(pairTableBytes(shape, copies))
                   .element(b.f32(), code)
                   .load(b.f32());
  return b.fma(mapped, common, offset);
}

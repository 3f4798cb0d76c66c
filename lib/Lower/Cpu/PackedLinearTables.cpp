//===- PackedLinearTables.cpp - Codes that are not uniform ----------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// NormalFloat4, f8E4M3FN, and scales that are codes themselves. The formulas
// are those of qlm/Package/Tables.h, operation by operation, so that values
// have the bits of the definitions.
//
//===----------------------------------------------------------------------===//

#include "PackedLinear.h"
#include "qlm/Package/Tables.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cpu;
using namespace mlir::qlm::kernel;
namespace format = ::qlm::format;

/// Column \p column of a word of four f8E4M3FN, times 2^-8. The bits of the
/// magnitude, moved, are an f16 of that size: its exponent's bias is 15, not 7.
Val LinearEmitter::unpackFloat8(Val word, int64_t column) {
  Val moved = column == 0   ? word << 8
              : column == 1 ? word
                            : word >> (8 * (column - 1));
  // The byte now is the upper one of the low half.
  Val sign = moved & 0x8000;
  Val magnitude = (moved & 0x7F00) >> 1;
  Val half = b.truncate(sign | magnitude, b.i16());
  return b.toF32(b.bitcast(half, b.vec(lanes, b.f16())));
}

/// values[index mod 8] in each lane.
Val LinearEmitter::lookUp8(ArrayRef<float> values, Val indices) {
  if (target.avx512) {
    SmallVector<float> twice(values);
    twice.append(values.begin(), values.end());
    return b.lookup(b.table(twice), indices);
  }
  return b.intrinsic("llvm.x86.avx2.permps", b.vec(lanes, b.f32()),
                     {b.table(values), indices});
}

/// The entry of NormalFloat4 that the low four bits of each lane name.
Val LinearEmitter::lookUpNormalFloat4(Val nibbles) {
  ArrayRef<float> table(format::kNormalFloat4.data(),
                        format::kNormalFloat4.size());
  if (target.avx512)
    return b.lookup(b.table(table), nibbles);
  Val low = lookUp8(table.take_front(8), nibbles);
  Val high = lookUp8(table.drop_front(8), nibbles);
  return b.select((nibbles & 8) != 0, high, low);
}

/// The entry of the dynamic map that each lane (i32, 0 to 255) names, by the
/// formula of format::makeDynamicMap: m = |code - 127| counts the magnitudes
/// from 1, and its highest bit names the decade.
Val LinearEmitter::lookUpDynamicMap(Val codes) {
  VectorType ints = b.vec(lanes, b.i32()), floats = b.vec(lanes, b.f32());
  Val signedIndex = codes - 127;
  Val count = b.max(signedIndex, -signedIndex);
  // Of small integers as f32, the exponent is the highest bit's number; with
  // it gone, the significand is 1 + i / steps.
  Val bits = b.bitcast(b.toFloat(count, b.f32()), ints);
  Val decade = (bits >> 23) - 127;
  Val inverseSteps = b.bitcast((127 - decade) << 23, floats);
  Val one = b.constant(floats, 1.0);
  Val steps = b.bitcast((decade + 127) << 23, floats);
  Val step = inverseSteps * static_cast<double>(1.0f - 0.1f);
  Val first = b.toFloat(count, b.f32()) - steps; // i
  auto boundary = [&](Val i) {
    Val start = b.constant(floats, static_cast<double>(0.1f));
    Val fromLeft = b.fma(step, i, start);
    Val fromRight = b.fma(step, i - steps, one);
    return b.select(i + i < steps, fromLeft, fromRight);
  };
  Val mean = (boundary(first) + boundary(first + 1.0)) * 0.5;
  Val power =
      lookUp8({1e-6f, 1e-5f, 1e-4f, 1e-3f, 1e-2f, 1e-1f, 1.f, 0.f}, decade);
  Val magnitude = power * mean;
  magnitude = b.select(count == 128, one, magnitude);
  magnitude = b.select(count == 0, b.zero(floats), magnitude);
  return b.select(signedIndex < 0, -magnitude, magnitude);
}

/// The scales of a strip's features in a group: `map[code] * absmax + offset`,
/// with the absmax of the block of 256 scales, in row-major order, that each
/// one belongs to.
Val LinearEmitter::loadDoubleScale(Val block, Val group, int64_t strip) {
  int64_t blockBytes = shape.groups * 16;
  Ptr place = scales.at(block * blockBytes + group * 16)
                  .at(stripOffset(strip, 1, blockBytes));
  Val codes =
      b.extendUnsigned(place.load(b.vec(lanes, b.i8()), lanes), b.i32());

  SmallVector<int64_t> laneOffsets;
  for (int64_t lane = 0; lane < lanes; ++lane)
    laneOffsets.push_back(lane * shape.groups);
  Val feature = block * ::qlm::format::kRowBlock + stripFeature(strip);
  Val first = feature * shape.groups + group;
  Val flat = b.broadcast(b.truncate(first, b.i32()), lanes) +
             b.table(b.i32(), laneOffsets);
  // Features past the last one have no scales: they take the last block's.
  int64_t lastBlock =
      (shape.features * shape.groups - 1) / format::kDoubleBlock;
  Val index = b.min(flat >> 8, b.constant(b.vec(lanes, b.i32()), lastBlock));
  Val absmax = gather(superScales.at(4), index);
  Val offset = b.broadcast(superScales.load(b.f32()), lanes);
  return lookUpDynamicMap(codes) * absmax + offset;
}

/// base[index] of each lane, f32.
Val LinearEmitter::gather(Ptr base, Val indices) {
  VectorType floats = b.vec(lanes, b.f32());
  Val none = b.zero(floats), address = b.val(base.get());
  if (target.avx512) {
    Val all = b.constant(b.vec(lanes, b.i1()), int64_t(1));
    return b.intrinsic(
        "llvm.x86.avx512.mask.gather.dps.512", floats,
        {none, address, indices, all, b.constant(b.i32(), int64_t(4))});
  }
  Val all = b.bitcast(b.constant(b.vec(lanes, b.i32()), int64_t(-1)), floats);
  return b.intrinsic(
      "llvm.x86.avx2.gather.d.ps.256", floats,
      {none, address, indices, all, b.constant(b.i8(), int64_t(4))});
}

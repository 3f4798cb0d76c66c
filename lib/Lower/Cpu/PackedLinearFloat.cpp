//===- PackedLinearFloat.cpp - Packed linears on f32 activations ----------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "PackedLinear.h"

#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cpu;
using namespace mlir::qlm::kernel;

SmallVector<Val> LinearEmitter::sumFloats(const Place &place) {
  int64_t strips = place.patch.strips;
  Val zero = b.zero(b.vec(lanes, b.f32()));
  SmallVector<Val> none(place.patch.rows * strips, zero);

  auto sumRun = [&](Val firstColumn, int64_t columns, ArrayRef<Val> zeros) {
    return runColumns(
        place, firstColumn, columns, none,
        [&](const Place &at, int64_t count, MutableArrayRef<Val> sums) {
          int64_t wordCount = llvm::divideCeil(count, shape.wordColumns);
          for (int64_t w = 0; w < wordCount; ++w) {
            // Load: all strips' words first, so that they travel together.
            SmallVector<Val> words;
            for (int64_t s = 0; s < strips; ++s)
              words.push_back(loadWord(at, s, w));
            int64_t first = w * shape.wordColumns;
            for (int64_t c = 0; c < std::min(shape.wordColumns, count - first);
                 ++c) {
              // Unpack, then use each value for every row.
              SmallVector<Val> values;
              for (int64_t s = 0; s < strips; ++s)
                values.push_back(unpackFloat(words[s], c, zeros[s]));
              for (int64_t r = 0; r < place.patch.rows; ++r) {
                Ptr x = at.x.at((r * shape.columns + first + c) * 4);
                Val scalar = b.broadcast(x.load(b.f32()), lanes);
                for (int64_t s = 0; s < strips; ++s) {
                  Val &sum = sums[r * strips + s];
                  sum = b.fma(scalar, values[s], sum);
                }
              }
            }
          }
        });
  };

  if (!shape.quantized)
    return sumRun(b.index(0), shape.columns, SmallVector<Val>(strips));
  return sumGroups(place, [&](const Place &, Val group) {
    SmallVector<Val> zeros(strips);
    if (shape.zeroPoints)
      for (int64_t s = 0; s < strips; ++s)
        zeros[s] = b.toFloat(loadZeroPoint(place.block, group, s), b.f32());
    return sumRun(group * shape.groupColumns, shape.groupColumns, zeros);
  });
}

//===- AttentionWgmmaResults.cpp - What wgmma attention writes ------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A quad of lanes holds a row, two neighbouring features a lane of each eight.
// Halves are exchanged in the quad, so that a lane stores sixteen bytes:
//
//   lane      0     1     2     3              0      1      2      3
//   word 0   a0    a1    a2    a3    ->      chunk  chunk  chunk  chunk
//   word 1   b0    b1    b2    b3              a      b      c      d
//   word 2   c0    c1    c2    c3
//   word 3   d0    d1    d2    d3
//
// So results need no shared memory, and the next tile's queries may be there
// already.
//
//===----------------------------------------------------------------------===//

#include "AttentionWgmma.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cuda;
using namespace mlir::qlm::kernel;

/// Writes the results of a tile's rows.
void WgmmaEmitter::store(const Pending &pending) {
  TilePlace place = tile.locate(pending.tile);
  const RowState &state = pending.state;
  int64_t bytes = shape.result.getIntOrFloatBitWidth() / 8;
  for (int64_t set = 0; set < 2; ++set) {
    Val row = rowOf(place) + 8 * set, sum = state.sums[set];
    sum = sum + ptx.shuffleXor(sum, 1);
    sum = sum + ptx.shuffleXor(sum, 2);
    Val inverse = ptx.reciprocal(sum), isDone = row < place.endRow;
    Val feature = (row * shape.heads + place.head) * shape.headDim;
    Ptr result = buffers.result.at(b.extendSigned(feature, b.i64()) * bytes);
    // Of each eight features the lane's two.
    SmallVector<Val> own;
    for (size_t i = 2 * set; i < state.outputs.size(); i += 4)
      own.append({state.outputs[i], state.outputs[i + 1]});
    if (bytes == 4)
      storeFloats(own, inverse, result, isDone);
    else
      storeHalves(own, inverse, result, isDone);
  }
}

void WgmmaEmitter::storeFloats(ArrayRef<Val> own, Val inverse, Ptr row,
                               Val isDone) {
  b.ifThen(isDone, [&] {
    Ptr place = row.at(quad * 8);
    for (size_t j = 0; j < own.size() / 2; ++j) {
      Val pair = b.zero(b.vec(2, b.f32()));
      for (int64_t i = 0; i < 2; ++i)
        pair = b.insert(pair, own[2 * j + i] * inverse, i);
      place.at(j * 32).store(pair, 8);
    }
  });
}

void WgmmaEmitter::storeHalves(ArrayRef<Val> own, Val inverse, Ptr row,
                               Val isDone) {
  HalfType half = shape.result.isBF16() ? HalfType::BF16 : HalfType::F16;
  SmallVector<Val> words;
  for (size_t i = 0; i < own.size(); i += 2)
    words.push_back(ptx.pack(own[i] * inverse, own[i + 1] * inverse, half));
  for (size_t first = 0; first < words.size(); first += 4)
    transposeQuad(MutableArrayRef<Val>(words).slice(first, 4));
  b.ifThen(isDone, [&] {
    Ptr place = row.at(quad * 16);
    for (size_t first = 0; first < words.size(); first += 4) {
      Val chunk = b.zero(b.vec(4, b.i32()));
      for (int64_t w = 0; w < 4; ++w)
        chunk = b.insert(chunk, words[first + w], w);
      place.at(first * 16).store(chunk, 16);
    }
  });
}

/// Word w of lane l becomes word l of lane w, by exchanging halves of pairs of
/// lanes, then of pairs of pairs.
void WgmmaEmitter::transposeQuad(MutableArrayRef<Val> words) {
  for (int64_t distance : {1, 2}) {
    Val isUpper = (quad & distance) != 0;
    for (int64_t low = 0; low < 4; ++low) {
      if (low & distance)
        continue;
      Val &a = words[low], &c = words[low + distance];
      Val given = b.bitcast(b.select(isUpper, a, c), b.f32());
      Val taken = b.bitcast(ptx.shuffleXor(given, distance), b.i32());
      std::tie(a, c) =
          std::pair(b.select(isUpper, taken, a), b.select(isUpper, c, taken));
    }
  }
}

//===- Chunks.cpp - Loops over a row in whole vectors and a rest ----------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Chunks.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cpu;
using namespace mlir::qlm::kernel;

/// Accumulators of a fold: enough to hide the latency of one addition.
static constexpr int64_t kAccumulators = 4;

Val Chunk::load(KernelBuilder &b, Ptr row, Type element) const {
  return b.toF32(row.element(element, first).load(b.vec(lanes, element)));
}

Val Chunk::fill(KernelBuilder &b, Val value, double other) const {
  if (isWhole())
    return value;
  return b.select(b.firstLanes(lanes, count), value,
                  constantLike(value, other));
}

void Chunk::store(KernelBuilder &b, Ptr row, Val value) const {
  Ptr place = row.element(value.elementType(), first);
  if (isWhole())
    place.store(value);
  else if (mask)
    place.storeMasked(value, mask);
  else if (count == 1)
    // LLVM 22 stores all 4 bytes of an i32 that was truncated to i8 under a
    // constant mask of one lane.
    place.store(value.lane(0));
  else
    place.storeMasked(value, b.firstLanes(lanes, count));
}

void mlir::qlm::cpu::forChunks(KernelBuilder &b, Val lo, Val hi, int64_t length,
                               int64_t lanes,
                               function_ref<void(const Chunk &)> body) {
  int64_t rest = length % lanes;
  int64_t whole = length - rest;
  b.forRange(lo, rest ? b.min(hi, b.index(whole)) : hi, lanes,
             [&](Val first) { body({first, lanes, lanes}); });
  if (rest)
    b.ifThen(hi == length, [&] { body({b.index(whole), lanes, rest}); });
}

void mlir::qlm::cpu::forChunks(KernelBuilder &b, int64_t length, int64_t lanes,
                               function_ref<void(const Chunk &)> body) {
  int64_t rest = length % lanes;
  int64_t whole = length - rest;
  b.forRange(b.index(0), b.index(whole), lanes,
             [&](Val first) { body({first, lanes, lanes}); });
  if (rest)
    body({b.index(whole), lanes, rest});
}

Val mlir::qlm::cpu::foldChunks(KernelBuilder &b, int64_t length, Val init,
                               function_ref<Val(Val, const Chunk &)> add,
                               function_ref<Val(Val, Val)> join) {
  int64_t lanes = init.lanes();
  int64_t stride = kAccumulators * lanes;
  int64_t looped = length - length % stride;
  SmallVector<Val> sums = b.forRange(
      b.index(0), b.index(looped), stride,
      SmallVector<Val>(kAccumulators, init),
      [&](Val first, ArrayRef<Val> before) {
        SmallVector<Val> after;
        for (auto [i, sum] : llvm::enumerate(before))
          after.push_back(add(
              sum, {first + static_cast<int64_t>(i) * lanes, lanes, lanes}));
        return after;
      });
  for (int64_t first = looped, i = 0; first < length; first += lanes, ++i)
    sums[i] =
        add(sums[i], {b.index(first), lanes, std::min(lanes, length - first)});
  return join(join(sums[0], sums[1]), join(sums[2], sums[3]));
}

//===- GemmSpans.cpp - Tiles shared evenly by thread blocks ---------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Few tiles are not a multiple of the multiprocessors: 86 tiles leave 46 of 132
// idle, 688 the last of six rounds to 28. So thread blocks divide stages, not
// tiles. Those of the last one or two rounds stand in a row, tile after tile,
// and block i takes the i-th of `grid` equal spans; all earlier rounds' tiles
// are taken whole.
//
//   tiles      |  t0   |  t1   |  t2   |  t3   |
//   spans      |  0  |  1  |  2  |  3  |  4  | ...
//
// A span is walked from its end: first the head of a tile that ends in a later
// block's span, whose sums go to the workspace; at the end the tail of a tile
// that began in earlier blocks' spans, whose sums are added to its own in the
// order of the columns. They have been written long before, by blocks with
// lower numbers, which wait for none of higher ones.
//
//===----------------------------------------------------------------------===//

#include "GemmEmitter.h"
#include "qlm/Lower/Cuda/Kernels.h"
#include "qlm/Lower/Cuda/Workspace.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cuda;
using namespace mlir::qlm::kernel;

void GemmEmitter::emitSpans() {
  emitBarriers();
  findSpan();
  emitRoles([&] { consumeSpans(); });
}

/// What of all stages is the block's.
void GemmEmitter::findSpan() {
  Val block = frame.block(), grid = number(plan.spans), zero = number(0);
  rowTiles = (rows + (plan.tokens - 1)) / plan.tokens;
  Val tiles = rowTiles * plan.featureTiles(shape);
  Val rounds = tiles / grid;
  // All tiles of the last rounds, so that a span has about a tile at least.
  Val whole = b.select(tiles % grid == 0, rounds, b.max(rounds - 1, zero));
  sharedTiles = tiles - whole * grid;
  Val units = sharedTiles * plan.steps;
  spanBegin = block * units / grid;
  spanEnd = (block + 1) * units / grid;
  spanPieces =
      b.select(spanEnd > spanBegin,
               (spanEnd - 1) / plan.steps - spanBegin / plan.steps + 1, zero);
  pieces = spanPieces + whole;
}

/// Sets the tile and the stages of the block's piece \p index.
void GemmEmitter::locate(Val index) {
  Val zero = number(0), steps = number(plan.steps);
  Val inSpan = index < spanPieces;
  Val ofSpan = (spanEnd - 1) / plan.steps - index;
  Val whole = sharedTiles + (index - spanPieces) * plan.spans + frame.block();
  Val tile = b.select(inSpan, ofSpan, whole);
  firstStep =
      b.select(inSpan, b.max(spanBegin - ofSpan * plan.steps, zero), zero);
  lastStep =
      b.select(inSpan, b.min(spanEnd - ofSpan * plan.steps, steps), steps);
  // Tiles that share weights are neighbours.
  featureTile = tile / rowTiles * plan.warpBlocks;
  tileBlock = featureTile * GemmPlan::kTileBlocks;
  firstRow = tile % rowTiles * plan.tokens;
}

void GemmEmitter::consumeSpans() {
  Val zero = number(0);
  frame.waitForPrevious();
  b.forRange(
      zero, pieces, 1, {zero, zero}, [&](Val index, ArrayRef<Val> carried) {
        RingPlace place = {carried[0], carried[1]};
        locate(index);
        SmallVector<Val> sums = multiplyTile(place);
        b.ifElse(
            lastStep == plan.steps,
            [&] {
              auto add = [&] { return addParts(sums); };
              SmallVector<Val> all =
                  b.ifElse(firstStep > 0, function_ref<SmallVector<Val>()>(add),
                           [&] { return sums; });
              for (int64_t h = 0; h < plan.warpBlocks; ++h)
                emitWhole(all[h], h);
            },
            [&] { storePart(sums); });
        return SmallVector<Val>{place.stage, place.parity};
      });
}

/// Where the sums of \p block's part of a tile are, of the own thread:
/// [warp block, j][thread] of four.
Ptr GemmEmitter::partOf(Val block) {
  return buffers.workspace.at(kZeroBytes)
      .at(frame.wide(block) * plan.partBytes())
      .at(thread * 16);
}

Ptr GemmEmitter::flagOf(Val block) {
  return buffers.workspace.element(b.i32(), block);
}

/// Gives the sums of the head of a tile to the block that has its tail.
void GemmEmitter::storePart(ArrayRef<Val> sums) {
  Ptr part = partOf(frame.block());
  Type type = shape.input == InputFormat::Int8 ? b.i32() : b.f32();
  for (int64_t h = 0; h < plan.warpBlocks; ++h)
    for (int64_t j = 0; j < plan.tokens / 8; ++j) {
      Val four = b.zero(b.vec(4, type));
      for (int64_t i = 0; i < 4; ++i)
        four = b.insert(four, matrix.element(sums[h], 4 * j + i), i);
      part.at((h * plan.tokens / 8 + j) * (GemmPlan::kConsumers * 16))
          .store(four, 16);
    }
  fenceDevice(b);
  frame.barrier(1, GemmPlan::kConsumers);
  b.ifThen(thread == 0, [&] { raiseFlag(flagOf(frame.block())); });
}

/// \p sums and those of all earlier columns of the tile, in ascending order.
SmallVector<Val> GemmEmitter::addParts(ArrayRef<Val> sums) {
  Type type = shape.input == InputFormat::Int8 ? b.i32() : b.f32();
  Val block = frame.block();
  // The block whose span has the tile's first stage: the last one that begins
  // at it or before.
  Val units = sharedTiles * plan.steps;
  Val start = spanBegin / plan.steps * plan.steps;
  Val first = ((start + 1) * plan.spans - 1) / units;
  SmallVector<Val> totals =
      b.forRange(first, block, 1, sums, [&](Val other, ArrayRef<Val> carried) {
        awaitFlag(flagOf(other));
        Ptr part = partOf(other);
        SmallVector<Val> next;
        for (int64_t h = 0; h < plan.warpBlocks; ++h) {
          SmallVector<Val> each;
          for (int64_t j = 0; j < plan.tokens / 8; ++j) {
            Val four =
                part.at((h * plan.tokens / 8 + j) * (GemmPlan::kConsumers * 16))
                    .load(b.vec(4, type), 16);
            for (int64_t i = 0; i < 4; ++i)
              each.push_back(matrix.element(carried[h], 4 * j + i) +
                             four.lane(i));
          }
          next.push_back(matrix.pack(each));
        }
        return next;
      });
  // All have seen the flags.
  frame.barrier(1, GemmPlan::kConsumers);
  b.ifThen(thread == 0, [&] {
    b.forRange(first, block, 1,
               [&](Val other) { flagOf(other).store(number(0)); });
  });
  return totals;
}

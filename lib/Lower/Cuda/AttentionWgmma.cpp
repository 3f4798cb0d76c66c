//===- AttentionWgmma.cpp - Flash attention with wgmma --------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Flash attention of tiles of query rows for sm_90a, after FlashAttention-3
// (Shah et al., 2024). As many blocks as the machine holds take tiles, one
// after the other, longest first: block i begins with tile i, and those after
// the first ones are counted out in the workspace. A row's result depends on
// neither its tile nor its block.
//
// A block is a warpgroup that copies, a tile ahead where there is room, and one
// or two consumer warpgroups with 64 rows of one head each:
//
//   loaders      Q0  Q1         Q2 ...           rows, as slots are empty
//   pages        K0  V0  K1  V1  K2 ...          one bulk copy a plane and page
//   consumer 0   QK0 |softmax 0|QK1 PV0|softmax 1|QK2 PV1| ...
//   consumer 1      |QK0      |softmax 0|QK1 PV0|softmax 1| ...
//
// A consumer issues the next product of queries and keys and the last of
// weights and values together; the other consumer's products run during its
// softmax. The next keys may be another sequence's or another tile's: only the
// block's first product and its last have no other beside them. With one
// consumer two blocks share a multiprocessor.
//
// Blocks of keys begin at multiples of their size and are taken in ascending
// order, with an online softmax. Blocks that all rows of a warpgroup see as a
// whole skip the mask. Values past the sequence's last key are zeroed in shared
// memory before they meet weights that are zero.
//
// Shared memory: queries [slots][consumers][64, headDim], keys and values
// [stages][blockKeys, headDim] in planes of 64 features with the 128-byte
// swizzle, [slots] positions and sequences of rows, mbarriers. All threads of a
// warp arrive where they have read: one for all would be no order for the
// others, as ptxas leaves out warp barriers behind wgmma. Registers of a
// consumer (headDim 128): 64 outputs, 64 scores, 32 weights; 232 allowed.
//
//===----------------------------------------------------------------------===//

#include "AttentionWgmma.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cuda;
using namespace mlir::qlm::kernel;

/// Registers of a thread that copies, and of a consumer by the consumers.
static constexpr int64_t kCopyRegisters = 40;
static constexpr int64_t kConsumerRegisters[] = {216, 232};
/// Heads at once of long contexts, at least; bytes of keys and values that L2
/// is trusted to keep.
static constexpr int64_t kHeadsAtOnce = 16, kKeptBytes = int64_t(48) << 20;

//===----------------------------------------------------------------------===//
// Plan
//===----------------------------------------------------------------------===//

bool WgmmaPlan::serves(const AttentionShape &shape) {
  return shape.chip >= 90 && !shape.isQuantized() &&
         (shape.headDim == 64 || shape.headDim == 128 ||
          shape.headDim == 256) &&
         (shape.pageTokens % kMaxCopyRows == 0 ||
          kMaxCopyRows % shape.pageTokens == 0);
}

WgmmaPlan WgmmaPlan::get(const AttentionShape &shape, int64_t rows,
                         int64_t processors) {
  WgmmaPlan plan;
  plan.blockKeys = shape.headDim == 256 ? 64 : 128;
  plan.consumers = rows <= mostRowsOfShort(shape, processors) ? 1 : 2;
  plan.stages = 2;
  plan.slots = shape.headDim == 256 ? 1 : 2;
  plan.blocksPerProcessor = plan.consumers == 1 ? 2 : 1;
  plan.grid = plan.blocksPerProcessor * processors;
  // Few heads whose queries share keys, and that divide all.
  plan.headsAtOnce = shape.group();
  while (plan.headsAtOnce < std::min(kHeadsAtOnce, shape.heads) ||
         shape.heads % plan.headsAtOnce != 0)
    plan.headsAtOnce += shape.group();
  if (plan.consumers == 1)
    plan.headsAtOnce = shape.heads;
  plan.longContext = kKeptBytes / (shape.kvHeads * 2 * shape.rowBytes());
  return plan;
}

int64_t WgmmaPlan::mostRowsOfShort(const AttentionShape &shape,
                                   int64_t processors) {
  if (shape.headDim > 64)
    return 0;
  return 2 * processors / shape.heads * kGroupRows;
}

int64_t WgmmaPlan::sharedBytes(const AttentionShape &shape) const {
  return (slots * blockRows() + stages * 2 * blockKeys) * shape.rowBytes() +
         slots * rowsBytes() + (4 * stages + 3 * slots) * 8;
}

//===----------------------------------------------------------------------===//
// The kernel
//===----------------------------------------------------------------------===//

void WgmmaEmitter::emit() {
  thread = ptx.thread();
  shared = ptx.address(buffers.shared);
  ptx.launchDependents();
  tiles = tile.count();
  initBarriers();
  // A block that doesn't wait would let the next kernel start too early.
  b.ifElse(
      ptx.block() < tiles, [&] { emitRoles(); },
      [&] { ptx.waitForPrevious(); });
}

void WgmmaEmitter::initBarriers() {
  int64_t consumerThreads = plan.consumers * kGroupThreads;
  b.ifThen(thread == 0, [&] {
    for (int64_t i = 0; i < plan.stages; ++i)
      for (int64_t part = 0; part < 2; ++part) {
        ptx.initBarrier(barrier(number(i), part, 0), 1);
        ptx.initBarrier(barrier(number(i), part, 1), consumerThreads);
      }
    for (int64_t i = 0; i < plan.slots; ++i) {
      ptx.initBarrier(barrier(number(i), RowsFull), kLoaders);
      ptx.initBarrier(barrier(number(i), QueriesFull), kLoaders);
      ptx.initBarrier(barrier(number(i), SlotEmpty), consumerThreads + 1);
    }
    ptx.fenceBarriers();
  });
  ptx.barrier();
}

void WgmmaEmitter::emitRoles() {
  group = thread >> 7;
  b.ifElse(
      group == 0,
      [&] {
        ptx.setRegisters(kCopyRegisters, /*increase=*/false);
        b.ifElse(
            thread < kGroupThreads - kLoaders,
            [&] { b.ifThen(thread == 0, [&] { copyPages(); }); },
            [&] { load(); });
      },
      [&] {
        ptx.setRegisters(kConsumerRegisters[plan.consumers - 1],
                         /*increase=*/true);
        consume();
      });
}

/// Blocks that share a multiprocessor get a long tile and a short one.
Val WgmmaEmitter::firstTurn() {
  Val block = ptx.block();
  if (plan.blocksPerProcessor == 1)
    return block;
  Val firsts = ptx.blocks() / plan.blocksPerProcessor;
  Val last = b.min(tiles, ptx.blocks()) - 1;
  return b.select(block < firsts, block, firsts + last - block);
}

Val WgmmaEmitter::awaitTile(Val place) {
  ptx.waitBarrier(barrier(place, RowsFull), slotParity(place));
  return rowsOf(place).at(plan.blockRows() * 8).load(b.i32());
}

SmallVector<Val> WgmmaEmitter::forTiles(
    ArrayRef<Val> state,
    function_ref<SmallVector<Val>(Val, Val, ArrayRef<Val>)> body) {
  SmallVector<Val> start(state);
  start.append({number(0), awaitTile(number(0))});
  SmallVector<Val> last = b.whileTrue(
      start, [&](ArrayRef<Val> carried) { return carried.back() != kNoTile; },
      [&](ArrayRef<Val> carried) {
        Val place = carried[state.size()], tileNumber = carried.back();
        tile.select(tileNumber);
        tile.setLists(rowsOf(place));
        SmallVector<Val> next = body(place, tileNumber, carried.drop_back(2));
        next.append({place + 1, awaitTile(place + 1)});
        return next;
      });
  last.truncate(state.size());
  return last;
}

void cuda::emitWgmmaAttention(KernelBuilder &b, const AttentionShape &shape,
                              const WgmmaPlan &plan,
                              const AttentionBuffers &buffers) {
  WgmmaEmitter(b, shape, plan, buffers).emit();
}

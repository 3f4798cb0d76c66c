//===- AttentionStages.cpp - Pages that decoding attention copies ---------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "DecodeEmitter.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cuda;
using namespace mlir::qlm::kernel;

/// Shared memory: stages of [2][head's part of a page], their barriers (full,
/// empty); parts of warps take the stages' place in the end.
Val DecodeEmitter::stageAddress(Val stage) {
  return sharedAddress + stage * (2 * shape.headBytes());
}
Val DecodeEmitter::stageBarrier(Val stage, int64_t which) {
  return sharedAddress +
         (stage * 8 + (plan.stageBytes(shape) + which * 8 * plan.stages));
}

void DecodeEmitter::initStages() {
  b.ifThen(thread == 0, [&] {
    for (int64_t i = 0; i < plan.stages; ++i) {
      Val stage = constantLike(thread, i);
      ptx.initBarrier(stageBarrier(stage, 0), 1);
      ptx.initBarrier(stageBarrier(stage, 1), plan.warps * 32);
    }
    ptx.fenceBarriers();
  });
  ptx.barrier();
}

/// The KV head's keys in page \p page (i32).
Ptr DecodeEmitter::keysOf(Val page) {
  Val head = b.extendSigned(page, b.i64()) * (2 * shape.kvHeads) +
             b.extendSigned(kvHead, b.i64());
  return buffers.cache.at(head * shape.headBytes());
}

/// Starts to copy the split's chunk of number \p index, which is page \p page,
/// to its stage.
void DecodeEmitter::copyChunk(Val index, Val page) {
  Val stage = index % plan.stages;
  Ptr keyPart = keysOf(page);
  Val full = stageBarrier(stage, 0), target = stageAddress(stage);
  Val bytes = constantLike(stage, shape.headBytes());
  ptx.arriveExpecting(full, bytes * 2);
  ptx.bulkCopy(target, keyPart, bytes, full);
  ptx.bulkCopy(target + bytes, keyPart.at(shape.kvHeads * shape.headBytes()),
               bytes, full);
}

/// Fills the stages, if possible while the previous kernel still runs: what it
/// writes of the pages is the row's own key and value, which the warp that
/// needs them loads by itself.
void DecodeEmitter::startCopies() {
  Val count =
      b.min(turns(lastChunk - firstChunk), constantLike(thread, plan.stages));
  // All pages are known before the first one is copied; chunks come in order.
  auto copy = [&] {
    b.ifThen(thread == 0, [&] {
      SmallVector<Val> numbers;
      for (int64_t i = 0; i < plan.stages; ++i)
        numbers.push_back(loadIndex(
            pages, b.min(chunkOf(constantLike(thread, i)), lastChunk - 1)));
      for (int64_t i = 0; i < plan.stages; ++i) {
        Val index = constantLike(thread, i);
        b.ifThen(index < count, [&] { copyChunk(index, numbers[i]); });
      }
    });
  };
  if (!plan.isEarly) {
    waitForPrevious();
    return copy();
  }
  copy();
  Val last = lastChunk - 1;
  Ptr part = keysOf(loadIndex(pages, last));
  ownsRow = (((last - firstChunk) & (shares - 1)) == 0) &
            (warp == (position % chunkKeys()) / kBlockKeys);
  waitForPrevious();
  loadOwnRow(part);
}

/// Calls \p visit for the pieces of a row's key and value that the lane has:
/// 16 bytes of either, and of codes a scale; \p offset is that from the head's
/// part of a page, \p kind is 0 for keys.
void DecodeEmitter::forOwnRow(
    function_ref<void(Type type, Val kind, Val offset, Val exists)> visit) {
  Val lane = thread & 31, slot = position % chunkKeys();
  int64_t chunks = shape.rowBytes() / 16;
  for (int64_t first = 0; first < 2 * chunks; first += 32) {
    Val piece = lane + first;
    visit(b.vec(4, b.i32()), piece / chunks,
          shape.chunkOffset(slot, piece % chunks), piece < 2 * chunks);
  }
  if (shape.isQuantized())
    visit(b.i32(), lane, slot * 4 + shape.codeBytes(), lane < 2);
}

/// Loads the row's own key and value from the page's part of the KV head.
void DecodeEmitter::loadOwnRow(Ptr part) {
  forOwnRow([&](Type type, Val kind, Val offset, Val exists) {
    auto load = [&] {
      Ptr place = part.at(kind * (shape.kvHeads * shape.headBytes()) + offset);
      return SmallVector<Val>{place.load(type, isa<VectorType>(type) ? 16 : 4)};
    };
    auto none = [&] { return SmallVector<Val>{b.zero(type)}; };
    ownRow.push_back(b.ifElse(ownsRow & exists,
                              function_ref<SmallVector<Val>()>(load), none)[0]);
  });
}

/// Stores them to the stage of the last chunk, whose copy may have come before.
void DecodeEmitter::storeOwnRow(Val stage) {
  Ptr part = buffers.shared.at(stage * (2 * shape.headBytes()));
  const Val *next = ownRow.begin();
  forOwnRow([&](Type type, Val kind, Val offset, Val exists) {
    b.ifThen(exists, [&] {
      part.at(kind * shape.headBytes() + offset)
          .store(*next, isa<VectorType>(type) ? 16 : 4);
    });
    ++next;
  });
  syncWarp();
}

/// Before chunk \p index: copies the next chunk, of page \p page if that is
/// known, to the stage of the one before, when all warps have read it.
void DecodeEmitter::refill(Val index, Val count, Val page) {
  Val done = index - 1, next = done + plan.stages;
  b.ifThen((thread == 0) & (done >= 0) & (next < count), [&] {
    ptx.waitBarrier(stageBarrier(done % plan.stages, 1),
                    (done / plan.stages) & 1);
    copyChunk(next, page ? page : loadIndex(pages, chunkOf(next)));
  });
}

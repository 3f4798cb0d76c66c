//===- AttentionTile.cpp - A tile of query rows and its sequences ---------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "AttentionTile.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cuda;
using kernel::Ptr;
using kernel::Val;

Val AttentionTile::count() {
  return (buffers.tokens + (rows - 1)) / rows * shape.heads;
}

TilePlace AttentionTile::locate(Val number) {
  TilePlace place;
  Val tiles = (buffers.tokens + (rows - 1)) / rows;
  place.firstRow = (tiles - 1 - number / shape.heads) * rows;
  place.head = number % shape.heads;
  place.endRow = b.min(place.firstRow + rows, buffers.tokens);
  return place;
}

void AttentionTile::select(Val number) {
  static_cast<TilePlace &>(*this) = locate(number);
}

void AttentionTile::setLists(Ptr copies) {
  positionList = copies;
  sequenceList = copies.at(rows * 4);
  firstListed = firstRow;
}

/// The first row after \p begin, up to endRow, that is not of \p sequence.
Val AttentionTile::findEnd(Val begin, Val sequence) {
  using Values = function_ref<SmallVector<Val>()>;
  auto search = [&] { return SmallVector<Val>{searchEnd(begin, sequence)}; };
  auto last = [&] { return SmallVector<Val>{endRow}; };
  return b.ifElse(sequence == lastSequence, Values(last), Values(search))[0];
}

Val AttentionTile::searchEnd(Val begin, Val sequence) {
  int64_t steps = llvm::Log2_64_Ceil(rows) + 1;
  Val low = begin, high = endRow;
  for (int64_t i = 0; i < steps; ++i) {
    Val middle = (low + high) >> 1;
    Val inside = b.min(middle, endRow - 1);
    Val isSame = loadOfRow(sequenceList, inside) == sequence;
    Val isOpen = low < high;
    low = b.select(isOpen & isSame, middle + 1, low);
    high = b.select(isOpen & (isSame ^ 1), middle, high);
  }
  return low;
}

SmallVector<Val> AttentionTile::forSegments(
    ArrayRef<Val> state,
    function_ref<SmallVector<Val>(const Segment &, ArrayRef<Val>)> body) {
  Val first = loadOfRow(sequenceList, firstRow);
  lastSequence = loadOfRow(sequenceList, endRow - 1);
  SmallVector<Val> carried(state);
  carried.push_back(firstRow);
  auto results =
      b.forRange(first, lastSequence + 1, 1, carried,
                 [&](Val sequence, ArrayRef<Val> before) {
                   Segment segment;
                   segment.sequence = sequence;
                   segment.begin = before.back();
                   segment.end = findEnd(segment.begin, sequence);
                   segment.pages = buffers.blockTables.element(
                       b.i32(), sequence * buffers.maxPages);
                   segment.lastKey = loadPosition(segment.end - 1);
                   Val zero = constantLike(segment.lastKey, int64_t(0));
                   segment.firstBlock = zero;
                   if (shape.window) {
                     Val position = loadPosition(segment.begin);
                     segment.firstBlock =
                         b.max(position - (shape.window - 1), zero) / blockKeys;
                   }
                   segment.lastBlock = segment.lastKey / blockKeys + 1;
                   SmallVector<Val> next = body(segment, before.drop_back());
                   next.push_back(segment.end);
                   return next;
                 });
  results.pop_back();
  return results;
}

Ptr AttentionTile::pagePart(const Segment &segment, Val token, int64_t part) {
  Val page = b.extendSigned(loadIndex(segment.pages, token / shape.pageTokens),
                            b.i64());
  Val index =
      page * (2 * shape.kvHeads) +
      b.extendSigned(head / shape.group() + part * shape.kvHeads, b.i64());
  return buffers.cache.at(index * shape.headBytes());
}

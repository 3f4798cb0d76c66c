//===- MergeTable.cpp - Ranked merges of a BPE model ----------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/Tokenizer/MergeTable.h"

#include <algorithm>

namespace qlm::tokenizer {

/// Up to this many symbols, looking at all pairs again after each merge is
/// faster than keeping a heap. Most words are shorter.
static constexpr size_t shortWord = 24;

static uint64_t keyOf(int32_t left, int32_t right) {
  return uint64_t(uint32_t(left)) << 32 | uint32_t(right);
}

/// Fibonacci hashing: the upper bits of the product are well mixed.
static size_t hashOf(uint64_t key, int shift) {
  key ^= key >> 29;
  return static_cast<size_t>(key * 0x9E3779B97F4A7C15ull >> shift);
}

void MergeTable::reserve(size_t count) {
  shift = 63;
  while ((size_t(1) << (64 - shift)) < 2 * count)
    --shift;
  slots.assign(size_t(1) << (64 - shift), Slot());
}

MergeTable::Slot &MergeTable::slotOf(uint64_t key) {
  size_t i = hashOf(key, shift);
  while (slots[i].key != emptyKey && slots[i].key != key)
    i = (i + 1) & (slots.size() - 1);
  return slots[i];
}

void MergeTable::insert(int32_t left, int32_t right, Merge merge) {
  Slot &slot = slotOf(keyOf(left, right));
  slot.key = keyOf(left, right);
  slot.merge = merge;
}

const Merge *MergeTable::find(int32_t left, int32_t right) const {
  if (slots.empty())
    return nullptr;
  const Slot &slot = const_cast<MergeTable *>(this)->slotOf(keyOf(left, right));
  return slot.key == emptyKey ? nullptr : &slot.merge;
}

void MergeTable::apply(std::vector<int32_t> &ids) const {
  if (ids.size() < 2)
    return;
  if (ids.size() <= shortWord)
    applyToShort(ids);
  else
    applyToLong(ids);
}

void MergeTable::applyToShort(std::vector<int32_t> &ids) const {
  // merges[i] is what ids[i] and ids[i + 1] merge into.
  const Merge *merges[shortWord];
  size_t count = ids.size();
  for (size_t i = 0; i + 1 < count; ++i)
    merges[i] = find(ids[i], ids[i + 1]);
  while (count > 1) {
    size_t best = count;
    for (size_t i = 0; i + 1 < count; ++i)
      if (merges[i] && (best == count || merges[i]->rank < merges[best]->rank))
        best = i;
    if (best == count)
      break;
    ids[best] = merges[best]->id;
    std::copy(ids.begin() + best + 2, ids.begin() + count,
              ids.begin() + best + 1);
    std::copy(merges + best + 1, merges + count - 1, merges + best);
    --count;
    if (best > 0)
      merges[best - 1] = find(ids[best - 1], ids[best]);
    if (best + 1 < count)
      merges[best] = find(ids[best], ids[best + 1]);
  }
  ids.resize(count);
}

namespace {
/// A merge that was possible when it was queued.
struct Candidate {
  int32_t rank, id;
  uint32_t position;
  /// For std's heaps, whose first element is the greatest.
  bool operator<(const Candidate &other) const {
    return rank != other.rank ? rank > other.rank : position > other.position;
  }
};

/// The places of the neighbours that are left.
struct Links {
  uint32_t previous, next;
};
} // namespace

void MergeTable::applyToLong(std::vector<int32_t> &ids) const {
  constexpr uint32_t none = ~uint32_t(0);
  constexpr int32_t removed = -1;
  auto count = static_cast<uint32_t>(ids.size());
  std::vector<Links> links(count);
  std::vector<Candidate> heap;
  for (uint32_t i = 0; i < count; ++i) {
    links[i] = {i == 0 ? none : i - 1, i + 1 == count ? none : i + 1};
    if (i + 1 < count)
      if (const Merge *merge = find(ids[i], ids[i + 1]))
        heap.push_back({merge->rank, merge->id, i});
  }
  std::make_heap(heap.begin(), heap.end());
  auto queue = [&](uint32_t left, uint32_t right) {
    if (left == none || right == none)
      return;
    if (const Merge *merge = find(ids[left], ids[right])) {
      heap.push_back({merge->rank, merge->id, left});
      std::push_heap(heap.begin(), heap.end());
    }
  };
  while (!heap.empty()) {
    Candidate top = heap.front();
    std::pop_heap(heap.begin(), heap.end());
    heap.pop_back();
    uint32_t left = top.position, right = links[left].next;
    if (ids[left] == removed || right == none)
      continue;
    // The pair may have changed since it was queued.
    const Merge *merge = find(ids[left], ids[right]);
    if (!merge || merge->id != top.id)
      continue;
    ids[left] = top.id;
    ids[right] = removed;
    uint32_t after = links[left].next = links[right].next;
    if (after != none)
      links[after].previous = left;
    queue(links[left].previous, left);
    queue(left, after);
  }
  ids.erase(std::remove(ids.begin(), ids.end(), removed), ids.end());
}

} // namespace qlm::tokenizer

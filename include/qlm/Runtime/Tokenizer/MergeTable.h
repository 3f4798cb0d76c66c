//===- MergeTable.h - Ranked merges of a BPE model --------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_RUNTIME_TOKENIZER_MERGETABLE_H
#define QLM_RUNTIME_TOKENIZER_MERGETABLE_H

#include <cstddef>
#include <cstdint>
#include <vector>

namespace qlm::tokenizer {

/// What two neighbouring ids merge into. Lower ranks merge first.
struct Merge {
  int32_t rank = -1;
  int32_t id = -1;
};

/// The merges of a BPE model by pair of ids: a hash table with linear probing,
/// built once.
class MergeTable {
public:
  /// Makes room for \p count merges; call before the first insert().
  void reserve(size_t count);

  /// Adds or replaces the merge of \p left and \p right.
  void insert(int32_t left, int32_t right, Merge merge);

  /// The merge of \p left and \p right, or null.
  const Merge *find(int32_t left, int32_t right) const;

  /// Merges \p ids as BPE does: again and again the pair of lowest rank, the
  /// leftmost of equals. Takes O(n log n) steps for n ids.
  void apply(std::vector<int32_t> &ids) const;

private:
  struct Slot {
    uint64_t key = emptyKey;
    Merge merge;
  };
  static constexpr uint64_t emptyKey = ~uint64_t(0);

  Slot &slotOf(uint64_t key);
  void applyToShort(std::vector<int32_t> &ids) const;
  void applyToLong(std::vector<int32_t> &ids) const;

  std::vector<Slot> slots;
  int shift = 0;
};

} // namespace qlm::tokenizer

#endif // QLM_RUNTIME_TOKENIZER_MERGETABLE_H

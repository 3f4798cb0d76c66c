//===- WordCache.h - Bounded memory of split words --------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_RUNTIME_TOKENIZER_WORDCACHE_H
#define QLM_RUNTIME_TOKENIZER_WORDCACHE_H

#include <array>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

namespace qlm::tokenizer {

/// Remembers the ids of words. Each word has one slot, where a later word may
/// replace it, so that the memory is bounded: slotCount words of at most
/// maxWordBytes. Safe to use from many threads.
class WordCache {
public:
  static constexpr size_t slotCount = 1 << 14;
  static constexpr size_t maxWordBytes = 64;

  /// Appends the ids of \p word to \p ids and returns true when they are known.
  bool find(std::string_view word, std::vector<int32_t> &ids) const {
    size_t hash = std::hash<std::string_view>()(word);
    const Slot &slot = slots[hash % slotCount];
    std::lock_guard<std::mutex> guard(locks[hash % lockCount]);
    if (slot.word != word)
      return false;
    ids.insert(ids.end(), slot.ids.begin(), slot.ids.end());
    return true;
  }

  /// Remembers \p count ids of \p word, which isn't empty.
  void store(std::string_view word, const int32_t *ids, size_t count) {
    size_t hash = std::hash<std::string_view>()(word);
    Slot &slot = slots[hash % slotCount];
    std::lock_guard<std::mutex> guard(locks[hash % lockCount]);
    slot.word.assign(word);
    slot.ids.assign(ids, ids + count);
  }

private:
  // A divisor of slotCount: the words of one slot share one lock.
  static constexpr size_t lockCount = 64;
  struct Slot {
    std::string word; // empty: no word yet
    std::vector<int32_t> ids;
  };

  std::vector<Slot> slots = std::vector<Slot>(slotCount);
  mutable std::array<std::mutex, lockCount> locks;
};

} // namespace qlm::tokenizer

#endif // QLM_RUNTIME_TOKENIZER_WORDCACHE_H

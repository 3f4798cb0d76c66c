//===- KvPages.h - Pages of the KV cache ------------------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_RUNTIME_KVPAGES_H
#define QLM_RUNTIME_KVPAGES_H

#include <cstdint>
#include <vector>

namespace qlm {

/// Hands out the pages of the KV cache. A page number is valid in every
/// layer's pool. Pages freed last are handed out first: their memory is
/// already resident.
class KvPages {
public:
  KvPages(int64_t pages, int64_t pageTokens) : pageTokens(pageTokens) {
    for (int64_t page = pages; page-- > 0;)
      free.push_back(static_cast<int32_t>(page));
  }

  /// Pages that \p tokens tokens take.
  int64_t pagesFor(int64_t tokens) const {
    return (tokens + pageTokens - 1) / pageTokens;
  }
  int64_t freePages() const { return static_cast<int64_t>(free.size()); }

  /// Grows \p table to hold \p tokens tokens; false, and nothing taken, when
  /// too few pages are free.
  [[nodiscard]] bool reserve(std::vector<int32_t> &table, int64_t tokens) {
    int64_t missing = pagesFor(tokens) - static_cast<int64_t>(table.size());
    if (missing > freePages())
      return false;
    for (; missing > 0; --missing) {
      table.push_back(free.back());
      free.pop_back();
    }
    return true;
  }

  /// Gives back the pages of \p table past those that hold \p tokens tokens.
  void release(std::vector<int32_t> &table, int64_t tokens = 0) {
    while (static_cast<int64_t>(table.size()) > pagesFor(tokens)) {
      free.push_back(table.back());
      table.pop_back();
    }
  }

private:
  int64_t pageTokens;
  std::vector<int32_t> free;
};

} // namespace qlm

#endif // QLM_RUNTIME_KVPAGES_H

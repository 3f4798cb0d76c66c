//===- KvPages.h - Pages of the KV cache ------------------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_RUNTIME_KVPAGES_H
#define QLM_RUNTIME_KVPAGES_H

#include "qlm/Runtime/Status.h"

#include <cstdint>
#include <unordered_map>
#include <vector>

namespace qlm {

/// The pages that hold one sequence's keys and values.
struct PageTable {
  std::vector<int32_t> pages;
  /// Pages at the front that the cache knows by content, and the name of what
  /// the last of them ends.
  int64_t named = 0;
  int64_t name = 0;
};

/// Hands out the pages of the KV cache and remembers what full pages hold, so
/// that sequences that begin alike share them.
///
/// A page number is valid in every layer's pool. A page is free; or held by
/// the tables that count it; or idle: held by none, but its content is known,
/// so that it serves the next sequence that begins so, until its memory is
/// needed (least recently used first). Keys and values of a token depend on
/// all tokens before it, so a full page's content has a name: a number given
/// to the pair (name of the page before, tokens of this page). Names are
/// compared token by token and never given twice: two texts can't be mistaken
/// for one another, whatever their hashes.
///
/// Only full pages are shared and nothing writes to a full page, so sharing
/// needs no copies. Not thread safe.
class KvPages {
public:
  KvPages(int64_t pages, int64_t pageTokens, bool sharesPrefixes = true);

  /// Pages that \p tokens tokens take.
  int64_t pagesFor(int64_t tokens) const {
    return (tokens + pageTokens - 1) / pageTokens;
  }
  int64_t totalPages() const { return static_cast<int64_t>(infos.size()); }
  /// Pages that a sequence can have now: free and idle ones.
  int64_t availablePages() const {
    return static_cast<int64_t>(free.size()) + idlePages;
  }
  int64_t idleCount() const { return idlePages; }
  /// Idle pages whose memory was needed, so far.
  int64_t evictions() const { return evicted; }

  /// Lets the empty \p table hold the longest known beginning of \p tokens, of
  /// its first \p count tokens at most, and returns how many tokens that is: a
  /// multiple of the page. Sequences of different \p scope never share.
  int64_t match(PageTable &table, const std::vector<int32_t> &tokens,
                int64_t count, int64_t scope);

  /// Makes known what is full of \p table, whose first \p computed tokens are
  /// \p tokens.
  void publish(PageTable &table, const std::vector<int32_t> &tokens,
               int64_t computed, int64_t scope);

  /// Grows \p table to hold \p tokens tokens; false, and nothing taken, when
  /// too few pages are available.
  [[nodiscard]] bool reserve(PageTable &table, int64_t tokens);

  /// Gives back the pages of \p table past those that hold \p tokens tokens.
  void release(PageTable &table, int64_t tokens = 0);

  /// Forgets what idle pages hold.
  void forget();

  /// Checks the bookkeeping against \p tables, which must be all there are.
  /// Errors: Internal, naming the page.
  Status check(const std::vector<const PageTable *> &tables) const;

private:
  struct PageInfo {
    int32_t holders = 0;
    int32_t previous = -1, next = -1; ///< among idle pages
    int64_t name = 0;                 ///< 0: content not known
    int64_t parent = 0;
    uint64_t hash = 0;
  };

  uint64_t hashOf(int64_t parent, const int32_t *tokens) const;
  int32_t find(int64_t parent, const int32_t *tokens, uint64_t hash) const;
  void link(int32_t page);
  void unlink(int32_t page);
  void drop(int32_t page);
  int32_t take();
  /// Names given to pages count up from 1; what precedes the first page is
  /// named by the scope alone.
  static int64_t root(int64_t scope) { return -1 - scope; }

  int64_t pageTokens;
  bool sharesPrefixes;
  std::vector<PageInfo> infos;
  std::vector<int32_t> content; ///< [pages, pageTokens] of named pages
  std::unordered_multimap<uint64_t, int32_t> byHash;
  std::vector<int32_t> free;
  int32_t oldest = -1, newest = -1; ///< ends of the list of idle pages
  int64_t idlePages = 0, evicted = 0, lastName = 0;
};

} // namespace qlm

#endif // QLM_RUNTIME_KVPAGES_H

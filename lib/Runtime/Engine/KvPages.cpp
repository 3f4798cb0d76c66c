//===- KvPages.cpp - Pages of the KV cache --------------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/KvPages.h"

#include <algorithm>
#include <string>

using namespace qlm;

KvPages::KvPages(int64_t pages, int64_t pageTokens, bool sharesPrefixes)
    : pageTokens(pageTokens), sharesPrefixes(sharesPrefixes),
      infos(static_cast<size_t>(pages)) {
  if (sharesPrefixes)
    content.resize(static_cast<size_t>(pages * pageTokens));
  // Freed last, handed out first: such memory is already resident.
  for (int64_t page = pages; page-- > 0;)
    free.push_back(static_cast<int32_t>(page));
}

/// FNV-1a over words, with the finalizer of MurmurHash3.
uint64_t KvPages::hashOf(int64_t parent, const int32_t *tokens) const {
  uint64_t hash = 0xcbf29ce484222325ull ^ static_cast<uint64_t>(parent);
  for (int64_t i = 0; i < pageTokens; ++i)
    hash = (hash ^ static_cast<uint32_t>(tokens[i])) * 0x100000001b3ull;
  hash = (hash ^ (hash >> 33)) * 0xff51afd7ed558ccdull;
  return hash ^ (hash >> 33);
}

/// The page that holds \p tokens after \p parent, or -1.
int32_t KvPages::find(int64_t parent, const int32_t *tokens,
                      uint64_t hash) const {
  auto [begin, end] = byHash.equal_range(hash);
  for (auto it = begin; it != end; ++it) {
    const int32_t *held = content.data() + it->second * pageTokens;
    if (infos[it->second].parent == parent &&
        std::equal(held, held + pageTokens, tokens))
      return it->second;
  }
  return -1;
}

/// Appends \p page to the idle ones as the most recently used.
void KvPages::link(int32_t page) {
  PageInfo &info = infos[page];
  info.previous = newest;
  info.next = -1;
  (newest < 0 ? oldest : infos[newest].next) = page;
  newest = page;
  ++idlePages;
}

void KvPages::unlink(int32_t page) {
  PageInfo &info = infos[page];
  (info.previous < 0 ? oldest : infos[info.previous].next) = info.next;
  (info.next < 0 ? newest : infos[info.next].previous) = info.previous;
  info.previous = info.next = -1;
  --idlePages;
}

/// Forgets the content of \p page.
void KvPages::drop(int32_t page) {
  PageInfo &info = infos[page];
  auto [begin, end] = byHash.equal_range(info.hash);
  for (auto it = begin; it != end; ++it)
    if (it->second == page) {
      byHash.erase(it);
      break;
    }
  info.name = info.parent = 0;
  info.hash = 0;
}

/// A page for new content; one must be available.
int32_t KvPages::take() {
  if (!free.empty()) {
    int32_t page = free.back();
    free.pop_back();
    return page;
  }
  int32_t page = oldest;
  unlink(page);
  drop(page);
  ++evicted;
  return page;
}

int64_t KvPages::match(PageTable &table, const std::vector<int32_t> &tokens,
                       int64_t count, int64_t scope) {
  table.name = root(scope);
  table.named = 0;
  if (!sharesPrefixes)
    return 0;
  int64_t pages = std::min(count, static_cast<int64_t>(tokens.size()));
  for (pages /= pageTokens; table.named < pages; ++table.named) {
    const int32_t *next = tokens.data() + table.named * pageTokens;
    int32_t page = find(table.name, next, hashOf(table.name, next));
    if (page < 0)
      break;
    if (infos[page].holders++ == 0)
      unlink(page);
    table.pages.push_back(page);
    table.name = infos[page].name;
  }
  return table.named * pageTokens;
}

void KvPages::publish(PageTable &table, const std::vector<int32_t> &tokens,
                      int64_t computed, int64_t scope) {
  if (!sharesPrefixes)
    return;
  if (table.named == 0)
    table.name = root(scope);
  for (; table.named < computed / pageTokens; ++table.named) {
    const int32_t *held = tokens.data() + table.named * pageTokens;
    uint64_t hash = hashOf(table.name, held);
    int32_t known = find(table.name, held, hash);
    if (known < 0) {
      // Another page of the same content may have become known meanwhile; then
      // this one stays its sequence's own.
      known = table.pages[table.named];
      infos[known].name = ++lastName;
      infos[known].parent = table.name;
      infos[known].hash = hash;
      std::copy_n(held, pageTokens, content.data() + known * pageTokens);
      byHash.emplace(hash, known);
    }
    table.name = infos[known].name;
  }
}

bool KvPages::reserve(PageTable &table, int64_t tokens) {
  int64_t missing = pagesFor(tokens) - static_cast<int64_t>(table.pages.size());
  if (missing > availablePages())
    return false;
  for (; missing > 0; --missing) {
    int32_t page = take();
    infos[page].holders = 1;
    table.pages.push_back(page);
  }
  return true;
}

void KvPages::release(PageTable &table, int64_t tokens) {
  // From the back: of a chain of idle pages the last is to go first, as
  // those after a missing one can't be found.
  while (static_cast<int64_t>(table.pages.size()) > pagesFor(tokens)) {
    int32_t page = table.pages.back();
    table.pages.pop_back();
    if (--infos[page].holders > 0)
      continue;
    if (infos[page].name)
      link(page);
    else
      free.push_back(page);
  }
  if (table.pages.empty())
    table.named = 0;
}

void KvPages::forget() {
  while (oldest >= 0) {
    int32_t page = oldest;
    unlink(page);
    drop(page);
    free.push_back(page);
  }
}

Status KvPages::check(const std::vector<const PageTable *> &tables) const {
  auto error = [](int64_t page, const std::string &what) {
    return Status(StatusCode::Internal,
                  "page " + std::to_string(page) + " " + what);
  };
  std::vector<int32_t> holders(infos.size()), places(infos.size());
  for (const PageTable *table : tables)
    for (int32_t page : table->pages)
      ++holders[page];
  for (int32_t page : free)
    ++places[page];
  int64_t idle = 0;
  for (int32_t page = oldest; page >= 0; page = infos[page].next, ++idle) {
    ++places[page];
    if (!infos[page].name)
      return error(page, "is idle without known content");
  }
  if (idle != idlePages)
    return error(idle, "ends the idle list, the count says " +
                           std::to_string(idlePages));
  int64_t named = 0;
  for (size_t i = 0; i < infos.size(); ++i) {
    int64_t page = static_cast<int64_t>(i);
    if (holders[i] != infos[i].holders)
      return error(page, "is in " + std::to_string(holders[i]) +
                             " tables and counts " +
                             std::to_string(infos[i].holders));
    if (places[i] + (holders[i] > 0) != 1)
      return error(page, "is not in exactly one of: free, idle, held");
    if (!infos[i].name)
      continue;
    ++named;
    const int32_t *held = content.data() + page * pageTokens;
    if (find(infos[i].parent, held, hashOf(infos[i].parent, held)) != page)
      return error(page, "is not found by its content");
  }
  if (named != static_cast<int64_t>(byHash.size()))
    return error(named, "and so many are named, the index holds " +
                            std::to_string(byHash.size()));
  return Status();
}

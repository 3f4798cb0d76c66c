//===- PagedCase.h - A ragged step over shuffled pages ----------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_TEST_LOWER_CPU_PAGEDCASE_H
#define QLM_TEST_LOWER_CPU_PAGEDCASE_H

#include "FloatTypes.h"
#include "KernelTest.h"

#include <algorithm>
#include <numeric>
#include <string>

namespace mlir::qlm::cpu::test {

/// Sizes of attention.
struct HeadSizes {
  int64_t heads, kvHeads, headDim, pageTokens;
  FloatType type;

  std::string toString() const {
    return std::to_string(heads) + " heads, " + std::to_string(kvHeads) +
           " kv heads of " + std::to_string(headDim) + ", pages of " +
           std::to_string(pageTokens) + " " + getName(type);
  }
  std::string attributes() const {
    return " heads " + std::to_string(heads) + " kv_heads " +
           std::to_string(kvHeads) + " page_tokens " +
           std::to_string(pageTokens);
  }
};

/// Sizes with every kind of rest: odd halves, heads that don't fill the
/// registers, one KV head, pages of several vectors.
inline const HeadSizes kHeadSizes[] = {
    {1, 1, 2, 16, FloatType::F32},    {4, 4, 6, 16, FloatType::F32},
    {6, 2, 8, 16, FloatType::F16},    {8, 1, 16, 32, FloatType::BF16},
    {9, 3, 34, 16, FloatType::F32},   {12, 1, 32, 16, FloatType::F16},
    {8, 4, 64, 16, FloatType::F32},   {10, 5, 80, 48, FloatType::BF16},
    {17, 1, 20, 16, FloatType::F32},  {32, 4, 64, 16, FloatType::F32},
    {4, 2, 128, 16, FloatType::BF16}, {2, 2, 36, 16, FloatType::F16}};

/// A tensor's type; -1 is an unknown size.
inline std::string getTensor(std::initializer_list<int64_t> shape,
                             const std::string &element) {
  std::string text = "tensor<";
  for (int64_t size : shape)
    text += (size < 0 ? "?" : std::to_string(size)) + "x";
  return text + element + ">";
}

/// Tokens of several sequences, and which pages their sequences own.
struct PagedCase {
  HeadSizes sizes;
  /// Of each token.
  std::vector<int32_t> positions, sequences;
  /// [sequences, maxPages]; every entry is another page.
  std::vector<int32_t> tables;
  int64_t sequenceCount, maxPages;

  /// Sequence s has tokens at positions `ranges[s].first` to
  /// `ranges[s].second - 1`.
  PagedCase(HeadSizes sizes,
            const std::vector<std::pair<int32_t, int32_t>> &ranges)
      : sizes(sizes), sequenceCount(ranges.size()), maxPages(1) {
    for (auto [sequence, range] : llvm::enumerate(ranges))
      for (int32_t position = range.first; position < range.second;
           ++position) {
        positions.push_back(position);
        sequences.push_back(sequence);
        maxPages = std::max<int64_t>(maxPages, position / sizes.pageTokens + 1);
      }
    tables.resize(sequenceCount * maxPages);
    std::iota(tables.begin(), tables.end(), 0);
    std::shuffle(tables.begin(), tables.end(), std::mt19937(8));
  }

  int64_t tokens() const { return positions.size(); }
  int64_t pages() const { return tables.size(); }
  ::qlm::format::StepSizes stepSizes() const {
    return {tokens(), sequenceCount, 1, maxPages};
  }
  std::string cacheType() const {
    return getTensor(
        {pages(), 2, sizes.kvHeads, sizes.headDim * sizes.pageTokens},
        getName(sizes.type));
  }
  size_t cacheCount() const {
    return pages() * 2 * sizes.kvHeads * sizes.headDim * sizes.pageTokens;
  }
  /// Index in the cache of an element of a key (or value).
  size_t cacheIndex(int64_t sequence, int64_t position, bool isValue,
                    int64_t head, int64_t feature) const {
    int64_t page = tables[sequence * maxPages + position / sizes.pageTokens];
    int64_t slot = position % sizes.pageTokens;
    size_t base = ((page * 2 + isValue) * sizes.kvHeads + head) *
                  sizes.headDim * sizes.pageTokens;
    return base + (isValue ? slot * sizes.headDim + feature
                           : feature * sizes.pageTokens + slot);
  }
};

} // namespace mlir::qlm::cpu::test

#endif // QLM_TEST_LOWER_CPU_PAGEDCASE_H

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

#include "qlm/Dialect/Qlm.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

namespace mlir::qlm::cpu::test {

/// What the bytes of a quantized cache are.
enum class Codes { None, Int8, Fp8 };

/// Sizes of attention.
struct HeadSizes {
  int64_t heads, kvHeads, headDim, pageTokens;
  /// Of a cache without codes.
  FloatType type;
  Codes codes = Codes::None;

  HeadSizes(int64_t heads, int64_t kvHeads, int64_t headDim, int64_t pageTokens,
            FloatType type)
      : heads(heads), kvHeads(kvHeads), headDim(headDim),
        pageTokens(pageTokens), type(type) {}
  HeadSizes(int64_t heads, int64_t kvHeads, int64_t headDim, int64_t pageTokens,
            Codes codes)
      : HeadSizes(heads, kvHeads, headDim, pageTokens, FloatType::F32) {
    this->codes = codes;
  }

  std::string toString() const {
    return std::to_string(heads) + " heads, " + std::to_string(kvHeads) +
           " kv heads of " + std::to_string(headDim) + ", pages of " +
           std::to_string(pageTokens) + " " + typeName();
  }
  std::string typeName() const {
    return codes == Codes::None   ? getName(type)
           : codes == Codes::Int8 ? "i8"
                                  : "f8E4M3FN";
  }
  int64_t elementBytes() const {
    return codes == Codes::None ? getBytes(type) : 1;
  }
  int64_t width() const {
    return getCacheWidth(headDim, pageTokens, codes != Codes::None);
  }
  std::string attributes() const {
    return " heads " + std::to_string(heads) + " kv_heads " +
           std::to_string(kvHeads) + " page_tokens " +
           std::to_string(pageTokens) +
           (codes == Codes::None ? "" : " codes " + typeName());
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
    {4, 2, 128, 16, FloatType::BF16}, {2, 2, 36, 16, FloatType::F16},
    {1, 1, 2, 16, Codes::Int8},       {9, 3, 34, 16, Codes::Fp8},
    {8, 1, 16, 32, Codes::Fp8},       {10, 5, 80, 48, Codes::Int8},
    {32, 4, 64, 16, Codes::Int8},     {4, 2, 128, 16, Codes::Fp8}};

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
  /// The last keys that a token sees; 0: all.
  int64_t window = 0;

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
  /// The first position that token \p t sees.
  int64_t firstKey(int64_t t) const {
    return window ? std::max<int64_t>(0, positions[t] + 1 - window) : 0;
  }
  int64_t pages() const { return tables.size(); }
  ::qlm::format::StepSizes stepSizes() const {
    return {tokens(), sequenceCount, 1, maxPages};
  }
  std::string cacheType() const {
    return getTensor({pages(), 2, sizes.kvHeads, sizes.width()},
                     sizes.codes == Codes::None ? getName(sizes.type) : "i8");
  }
  size_t cacheBytes() const {
    return pages() * 2 * sizes.kvHeads * sizes.width() * sizes.elementBytes();
  }
  /// First byte of the keys (or values) of a head in the page of a position.
  size_t headStart(int64_t sequence, int64_t position, bool isValue,
                   int64_t head) const {
    int64_t page = tables[sequence * maxPages + position / sizes.pageTokens];
    return ((page * 2 + isValue) * sizes.kvHeads + head) * sizes.width() *
           sizes.elementBytes();
  }
};

/// A cache, read and written row by row: keys or values of one head.
class CacheBuffer {
public:
  /// Poisoned, as Buffer is.
  explicit CacheBuffer(const PagedCase &c) : c(c), bytes(c.cacheBytes()) {}

  void *data() { return bytes.data(); }
  bool isIntact() const { return bytes.isIntact(); }
  size_t size() const { return c.cacheBytes(); }
  char operator[](size_t i) const { return bytes[i]; }

  /// Stores a row as `qlm.rope_append` does.
  void set(int64_t sequence, int64_t position, bool isValue, int64_t head,
           const std::vector<float> &row);
  /// Reads a row as `qlm.paged_attention` does.
  std::vector<float> get(int64_t sequence, int64_t position, bool isValue,
                         int64_t head) const;
  /// Whether no row was stored there.
  bool isPoisoned(int64_t sequence, int64_t position, bool isValue,
                  int64_t head) const {
    char *place = at(sequence, position, isValue, head, 0);
    return std::all_of(place, place + c.sizes.elementBytes(),
                       [](char byte) { return byte == '\xFF'; });
  }

private:
  const llvm::fltSemantics &semantics() const {
    return c.sizes.codes == Codes::Fp8 ? llvm::APFloat::Float8E4M3FN()
                                       : getSemantics(c.sizes.type);
  }
  char *at(int64_t sequence, int64_t position, bool isValue, int64_t head,
           int64_t feature) const {
    int64_t slot = position % c.sizes.pageTokens;
    int64_t element = isValue ? slot * c.sizes.headDim + feature
                              : feature * c.sizes.pageTokens + slot;
    return const_cast<char *>(bytes.data()) +
           c.headStart(sequence, position, isValue, head) +
           element * c.sizes.elementBytes();
  }
  char *scaleAt(int64_t sequence, int64_t position, bool isValue,
                int64_t head) const {
    return const_cast<char *>(bytes.data()) +
           c.headStart(sequence, position, isValue, head) +
           c.sizes.headDim * c.sizes.pageTokens +
           position % c.sizes.pageTokens * 4;
  }

  PagedCase c;
  Buffer<char> bytes;
};

inline void CacheBuffer::set(int64_t sequence, int64_t position, bool isValue,
                             int64_t head, const std::vector<float> &row) {
  bool isInt8 = c.sizes.codes == Codes::Int8;
  float factor = 1;
  if (c.sizes.codes != Codes::None) {
    float largest = 0, bound = isInt8 ? 127 : 448;
    for (float x : row)
      largest = std::isnan(x) ? x : std::max(largest, std::abs(x));
    float scale = largest / bound;
    factor = largest == 0 ? 0 : bound / largest;
    memcpy(scaleAt(sequence, position, isValue, head), &scale, 4);
  }
  for (auto [d, x] : llvm::enumerate(row)) {
    char *place = at(sequence, position, isValue, head, d);
    if (isInt8) {
      *place = std::isnan(x) ? 0 : std::nearbyint(x * factor);
      continue;
    }
    llvm::APFloat number(x * factor);
    bool lost;
    number.convert(semantics(), llvm::APFloat::rmNearestTiesToEven, &lost);
    uint64_t bits = number.bitcastToAPInt().getZExtValue();
    memcpy(place, &bits, c.sizes.elementBytes());
  }
}

inline std::vector<float> CacheBuffer::get(int64_t sequence, int64_t position,
                                           bool isValue, int64_t head) const {
  std::vector<float> row;
  float scale = 1;
  if (c.sizes.codes != Codes::None)
    memcpy(&scale, scaleAt(sequence, position, isValue, head), 4);
  for (int64_t d = 0; d < c.sizes.headDim; ++d) {
    const char *place = at(sequence, position, isValue, head, d);
    uint64_t bits = 0;
    memcpy(&bits, place, c.sizes.elementBytes());
    float number =
        c.sizes.codes == Codes::Int8
            ? static_cast<signed char>(*place)
            : static_cast<float>(
                  llvm::APFloat(semantics(),
                                llvm::APInt(8 * c.sizes.elementBytes(), bits))
                      .convertToDouble());
    row.push_back(number * scale);
  }
  return row;
}

} // namespace mlir::qlm::cpu::test

#endif // QLM_TEST_LOWER_CPU_PAGEDCASE_H

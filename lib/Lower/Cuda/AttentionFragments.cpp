//===- AttentionFragments.cpp - Keys and values as matrix operands --------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "AttentionFragments.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cuda;
using kernel::Ptr;
using kernel::Val;

Fragments::Fragments(kernel::KernelBuilder &b, const AttentionShape &shape)
    : b(b), shape(shape), ptx(b) {
  lane = ptx.thread() & 31;
  g = lane >> 2;
  q = lane & 3;
  for (int64_t i = 0; i < laneKeyChunks(); ++i) {
    Val chunk = q + 4 * i;
    if (4 * i + 3 >= keyChunks()) // the last lanes read a chunk twice
      chunk = b.min(chunk, constantLike(chunk, keyChunks() - 1));
    keyOffsets.push_back(shape.chunkOffset(g, chunk));
  }
  for (int64_t odd = 0; odd < 2; ++odd)
    for (int64_t j = 0; j < laneValueChunks(); ++j) {
      Val chunk = g + 8 * j, token = q * 2 + odd;
      if (8 * j + 7 >= valueChunks())
        chunk = b.min(chunk, constantLike(chunk, valueChunks() - 1));
      valueOffsets.push_back(valueBytes() == 16
                                 ? shape.chunkOffset(token, chunk)
                                 : token * shape.rowStride() + chunk * 8);
    }
}

/// The words of a loaded vector.
static void append(SmallVectorImpl<Val> &words, Val vector) {
  for (int64_t i = 0; i < vector.lanes(); ++i)
    words.push_back(vector.lane(i));
}

SmallVector<Val> Fragments::loadQuery(Ptr query, Val valid) {
  SmallVector<Val> words;
  HalfType half = shape.half();
  Type wanted = half == HalfType::BF16 ? b.bf16() : b.f16();
  int64_t bytes = shape.query.getIntOrFloatBitWidth() / 8;
  for (int64_t i = 0; i < laneKeyChunks(); ++i) {
    Val chunk = q + 4 * i, exists = valid;
    if (4 * i + 3 >= keyChunks()) {
      exists = exists & (chunk < keyChunks());
      chunk = b.min(chunk, constantLike(chunk, keyChunks() - 1));
    }
    Ptr place = query.at(chunk * (keyElements() * bytes));
    SmallVector<Val> pairs;
    for (int64_t e = 0; e < keyElements(); e += 8) {
      Ptr at = place.at(e * bytes);
      if (shape.query == wanted) {
        append(pairs, at.load(b.vec(4, b.i32()), 16));
        continue;
      }
      SmallVector<Val> numbers;
      if (bytes == 4) {
        append(numbers, at.load(b.vec(4, b.f32()), 16));
        append(numbers, at.at(16).load(b.vec(4, b.f32()), 16));
      } else {
        SmallVector<Val> loaded;
        append(loaded, at.load(b.vec(4, b.i32()), 16));
        for (Val pair : loaded) {
          auto [low, high] = ptx.unpack(
              pair, shape.query.isBF16() ? HalfType::BF16 : HalfType::F16);
          numbers.append({low, high});
        }
      }
      for (int64_t n = 0; n < 8; n += 2)
        pairs.push_back(ptx.pack(numbers[n], numbers[n + 1], half));
    }
    for (Val pair : pairs)
      words.push_back(b.select(exists, pair, b.constant(b.i32(), int64_t(0))));
  }
  return words;
}

void Fragments::loadScales(SmallVectorImpl<Val> &scales, Ptr part, Val first) {
  Ptr place = part.at(shape.codeBytes()).at((first + q * 2) * 4);
  for (int64_t tile = 0; tile < 2; ++tile)
    append(scales, place.at(tile * 32).load(b.vec(2, b.f32()), 8));
}

void Fragments::loadKeys(Block &block, Ptr keys, Val first) {
  Ptr rows = keys.at(first * shape.rowStride());
  SmallVector<Ptr> places;
  for (Val offset : keyOffsets)
    places.push_back(rows.at(offset));
  for (int64_t tile = 0; tile < 2; ++tile)
    for (Ptr place : places)
      append(
          block.keys,
          place.at(tile * 8 * shape.rowStride()).load(b.vec(4, b.i32()), 16));
  if (shape.isQuantized())
    loadScales(block.keyScales, keys, first);
}

void Fragments::loadValues(Block &block, Ptr values, Val first) {
  Ptr rows = values.at(first * shape.rowStride());
  SmallVector<Ptr> places;
  for (Val offset : valueOffsets)
    places.push_back(rows.at(offset));
  for (int64_t tile = 0; tile < 2; ++tile)
    for (Ptr place : places)
      append(block.values,
             place.at(tile * 8 * shape.rowStride())
                 .load(b.vec(valueBytes() / 4, b.i32()), valueBytes()));
  if (shape.isQuantized())
    loadScales(block.valueScales, values, first);
}

/// Four 8-bit codes as two pairs of f16, in order.
std::pair<Val, Val> Fragments::decodePairs(Val word) {
  if (shape.kv == KvType::I8) {
    // 0x64bb is 1024 + bb: with the sign bit flipped, bb is the code + 128.
    constexpr int64_t kThousands = 0x64646464, kBias = 0x64806480;
    Val biased = word ^ 0x80808080ll;
    Val thousands = constantLike(word, kThousands);
    Val bias = constantLike(word, kBias);
    Val low = ptx.permute(biased, thousands, 0x4140);
    Val high = ptx.permute(biased, thousands, 0x4342);
    return {ptx.subtractHalves(low, bias), ptx.subtractHalves(high, bias)};
  }
  if (shape.chip >= 89) {
    auto pairs =
        ptx.assemble("{ .reg .b16 l, h; mov.b32 {l, h}, $2; "
                     "cvt.rn.f16x2.e4m3x2 $0, l; cvt.rn.f16x2.e4m3x2 $1, h; }",
                     "=r,=r,r", {b.i32(), b.i32()}, word);
    return {pairs[0], pairs[1]};
  }
  // The exponent's bias is 7 where that of f16 is 15: times 2^8, exactly.
  auto widen = [&](int64_t selector) {
    Val high = ptx.permute(word, constantLike(word, int64_t(0)), selector);
    Val bits = (high & 0x80008000ll) | ((high & 0x7F007F00ll) >> 1);
    return ptx.assemble("mul.rn.f16x2 $0, $1, $2;", "=r,r,r", b.i32(),
                        {bits, constantLike(word, int64_t(0x5C005C00))})[0];
  };
  return {widen(0x1404), widen(0x3424)};
}

SmallVector<Val> Fragments::multiplyKeys(const Block &block, ArrayRef<Val> low,
                                         ArrayRef<Val> high) {
  Val zero = b.constant(b.f32(), 0.0), none = b.constant(b.i32(), int64_t(0));
  SmallVector<Val> sums(8, zero);
  int64_t words = laneKeyChunks() * 4;
  for (int64_t tile = 0; tile < 2; ++tile) {
    MutableArrayRef<Val> part = MutableArrayRef<Val>(sums).slice(4 * tile, 4);
    SmallVector<Val> keys;
    for (Val word : ArrayRef<Val>(block.keys).slice(tile * words, words)) {
      if (!shape.isQuantized()) {
        keys.push_back(word);
        continue;
      }
      auto [first, second] = decodePairs(word);
      keys.append({first, second});
    }
    for (size_t i = 0; i < keys.size(); i += 2)
      ptx.multiply(part,
                   {low[i], high.empty() ? none : high[i], low[i + 1],
                    high.empty() ? none : high[i + 1]},
                   keys[i], keys[i + 1], shape.half());
    if (shape.isQuantized())
      for (int64_t i = 0; i < 4; ++i)
        part[i] = part[i] * block.keyScales[2 * tile + i % 2];
  }
  return sums;
}

void Fragments::multiplyValues(const Block &block, ArrayRef<Val> weights,
                               ArrayRef<Val> valid,
                               MutableArrayRef<Val> outputs, bool hasHigh) {
  Val none = b.constant(b.i32(), int64_t(0));
  SmallVector<Val> scaled(weights);
  if (shape.isQuantized())
    for (int64_t i = 0; i < 8; ++i) {
      int64_t token = 2 * (i / 4) + i % 2;
      Val product =
          scaled[i] * (block.valueScales[token] * shape.valueScaleFactor());
      scaled[i] = b.select(valid[token], product, b.constant(b.f32(), 0.0));
    }
  auto pair = [&](int64_t i) {
    return ptx.pack(scaled[i], scaled[i + 1], shape.half());
  };
  SmallVector<Val> a = {pair(0), hasHigh ? pair(2) : none, pair(4),
                        hasHigh ? pair(6) : none};
  int64_t words = valueBytes() / 4, chunks = laneValueChunks();
  auto word = [&](int64_t token, int64_t chunk, int64_t i) {
    Val loaded = block.values[(token * chunks + chunk) * words + i];
    return b.select(valid[token], loaded, none);
  };
  for (int64_t chunk = 0; chunk < chunks; ++chunk)
    for (int64_t i = 0; i < words; ++i) {
      // The features of a word, each as tokens (2q, 2q + 1), (2q + 8, + 9).
      SmallVector<Val> low, high;
      for (int64_t tile = 0; tile < 2; ++tile) {
        Val even = word(2 * tile, chunk, i), odd = word(2 * tile + 1, chunk, i);
        SmallVector<Val> &pairs = tile ? high : low;
        if (!shape.isQuantized()) {
          pairs = {ptx.permute(even, odd, 0x5410),
                   ptx.permute(even, odd, 0x7632)};
          continue;
        }
        for (int64_t selector : {0x5140, 0x7362}) {
          auto [first, second] = decodePairs(ptx.permute(even, odd, selector));
          pairs.append({first, second});
        }
      }
      for (auto [e, first] : llvm::enumerate(low)) {
        int64_t tile =
            chunk * valueElements() + i * static_cast<int64_t>(low.size()) + e;
        ptx.multiply(outputs.slice(4 * tile, 4), a, first, high[e],
                     shape.half());
      }
    }
}

Val Fragments::outputFeature(int64_t chunk, int64_t odd) {
  return (q * 2 + (8 * chunk + odd)) * valueElements();
}

Val Fragments::outputExists(int64_t chunk, int64_t odd) {
  return q * 2 + (8 * chunk + odd) < valueChunks();
}

void Fragments::storeOutputs(Ptr row, ArrayRef<Val> outputs, bool high,
                             Val factor, Type type) {
  int64_t elements = valueElements();
  int64_t bytes = type.getIntOrFloatBitWidth() / 8;
  HalfType half = type.isBF16() ? HalfType::BF16 : HalfType::F16;
  if (shape.isQuantized())
    factor = factor * (1.0 / shape.valueScaleFactor());
  for (int64_t chunk = 0; chunk < laneValueChunks(); ++chunk)
    for (int64_t odd = 0; odd < 2; ++odd) {
      Ptr place = row.at(outputFeature(chunk, odd) * bytes);
      auto output = [&](int64_t e) {
        return outputs[4 * (chunk * elements + e) + 2 * high + odd] * factor;
      };
      b.ifThen(outputExists(chunk, odd), [&] {
        // Sixteen bytes at once.
        for (int64_t e = 0; e < elements; e += 16 / bytes) {
          bool isWide = bytes == 4;
          Val vector = b.zero(b.vec(4, isWide ? b.f32() : b.i32()));
          for (int64_t i = 0; i < 4; ++i)
            vector = b.insert(vector,
                              isWide ? output(e + i)
                                     : ptx.pack(output(e + 2 * i),
                                                output(e + 2 * i + 1), half),
                              i);
          place.at(e * bytes).store(vector, 16);
        }
      });
    }
}

//===- PagedAttention.cpp - Emits qlm.paged_attention ---------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Buffers: query f32 [tokens, heads * headDim], cache, positions i32 [tokens],
//          tokenSequences i32 [tokens], blockTables i32 [sequences, maxPages],
//          result f32 [tokens, heads * headDim].
// Tiles:   a token and a KV head; the `group` = heads / kvHeads query heads of
//          the KV head share its keys and values.
//
// Flash attention (Dao et al., 2022; the online softmax of Milakov and
// Gimelshein, 2018). For each block of 16 keys, in ascending order:
//
//   scores   s[h, u] = scale * sum_d q[h, d] * k[d, u], u = 16 lanes;
//            -inf where u > position
//   softmax  m' = max(m, max_u s), c = exp(m - m'), p = exp(s - m'),
//            l = l * c + sum_u p
//   values   o[h, d] = o[h, d] * c + sum_u p[h, u] * v[u, d], d = lanes
//
// and at the end result = o / l. Sums over d and u run in a fixed order, so a
// token's result depends on its own keys alone. Heads are taken `kHeads` at a
// time, so that one load of keys or values meets as many accumulators as
// registers hold. m, l, p, c and o live in scratch: they are read and written
// once a block and stay in the first-level cache.
//
// Keys past the position are loaded but masked; values past it are never
// loaded, since a page may hold anything there and 0 * NaN is NaN.
//
//===----------------------------------------------------------------------===//

#include "Chunks.h"
#include "Emitters.h"
#include "Pages.h"

#include "llvm/Support/MathExtras.h"

#include <limits>

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cpu;
using namespace mlir::qlm::kernel;

/// Keys of one softmax update. On AVX2 a vector of 16 is two registers.
static constexpr int64_t kKeys = 16;

namespace {
/// Byte offsets in a thread's scratch.
struct Scratch {
  /// o [group, paddedDim], m [group], l [group], p [kHeads, 16].
  int64_t output, maxima, sums, weights, bytes;

  Scratch(int64_t group, int64_t paddedDim, int64_t headsAtOnce) {
    int64_t next = 0;
    auto take = [&](int64_t floats) {
      int64_t offset = next;
      next = llvm::alignTo(next + 4 * floats, 64);
      return offset;
    };
    output = take(group * paddedDim);
    maxima = take(group);
    sums = take(group);
    weights = take(headsAtOnce * kKeys);
    bytes = next;
  }
};

/// What a tile works on.
struct Tile {
  /// Queries and results of the group: `[group, headDim]`.
  Ptr queries, result;
  /// The sequence's row of the block tables.
  Ptr pages;
  /// The KV head, and the number of keys (i64).
  Val kvHead, keys;
};

/// 16 keys and values of one head.
struct KeyBlock {
  /// First of 16 columns of `[headDim, pageTokens]`.
  Ptr keys;
  /// First of 16 rows of `[pageTokens, headDim]`.
  Ptr values;
  /// How many of the 16 are there: 16 or more, except in the last block (i64).
  Val count;
};

class PagedAttentionEmitter {
public:
  PagedAttentionEmitter(PagedAttentionOp op, const KernelRequest &request)
      : frame(request.function, /*count=*/6), b(frame.builder()),
        pages(PageLayout::get(cast<RankedTensorType>(op.getCache().getType()),
                              op.getKvHeads(), op.getPageTokens())),
        group(op.getHeads() / op.getKvHeads()), lanes(request.target.lanes()),
        headsAtOnce(std::min<int64_t>(group, lanes / 2)),
        paddedDim(llvm::alignTo(pages.headDim, lanes)),
        scale(op.getScale().convertToDouble()),
        layout(group, paddedDim, headsAtOnce) {}

  void emit();
  int64_t scratchBytes() const { return layout.bytes; }

private:
  Tile locate(Val index);
  KeyBlock locateBlock(const Tile &tile, Val block);
  void forHeads(function_ref<void(Val first, int64_t count)> body);
  void emitInit();
  void emitBlock(const Tile &tile, const KeyBlock &block, Val firstHead,
                 int64_t count);
  SmallVector<Val> emitScores(const Tile &tile, const KeyBlock &block,
                              Val firstHead, int64_t count);
  SmallVector<Val> emitSoftmax(const KeyBlock &block, Val firstHead,
                               ArrayRef<Val> scores);
  void emitValues(const KeyBlock &block, Val firstHead,
                  ArrayRef<Val> corrections);
  void emitResult(const Tile &tile);

  Ptr scratch(int64_t offset) { return frame.scratch().at(offset); }
  Ptr output(Val head) {
    return scratch(layout.output).at(head * (paddedDim * 4));
  }

  KernelFrame frame;
  KernelBuilder &b;
  PageLayout pages;
  int64_t group, lanes, headsAtOnce, paddedDim;
  double scale;
  Scratch layout;
};
} // namespace

void PagedAttentionEmitter::emit() {
  b.forRange(frame.lo(), frame.hi(), 1, [&](Val index) {
    Tile tile = locate(index);
    emitInit();
    Val blocks = (tile.keys + (kKeys - 1)) / kKeys;
    b.forRange(b.index(0), blocks, 1, [&](Val number) {
      KeyBlock block = locateBlock(tile, number);
      forHeads([&](Val first, int64_t count) {
        emitBlock(tile, block, first, count);
      });
    });
    emitResult(tile);
  });
}

Tile PagedAttentionEmitter::locate(Val index) {
  Val token = index / pages.kvHeads;
  auto load = [&](int64_t buffer) {
    Ptr place = frame.buffer(buffer).element(b.i32(), token);
    return b.extendSigned(place.load(b.i32()), b.i64());
  };
  Tile tile;
  tile.kvHead = index % pages.kvHeads;
  // Tiles are numbered by token, then KV head: the order of the features.
  Val features = index * (group * pages.headDim);
  tile.queries = frame.buffer(0).readOnly().element(b.f32(), features);
  tile.result = frame.buffer(5).element(b.f32(), features);
  tile.keys = load(2) + 1;
  tile.pages =
      frame.buffer(4).element(b.i32(), load(3) * frame.maxPagesPerSequence());
  return tile;
}

KeyBlock PagedAttentionEmitter::locateBlock(const Tile &tile, Val block) {
  int64_t blocksPerPage = pages.pageTokens / kKeys;
  Val number = b.extendSigned(
      tile.pages.element(b.i32(), block / blocksPerPage).load(b.i32()),
      b.i64());
  Ptr page = frame.buffer(1).readOnly().at(number * pages.pageBytes());
  Val first = (block % blocksPerPage) * kKeys;
  return {pages.keys(page, tile.kvHead).element(pages.element, first),
          pages.values(page, tile.kvHead)
              .element(pages.element, first * pages.headDim),
          tile.keys - block * kKeys};
}

/// Visits the group's heads, headsAtOnce at a time, then the rest.
void PagedAttentionEmitter::forHeads(function_ref<void(Val, int64_t)> body) {
  int64_t rest = group % headsAtOnce;
  int64_t looped = group - rest;
  b.forRange(b.index(0), b.index(looped), headsAtOnce,
             [&](Val first) { body(first, headsAtOnce); });
  if (rest)
    body(b.index(looped), rest);
}

void PagedAttentionEmitter::emitInit() {
  double low = -std::numeric_limits<double>::infinity();
  b.forRange(b.index(0), b.index(group), 1, [&](Val head) {
    scratch(layout.maxima)
        .element(b.f32(), head)
        .store(b.constant(b.f32(), low));
    scratch(layout.sums).element(b.f32(), head).store(b.zero(b.f32()));
    b.forRange(b.index(0), b.index(paddedDim), lanes, [&](Val first) {
      output(head).element(b.f32(), first).store(b.zero(b.vec(lanes, b.f32())));
    });
  });
}

void PagedAttentionEmitter::emitBlock(const Tile &tile, const KeyBlock &block,
                                      Val firstHead, int64_t count) {
  SmallVector<Val> scores = emitScores(tile, block, firstHead, count);
  SmallVector<Val> corrections = emitSoftmax(block, firstHead, scores);
  emitValues(block, firstHead, corrections);
}

/// Scores of \p count heads, unmasked: for each feature, one load of 16 keys
/// and a multiply-add for each head. A few heads take turns over `ways`
/// accumulators, which hides the latency of the additions.
SmallVector<Val> PagedAttentionEmitter::emitScores(const Tile &tile,
                                                   const KeyBlock &block,
                                                   Val firstHead,
                                                   int64_t count) {
  int64_t ways = 1;
  while (2 * ways * count <= lanes / 2 && pages.headDim % (2 * ways) == 0)
    ways *= 2;
  VectorType type = b.vec(kKeys, b.f32());
  SmallVector<Val> sums = b.forRange(
      b.index(0), b.index(pages.headDim), ways,
      SmallVector<Val>(count * ways, b.zero(type)),
      [&](Val feature, ArrayRef<Val> before) {
        SmallVector<Val> after;
        for (int64_t way = 0; way < ways; ++way) {
          Val d = feature + way;
          Val keys =
              b.toF32(block.keys.element(pages.element, d * pages.pageTokens)
                          .load(b.vec(kKeys, pages.element)));
          for (int64_t i = 0; i < count; ++i) {
            Val index = (firstHead + i) * pages.headDim + d;
            Val query = tile.queries.element(b.f32(), index).load(b.f32());
            after.push_back(b.fma(b.broadcast(query, kKeys), keys,
                                  before[way * count + i]));
          }
        }
        return after;
      });
  for (int64_t half = ways / 2; half >= 1; half /= 2)
    for (int64_t i = 0; i < half * count; ++i)
      sums[i] = sums[i] + sums[i + half * count];
  sums.resize(count);
  return sums;
}

/// Updates m and l, stores the weights p, and returns the corrections c.
SmallVector<Val> PagedAttentionEmitter::emitSoftmax(const KeyBlock &block,
                                                    Val firstHead,
                                                    ArrayRef<Val> scores) {
  Val there = b.firstLanes(kKeys, block.count);
  Val hidden = b.constant(b.vec(kKeys, b.f32()),
                          -std::numeric_limits<double>::infinity());
  SmallVector<Val> corrections;
  for (auto [i, score] : llvm::enumerate(scores)) {
    Val head = firstHead + static_cast<int64_t>(i);
    Ptr maximum = scratch(layout.maxima).element(b.f32(), head);
    Ptr sum = scratch(layout.sums).element(b.f32(), head);
    Val masked = b.select(there, score * scale, hidden);
    Val before = maximum.load(b.f32());
    Val after = b.max(before, b.reduceMax(masked));
    Val correction = b.exp(before - after);
    Val weights = b.exp(masked - b.broadcast(after, kKeys));
    maximum.store(after);
    sum.store(b.fma(sum.load(b.f32()), correction, b.reduceSum(weights)));
    scratch(layout.weights + static_cast<int64_t>(i) * kKeys * 4)
        .store(weights, /*alignment=*/64);
    corrections.push_back(correction);
  }
  return corrections;
}

/// Adds the block's weighted values to o, a vector of features at a time.
void PagedAttentionEmitter::emitValues(const KeyBlock &block, Val firstHead,
                                       ArrayRef<Val> corrections) {
  Val keys = b.min(block.count, b.index(kKeys));
  forChunks(b, pages.headDim, lanes, [&](const Chunk &chunk) {
    SmallVector<Ptr> places;
    SmallVector<Val> outputs;
    for (auto [i, correction] : llvm::enumerate(corrections)) {
      Val head = firstHead + static_cast<int64_t>(i);
      places.push_back(output(head).element(b.f32(), chunk.first));
      Val before = places.back().load(b.vec(lanes, b.f32()));
      outputs.push_back(before * b.broadcast(correction, lanes));
    }
    outputs = b.forRange(
        b.index(0), keys, 1, outputs, [&](Val key, ArrayRef<Val> before) {
          Ptr row = block.values.element(pages.element, key * pages.headDim);
          Val values = chunk.load(b, row, pages.element);
          SmallVector<Val> after;
          for (auto [i, sum] : llvm::enumerate(before)) {
            Ptr weights =
                scratch(layout.weights + static_cast<int64_t>(i) * kKeys * 4);
            Val weight = weights.element(b.f32(), key).load(b.f32());
            after.push_back(b.fma(b.broadcast(weight, lanes), values, sum));
          }
          return after;
        });
    // Lanes past headDim hold whatever follows the values; they stay in the
    // padding of o.
    for (auto [place, sum] : llvm::zip_equal(places, outputs))
      place.store(sum);
  });
}

void PagedAttentionEmitter::emitResult(const Tile &tile) {
  b.forRange(b.index(0), b.index(group), 1, [&](Val head) {
    Val sum = scratch(layout.sums).element(b.f32(), head).load(b.f32());
    Val inverse = b.broadcast(1.0 / sum, lanes);
    Ptr result = tile.result.element(b.f32(), head * pages.headDim);
    forChunks(b, pages.headDim, lanes, [&](const Chunk &chunk) {
      chunk.store(b, result, chunk.load(b, output(head), b.f32()) * inverse);
    });
  });
}

FailureOr<KernelInfo>
mlir::qlm::cpu::emitPagedAttention(PagedAttentionOp op,
                                   const KernelRequest &request) {
  if (op.getPageTokens() % kKeys)
    return op.emitOpError("needs page_tokens to be a multiple of ")
           << kKeys << ", got " << op.getPageTokens();
  PagedAttentionEmitter emitter(op, request);
  emitter.emit();
  KernelInfo info;
  info.tiles = request.tilesPerRow(op.getKvHeads());
  info.scratchBytes = emitter.scratchBytes();
  return info;
}

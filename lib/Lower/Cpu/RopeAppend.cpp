//===- RopeAppend.cpp - Emits qlm.rope_append -----------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Buffers: qkv f32 [tokens, (heads + 2 * kvHeads) * headDim],
//          table f32 [context, headDim / 2, 2], cache (written in place),
//          positions i32 [tokens], tokenSequences i32 [tokens],
//          blockTables i32 [sequences, maxPages],
//          query f32 [tokens, heads * headDim].
// Tiles:   one a token: tokens write different slots of the pages.
//
// A page holds, for each KV head, the keys as [headDim, pageTokens] and the
// values as [pageTokens, headDim]: attention then reads both with whole
// vectors, over keys and over features.
//
// With codes, a head is first written to the scratch as f32, `[headDim]`, where
// its largest magnitude is found, and then quantized.
//
//===----------------------------------------------------------------------===//

#include "Chunks.h"
#include "Emitters.h"
#include "Pages.h"
#include "qlm/Package/Format.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cpu;
using namespace mlir::qlm::kernel;
namespace format = ::qlm::format;

namespace {
/// The cosines and sines of a chunk of `i < headDim / 2`.
struct Rotation {
  Val cosines, sines;

  /// The pairs of the chunk in the table's row `[headDim / 2, 2]`. Loads are
  /// masked in a rest: a chunk of pairs is twice as long as the tail that may
  /// be read past a buffer.
  static Rotation load(KernelBuilder &b, Ptr row, const Chunk &chunk) {
    VectorType type = b.vec(chunk.lanes, b.f32());
    Ptr pairs = row.element(b.f32(), chunk.first * 2);
    auto loadHalf = [&](int64_t first) {
      int64_t count =
          std::clamp<int64_t>(2 * chunk.count - first, 0, chunk.lanes);
      Ptr place = pairs.at(first * 4);
      if (count == chunk.lanes)
        return place.load(type);
      return count ? place.loadMasked(type, b.firstLanes(chunk.lanes, count))
                   : b.zero(type);
    };
    Val low = loadHalf(0), high = loadHalf(chunk.lanes);
    SmallVector<int64_t> even, odd;
    for (int64_t i = 0; i < chunk.lanes; ++i) {
      even.push_back(2 * i);
      odd.push_back(2 * i + 1);
    }
    return {b.shuffle(low, high, even), b.shuffle(low, high, odd)};
  }

  /// Rotates the chunk of one head at \p head, whose halves are \p half
  /// elements apart.
  std::pair<Val, Val> rotate(KernelBuilder &b, Ptr head, int64_t half,
                             const Chunk &chunk) const {
    Val x = chunk.load(b, head, b.f32());
    Val y = chunk.load(b, head.at(half * 4), b.f32());
    return {x * cosines - y * sines, y * cosines + x * sines};
  }
};

/// Where one token's data comes from and goes to.
struct Token {
  /// The token's queries, keys and values in qkv.
  Ptr queries, keys, values;
  /// Its row of the table, its row of the result.
  Ptr angles, result;
  /// Its page and the slot in it (i64).
  Ptr page;
  Val slot;
};

class RopeAppendEmitter {
public:
  RopeAppendEmitter(RopeAppendOp op, const KernelRequest &request)
      : frame(request.function, /*count=*/7), b(frame.builder()),
        pages(PageLayout::get(op)), heads(op.getHeads()),
        lanes(request.target.lanes()) {}

  void emit() {
    b.forRange(frame.lo(), frame.hi(), 1, [&](Val index) {
      Token token = locate(index);
      emitRotations(token);
      if (pages.codes)
        emitQuantized(token);
      else
        emitValues(token);
    });
  }

  /// Of the rotated keys of a token, and what a last vector reads past them.
  int64_t scratchBytes() const {
    return pages.codes ? rowBytes() * pages.kvHeads + format::kAlignment : 0;
  }

private:
  int64_t half() const { return pages.headDim / 2; }
  int64_t rowBytes() const { return pages.headDim * 4; }

  Token locate(Val index) {
    auto load = [&](int64_t buffer) {
      Ptr place = frame.buffer(buffer).element(b.i32(), index);
      return b.extendSigned(place.load(b.i32()), b.i64());
    };
    int64_t dim = pages.headDim, kvHeads = pages.kvHeads;
    Val position = load(3), sequence = load(4);
    Token token;
    token.queries = frame.buffer(0).readOnly().element(
        b.f32(), index * ((heads + 2 * kvHeads) * dim));
    token.keys = token.queries.at(heads * dim * 4);
    token.values = token.keys.at(kvHeads * dim * 4);
    token.angles = frame.buffer(1).readOnly().element(b.f32(), position * dim);
    token.result = frame.buffer(6).element(b.f32(), index * (heads * dim));
    Val row = sequence * frame.maxPagesPerSequence();
    Val entry = row + position / pages.pageTokens;
    Val number = b.extendSigned(
        frame.buffer(5).element(b.i32(), entry).load(b.i32()), b.i64());
    token.page = frame.buffer(2).at(number * pages.pageBytes());
    token.slot = position % pages.pageTokens;
    return token;
  }

  void emitRotations(const Token &token) {
    forChunks(b, half(), lanes, [&](const Chunk &chunk) {
      Rotation rotation = Rotation::load(b, token.angles, chunk);
      b.forRange(b.index(0), b.index(heads), 1, [&](Val head) {
        Val offset = head * (pages.headDim * 4);
        auto [low, high] =
            rotation.rotate(b, token.queries.at(offset), half(), chunk);
        Ptr result = token.result.at(offset);
        chunk.store(b, result, low);
        chunk.store(b, result.at(half() * 4), high);
      });
      b.forRange(b.index(0), b.index(pages.kvHeads), 1, [&](Val head) {
        auto [low, high] = rotation.rotate(
            b, token.keys.at(head * (pages.headDim * 4)), half(), chunk);
        if (pages.codes) {
          Ptr row = frame.scratch().at(head * rowBytes());
          chunk.store(b, row, low);
          chunk.store(b, row.at(half() * 4), high);
          return;
        }
        storeKeys(token, head, chunk, 0, b.fromF32(low, pages.element));
        storeKeys(token, head, chunk, half(), b.fromF32(high, pages.element));
      });
    });
  }

  /// Writes features `offset + chunk.first + lane` of one key to the token's
  /// column of the page, one element at a time.
  void storeKeys(const Token &token, Val head, const Chunk &chunk,
                 int64_t offset, Val rounded) {
    Ptr keys = pages.keys(token.page, head);
    for (int64_t lane = 0; lane < chunk.count; ++lane) {
      Val feature = chunk.first + (offset + lane);
      keys.element(pages.element, feature * pages.pageTokens + token.slot)
          .store(rounded.lane(lane));
    }
  }

  void emitValues(const Token &token) {
    b.forRange(b.index(0), b.index(pages.kvHeads), 1, [&](Val head) {
      Ptr input = token.values.at(head * (pages.headDim * 4));
      Ptr values = pages.values(token.page, head)
                       .element(pages.element, token.slot * pages.headDim);
      forChunks(b, pages.headDim, lanes, [&](const Chunk &chunk) {
        Val value = chunk.load(b, input, b.f32());
        chunk.store(b, values, b.fromF32(value, pages.element));
      });
    });
  }

  /// The keys of the scratch and the values, as codes and scales.
  void emitQuantized(const Token &token) {
    b.forRange(b.index(0), b.index(pages.kvHeads), 1, [&](Val head) {
      quantize(frame.scratch().at(head * rowBytes()),
               pages.scales(pages.keys(token.page, head)), token,
               [&](const Chunk &chunk, Val codes) {
                 storeKeys(token, head, chunk, 0, codes);
               });
      Ptr values = pages.values(token.page, head);
      quantize(token.values.at(head * rowBytes()), pages.scales(values), token,
               [&](const Chunk &chunk, Val codes) {
                 chunk.store(b, values.at(token.slot * pages.headDim), codes);
               });
    });
  }

  /// Codes and the scale of the f32 row at \p row.
  void quantize(Ptr row, Ptr scales, const Token &token,
                function_ref<void(const Chunk &, Val)> store) {
    // As integers, magnitudes have the order of numbers, and NaN is largest.
    constexpr int64_t kMagnitude = 0x7FFFFFFF;
    VectorType integers = b.vec(lanes, b.i32());
    auto larger = [&](Val x, Val y) { return b.max(x, y); };
    Val largest = foldChunks(
        b, pages.headDim, b.zero(integers),
        [&](Val before, const Chunk &chunk) {
          Val x = chunk.fill(b, chunk.load(b, row, b.f32()), 0.0);
          return b.max(before, b.bitcast(x, integers) & kMagnitude);
        },
        larger);
    Val magnitude = b.bitcast(b.reduceMax(largest), b.f32());
    double bound = getCacheBound(pages.codes);
    scales.element(b.f32(), token.slot).store(magnitude / bound);
    Val inverse =
        b.select(magnitude == 0.0, b.zero(b.f32()), bound / magnitude);
    Val factor = b.broadcast(inverse, lanes);
    forChunks(b, pages.headDim, lanes, [&](const Chunk &chunk) {
      Val scaled = chunk.load(b, row, b.f32()) * factor;
      store(chunk, encodeNumbers(b, scaled, pages.codes));
    });
  }

  KernelFrame frame;
  KernelBuilder &b;
  PageLayout pages;
  int64_t heads, lanes;
};
} // namespace

FailureOr<KernelInfo>
mlir::qlm::cpu::emitRopeAppend(RopeAppendOp op, const KernelRequest &request) {
  RopeAppendEmitter emitter(op, request);
  emitter.emit();
  KernelInfo info;
  info.scratchBytes = emitter.scratchBytes();
  info.tiles = request.tilesPerRow(1);
  int64_t rotated = static_cast<int64_t>(op.getHeads() + op.getKvHeads());
  info.flopsPerRow = 3 * rotated * op.getHeadDim();
  return info;
}

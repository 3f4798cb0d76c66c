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
// Tiles:   a KV head and a token, in this order, so that a thread's tiles meet
//          few KV heads, whose keys and values stay in its cache.
//
// Flash attention (Dao et al., 2022; the online softmax of Milakov and
// Gimelshein, 2018) over blocks of 64 keys, in ascending order. What a query
// does with a block is in PagedAttentionBlock.h.
//
// A query is a token and one of the `group` = heads / kvHeads heads of the KV
// head. Inside a thread's tiles, rows of one sequence at consecutive positions
// make a run, whose queries share each block while it is in the first-level
// cache. A run of one token (decoding) takes its heads at once; a longer one
// takes eight (AVX2: six) queries at once, whatever their tokens and heads. Its
// sums are the same either way, so a result depends on its own keys alone.
//
// The time of causal attention grows with the position. Threads get equal
// numbers of consecutive tiles, so chunks of tokens are ordered 0, last, 1,
// last - 1, ...: consecutive chunks then have equal work.
//
// Caches of bf16 and of codes meet queries in matrix registers where there are
// some (PagedAttentionTiles.h), 16 queries at once in every run.
//
// Keys past the position are loaded but masked; values past it are never used,
// since a page may hold anything there and 0 * NaN is NaN.
//
// With a window, blocks before that of the run's first query are skipped, and
// keys before a query's window are what keys past its position are.
//
// Timed by benchmarks/kernels/Attention.cpp.
//
//===----------------------------------------------------------------------===//

#include "Chunks.h"
#include "Emitters.h"
#include "PagedAttentionTiles.h"

#include <limits>

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cpu;
using namespace mlir::qlm::kernel;

namespace {
/// Consecutive tokens of one sequence, and the KV head. All are i64.
struct Run {
  Val kvHead, token, tokens;
  /// Of the first token; and the keys that the last token sees.
  Val position, keys;
  /// The sequence's row of the block tables.
  Ptr pages;
};

class PagedAttentionEmitter {
public:
  PagedAttentionEmitter(PagedAttentionOp op, const KernelRequest &request)
      : frame(request.function, /*count=*/6), b(frame.builder()),
        shape(getShape(op, request)), layout(shape),
        block(frame, shape, layout, request), rowsKind(request.rows),
        scale(op.getScale().convertToDouble()) {}

  void emit();
  int64_t scratchBytes() const { return layout.bytes; }

private:
  static AttentionShape getShape(PagedAttentionOp op,
                                 const KernelRequest &request) {
    PageLayout pages = PageLayout::get(op);
    return {pages, static_cast<int64_t>(op.getHeads() / op.getKvHeads()),
            request.target.lanes(),
            AttentionTiles::isFor(pages, request.target),
            static_cast<int64_t>(op.getWindow().value_or(0))};
  }

  Val emitRunAt(Val index);
  Run findRun(Val index);
  Val getToken(Val place, Val tokens);
  Val countTokens(const Run &run, Val most);
  void emitRun(const Run &run, bool isSingle);
  void emitTileRun(const Run &run);
  void forBlocks(const Run &run, function_ref<void()> whole,
                 function_ref<void(Val base)> partial);
  void emitStart(const Run &run);
  void emitSlices(const Run &run, Val number);
  void emitNextBlock(const Run &run, Val number);
  void forRows(const Run &run, bool isSingle,
               function_ref<void(Val first, int64_t count)> body);
  void emitResult(const Run &run);

  Val load(int64_t buffer, Val token) {
    Ptr place = frame.buffer(buffer).element(b.i32(), token);
    return b.extendSigned(place.load(b.i32()), b.i64());
  }
  /// The group's queries (or results) of a token: `[group, headDim]`.
  Ptr features(int64_t buffer, const Run &run, Val token) {
    int64_t dim = shape.pages.headDim;
    Val first =
        (token * shape.pages.kvHeads + run.kvHead) * (shape.group * dim);
    return frame.buffer(buffer).element(b.f32(), first);
  }

  KernelFrame frame;
  KernelBuilder &b;
  AttentionShape shape;
  AttentionScratch layout;
  AttentionTiles block;
  SizeKind rowsKind;
  double scale;
};
} // namespace

void PagedAttentionEmitter::emit() {
  using Values = function_ref<SmallVector<Val>()>;
  // Runs take several tiles; `next` is the first that isn't done.
  b.forRange(frame.lo(), frame.hi(), 1, frame.lo(),
             [&](Val index, ArrayRef<Val> next) {
               auto begin = [&] {
                 return SmallVector<Val>{index + emitRunAt(index)};
               };
               auto pass = [&] { return SmallVector<Val>{next[0]}; };
               return b.ifElse(index == next[0], Values(begin), Values(pass));
             });
}

/// Computes the run that starts at a tile; gives its number of tiles.
Val PagedAttentionEmitter::emitRunAt(Val index) {
  Run run = findRun(index);
  if (shape.tiles) {
    emitTileRun(run);
    return run.tokens;
  }
  b.ifElse(
      run.tokens == 1, [&] { emitRun(run, /*isSingle=*/true); },
      [&] { emitRun(run, /*isSingle=*/false); });
  return run.tokens;
}

/// The token at a place of the order of chunks; tokens of a last incomplete
/// chunk stay last.
Val PagedAttentionEmitter::getToken(Val place, Val tokens) {
  int64_t size = shape.tokensAtOnce();
  Val chunks = tokens / size, chunk = place / size;
  Val folded = b.select((chunk & 1) == 0, chunk / 2, chunks - 1 - chunk / 2);
  return b.select(chunk < chunks, folded * size + place % size, place);
}

Run PagedAttentionEmitter::findRun(Val index) {
  Val tokens = frame.size(rowsKind), place = index % tokens;
  Run run;
  run.kvHead = index / tokens;
  run.token = getToken(place, tokens);
  run.position = load(2, run.token);
  // A run ends with its chunk, with the tokens, with the thread's tiles.
  int64_t size = shape.tokensAtOnce();
  Val most = b.min(b.index(size) - place % size,
                   b.min(tokens - place, frame.hi() - index));
  run.tokens = countTokens(run, most);
  run.keys = run.position + run.tokens;
  run.pages = frame.buffer(4).element(b.i32(), load(3, run.token) *
                                                   frame.maxPagesPerSequence());
  return run;
}

/// How many of \p most tokens are one run.
Val PagedAttentionEmitter::countTokens(const Run &run, Val most) {
  Val sequence = load(3, run.token);
  return b.forRange(
      b.index(1), most, 1, b.index(1), [&](Val i, ArrayRef<Val> before) {
        Val token = run.token + i;
        Val follows = (before[0] == i) & (load(3, token) == sequence) &
                      (load(2, token) == run.position + i);
        return SmallVector<Val>{b.select(follows, i + 1, before[0])};
      })[0];
}

/// Visits blocks that all queries see as a whole, and others.
void PagedAttentionEmitter::forBlocks(const Run &run,
                                      function_ref<void()> whole,
                                      function_ref<void(Val base)> partial) {
  Val end = (run.position + 1) / kBlockKeys;
  Val all = (run.keys + (kBlockKeys - 1)) / kBlockKeys;
  auto visitPartial = [&](Val number) { partial(number * kBlockKeys); };
  if (!shape.window) {
    emitSlices(run, b.index(0));
    b.forRange(b.index(0), end, 1, [&](Val number) {
      emitNextBlock(run, number);
      whole();
    });
    b.forRange(end, all, 1, [&](Val number) {
      emitNextBlock(run, number);
      visitPartial(number);
    });
    return;
  }
  // The window of the first query, and that of the last one.
  Val none = b.index(0);
  Val first = b.max(run.position + 1 - shape.window, none) / kBlockKeys;
  Val begin =
      (b.max(run.keys - shape.window, none) + (kBlockKeys - 1)) / kBlockKeys;
  emitSlices(run, first);
  b.forRange(first, all, 1, [&](Val number) {
    emitNextBlock(run, number);
    b.ifElse((number >= begin) & (number < end), whole,
             [&] { visitPartial(number); });
  });
}

void PagedAttentionEmitter::emitRun(const Run &run, bool isSingle) {
  emitStart(run);
  forBlocks(
      run,
      [&] {
        forRows(run, isSingle, [&](Val first, int64_t count) {
          block.emitWhole(first, count, /*fetchNext=*/isSingle);
        });
      },
      [&](Val base) {
        forRows(run, isSingle, [&](Val first, int64_t count) {
          block.emitPartial(first, count, base, /*samePosition=*/isSingle);
        });
      });
  emitResult(run);
}

/// The same in matrix registers.
void PagedAttentionEmitter::emitTileRun(const Run &run) {
  Val rows = run.tokens * shape.group;
  block.emitPadding(rows);
  emitStart(run);
  forBlocks(
      run, [&] { block.emitBlock(rows, /*base=*/Val(), /*keys=*/Val()); },
      [&](Val base) { block.emitBlock(rows, base, run.keys - base); });
  emitResult(run);
}

/// Visits the run's queries some at a time. Those of a long run are rounded up
/// to whole steps: the last are computed for nothing, from keys that exist.
void PagedAttentionEmitter::forRows(const Run &run, bool isSingle,
                                    function_ref<void(Val, int64_t)> body) {
  if (!isSingle) {
    b.forRange(b.index(0), run.tokens * shape.group, shape.rowsAtOnce(),
               [&](Val first) { body(first, shape.rowsAtOnce()); });
    return;
  }
  int64_t atOnce = shape.headsAtOnce(), rest = shape.group % atOnce;
  int64_t looped = shape.group - rest;
  b.forRange(b.index(0), b.index(looped), atOnce,
             [&](Val first) { body(first, atOnce); });
  if (rest)
    body(b.index(looped), rest);
}

/// Copies the queries, scaled, and clears what they sum.
void PagedAttentionEmitter::emitStart(const Run &run) {
  constexpr double kLog2E = 1.44269504088896341;
  // PagedAttentionBlock.h says why.
  double low = shape.window
                   ? static_cast<double>(std::numeric_limits<float>::lowest())
                   : -std::numeric_limits<double>::infinity();
  int64_t dim = shape.pages.headDim;
  b.forRange(b.index(0), run.tokens, 1, [&](Val i) {
    Ptr queries = features(0, run, run.token + i).readOnly();
    b.forRange(b.index(0), b.index(shape.group), 1, [&](Val head) {
      Val row = i * shape.group + head;
      block.keys(row).store(run.position + i + 1);
      block.maximum(row).store(b.constant(b.f32(), low));
      block.sums(row).store(b.zero(b.vec(kSliceKeys, b.f32())));
      forChunks(b, dim, shape.lanes, [&](const Chunk &chunk) {
        Val query = chunk.load(b, queries.at(head * (dim * 4)), b.f32());
        Val scaled = query * (scale * kLog2E);
        if (shape.tiles)
          block.storeQuery(row, chunk.first, chunk.fill(b, scaled, 0.0));
        else
          block.query(row).element(b.f32(), chunk.first).store(scaled);
        block.output(row)
            .element(b.f32(), chunk.first)
            .store(constantLike(query, 0.0));
      });
    });
  });
  Val rows = run.tokens * shape.group;
  b.forRange(rows, b.min(rows + shape.rowsAtOnce(), b.index(shape.maxRows())),
             1, [&](Val row) { block.keys(row).store(run.keys); });
}

/// Finds the slices of 16 keys of a block; those past the last key stand for
/// the last slice.
void PagedAttentionEmitter::emitSlices(const Run &run, Val number) {
  const PageLayout &pages = shape.pages;
  int64_t slicesPerPage = pages.pageTokens / kSliceKeys;
  Val last = (run.keys - 1) / kSliceKeys;
  b.forRange(b.index(0), b.index(kBlockSlices), 1, [&](Val i) {
    Val slice = b.min(number * kBlockSlices + i, last);
    Val page = b.extendSigned(
        run.pages.element(b.i32(), slice / slicesPerPage).load(b.i32()),
        b.i64());
    Ptr start = frame.buffer(1).at(page * pages.pageBytes());
    Val first = (slice % slicesPerPage) * kSliceKeys;
    Ptr keys = pages.keys(start, run.kvHead);
    Ptr values = pages.values(start, run.kvHead);
    auto put = [&](Ptr place, Ptr address) {
      place.store(b.val(address.get()));
    };
    put(block.nextKeySlice(i), keys.element(pages.element, first));
    put(block.nextValueSlice(i),
        values.element(pages.element, first * pages.headDim));
    if (!pages.codes)
      return;
    put(block.nextKeyScales(i), pages.scales(keys).element(b.f32(), first));
    put(block.nextValueScales(i), pages.scales(values).element(b.f32(), first));
  });
}

/// Goes on to the next block, and finds the one after it.
void PagedAttentionEmitter::emitNextBlock(const Run &run, Val number) {
  VectorType type = b.vec(layout.addresses, b.i64());
  Ptr slices = block.keySlice(b.index(0));
  slices.store(block.nextKeySlice(b.index(0)).load(type));
  emitSlices(run, number + 1);
}

void PagedAttentionEmitter::emitResult(const Run &run) {
  int64_t dim = shape.pages.headDim;
  b.forRange(b.index(0), run.tokens, 1, [&](Val i) {
    Ptr results = features(5, run, run.token + i);
    b.forRange(b.index(0), b.index(shape.group), 1, [&](Val head) {
      Val row = i * shape.group + head;
      Val sum = b.reduceSum(
          block.sums(row).load(b.vec(kSliceKeys, b.f32()), /*alignment=*/64));
      Val inverse = b.broadcast(1.0 / sum, shape.lanes);
      forChunks(b, dim, shape.lanes, [&](const Chunk &chunk) {
        chunk.store(b, results.at(head * (dim * 4)),
                    chunk.load(b, block.output(row), b.f32()) * inverse);
      });
    });
  });
}

FailureOr<KernelInfo>
mlir::qlm::cpu::emitPagedAttention(PagedAttentionOp op,
                                   const KernelRequest &request) {
  if (op.getPageTokens() % kSliceKeys)
    return op.emitOpError("needs page_tokens to be a multiple of ")
           << kSliceKeys << ", got " << op.getPageTokens();
  PagedAttentionEmitter emitter(op, request);
  emitter.emit();
  KernelInfo info;
  info.tiles = request.tilesPerRow(op.getKvHeads());
  info.scratchBytes = emitter.scratchBytes();
  return info;
}

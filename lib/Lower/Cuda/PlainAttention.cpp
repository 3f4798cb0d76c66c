//===- PlainAttention.cpp - A paged_attention for every cache -------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Buffers: query [tokens, heads * headDim], cache, positions, token sequences,
//          block tables i32, result [tokens, heads * headDim].
// A block does one head of one token. Its warps take positions w, w + warps,
// ... of those in the window; lane l has features l, l + 32, ... of query and
// result. Softmax is online: each warp keeps the largest score m, the sum s of
// e^(score - m) and the values weighted so; at the end the warps' (m, s,
// values) are joined in the order of the warps. The order of a sum depends on
// nothing but the position. Right for any cache, fast for none.
//
//===----------------------------------------------------------------------===//

#include "CachePages.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cuda;
using namespace mlir::qlm::kernel;

static constexpr int64_t kWarps = 4;
static constexpr double kLog2E = 1.44269504088896341;

namespace {
class PlainAttention {
public:
  PlainAttention(PagedAttentionOp op, const CudaRequest &request)
      : op(op), heads(op.getHeads()),
        headDim(getFeatures(op.getQuery()) / op.getHeads()),
        group(heads / static_cast<int64_t>(op.getKvHeads())),
        pages(CachePages::get(op, headDim)), query(getElement(op.getQuery())),
        result(getElement(op.getResult())),
        parts(llvm::divideCeil(headDim, kWarpThreads)),
        frame(request.createKernel(kWarps * kWarpThreads)), b(frame.builder()) {
  }

  void emit(SizeKind rows);

private:
  /// Largest score (base 2), sum of weights, weighted values of the lane.
  struct State {
    Val largest, sum;
    SmallVector<Val> values;

    SmallVector<Val> flat() const {
      SmallVector<Val> all = {largest, sum};
      all.append(values.begin(), values.end());
      return all;
    }
    static State of(ArrayRef<Val> all) {
      return {all[0], all[1], SmallVector<Val>(all.drop_front(2))};
    }
  };

  Val feature(int64_t i) { return frame.lane() + i * kWarpThreads; }
  /// Feature \p i of the lane, kept inside the head.
  Val inside(int64_t i) {
    if ((i + 1) * kWarpThreads <= headDim)
      return feature(i);
    return b.min(feature(i), b.constant(b.i32(), headDim - 1));
  }
  /// \p value, or 0 where the lane has no feature \p i.
  Val mask(int64_t i, Val value) {
    if ((i + 1) * kWarpThreads <= headDim)
      return value;
    return b.select(feature(i) < headDim, value, b.zero(b.f32()));
  }
  State attend(const State &state, ArrayRef<Val> q, Ptr keys, Ptr values,
               Val slot);
  State join(Ptr shared, const State &state);

  PagedAttentionOp op;
  int64_t heads, headDim, group;
  CachePages pages;
  Type query, result;
  /// Features of a lane.
  int64_t parts;
  GpuKernelFrame frame;
  KernelBuilder &b;
};
} // namespace

/// Takes one position in.
PlainAttention::State PlainAttention::attend(const State &state,
                                             ArrayRef<Val> q, Ptr keys,
                                             Ptr values, Val slot) {
  auto load = [&](Ptr head, int64_t kind, int64_t i) {
    return pages.load(frame,
                      head.at(frame.wide(pages.offset(kind, slot, inside(i)))));
  };
  Val dot = b.zero(b.f32());
  for (int64_t i = 0; i < parts; ++i)
    dot = b.fma(q[i], mask(i, load(keys, 0, i)), dot);
  Val score = frame.warpSum(dot);
  if (pages.hasCodes)
    score = score * pages.scale(frame, keys, slot).load(b.f32());
  Val largest = b.max(state.largest, score);
  Val keep = frame.exp2Fast(state.largest - largest);
  Val weight = frame.exp2Fast(score - largest);
  State next{largest, b.fma(state.sum, keep, weight), {}};
  Val scaled = weight;
  if (pages.hasCodes)
    scaled = weight * pages.scale(frame, values, slot).load(b.f32());
  for (int64_t i = 0; i < parts; ++i)
    next.values.push_back(
        b.fma(load(values, 1, i), scaled, state.values[i] * keep));
  return next;
}

/// Joins the warps' states, in every warp alike.
PlainAttention::State PlainAttention::join(Ptr shared, const State &state) {
  int64_t warpBytes = (2 + parts) * kWarpThreads * 4;
  auto slot = [&](Val warp, int64_t i) {
    return shared.at(warp * warpBytes)
        .element(b.f32(), frame.lane() + i * kWarpThreads);
  };
  for (auto [i, value] : llvm::enumerate(state.flat()))
    slot(frame.warp(), i).store(value);
  frame.barrier();
  auto loaded = [&](int64_t warp) {
    SmallVector<Val> all;
    for (int64_t i = 0; i < 2 + parts; ++i)
      all.push_back(slot(b.constant(b.i32(), warp), i).load(b.f32()));
    return State::of(all);
  };
  State total = loaded(0);
  for (int64_t warp = 1; warp < kWarps; ++warp) {
    State other = loaded(warp);
    Val largest = b.max(total.largest, other.largest);
    Val keep = frame.exp2Fast(total.largest - largest);
    Val take = frame.exp2Fast(other.largest - largest);
    total.largest = largest;
    total.sum = b.fma(other.sum, take, total.sum * keep);
    for (int64_t i = 0; i < parts; ++i)
      total.values[i] = b.fma(other.values[i], take, total.values[i] * keep);
  }
  return total;
}

void PlainAttention::emit(SizeKind rows) {
  Val token = frame.block() / heads, head = frame.block() % heads;
  Val count = frame.size(rows);
  frame.waitForPrevious();
  frame.launchDependents();
  b.ifThen(token < count, [&] {
    auto number = [&](int64_t buffer) {
      return frame.buffer(buffer).element(b.i32(), token).load(b.i32());
    };
    Val end = number(2) + 1, sequence = number(3);
    auto row = [&](int64_t buffer, Type element) {
      return RowSplit::row(frame, frame.buffer(buffer), element, token,
                           heads * headDim)
          .element(element, head * headDim);
    };
    Ptr input = row(0, query);
    double scale = op.getScale().convertToFloat() * kLog2E;
    SmallVector<Val> q;
    State start{b.constant(b.f32(), -1e30), b.zero(b.f32()), {}};
    for (int64_t i = 0; i < parts; ++i) {
      q.push_back(b.toF32(input.element(query, inside(i)).load(query)) * scale);
      start.values.push_back(b.zero(b.f32()));
    }
    Val kvHead = head / group, first = frame.warp();
    if (std::optional<uint64_t> window = op.getWindow())
      first = first + b.max(end - static_cast<int64_t>(*window),
                            b.constant(b.i32(), int64_t(0)));
    SmallVector<Val> carried =
        b.forRange(first, end, kWarps, start.flat(),
                   [&](Val position, ArrayRef<Val> before) {
                     Ptr page = pages.page(frame, frame.buffer(1),
                                           frame.buffer(4), sequence, position);
                     return attend(State::of(before), q,
                                   pages.head(frame, page, 0, kvHead),
                                   pages.head(frame, page, 1, kvHead),
                                   position % pages.pageTokens)
                         .flat();
                   });
    Ptr shared = frame.shared(kWarps * (2 + parts) * kWarpThreads * 4);
    State total = join(shared, State::of(carried));
    Ptr output = row(5, result);
    b.ifThen(frame.warp() == 0, [&] {
      for (int64_t i = 0; i < parts; ++i)
        b.ifThen(feature(i) < headDim, [&, i = i] {
          output.element(result, feature(i))
              .store(b.fromF32(total.values[i] / total.sum, result));
        });
    });
  });
}

FailureOr<CudaKernel>
mlir::qlm::cuda::emitPlainAttention(PagedAttentionOp op,
                                    const CudaRequest &request) {
  PlainAttention(op, request).emit(request.rows);
  CudaKernel kernel;
  kernel.grid = request.blocksPerRow(op.getHeads());
  kernel.blockThreads = kWarps * kWarpThreads;
  return kernel;
}

//===- RopeAppend.cpp - Emits qlm.rope_append -----------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Buffers: qkv [tokens, (heads + 2 * kvHeads) * headDim],
//          table f32 [context, headDim / 2, 2], cache, positions,
//          token sequences, block tables i32, query [tokens, heads * headDim].
// A warp does one head of a token: first come the heads of queries, then of
// keys, then of values; a token's heads take several blocks, so that a step of
// one token waits for one head's loads only. Lane l has features l, l + 32, ...
// of the first half of the head and their partners in the second.
//
//===----------------------------------------------------------------------===//

#include "CachePages.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cuda;
using namespace mlir::qlm::kernel;

static constexpr int64_t kThreads = 256;

/// The integers of as many bits as \p value, f32 or a vector of it, has.
static Type integersLike(KernelBuilder &b, Val value) {
  bool isVector = isa<VectorType>(value.type());
  return isVector ? Type(b.vec(value.lanes(), b.i32())) : b.i32();
}

/// E4M3 of a magnitude up to 448, from the bits of f32.
static Val toE4M3(KernelBuilder &b, Val magnitude) {
  constexpr int64_t kDropped = 20, kBias = 127 - 7;
  constexpr double kSmallestNormal = 0x1p-6, kUnitsOfSubnormal = 0x1p9;
  Val bits = b.bitcast(magnitude, integersLike(b, magnitude));
  Val odd = (bits >> kDropped) & 1;
  Val rounded =
      (bits + (odd + ((int64_t(1) << (kDropped - 1)) - 1))) >> kDropped;
  Val normal = rounded - (kBias << 3);
  Val subnormal =
      b.toInteger(b.roundEven(magnitude * kUnitsOfSubnormal), b.i32());
  return b.select(magnitude < kSmallestNormal, subnormal, normal);
}

Val mlir::qlm::cuda::emitCode(GpuKernelFrame &frame, Val value, Type element) {
  KernelBuilder &b = frame.builder();
  double bound = getCacheBound(element);
  Val low = constantLike(value, -bound), high = constantLike(value, bound);
  Val bounded = b.max(b.min(value, high), low);
  if (element.isInteger(8))
    return b.truncate(b.toInteger(b.roundEven(bounded), b.i32()), b.i8());
  Val sign = (b.bitcast(bounded, integersLike(b, bounded)) >> 24) & 0x80;
  return b.truncate(toE4M3(b, b.abs(bounded)) | sign, b.i8());
}

/// Blocks of a token, a warp for each head of queries, keys and values.
static int64_t blocksPerToken(RopeAppendOp op) {
  int64_t heads = static_cast<int64_t>(op.getHeads()) +
                  2 * static_cast<int64_t>(op.getKvHeads());
  return llvm::divideCeil(heads, kThreads / kWarpThreads);
}

namespace {
class RopeAppend {
public:
  RopeAppend(RopeAppendOp op, const CudaRequest &request)
      : op(op), heads(op.getHeads()), kvHeads(op.getKvHeads()),
        headDim(op.getHeadDim()), half(headDim / 2),
        pages(CachePages::get(op, headDim)), input(getElement(op.getQkv())),
        query(getElement(op.getQuery())), frame(request.createKernel(kThreads)),
        b(frame.builder()) {}

  void emit(SizeKind rows);

private:
  /// Values of a lane's features: pairs of the first and the second half.
  using Pairs = SmallVector<std::pair<Val, Val>>;
  int64_t pairsOfLane() const { return llvm::divideCeil(half, kWarpThreads); }
  /// Feature (below half) of the lane's pair \p i.
  Val feature(int64_t i) { return frame.lane() + i * kWarpThreads; }
  /// Calls \p body where the pair exists.
  void ifPair(int64_t i, function_ref<void()> body) {
    if ((i + 1) * kWarpThreads <= half)
      return body();
    b.ifThen(feature(i) < half, body);
  }
  Pairs load(Ptr head);
  Pairs rotate(const Pairs &x, Ptr angles);
  void storeQuery(Ptr head, const Pairs &x);
  void storeCache(Ptr page, int64_t kind, Val head, Val slot, const Pairs &x);

  RopeAppendOp op;
  int64_t heads, kvHeads, headDim, half;
  CachePages pages;
  Type input, query;
  GpuKernelFrame frame;
  KernelBuilder &b;
};
} // namespace

/// Pairs past the half repeat the last one, and are not stored.
RopeAppend::Pairs RopeAppend::load(Ptr head) {
  Pairs result;
  for (int64_t i = 0; i < pairsOfLane(); ++i) {
    Val k = b.min(feature(i), b.constant(b.i32(), half - 1));
    result.push_back({b.toF32(head.element(input, k).load(input)),
                      b.toF32(head.element(input, k + half).load(input))});
  }
  return result;
}

RopeAppend::Pairs RopeAppend::rotate(const Pairs &x, Ptr angles) {
  Pairs result;
  for (auto [i, pair] : llvm::enumerate(x)) {
    auto [low, high] = pair;
    Val k = b.min(feature(i), b.constant(b.i32(), half - 1));
    Val angle = angles.element(b.vec(2, b.f32()), k).load(b.vec(2, b.f32()), 8);
    Val cosine = angle.lane(0), sine = angle.lane(1);
    result.push_back({low * cosine - high * sine, high * cosine + low * sine});
  }
  return result;
}

void RopeAppend::storeQuery(Ptr head, const Pairs &x) {
  for (auto [i, pair] : llvm::enumerate(x))
    ifPair(i, [&, low = pair.first, high = pair.second, i = i] {
      head.element(query, feature(i)).store(b.fromF32(low, query));
      head.element(query, feature(i) + half).store(b.fromF32(high, query));
    });
}

void RopeAppend::storeCache(Ptr page, int64_t kind, Val head, Val slot,
                            const Pairs &x) {
  Ptr place = pages.head(frame, page, kind, head);
  auto at = [&](Val k) {
    return place.at(frame.wide(pages.offset(kind, slot, k)));
  };
  if (!pages.hasCodes) {
    for (auto [i, pair] : llvm::enumerate(x))
      ifPair(i, [&, low = pair.first, high = pair.second, i = i] {
        at(feature(i)).store(b.fromF32(low, pages.element));
        at(feature(i) + half).store(b.fromF32(high, pages.element));
      });
    return;
  }
  Val magnitude = b.zero(b.f32());
  for (auto [low, high] : x)
    magnitude = b.max(magnitude, b.max(b.abs(low), b.abs(high)));
  magnitude = frame.warpMax(magnitude);
  double bound = getCacheBound(pages.element);
  frame.ifLane(
      0, [&] { pages.scale(frame, place, slot).store(magnitude / bound); });
  Val factor = b.select(magnitude == 0.0, b.zero(b.f32()), bound / magnitude);
  for (auto [i, pair] : llvm::enumerate(x))
    ifPair(i, [&, low = pair.first, high = pair.second, i = i] {
      at(feature(i)).store(emitCode(frame, low * factor, pages.element));
      at(feature(i) + half)
          .store(emitCode(frame, high * factor, pages.element));
    });
}

void RopeAppend::emit(SizeKind rows) {
  int64_t parts = blocksPerToken(op);
  Val token = frame.block() / parts, part = frame.block() % parts;
  Val count = frame.size(rows);
  frame.waitForPrevious();
  frame.launchDependents();
  b.ifThen(token < count, [&] {
    auto number = [&](int64_t buffer) {
      return frame.buffer(buffer).element(b.i32(), token).load(b.i32());
    };
    Val position = number(3), sequence = number(4);
    Ptr qkv = RowSplit::row(frame, frame.buffer(0), input, token,
                            (heads + 2 * kvHeads) * headDim);
    Ptr angles =
        frame.buffer(1).readOnly().at(frame.wide(position) * (headDim * 4));
    Ptr result =
        RowSplit::row(frame, frame.buffer(6), query, token, heads * headDim);
    Ptr page =
        pages.page(frame, frame.buffer(2), frame.buffer(5), sequence, position);
    Val slot = position % pages.pageTokens;
    auto at = [&](Ptr base, Type element, Val head) {
      return base.at(head * (headDim * element.getIntOrFloatBitWidth() / 8));
    };
    Val head = part * frame.warps() + frame.warp();
    b.ifThen(head < heads + 2 * kvHeads, [&] {
      Pairs x = load(at(qkv, input, head));
      b.ifThen(head < heads,
               [&] { storeQuery(at(result, query, head), rotate(x, angles)); });
      b.ifThen((head >= heads) & (head < heads + kvHeads), [&] {
        storeCache(page, /*kind=*/0, head - heads, slot, rotate(x, angles));
      });
      b.ifThen(head >= heads + kvHeads, [&] {
        storeCache(page, /*kind=*/1, head - (heads + kvHeads), slot, x);
      });
    });
  });
}

FailureOr<CudaKernel>
mlir::qlm::cuda::emitRopeAppend(RopeAppendOp op, const CudaRequest &request) {
  RopeAppend(op, request).emit(request.rows);
  CudaKernel kernel;
  kernel.grid = request.blocksPerRow(blocksPerToken(op));
  kernel.blockThreads = kThreads;
  return kernel;
}

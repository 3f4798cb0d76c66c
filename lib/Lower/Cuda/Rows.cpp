//===- Rows.cpp - A block's threads share a row ---------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "CachePages.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cuda;
using namespace mlir::qlm::kernel;

static int64_t getBytes(Type element) {
  return element.getIntOrFloatBitWidth() / 8;
}

Ptr RowSplit::row(GpuKernelFrame &frame, Ptr buffer, Type element, Val row,
                  int64_t length) {
  return buffer.at(frame.wide(row) * (length * getBytes(element)));
}

void RowSplit::forEach(GpuKernelFrame &frame,
                       function_ref<void(Val)> body) const {
  KernelBuilder &b = frame.builder();
  frame.forStride(frame.thread() * lanes, b.constant(b.i32(), features),
                  frame.threads() * lanes, body);
}

Val RowSplit::fold(GpuKernelFrame &frame, Val init,
                   function_ref<Val(Val, Val)> add) const {
  KernelBuilder &b = frame.builder();
  return b.forRange(frame.thread() * lanes, b.constant(b.i32(), features),
                    frame.threads() * lanes, {init},
                    [&](Val first, ArrayRef<Val> carried) {
                      return SmallVector<Val>{add(carried[0], first)};
                    })[0];
}

Val RowSplit::load(GpuKernelFrame &frame, Ptr row, Type element,
                   Val first) const {
  return frame.builder().toF32(
      row.element(element, first)
          .load(vectorOf(element), lanes * getBytes(element)));
}

void RowSplit::store(GpuKernelFrame &frame, Ptr row, Type element, Val first,
                     Val value) const {
  row.element(element, first)
      .store(frame.builder().fromF32(value, element),
             lanes * getBytes(element));
}

//===----------------------------------------------------------------------===//
// Held rows
//===----------------------------------------------------------------------===//

/// Rounds whose vectors fit into registers.
static constexpr int64_t kMostHeld = 4;

HeldRow::HeldRow(GpuKernelFrame &frame, const RowSplit &split, Source from)
    : frame(frame), split(split), source(std::move(from)) {
  if (rounds() <= kMostHeld)
    for (int64_t round = 0; round < rounds(); ++round)
      held.push_back(isFull(round) ? source(firstOf(round))
                                   : valueOrZero(firstOf(round), source));
}

int64_t HeldRow::rounds() const {
  return llvm::divideCeil(split.getFeatures(),
                          frame.threads() * split.getLanes());
}

bool HeldRow::isFull(int64_t round) const {
  return (round + 1) * frame.threads() * split.getLanes() <=
         split.getFeatures();
}

Val HeldRow::firstOf(int64_t round) const {
  return (frame.thread() + round * frame.threads()) * split.getLanes();
}

Val HeldRow::valueOrZero(Val first, const Source &from) const {
  KernelBuilder &b = frame.builder();
  auto value = [&] { return SmallVector<Val>{from(first)}; };
  auto zero = [&] { return SmallVector<Val>{b.zero(split.vectorOf(b.f32()))}; };
  return b.ifElse(first < split.getFeatures(),
                  function_ref<SmallVector<Val>()>(value), zero)[0];
}

void HeldRow::forEach(function_ref<void(Val, Val)> body) const {
  KernelBuilder &b = frame.builder();
  if (held.empty())
    return split.forEach(frame, [&](Val first) { body(first, source(first)); });
  for (auto [round, x] : llvm::enumerate(held)) {
    Val first = firstOf(static_cast<int64_t>(round));
    if (isFull(static_cast<int64_t>(round)))
      body(first, x);
    else
      b.ifThen(first < split.getFeatures(), [&, x = x] { body(first, x); });
  }
}

Val HeldRow::fold(Val init, function_ref<Val(Val, Val)> add) const {
  if (held.empty())
    return split.fold(frame, init, [&](Val sum, Val first) {
      return add(sum, source(first));
    });
  for (Val x : held)
    init = add(init, x);
  return init;
}

Val HeldRow::foldRounds(Val init, function_ref<Val(Val, Val, Val)> add) const {
  KernelBuilder &b = frame.builder();
  for (auto [round, x] : llvm::enumerate(held))
    init = add(init, firstOf(static_cast<int64_t>(round)), x);
  if (!held.empty())
    return init;
  int64_t stride = frame.threads() * split.getLanes();
  return b.forRange(
      b.constant(b.i32(), int64_t(0)), b.constant(b.i32(), rounds()), 1, {init},
      [&](Val round, ArrayRef<Val> carried) {
        Val first = round * stride + frame.thread() * split.getLanes();
        return SmallVector<Val>{
            add(carried[0], first, valueOrZero(first, source))};
      })[0];
}

HeldRow HeldRow::map(std::function<Val(Val)> change) const {
  HeldRow result = *this;
  result.source = [from = source, change](Val first) {
    return change(from(first));
  };
  for (Val &x : result.held)
    x = change(x);
  return result;
}

HeldRow HeldRow::zip(const HeldRow &other,
                     std::function<Val(Val, Val)> join) const {
  HeldRow result = *this;
  result.source = [from = source, with = other.source, join](Val first) {
    return join(from(first), with(first));
  };
  for (auto [x, y] : llvm::zip_equal(result.held, other.held))
    x = join(x, y);
  return result;
}

//===----------------------------------------------------------------------===//
// Parts of row operations
//===----------------------------------------------------------------------===//

Val mlir::qlm::cuda::sumLanes(KernelBuilder &b, Val value) {
  return isa<VectorType>(value.type()) ? b.reduceSum(value) : value;
}

Val mlir::qlm::cuda::emitNormFactor(GpuKernelFrame &frame,
                                    const RowSplit &split, const HeldRow &row,
                                    double epsilon) {
  KernelBuilder &b = frame.builder();
  Val squares = row.fold(b.zero(split.vectorOf(b.f32())),
                         [&](Val sum, Val x) { return b.fma(x, x, sum); });
  Val sum = frame.blockSum(sumLanes(b, squares));
  Val mean = sum / static_cast<double>(split.getFeatures());
  return b.constant(b.f32(), 1.0) / b.sqrt(mean + epsilon);
}

Val mlir::qlm::cuda::emitGate(GpuKernelFrame &frame, Val gate, Val up) {
  return gate / (frame.expFast(-gate) + 1.0) * up;
}

RowPlaces RowPlaces::get(GpuKernelFrame &frame, int64_t first, Val row,
                         int64_t features,
                         std::optional<llvm::APFloat> threshold) {
  KernelBuilder &b = frame.builder();
  RowPlaces places{
      RowSplit::row(frame, frame.buffer(first), b.i8(), row, features),
      frame.buffer(first + 1).element(b.f32(), row),
      {}};
  if (threshold)
    places.outliers = RowSplit::row(frame, frame.buffer(first + 2), b.f32(),
                                    row, 1 + 2 * features);
  return places;
}

/// Elements of \p vector, which may be a scalar.
static SmallVector<Val> elementsOf(Val vector, int64_t lanes) {
  if (lanes == 1)
    return {vector};
  SmallVector<Val> elements;
  for (int64_t i = 0; i < lanes; ++i)
    elements.push_back(vector.lane(i));
  return elements;
}

namespace {
/// Lists the outliers of a row in ascending order of columns. Most rows have
/// none, which all threads find together.
class OutlierList {
public:
  OutlierList(GpuKernelFrame &frame, const RowSplit &split, double threshold,
              Ptr list)
      : frame(frame), b(frame.builder()), split(split), threshold(threshold),
        list(list) {}

  void write(const HeldRow &row);

private:
  Val isOutlier(Val x) { return b.abs(x) >= threshold; }
  Val number(int64_t value) { return b.constant(b.i32(), value); }
  Val countBits(Val word) {
    return b.intrinsic("llvm.ctpop.i32", b.i32(), {word});
  }
  Val addRound(Val before, Val first, Val x, Ptr warpCounts);

  GpuKernelFrame &frame;
  KernelBuilder &b;
  const RowSplit &split;
  double threshold;
  Ptr list;
};
} // namespace

void OutlierList::write(const HeldRow &row) {
  Val found = row.fold(number(0), [&](Val any, Val x) {
    for (Val element : elementsOf(x, split.getLanes()))
      any = b.select(isOutlier(element), number(1), any);
    return any;
  });
  Val isAny = b.intrinsic("llvm.nvvm.barrier.cta.red.or.aligned.all", b.i1(),
                          {number(0), found != 0});
  Ptr warpCounts = frame.shared(kWarpThreads * 4);
  auto some = [&] {
    return SmallVector<Val>{
        row.foldRounds(number(0), [&](Val before, Val first, Val x) {
          return addRound(before, first, x, warpCounts);
        })};
  };
  auto none = [&] { return SmallVector<Val>{number(0)}; };
  Val count = b.ifElse(isAny, function_ref<SmallVector<Val>()>(some), none)[0];
  frame.ifThread(0, [&] { list.store(b.toFloat(count, b.f32())); });
}

/// Lists the outliers of all threads' vectors behind the \p before of earlier
/// rounds; gives how many there are then. An outlier's place follows from those
/// of warps before, of lanes before, and of the lane's own elements before.
Val OutlierList::addRound(Val before, Val first, Val x, Ptr warpCounts) {
  Val lane = frame.lane(), warp = frame.warp();
  Val lower = (number(1) << lane) - 1;
  SmallVector<Val> elements = elementsOf(x, split.getLanes()), found;
  Val lanesBefore = number(0), inWarp = number(0);
  for (Val element : elements) {
    found.push_back(isOutlier(element));
    Val votes = b.intrinsic("llvm.nvvm.vote.ballot.sync", b.i32(),
                            {number(0xFFFFFFFF), found.back()});
    lanesBefore = lanesBefore + countBits(votes & lower);
    inWarp = inWarp + countBits(votes);
  }
  b.ifThen(lane == 0, [&] { warpCounts.element(b.i32(), warp).store(inWarp); });
  frame.barrier();
  // Sums over the warps up to that of the lane's number.
  Val own = warpCounts.element(b.i32(), lane).load(b.i32());
  Val upTo = b.select(lane < frame.warps(), own, number(0));
  for (int64_t distance = 1; distance < kWarpThreads; distance *= 2) {
    Val from = frame.shuffle(upTo, b.max(lane - distance, number(0)));
    upTo = upTo + b.select(lane >= distance, from, number(0));
  }
  Val warpsBefore = frame.shuffle(upTo, b.max(warp - 1, number(0)));
  warpsBefore = b.select(warp == 0, number(0), warpsBefore);
  Val place = before + warpsBefore + lanesBefore;
  for (auto [i, element] : llvm::enumerate(elements)) {
    b.ifThen(found[i], [&, i = i, element = element] {
      Ptr entry = list.at(4).element(b.f32(), place);
      entry.store(b.toFloat(first + static_cast<int64_t>(i), b.f32()));
      entry.at(split.getFeatures() * 4).store(element);
    });
    place = place + b.select(found[i], number(1), number(0));
  }
  Val all = frame.shuffle(upTo, number(kWarpThreads - 1));
  // The next round writes the counts anew.
  frame.barrier();
  return before + all;
}

void mlir::qlm::cuda::emitRowCodes(GpuKernelFrame &frame, const RowSplit &split,
                                   SchemeAttr scheme,
                                   std::optional<llvm::APFloat> threshold,
                                   const HeldRow &row,
                                   const RowPlaces &places) {
  KernelBuilder &b = frame.builder();
  HeldRow values =
      threshold ? row.map([&b, bound = threshold->convertToDouble()](Val x) {
        // Outliers have code 0 and don't count in the scale.
        return b.select(b.abs(x) >= bound, b.zero(x.type()), x);
      })
                : row;
  if (threshold)
    OutlierList(frame, split, threshold->convertToDouble(), places.outliers)
        .write(row);
  Val largest =
      values.fold(b.zero(split.vectorOf(b.f32())),
                  [&](Val most, Val x) { return b.max(most, b.abs(x)); });
  if (isa<VectorType>(largest.type()))
    largest = b.reduceMax(largest);
  Val magnitude = frame.blockMax(largest);
  double bound = scheme.getBoundValue();
  frame.ifThread(0, [&] { places.scale.store(magnitude / bound); });
  // A row of zeros has codes 0, not 0 * infinity.
  Val inverse = b.select(magnitude == 0.0, b.zero(b.f32()), bound / magnitude);
  Val factor = b.broadcast(inverse, split.getLanes());
  values.forEach([&](Val first, Val x) {
    places.codes.element(b.i8(), first)
        .store(emitCode(frame, x * factor, scheme.getStorage()),
               split.getLanes());
  });
}

void mlir::qlm::cuda::forBlockRow(GpuKernelFrame &frame, SizeKind rows,
                                  function_ref<void(Val)> body) {
  Val row = frame.block(), count = frame.size(rows);
  frame.waitForPrevious();
  frame.launchDependents();
  frame.builder().ifThen(row < count, [&] { body(row); });
}

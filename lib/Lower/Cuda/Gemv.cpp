//===- Gemv.cpp - Linears of a few rows on a GPU --------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Gemv.h"
#include "LinearEpilogue.h"
#include "LinearTables.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cuda;
using namespace mlir::qlm::kernel;

/// Shared memory of a block, so that two fit into a multiprocessor's 227 KiB.
static constexpr int64_t kSharedBudget = 112 * 1024;
/// Where x leaves too little of that for the ring, a block takes all.
static constexpr int64_t kLargeBudget = 224 * 1024;
static constexpr int64_t kSmallestRing = 40 * 1024;
/// Sums in registers: 4 a block of features.
static constexpr int64_t kMostBlocks = 14;
static constexpr int64_t kMostSlots = 64;
/// Pieces of 8 elements of a row that a thread normalizes in registers.
static constexpr int64_t kHeldPieces = 4;
/// Pieces of 16 bytes of x that a thread loads before it stores one.
static constexpr int64_t kPiecesTogether = 8;
/// Bytes of x that hold the right operands of two steps of a lane.
static constexpr int64_t kPairBytes = 16;
/// The same of the four lanes of a row.
static constexpr int64_t kInputBlock = 4 * kPairBytes;
static constexpr int64_t kTokenTile = 8;
/// Rows for which a ring has room for slots of twice the columns.
static constexpr int64_t kDeepRows = 2;
/// Blocks of features whose products interleave.
static constexpr int64_t kTogether = 4;
/// Barrier of the warps that multiply.
static constexpr int64_t kConsumers = 1;

//===----------------------------------------------------------------------===//
// Plan
//===----------------------------------------------------------------------===//

static int64_t roundRows(int64_t rows) { return llvm::PowerOf2Ceil(rows); }

bool GemvPlan::serves(const LinearShape &shape, int64_t rows) {
  if (rows > kTokenTile || (shape.norm && shape.inputBytes() != 2))
    return false;
  int64_t inputBytes =
      roundRows(rows) * shape.paddedColumns() * shape.inputBytes();
  return inputBytes + kSmallestRing * 2 <= kLargeBudget;
}

GemvPlan GemvPlan::get(const LinearShape &shape, int64_t rows,
                       int64_t multiprocessors, const LinearPairs *pairs) {
  GemvPlan plan;
  plan.maxRows = roundRows(rows);
  // A warp's columns fill whole pairs of right operands.
  int64_t pairColumns = kInputBlock / shape.inputBytes();
  plan.depth = std::max(int64_t(1), pairColumns / shape.lineColumns());
  // A slot costs as many instructions as a line: waiting, scales, places.
  if (plan.maxRows <= kDeepRows && shape.lines() % (2 * plan.depth) == 0)
    plan.depth *= 2;
  plan.rounds = llvm::divideCeil(shape.lines(), kWarps * plan.depth);

  int64_t units = shape.units();
  plan.grid = std::min(units, multiprocessors);
  auto blocksOf = [&](int64_t grid) {
    return static_cast<int64_t>(llvm::divideCeil(units, grid)) *
           shape.unitBlocks();
  };
  while (blocksOf(plan.grid) > kMostBlocks)
    plan.grid += multiprocessors;
  plan.blockCount = blocksOf(plan.grid);

  plan.codeBytes = kWarps * plan.depth * kLineBytes;
  int64_t slotColumns = kWarps * plan.warpColumns(shape);
  if (shape.grouped()) {
    int64_t groups = std::max<int64_t>(1, slotColumns / shape.groupColumns);
    plan.slotScaleBytes = groups * kBlockRows * shape.scaleBytes();
    plan.slotZeroBytes = shape.zeroPoints ? groups * kBlockRows : 0;
  }
  plan.slotBytes = llvm::alignTo(
      plan.codeBytes + plan.slotScaleBytes + plan.slotZeroBytes, int64_t(128));

  int64_t inputBytes =
      plan.maxRows * shape.paddedColumns() * shape.inputBytes();
  int64_t sumBytes = kWarps * plan.blockCount * kBlockRows * plan.maxRows * 4;
  int64_t pairBytes =
      pairs ? pairs->sharedBytes(plan.blockCount / 2 * kBlockRows, plan.maxRows)
            : 0;
  int64_t tableBytes = LinearTables::bytes(shape);
  int64_t fixed = inputBytes + pairBytes + tableBytes + 1024;
  int64_t budget =
      kSharedBudget - fixed >= kSmallestRing ? kSharedBudget : kLargeBudget;
  plan.slots = std::min({(budget - fixed) / plan.slotBytes, int64_t(kMostSlots),
                         plan.rounds * plan.blockCount});
  // The sums take the ring's place after the last slot.
  int64_t ringBytes =
      llvm::alignTo(std::max(plan.slots * plan.slotBytes, sumBytes), 128);
  plan.input = ringBytes;
  plan.sums = 0;
  plan.barriers = plan.input + inputBytes;
  // After the barriers: the sums of squares of x.
  plan.tables = llvm::alignTo(plan.barriers + 16 * plan.slots + 4 * kWarps, 16);
  plan.pairs = plan.tables + tableBytes;
  plan.sharedBytes = plan.pairs + pairBytes;
  return plan;
}

//===----------------------------------------------------------------------===//
// The kernel
//===----------------------------------------------------------------------===//

namespace {

class GemvEmitter {
public:
  GemvEmitter(GpuKernelFrame &frame, const LinearShape &shape,
              const GemvPlan &plan, const LinearBuffers &buffers,
              LinearPairs *pairs)
      : frame(frame), b(frame.builder()), shape(shape), plan(plan),
        buffers(buffers), pairs(pairs), shared(frame.dynamicShared()),
        tables(frame, shape, buffers, shared.at(plan.tables)),
        unpacker(b, shape, tables),
        epilogue(b, shape, buffers, unpacker.factor()) {}
  void emit();

private:
  /// Where a ring stands: its slot, and the parity of that slot's turn.
  struct RingPlace {
    Val slot, parity;
  };

  Mbarrier full(Val slot) {
    return Mbarrier(shared.at(plan.barriers).at(slot * 8), b);
  }
  Mbarrier empty(Val slot) {
    return Mbarrier(shared.at(plan.barriers + 8 * plan.slots).at(slot * 8), b);
  }
  Val number(int64_t value) { return b.constant(b.i32(), value); }
  RingPlace advance(RingPlace place);
  /// Visits the slots in order, rounds outside, blocks of features inside, up
  /// to \p together blocks at a time.
  SmallVector<Val>
  forSlots(int64_t together, ArrayRef<Val> init,
           function_ref<void(Val round)> startRound,
           function_ref<void(ArrayRef<RingPlace>, Val round, int64_t block,
                             MutableArrayRef<Val> carried)>
               visit);
  Val isOwn(int64_t block);
  Val blockNumber(int64_t block);
  LinearPairs::Place pairPlace();

  void emitProducer();
  void emitCopies(RingPlace place, Val round, int64_t block);
  void emitConsumer();
  void emitPlainInput();
  void emitNormalizedInput();
  SmallVector<Val> loadEight(Ptr from, Val piece, bool isInside = false);
  void storeNormalized(Val token, Val piece, ArrayRef<Val> x, ArrayRef<Val> w,
                       Val factor);
  Val normFactor(Val token, Val sum);
  void storeInput(Val token, Val piece, Val words);
  void forPieces(Val place, int64_t threads,
                 function_ref<void(Val piece)> body);
  Val sourceRow(Val token);
  void loadOperands(Val round);
  void multiply(ArrayRef<RingPlace> places, Val round, int64_t block,
                MutableArrayRef<Val> sums);
  SmallVector<Val> multiplySlots(ArrayRef<RingPlace> places, int64_t block,
                                 ArrayRef<Val> sums);
  SmallVector<Val> loadScales(Ptr slot, int64_t block, int64_t segment);
  SmallVector<Val> loadZeros(Ptr slot, int64_t segment);
  Val groupInSlot(int64_t segment);
  void emitResults(ArrayRef<Val> sums);
  /// An element of y, or a pair, among the thread block's own of a row.
  struct Output {
    Val number;                   ///< as the thread block counts
    SmallVector<Val, 2> locals;   ///< its sums among the block's features
    SmallVector<Val, 2> features; ///< and among those of the linear
    Val place;                    ///< column of y
    Val exists;
  };
  int64_t outputCount() const;
  Output locate(Val number);
  void holdTerms(bool isFixed);
  int64_t termCount(bool isFixed) const;

  GpuKernelFrame &frame;
  KernelBuilder &b;
  const LinearShape &shape;
  const GemvPlan &plan;
  const LinearBuffers &buffers;
  LinearPairs *pairs;
  Ptr shared;
  LinearTables tables;
  WeightUnpacker unpacker;
  LinearEpilogue epilogue;
  /// Of the thread's result, where it has one at most; empty otherwise.
  SmallVector<EpilogueTerms> heldTerms;

  Val thread, warp, lane, first, count, rows;
  /// The first group of a round, and the last one's number in its slots, where
  /// that matters.
  Val firstGroup, lastGroup;
  /// Right operands of the warp's columns of a round: two a step.
  SmallVector<SmallVector<Val>> operands;
};

} // namespace

GemvEmitter::RingPlace GemvEmitter::advance(RingPlace place) {
  if (plan.fitsWhole())
    return {place.slot + 1, place.parity};
  Val next = place.slot + 1;
  Val wraps = next == plan.slots;
  return {b.select(wraps, number(0), next),
          b.select(wraps, place.parity ^ 1, place.parity)};
}

/// Whether the thread block owns its block of features number \p block; null
/// where all own it.
Val GemvEmitter::isOwn(int64_t block) {
  bool even = shape.units() % plan.grid == 0;
  int64_t unit = block / shape.unitBlocks();
  int64_t most = plan.blockCount / shape.unitBlocks();
  return even || unit + 1 < most ? Val() : number(unit) < count;
}

/// Number in the matrix (i32) of the thread block's \p block.
Val GemvEmitter::blockNumber(int64_t block) {
  int64_t distance = shape.pairDistance;
  if (!distance)
    return first + block;
  Val pair = first + block / 2;
  return pair / distance * (2 * distance) + pair % distance +
         block % 2 * distance;
}

SmallVector<Val> GemvEmitter::forSlots(
    int64_t together, ArrayRef<Val> init,
    function_ref<void(Val round)> startRound,
    function_ref<void(ArrayRef<RingPlace>, Val round, int64_t block,
                      MutableArrayRef<Val> carried)>
        visit) {
  SmallVector<Val> carried = {number(0), number(0)};
  carried.append(init.begin(), init.end());
  SmallVector<Val> last = b.forRange(
      number(0), number(plan.rounds), 1, carried,
      [&](Val round, ArrayRef<Val> values) {
        SmallVector<Val> next(values);
        startRound(round);
        for (int64_t block = 0; block < plan.blockCount;) {
          Val own = isOwn(block);
          // The last unit may be another thread block's.
          int64_t count = 1;
          while (count < together && block + count < plan.blockCount &&
                 static_cast<bool>(isOwn(block + count)) ==
                     static_cast<bool>(own))
            ++count;
          auto step = [&] {
            SmallVector<Val> inner(next.begin() + 2, next.end());
            SmallVector<RingPlace> places;
            RingPlace place = {next[0], next[1]};
            for (int64_t i = 0; i < count; ++i) {
              places.push_back(place);
              place = advance(place);
            }
            visit(places, round, block, inner);
            SmallVector<Val> result = {place.slot, place.parity};
            result.append(inner);
            return result;
          };
          auto skip = [&] { return next; };
          if (own)
            next = b.ifElse(own, function_ref<SmallVector<Val>()>(step), skip);
          else
            next = step();
          block += count;
        }
        return next;
      });
  return SmallVector<Val>(last.begin() + 2, last.end());
}

void GemvEmitter::emit() {
  thread = frame.thread();
  warp = frame.warp();
  lane = frame.lane();
  Val id = frame.block();
  // Neighbouring units; counts differ by one at most.
  first = id * shape.units() / plan.grid;
  count = (id + 1) * shape.units() / plan.grid - first;

  b.ifThen(thread == 0, [&] {
    b.forRange(number(0), number(plan.slots), 1, [&](Val slot) {
      full(slot).init(1);
      empty(slot).init(GemvPlan::kWarps);
    });
    fenceMbarrierInit(b);
  });
  tables.fill();
  frame.barrier();
  frame.launchDependents();
  b.ifElse(
      warp == GemvPlan::kWarps, [&] { emitProducer(); },
      [&] { emitConsumer(); });
}

//===----------------------------------------------------------------------===//
// Copies
//===----------------------------------------------------------------------===//

void GemvEmitter::emitProducer() {
  b.ifThen(lane == 0, [&] {
    forSlots(
        1, {}, [](Val) {},
        [&](ArrayRef<RingPlace> places, Val round, int64_t block,
            MutableArrayRef<Val>) { emitCopies(places[0], round, block); });
  });
}

void GemvEmitter::emitCopies(RingPlace place, Val round, int64_t block) {
  if (!plan.fitsWhole())
    empty(place.slot).wait(place.parity ^ 1);
  Mbarrier barrier = full(place.slot);
  Ptr slot = shared.at(place.slot * plan.slotBytes);
  Val row = b.extendUnsigned(blockNumber(block), b.i64());

  int64_t slotLines = GemvPlan::kWarps * plan.depth;
  bool whole = shape.lines() % slotLines == 0;
  Val codeBytes = number(plan.codeBytes);
  if (!whole)
    codeBytes = b.min(codeBytes,
                      (number(shape.lines()) - round * slotLines) * kLineBytes);
  // The groups of the slot's columns, as far as there are any.
  int64_t slotGroups = 0;
  Val groups, firstGroup;
  if (shape.grouped()) {
    slotGroups = plan.slotScaleBytes / (kBlockRows * shape.scaleBytes());
    firstGroup = round * (slotLines * shape.lineColumns()) / shape.groupColumns;
    groups = number(slotGroups);
    if (shape.groups() % slotGroups != 0 || !whole)
      groups = b.min(groups, number(shape.groups()) - firstGroup);
  }
  Val expected = codeBytes;
  if (groups)
    expected = expected + groups * (kBlockRows * (shape.scaleBytes() +
                                                  (shape.zeroPoints ? 1 : 0)));
  barrier.arriveExpecting(expected);
  Ptr codes =
      buffers.weights.at(row * shape.blockBytes()).at(round * plan.codeBytes);
  bulkCopy(slot, codes, codeBytes, barrier, CacheHint::EvictFirst);
  if (!groups)
    return;
  Val group = row * shape.groups() + b.extendUnsigned(firstGroup, b.i64());
  bulkCopy(slot.at(plan.codeBytes),
           buffers.scales.at(group * (kBlockRows * shape.scaleBytes())),
           groups * (kBlockRows * shape.scaleBytes()), barrier,
           CacheHint::EvictFirst);
  if (shape.zeroPoints)
    bulkCopy(slot.at(plan.codeBytes + plan.slotScaleBytes),
             buffers.zeroPoints.at(group * kBlockRows), groups * kBlockRows,
             barrier, CacheHint::EvictFirst);
}

//===----------------------------------------------------------------------===//
// Products
//===----------------------------------------------------------------------===//

void GemvEmitter::emitConsumer() {
  rows = b.min(frame.size(buffers.rows), number(plan.maxRows));
  if (pairs)
    pairs->prepare(frame, pairPlace());
  holdTerms(/*isFixed=*/true);
  if (shape.norm) {
    emitNormalizedInput();
  } else {
    frame.waitForPrevious();
    emitPlainInput();
  }
  holdTerms(/*isFixed=*/false);
  frame.barrier(kConsumers, GemvPlan::kWarps * kWarp);

  SmallVector<Val> sums(
      4 * plan.blockCount,
      b.zero(shape.input == InputFormat::Int8 ? b.i32() : b.f32()));
  sums = forSlots(
      kTogether, sums, [&](Val round) { loadOperands(round); },
      [&](ArrayRef<RingPlace> places, Val round, int64_t block,
          MutableArrayRef<Val> carried) {
        multiply(places, round, block, carried);
      });
  emitResults(sums);
}

/// Loads the right operands of the warp's columns.
void GemvEmitter::loadOperands(Val round) {
  if (shape.doubleScales)
    firstGroup = round * (GemvPlan::kWarps * plan.warpColumns(shape)) /
                 shape.groupColumns;
  if (shape.lacksGroup())
    lastGroup = number(shape.groups() - 1) -
                round * (GemvPlan::kWarps * plan.warpColumns(shape) /
                         shape.groupColumns);
  int64_t blocks = plan.warpColumns(shape) * shape.inputBytes() / kInputBlock;
  // Rows of x that a kernel of few rows lacks: their sums are never stored.
  Val token = b.min(lane / 4, number(plan.maxRows - 1));
  Val block = (round * GemvPlan::kWarps + warp) * blocks;
  // Past the last column the warp has nothing to multiply.
  block = b.min(
      block, number(shape.paddedColumns() * shape.inputBytes() / kInputBlock -
                    blocks));
  operands.clear();
  for (int64_t i = 0; i < blocks; ++i) {
    Val place = ((block + i) * plan.maxRows + token) * kInputBlock +
                lane % 4 * kPairBytes;
    Val words =
        shared.at(plan.input).at(place).load(b.vec(4, b.i32()), kPairBytes);
    for (int64_t step = 0; step < 2; ++step)
      operands.push_back({words.lane(2 * step), words.lane(2 * step + 1)});
  }
}

/// Number of a segment's group in its slot. A segment is the part of the
/// warp's columns that shares a scale.
Val GemvEmitter::groupInSlot(int64_t segment) {
  int64_t columns = plan.warpColumns(shape);
  // Padding takes the last group's scale: what lies behind it may be NaN.
  if (lastGroup)
    return b.min(warp * (columns / shape.groupColumns) + segment, lastGroup);
  if (shape.groupColumns >= columns)
    return warp * columns /
           std::min(shape.groupColumns, GemvPlan::kWarps * columns);
  return warp * (columns / shape.groupColumns) + segment;
}

SmallVector<Val> GemvEmitter::loadScales(Ptr slot, int64_t block,
                                         int64_t segment) {
  Val group = groupInSlot(segment), row = lane / 4;
  Ptr scales = slot.at(plan.codeBytes)
                   .at((group * kBlockRows + row) * shape.scaleBytes());
  Val feature;
  if (shape.doubleScales) {
    feature = blockNumber(block) * kBlockRows + row;
    group = group + firstGroup;
  }
  SmallVector<Val> two;
  for (int64_t half = 0; half < 2; ++half)
    two.push_back(tables.scale(scales.at(half * 8 * shape.scaleBytes()),
                               feature && half ? feature + 8 : feature, group));
  return two;
}

SmallVector<Val> GemvEmitter::loadZeros(Ptr slot, int64_t segment) {
  if (!shape.zeroPoints)
    return {};
  Ptr zeros = slot.at(plan.codeBytes + plan.slotScaleBytes)
                  .at(groupInSlot(segment) * kBlockRows + lane / 4);
  return {unpacker.biasOf(zeros.load(b.i8())),
          unpacker.biasOf(zeros.at(8).load(b.i8()))};
}

/// Adds the products of neighbouring blocks of features, from \p block.
void GemvEmitter::multiply(ArrayRef<RingPlace> places, Val round, int64_t block,
                           MutableArrayRef<Val> sums) {
  for (RingPlace place : places)
    full(place.slot).wait(place.parity);
  MutableArrayRef<Val> own = sums.slice(4 * block, 4 * places.size());
  auto product = [&] { return multiplySlots(places, block, own); };
  auto nothing = [&] { return SmallVector<Val>(own.begin(), own.end()); };
  SmallVector<Val> total;
  if (shape.lines() % (GemvPlan::kWarps * plan.depth) == 0)
    total = product();
  else
    total =
        b.ifElse((round * GemvPlan::kWarps + warp) * plan.depth < shape.lines(),
                 function_ref<SmallVector<Val>()>(product), nothing);
  llvm::copy(total, own.begin());
  if (plan.fitsWhole())
    return;
  frame.syncWarp();
  b.ifThen(lane == 0, [&] {
    for (RingPlace place : places)
      empty(place.slot).arrive();
  });
}

/// The products of the slots' blocks interleave: each alone is a chain of
/// dependent steps.
SmallVector<Val> GemvEmitter::multiplySlots(ArrayRef<RingPlace> places,
                                            int64_t block, ArrayRef<Val> sums) {
  int64_t columns = plan.warpColumns(shape);
  int64_t segments = 1;
  if (shape.grouped() && shape.groupColumns < columns)
    segments = columns / shape.groupColumns;
  int64_t lineSteps = shape.lineColumns() / shape.stepColumns();
  int64_t stepCount = plan.depth * lineSteps;
  int64_t segmentSteps = stepCount / segments;
  // Load.
  SmallVector<SmallVector<Val>> lines(places.size());
  SmallVector<SmallVector<SmallVector<Val>>> scales(places.size()),
      zeros(places.size());
  for (auto [i, place] : llvm::enumerate(places)) {
    Ptr slot = shared.at(place.slot * plan.slotBytes);
    Ptr codes = slot.at(warp * (plan.depth * kLineBytes) + lane * kLaneBytes);
    for (int64_t d = 0; d < plan.depth; ++d)
      lines[i].push_back(
          codes.at(d * kLineBytes).load(b.vec(4, b.i32()), kLaneBytes));
    for (int64_t s = 0; shape.grouped() && s < segments; ++s) {
      scales[i].push_back(loadScales(slot, block + static_cast<int64_t>(i), s));
      zeros[i].push_back(loadZeros(slot, s));
    }
  }
  // Unpack and multiply.
  SmallVector<Val> total(sums);
  for (int64_t s = 0; s < segments; ++s) {
    SmallVector<SmallVector<Val>> part(places.size());
    for (size_t i = 0; i < places.size(); ++i)
      part[i] = shape.grouped()
                    ? SmallVector<Val>(4, b.zero(b.f32()))
                    : SmallVector<Val>(ArrayRef<Val>(total).slice(4 * i, 4));
    for (int64_t k = s * segmentSteps; k < (s + 1) * segmentSteps; ++k)
      for (size_t i = 0; i < places.size(); ++i) {
        ArrayRef<Val> zero;
        if (shape.grouped())
          zero = zeros[i][s];
        auto unpacked = unpacker.unpack(lines[i][k / lineSteps], zero);
        part[i] = warpMultiply(shape.matrixType(), part[i],
                               unpacked[k % lineSteps], operands[k]);
      }
    for (size_t i = 0; i < places.size(); ++i)
      for (int64_t j = 0; j < 4; ++j) {
        Val &sum = total[4 * i + j];
        sum = shape.grouped() ? b.fma(scales[i][s][j / 2], part[i][j], sum)
                              : part[i][j];
      }
  }
  return total;
}

//===----------------------------------------------------------------------===//
// x
//===----------------------------------------------------------------------===//

/// Stores 16 bytes of a row, \p piece of them, in the order of the right
/// operand: word i belongs to lane i of the row's four.
void GemvEmitter::storeInput(Val token, Val piece, Val words) {
  Val place = (piece / 4 * plan.maxRows + token) * kInputBlock + piece % 4 * 4 +
              plan.input;
  for (int64_t i = 0; i < 4; ++i)
    shared.at(place).at(i * kPairBytes).store(words.lane(i));
}

/// Calls \p body for the 16-byte pieces of a padded row that are \p place's.
void GemvEmitter::forPieces(Val place, int64_t threads,
                            function_ref<void(Val piece)> body) {
  int64_t pieces = shape.paddedColumns() * shape.inputBytes() / 16;
  b.forRange(place, number(pieces), threads, body);
}

/// A step's row for a token of the kernel: rows that the step lacks repeat one
/// that it has; nobody stores what they give.
Val GemvEmitter::sourceRow(Val token) {
  return b.extendUnsigned(b.max(b.min(token, rows - 1), number(0)), b.i64());
}

/// A thread's pieces are all on their way before the first one is stored.
void GemvEmitter::emitPlainInput() {
  int64_t threads = GemvPlan::kWarps * kWarp / plan.maxRows;
  Val token = thread / threads, place = thread % threads;
  int64_t pieceColumns = 16 / shape.inputBytes();
  Ptr row =
      buffers.input.at(sourceRow(token) * (shape.columns * shape.inputBytes()));
  auto load = [&](Val piece) {
    return loadPiece(b, row, piece * pieceColumns, shape.columns,
                     shape.inputBytes());
  };
  // Rows that are not aligned are loaded element by element.
  if (shape.columns % pieceColumns != 0)
    return forPieces(place, threads,
                     [&](Val piece) { storeInput(token, piece, load(piece)); });
  int64_t pieces = shape.paddedColumns() * shape.inputBytes() / 16;
  int64_t turns = llvm::divideCeil(pieces, threads);
  for (int64_t first = 0; first < turns; first += kPiecesTogether) {
    int64_t last = std::min(first + kPiecesTogether, turns);
    SmallVector<Val> words;
    for (int64_t i = first; i < last; ++i) {
      Val piece = place + i * threads;
      bool isInside = (i + 1) * threads * pieceColumns <= shape.columns;
      words.push_back(isInside ? row.at(piece * 16).load(b.vec(4, b.i32()), 16)
                               : load(piece));
    }
    for (int64_t i = first; i < last; ++i) {
      Val piece = place + i * threads;
      auto store = [&] { storeInput(token, piece, words[i - first]); };
      if ((i + 1) * threads <= pieces)
        store();
      else
        b.ifThen(piece < pieces, store);
    }
  }
}

/// Eight f32 of a row of floats; zero past the columns, unless \p isInside.
SmallVector<Val> GemvEmitter::loadEight(Ptr from, Val piece, bool isInside) {
  SmallVector<Val> eight;
  for (int64_t half = 0; half < 2; ++half) {
    VectorType floats = b.vec(4, b.f32());
    Val column = piece * 8 + half * 4;
    Val four = isInside ? from.at(column * 4).load(floats, 16)
                        : b.bitcast(loadPiece(b, from, column, shape.columns,
                                              /*elementBytes=*/4),
                                    floats);
    for (int64_t i = 0; i < 4; ++i)
      eight.push_back(four.lane(i));
  }
  return eight;
}

/// Rounds x * factor * w and stores it as piece \p piece of \p token.
void GemvEmitter::storeNormalized(Val token, Val piece, ArrayRef<Val> x,
                                  ArrayRef<Val> w, Val factor) {
  Type half = shape.input == InputFormat::BF16 ? b.bf16() : b.f16();
  Val words = b.zero(b.vec(4, b.i32()));
  for (int64_t i = 0; i < 4; ++i) {
    Val pair = b.zero(b.vec(2, b.f32()));
    for (int64_t j = 0; j < 2; ++j)
      pair = b.insert(pair, x[2 * i + j] * factor * w[2 * i + j], j);
    words = b.insert(words, b.bitcast(b.fromF32(pair, half), b.i32()), i);
  }
  storeInput(token, piece, words);
}

/// A thread keeps its part of the row in registers, if that is short; the
/// norm's weights are there before the kernel waits for x.
void GemvEmitter::emitNormalizedInput() {
  int64_t threads = GemvPlan::kWarps * kWarp / plan.maxRows;
  Val token = thread / threads, place = thread % threads;
  // Rows that the step lacks repeat one that it has; nobody stores them.
  Val source = b.max(b.min(token, rows - 1), number(0));
  Ptr row =
      buffers.input.at(b.extendUnsigned(source, b.i64()) * (shape.columns * 4));
  int64_t pieces = shape.paddedColumns() / 8;
  int64_t held = llvm::divideCeil(pieces, threads);
  bool isHeld = held <= kHeldPieces;
  auto loadHeld = [&](Ptr from, int64_t i) {
    bool isInside =
        shape.columns % 4 == 0 && (i + 1) * threads * 8 <= shape.columns;
    return loadEight(from, place + i * threads, isInside);
  };
  SmallVector<SmallVector<Val>> x, w;
  for (int64_t i = 0; isHeld && i < held; ++i)
    w.push_back(loadHeld(buffers.normWeight, i));
  frame.waitForPrevious();
  for (int64_t i = 0; isHeld && i < held; ++i)
    x.push_back(loadHeld(row, i));

  auto addSquares = [&](Val sum, ArrayRef<Val> values) {
    for (Val value : values)
      sum = b.fma(value, value, sum);
    return sum;
  };
  Val sum = b.zero(b.f32());
  for (ArrayRef<Val> piece : x)
    sum = addSquares(sum, piece);
  if (!isHeld)
    sum = b.forRange(place, number(pieces), threads, {sum},
                     [&](Val piece, ArrayRef<Val> carried) {
                       return SmallVector<Val>{
                           addSquares(carried[0], loadEight(row, piece))};
                     })[0];
  Val factor = normFactor(token, sum);
  for (int64_t i = 0; isHeld && i < held; ++i) {
    Val piece = place + i * threads;
    auto store = [&] { storeNormalized(token, piece, x[i], w[i], factor); };
    if ((i + 1) * threads <= pieces)
      store();
    else
      b.ifThen(piece < pieces, store);
  }
  if (!isHeld)
    b.forRange(place, number(pieces), threads, [&](Val piece) {
      storeNormalized(token, piece, loadEight(row, piece),
                      loadEight(buffers.normWeight, piece), factor);
    });
}

/// 1 / sqrt(mean of squares + epsilon) of a token, from the threads' sums.
Val GemvEmitter::normFactor(Val token, Val sum) {
  int64_t warps = GemvPlan::kWarps / plan.maxRows;
  Ptr squares = shared.at(plan.barriers + 16 * plan.slots);
  sum = frame.warpSum(sum);
  b.ifThen(lane == 0, [&] { squares.at(warp * 4).store(sum); });
  frame.barrier(kConsumers, GemvPlan::kWarps * kWarp);
  Val total = b.zero(b.f32());
  for (int64_t i = 0; i < warps; ++i)
    total = total + squares.at((token * warps + i) * 4).load(b.f32());
  Val mean = total * (1.0 / static_cast<double>(shape.columns));
  return b.constant(b.f32(), 1.0) / b.sqrt(mean + shape.epsilon);
}

//===----------------------------------------------------------------------===//
// y
//===----------------------------------------------------------------------===//

void GemvEmitter::emitResults(ArrayRef<Val> sums) {
  int64_t threads = GemvPlan::kWarps * kWarp;
  int64_t features = plan.blockCount * kBlockRows;
  Type type = sums[0].type();
  // Reduce: [warp][token][feature]; all slots are read before.
  frame.barrier(kConsumers, threads);
  Val token = lane % 4 * 2;
  for (int64_t t = 0; t < 2; ++t)
    b.ifThen(token + t < plan.maxRows, [&] {
      Ptr place = shared.at(
          ((warp * plan.maxRows + token + t) * features + lane / 4) * 4);
      for (int64_t block = 0; block < plan.blockCount; ++block)
        for (int64_t half = 0; half < 2; ++half)
          place.at((block * kBlockRows + half * 8) * 4)
              .store(sums[4 * block + 2 * half + t]);
    });
  frame.barrier(kConsumers, threads);

  // Store: neighbouring threads have neighbouring features.
  auto load = [&](Val row, Val feature) {
    Val sum;
    for (int64_t w = 0; w < GemvPlan::kWarps; ++w) {
      Val part = shared.at(((row + w * plan.maxRows) * features + feature) * 4)
                     .load(type);
      sum = w ? sum + part : part;
    }
    return sum;
  };
  int64_t outputs = outputCount();
  auto finish = [&](Val row, const Output &output,
                    ArrayRef<EpilogueTerms> terms) {
    SmallVector<Val> values;
    for (size_t i = 0; i < output.locals.size(); ++i)
      values.push_back(epilogue.finish(load(row, output.locals[i]), terms[i],
                                       row, output.features[i]));
    if (pairs)
      return pairs->store(frame, pairPlace(), row, output.number, values[0],
                          values[1]);
    Val value = shape.swiglu ? gateUp(b, values[0], values[1]) : values[0];
    epilogue.storeFinished(row, output.place, value, terms[0].residual);
  };
  if (!heldTerms.empty()) {
    Output output = locate(thread % outputs);
    Val row = thread / outputs;
    return b.ifThen((row < rows) & output.exists,
                    [&] { finish(row, output, heldTerms); });
  }
  b.forRange(thread, number(outputs) * rows, threads, [&](Val i) {
    Val row = i / outputs;
    Output output = locate(i % outputs);
    b.ifThen(output.exists, [&] {
      SmallVector<EpilogueTerms> terms(output.locals.size());
      for (size_t k = 0; k < terms.size(); ++k) {
        epilogue.loadFixed(terms[k], output.features[k]);
        epilogue.loadMoving(terms[k], row, output.place);
      }
      finish(row, output, terms);
    });
  });
}

/// Elements of y, or pairs, that a thread block has for a row, at most.
int64_t GemvEmitter::outputCount() const {
  int64_t features = plan.blockCount * kBlockRows;
  return shape.swiglu || pairs ? features / 2 : features;
}

/// Where the thread block's element \p number of a row comes from.
GemvEmitter::Output GemvEmitter::locate(Val number) {
  Output output;
  output.number = number;
  Val exists = number < count * (shape.swiglu ? kBlockRows / 2 : kBlockRows);
  if (pairs) {
    int64_t distance = shape.pairDistance;
    Val inBlock = number % kBlockRows, unit = first + number / kBlockRows;
    Val local = number / kBlockRows * (2 * kBlockRows) + inBlock;
    Val feature =
        (unit / distance * (2 * distance) + unit % distance) * kBlockRows +
        inBlock;
    output.locals = {local, local + kBlockRows};
    output.features = {feature, feature + distance * kBlockRows};
    output.place = feature;
    output.exists = exists;
    return output;
  }
  if (shape.swiglu) {
    Val gate = number / 8 * kBlockRows + number % 8;
    output.locals = {gate, gate + 8};
    output.features = {first * kBlockRows + gate,
                       first * kBlockRows + gate + 8};
    output.place = first * (kBlockRows / 2) + number;
  } else {
    output.locals = {number};
    output.features = {first * kBlockRows + number};
    output.place = output.features[0];
  }
  output.exists = exists & (output.place < shape.outputFeatures());
  return output;
}

/// Loads the terms of the thread's only result while the weights arrive: what
/// depends on no other kernel, or the rest.
void GemvEmitter::holdTerms(bool isFixed) {
  int64_t outputs = outputCount();
  if (outputs * plan.maxRows > GemvPlan::kWarps * kWarp)
    return;
  Output output = locate(thread % outputs);
  Val row = thread / outputs;
  if (isFixed)
    heldTerms.resize(output.locals.size());
  auto load = [&] {
    SmallVector<Val> values;
    for (auto [i, term] : llvm::enumerate(heldTerms)) {
      EpilogueTerms terms;
      if (isFixed)
        epilogue.loadFixed(terms, output.features[i]);
      else
        epilogue.loadMoving(terms, row, output.place);
      for (Val value :
           {terms.scale, terms.bias, terms.inputScale, terms.residual})
        if (value)
          values.push_back(value);
    }
    return values;
  };
  bool isAny = isFixed ? (shape.scales && !shape.grouped()) || shape.bias
                       : shape.inputScales || shape.residual;
  if (!isAny)
    return;
  auto none = [&] {
    return SmallVector<Val>(heldTerms.size() * termCount(isFixed),
                            b.zero(b.f32()));
  };
  Val exists = (row < rows) & output.exists;
  SmallVector<Val> values =
      b.ifElse(exists, function_ref<SmallVector<Val>()>(load), none);
  size_t next = 0;
  for (EpilogueTerms &terms : heldTerms) {
    if (isFixed && shape.scales && !shape.grouped())
      terms.scale = values[next++];
    if (isFixed && shape.bias)
      terms.bias = values[next++];
    if (!isFixed && shape.inputScales)
      terms.inputScale = values[next++];
    if (!isFixed && shape.residual)
      terms.residual = values[next++];
  }
}

int64_t GemvEmitter::termCount(bool isFixed) const {
  if (isFixed)
    return (shape.scales && !shape.grouped()) + shape.bias;
  return shape.inputScales + shape.residual;
}

LinearPairs::Place GemvEmitter::pairPlace() {
  LinearPairs::Place place;
  place.shared = shared.at(plan.pairs);
  place.thread = thread;
  place.threads = GemvPlan::kWarps * kWarp;
  place.rows = rows;
  place.maxRows = plan.maxRows;
  place.first = first * kBlockRows;
  place.count = count * kBlockRows;
  place.most = plan.blockCount / 2 * kBlockRows;
  return place;
}

void cuda::emitGemv(GpuKernelFrame &frame, const LinearShape &shape,
                    const GemvPlan &plan, const LinearBuffers &buffers,
                    LinearPairs *pairs) {
  GemvEmitter(frame, shape, plan, buffers, pairs).emit();
}

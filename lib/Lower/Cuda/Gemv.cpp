//===- Gemv.cpp - Linears of a few rows on a GPU --------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "GemvEmitter.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cuda;
using namespace mlir::qlm::kernel;

/// Blocks of features whose products interleave; with groups each block holds
/// sums of a group besides.
static constexpr int64_t kTogether = 4, kGroupedTogether = 2;

//===----------------------------------------------------------------------===//
// The ring
//===----------------------------------------------------------------------===//

GemvEmitter::RingPlace GemvEmitter::advance(RingPlace place) {
  if (plan.fitsWhole())
    return {place.slot + 1, place.parity};
  Val next = place.slot + 1;
  Val wraps = next == plan.slots;
  return {b.select(wraps, number(0), next),
          b.select(wraps, place.parity ^ 1, place.parity)};
}

/// The place \p slots further, as many as another team has in a round.
GemvEmitter::RingPlace GemvEmitter::skip(RingPlace place, Val slots) {
  Val next = place.slot + slots;
  if (plan.fitsWhole())
    return {next, place.parity};
  Val turns = next / plan.slots;
  return {next % plan.slots, place.parity ^ (turns & 1)};
}

/// Whether there is a block number \p block of the warp's share; null where
/// all thread blocks and teams have one.
Val GemvEmitter::isOwn(int64_t block) {
  int64_t unit = block / shape.unitBlocks();
  int64_t lastTeam = share.teams - 1;
  int64_t teamUnits = plan.teamBlocks / shape.unitBlocks();
  if (lastTeam * teamUnits + unit < shape.units() / plan.grid)
    return {};
  return share.firstUnit + unit < count;
}

/// Number in the matrix (i32) of block \p block of the warp's share.
Val GemvEmitter::blockNumber(int64_t block) {
  int64_t distance = shape.pairDistance;
  Val own = first + share.firstUnit;
  if (!distance)
    return own + block;
  Val pair = own + block / 2;
  return pair / distance * (2 * distance) + pair % distance +
         block % 2 * distance;
}

bool GemvEmitter::isOfSameUnit(int64_t block, int64_t other) const {
  return block / shape.unitBlocks() == other / shape.unitBlocks();
}

SmallVector<Val> GemvEmitter::forSlots(
    int64_t together, ArrayRef<Val> init,
    function_ref<void(Val round)> startRound,
    function_ref<void(ArrayRef<RingPlace>, Val round, int64_t block,
                      MutableArrayRef<Val> carried)>
        visit) {
  RingPlace start = {number(0), number(0)};
  if (share.teams > 1)
    start = skip(start, share.firstUnit * shape.unitBlocks());
  SmallVector<Val> carried = {start.slot, start.parity};
  carried.append(init.begin(), init.end());
  SmallVector<Val> last = b.forRange(
      number(0), number(plan.rounds), 1, carried,
      [&](Val round, ArrayRef<Val> values) {
        SmallVector<Val> next(values);
        startRound(round);
        for (int64_t block = 0; block < share.blocks;) {
          Val own = isOwn(block);
          // The last units may be another thread block's.
          int64_t count = 1;
          while (count < together && block + count < share.blocks &&
                 (own ? isOfSameUnit(block, block + count)
                      : !isOwn(block + count)))
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
          auto leave = [&] { return next; };
          if (own)
            next = b.ifElse(own, function_ref<SmallVector<Val>()>(step), leave);
          else
            next = step();
          block += count;
        }
        if (share.teams > 1) {
          RingPlace place = skip({next[0], next[1]}, share.others);
          next[0] = place.slot;
          next[1] = place.parity;
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
      empty(slot).init(GemvPlan::kColumnWarps);
    });
    fenceMbarrierInit(b);
  });
  tables.fill();
  frame.barrier();
  frame.launchDependents();
  b.ifElse(
      warp == plan.warps(), [&] { emitProducer(); }, [&] { emitConsumer(); });
}

//===----------------------------------------------------------------------===//
// Copies
//===----------------------------------------------------------------------===//

void GemvEmitter::emitProducer() {
  share = {plan.blockCount, /*teams=*/1, number(0), number(0)};
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

  int64_t slotLines = GemvPlan::kColumnWarps * plan.depth;
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
  column = warp;
  share = {plan.teamBlocks, plan.teams, number(0), number(0)};
  if (plan.teams > 1) {
    column = warp % GemvPlan::kColumnWarps;
    team = warp / GemvPlan::kColumnWarps;
    share.firstUnit = team * (plan.teamBlocks / shape.unitBlocks());
    share.others =
        b.select(team == 0, count * shape.unitBlocks() - plan.teamBlocks,
                 number(plan.teamBlocks));
  }
  if (pairs)
    pairs->prepare(frame, pairPlace());
  holdTerms(/*isFixed=*/true);
  if (shape.norm) {
    emitNormalizedInput();
  } else {
    frame.waitForPrevious();
    if (copiesInput())
      beginInput();
    else
      emitUnalignedInput();
  }
  holdTerms(/*isFixed=*/false);
  holdOutliers();
  if (!copiesInput())
    frame.barrier(kConsumers, plan.consumers());

  SmallVector<Val> sums(
      blockSums() * plan.teamBlocks,
      b.zero(shape.input == InputFormat::Int8 ? b.i32() : b.f32()));
  sums = forSlots(
      shape.grouped() ? kGroupedTogether : kTogether, sums,
      [&](Val round) { loadOperands(round); },
      [&](ArrayRef<RingPlace> places, Val round, int64_t block,
          MutableArrayRef<Val> carried) {
        multiply(places, round, block, carried);
      });
  emitResults(sums);
}

/// Loads the right operands of the warp's columns.
void GemvEmitter::loadOperands(Val round) {
  if (copiesInput())
    awaitInput(round);
  if (shape.doubleScales)
    firstGroup = round * (GemvPlan::kColumnWarps * plan.warpColumns(shape)) /
                 shape.groupColumns;
  if (shape.lacksGroup())
    lastGroup = number(shape.groups() - 1) -
                round * (GemvPlan::kColumnWarps * plan.warpColumns(shape) /
                         shape.groupColumns);
  int64_t blocks = plan.warpColumns(shape) * shape.inputBytes() / kInputBlock;
  Val block = (round * GemvPlan::kColumnWarps + column) * blocks;
  // Rows of x that a kernel of few rows lacks: their sums are never stored.
  Val token = b.min(lane % GemvPlan::kMostRows, number(plan.maxRows - 1));
  auto load = [&] {
    SmallVector<Val> words;
    for (int64_t i = 0; i < blocks; ++i)
      words.append(loadMatrices(
          inputPiece((block + i) * plan.maxRows + token, lane / 8)));
    return words;
  };
  auto nothing = [&] { return SmallVector<Val>(4 * blocks, number(0)); };
  // Past the last column the warp has nothing to multiply.
  SmallVector<Val> words =
      allHaveColumns()
          ? load()
          : b.ifElse(hasColumns(round), function_ref<SmallVector<Val>()>(load),
                     nothing);
  operands.clear();
  for (size_t i = 0; i < words.size(); i += 2)
    operands.push_back({words[i], words[i + 1]});
}

/// Whether all warps have columns in all rounds.
bool GemvEmitter::allHaveColumns() const {
  return shape.lines() % (GemvPlan::kColumnWarps * plan.depth) == 0;
}

/// Whether the warp has columns in a round.
Val GemvEmitter::hasColumns(Val round) {
  return (round * GemvPlan::kColumnWarps + column) * plan.depth < shape.lines();
}

/// Number of a segment's group in its slot. A segment is the part of the
/// warp's columns that shares a scale.
Val GemvEmitter::groupInSlot(Val segment) {
  int64_t columns = plan.warpColumns(shape);
  // Padding takes the last group's scale: what lies behind it may be NaN.
  if (lastGroup)
    return b.min(column * (columns / shape.groupColumns) + segment, lastGroup);
  if (shape.groupColumns >= columns)
    return column * columns /
           std::min(shape.groupColumns, GemvPlan::kColumnWarps * columns);
  return column * (columns / shape.groupColumns) + segment;
}

int64_t GemvEmitter::segmentCount() const {
  int64_t columns = plan.warpColumns(shape);
  return shape.grouped() && shape.groupColumns < columns
             ? columns / shape.groupColumns
             : 1;
}

/// What the scales of the warp's columns of \p block share with others, for
/// decodeScales: scale number i * 32 + lane of 16 a segment.
SmallVector<Val> GemvEmitter::loadCommon(int64_t block) {
  SmallVector<Val> common;
  if (!shape.doubleScales)
    return common;
  int64_t scales = segmentCount() * kBlockRows;
  Val feature = blockNumber(block) * kBlockRows + lane % kBlockRows;
  for (int64_t i = 0; i < scales; i += kWarp) {
    int64_t segments = std::min(scales - i, kWarp) / kBlockRows;
    Val segment = lane / kBlockRows % segments + i / kBlockRows;
    common.push_back(tables.common(feature, groupInSlot(segment) + firstGroup));
  }
  return common;
}

/// Doubly quantized scales are decoded by one lane each, not by the four that
/// use them.
SmallVector<Val> GemvEmitter::decodeScales(Ptr slot, ArrayRef<Val> common) {
  int64_t scales = segmentCount() * kBlockRows;
  SmallVector<Val> decoded;
  for (auto [i, own] : llvm::enumerate(common)) {
    int64_t first = static_cast<int64_t>(i) * kWarp;
    int64_t segments = std::min(scales - first, kWarp) / kBlockRows;
    Val segment = lane / kBlockRows % segments + first / kBlockRows;
    Val place = groupInSlot(segment) * kBlockRows + lane % kBlockRows;
    decoded.push_back(tables.scale(slot.at(plan.codeBytes).at(place), own));
  }
  return decoded;
}

/// The scales of rows r and r + 8 of each segment.
SmallVector<SmallVector<Val>> GemvEmitter::loadScales(Ptr slot,
                                                      ArrayRef<Val> common) {
  SmallVector<SmallVector<Val>> result;
  Val row = lane / 4;
  SmallVector<Val> decoded = decodeScales(slot, common);
  for (int64_t s = 0; s < segmentCount(); ++s) {
    SmallVector<Val> two;
    for (int64_t half = 0; half < 2; ++half) {
      int64_t first = s * kBlockRows + half * 8;
      if (shape.doubleScales) {
        two.push_back(
            frame.shuffle(decoded[first / kWarp], row + first % kWarp));
        continue;
      }
      Val place = groupInSlot(number(s)) * kBlockRows + row + half * 8;
      two.push_back(tables.scale(
          slot.at(plan.codeBytes).at(place * shape.scaleBytes()), {}));
    }
    result.push_back(two);
  }
  return result;
}

SmallVector<Val> GemvEmitter::loadZeros(Ptr slot, int64_t segment) {
  if (!shape.zeroPoints)
    return {};
  Ptr zeros = slot.at(plan.codeBytes + plan.slotScaleBytes)
                  .at(groupInSlot(number(segment)) * kBlockRows + lane / 4);
  return {unpacker.biasOf(zeros.load(b.i8())),
          unpacker.biasOf(zeros.at(8).load(b.i8()))};
}

/// Sums of a block that a lane keeps: those of two features for two tokens. The
/// second token's are left out where there is one, unless products add to the
/// sums themselves.
int64_t GemvEmitter::blockSums() const {
  return plan.maxRows == 1 && shape.grouped() ? 2 : 4;
}

/// Adds the products of neighbouring blocks of features, from \p block.
void GemvEmitter::multiply(ArrayRef<RingPlace> places, Val round, int64_t block,
                           MutableArrayRef<Val> sums) {
  // On their way while the warp waits.
  SmallVector<SmallVector<Val>> common;
  for (size_t i = 0; i < places.size(); ++i)
    common.push_back(loadCommon(block + static_cast<int64_t>(i)));
  for (RingPlace place : places)
    full(place.slot).wait(place.parity);
  MutableArrayRef<Val> own = sums.slice(
      blockSums() * block, blockSums() * static_cast<int64_t>(places.size()));
  auto product = [&] { return multiplySlots(places, common, own); };
  auto nothing = [&] { return SmallVector<Val>(own.begin(), own.end()); };
  SmallVector<Val> total;
  if (allHaveColumns())
    total = product();
  else
    total = b.ifElse(hasColumns(round),
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
                                            ArrayRef<SmallVector<Val>> common,
                                            ArrayRef<Val> sums) {
  int64_t segments = segmentCount();
  int64_t lineSteps = shape.lineColumns() / shape.stepColumns();
  int64_t stepCount = plan.depth * lineSteps;
  int64_t segmentSteps = stepCount / segments;
  // Load.
  SmallVector<SmallVector<Val>> lines(places.size());
  SmallVector<SmallVector<SmallVector<Val>>> scales(places.size()),
      zeros(places.size());
  for (auto [i, place] : llvm::enumerate(places)) {
    Ptr slot = shared.at(place.slot * plan.slotBytes);
    Ptr codes = slot.at(column * (plan.depth * kLineBytes) + lane * kLaneBytes);
    for (int64_t d = 0; d < plan.depth; ++d)
      lines[i].push_back(
          codes.at(d * kLineBytes).load(b.vec(4, b.i32()), kLaneBytes));
    if (!shape.grouped())
      continue;
    scales[i] = loadScales(slot, common[i]);
    for (int64_t s = 0; s < segments; ++s)
      zeros[i].push_back(loadZeros(slot, s));
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
        if (blockSums() == 2 && j % 2)
          continue;
        Val &sum = total[blockSums() * i + j * blockSums() / 4];
        sum = shape.grouped() ? b.fma(scales[i][s][j / 2], part[i][j], sum)
                              : part[i][j];
      }
  }
  return total;
}

void cuda::emitGemv(GpuKernelFrame &frame, const LinearShape &shape,
                    const GemvPlan &plan, const LinearBuffers &buffers,
                    LinearPairs *pairs) {
  GemvEmitter(frame, shape, plan, buffers, pairs).emit();
}

//===- PackedLinear.cpp - Tiles of qlm.packed_linear ----------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "PackedLinear.h"

#include "LinearHooks.h"
#include "RowFormulas.h"
#include "qlm/Dialect/GatedLinear.h"
#include "qlm/Package/LaunchScratch.h"

#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cpu;
using namespace mlir::qlm::kernel;
namespace format = ::qlm::format;

/// Columns of one round of the inner loop. All group sizes are multiples of
/// it, and so are the columns of every packed word.
static constexpr int64_t kRoundColumns = 8;
/// How far ahead weights are fetched, in bytes of each block's stream.
static constexpr int64_t kPrefetchBytes = 1536;
static constexpr int64_t kAmxPrefetchBytes = 2048;
static constexpr int64_t kCacheLine = 64;
/// How far ahead scales are fetched.
static constexpr int64_t kPrefetchGroups = 4;
/// A tile has at most this many blocks: as many streams as a core follows well.
static constexpr int64_t kMaxTileBlocks = 8;
/// Tiles that a launch should have at least, so that a few threads end
/// together.
static constexpr int64_t kMinTiles = 16;
/// Operations of a gate, as profiles count them.
static constexpr int64_t kGateFlops = 4;
/// Columns that one int32 sum can take: 65536 * 255 * 128 < 2^31.
static constexpr int64_t kMaxSumColumns = 65536;
/// What rows extended to int16 may take of each thread's scratch.
static constexpr int64_t kMaxWideBytes = 8 << 20;

//===----------------------------------------------------------------------===//
// Shape and tiling
//===----------------------------------------------------------------------===//

FailureOr<LinearShape> LinearShape::get(PackedLinearOp op) {
  LinearShape s;
  s.columns = op.getInFeatures();
  s.features = op.getOutFeatures();
  s.blocks = llvm::divideCeil(s.features, ::qlm::format::kRowBlock);
  s.gated = isGated(op);
  s.resultElement = cast<RankedTensorType>(op.getType()).getElementType();
  s.layout = op.getLayout().getKind();
  switch (s.layout) {
  case LayoutKind::Float32:
    break;
  case LayoutKind::Float16:
    s.wordBytes = 2;
    break;
  case LayoutKind::BFloat16:
    s.wordColumns = 2;
    break;
  case LayoutKind::Int8:
  case LayoutKind::Float8:
    s.wordColumns = 4;
    break;
  case LayoutKind::Int4:
    s.wordColumns = 8;
    break;
  default:
    return op.emitOpError("layout ")
           << stringifyLayoutKind(s.layout) << " is not one of weights";
  }
  s.words = llvm::divideCeil(s.columns, s.wordColumns);
  s.groupColumns = s.columns;
  Type input = cast<RankedTensorType>(op.getInput().getType()).getElementType();
  s.float8Activations = isa<Float8E4M3FNType>(input);
  s.byteActivations = input.isInteger(8);
  s.shortActivations = input.isBF16();
  if (input.isF16() || (s.shortActivations && s.layout != LayoutKind::BFloat16))
    return op.emitOpError("activations of ")
           << input << " have no kernel on a processor with this weight";
  s.inputBytes = input.getIntOrFloatBitWidth() / 8;

  std::optional<SchemeAttr> scheme = op.getScheme();
  s.quantized = scheme.has_value();
  if (!s.quantized)
    return s;
  s.zeroPoints = static_cast<bool>(op.getZeroPoints());
  s.codebook = scheme->getCodebook();
  s.doubleScales = static_cast<bool>(op.getSuperScales());
  s.halfScales = op.getScales().getType().getElementType().isF16();
  s.groupColumns = scheme->getColumnsPerScale(s.columns);
  if (s.groupColumns != s.columns && s.groupColumns % kRoundColumns != 0)
    return op.emitOpError("group size must be a multiple of ")
           << kRoundColumns << ", got " << s.groupColumns;
  s.groups = s.columns / s.groupColumns;
  if (scheme->isUniform() && !s.zeroPoints &&
      !scheme->getStorage().isUnsignedInteger())
    s.offset = int64_t(1) << (scheme->getBits() - 1);
  if (s.byteActivations && s.groupColumns > kMaxSumColumns)
    return op.emitOpError("at most ")
           << kMaxSumColumns << " columns may share a scale with int8 "
           << "activations, got " << s.groupColumns;
  return s;
}

bool LinearShape::correctsFloats(const Target &target) const {
  if (layout != LayoutKind::Int4 || byteActivations)
    return false;
  // A table look-up of AVX512 takes a scheme's offset off as it unpacks.
  return zeroPoints || (offset && !target.avx512);
}

static bool needsRowSums(const LinearShape &shape, const Target &target) {
  return shape.byteActivations || shape.correctsFloats(target);
}

bool LinearShape::widensRows(const Target &target, int64_t maxRows) const {
  return byteActivations && layout == LayoutKind::Int8 && !target.dotsBytes() &&
         maxRows * wideBytes() <= kMaxWideBytes;
}

static int64_t getRowSumBytes(const LinearShape &shape, int64_t maxRows) {
  return llvm::alignTo(maxRows * shape.groups * 4, kCacheLine);
}

// A tile has as many blocks as a core follows streams, fewer where that would
// leave less than kMinTiles tiles. The patch of one row is as wide as registers
// allow: 32 of them hold 8 sums, 8 packed words and what unpacks them; AVX2
// has 16. Patches of many rows hold 16 (or 8) sums.
LinearTiling LinearTiling::get(const LinearShape &shape, const Target &target,
                               const LinearTuning &tuning) {
  LinearTiling tiling;
  tiling.prefetchBytes =
      tuning.prefetchBytes ? tuning.prefetchBytes : kPrefetchBytes;
  tiling.tileBlocks = kMaxTileBlocks;
  while (tiling.tileBlocks > 1 &&
         shape.resultBlocks() < tiling.tileBlocks * kMinTiles)
    tiling.tileBlocks /= 2;
  if (tuning.tileBlocks)
    tiling.tileBlocks = tuning.tileBlocks;
  tiling.streams = tuning.resultStores != LinearTuning::kCachedStores;
  int64_t parts = ::qlm::format::kRowBlock / target.lanes();
  int64_t leastStrips = parts * shape.blocksPerResult();
  int64_t tileStrips = tiling.tileBlocks * leastStrips;
  // Float sums need 8 chains to hide the latency of an fma; integer sums wait
  // for memory alone, and 4 streams come faster than 8 (33 against 29 GB/s).
  int64_t oneRowStrips = shape.byteActivations ? 4 : 8;
  if (tuning.oneRowStrips)
    oneRowStrips = tuning.oneRowStrips;
  if (target.avx512)
    tiling.patches = {{8, 2}, {4, 4}, {2, 4}, {1, oneRowStrips}};
  else if (shape.gated)
    tiling.patches = {{2, 4}, {1, oneRowStrips}};
  else
    tiling.patches = {{4, 2}, {2, 2}, {1, oneRowStrips}};
  // Floats as they are need no registers to be unpacked in: more rows use a
  // weight once it is loaded. Images often have multiples of 7 rows.
  if (shape.layout == LayoutKind::Float32 && !shape.gated) {
    if (target.avx512)
      tiling.patches = {{14, 2}, {7, 2}, {4, 4}, {2, 4}, {1, oneRowStrips}};
    else
      tiling.patches.insert(tiling.patches.begin(), LinearPatch{6, 2});
  }
  // So with codes that vpdpbusd takes as they are: 12 sums wait out its
  // latency.
  if (shape.layout == LayoutKind::Int8 && shape.byteActivations &&
      !shape.gated && target.avxVnni)
    tiling.patches.insert(tiling.patches.begin(), LinearPatch{6, 2});
  for (LinearPatch &patch : tiling.patches)
    patch.strips = std::clamp(patch.strips, leastStrips, tileStrips);
  return tiling;
}

//===----------------------------------------------------------------------===//
// Body
//===----------------------------------------------------------------------===//

static int64_t countBuffers(PackedLinearOp op) {
  return op->getNumOperands() + 1;
}

LinearEmitter::LinearEmitter(PackedLinearOp op, const LinearShape &shape,
                             const LinearTiling &tiling, const AmxPlan &amx,
                             const KernelRequest &request)
    : shape(shape), tiling(tiling), amx(amx), target(request.target),
      lanes(request.target.lanes()), parts(::qlm::format::kRowBlock / lanes),
      hooks(request.hooks),
      frame(request.function, countBuffers(op) + (hooks ? hooks->buffers : 0)),
      b(frame.builder()), rows(frame.size(request.rows)) {
  int64_t next = 0;
  auto take = [&](Value operand) {
    return operand ? frame.buffer(next++).readOnly() : Ptr();
  };
  input = take(op.getInput());
  // Hooks may write them.
  bool writesScales = hooks && hooks->beginRow;
  inputScales = writesScales ? frame.buffer(next++) : take(op.getInputScales());
  outliers = take(op.getOutliers());
  weights = take(op.getWeight());
  scales = take(op.getScales());
  superScales = take(op.getSuperScales());
  zeroPoints = take(op.getZeroPoints());
  bias = take(op.getBias());
  // The result may be written over the residual.
  residual = op.getResidual() ? frame.buffer(next++) : Ptr();
  result = frame.buffer(next);
  rowSums = frame.scratch().at(format::kScratchHead);
  if (shape.widensRows(target, request.maxRows()))
    wideRows = rowSums.at(getRowSumBytes(shape, request.maxRows()));
}

void LinearEmitter::emit() {
  auto emitTiles = [&] {
    if (needsRowSums(shape, target))
      emitOnce([&] { emitRowSums(); });
    b.forRange(frame.lo(), frame.hi(), 1, [&](Val tile) { emitTile(tile); });
  };
  auto emitAmxTiles = [&] { emitAmxRowBlocks(); };
  b.ifThen(frame.lo() < frame.hi(), [&] {
    if (!amx.minRows)
      emitTiles();
    else if (amx.minRows == 1)
      emitAmxTiles();
    else
      b.ifElse(rows >= amx.minRows, emitAmxTiles, emitTiles);
  });
}

/// Emits what a thread needn't do again in its later calls of a launch.
void LinearEmitter::emitOnce(function_ref<void()> prepare) {
  b.ifThen(frame.scratch().load(b.i64()) == 0, [&] {
    prepare();
    frame.scratch().store(b.index(1));
  });
}

// All tiles but the last are full, and all their blocks have 16 features. The
// last one may have fewer blocks, or an unfinished one: those go one by one.
void LinearEmitter::emitTile(Val tile) {
  Val first = tile * tiling.tileBlocks;
  auto emitFull = [&] {
    Val row = b.index(0);
    for (LinearPatch patch : tiling.patches) {
      Val end = row + (rows - row) / patch.rows * patch.rows;
      int64_t patchBlocks = patch.strips / (parts * shape.blocksPerResult());
      // Blocks outside, rows inside: a patch's weights stay in the cache.
      b.forRange(first, first + tiling.tileBlocks, patchBlocks, [&](Val block) {
        b.forRange(row, end, patch.rows, [&](Val firstRow) {
          emitPatch(patch, firstRow, block, /*masked=*/false);
        });
      });
      row = end;
    }
  };
  int64_t fullTiles =
      shape.resultFeatures() / (tiling.tileBlocks * ::qlm::format::kRowBlock);
  if (fullTiles * tiling.tileBlocks == shape.resultBlocks())
    return emitFull();
  auto emitRest = [&] {
    emitRemainingBlocks(first, b.index(shape.resultBlocks()));
  };
  if (fullTiles == 0)
    return emitRest();
  b.ifElse(tile < fullTiles, emitFull, emitRest);
}

void LinearEmitter::emitRemainingBlocks(Val from, Val to) {
  b.forRange(from, to, 1, [&](Val block) {
    Val row = b.index(0);
    for (LinearPatch patch : tiling.patches) {
      Val end = row + (rows - row) / patch.rows * patch.rows;
      patch.strips = parts * shape.blocksPerResult();
      b.forRange(row, end, patch.rows, [&](Val firstRow) {
        // Blocks of a gated linear are whole.
        emitPatch(patch, firstRow, block, /*masked=*/!shape.gated);
      });
      row = end;
    }
  });
}

void LinearEmitter::emitPatch(LinearPatch patch, Val firstRow, Val block,
                              bool masked) {
  int64_t rowBytes = shape.columns * shape.inputBytes;
  Ptr x = wideRows ? wideRows.at(firstRow * shape.wideBytes())
                   : input.at(firstRow * rowBytes);
  Place place = {patch, x, weights.at(block * shape.blockBytes()), firstRow,
                 block};
  store(place, shape.byteActivations ? sumIntegers(place) : sumFloats(place),
        masked);
}

/// Result = inputScales * total + outliers + bias + residual, or the gate of
/// two such.
void LinearEmitter::store(const Place &place, ArrayRef<Val> totals,
                          bool masked) {
  VectorType vector = b.vec(lanes, b.f32());
  int64_t strips = place.patch.strips;
  Val first = place.block * ::qlm::format::kRowBlock;
  for (int64_t r = 0; r < place.patch.rows; ++r) {
    Val row = place.firstRow + r;
    Val rowScale;
    if (inputScales)
      rowScale = b.broadcast(inputScales.at(row * 4).load(b.f32()), lanes);
    SmallVector<Val> wide;
    if (outliers)
      wide = sumOutliers(place.weights, place.block, row, strips);
    auto getSum = [&](int64_t s) {
      Val y = totals[r * strips + s];
      if (rowScale)
        y = y * rowScale;
      if (outliers)
        y = b.fma(loadScale(place.block, b.index(0), s), wide[s], y);
      if (bias)
        y = y + bias.at((first + stripFeature(s)) * 4).load(vector, lanes * 4);
      return y;
    };
    for (int64_t s = 0; s < strips; ++s) {
      // Strips of up follow their block's strips of gate.
      if (shape.gated && s / parts % 2)
        continue;
      Val y = getSum(s);
      if (shape.gated)
        y = emitGated(b, y, getSum(s + parts), target);
      Val feature = first + stripFeature(s);
      Val mask;
      if (masked)
        mask = b.firstLanes(lanes, shape.features - feature);
      storeResult(y, row, feature, mask);
    }
  }
}

/// Whether the results of many rows are stored past the caches: lines that
/// nobody reads before all are written, and that are written as a whole,
/// needn't be fetched for it.
bool LinearEmitter::streamsResults() const {
  return target.avx512 && tiling.streams && !residual &&
         !(hooks && hooks->store) && shape.resultElement.isF32() &&
         shape.resultFeatures() % lanes == 0;
}

void LinearEmitter::storeResult(Val y, Val row, Val feature, Val mask,
                                bool streams) {
  Type element = shape.resultElement;
  VectorType vector = b.vec(lanes, element);
  Val index = row * shape.resultFeatures() + feature;
  Ptr place = result.element(element, index);
  int64_t alignment = element.getIntOrFloatBitWidth() / 8;
  if (residual) {
    Ptr at = residual.element(element, index);
    y = y + (mask ? at.loadMasked(vector, mask, alignment)
                  : at.load(vector, alignment));
  }
  if (hooks && hooks->store)
    return hooks->store(frame, row, Chunk{feature, lanes, lanes, mask}, y);
  y = b.fromF32(y, element);
  if (mask)
    place.storeMasked(y, mask, alignment);
  else if (streams)
    LLVM::StoreOp::create(b, b.getLoc(), y.get(), place.get(), kCacheLine,
                          /*isVolatile=*/false, /*isNonTemporal=*/true);
  else
    place.store(y, alignment);
}

//===----------------------------------------------------------------------===//
// Sums of activations
//===----------------------------------------------------------------------===//

/// Every thread finds the sums that it needs, once a launch: all rows', since
/// its tiles cover all rows.
void LinearEmitter::emitRowSums() {
  b.forRange(b.index(0), rows, 1, [&](Val row) {
    if (wideRows)
      emitWideRow(row);
    b.forRange(b.index(0), b.index(shape.groups), 1, [&](Val group) {
      Val first = row * shape.columns + group * shape.groupColumns;
      Ptr x = input.at(first * shape.inputBytes);
      Val sum = shape.byteActivations ? sumBytes(x, shape.groupColumns)
                                      : sumFloatRow(x, shape.groupColumns);
      if (shape.byteActivations && !shape.zeroPoints)
        sum = sum * -shape.offset;
      rowSums.at((row * shape.groups + group) * 4).store(sum);
    });
  });
}

//===----------------------------------------------------------------------===//
// Loops over columns
//===----------------------------------------------------------------------===//

SmallVector<Val> LinearEmitter::runColumns(
    const Place &place, Val firstColumn, int64_t columns, ArrayRef<Val> init,
    function_ref<void(const Place &, int64_t, MutableArrayRef<Val>)> step) {
  int64_t rounds = columns / kRoundColumns, rest = columns % kRoundColumns;
  int64_t roundBytes = kRoundColumns / shape.wordColumns * shape.wordBytes * 16;
  auto at = [&](Val column) {
    Place moved = place;
    moved.x = place.x.at(column * (wideRows ? 2 : shape.inputBytes));
    moved.weights = place.weights.at(column / kRoundColumns * roundBytes);
    return moved;
  };
  SmallVector<Val> sums(init);
  if (rounds)
    sums =
        b.forRange(firstColumn, firstColumn + rounds * kRoundColumns,
                   kRoundColumns, sums, [&](Val column, ArrayRef<Val> carried) {
                     SmallVector<Val> next(carried);
                     prefetch(place, place.weights, shape.blockBytes(),
                              column / kRoundColumns * roundBytes,
                              tiling.prefetchBytes, roundBytes);
                     step(at(column), kRoundColumns, next);
                     return next;
                   });
  if (rest)
    step(at(firstColumn + rounds * kRoundColumns), rest, sums);
  return sums;
}

/// Fetches what the blocks' streams need \p ahead bytes after \p position,
/// \p bytes of each. Past the end of a block it is the start of the block that
/// the same stream continues with: the patch's blocks are neighbours, and so
/// is the next patch.
void LinearEmitter::prefetch(const Place &place, Ptr base, int64_t blockBytes,
                             Val position, int64_t ahead, int64_t bytes) {
  int64_t blocks = place.patch.strips / parts;
  int64_t resultBlocks = blocks / shape.blocksPerResult();
  Val later = position + ahead;
  Val jump = b.select(later >= blockBytes,
                      b.index((resultBlocks - 1) * blockBytes), b.index(0));
  Ptr stream = base.at(later + jump);
  for (int64_t i = 0; i < blocks; ++i)
    for (int64_t line = 0; line < bytes; line += kCacheLine)
      stream.at(shape.blockDistance(i) * blockBytes + line).prefetch();
}

/// Fetches the scales and zero points of a later group. They are few, but a
/// core that waits for them holds all its streams up.
void LinearEmitter::prefetchScales(const Place &place, Val group) {
  auto fetch = [&](Ptr array, int64_t bytesPerFeature) {
    int64_t groupBytes = 16 * bytesPerFeature;
    int64_t blockBytes = shape.groups * groupBytes;
    prefetch(place, array.at(place.block * blockBytes), blockBytes,
             group * groupBytes, kPrefetchGroups * groupBytes, groupBytes);
  };
  fetch(scales, shape.scaleBytes());
  if (shape.zeroPoints)
    fetch(zeroPoints, 1);
}

SmallVector<Val> LinearEmitter::sumGroups(
    const Place &place,
    function_ref<SmallVector<Val>(const Place &, Val)> sumGroup) {
  int64_t count = place.patch.rows * place.patch.strips;
  Val zero = b.zero(b.vec(lanes, b.f32()));
  SmallVector<Val> totals(count, zero);
  auto addGroup = [&](Val group, ArrayRef<Val> before) {
    if (shape.groups > 1)
      prefetchScales(place, group);
    SmallVector<Val> sums = sumGroup(place, group);
    SmallVector<Val> after;
    SmallVector<Val> stripScales;
    for (int64_t s = 0; s < place.patch.strips; ++s)
      stripScales.push_back(loadScale(place.block, group, s));
    for (int64_t i = 0; i < count; ++i)
      after.push_back(
          b.fma(stripScales[i % place.patch.strips], sums[i], before[i]));
    return after;
  };
  if (shape.groups == 1)
    return addGroup(b.index(0), totals);
  return b.forRange(b.index(0), b.index(shape.groups), 1, totals, addGroup);
}

//===----------------------------------------------------------------------===//
// Entry
//===----------------------------------------------------------------------===//

int64_t mlir::qlm::cpu::getPatchRows(PackedLinearOp op, const Target &target) {
  if (arrangesCodes(op, target))
    return AmxPlan::kTileRows;
  FailureOr<LinearShape> shape = LinearShape::get(op);
  // Where there is no kernel, emitting one says why.
  if (failed(shape))
    return 1;
  // 14 and 7 rows of floats without codes.
  int64_t most =
      LinearTiling::get(*shape, target, LinearTuning()).patches.front().rows;
  return most % 7 ? most : most / 2;
}

bool mlir::qlm::cpu::arrangesCodes(PackedLinearOp op, const Target &target) {
  FailureOr<LinearShape> shape = LinearShape::get(op);
  FailureOr<LinearTuning> tuning = LinearTuning::get(op);
  return succeeded(shape) && succeeded(tuning) && shape->byteActivations &&
         AmxPlan::isFor(*shape, target) && tuning->amxRows == 1;
}

FailureOr<KernelInfo>
mlir::qlm::cpu::emitPackedLinear(PackedLinearOp op,
                                 const KernelRequest &request) {
  FailureOr<LinearShape> shape = LinearShape::get(op);
  if (failed(shape))
    return failure();
  FailureOr<LinearTuning> tuning = LinearTuning::get(op);
  if (failed(tuning))
    return failure();
  LinearTiling tiling = LinearTiling::get(*shape, request.target, *tuning);
  AmxPlan amx;
  if (AmxPlan::isFor(*shape, request.target)) {
    if (!tuning->prefetchBytes)
      tiling.prefetchBytes = kAmxPrefetchBytes;
    // A pair of blocks lies in one tile: another would store it again.
    if (!shape->gated)
      tiling.tileBlocks = std::max(tiling.tileBlocks, AmxPlan::kBlocks);
    amx = AmxPlan::get(*shape, *tuning, request.maxRows());
  }
  LinearEmitter(op, *shape, tiling, amx, request).emit();

  KernelInfo info;
  info.tiles = request.tilesPerStep(
      llvm::divideCeil(shape->resultBlocks(), tiling.tileBlocks));
  if (needsRowSums(*shape, request.target))
    info.scratchBytes =
        format::kScratchHead + getRowSumBytes(*shape, request.maxRows());
  if (shape->widensRows(request.target, request.maxRows()))
    info.scratchBytes += request.maxRows() * shape->wideBytes();
  if (amx.minRows)
    info.scratchBytes = format::kScratchHead + amx.end;
  int64_t rows = shape->blocks * ::qlm::format::kRowBlock;
  info.bytes = shape->blocks * shape->blockBytes();
  if (shape->quantized)
    info.bytes += rows * shape->groups *
                  (shape->scaleBytes() + (shape->zeroPoints ? 1 : 0));
  if (shape->doubleScales)
    info.bytes += op.getSuperScales().getType().getNumElements() * 4;
  if (op.getBias())
    info.bytes += rows * 4;
  info.flopsPerRow = 2 * shape->features * shape->columns;
  if (shape->gated)
    info.flopsPerRow += kGateFlops * shape->resultFeatures();
  return info;
}

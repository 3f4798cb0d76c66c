//===- GraphRowBlocks.cpp - Linears of a graph's rows, with more ----------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "GraphRowBlocks.h"

#include "Cpu/Chunks.h"
#include "FusedRows.h"
#include "GraphHooks.h"
#include "qlm/Package/Format.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/Dominance.h"
#include "mlir/IR/Matchers.h"
#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::kernel;

/// Bytes of activations that a block of rows should have: half of a small
/// second-level cache.
static constexpr int64_t kBlockBytes = 512 * 1024;
/// Fewer rows would read the weights too often, more make scratch large.
static constexpr int64_t kFewestRows = 64, kMostRows = 512;
/// Tiles of a block, so that few blocks keep several threads busy.
static constexpr int64_t kBlockTiles = 4;

//===----------------------------------------------------------------------===//
// What goes together
//===----------------------------------------------------------------------===//

/// Whether all but the values of \p own that \p op takes are there at \p place.
static bool isReady(linalg::GenericOp op, ArrayRef<Value> own,
                    Operation *place) {
  return llvm::all_of(op.getDpsInputs(), [&](Value value) {
    if (llvm::is_contained(own, value))
      return true;
    Operation *made = value.getDefiningOp();
    return !made || (made->getBlock() == place->getBlock() &&
                     (made == place || made->isBeforeInBlock(place)));
  });
}

/// Whether \p op is a map of rows like \p rows, some of which are \p own.
static bool isMapOf(linalg::GenericOp op, Value rows) {
  if (!isRowMap(op) ||
      getRanked(op.getResult(0)).getShape() != getRanked(rows).getShape())
    return false;
  for (OpOperand *operand : op.getDpsInputOperands())
    if (operand->get() == rows &&
        getMapOperand(op, *operand) != MapOperand::Rows)
      return false;
  return true;
}

static linalg::GenericOp getOnlyMap(Value value) {
  if (!value.hasOneUse())
    return {};
  auto op = dyn_cast<linalg::GenericOp>(*value.user_begin());
  return op && op->getBlock() == value.getParentBlock() && isMapOf(op, value)
             ? op
             : linalg::GenericOp();
}

/// Finds what the result of \p fused becomes.
static void findAfter(FusedLinear &fused) {
  Value result = fused.linear.getResult();
  SmallVector<Value> own{result};
  fused.place = fused.linear;
  if (!getRanked(result).getElementType().isF32())
    return;
  // The launch may wait for another operand of the only user.
  if (linalg::GenericOp only = getOnlyMap(result))
    fused.place = only;
  for (size_t i = 0; i < own.size(); ++i) {
    SmallVector<linalg::GenericOp> users;
    for (Operation *user : own[i].getUsers()) {
      auto op = dyn_cast<linalg::GenericOp>(user);
      if (op && op->getBlock() == fused.linear->getBlock() &&
          isMapOf(op, own[i]) && !llvm::is_contained(fused.after, op) &&
          isReady(op, own, fused.place))
        users.push_back(op);
    }
    llvm::sort(users, [](linalg::GenericOp a, linalg::GenericOp b) {
      return a->isBeforeInBlock(b);
    });
    for (linalg::GenericOp op : users) {
      fused.after.push_back(op);
      own.push_back(op.getResult(0));
    }
  }
}

/// Whether all users of \p value are among the operations taken over.
static bool isPrivate(Value value, const FusedLinear &fused) {
  return llvm::all_of(value.getUsers(), [&](Operation *user) {
    return llvm::is_contained(fused.after, user);
  });
}

/// What makes the rows of \p fused.
static void findBefore(FusedLinear &fused) {
  PackedLinearOp linear = fused.linear;
  Value rows = linear.getInput();
  auto quantize = rows.getDefiningOp<DynamicQuantizeOp>();
  if (quantize && !quantize.getThreshold() && !linear.getOutliers() &&
      rows.hasOneUse() && linear.getInputScales() == quantize.getResult(1) &&
      quantize.getResult(1).hasOneUse()) {
    fused.quantize = quantize;
    rows = quantize.getInput();
  }
  if (auto windows = rows.getDefiningOp<graph::WindowsOp>()) {
    fused.windows = windows;
    return;
  }
  auto map = rows.getDefiningOp<linalg::GenericOp>();
  if (map && rows.hasOneUse() && isRowMap(map) &&
      map->getBlock() == linear->getBlock())
    fused.before = map;
}

FusedLinear FusedLinear::get(PackedLinearOp linear) {
  FusedLinear fused;
  fused.linear = linear;
  findAfter(fused);
  findBefore(fused);
  auto add = [&](Value value) {
    if (value && !llvm::is_contained(fused.inputs, value))
      fused.inputs.push_back(value);
  };
  if (fused.before)
    llvm::for_each(fused.before.getDpsInputs(), add);
  else
    add(fused.getSource());
  for (Value operand : linear->getOperands())
    if (operand != linear.getInput() &&
        !(fused.quantize && operand == linear.getInputScales()))
      add(operand);
  SmallVector<Value> own{linear.getResult()};
  for (linalg::GenericOp op : fused.after) {
    for (Value value : op.getDpsInputs())
      if (!llvm::is_contained(own, value))
        add(value);
    own.push_back(op.getResult(0));
  }
  for (Value value : own)
    if (!isPrivate(value, fused))
      fused.stored.push_back(value);
  return fused;
}

Value FusedLinear::getSource() {
  if (windows)
    return windows.getInput();
  return quantize ? quantize.getInput() : linear.getInput();
}

void FusedLinear::erase() {
  for (linalg::GenericOp op : llvm::reverse(after))
    op.erase();
  linear.erase();
  for (Operation *op :
       {quantize.getOperation(), windows.getOperation(), before.getOperation()})
    if (op && op->use_empty())
      op->erase();
}

//===----------------------------------------------------------------------===//
// The kernel
//===----------------------------------------------------------------------===//

namespace {
class RowBlocksEmitter : FusedRows {
public:
  RowBlocksEmitter(const cpu::Target &target, FusedLinear &fused,
                   const RowBlocks &blocks, func::FuncOp linear,
                   func::FuncOp quantize, const GraphHooks &hooked,
                   int64_t linearScratch, func::FuncOp function);
  void emit();
  using FusedRows::getScratchBytes;

private:
  void emitBlock(const Part &part);
  Ptr emitBefore(const Part &part);
  void emitMap(linalg::GenericOp op, const Part &part, Val lo, Val hi, Ptr to);
  void emitAfter(const Part &part, Ptr result);

  /// Whether the linear's kernel makes its rows, or maps its results.
  bool makesRows() const { return static_cast<bool>(hooked.hooks.beginRow); }
  bool mapsResults() const { return static_cast<bool>(hooked.hooks.store); }

  func::FuncOp linear, quantize;
  const GraphHooks &hooked;
  int64_t made = 0, codes = 0, scales = 0, sums = 0; ///< in scratch
};
} // namespace

RowBlocksEmitter::RowBlocksEmitter(const cpu::Target &target,
                                   FusedLinear &fused, const RowBlocks &blocks,
                                   func::FuncOp linear, func::FuncOp quantize,
                                   const GraphHooks &hooked,
                                   int64_t linearScratch, func::FuncOp function)
    : FusedRows(target, fused, blocks, function), linear(linear),
      quantize(quantize), hooked(hooked) {
  takeScratch(linearScratch);
  PackedLinearOp op = fused.linear;
  int64_t count = blocks.rows;
  if (fused.windows || (fused.before && !makesRows())) {
    Value value =
        fused.windows ? fused.windows.getResult() : fused.before.getResult(0);
    made = take(count * op.getInFeatures() * elementBytes(value));
  }
  if (quantize)
    codes = take(count * op.getInFeatures());
  if (fused.quantize)
    scales = take(count * 4);
  if (!fused.after.empty() && !mapsResults())
    sums = take(count * op.getOutFeatures() * 4);
}

void RowBlocksEmitter::emit() {
  forBlocks(frame.size(SizeKind::Tokens), blocks.unit,
            [&](const Part &part) { emitBlock(part); });
}

/// Makes the linear's rows; gives their address.
Ptr RowBlocksEmitter::emitBefore(const Part &part) {
  if (makesRows()) {
    makeOnce(part, [] {});
    return getRows(fused.inputs.front(), part.first);
  }
  bool makes = fused.windows || fused.before;
  Ptr from =
      makes ? frame.scratch().at(made) : getRows(fused.getSource(), part.first);
  makeOnce(part, [&] {
    if (fused.windows)
      emitWindows(b, fused.windows, getBuffer(fused.getSource()), part.first,
                  part.count, from);
    else if (fused.before)
      emitMap(fused.before, part, b.index(0),
              b.index(fused.linear.getInFeatures()), from);
    if (quantize)
      call(quantize,
           {from, frame.scratch().at(codes), frame.scratch().at(scales)},
           part.count, b.index(0), part.count);
  });
  return quantize ? frame.scratch().at(codes) : from;
}

/// Columns [\p lo, \p hi) of a block's rows of \p op; \p to is the first.
void RowBlocksEmitter::emitMap(linalg::GenericOp op, const Part &part, Val lo,
                               Val hi, Ptr to) {
  int64_t columns = getRanked(op.getResult(0)).getDimSize(1);
  Type element = getRanked(op.getResult(0)).getElementType();
  b.forRange(b.index(0), part.count, 1, [&](Val r) {
    SmallVector<Ptr> places;
    for (OpOperand *operand : op.getDpsInputOperands())
      places.push_back(getOperandRow(op, *operand, getBuffer(operand->get()),
                                     part.first + r));
    Ptr row = to.element(element, r * columns);
    cpu::forChunks(b, lo, hi, columns, lanes, [&](const cpu::Chunk &chunk) {
      SmallVector<Val> inputs;
      for (auto [operand, place] :
           llvm::zip_equal(op.getDpsInputOperands(), places))
        inputs.push_back(loadOperand(b, op, *operand, place, chunk));
      chunk.store(b, row, emitRowMap(b, op, inputs, lanes));
    });
  });
}

/// What the linear's rows at \p result become, all in one pass.
void RowBlocksEmitter::emitAfter(const Part &part, Ptr result) {
  int64_t columns = fused.linear.getOutFeatures();
  Val lo = part.from * blocks.tileColumns;
  Val hi = b.min(part.to * blocks.tileColumns, b.index(columns));
  b.forRange(b.index(0), part.count, 1, [&](Val r) {
    RowPlaces places = getPlaces(part.first + r);
    Ptr sumRow = result.element(b.f32(), r * columns);
    cpu::forChunks(b, lo, hi, columns, lanes, [&](const cpu::Chunk &chunk) {
      emitAfterChunk(b, fused, places, chunk, chunk.load(b, sumRow, b.f32()));
    });
  });
}

/// Whether operands of maps, or results, have a row for each row.
static bool hasRows(Value value) {
  RankedTensorType type = getRanked(value);
  return type.getRank() == 2 &&
         !(type.hasStaticShape() && type.getNumElements() == 1);
}

void RowBlocksEmitter::emitBlock(const Part &part) {
  Ptr from = emitBefore(part);
  PackedLinearOp op = fused.linear;
  Value last = op.getResult();
  bool isStored = llvm::is_contained(fused.stored, last);
  Ptr result = isStored        ? getRows(last, part.first)
               : mapsResults() ? from
                               : frame.scratch().at(sums);
  SmallVector<Ptr> pointers;
  for (Value operand : op->getOperands()) {
    Ptr place;
    if (operand == op.getInput())
      place = from;
    else if (fused.quantize && operand == op.getInputScales())
      place = frame.scratch().at(scales);
    else if (operand == op.getInputScales() || operand == op.getOutliers() ||
             operand == op.getResidual())
      place = getRows(operand, part.first);
    else
      place = getBuffer(operand);
    pointers.push_back(place);
  }
  pointers.push_back(result);
  for (Value value : hooked.buffers)
    pointers.push_back(hasRows(value) ? getRows(value, part.first)
                                      : getBuffer(value));
  call(linear, pointers, part.count, part.from, part.to);
  if (!fused.after.empty() && !mapsResults())
    emitAfter(part, result);
}

//===----------------------------------------------------------------------===//
// Cutting
//===----------------------------------------------------------------------===//

/// Says how \p op is cut: its tiles, and whether its results are read next.
/// Matrix registers take all numbers of rows: a second way for a few would be
/// half of the code.
static int64_t tune(PackedLinearOp op, bool isRead, bool hasMatrices,
                    bool isSmall) {
  int64_t count = llvm::divideCeil(op.getOutFeatures(), 16), tileBlocks = 2;
  while (tileBlocks < 64 && count > tileBlocks * kBlockTiles)
    tileBlocks *= 2;
  Builder b(op.getContext());
  SmallVector<NamedAttribute> choices{
      b.getNamedAttr("tile_blocks", b.getI64IntegerAttr(tileBlocks))};
  if (isRead)
    choices.push_back(
        b.getNamedAttr("result_stores",
                       b.getI64IntegerAttr(cpu::LinearTuning::kCachedStores)));
  if (hasMatrices)
    choices.push_back(b.getNamedAttr("amx_rows", b.getI64IntegerAttr(1)));
  if (hasMatrices && isSmall)
    choices.push_back(b.getNamedAttr("one_patch", b.getI64IntegerAttr(1)));
  op->setAttr(cpu::kTuningAttr, b.getDictionaryAttr(choices));
  return tileBlocks;
}

FailureOr<RowBlocksKernel> mlir::qlm::emitRowBlocks(ModuleOp kernels,
                                                    const cpu::Target &target,
                                                    FusedLinear &fused,
                                                    bool isSmall) {
  PackedLinearOp op = fused.linear;
  int64_t bytes =
      op.getInFeatures() * (fused.quantize ? 4 : elementBytes(op.getInput()));
  RowBlocksKernel kernel;
  kernel.blocks.rows =
      std::clamp(kBlockBytes / bytes, kFewestRows, kMostRows) / 16 * 16;
  kernel.blocks.tileColumns =
      16 * tune(op, !fused.after.empty(), target.amxInt8, isSmall);
  cpu::StepLimits limits{kernel.blocks.rows, 1, 1};
  // A kernel for one launch alone can do more of it; others are shared.
  GraphHooks hooked;
  if (isSmall && cpu::arrangesCodes(op, target))
    hooked = GraphHooks::get(fused, target, /*roundsRows=*/true);
  FailureOr<cpu::KernelInfo> info =
      hooked.hooks.buffers
          ? cpu::emitHookedLinear(kernels, op, target, limits, hooked.hooks)
          : cpu::emitKernel(kernels, op, target, SizeKind::Tokens, limits);
  if (failed(info))
    return failure();
  kernel.blocks.tiles = info->tiles.getCount();
  kernel.blocks.unit = cpu::getPatchRows(op, target);
  auto find = [&](const cpu::KernelInfo &info) {
    return kernels.lookupSymbol<func::FuncOp>(info.name);
  };
  func::FuncOp quantize;
  int64_t scratch = info->scratchBytes;
  if (fused.quantize && !hooked.hooks.beginRow) {
    FailureOr<cpu::KernelInfo> rounding = cpu::emitKernel(
        kernels, fused.quantize, target, SizeKind::Tokens, limits);
    if (failed(rounding))
      return failure();
    quantize = find(*rounding);
    scratch = std::max(scratch, rounding->scratchBytes);
  }
  func::FuncOp linear = find(*info);
  kernel.name = getFreeKernelName(kernels, info->name + "_rows");
  func::FuncOp function = createKernelFunction(kernels, kernel.name);
  RowBlocksEmitter emitter(target, fused, kernel.blocks, linear, quantize,
                           hooked, scratch, function);
  emitter.emit();
  kernel.scratchBytes = emitter.getScratchBytes();
  return kernel;
}

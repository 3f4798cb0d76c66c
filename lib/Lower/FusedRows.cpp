//===- FusedRows.cpp - What launches of fused linears share ---------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "FusedRows.h"

#include "qlm/Package/Format.h"
#include "qlm/Package/LaunchScratch.h"

#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::kernel;

static constexpr int64_t kLine = 64;
/// Buffers of a rounding kernel.
static constexpr int64_t kQuantizeBuffers = 3;
/// Sizes of a step.
static constexpr int64_t kSizes = 4;

std::string mlir::qlm::getFreeKernelName(ModuleOp kernels, StringRef base) {
  std::string name = base.str();
  for (int64_t same = 1; kernels.lookupSymbol(name); ++same)
    name = (base + "_" + Twine(same)).str();
  return name;
}

static Ptr allocate(KernelBuilder &b, int64_t words) {
  Value count = b.index(words).get();
  return Ptr(LLVM::AllocaOp::create(b, b.getLoc(), b.ptr(), b.i64(), count),
             &b);
}

FusedRows::FusedRows(const cpu::Target &target, FusedLinear &fused,
                     const RowBlocks &blocks, func::FuncOp function)
    : fused(fused), blocks(blocks),
      frame(function, fused.inputs.size() + fused.stored.size()),
      b(frame.builder()), lanes(target.lanes()) {
  // A linear's own, and those of what its kernel takes over.
  int64_t buffers = fused.linear->getNumOperands() + 1 + fused.inputs.size() +
                    fused.stored.size();
  list = allocate(b, std::max(buffers, kQuantizeBuffers));
  sizes = allocate(b, kSizes);
  madeBlock = take(::qlm::format::kScratchHead);
}

void FusedRows::takeScratch(int64_t bytes) {
  callees = take(std::max(bytes, ::qlm::format::kScratchHead));
}

void FusedRows::makeOnce(const Part &part, llvm::function_ref<void()> make) {
  Ptr made = frame.scratch().at(madeBlock);
  // None is made when a launch begins: 0.
  Val number = part.block + 1;
  b.ifThen(made.load(b.i64()) != number, [&] {
    make();
    // Tiles of a block are a launch of the kernel that multiplies.
    frame.scratch().at(callees).store(b.index(0));
    made.store(number);
  });
}

/// A line lies between two areas: kernels may read past one.
int64_t FusedRows::take(int64_t bytes) {
  return std::exchange(scratchBytes,
                       scratchBytes + llvm::alignTo(bytes, kLine) + kLine);
}

Ptr FusedRows::getBuffer(Value value) const {
  auto at = llvm::find(fused.inputs, value);
  if (at != fused.inputs.end())
    return frame.buffer(at - fused.inputs.begin());
  auto result = llvm::find(fused.stored, value);
  return frame.buffer(fused.inputs.size() + (result - fused.stored.begin()));
}

Ptr mlir::qlm::getRows(Value value, Ptr buffer, Val first) {
  RankedTensorType type = getRanked(value);
  int64_t columns = type.getRank() > 1 ? type.getDimSize(1) : 1;
  return buffer.at(first * (columns * elementBytes(value)));
}

Ptr FusedRows::getRows(Value value, Val first) {
  return mlir::qlm::getRows(value, getBuffer(value), first);
}

void FusedRows::forBlocks(Val rows, int64_t unit,
                          llvm::function_ref<void(const Part &)> body) {
  Val count = (rows + (blocks.rows - 1)) / blocks.rows;
  count = b.select(rows >= RowBlocks::kFewRows, (count + 1) / 2 * 2, count);
  Val size = b.select(count > 0, (rows + count - 1) / b.max(count, b.index(1)),
                      b.index(1));
  Val more = (size + (unit - 1)) / unit * unit, shift = b.index(0);
  more = b.min(more, b.index(blocks.rows));
  if (blocks.unit) {
    Val fewer = (size + unit / 2) / unit * unit;
    Val first = rows - fewer * (count - 1);
    Val fits = (first <= blocks.rows) & (first > 0) & (fewer <= blocks.rows);
    size = b.select(fits, fewer, more);
    shift = b.select(fits, first - fewer, shift);
  } else {
    size = more;
  }
  Val tiles = b.select(count >= RowBlocks::kManyBlocks, b.index(1),
                       b.index(blocks.tiles));
  Val most = b.index(blocks.tiles);
  b.forRange(frame.lo() / tiles, (frame.hi() + tiles - 1) / tiles, 1,
             [&](Val block) {
               Part part;
               part.block = block;
               Val begin = block * size + shift;
               part.first = b.select(block == 0, b.index(0), begin);
               part.count = b.min(begin + size, rows) - part.first;
               // Tiles of many blocks have all of the kernel's.
               Val from = b.max(frame.lo() - block * tiles, b.index(0));
               Val to = b.min(frame.hi() - block * tiles, tiles);
               part.from = from;
               part.to = b.select(to == tiles, most, to);
               b.ifThen(part.first < rows, [&] { body(part); });
             });
}

void FusedRows::call(func::FuncOp callee, ArrayRef<Ptr> pointers, Val rows,
                     Val lo, Val hi) {
  for (auto [i, pointer] : llvm::enumerate(pointers))
    list.at(8 * static_cast<int64_t>(i)).store(b.val(pointer.get()), 8);
  sizes.at(8 * ::qlm::format::kSizeTokens).store(rows, 8);
  func::CallOp::create(b, b.getLoc(), callee,
                       ValueRange{list.get(), sizes.get(), lo.get(), hi.get(),
                                  frame.scratch().at(callees).get()});
}

Val mlir::qlm::loadOperand(KernelBuilder &b, linalg::GenericOp op,
                           OpOperand &operand, Ptr row,
                           const cpu::Chunk &chunk) {
  Type element = getRanked(operand.get()).getElementType();
  switch (*getMapOperand(op, operand)) {
  case MapOperand::One:
    return b.broadcast(row.readOnly().load(element), chunk.lanes);
  default:
    return row.element(element, chunk.first).load(b.vec(chunk.lanes, element));
  }
}

Ptr mlir::qlm::getOperandRow(linalg::GenericOp op, OpOperand &operand,
                             Ptr buffer, Val row) {
  if (getMapOperand(op, operand) == MapOperand::Rows)
    return getRows(operand.get(), buffer, row);
  return buffer;
}

RowPlaces mlir::qlm::getAfterPlaces(const FusedLinear &fused,
                                    function_ref<Ptr(Value)> getBuffer,
                                    Val row) {
  RowPlaces places;
  for (linalg::GenericOp op : fused.after)
    for (OpOperand *operand : op.getDpsInputOperands())
      if (llvm::is_contained(fused.inputs, operand->get()))
        places[operand->get()] =
            getOperandRow(op, *operand, getBuffer(operand->get()), row);
  for (Value value : fused.stored)
    places[value] = getRows(value, getBuffer(value), row);
  return places;
}

void mlir::qlm::emitAfterChunk(KernelBuilder &b, const FusedLinear &fused,
                               const RowPlaces &places, const cpu::Chunk &chunk,
                               Val sums) {
  llvm::SmallDenseMap<Value, Val> values;
  values[PackedLinearOp(fused.linear).getResult()] = sums;
  for (linalg::GenericOp op : fused.after) {
    SmallVector<Val> inputs;
    for (OpOperand *operand : op.getDpsInputOperands()) {
      Val own = values.lookup(operand->get());
      inputs.push_back(own ? own
                           : loadOperand(b, op, *operand,
                                         places.lookup(operand->get()), chunk));
    }
    Value value = op.getResult(0);
    values[value] = emitRowMap(b, op, inputs, chunk.lanes);
    if (llvm::is_contained(fused.stored, value))
      chunk.store(b, places.lookup(value), values[value]);
  }
}

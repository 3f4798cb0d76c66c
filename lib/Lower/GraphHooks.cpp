//===- GraphHooks.cpp - Fused linears inside of one kernel ----------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "GraphHooks.h"

#include "Cpu/Bytes.h"
#include "Cpu/RowFormulas.h"
#include "FusedRows.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::kernel;
using CodesFn = cpu::LinearHooks::CodesFn;

/// Vectors of codes in a register.
static constexpr int64_t kParts = 4;
static constexpr unsigned kAllParts = (1u << kParts) - 1;

namespace {
/// Emits the hooks' parts of a kernel for one linear.
class HooksEmitter {
public:
  HooksEmitter(FusedLinear &fused, ArrayRef<Value> buffers, int64_t lanes,
               KernelFrame &frame)
      : fused(fused), buffers(buffers), lanes(lanes), frame(frame),
        b(frame.builder()) {}

  CodesFn beginRow(Val row, Ptr inputScales);
  void store(Val row, const cpu::Chunk &chunk, Val y);

private:
  Ptr getBuffer(Value value) {
    int64_t own = fused.linear->getNumOperands() + 1;
    return frame.buffer(own + (llvm::find(buffers, value) - buffers.begin()));
  }
  SmallVector<Val> loadInputs(Val row, const cpu::Chunk &chunk);
  Val getValues(Val row, const cpu::Chunk &chunk);
  Val getCodes(Val row, Val column, unsigned wanted, Val factor);

  FusedLinear &fused;
  ArrayRef<Value> buffers;
  int64_t lanes;
  KernelFrame &frame;
  KernelBuilder &b;
};
} // namespace

SmallVector<Val> HooksEmitter::loadInputs(Val row, const cpu::Chunk &chunk) {
  SmallVector<Val> inputs;
  for (OpOperand *operand : fused.before.getDpsInputOperands()) {
    Ptr place =
        getOperandRow(fused.before, *operand, getBuffer(operand->get()), row);
    inputs.push_back(loadOperand(b, fused.before, *operand, place, chunk));
  }
  return inputs;
}

/// The elements of a row before they are rounded.
Val HooksEmitter::getValues(Val row, const cpu::Chunk &chunk) {
  if (fused.before)
    return emitRowMap(b, fused.before, loadInputs(row, chunk), lanes);
  Value source = fused.getSource();
  Ptr from = getRows(source, getBuffer(source).readOnly(), row);
  return chunk.load(b, from, b.f32());
}

/// Codes of the parts that are wanted from \p column on; \p factor is null
/// where the map before gives codes.
Val HooksEmitter::getCodes(Val row, Val column, unsigned wanted, Val factor) {
  auto getChunk = [&](int64_t part) {
    return cpu::Chunk{column + part * lanes, lanes, lanes};
  };
  double bound = 0;
  if (factor)
    bound = fused.quantize.getScheme().getBoundValue();
  auto getInts = [&](int64_t part) {
    return cpu::roundRowValues(b, getValues(row, getChunk(part)), factor,
                               bound);
  };
  auto most = static_cast<int64_t>(bound);
  if (wanted == kAllParts) {
    if (!factor)
      return emitRowCodes(
          b, fused.before,
          [&](int64_t part) { return loadInputs(row, getChunk(part)); }, lanes);
    SmallVector<Val> ints;
    for (int64_t part = 0; part < kParts; ++part)
      ints.push_back(getInts(part));
    return cpu::packBytes(b, ints, -most, most);
  }
  Val parts[kParts];
  for (int64_t part = 0; part < kParts; ++part)
    parts[part] = !(wanted >> part & 1) ? b.zero(b.vec(lanes, b.i8()))
                  : factor ? cpu::clampToBytes(b, getInts(part), -most, most)
                           : getValues(row, getChunk(part));
  return b.concat(b.concat(parts[0], parts[1]), b.concat(parts[2], parts[3]));
}

CodesFn HooksEmitter::beginRow(Val row, Ptr inputScales) {
  Val factor;
  if (fused.quantize) {
    cpu::RowRounding rounding(b, fused.quantize.getScheme(), std::nullopt,
                              fused.linear.getInFeatures(), lanes);
    Val magnitude = rounding.getMagnitude(
        [&](const cpu::Chunk &chunk) { return getValues(row, chunk); });
    factor = b.broadcast(
        rounding.storeScale(magnitude, inputScales.element(b.f32(), row)),
        lanes);
  }
  return [emitter = *this, row, factor](Val column, unsigned wanted) mutable {
    return emitter.getCodes(row, column, wanted, factor);
  };
}

void HooksEmitter::store(Val row, const cpu::Chunk &chunk, Val y) {
  RowPlaces places =
      getAfterPlaces(fused, [&](Value value) { return getBuffer(value); }, row);
  Value result = fused.linear.getResult();
  if (llvm::is_contained(fused.stored, result))
    chunk.store(b, places.lookup(result), y);
  emitAfterChunk(b, fused, places, chunk, y);
}

GraphHooks GraphHooks::get(FusedLinear &fused, const cpu::Target &target,
                           bool roundsRows) {
  GraphHooks made;
  auto add = [&](Value value) {
    if (!llvm::is_contained(made.buffers, value))
      made.buffers.push_back(value);
  };
  bool rounds =
      roundsRows && !fused.windows && (fused.quantize || fused.before);
  if (rounds && fused.before)
    llvm::for_each(fused.before.getDpsInputs(), add);
  else if (rounds)
    add(fused.getSource());
  if (!fused.after.empty()) {
    for (linalg::GenericOp op : fused.after)
      for (Value value : op.getDpsInputs())
        if (llvm::is_contained(fused.inputs, value))
          add(value);
    llvm::for_each(fused.stored, add);
  }
  made.hooks.buffers = made.buffers.size();
  FusedLinear *linear = &fused;
  int64_t lanes = target.lanes();
  auto getEmitter = [linear, buffers = made.buffers,
                     lanes](KernelFrame &frame) {
    return HooksEmitter(*linear, buffers, lanes, frame);
  };
  if (rounds)
    made.hooks.beginRow = [getEmitter](KernelFrame &frame, Val row,
                                       Ptr inputScales) {
      return getEmitter(frame).beginRow(row, inputScales);
    };
  if (!fused.after.empty())
    made.hooks.store = [getEmitter](KernelFrame &frame, Val row,
                                    const cpu::Chunk &chunk, Val y) {
      getEmitter(frame).store(row, chunk, y);
    };
  return made;
}

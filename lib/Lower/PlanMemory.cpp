//===- PlanMemory.cpp - Places activations in the arena -------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "StepRows.h"
#include "qlm/Lower/LaunchGroup.h"
#include "qlm/Lower/Passes.h"
#include "qlm/Package/Format.h"

#include "llvm/Support/MathExtras.h"

namespace mlir::qlm {
#define GEN_PASS_DEF_PLANMEMORY
#include "qlm/Lower/Passes.h.inc"
} // namespace mlir::qlm

using namespace mlir;
using namespace mlir::qlm;

/// Kernels may read, and not use, this many bytes past a buffer.
static constexpr int64_t kReadableTail = ::qlm::format::kAlignment;

namespace {
/// Bytes of the arena in use by one value.
struct Interval {
  int64_t begin, end;
  /// Position, in the list of operations, of the last one that reads it.
  int64_t lastUse;
};

/// Places intervals one after the other at the lowest free offset.
class FirstFit {
public:
  /// Returns the offset of \p bytes that are alive from operation \p now until
  /// operation \p lastUse, both included.
  int64_t place(int64_t bytes, int64_t now, int64_t lastUse) {
    llvm::erase_if(live, [&](const Interval &i) { return i.lastUse < now; });
    int64_t begin = 0;
    auto position = live.begin();
    for (; position != live.end() && position->begin < begin + bytes;
         ++position)
      begin = std::max(begin, position->end);
    live.insert(position, {begin, begin + bytes, lastUse});
    size = std::max(size, begin + bytes);
    return begin;
  }
  int64_t getSize() const { return size; }

private:
  /// Sorted by offset; no two overlap.
  SmallVector<Interval> live;
  int64_t size = 0;
};

struct PlanMemoryPass : mlir::qlm::impl::PlanMemoryBase<PlanMemoryPass> {
  using Base::Base;
  void runOnOperation() override;
};
} // namespace

/// Bytes of a value of \p rows rows, its readable tail included; a multiple of
/// \p alignment.
static int64_t getBytes(RankedTensorType type, int64_t rows,
                        int64_t alignment) {
  int64_t elements = rows;
  for (int64_t size : type.getShape().drop_front())
    elements *= size;
  int64_t bytes = llvm::divideCeil(elements * type.getElementTypeBitWidth(), 8);
  return llvm::alignTo(bytes + kReadableTail, alignment);
}

/// Whether \p value is an activation that the arena holds: neither the logits
/// nor a cache.
static bool livesInArena(OpResult value) {
  if (isa<RopeAppendOp>(value.getOwner()) && value.getResultNumber() == 1)
    return false;
  return llvm::none_of(value.getUsers(), [](Operation *user) {
    return user->hasTrait<OpTrait::IsTerminator>();
  });
}

/// The operation after which nothing that \p op reads is read: where one kernel
/// runs a group, it writes the last one's results while it reads the first
/// one's operands.
static Operation *getLastOfGroup(Operation *op) {
  std::optional<LaunchGroup> group = LaunchGroup::get(op);
  return group ? group->getOperations().back() : op;
}

void PlanMemoryPass::runOnOperation() {
  ModuleOp module = getOperation();
  func::FuncOp step = findStep(module);
  DictionaryAttr plan = findPlan(module);
  if (!step || !plan)
    return signalPassFailure();
  if (alignment < static_cast<int64_t>(::qlm::format::kAlignment) ||
      !llvm::isPowerOf2_64(alignment)) {
    // A plain integer: an Option streams as the first type it converts to.
    int64_t value = alignment;
    module.emitError() << "alignment must be a power of two from "
                       << ::qlm::format::kAlignment << ", got " << value;
    return signalPassFailure();
  }
  int64_t maxTokens = plan.getAs<IntegerAttr>("max_step_tokens").getInt();
  int64_t maxLogitRows = plan.getAs<IntegerAttr>("max_logit_rows").getInt();

  StepRows rows(step);
  DenseMap<Operation *, int64_t> order;
  for (auto [index, op] : llvm::enumerate(rows.getOperations()))
    order[op] = index;
  FirstFit arena;
  Builder builder(&getContext());
  for (auto [index, op] : llvm::enumerate(rows.getOperations())) {
    int64_t count =
        rows.get(op) == SizeKind::LogitRows ? maxLogitRows : maxTokens;
    SmallVector<int64_t> offsets;
    for (OpResult result : op->getResults()) {
      if (!livesInArena(result)) {
        offsets.push_back(-1);
        continue;
      }
      auto type = dyn_cast<RankedTensorType>(result.getType());
      if (!type || type.getRank() < 1 || !type.isDynamicDim(0) ||
          !ShapedType::isStaticShape(type.getShape().drop_front())) {
        op->emitOpError("has a result that isn't [rows, ...] with only the "
                        "rows unknown: ")
            << result.getType();
        return signalPassFailure();
      }
      int64_t lastUse = index;
      for (Operation *user : result.getUsers())
        lastUse = std::max(lastUse, order.lookup(getLastOfGroup(user)));
      offsets.push_back(
          arena.place(getBytes(type, count, alignment), index, lastUse));
    }
    op->setAttr(kOffsetsAttr, builder.getI64ArrayAttr(offsets));
  }
  setPlanInteger(module, "arena_bytes", arena.getSize());
}

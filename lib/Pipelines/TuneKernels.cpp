//===- TuneKernels.cpp - Times choices of kernels on this machine ---------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// No pass: what comes out depends on the machine and the moment.
//
//===----------------------------------------------------------------------===//

#include "KernelTimer.h"
#include "qlm/Pipelines/Pipelines.h"

#include "mlir/IR/MLIRContext.h"
#include "mlir/Pass/PassManager.h"
#include "qlm/Dialect/GatedLinear.h"
#include "qlm/Lower/Kernel/Builder.h"
#include "qlm/Lower/Passes.h"
#include "llvm/ADT/StringMap.h"
#include "llvm/Support/raw_ostream.h"

using namespace mlir;
using namespace mlir::qlm;

/// A choice must save this part of the time, or the cost model's stays.
static constexpr double kLeastGain = 0.03;

namespace {
/// Values of one entry of `qlm.tuning` that are tried.
struct Choice {
  llvm::StringLiteral name;
  SmallVector<int64_t> values;
};
} // namespace

static SmallVector<Choice> getChoices(PackedLinearOp op,
                                      const cpu::Target &target) {
  bool bytes = static_cast<bool>(op.getInputScales());
  SmallVector<Choice> choices = {{"tile_blocks", {2, 4, 16}},
                                 {"prefetch_bytes", {768, 1536, 3072}}};
  choices.push_back({"one_row_strips", bytes ? SmallVector<int64_t>{2, 8}
                                             : SmallVector<int64_t>{4, 16}});
  if (bytes && target.amxInt8)
    choices.push_back({"amx_rows", {4, 8}});
  if (bytes ? target.amxInt8 : target.amxBf16)
    choices.push_back({"chunk_columns", {256, 512, 1024}});
  return choices;
}

/// Everything of \p op that its kernel depends on.
static std::string getKey(PackedLinearOp op) {
  std::string key;
  llvm::raw_string_ostream stream(key);
  stream << op->getPropertiesAsAttribute();
  if (isGated(op))
    stream << kGatedAttr;
  llvm::interleaveComma(op->getOperandTypes(), stream);
  return key;
}

/// Leaves the best choices for \p op on it: one entry after the other, each
/// beside those kept so far.
static llvm::Error tune(PackedLinearOp op, KernelTimer &timer,
                        const cpu::Target &target, int64_t maxRows) {
  // A token, a batch of few, a step of prompts.
  int64_t rowCounts[] = {1, std::min<int64_t>(8, maxRows), maxRows};
  Builder builder(op->getContext());
  op->removeAttr(cpu::kTuningAttr);
  auto model = timer.time(op, rowCounts);
  if (!model)
    return model.takeError();
  // The mean, over the numbers of rows, of the parts of the model's time.
  double best = 1;
  NamedAttrList kept;
  for (const Choice &choice : getChoices(op, target))
    for (int64_t value : choice.values) {
      NamedAttrList tried = kept;
      tried.set(choice.name, builder.getI64IntegerAttr(value));
      op->setAttr(cpu::kTuningAttr, tried.getDictionary(op->getContext()));
      auto times = timer.time(op, rowCounts);
      if (!times)
        return times.takeError();
      double parts = 0;
      for (size_t i = 0; i < times->size(); ++i)
        parts += (*times)[i] / (*model)[i];
      parts /= static_cast<double>(times->size());
      if (parts > best - kLeastGain)
        continue;
      best = parts;
      kept = tried;
    }
  op->removeAttr(cpu::kTuningAttr);
  if (!kept.empty())
    op->setAttr(cpu::kTuningAttr, kept.getDictionary(op->getContext()));
  return llvm::Error::success();
}

llvm::Error
mlir::qlm::tuneKernels(ModuleOp module, StringRef targetCpu, int64_t maxRows,
                       int threads,
                       llvm::function_ref<void(llvm::StringRef)> report) {
  auto target = cpu::Target::get(targetCpu);
  if (!target)
    return target.takeError();
  auto timer = KernelTimer::create(*target, maxRows, threads);
  if (!timer)
    return timer.takeError();
  DialectRegistry registry;
  kernel::registerKernelDialects(registry);
  PassManager pm(module.getContext());
  buildKernelsToLLVMPipeline(pm);
  pm.getDependentDialects(registry);
  module.getContext()->appendDialectRegistry(registry);
  module.getContext()->loadAllAvailableDialects();

  llvm::StringMap<Attribute> found;
  SmallVector<PackedLinearOp> linears;
  module.walk([&](PackedLinearOp op) { linears.push_back(op); });
  for (PackedLinearOp op : linears) {
    auto [entry, isNew] = found.try_emplace(getKey(op));
    if (isNew) {
      if (report)
        report(std::to_string(op.getInFeatures()) + " to " +
               std::to_string(op.getOutFeatures()) + " features");
      if (llvm::Error error = tune(op, **timer, *target, maxRows))
        return error;
      entry->second = op->getAttr(cpu::kTuningAttr);
    } else if (entry->second) {
      op->setAttr(cpu::kTuningAttr, entry->second);
    }
  }
  return llvm::Error::success();
}

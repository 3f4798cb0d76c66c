//===- EmitCpuKernels.cpp - Emits kernels, turns operations to launches ---===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "LaunchArguments.h"
#include "StepRows.h"
#include "qlm/Lower/Cpu/Kernels.h"
#include "qlm/Lower/Passes.h"
#include "qlm/Package/Format.h"

namespace mlir::qlm {
#define GEN_PASS_DEF_EMITCPUKERNELS
#include "qlm/Lower/Passes.h.inc"
} // namespace mlir::qlm

using namespace mlir;
using namespace mlir::qlm;

namespace {
/// Turns the operations of one step to launches.
class LaunchWriter {
public:
  LaunchWriter(ModuleOp kernels, const cpu::Target &target,
               const cpu::StepLimits &limits)
      : kernels(kernels), target(target), limits(limits) {}

  LogicalResult write(Operation *op, SizeKind rows);
  int64_t getScratchBytes() const { return scratchBytes; }

private:
  ModuleOp kernels;
  const cpu::Target &target;
  const cpu::StepLimits &limits;
  WeightKeys keys;
  int64_t scratchBytes = 0;
};

struct EmitCpuKernelsPass
    : mlir::qlm::impl::EmitCpuKernelsBase<EmitCpuKernelsPass> {
  using Base::Base;
  void runOnOperation() override;

private:
  ModuleOp makeKernelModule(const cpu::Target &target);
};
} // namespace

LogicalResult LaunchWriter::write(Operation *op, SizeKind rows) {
  FailureOr<cpu::KernelInfo> info =
      cpu::emitKernel(kernels, op, target, rows, limits);
  if (failed(info))
    return failure();
  scratchBytes = std::max(scratchBytes, info->scratchBytes);
  FailureOr<LaunchArguments> arguments = LaunchArguments::get(op, keys);
  if (failed(arguments))
    return failure();
  OpBuilder builder(op);
  auto kernel = SymbolRefAttr::get(
      builder.getContext(), kKernelsName,
      FlatSymbolRefAttr::get(builder.getContext(), info->name));
  auto launch = LaunchOp::create(
      builder, op->getLoc(), kernel, builder.getStringAttr(getLaunchLabel(op)),
      info->tiles,
      /*rows=*/SizeKindAttr(), /*variants=*/ArrayAttr(),
      builder.getArrayAttr(arguments->args),
      builder.getI64IntegerAttr(info->bytes),
      builder.getI64IntegerAttr(info->flopsPerRow), arguments->weights);
  if (Attribute tuning = op->getAttr(cpu::kTuningAttr))
    launch->setAttr(cpu::kTuningAttr, tuning);
  return success();
}

ModuleOp EmitCpuKernelsPass::makeKernelModule(const cpu::Target &target) {
  OpBuilder builder(&getContext());
  builder.setInsertionPointToEnd(getOperation().getBody());
  auto kernels =
      ModuleOp::create(builder, builder.getUnknownLoc(), kKernelsName);
  kernels->setAttr(kTargetCpuAttr, builder.getStringAttr(target.cpu));
  kernels->setAttr(kTargetFeaturesAttr,
                   builder.getStringAttr(target.featureString()));
  return kernels;
}

void EmitCpuKernelsPass::runOnOperation() {
  ModuleOp module = getOperation();
  func::FuncOp step = findStep(module);
  DictionaryAttr plan = findPlan(module);
  if (!step || !plan)
    return signalPassFailure();
  llvm::Expected<cpu::Target> target = cpu::Target::get(targetCpu);
  if (!target) {
    module.emitError() << llvm::toString(target.takeError());
    return signalPassFailure();
  }
  auto planned = [&](StringRef name) {
    return plan.getAs<IntegerAttr>(name).getInt();
  };
  cpu::StepLimits limits{planned("max_step_tokens"), planned("max_batch"),
                         planned("max_logit_rows")};
  LaunchWriter writer(makeKernelModule(*target), *target, limits);
  StepRows rows(step);
  for (Operation *op : rows.getOperations())
    if (failed(writer.write(op, rows.get(op))))
      return signalPassFailure();
  eraseReplaced(step, rows.getOperations());
  setPlanInteger(module, "scratch_bytes", writer.getScratchBytes());
}

//===- EmitCudaKernels.cpp - Emits GPU kernels, makes launches of them ----===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "LaunchArguments.h"
#include "StepRows.h"
#include "qlm/Lower/Cuda/Kernels.h"
#include "qlm/Lower/Kernel/GpuFrame.h"
#include "qlm/Lower/Passes.h"
#include "qlm/Package/Format.h"

namespace mlir::qlm {
#define GEN_PASS_DEF_EMITCUDAKERNELS
#include "qlm/Lower/Passes.h.inc"
} // namespace mlir::qlm

using namespace mlir;
using namespace mlir::qlm;

namespace {
/// Turns the operations of one step to launches.
class DeviceLaunchWriter {
public:
  DeviceLaunchWriter(std::vector<cuda::KernelEmitter> emitters)
      : emitters(std::move(emitters)) {}

  LogicalResult write(Operation *op, SizeKind rows);
  /// Makes \p sample, a function of one launch, which chooses the tokens of a
  /// step by its logits.
  void writeSampling(func::FuncOp sample, int64_t vocabulary);
  int64_t getWorkspaceBytes() const { return workspaceBytes; }

private:
  /// One for each chip.
  std::vector<cuda::KernelEmitter> emitters;
  WeightKeys keys;
  int64_t workspaceBytes = 0;
};

struct EmitCudaKernelsPass
    : mlir::qlm::impl::EmitCudaKernelsBase<EmitCudaKernelsPass> {
  using Base::Base;

  void getDependentDialects(DialectRegistry &registry) const override {
    registry.insert<QlmDialect>();
    kernel::registerGpuKernelDialects(registry);
  }
  void runOnOperation() override;

private:
  gpu::GPUModuleOp makeKernelModule(const cuda::Target &target, bool cubin,
                                    bool ptx);
  FailureOr<std::vector<cuda::KernelEmitter>>
  makeEmitters(const cuda::StepLimits &limits);
};
} // namespace

LogicalResult DeviceLaunchWriter::write(Operation *op, SizeKind rows) {
  int64_t bytes = 0;
  for (const cuda::KernelEmitter &emitter : emitters)
    bytes = std::max(bytes, emitter.getWorkspaceBytes(op, rows));
  workspaceBytes = std::max(workspaceBytes, bytes);
  SmallVector<Attribute> variants;
  for (cuda::KernelEmitter &emitter : emitters) {
    auto made = emitter.emit(op, rows, /*workspace=*/bytes > 0);
    if (failed(made))
      return failure();
    llvm::append_range(variants, *made);
  }
  FailureOr<LaunchArguments> arguments = LaunchArguments::get(op, keys);
  if (failed(arguments))
    return failure();
  OpBuilder builder(op);
  // Launches follow each other, so that all use the workspace in turn.
  if (bytes > 0)
    arguments->args.push_back(
        ArgAttr::get(op->getContext(), ArgSpace::Workspace, 0));
  cuda::LaunchCost cost = cuda::LaunchCost::get(op);
  LaunchOp::create(
      builder, op->getLoc(), /*kernel=*/SymbolRefAttr(),
      builder.getStringAttr(getLaunchLabel(op)), /*tiles=*/TilesAttr(),
      SizeKindAttr::get(op->getContext(), rows), builder.getArrayAttr(variants),
      builder.getArrayAttr(arguments->args),
      builder.getI64IntegerAttr(cost.bytes),
      builder.getI64IntegerAttr(cost.flopsPerRow), arguments->weights);
  return success();
}

void DeviceLaunchWriter::writeSampling(func::FuncOp sample,
                                       int64_t vocabulary) {
  MLIRContext *context = sample.getContext();
  SmallVector<Attribute> variants;
  for (cuda::KernelEmitter &emitter : emitters)
    variants.push_back(emitter.emitSampling(vocabulary));
  SmallVector<Attribute> args;
  static_assert(static_cast<int>(::qlm::format::StepArgument::Tokens) == 0,
                "the argument that takes the tokens has index 0 too");
  for (ArgSpace space : {ArgSpace::Logits, ArgSpace::Sampling,
                         ArgSpace::Sampled, ArgSpace::Step})
    args.push_back(ArgAttr::get(context, space, 0));
  OpBuilder builder = OpBuilder::atBlockBegin(sample.addEntryBlock());
  Location loc = sample.getLoc();
  LaunchOp::create(builder, loc, /*kernel=*/SymbolRefAttr(),
                   builder.getStringAttr(cuda::kSampleName),
                   /*tiles=*/TilesAttr(),
                   SizeKindAttr::get(context, SizeKind::LogitRows),
                   builder.getArrayAttr(variants), builder.getArrayAttr(args),
                   /*bytes=*/builder.getI64IntegerAttr(0),
                   /*flopsPerRow=*/builder.getI64IntegerAttr(0),
                   /*weights=*/ValueRange());
  func::ReturnOp::create(builder, loc);
}

gpu::GPUModuleOp
EmitCudaKernelsPass::makeKernelModule(const cuda::Target &target, bool cubin,
                                      bool ptx) {
  OpBuilder builder(&getContext());
  builder.setInsertionPointToEnd(getOperation().getBody());
  std::string name = (kKernelsName + "_" + target.chip).str();
  auto kernels =
      gpu::GPUModuleOp::create(builder, builder.getUnknownLoc(), name);
  kernels->setAttr(kernel::kChipAttr, builder.getStringAttr(target.chip));
  if (cubin)
    kernels->setAttr(kCubinAttr, builder.getUnitAttr());
  if (ptx)
    kernels->setAttr(kPtxAttr, builder.getUnitAttr());
  return kernels;
}

FailureOr<std::vector<cuda::KernelEmitter>>
EmitCudaKernelsPass::makeEmitters(const cuda::StepLimits &limits) {
  ModuleOp module = getOperation();
  auto targets = cuda::Target::parseList(chips);
  if (!targets)
    return module.emitError() << llvm::toString(targets.takeError());
  cuda::KernelOptions options;
  options.batchInvariant = batchInvariant;
  std::vector<cuda::KernelEmitter> emitters;
  bool hasFallback = false;
  for (const cuda::Target &target : *targets) {
    bool isFallback = ptx && target.chip == cuda::kFallbackChip;
    hasFallback |= isFallback;
    emitters.emplace_back(makeKernelModule(target, /*cubin=*/true, isFallback),
                          target, limits, options);
  }
  if (!ptx || hasFallback)
    return emitters;
  llvm::Expected<cuda::Target> fallback =
      cuda::Target::get(cuda::kFallbackChip);
  if (!fallback)
    return module.emitError() << llvm::toString(fallback.takeError());
  emitters.emplace_back(
      makeKernelModule(*fallback, /*cubin=*/false, /*ptx=*/true), *fallback,
      limits, options);
  return emitters;
}

void EmitCudaKernelsPass::runOnOperation() {
  ModuleOp module = getOperation();
  func::FuncOp step = findStep(module);
  DictionaryAttr plan = findPlan(module);
  if (!step || !plan)
    return signalPassFailure();
  auto planned = [&](StringRef name) {
    return plan.getAs<IntegerAttr>(name).getInt();
  };
  auto emitters =
      makeEmitters({planned("max_step_tokens"), planned("max_batch"),
                    planned("max_logit_rows")});
  if (failed(emitters))
    return signalPassFailure();
  DeviceLaunchWriter writer(std::move(*emitters));
  StepRows rows(step);
  for (Operation *op : rows.getOperations())
    if (failed(writer.write(op, rows.get(op))))
      return signalPassFailure();
  auto logits = cast<RankedTensorType>(step.getResultTypes().front());
  eraseReplaced(step, rows.getOperations());
  OpBuilder builder(step);
  builder.setInsertionPointAfter(step);
  auto sample = func::FuncOp::create(builder, step.getLoc(), cuda::kSampleName,
                                     builder.getFunctionType({}, {}));
  writer.writeSampling(sample, logits.getDimSize(1));
  setPlanInteger(module, "workspace_bytes", writer.getWorkspaceBytes());
}

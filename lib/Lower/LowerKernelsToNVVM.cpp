//===- LowerKernelsToNVVM.cpp - Lowers GPU kernels to NVVM ----------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Lower/Passes.h"

#include "mlir/Conversion/ArithToLLVM/ArithToLLVM.h"
#include "mlir/Conversion/ControlFlowToLLVM/ControlFlowToLLVM.h"
#include "mlir/Conversion/IndexToLLVM/IndexToLLVM.h"
#include "mlir/Conversion/LLVMCommon/ConversionTarget.h"
#include "mlir/Conversion/LLVMCommon/TypeConverter.h"
#include "mlir/Conversion/MathToLLVM/MathToLLVM.h"
#include "mlir/Conversion/Passes.h"
#include "mlir/Dialect/LLVMIR/NVVMDialect.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Transforms/Passes.h"
#include "qlm/Lower/Cuda/Target.h"
#include "qlm/Lower/Kernel/GpuFrame.h"

namespace mlir::qlm {
#define GEN_PASS_DEF_LOWERKERNELSTONVVM
#include "qlm/Lower/Passes.h.inc"
} // namespace mlir::qlm

using namespace mlir;
using namespace mlir::qlm;

namespace {
/// What is left after scf, vector and nvgpu are gone: arith, math, index and cf
/// become LLVM. Upstream's pass for cf takes whole modules only.
struct ConvertScalarsPass
    : PassWrapper<ConvertScalarsPass, OperationPass<gpu::GPUModuleOp>> {
  MLIR_DEFINE_EXPLICIT_INTERNAL_INLINE_TYPE_ID(ConvertScalarsPass)

  StringRef getArgument() const final { return "qlm-convert-gpu-scalars"; }
  void getDependentDialects(DialectRegistry &registry) const override {
    registry.insert<LLVM::LLVMDialect>();
  }
  void runOnOperation() override {
    LLVMTypeConverter types(&getContext());
    RewritePatternSet patterns(&getContext());
    arith::populateArithToLLVMConversionPatterns(types, patterns);
    populateMathToLLVMConversionPatterns(types, patterns);
    index::populateIndexToLLVMConversionPatterns(types, patterns);
    cf::populateControlFlowToLLVMConversionPatterns(types, patterns);
    LLVMConversionTarget target(getContext());
    target.addLegalDialect<NVVM::NVVMDialect>();
    target.addLegalOp<gpu::GPUModuleOp>();
    if (failed(applyPartialConversion(getOperation(), target,
                                      std::move(patterns))))
      signalPassFailure();
  }
};
} // namespace

void mlir::qlm::buildKernelsToNVVMPipeline(OpPassManager &pm) {
  pm.addPass(createCanonicalizerPass());
  pm.addPass(createCSEPass());
  pm.addPass(createConvertNVGPUToNVVMPass());
  pm.addPass(createSCFToControlFlowPass());
  pm.addPass(createConvertVectorToLLVMPass());
  pm.addPass(std::make_unique<ConvertScalarsPass>());
  pm.addPass(createConvertNVVMToLLVMPass());
  pm.addPass(createReconcileUnrealizedCastsPass());
  pm.addPass(createCanonicalizerPass());
  pm.addPass(createCSEPass());
}

namespace {
struct LowerKernelsToNVVMPass
    : mlir::qlm::impl::LowerKernelsToNVVMBase<LowerKernelsToNVVMPass> {
  using Base::Base;

  void getDependentDialects(DialectRegistry &registry) const override {
    kernel::registerGpuKernelDialects(registry);
    OpPassManager pm(gpu::GPUModuleOp::getOperationName());
    buildKernelsToNVVMPipeline(pm);
    pm.getDependentDialects(registry);
  }

  void runOnOperation() override;
};
} // namespace

void LowerKernelsToNVVMPass::runOnOperation() {
  ModuleOp module = getOperation();
  auto kernels = module.getOps<gpu::GPUModuleOp>();
  if (kernels.empty()) {
    module.emitError(
        "module has no gpu.module; run qlm-emit-cuda-kernels first");
    return signalPassFailure();
  }
  OpPassManager pm(gpu::GPUModuleOp::getOperationName());
  buildKernelsToNVVMPipeline(pm);
  for (gpu::GPUModuleOp part : kernels) {
    auto attr = part->getAttrOfType<StringAttr>(kernel::kChipAttr);
    StringRef name = attr ? attr.getValue() : StringRef(chip);
    llvm::Expected<cuda::Target> target = cuda::Target::get(name);
    if (!target) {
      part.emitError() << llvm::toString(target.takeError());
      return signalPassFailure();
    }
    part->setAttr(kernel::kChipAttr, StringAttr::get(&getContext(), name));
    if (failed(runPipeline(pm, part)))
      return signalPassFailure();
  }
  module->setAttr(kStageAttr, StringAttr::get(&getContext(), "lower"));
}

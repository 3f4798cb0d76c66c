//===- LowerGraph.cpp - Lowers a whole graph to one host function ---------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Lower/LowerGraph.h"

#include "GraphLaunches.h"
#include "mlir/Conversion/Passes.h"
#include "mlir/Dialect/Arith/Transforms/BufferDeallocationOpInterfaceImpl.h"
#include "mlir/Dialect/Arith/Transforms/BufferizableOpInterfaceImpl.h"
#include "mlir/Dialect/Arith/Transforms/Passes.h"
#include "mlir/Dialect/Bufferization/IR/Bufferization.h"
#include "mlir/Dialect/Bufferization/Pipelines/Passes.h"
#include "mlir/Dialect/Bufferization/Transforms/FuncBufferizableOpInterfaceImpl.h"
#include "mlir/Dialect/Bufferization/Transforms/OneShotAnalysis.h"
#include "mlir/Dialect/Bufferization/Transforms/Passes.h"
#include "mlir/Dialect/ControlFlow/IR/ControlFlow.h"
#include "mlir/Dialect/ControlFlow/Transforms/BufferDeallocationOpInterfaceImpl.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/LLVMIR/Transforms/RequestCWrappers.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Linalg/Passes.h"
#include "mlir/Dialect/Linalg/Transforms/BufferizableOpInterfaceImpl.h"
#include "mlir/Dialect/Linalg/Utils/Utils.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/MemRef/Transforms/Passes.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/SCF/Transforms/BufferDeallocationOpInterfaceImpl.h"
#include "mlir/Dialect/SCF/Transforms/BufferizableOpInterfaceImpl.h"
#include "mlir/Dialect/Tensor/Transforms/BufferizableOpInterfaceImpl.h"
#include "mlir/Dialect/Tensor/Transforms/Passes.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Transforms/Passes.h"
#include "qlm/Lower/Cpu/Target.h"
#include "qlm/Lower/GraphPasses.h"
#include "qlm/Package/GraphFormat.h"

using namespace mlir;
using namespace mlir::qlm;

void mlir::qlm::registerGraphDialects(DialectRegistry &registry) {
  registry
      .insert<bufferization::BufferizationDialect, memref::MemRefDialect,
              cf::ControlFlowDialect, scf::SCFDialect, linalg::LinalgDialect,
              LLVM::LLVMDialect, graph::GraphDialect>();
  registerLaunchBufferization(registry);
  arith::registerBufferizableOpInterfaceExternalModels(registry);
  arith::registerBufferDeallocationOpInterfaceExternalModels(registry);
  bufferization::func_ext::registerBufferizableOpInterfaceExternalModels(
      registry);
  cf::registerBufferDeallocationOpInterfaceExternalModels(registry);
  linalg::registerBufferizableOpInterfaceExternalModels(registry);
  scf::registerBufferizableOpInterfaceExternalModels(registry);
  scf::registerBufferDeallocationOpInterfaceExternalModels(registry);
  tensor::registerBufferizableOpInterfaceExternalModels(registry);
}

/// Gives the function that checks rules about sizes its body: where one is
/// broken, the function that the runtime has put in a global variable is called
/// and doesn't come back.
static void defineCheck(ModuleOp module, OpBuilder &b) {
  auto check =
      module.lookupSymbol<LLVM::LLVMFuncOp>("_mlir_ciface_qlm_graph_check");
  if (!check || !check.isExternal())
    return;
  Location loc = module.getLoc();
  auto pointer = LLVM::LLVMPointerType::get(module.getContext());
  b.setInsertionPointToStart(module.getBody());
  auto trap = LLVM::GlobalOp::create(b, loc, pointer, /*isConstant=*/false,
                                     LLVM::Linkage::External,
                                     ::qlm::format::kGraphTrap, Attribute());
  Block *init = b.createBlock(&trap.getInitializerRegion());
  b.setInsertionPointToEnd(init);
  LLVM::ReturnOp::create(b, loc,
                         ValueRange(LLVM::ZeroOp::create(b, loc, pointer)));
  Block *entry = check.addEntryBlock(b);
  Block *broken = b.createBlock(&check.getBody());
  Block *exit = b.createBlock(&check.getBody());
  b.setInsertionPointToEnd(entry);
  LLVM::CondBrOp::create(b, loc, entry->getArgument(0), exit, broken);
  b.setInsertionPointToEnd(broken);
  Value slot = LLVM::AddressOfOp::create(b, loc, trap);
  Value function = LLVM::LoadOp::create(b, loc, pointer, slot);
  auto type = LLVM::LLVMFunctionType::get(
      LLVM::LLVMVoidType::get(module.getContext()), {});
  LLVM::CallOp::create(b, loc, type, ValueRange(function));
  LLVM::BrOp::create(b, loc, exit);
  b.setInsertionPointToEnd(exit);
  LLVM::ReturnOp::create(b, loc, ValueRange());
}

/// Gives the functions that memory comes from and goes to their bodies: calls
/// of the functions that the runtime has put in variables.
static void defineMemory(ModuleOp module, OpBuilder &b) {
  Location loc = module.getLoc();
  auto pointer = LLVM::LLVMPointerType::get(module.getContext());
  auto nothing = LLVM::LLVMVoidType::get(module.getContext());
  auto define = [&](StringRef name, StringRef variable, Type result, Type of) {
    b.setInsertionPointToStart(module.getBody());
    auto global =
        LLVM::GlobalOp::create(b, loc, pointer, /*isConstant=*/false,
                               LLVM::Linkage::External, variable, Attribute());
    b.createBlock(&global.getInitializerRegion());
    LLVM::ReturnOp::create(b, loc,
                           ValueRange(LLVM::ZeroOp::create(b, loc, pointer)));
    auto function = module.lookupSymbol<LLVM::LLVMFuncOp>(name);
    if (!function || !function.isExternal())
      return;
    Block *entry = function.addEntryBlock(b);
    b.setInsertionPointToEnd(entry);
    Value slot = LLVM::AddressOfOp::create(b, loc, global);
    Value callee = LLVM::LoadOp::create(b, loc, pointer, slot);
    auto call =
        LLVM::CallOp::create(b, loc, LLVM::LLVMFunctionType::get(result, {of}),
                             ValueRange{callee, entry->getArgument(0)});
    LLVM::ReturnOp::create(b, loc, call.getResults());
    function.setLinkage(LLVM::Linkage::Internal);
  };
  define("_mlir_memref_to_llvm_free", ::qlm::format::kGraphRelease, nothing,
         pointer);
  define("_mlir_memref_to_llvm_alloc", ::qlm::format::kGraphAllocate, pointer,
         b.getI64Type());
}

LogicalResult mlir::qlm::emitGraphEntry(ModuleOp module, StringRef targetCpu) {
  auto graph = module.lookupSymbol<LLVM::LLVMFuncOp>("_mlir_ciface_graph");
  if (!graph)
    return module.emitError("module has no function @graph to call");
  llvm::Expected<cpu::Target> target = cpu::Target::get(targetCpu);
  if (!target)
    return module.emitError() << llvm::toString(target.takeError());
  OpBuilder b(module.getContext());
  module->setAttr(kTargetCpuAttr, b.getStringAttr(target->cpu));
  module->setAttr(kTargetFeaturesAttr,
                  b.getStringAttr(target->featureString()));
  defineCheck(module, b);
  defineMemory(module, b);
  b.setInsertionPointToEnd(module.getBody());
  Location loc = module.getLoc();
  auto pointer = LLVM::LLVMPointerType::get(module.getContext());
  auto entry = LLVM::LLVMFuncOp::create(
      b, loc, ::qlm::format::kGraphFunction,
      LLVM::LLVMFunctionType::get(LLVM::LLVMVoidType::get(module.getContext()),
                                  {pointer}));
  Block *block = entry.addEntryBlock(b);
  b.setInsertionPointToEnd(block);
  SmallVector<Value> arguments;
  for (unsigned i = 0; i < graph.getNumArguments(); ++i) {
    Value slot =
        LLVM::GEPOp::create(b, loc, pointer, pointer, block->getArgument(0),
                            ArrayRef<LLVM::GEPArg>{int32_t(i)});
    arguments.push_back(LLVM::LoadOp::create(b, loc, pointer, slot));
  }
  LLVM::CallOp::create(b, loc, graph, arguments);
  LLVM::ReturnOp::create(b, loc, ValueRange());
  module->setAttr("qlm.stage", b.getStringAttr("lower"));
  return success();
}

namespace {
/// Copies between buffers with strides become loops; those of whole buffers
/// stay, and become calls of memcpy.
struct LowerStridedCopiesPass
    : PassWrapper<LowerStridedCopiesPass, OperationPass<ModuleOp>> {
  MLIR_DEFINE_EXPLICIT_INTERNAL_INLINE_TYPE_ID(LowerStridedCopiesPass)

  void runOnOperation() override {
    auto isDense = [](Value buffer) {
      auto type = cast<MemRefType>(buffer.getType());
      return type.getLayout().isIdentity();
    };
    getOperation().walk([&](memref::CopyOp copy) {
      if (isDense(copy.getSource()) && isDense(copy.getTarget()))
        return;
      OpBuilder b(copy);
      linalg::makeMemRefCopyOp(b, copy.getLoc(), copy.getSource(),
                               copy.getTarget());
      copy.erase();
    });
  }
};
} // namespace

namespace {
struct LowerLaunchesPass
    : PassWrapper<LowerLaunchesPass, OperationPass<ModuleOp>> {
  MLIR_DEFINE_EXPLICIT_INTERNAL_INLINE_TYPE_ID(LowerLaunchesPass)

  void runOnOperation() override { lowerLaunches(getOperation()); }
};
} // namespace

void mlir::qlm::buildLowerGraphPipeline(OpPassManager &pm,
                                        StringRef targetCpu) {
  pm.addPass(createKeepGenerated());
  pm.addPass(createLowerGraphCodes());
  pm.addPass(createCanonicalizerPass());
  pm.addPass(createCSEPass());
  pm.addPass(createLinalgElementwiseOpFusionPass());
  pm.addPass(createCSEPass());
  EmitGraphKernelsOptions kernels;
  kernels.targetCpu = targetCpu.str();
  pm.addPass(createEmitGraphKernels(kernels));
  pm.addPass(createCanonicalizerPass());
  pm.addPass(createCSEPass());
  pm.addPass(createLinalgElementwiseOpFusionPass());
  pm.addPass(createCSEPass());
  // bf16 has no instructions everywhere, and no library is linked that knows
  // it: arithmetic in f32, conversions spelled out.
  arith::ArithEmulateUnsupportedFloatsOptions emulate;
  emulate.sourceTypeStrs = {"bf16"};
  emulate.targetTypeStr = "f32";
  pm.addPass(arith::createArithEmulateUnsupportedFloats(emulate));
  bufferization::OneShotBufferizePassOptions bufferize;
  bufferize.bufferizeFunctionBoundaries = true;
  bufferize.functionBoundaryTypeConversion =
      bufferization::LayoutMapOption::IdentityLayoutMap;
  pm.addPass(bufferization::createOneShotBufferizePass(bufferize));
  bufferization::BufferDeallocationPipelineOptions deallocation;
  bufferization::buildBufferDeallocationPipeline(pm, deallocation);
  pm.addPass(createConvertBufferizationToMemRefPass());
  pm.addPass(std::make_unique<LowerStridedCopiesPass>());
  pm.addPass(std::make_unique<LowerLaunchesPass>());
  pm.addPass(createConvertLinalgToLoopsPass());
  pm.addPass(createCanonicalizerPass());
  pm.addPass(createCSEPass());
  pm.addPass(createLoopInvariantCodeMotionPass());
  pm.addPass(createSCFToControlFlowPass());
  pm.addPass(memref::createExpandStridedMetadataPass());
  pm.addPass(createLowerAffinePass());
  pm.addPass(memref::createExpandOpsPass());
  arith::ArithExpandOpsPassOptions expand;
  expand.includeBf16 = true;
  pm.addPass(arith::createArithExpandOpsPass(expand));
  // Before the C library's functions are declared: they have no such entry.
  pm.addNestedPass<func::FuncOp>(LLVM::createLLVMRequestCWrappersPass());
  pm.addPass(createConvertMathToLLVMPass());
  pm.addPass(createConvertMathToLibmPass());
  FinalizeMemRefToLLVMConversionPassOptions memory;
  memory.useGenericFunctions = true;
  pm.addPass(createFinalizeMemRefToLLVMConversionPass(memory));
  pm.addPass(createConvertFuncToLLVMPass());
  pm.addPass(createConvertIndexToLLVMPass());
  pm.addPass(createArithToLLVMConversionPass());
  pm.addPass(createConvertControlFlowToLLVMPass());
  pm.addPass(createReconcileUnrealizedCastsPass());
  pm.addPass(createCanonicalizerPass());
  pm.addPass(createCSEPass());
}

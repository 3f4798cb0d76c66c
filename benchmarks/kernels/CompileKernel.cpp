//===- CompileKernel.cpp - Makes a kernel that can be called --------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "CompileKernel.h"

#include "qlm/Lower/Kernel/Builder.h"
#include "qlm/Lower/Passes.h"
#include "qlm/Package/ObjectFile.h"

#include "mlir/IR/MLIRContext.h"
#include "mlir/Parser/Parser.h"
#include "mlir/Pass/PassManager.h"
#include "llvm/Support/TargetSelect.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::bench;

std::unique_ptr<MLIRContext> bench::createContext() {
  DialectRegistry registry;
  registry.insert<QlmDialect>();
  kernel::registerKernelDialects(registry);
  createEmitCpuKernels()->getDependentDialects(registry);
  auto context = std::make_unique<MLIRContext>(registry);
  context->loadAllAvailableDialects();
  return context;
}

CompiledKernel bench::compileKernel(MLIRContext &context,
                                    const std::string &text,
                                    const cpu::Target &target,
                                    const cpu::StepLimits &limits) {
  OwningOpRef<ModuleOp> source = parseSourceString<ModuleOp>(text, &context);
  Operation *op = nullptr;
  if (source)
    source->walk([&](Operation *found) {
      if (isa_and_nonnull<QlmDialect>(found->getDialect()))
        op = found;
    });
  OwningOpRef<ModuleOp> kernels =
      ModuleOp::create(UnknownLoc::get(&context), kKernelsName);
  Builder builder(&context);
  (*kernels)->setAttr(kTargetCpuAttr, builder.getStringAttr(target.cpu));
  (*kernels)->setAttr(kTargetFeaturesAttr,
                      builder.getStringAttr(target.featureString()));
  FailureOr<cpu::KernelInfo> info = failure();
  if (op)
    info = cpu::emitKernel(*kernels, op, target, SizeKind::Tokens, limits);
  PassManager pm(&context, ModuleOp::getOperationName());
  buildKernelsToLLVMPipeline(pm);
  if (failed(info) || failed(pm.run(*kernels)))
    llvm::report_fatal_error("the kernel doesn't compile");

  llvm::InitializeNativeTarget();
  llvm::InitializeNativeTargetAsmPrinter();
  llvm::ExitOnError exitOnError("compiling a kernel: ");
  CompiledKernel compiled;
  compiled.info = *info;
  auto object = exitOnError(emitObjectCode(*kernels));
  compiled.jit = exitOnError(llvm::orc::LLJITBuilder().create());
  exitOnError(compiled.jit->addObjectFile(llvm::MemoryBuffer::getMemBufferCopy(
      StringRef(object.data(), object.size()), "kernels")));
  compiled.function = exitOnError(compiled.jit->lookup(info->name))
                          .toPtr<::qlm::format::KernelFunction>();
  return compiled;
}

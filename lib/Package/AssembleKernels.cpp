//===- AssembleKernels.cpp - Compiles and assembles GPU kernels -----------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "PackageErrors.h"
#include "PackageFolder.h"
#include "mlir/Dialect/GPU/IR/GPUDialect.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "qlm/Package/CudaBinary.h"
#include "qlm/Package/Passes.h"
#include "llvm/Support/FileSystem.h"

namespace mlir::qlm {
#define GEN_PASS_DEF_ASSEMBLEKERNELS
#include "qlm/Package/Passes.h.inc"
} // namespace mlir::qlm

using namespace mlir;
using namespace mlir::qlm;

namespace {
struct AssembleKernelsPass
    : mlir::qlm::impl::AssembleKernelsBase<AssembleKernelsPass> {
  using Base::Base;
  void runOnOperation() override {
    if (llvm::Error error = assemble()) {
      getOperation().emitError() << llvm::toString(std::move(error));
      signalPassFailure();
    }
  }

private:
  llvm::Error assemble();
  llvm::Error write(StringRef name, StringRef bytes);
};
} // namespace

/// Records what ptxas says of \p kernel.
static void setResources(LLVM::LLVMFuncOp kernel,
                         const KernelResources &resources) {
  Builder b(kernel.getContext());
  std::pair<StringRef, int64_t> numbers[] = {
      {"qlm.registers", resources.registers},
      {"qlm.spill_bytes", resources.spillBytes},
      {"qlm.stack_bytes", resources.stackBytes},
      {"qlm.shared_bytes", resources.sharedBytes}};
  for (auto [name, number] : numbers)
    kernel->setAttr(name, b.getI64IntegerAttr(number));
}

llvm::Error AssembleKernelsPass::write(StringRef name, StringRef bytes) {
  if (output.empty())
    return llvm::Error::success();
  std::string path = output + "/" + name.str();
  if (std::error_code code = llvm::sys::fs::create_directories(output))
    return makeError("cannot write '" + path + "': " + code.message());
  return writeFile(path, bytes);
}

llvm::Error AssembleKernelsPass::assemble() {
  auto modules = getOperation().getOps<gpu::GPUModuleOp>();
  if (modules.empty())
    return makeError("module has no gpu.module");
  for (gpu::GPUModuleOp kernels : modules) {
    auto ptx = emitPtx(kernels);
    if (!ptx)
      return ptx.takeError();
    // What ptxas refuses is there to be looked at.
    if (llvm::Error error = write((kernels.getName() + ".ptx").str(), *ptx))
      return error;
    auto chip = kernels->getAttrOfType<StringAttr>("qlm.chip");
    auto binary = assemblePtx(*ptx, chip.getValue());
    if (!binary)
      return binary.takeError();
    if (llvm::Error error =
            write((kernels.getName() + ".cubin").str(), binary->cubin))
      return error;
    for (const KernelResources &resources : binary->kernels)
      if (auto kernel = kernels.lookupSymbol<LLVM::LLVMFuncOp>(resources.name))
        setResources(kernel, resources);
  }
  return llvm::Error::success();
}

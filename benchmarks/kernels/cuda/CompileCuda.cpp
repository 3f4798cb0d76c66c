//===- CompileCuda.cpp - Makes a cubin of kernels -------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "CompileCuda.h"

#include "qlm/Lower/Kernel/GpuFrame.h"

#include "mlir/InitAllDialects.h"
#include "mlir/InitAllExtensions.h"
#include "mlir/InitAllPasses.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Pass/PassRegistry.h"
#include "mlir/Target/LLVMIR/Dialect/All.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/CommandLine.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/Program.h"
#include "llvm/Support/TargetSelect.h"
#include "llvm/Support/raw_ostream.h"

#include <iostream>

using namespace mlir;
using namespace mlir::qlm;

std::unique_ptr<MLIRContext> bench::createCudaContext() {
  static bool registered = [] {
    registerAllPasses();
    return true;
  }();
  (void)registered;
  DialectRegistry registry;
  registerAllDialects(registry);
  registerAllExtensions(registry);
  registerAllToLLVMIRTranslations(registry);
  kernel::registerGpuKernelDialects(registry);
  auto context = std::make_unique<MLIRContext>(registry);
  context->disableMultithreading();
  context->loadAllAvailableDialects();
  return context;
}

static constexpr const char kPipeline[] =
    "gpu.module(canonicalize,cse,convert-scf-to-cf,convert-math-to-llvm,"
    "convert-vector-to-llvm,convert-arith-to-llvm),convert-cf-to-llvm,gpu."
    "module("
    "convert-nvvm-to-llvm,reconcile-unrealized-casts,canonicalize,cse),"
    "nvvm-attach-target{chip=%CHIP% features=+ptx84 O=3},"
    "gpu-module-to-binary{format=isa}";

static llvm::Error fail(const std::string &message) {
  return llvm::createStringError(llvm::inconvertibleErrorCode(), message);
}

llvm::Expected<std::string> bench::compileCuda(ModuleOp module,
                                               const std::string &chip,
                                               const std::string &path) {
  std::string pipeline = kPipeline;
  pipeline.replace(pipeline.find("%CHIP%"), 6, chip);
  PassManager pm(module.getContext(), ModuleOp::getOperationName());
  if (failed(parsePassPipeline(pipeline, pm)) || failed(pm.run(module)))
    return fail("the kernels don't lower");
  std::string ptx;
  module.walk([&](gpu::BinaryOp binary) {
    ptx = cast<gpu::ObjectAttr>(binary.getObjects()[0]).getObject().str();
  });
  while (!ptx.empty() && ptx.back() == '\0')
    ptx.pop_back();
  std::error_code error;
  llvm::raw_fd_ostream(path + ".ptx", error) << ptx;
  llvm::ErrorOr<std::string> ptxas = llvm::sys::findProgramByName("ptxas");
  if (!ptxas)
    return fail("no ptxas on the path");
  std::string log = path + ".log", cubin = path + ".cubin",
              source = path + ".ptx";
  std::optional<llvm::StringRef> redirects[] = {
      std::nullopt, llvm::StringRef(log), llvm::StringRef(log)};
  int code = llvm::sys::ExecuteAndWait(
      *ptxas, {*ptxas, "-arch=" + chip, "-O3", "-v", source, "-o", cubin},
      std::nullopt, redirects);
  auto text = llvm::MemoryBuffer::getFile(log);
  std::string said = text ? (*text)->getBuffer().str() : "";
  if (code)
    return fail("ptxas failed: " + said);
  return said;
}

int bench::emitCases(
    int argc, char **argv, StringRef prefix,
    function_ref<std::string(gpu::GPUModuleOp, StringRef, const Words &)>
        emit) {
  llvm::cl::opt<std::string> folder(llvm::cl::Positional, llvm::cl::Required);
  llvm::cl::opt<std::string> chip("chip", llvm::cl::init("sm_90a"));
  llvm::cl::ParseCommandLineOptions(argc, argv, "emits kernels\n");
  llvm::ExitOnError exitOnError(std::string(argv[0]) + ": ");
  std::unique_ptr<MLIRContext> context = createCudaContext();
  std::error_code error;
  llvm::raw_fd_ostream cases(folder + "/cases.txt", error);
  std::string line;
  for (int64_t index = 0; std::getline(std::cin, line);) {
    if (line.empty() || line[0] == '#')
      continue;
    std::string name = prefix.str() + std::to_string(index++);
    Location loc = UnknownLoc::get(context.get());
    OwningOpRef<ModuleOp> module = ModuleOp::create(loc);
    OpBuilder b(context.get());
    b.setInsertionPointToEnd(module->getBody());
    auto kernels = gpu::GPUModuleOp::create(b, loc, "kernels");
    std::string launch = emit(kernels, name, Words(line));
    std::string said =
        exitOnError(compileCuda(*module, chip, folder + "/" + name));
    for (StringRef part : llvm::split(StringRef(said), '\n'))
      if (part.contains("registers") || part.contains("spill") ||
          part.contains("warning"))
        llvm::errs() << name << ": " << part.trim() << "\n";
    cases << line << " name=" << name << " " << launch << "\n";
  }
  return 0;
}

//===- CudaBinary.cpp - GPU kernels to PTX and machine code ---------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Package/CudaBinary.h"

#include "OptimizeModule.h"
#include "PackageErrors.h"
#include "PackageFolder.h"
#include "mlir/IR/BuiltinAttributes.h"
#include "mlir/Target/LLVMIR/Dialect/Builtin/BuiltinToLLVMIRTranslation.h"
#include "mlir/Target/LLVMIR/Dialect/GPU/GPUToLLVMIRTranslation.h"
#include "mlir/Target/LLVMIR/Dialect/LLVMIR/LLVMToLLVMIRTranslation.h"
#include "mlir/Target/LLVMIR/Dialect/NVVM/NVVMToLLVMIRTranslation.h"
#include "mlir/Target/LLVMIR/Export.h"
#include "llvm/ADT/ScopeExit.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/IR/LLVMContext.h"
#include "llvm/IR/LegacyPassManager.h"
#include "llvm/IR/Module.h"
#include "llvm/MC/TargetRegistry.h"
#include "llvm/Support/CodeGen.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/Process.h"
#include "llvm/Support/Program.h"
#include "llvm/Support/TargetSelect.h"
#include "llvm/Target/TargetMachine.h"
#include "llvm/Target/TargetOptions.h"

using namespace mlir;
using namespace mlir::qlm;
namespace fs = llvm::sys::fs;
namespace path = llvm::sys::path;

static constexpr llvm::StringLiteral kTriple = "nvptx64-nvidia-cuda";

//===----------------------------------------------------------------------===//
// PTX
//===----------------------------------------------------------------------===//

static llvm::Expected<std::unique_ptr<llvm::TargetMachine>>
createTargetMachine(StringRef chip) {
  LLVMInitializeNVPTXTargetInfo();
  LLVMInitializeNVPTXTarget();
  LLVMInitializeNVPTXTargetMC();
  LLVMInitializeNVPTXAsmPrinter();
  llvm::Triple triple(kTriple);
  std::string message;
  const llvm::Target *target =
      llvm::TargetRegistry::lookupTarget(triple, message);
  if (!target)
    return makeError("this LLVM has no NVPTX target: " + message);
  std::string feature = "+ptx" + std::to_string(kPtxVersion);
  llvm::TargetOptions options;
  // Products and sums fuse only where the kernel says so (math.fma).
  options.AllowFPOpFusion = llvm::FPOpFusion::Strict;
  std::unique_ptr<llvm::TargetMachine> machine(target->createTargetMachine(
      triple, chip, feature, options, llvm::Reloc::PIC_, std::nullopt,
      llvm::CodeGenOptLevel::Aggressive));
  if (!machine)
    return makeError("no code generator for the chip '" + chip + "'");
  return machine;
}

/// Fails if the kernels call functions that nothing defines.
static llvm::Error checkSelfContained(const llvm::Module &module) {
  std::vector<std::string> missing;
  for (const llvm::Function &function : module)
    if (function.isDeclaration() && !function.isIntrinsic() &&
        !function.use_empty())
      missing.push_back(function.getName().str());
  return checkNothingMissing(std::move(missing));
}

llvm::Expected<std::string> mlir::qlm::emitPtx(Operation *kernels) {
  auto chip = kernels->getAttrOfType<StringAttr>("qlm.chip");
  if (!chip)
    return makeError("the GPU kernels have no qlm.chip: they have not gone "
                     "through Lower");
  auto machine = createTargetMachine(chip.getValue());
  if (!machine)
    return machine.takeError();
  // Diagnostics of the translation become the error's text.
  std::string messages;
  ScopedDiagnosticHandler handler(
      kernels->getContext(), [&](Diagnostic &diagnostic) {
        if (diagnostic.getSeverity() == DiagnosticSeverity::Error)
          messages += (messages.empty() ? "" : "; ") + diagnostic.str();
        return success();
      });
  DialectRegistry registry;
  registerBuiltinDialectTranslation(registry);
  registerGPUDialectTranslation(registry);
  registerLLVMDialectTranslation(registry);
  registerNVVMDialectTranslation(registry);
  kernels->getContext()->appendDialectRegistry(registry);
  llvm::LLVMContext context;
  std::unique_ptr<llvm::Module> module =
      translateModuleToLLVMIR(kernels, context, "kernels");
  if (!module)
    return makeError("cannot translate the kernels to LLVM IR: " + messages);
  module->setTargetTriple((*machine)->getTargetTriple());
  module->setDataLayout((*machine)->createDataLayout());
  optimizeModule(*module, **machine, llvm::OptimizationLevel::O3);
  if (llvm::Error error = checkSelfContained(*module))
    return std::move(error);

  SmallVector<char, 0> text;
  llvm::raw_svector_ostream stream(text);
  llvm::legacy::PassManager codegen;
  if ((*machine)->addPassesToEmitFile(codegen, stream, nullptr,
                                      llvm::CodeGenFileType::AssemblyFile))
    return makeError("this LLVM cannot write PTX");
  codegen.run(*module);
  return std::string(text.data(), text.size());
}

//===----------------------------------------------------------------------===//
// ptxas
//===----------------------------------------------------------------------===//

/// Where pip puts the wheel's program in the source tree's environment:
/// `.venv/lib/python3.X/site-packages/nvidia/.../bin/ptxas`.
static std::optional<std::string> findInEnvironment() {
  std::error_code code;
  for (fs::recursive_directory_iterator file(QLM_SOURCE_DIR "/.venv/lib", code),
       end;
       file != end && !code; file.increment(code)) {
    StringRef name = file->path();
    // Only site-packages/nvidia holds it; the rest is many files.
    StringRef base = path::filename(name);
    int level = file.level();
    if ((level == 1 && base != "site-packages") ||
        (level == 2 && base != "nvidia"))
      file.no_push();
    if (base == "ptxas" && fs::can_execute(name))
      return name.str();
  }
  return std::nullopt;
}

llvm::Expected<std::string> mlir::qlm::findPtxas() {
  if (auto home = llvm::sys::Process::GetEnv("CUDA_HOME"))
    if (auto found = llvm::sys::findProgramByName("ptxas", {*home + "/bin"}))
      return *found;
  if (auto found = llvm::sys::findProgramByName("ptxas"))
    return *found;
  if (auto found =
          llvm::sys::findProgramByName("ptxas", {"/usr/local/cuda/bin"}))
    return *found;
  if (auto found = findInEnvironment())
    return *found;
  return makeError("no ptxas found: looked in CUDA_HOME, PATH, "
                   "/usr/local/cuda and the Python environment that "
                   "scripts/bootstrap makes; it comes with the CUDA toolkit, "
                   "or with pip as nvidia-cuda-nvcc");
}

std::vector<KernelResources> mlir::qlm::parsePtxasReport(StringRef report) {
  // ptxas info    : Compiling entry function 'k' for 'sm_90a'
  // ptxas info    : Function properties for k
  //     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
  // ptxas info    : Used 8 registers, used 0 barriers, 128 bytes smem
  std::vector<KernelResources> kernels;
  SmallVector<StringRef> lines;
  report.split(lines, '\n');
  for (StringRef line : lines) {
    if (line.contains("Compiling entry function '")) {
      KernelResources kernel;
      kernel.name = line.split('\'').second.split('\'').first.str();
      kernels.push_back(std::move(kernel));
      continue;
    }
    if (kernels.empty())
      continue;
    SmallVector<StringRef> parts;
    line.rsplit(':').second.empty() ? line.split(parts, ',')
                                    : line.rsplit(':').second.split(parts, ',');
    for (StringRef part : parts) {
      part = part.trim();
      part.consume_front("Used ");
      int64_t number = 0;
      if (part.consumeInteger(10, number))
        continue;
      part = part.trim();
      if (part.starts_with("registers"))
        kernels.back().registers = number;
      else if (part.starts_with("bytes stack frame"))
        kernels.back().stackBytes = number;
      else if (part.starts_with("bytes spill stores"))
        kernels.back().spillBytes = number;
      else if (part.starts_with("bytes smem"))
        kernels.back().sharedBytes = number;
    }
  }
  llvm::sort(kernels, [](const KernelResources &a, const KernelResources &b) {
    return a.name < b.name;
  });
  return kernels;
}

static llvm::Expected<std::string> readFile(StringRef path) {
  auto buffer = llvm::MemoryBuffer::getFile(path);
  if (!buffer)
    return makeError("cannot read '" + path +
                     "': " + buffer.getError().message());
  return (*buffer)->getBuffer().str();
}

/// The line of a report that says what went wrong.
static StringRef findError(StringRef report) {
  SmallVector<StringRef> lines;
  report.split(lines, '\n');
  for (StringRef line : lines)
    if (line.contains("error") || line.contains("fatal"))
      return line.trim();
  return report.trim().split('\n').first;
}

llvm::Expected<CudaBinary> mlir::qlm::assemblePtx(StringRef ptx,
                                                  StringRef chip) {
  auto ptxas = findPtxas();
  if (!ptxas)
    return ptxas.takeError();
  SmallString<128> folder;
  if (std::error_code code = fs::createUniqueDirectory("qlm-ptxas", folder))
    return makeError("cannot make a temporary folder: " + code.message());
  llvm::scope_exit cleanup([&] { (void)fs::remove_directories(folder); });
  std::string input = (folder + "/kernels.ptx").str();
  std::string output = (folder + "/kernels.cubin").str();
  std::string log = (folder + "/log").str();
  if (llvm::Error error = writeFile(input, ptx))
    return std::move(error);
  std::string arch = ("-arch=" + chip).str();
  StringRef arguments[] = {*ptxas, arch, "-O3", "-v", "-o", output, input};
  std::optional<StringRef> redirects[] = {StringRef(), StringRef(log),
                                          StringRef(log)};
  std::string message;
  int code = llvm::sys::ExecuteAndWait(*ptxas, arguments, std::nullopt,
                                       redirects, /*SecondsToWait=*/0,
                                       /*MemoryLimit=*/0, &message);
  auto report = readFile(log);
  if (!report)
    return report.takeError();
  if (code != 0)
    return makeError("'" + *ptxas + "' failed: " +
                     (message.empty() ? findError(*report) : message));
  auto cubin = readFile(output);
  if (!cubin)
    return cubin.takeError();
  return CudaBinary{std::move(*cubin), parsePtxasReport(*report)};
}

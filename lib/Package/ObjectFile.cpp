//===- ObjectFile.cpp - Kernels to machine code ---------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Package/ObjectFile.h"

#include "OptimizeModule.h"
#include "PackageErrors.h"
#include "PackageFolder.h"
#include "mlir/IR/BuiltinAttributes.h"
#include "mlir/Target/LLVMIR/Dialect/Builtin/BuiltinToLLVMIRTranslation.h"
#include "mlir/Target/LLVMIR/Dialect/LLVMIR/LLVMToLLVMIRTranslation.h"
#include "mlir/Target/LLVMIR/Export.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/ScopeExit.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/IR/LLVMContext.h"
#include "llvm/IR/LegacyPassManager.h"
#include "llvm/IR/Module.h"
#include "llvm/MC/TargetRegistry.h"
#include "llvm/Object/ObjectFile.h"
#include "llvm/Support/CodeGen.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/Program.h"
#include "llvm/Support/TargetSelect.h"
#include "llvm/Support/raw_ostream.h"
#include "llvm/Target/TargetMachine.h"
#include "llvm/Target/TargetOptions.h"

#include <memory>

using namespace mlir;
using namespace mlir::qlm;

static constexpr llvm::StringLiteral kTriple = "x86_64-unknown-linux-gnu";
/// Attribute of a module whose code should be small.
static constexpr llvm::StringLiteral kSmallCode = "qlm.small_code";
/// The instructions that every x86-64 processor has: features come on top.
static constexpr llvm::StringLiteral kBaseCpu = "x86-64";

static StringRef getString(ModuleOp module, StringRef name) {
  auto attr = module->getAttrOfType<StringAttr>(name);
  return attr ? attr.getValue() : StringRef();
}

static llvm::Expected<std::unique_ptr<llvm::TargetMachine>>
createTargetMachine(StringRef features, Effort effort) {
  LLVMInitializeX86TargetInfo();
  LLVMInitializeX86Target();
  LLVMInitializeX86TargetMC();
  LLVMInitializeX86AsmPrinter();
  llvm::Triple triple(kTriple);
  std::string message;
  const llvm::Target *target =
      llvm::TargetRegistry::lookupTarget(triple, message);
  if (!target)
    return makeError("this LLVM has no x86-64 target: " + message);
  llvm::TargetOptions options;
  std::unique_ptr<llvm::TargetMachine> machine(target->createTargetMachine(
      triple, kBaseCpu, features, options, llvm::Reloc::PIC_, std::nullopt,
      effort == Effort::Full ? llvm::CodeGenOptLevel::Aggressive
                             : llvm::CodeGenOptLevel::Less));
  if (!machine)
    return makeError("no code generator for the features '" + features + "'");
  return machine;
}

/// Tells each function what it is compiled for. `no-builtins` keeps the
/// optimizer from turning loops into calls of memset and memcpy.
static void setFunctionAttributes(llvm::Module &module, StringRef cpu,
                                  StringRef features, Libraries libraries,
                                  bool isSmall) {
  for (llvm::Function &function : module) {
    if (function.isDeclaration())
      continue;
    function.addFnAttr("target-cpu", kBaseCpu);
    function.addFnAttr("target-features", features);
    if (libraries == Libraries::None)
      function.addFnAttr("no-builtins");
    if (isSmall)
      function.addFnAttr(llvm::Attribute::OptimizeForSize);
    if (!cpu.empty())
      function.addFnAttr("tune-cpu", cpu);
    // Tuning for some processors prefers halves of the vectors asked for.
    if (features.contains("+avx512f"))
      function.addFnAttr("prefer-vector-width", "512");
  }
}

/// Whether \p name is a function of C's library or its mathematical part that
/// graphs' code may call.
static bool isLibraryFunction(StringRef name) {
  static constexpr StringRef kMemory[] = {"malloc", "aligned_alloc", "free",
                                          "memcpy", "memmove",       "memset"};
  static constexpr StringRef kMath[] = {
      "acos",  "acosh",     "asin",  "asinh", "atan",      "atan2", "atanh",
      "cbrt",  "ceil",      "cos",   "cosh",  "erf",       "erfc",  "exp",
      "exp2",  "expm1",     "fabs",  "floor", "fma",       "fmod",  "ldexp",
      "log",   "log10",     "log1p", "log2",  "nearbyint", "pow",   "rint",
      "round", "roundeven", "sin",   "sinh",  "sqrt",      "tan",   "tanh",
      "trunc", "sincos",    "exp10"};
  if (llvm::is_contained(kMemory, name) || llvm::is_contained(kMath, name))
    return true;
  return name.consume_back("f") && llvm::is_contained(kMath, name);
}

/// Fails if \p object uses symbols that neither it nor \p libraries define.
static llvm::Error checkSelfContained(ArrayRef<char> object,
                                      Libraries libraries) {
  auto parsed =
      llvm::object::ObjectFile::createObjectFile(llvm::MemoryBufferRef(
          StringRef(object.data(), object.size()), "kernels"));
  if (!parsed)
    return parsed.takeError();
  std::vector<std::string> missing;
  for (const llvm::object::SymbolRef &symbol : (*parsed)->symbols()) {
    auto flags = symbol.getFlags();
    if (!flags)
      return flags.takeError();
    if (!(*flags & llvm::object::SymbolRef::SF_Undefined))
      continue;
    auto name = symbol.getName();
    if (!name)
      return name.takeError();
    if (!name->empty() &&
        (libraries == Libraries::None || !isLibraryFunction(*name)))
      missing.push_back(name->str());
  }
  return checkNothingMissing(std::move(missing));
}

llvm::Expected<SmallVector<char, 0>>
mlir::qlm::emitObjectCode(ModuleOp kernels, Libraries libraries,
                          Effort effort) {
  StringRef cpu = getString(kernels, "qlm.target_cpu");
  StringRef features = getString(kernels, "qlm.target_features");
  auto machine = createTargetMachine(features, effort);
  if (!machine)
    return machine.takeError();

  // Diagnostics of the translation become the error's text.
  std::string messages;
  ScopedDiagnosticHandler handler(
      kernels.getContext(), [&](Diagnostic &diagnostic) {
        if (diagnostic.getSeverity() == DiagnosticSeverity::Error)
          messages += (messages.empty() ? "" : "; ") + diagnostic.str();
        return success();
      });
  DialectRegistry registry;
  registerBuiltinDialectTranslation(registry);
  registerLLVMDialectTranslation(registry);
  kernels.getContext()->appendDialectRegistry(registry);
  llvm::LLVMContext context;
  std::unique_ptr<llvm::Module> module =
      translateModuleToLLVMIR(kernels, context, "kernels");
  if (!module)
    return makeError("cannot translate the kernels to LLVM IR: " + messages);
  module->setTargetTriple((*machine)->getTargetTriple());
  module->setDataLayout((*machine)->createDataLayout());
  setFunctionAttributes(*module, cpu, features, libraries,
                        kernels->hasAttr(kSmallCode));
  optimizeModule(*module, **machine,
                 effort == Effort::Full ? llvm::OptimizationLevel::O3
                                        : llvm::OptimizationLevel::O1);

  SmallVector<char, 0> object;
  llvm::raw_svector_ostream stream(object);
  llvm::legacy::PassManager codegen;
  if ((*machine)->addPassesToEmitFile(codegen, stream, nullptr,
                                      llvm::CodeGenFileType::ObjectFile))
    return makeError("this LLVM cannot write x86-64 object files");
  codegen.run(*module);
  if (llvm::Error error = checkSelfContained(object, libraries))
    return std::move(error);
  return object;
}

//===----------------------------------------------------------------------===//
// Linking
//===----------------------------------------------------------------------===//

llvm::Expected<std::string> mlir::qlm::findLinker() {
  for (StringRef name : {"ld.lld", "ld.lld-22"})
    if (auto path = llvm::sys::findProgramByName(name, {QLM_LLVM_TOOLS_DIR}))
      return *path;
  for (StringRef name : {"ld.lld-22", "ld.lld", "ld"})
    if (auto path = llvm::sys::findProgramByName(name))
      return *path;
  return makeError("no linker found: looked for ld.lld in " QLM_LLVM_TOOLS_DIR
                   " and for ld.lld-22, ld.lld and ld in PATH");
}

/// The first line of what the linker printed.
static std::string readFirstLine(StringRef path) {
  auto buffer = llvm::MemoryBuffer::getFile(path);
  if (!buffer)
    return {};
  return (*buffer)->getBuffer().trim().split('\n').first.str();
}

llvm::Error mlir::qlm::emitSharedLibrary(ModuleOp kernels, StringRef path,
                                         Libraries libraries, Effort effort) {
  auto linker = findLinker();
  if (!linker)
    return linker.takeError();
  auto object = emitObjectCode(kernels, libraries, effort);
  if (!object)
    return object.takeError();
  std::string objectPath = (path + ".o").str();
  std::string logPath = (path + ".log").str();
  llvm::scope_exit cleanup([&] {
    (void)llvm::sys::fs::remove(objectPath);
    (void)llvm::sys::fs::remove(logPath);
  });
  if (llvm::Error error =
          writeFile(objectPath, StringRef(object->data(), object->size())))
    return error;
  StringRef symbols = libraries == Libraries::None
                          ? "--no-undefined"
                          : "--unresolved-symbols=ignore-all";
  SmallVector<StringRef> arguments{
      *linker,       "-shared", symbols, "--build-id=none", "-z",
      "noexecstack", "-o",      path,    objectPath};
  // Names tell a profiler which kernel is which.
  if (kernels->hasAttr(kSmallCode))
    arguments.append({"--strip-all", "--hash-style=gnu"});
  std::optional<StringRef> redirects[] = {StringRef(), StringRef(logPath),
                                          StringRef(logPath)};
  std::string message;
  int code = llvm::sys::ExecuteAndWait(*linker, arguments, std::nullopt,
                                       redirects, /*SecondsToWait=*/0,
                                       /*MemoryLimit=*/0, &message);
  if (code != 0) {
    if (message.empty())
      message = readFirstLine(logPath);
    return makeError("linker '" + llvm::Twine(*linker) +
                     "' failed: " + message);
  }
  return llvm::Error::success();
}

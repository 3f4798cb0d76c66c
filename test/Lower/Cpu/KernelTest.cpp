//===- KernelTest.cpp - Compiles and runs the kernel of one op ------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "KernelTest.h"

#include "mlir/IR/MLIRContext.h"
#include "mlir/Parser/Parser.h"
#include "mlir/Pass/PassManager.h"
#include "qlm/Lower/Kernel/Builder.h"
#include "qlm/Lower/Passes.h"
#include "qlm/Package/LaunchScratch.h"
#include "qlm/Package/ObjectFile.h"
#include "qlm/Runtime/CpuFeatures.h"
#include "llvm/ExecutionEngine/Orc/LLJIT.h"
#include "llvm/Support/TargetSelect.h"
#include "llvm/TargetParser/Host.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cpu::test;

static void fail(const std::string &message) { ADD_FAILURE() << message; }

std::vector<std::string> cpu::test::getRunnableTargets() {
  llvm::Expected<Target> native = Target::get("native");
  if (!native) {
    llvm::consumeError(native.takeError());
    return {};
  }
  // Tests run kernels without the runtime, which asks otherwise.
  if (native->amxInt8 || native->amxBf16)
    EXPECT_TRUE(::qlm::requestTiles().ok());
  std::vector<std::string> targets = {"x86-64-v3"};
  if (llvm::sys::getHostCPUFeatures().lookup("avxvnni"))
    targets.push_back("alderlake");
  // A machine without more has the same kernels under another name.
  if (native->avx512)
    targets.push_back("native");
  if (native->avx512)
    targets.push_back("x86-64-v4");
  if (native->avx512Vnni && native->avx512Vbmi)
    targets.push_back("icelake-server");
  return targets;
}

CompiledKernel::CompiledKernel(llvm::StringRef target, const std::string &text,
                               StepLimits limits, SizeKind rows)
    : context(std::make_unique<MLIRContext>()) {
  compile(target, text, limits, rows);
}

void CompiledKernel::compile(llvm::StringRef targetName,
                             const std::string &text, StepLimits limits,
                             SizeKind rows) {
  bool hasTiles = targetName.consume_back("+tiles");
  auto target = Target::get(targetName);
  if (!target)
    return fail(llvm::toString(target.takeError()));
  target->amxBf16 |= hasTiles;
  target->tilesInMemory = hasTiles;
  DialectRegistry registry;
  registry.insert<QlmDialect>();
  kernel::registerKernelDialects(registry);
  context->appendDialectRegistry(registry);
  context->loadAllAvailableDialects();
  OwningOpRef<ModuleOp> source =
      parseSourceString<ModuleOp>(text, context.get());
  if (!source)
    return fail("the operation's text is wrong");
  Operation *op = nullptr;
  source->walk([&](Operation *found) {
    if (isa_and_nonnull<QlmDialect>(found->getDialect()))
      op = found;
  });
  Builder builder(context.get());
  OwningOpRef<ModuleOp> kernels =
      ModuleOp::create(builder.getUnknownLoc(), kKernelsName);
  (*kernels)->setAttr(kTargetCpuAttr, builder.getStringAttr(target->cpu));
  (*kernels)->setAttr(kTargetFeaturesAttr,
                      builder.getStringAttr(target->featureString()));
  FailureOr<KernelInfo> emitted =
      emitKernel(*kernels, op, *target, rows, limits);
  if (failed(emitted))
    return fail("no kernel emitted");
  info = *emitted;
  PassManager pm(context.get(), ModuleOp::getOperationName());
  buildKernelsToLLVMPipeline(pm);
  if (failed(pm.run(*kernels)))
    return fail("lowering to LLVM failed");
  load(*kernels);
}

CompiledKernel::~CompiledKernel() = default;

void CompiledKernel::load(ModuleOp kernels) {
  auto object = emitObjectCode(kernels);
  if (!object)
    return fail(llvm::toString(object.takeError()));
  llvm::InitializeNativeTarget();
  llvm::InitializeNativeTargetAsmPrinter();
  auto made = llvm::orc::LLJITBuilder().create();
  if (!made)
    return fail(llvm::toString(made.takeError()));
  jit = std::move(*made);
  auto buffer = llvm::MemoryBuffer::getMemBufferCopy(
      StringRef(object->data(), object->size()), "kernels");
  if (llvm::Error error = jit->addObjectFile(std::move(buffer)))
    return fail(llvm::toString(std::move(error)));
  auto address = jit->lookup(info.name);
  if (!address)
    return fail(llvm::toString(address.takeError()));
  function = address->toPtr<KernelFunction>();
}

void CompiledKernel::run(llvm::ArrayRef<void *> buffers, const StepSizes &sizes,
                         int64_t parts) const {
  ASSERT_TRUE(function);
  int64_t tiles = getTiles(sizes);
  Buffer<char> first(info.scratchBytes), second(info.scratchBytes);
  Buffer<char> *threads[] = {&first, &second};
  for (Buffer<char> *scratch : threads)
    if (info.scratchBytes)
      ::qlm::format::beginLaunch(scratch->data());
  for (int64_t part = 0; part < parts; ++part) {
    Buffer<char> &scratch = *threads[part % 2];
    int64_t lo = tiles * part / parts, hi = tiles * (part + 1) / parts;
    function(buffers.data(), &sizes, lo, hi, scratch.data());
    ASSERT_TRUE(scratch.isIntact()) << "scratch overrun";
  }
}

int64_t CompiledKernel::getTiles(const StepSizes &sizes) const {
  const int64_t values[] = {1, sizes.tokens, sizes.sequences, sizes.logitRows};
  int64_t size = values[static_cast<int>(info.tiles.getSize())];
  return info.tiles.getCount() * llvm::divideCeil(size, info.tiles.getBlock());
}

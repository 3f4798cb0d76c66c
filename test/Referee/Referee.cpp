//===- Referee.cpp - Runs the definitions of operations -------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Referee.h"

#include "qlm/Dialect/Passes.h"
#include "qlm/Dialect/Qlm.h"

#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/ExecutionEngine/OptUtils.h"
#include "mlir/IR/Diagnostics.h"
#include "mlir/InitAllDialects.h"
#include "mlir/InitAllExtensions.h"
#include "mlir/InitAllPasses.h"
#include "mlir/Parser/Parser.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Pass/PassRegistry.h"
#include "mlir/Target/LLVMIR/Dialect/All.h"
#include "llvm/Support/TargetSelect.h"

#include <cstdlib>

using namespace mlir;

namespace qlm::test {

int64_t Array::count() const {
  int64_t product = 1;
  for (int64_t size : shape)
    product *= size;
  return product;
}

/// From definitions to LLVM; results are returned as descriptors.
static const char kPipeline[] =
    "qlm-decompose,cse,"
    "one-shot-bufferize{bufferize-function-boundaries "
    "function-boundary-type-conversion=identity-layout-map},"
    "buffer-results-to-out-params{hoist-static-allocs=true "
    "modify-public-functions=true},"
    "func.func(convert-linalg-to-loops),"
    "convert-scf-to-cf,expand-strided-metadata,lower-affine,"
    "convert-math-to-llvm,convert-math-to-libm,finalize-memref-to-llvm,"
    "convert-func-to-llvm,convert-arith-to-llvm,convert-cf-to-llvm,"
    "reconcile-unrealized-casts,canonicalize,cse";

static llvm::Error error(const llvm::Twine &text) {
  return llvm::createStringError(llvm::inconvertibleErrorCode(), text);
}

static void registerOnce() {
  static const bool done = [] {
    llvm::InitializeNativeTarget();
    llvm::InitializeNativeTargetAsmPrinter();
    registerAllPasses();
    mlir::qlm::registerQlmDialectPasses();
    return true;
  }();
  (void)done;
}

static int64_t bytesOf(Type type) {
  return (type.getIntOrFloatBitWidth() + 7) / 8;
}

llvm::Expected<std::unique_ptr<Referee>>
Referee::compile(llvm::StringRef text) {
  registerOnce();
  std::unique_ptr<Referee> referee(new Referee);
  DialectRegistry registry;
  registerAllDialects(registry);
  registerAllExtensions(registry);
  registerAllToLLVMIRTranslations(registry);
  registry.insert<mlir::qlm::QlmDialect>();
  referee->context =
      std::make_unique<MLIRContext>(registry, MLIRContext::Threading::DISABLED);
  MLIRContext *context = referee->context.get();

  std::string messages;
  ScopedDiagnosticHandler handler(context, [&](Diagnostic &diagnostic) {
    messages += diagnostic.str() + "\n";
    return success();
  });
  OwningOpRef<ModuleOp> module =
      parseSourceString<ModuleOp>(text, ParserConfig(context));
  if (!module)
    return error(messages);
  auto main = module->lookupSymbol<func::FuncOp>("main");
  if (!main)
    return error("the module has no func.func @main");
  referee->type = main.getFunctionType();
  for (TypeRange types : {TypeRange(referee->type.getInputs()),
                          TypeRange(referee->type.getResults())})
    for (Type type : types) {
      auto tensor = dyn_cast<RankedTensorType>(type);
      if (!tensor || !tensor.hasStaticShape())
        return error("@main must take and return static tensors");
    }
  main->setAttr(LLVM::LLVMDialect::getEmitCWrapperAttrName(),
                UnitAttr::get(context));

  PassManager manager(context);
  if (failed(parsePassPipeline(kPipeline, manager)) ||
      failed(manager.run(*module)))
    return error(messages);
  ExecutionEngineOptions options;
  auto optimize = makeOptimizingTransformer(/*optLevel=*/2, /*sizeLevel=*/0,
                                            /*targetMachine=*/nullptr);
  options.transformer = optimize;
  llvm::Expected<std::unique_ptr<ExecutionEngine>> engine =
      ExecutionEngine::create(*module, options);
  if (!engine)
    return engine.takeError();
  referee->engine = std::move(*engine);
  return referee;
}

namespace {
/// A memref descriptor of any rank: two pointers, the offset, sizes, strides.
struct Descriptor {
  std::vector<int64_t> words;

  Descriptor(void *data, llvm::ArrayRef<int64_t> shape)
      : words(3 + 2 * shape.size()) {
    words[0] = words[1] = reinterpret_cast<int64_t>(data);
    int64_t stride = 1;
    for (size_t i = shape.size(); i-- > 0;) {
      words[3 + i] = shape[i];
      words[3 + shape.size() + i] = stride;
      stride *= shape[i];
    }
  }
};
} // namespace

llvm::Expected<std::vector<Array>>
Referee::run(const std::vector<Array> &inputs) {
  if (inputs.size() != type.getNumInputs())
    return error("@main takes " + llvm::Twine(type.getNumInputs()) +
                 " arrays, got " + llvm::Twine(inputs.size()));
  std::vector<Array> copies = inputs, outputs;
  for (auto [i, input] : llvm::enumerate(copies)) {
    auto tensor = cast<RankedTensorType>(type.getInput(i));
    if (llvm::ArrayRef<int64_t>(input.shape) != tensor.getShape() ||
        input.elementBytes != bytesOf(tensor.getElementType()) ||
        static_cast<int64_t>(input.bytes.size()) !=
            input.count() * input.elementBytes)
      return error("array " + llvm::Twine(i) + " doesn't fit @main's argument");
  }
  for (Type result : type.getResults()) {
    auto tensor = cast<RankedTensorType>(result);
    Array array{tensor.getShape().vec(), bytesOf(tensor.getElementType()), {}};
    // Poison: every element must be written.
    array.bytes.assign(array.count() * array.elementBytes, 0xAB);
    outputs.push_back(std::move(array));
  }
  std::vector<Descriptor> descriptors;
  for (std::vector<Array> *arrays : {&copies, &outputs})
    for (Array &array : *arrays)
      descriptors.emplace_back(array.bytes.data(), array.shape);
  std::vector<void *> pointers;
  for (Descriptor &descriptor : descriptors)
    pointers.push_back(descriptor.words.data());
  SmallVector<void *> arguments;
  for (void *&pointer : pointers)
    arguments.push_back(&pointer);
  if (llvm::Error failure =
          engine->invokePacked("_mlir_ciface_main", arguments))
    return failure;
  return outputs;
}

} // namespace qlm::test

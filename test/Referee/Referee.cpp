//===- Referee.cpp - Runs the definitions of operations -------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Referee.h"

#include "qlm/Archive/ParameterArchive.h"
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
    "arith-expand{include-bf16=true},"
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

/// Gives every dynamic dimension in \p function the size \p tokens. Before
/// Lower, the number of tokens is the only dynamic size there is.
static void specialize(func::FuncOp function, int64_t tokens) {
  auto getStatic = [&](Type type) -> Type {
    auto tensor = dyn_cast<RankedTensorType>(type);
    if (!tensor || tensor.hasStaticShape())
      return type;
    SmallVector<int64_t> shape(tensor.getShape());
    for (int64_t &size : shape)
      if (ShapedType::isDynamic(size))
        size = tokens;
    return tensor.clone(shape);
  };
  function.walk([&](Block *block) {
    for (BlockArgument argument : block->getArguments())
      argument.setType(getStatic(argument.getType()));
  });
  function.walk([&](Operation *op) {
    for (OpResult result : op->getResults())
      result.setType(getStatic(result.getType()));
  });
  SmallVector<Type> results;
  for (Type type : function.getResultTypes())
    results.push_back(getStatic(type));
  function.setType(FunctionType::get(
      function.getContext(), function.front().getArgumentTypes(), results));
}

/// Turns each load of \p function into a new last argument, and returns the
/// values of those arguments.
static llvm::Expected<std::vector<Array>> takeLoads(ModuleOp module,
                                                    func::FuncOp function) {
  std::vector<Array> values;
  SmallVector<mlir::qlm::LoadOp> loads(function.getOps<mlir::qlm::LoadOp>());
  auto source = module->getAttrOfType<StringAttr>("qlm.source");
  if (!loads.empty() && !source)
    return error("a module with loads must have qlm.source");
  mlir::qlm::ParameterArchive archive(source ? source.getValue() : "");
  llvm::StringMap<Value> arguments;
  for (mlir::qlm::LoadOp load : loads) {
    Value &argument = arguments[load.getParameter()];
    if (!argument) {
      auto parameter = module.lookupSymbol<mlir::qlm::ParameterOp>(
          load.getParameterAttr().getAttr());
      if (!parameter)
        return error("no parameter is called " + load.getParameter());
      auto tensor = archive.find(parameter.getFile(), parameter.getKey());
      if (!tensor)
        return tensor.takeError();
      auto type = cast<RankedTensorType>(load.getType());
      Array array{type.getShape().vec(), bytesOf(type.getElementType()),
                  (*tensor)->data.vec()};
      if (static_cast<int64_t>(array.bytes.size()) !=
          array.count() * array.elementBytes)
        return error(load.getParameter() + " doesn't fit its tensor");
      unsigned index = function.getNumArguments();
      if (failed(function.insertArgument(index, type, {}, load.getLoc())))
        return error("cannot add an argument");
      argument = function.getArgument(index);
      values.push_back(std::move(array));
    }
    load.replaceAllUsesWith(argument);
    load.erase();
  }
  for (auto parameter :
       llvm::make_early_inc_range(module.getOps<mlir::qlm::ParameterOp>()))
    parameter.erase();
  return values;
}

llvm::Expected<std::unique_ptr<Referee>>
Referee::compile(llvm::StringRef text, const RefereeOptions &options) {
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
  auto main = module->lookupSymbol<func::FuncOp>(options.entry);
  if (!main)
    return error("the module has no func.func @" + options.entry);
  if (options.tokens > 0)
    specialize(main, options.tokens);
  referee->entry = options.entry;
  referee->type = main.getFunctionType();
  for (TypeRange types : {TypeRange(referee->type.getInputs()),
                          TypeRange(referee->type.getResults())})
    for (Type type : types) {
      auto tensor = dyn_cast<RankedTensorType>(type);
      if (!tensor || !tensor.hasStaticShape())
        return error("@" + options.entry +
                     " must take and return static tensors");
    }
  llvm::Expected<std::vector<Array>> parameters = takeLoads(*module, main);
  if (!parameters)
    return parameters.takeError();
  referee->parameters = std::move(*parameters);
  main->setAttr(LLVM::LLVMDialect::getEmitCWrapperAttrName(),
                UnitAttr::get(context));

  PassManager manager(context);
  if (failed(parsePassPipeline(kPipeline, manager)) ||
      failed(manager.run(*module)))
    return error(messages);
  ExecutionEngineOptions engineOptions;
  auto optimize = makeOptimizingTransformer(/*optLevel=*/2, /*sizeLevel=*/0,
                                            /*targetMachine=*/nullptr);
  engineOptions.transformer = optimize;
  llvm::Expected<std::unique_ptr<ExecutionEngine>> engine =
      ExecutionEngine::create(*module, engineOptions);
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
    return error("@" + entry + " takes " + llvm::Twine(type.getNumInputs()) +
                 " arrays, got " + llvm::Twine(inputs.size()));
  std::vector<Array> copies = inputs, outputs;
  for (auto [i, input] : llvm::enumerate(copies)) {
    auto tensor = cast<RankedTensorType>(type.getInput(i));
    if (llvm::ArrayRef<int64_t>(input.shape) != tensor.getShape() ||
        input.elementBytes != bytesOf(tensor.getElementType()) ||
        static_cast<int64_t>(input.bytes.size()) !=
            input.count() * input.elementBytes)
      return error("array " + llvm::Twine(i) + " doesn't fit @" + entry +
                   "'s argument");
  }
  copies.insert(copies.end(), parameters.begin(), parameters.end());
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
          engine->invokePacked("_mlir_ciface_" + entry, arguments))
    return failure;
  return outputs;
}

} // namespace qlm::test

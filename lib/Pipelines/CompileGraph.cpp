//===- CompileGraph.cpp - From an ONNX file to a package ------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Pipelines/Graph.h"

#include "mlir/IR/Diagnostics.h"
#include "mlir/Pass/PassManager.h"
#include "qlm/Archive/Errors.h"
#include "qlm/Lower/GraphPasses.h"
#include "qlm/Lower/LowerGraph.h"
#include "qlm/Package/GraphPackage.h"
#include "qlm/Quantize/Passes.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/raw_ostream.h"

using namespace mlir;
using namespace mlir::qlm;

bool mlir::qlm::isOnnxPath(StringRef model) {
  return model.ends_with(".onnx") && !llvm::sys::fs::is_directory(model);
}

/// The first line of an error, with the name of the node it came from.
static std::string toLine(Diagnostic &diagnostic) {
  std::string text = diagnostic.str();
  std::string line = StringRef(text).split('\n').first.str();
  if (auto name = dyn_cast<NameLoc>(diagnostic.getLocation()))
    line = "node '" + name.getName().str() + "': " + line;
  return line;
}

static llvm::Error writeModule(ModuleOp module, StringRef path) {
  auto print = [&](raw_ostream &stream) {
    module.print(stream, OpPrintingFlags().enableDebugInfo());
    stream << "\n";
    return llvm::Error::success();
  };
  if (llvm::Error error = llvm::writeToOutput(path.empty() ? "-" : path, print))
    return makeError("cannot write '" + path +
                     "': " + llvm::toString(std::move(error)));
  return llvm::Error::success();
}

/// What observers see becomes results of @graph.
static void returnObserved(ModuleOp module) {
  auto graph = module.lookupSymbol<func::FuncOp>(graph::kGraphName);
  Operation *end = graph.front().getTerminator();
  Builder b(module.getContext());
  SmallVector<ObserveOp> observers(graph.getOps<ObserveOp>());
  for (ObserveOp observe : observers) {
    Value input = observe.getInput();
    std::string name =
        (kGraphObserved + cast<NameLoc>(observe.getLoc()).getName().getValue())
            .str();
    auto attributes = b.getDictionaryAttr(
        {b.getNamedAttr("qlm.name", b.getStringAttr(name)),
         b.getNamedAttr(graph::kTypeAttr, b.getStringAttr("float32"))});
    unsigned index = end->getNumOperands();
    end->insertOperands(index, input);
    (void)graph.insertResult(index, input.getType(), attributes);
    observe.erase();
  }
}

/// Quantizes and packs the linears.
static LogicalResult quantizeGraph(ModuleOp module,
                                   const GraphOptions &options) {
  PassManager pm(module.getContext());
  QuantizeOptions quantize;
  quantize.weights = options.weights;
  quantize.activations = options.activations;
  quantize.range = options.range;
  quantize.statistics = options.statistics;
  quantize.observe = options.observe;
  buildQuantizePipeline(pm, quantize);
  if (failed(pm.run(module)))
    return failure();
  returnObserved(module);
  return success();
}

llvm::Expected<CompileSummary>
mlir::qlm::compileGraph(const GraphOptions &options) {
  DialectRegistry registry;
  registerGraphDialects(registry);
  MLIRContext context(registry, MLIRContext::Threading::DISABLED);
  std::string message;
  ScopedDiagnosticHandler handler(&context, [&](Diagnostic &diagnostic) {
    // The first error is the cause of those after it.
    if (diagnostic.getSeverity() == DiagnosticSeverity::Error &&
        message.empty())
      message = toLine(diagnostic);
    return success();
  });
  auto file = OnnxFile::open(options.model);
  if (!file)
    return file.takeError();
  auto imported = importOnnx(**file, context, options.import);
  if (!imported) {
    std::string error = llvm::toString(imported.takeError());
    return makeError(options.model + ": " + error +
                     (message.empty() ? "" : ": " + message));
  }
  OwningOpRef<ModuleOp> module = std::move(*imported);
  if (options.to == Stage::Import) {
    if (llvm::Error error = writeModule(*module, options.output))
      return std::move(error);
    return CompileSummary();
  }
  auto failStage = [&](StringRef stage) {
    return makeError(options.model + ": " +
                     (message.empty() ? "stage " + stage + " failed"
                                      : llvm::Twine(message)));
  };
  auto addModel = [&](llvm::Error error) {
    return makeError(options.model + ": " + llvm::toString(std::move(error)));
  };
  PassManager fusing(&context);
  fusing.addPass(createLowerConvolutions());
  fusing.addPass(createFuseGraphLinears());
  fusing.addPass(createFoldQdq());
  if (failed(fusing.run(*module)))
    return failStage("optimize");
  auto parameters = GraphParameters::extract(*module, **file);
  if (!parameters)
    return addModel(parameters.takeError());
  if (failed(quantizeGraph(*module, options)))
    return failStage("quantize");
  if (options.to == Stage::Quantize) {
    if (llvm::Error error = writeModule(*module, options.output))
      return std::move(error);
    return CompileSummary();
  }
  if (llvm::Error error = (*parameters)->bind(*module))
    return addModel(std::move(error));
  GraphSignature signature = getGraphSignature(*module);
  PassManager pm(&context);
  pm.enableVerifier(false);
  buildLowerGraphPipeline(pm, options.targetCpu);
  if (failed(pm.run(*module)) ||
      failed(emitGraphEntry(*module, options.targetCpu)))
    return failStage("lower");
  if (options.to != Stage::Package) {
    if (llvm::Error error = writeModule(*module, options.output))
      return std::move(error);
    return CompileSummary();
  }
  auto written = writeGraphPackage(
      *module, signature, **file, **parameters, options.output,
      options.producer, options.quick ? Effort::Quick : Effort::Full);
  if (!written)
    return makeError(options.model + ": " +
                     llvm::toString(written.takeError()));
  return CompileSummary{written->weightBytes, written->moduleBytes, 0};
}

//===- Compile.cpp - From a model's folder to a package -------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Pipelines/Pipelines.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/Diagnostics.h"
#include "mlir/Pass/PassManager.h"
#include "qlm/Archive/Errors.h"
#include "qlm/Dialect/Qlm.h"
#include "qlm/Import/Import.h"
#include "qlm/Import/Onnx.h"
#include "qlm/Lower/Passes.h"
#include "qlm/Optimize/Passes.h"
#include "qlm/Package/Package.h"
#include "qlm/Quantize/Passes.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/raw_ostream.h"

using namespace mlir;
using namespace mlir::qlm;

//===----------------------------------------------------------------------===//
// Diagnostics as errors
//===----------------------------------------------------------------------===//

/// "layers.0.q" of a location that has a name.
static StringRef getLocationName(Location location) {
  if (auto name = dyn_cast<NameLoc>(location))
    return name.getName();
  return {};
}

/// One line: the operation's name, the message, the notes.
static std::string toLine(Diagnostic &diagnostic) {
  std::string line = diagnostic.str();
  StringRef name = getLocationName(diagnostic.getLocation());
  if (!name.empty() && !StringRef(line).contains(name))
    line = (name + ": " + line).str();
  for (Diagnostic &note : diagnostic.getNotes()) {
    // The operation itself, printed in full, is of no use in one line.
    std::string text = note.str();
    if (!StringRef(text).starts_with("see current operation"))
      line += "; " + text;
  }
  // Messages that quote IR may have several lines.
  SmallVector<StringRef> words;
  StringRef(line).split(words, '\n', /*MaxSplit=*/-1, /*KeepEmpty=*/false);
  return llvm::join(
      llvm::map_range(words, [](StringRef word) { return word.trim().str(); }),
      " ");
}

namespace {

/// One run over the stages.
class Compilation {
public:
  Compilation(const CompileOptions &options)
      : options(options), handler(&context, [this](Diagnostic &diagnostic) {
          return handle(diagnostic);
        }) {
    context.loadDialect<QlmDialect, func::FuncDialect, arith::ArithDialect,
                        tensor::TensorDialect>();
  }

  ~Compilation() {
    if (!packed.empty())
      (void)llvm::sys::fs::remove(packed);
  }

  llvm::Expected<CompileSummary> run();

private:
  LogicalResult handle(Diagnostic &diagnostic);
  llvm::Error import();
  llvm::Error importNodes();
  llvm::Error runStage(Stage stage);
  llvm::Error tune();
  llvm::Expected<CompileSummary> package();
  llvm::Error dump(Stage stage);
  llvm::Error write(StringRef path);
  void report(Stage stage) {
    CompileProgress progress;
    progress.stage = stage;
    progress.item = getStageName(stage);
    if (options.progress)
      options.progress(progress);
  }
  /// The first error that a pass gave.
  llvm::Error takeDiagnostic(Stage stage) {
    if (message.empty())
      return makeError("stage " + getStageName(stage) + " failed");
    return makeError(message);
  }

  const CompileOptions &options;
  MLIRContext context;
  OwningOpRef<ModuleOp> module;
  std::string message;
  /// A temporary file of the weights of an ONNX file that were packed.
  std::string packed;
  ScopedDiagnosticHandler handler;
};

} // namespace

LogicalResult Compilation::handle(Diagnostic &diagnostic) {
  if (diagnostic.getSeverity() == DiagnosticSeverity::Error) {
    // The first error is the cause of those after it.
    if (message.empty())
      message = toLine(diagnostic);
  } else if (diagnostic.getSeverity() == DiagnosticSeverity::Warning) {
    if (options.warning)
      options.warning(toLine(diagnostic));
  }
  return success();
}

//===----------------------------------------------------------------------===//
// Stages
//===----------------------------------------------------------------------===//

/// The nodes of an ONNX file, and what the folder beside it says.
llvm::Error Compilation::importNodes() {
  auto file = OnnxFile::open(options.model);
  if (!file)
    return file.takeError();
  SmallString<256> folder(options.model);
  llvm::sys::fs::make_absolute(folder);
  SmallString<128> path;
  if (std::error_code code =
          llvm::sys::fs::createTemporaryFile("qlm-packed", "codes", path))
    return makeError("cannot make a temporary file: " + code.message());
  packed = path.str().str();
  auto imported = importOnnxNodes(**file, context,
                                  llvm::sys::path::parent_path(folder), packed);
  if (!imported)
    return makeError(options.model + ": " +
                     llvm::toString(imported.takeError()));
  module = std::move(*imported);
  auto config = readDecoderConfig(options.tokenizer, context);
  if (!config)
    return config.takeError();
  (*module)->setAttr("qlm.config", *config);
  return llvm::Error::success();
}

llvm::Error Compilation::import() {
  if (!options.tokenizer.empty())
    return importNodes();
  ImportOptions importOptions;
  importOptions.plainOps = options.plainOps;
  auto imported = importModelFolder(options.model, context, importOptions);
  if (!imported)
    return imported.takeError();
  module = std::move(*imported);
  return llvm::Error::success();
}

static void addQuantize(PassManager &pm, const CompileOptions &options) {
  QuantizeOptions quantize;
  quantize.target = options.target;
  quantize.weights = options.weights;
  quantize.groupSize = options.groupSize;
  quantize.granularity = options.granularity;
  quantize.doubleQuant = options.doubleQuant;
  quantize.zeroPoints = options.zeroPoints;
  quantize.method = options.method;
  quantize.statistics = options.statistics;
  quantize.damping = options.damping;
  quantize.blockSize = options.blockSize;
  quantize.actOrder = options.actOrder;
  quantize.staticGroups = options.staticGroups;
  quantize.smooth = options.smooth;
  quantize.range = options.range;
  quantize.searchScales = options.searchScales;
  quantize.refine = options.refine;
  quantize.observe = options.observe;
  quantize.keepLmHead = options.keepLmHead;
  quantize.activations = options.activations;
  quantize.outlierThreshold = options.outlierThreshold;
  buildQuantizePipeline(pm, quantize);
}

static void addLower(PassManager &pm, const CompileOptions &options) {
  LowerOptions lower;
  lower.target = options.target;
  lower.targetCpu = options.targetCpu;
  lower.chips = options.chips;
  lower.batchInvariant = options.batchInvariant;
  lower.kvType = options.kvCache;
  lower.pageTokens = options.pageTokens;
  lower.maxBatch = options.maxBatch;
  lower.maxContext = options.maxContext;
  lower.maxStepTokens = options.maxStepTokens;
  buildLowerPipeline(pm, lower);
}

/// Runs Optimize, Quantize or Lower.
llvm::Error Compilation::runStage(Stage stage) {
  PassManager pm(&context);
  if (stage == Stage::Optimize && !options.tokenizer.empty())
    buildRaisePipeline(pm);
  if (stage == Stage::Optimize)
    buildOptimizePipeline(pm, OptimizeOptions());
  else if (stage == Stage::Quantize)
    addQuantize(pm, options);
  else
    addLower(pm, options);
  if (failed(pm.run(*module)))
    return takeDiagnostic(stage);
  return llvm::Error::success();
}

llvm::Error Compilation::tune() {
  auto progress = [&](StringRef product) {
    if (options.progress)
      options.progress({Stage::Lower, ("tuning " + product).str(), 0, 0});
  };
  return tuneKernels(*module, options.targetCpu, options.maxStepTokens,
                     options.threads, progress);
}

llvm::Expected<CompileSummary> Compilation::package() {
  PackageOptions packageOptions;
  packageOptions.output = options.output;
  packageOptions.modelFolder =
      options.tokenizer.empty() ? options.model : options.tokenizer;
  packageOptions.producer = options.producer;
  packageOptions.activations = options.activations;
  packageOptions.threads = options.threads;
  packageOptions.cancelled = options.cancelled;
  packageOptions.judge = options.judge;
  packageOptions.cholesky = options.cholesky;
  packageOptions.allowNonfinite = options.allowNonfinite;
  packageOptions.note = options.warning;
  packageOptions.progress = [&](const PackageProgress &progress) {
    if (options.progress)
      options.progress({Stage::Package, progress.item, progress.bytesDone,
                        progress.bytesTotal});
  };
  auto written = writePackage(*module, packageOptions);
  if (!written)
    return written.takeError();
  return CompileSummary{written->weightBytes, written->moduleBytes,
                        written->peakBytes};
}

//===----------------------------------------------------------------------===//
// IR as files
//===----------------------------------------------------------------------===//

/// Writes the module with its locations: labels and keys are taken from them,
/// so that `quant-opt` can go on from the file.
llvm::Error Compilation::write(StringRef path) {
  auto print = [&](raw_ostream &stream) {
    module->print(stream, OpPrintingFlags().enableDebugInfo());
    stream << "\n";
    return llvm::Error::success();
  };
  if (llvm::Error error = llvm::writeToOutput(path, print))
    return makeError("cannot write '" + path +
                     "': " + llvm::toString(std::move(error)));
  return llvm::Error::success();
}

llvm::Error Compilation::dump(Stage stage) {
  if (options.dumpStages.empty())
    return llvm::Error::success();
  if (std::error_code code =
          llvm::sys::fs::create_directories(options.dumpStages))
    return makeError("cannot write '" + options.dumpStages +
                     "': " + code.message());
  SmallString<256> path(options.dumpStages);
  llvm::sys::path::append(path, llvm::Twine(static_cast<int>(stage) + 1) + "-" +
                                    getStageName(stage) + ".mlir");
  return write(path);
}

llvm::Expected<CompileSummary> Compilation::run() {
  for (Stage stage :
       {Stage::Import, Stage::Optimize, Stage::Quantize, Stage::Lower}) {
    if (stage > options.to)
      break;
    if (options.cancelled && options.cancelled())
      return makeError("interrupted");
    report(stage);
    if (stage == Stage::Lower && options.tune)
      if (llvm::Error error = tune())
        return std::move(error);
    if (llvm::Error error = stage == Stage::Import ? import() : runStage(stage))
      return std::move(error);
    if (llvm::Error error = dump(stage))
      return std::move(error);
    // Of ONNX nodes the contract holds once they are raised.
    bool isNodes = stage == Stage::Import && !options.tokenizer.empty();
    if (!isNodes && failed(verifyContract(*module, stage)))
      return takeDiagnostic(stage);
  }
  if (options.to == Stage::Package) {
    report(Stage::Package);
    return package();
  }
  if (llvm::Error error =
          write(options.output.empty() ? "-" : StringRef(options.output)))
    return std::move(error);
  return CompileSummary();
}

llvm::Expected<CompileSummary>
mlir::qlm::compileModel(const CompileOptions &options) {
  return Compilation(options).run();
}

//===- Import.cpp - Model folders into IR ---------------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Import/Import.h"
#include "LlamaBuilder.h"
#include "LlamaWeights.h"
#include "qlm/Archive/Json.h"

#include "mlir/IR/Diagnostics.h"
#include "mlir/IR/Verifier.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Path.h"

namespace mlir::qlm {

static std::string join(StringRef folder, StringRef name) {
  SmallString<128> path(folder);
  llvm::sys::path::append(path, name);
  return path.str().str();
}

static llvm::Error inFile(StringRef path, llvm::Error error) {
  return llvm::createStringError(path + ": " +
                                 llvm::toString(std::move(error)));
}

/// Reads `config.json` and what `generation_config.json` overrides.
static llvm::Expected<LlamaConfig> readConfig(StringRef folder) {
  std::string path = join(folder, "config.json");
  llvm::Expected<llvm::json::Value> json = readBoundedJson(path);
  if (!json)
    return json.takeError();
  llvm::Expected<LlamaConfig> config = parseLlamaConfig(*json);
  if (!config)
    return inFile(path, config.takeError());
  path = join(folder, "generation_config.json");
  if (!llvm::sys::fs::exists(path))
    return config;
  llvm::Expected<llvm::json::Value> generation = readBoundedJson(path);
  if (!generation)
    return generation.takeError();
  if (llvm::Error error = applyGenerationConfig(*generation, *config))
    return inFile(path, std::move(error));
  return config;
}

static int64_t countParameters(ArrayRef<ExpectedWeight> weights) {
  int64_t count = 0;
  for (const ExpectedWeight &weight : weights)
    count += ShapedType::getNumElements(weight.shape);
  return count;
}

/// The module's `qlm.model`; its keys are listed in the contracts. Without
/// \p parameters those of the configuration alone.
static DictionaryAttr describeModel(const LlamaConfig &config, StringRef name,
                                    std::optional<int64_t> parameters,
                                    Builder builder) {
  SmallVector<NamedAttribute> items;
  auto add = [&](StringRef key, Attribute value) {
    items.push_back(builder.getNamedAttr(key, value));
  };
  auto addSize = [&](StringRef key, int64_t value) {
    add(key, builder.getI64IntegerAttr(value));
  };
  add("architecture", builder.getStringAttr("llama"));
  add("name", builder.getStringAttr(name));
  addSize("vocabulary_size", config.vocabularySize);
  addSize("hidden_size", config.hiddenSize);
  addSize("layers", config.layers);
  addSize("heads", config.heads);
  addSize("kv_heads", config.kvHeads);
  addSize("head_dim", config.headDim);
  addSize("intermediate_size", config.intermediateSize);
  addSize("context_length", config.contextLength);
  if (!config.windows.empty())
    add("windows", builder.getI64ArrayAttr(config.windows));
  if (parameters)
    addSize("parameters", *parameters);
  if (config.bosToken)
    addSize("bos_token_id", *config.bosToken);
  SmallVector<Attribute> eosTokens;
  for (int64_t token : config.eosTokens)
    eosTokens.push_back(builder.getI64IntegerAttr(token));
  add("eos_token_ids", builder.getArrayAttr(eosTokens));
  return builder.getDictionaryAttr(items);
}

/// The folder's absolute path.
static SmallString<128> makeAbsolute(StringRef folder) {
  // Absolute, so that later stages don't depend on the working folder.
  SmallString<128> source(folder);
  llvm::sys::fs::make_absolute(source);
  // `..` stays: with symbolic links it is not the parent of the name before.
  llvm::sys::path::remove_dots(source);
  return source;
}

/// Reads the part of `genai_config.json` that generation needs.
static llvm::Expected<DictionaryAttr>
readGenaiConfig(StringRef path, StringRef name, Builder builder) {
  llvm::Expected<llvm::json::Value> json = readBoundedJson(path);
  if (!json)
    return json.takeError();
  const llvm::json::Object *object = json->getAsObject();
  const llvm::json::Object *model =
      object ? object->getObject("model") : nullptr;
  auto length = model ? model->getInteger("context_length") : std::nullopt;
  if (!length || *length < 1 || *length > (int64_t(1) << 24))
    return llvm::createStringError(
        path + ": 'model' needs a 'context_length' from 1 to 16777216");
  NamedAttrList items;
  items.set("name", builder.getStringAttr(name));
  items.set("context_length", builder.getI64IntegerAttr(*length));
  if (auto token = model->getInteger("bos_token_id"); token && *token >= 0)
    items.set("bos_token_id", builder.getI64IntegerAttr(*token));
  SmallVector<Attribute> tokens;
  if (auto token = model->getInteger("eos_token_id"); token && *token >= 0)
    tokens.push_back(builder.getI64IntegerAttr(*token));
  if (const llvm::json::Array *list = model->getArray("eos_token_id"))
    for (const llvm::json::Value &value : *list)
      if (auto token = value.getAsInteger();
          token && *token >= 0 && tokens.size() < 64)
        tokens.push_back(builder.getI64IntegerAttr(*token));
  items.set("eos_token_ids", builder.getArrayAttr(tokens));
  return items.getDictionary(builder.getContext());
}

llvm::Expected<DictionaryAttr> readDecoderConfig(StringRef folder,
                                                 MLIRContext &context) {
  if (!llvm::sys::fs::is_directory(folder))
    return llvm::createStringError(folder + ": not a folder");
  SmallString<128> source = makeAbsolute(folder);
  StringRef name = llvm::sys::path::filename(source);
  std::string genai = join(folder, "genai_config.json");
  if (!llvm::sys::fs::exists(join(folder, "config.json")) &&
      llvm::sys::fs::exists(genai))
    return readGenaiConfig(genai, name, Builder(&context));
  llvm::Expected<LlamaConfig> config = readConfig(folder);
  if (!config)
    return config.takeError();
  return describeModel(*config, name, std::nullopt, Builder(&context));
}

static void warnOfUnused(ArrayRef<StringRef> unused, const WeightFiles &files,
                         StringRef architecture, MLIRContext &context) {
  if (unused.empty())
    return;
  InFlightDiagnostic warning = emitWarning(UnknownLoc::get(&context));
  warning << files.getListing() << ": ignored " << quoteName(unused.front());
  if (unused.size() > 1)
    warning << " and " << unused.size() - 1 << " more";
  warning << ", which " << architecture << " does not have";
}

llvm::Expected<OwningOpRef<ModuleOp>>
importModelFolder(StringRef folder, MLIRContext &context,
                  const ImportOptions &options) {
  if (!llvm::sys::fs::is_directory(folder))
    return llvm::createStringError(folder + ": not a folder");
  llvm::Expected<LlamaConfig> config = readConfig(folder);
  if (!config)
    return config.takeError();
  WeightFiles files;
  if (llvm::Error error = files.open(folder))
    return std::move(error);
  std::vector<ExpectedWeight> weights = listLlamaWeights(*config);
  if (llvm::Error error = checkWeights(weights, files))
    return std::move(error);
  warnOfUnused(findUnusedWeights(weights, files), files, config->architecture,
               context);

  SmallString<128> source = makeAbsolute(folder);
  context.loadDialect<QlmDialect, arith::ArithDialect, func::FuncDialect,
                      tensor::TensorDialect>();
  OwningOpRef<ModuleOp> module(ModuleOp::create(UnknownLoc::get(&context)));
  Builder builder(&context);
  (*module)->setAttr(kStageAttr, builder.getStringAttr("import"));
  (*module)->setAttr(kSourceAttr, builder.getStringAttr(source));
  (*module)->setAttr(kModelAttr,
                     describeModel(*config, llvm::sys::path::filename(source),
                                   countParameters(weights), builder));
  LlamaBuilder llama(*module, *config, options);
  llama.buildParameters(weights, files);
  llama.buildForward();
  if (failed(verify(*module)))
    return llvm::createStringError(folder + ": the imported IR is not valid");
  return module;
}

} // namespace mlir::qlm

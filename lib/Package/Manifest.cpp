//===- Manifest.cpp - manifest.json ---------------------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Manifest.h"

#include "PackageErrors.h"
#include "RoundingProgram.h"
#include "qlm/Dialect/MethodOps.h"
#include "qlm/Package/Format.h"
#include "llvm/Support/Format.h"

using namespace mlir;
using namespace mlir::qlm;
namespace format = ::qlm::format;
namespace json = llvm::json;

/// Threads whose scratch is part of the stated peak.
static constexpr int64_t kCountedThreads = 2;

std::string mlir::qlm::toHex(uint64_t checksum) {
  std::string text;
  llvm::raw_string_ostream(text)
      << llvm::format("%016llx", (unsigned long long)checksum);
  return text;
}

llvm::Expected<std::string> mlir::qlm::getWeightKey(Value weight) {
  Operation *op = weight.getDefiningOp();
  if (!op)
    return makeError("a launch's weight must be a parameter program, got an "
                     "argument of the function");
  if (auto pack = dyn_cast<PackOp>(op))
    return pack.getName().str();
  if (auto key = op->getAttrOfType<StringAttr>("qlm.key"))
    return key.getValue().str();
  return makeUnsupported(op, "a launch's weight needs a qlm.key");
}

llvm::Expected<std::vector<LaunchOp>> mlir::qlm::getLaunches(ModuleOp module) {
  auto step = module.lookupSymbol<func::FuncOp>(kStepName);
  if (!step || step.isExternal())
    return makeError("the module has no function @step: it has not gone "
                     "through Lower");
  std::vector<LaunchOp> launches;
  step.walk([&](LaunchOp launch) { launches.push_back(launch); });
  return launches;
}

std::vector<LaunchOp> mlir::qlm::getSamplingLaunches(ModuleOp module) {
  std::vector<LaunchOp> launches;
  if (auto sample = module.lookupSymbol<func::FuncOp>("sample"))
    sample.walk([&](LaunchOp launch) { launches.push_back(launch); });
  return launches;
}

//===----------------------------------------------------------------------===//
// Sections
//===----------------------------------------------------------------------===//

/// A dictionary of integers and strings as JSON. Nested dictionaries too.
static json::Value toJson(Attribute attr) {
  if (auto integer = dyn_cast<IntegerAttr>(attr))
    return integer.getInt();
  if (auto text = dyn_cast<StringAttr>(attr))
    return text.getValue().str();
  if (auto number = dyn_cast<FloatAttr>(attr))
    return number.getValueAsDouble();
  if (auto dictionary = dyn_cast<DictionaryAttr>(attr)) {
    json::Object object;
    for (NamedAttribute entry : dictionary)
      object[entry.getName().getValue().str()] = toJson(entry.getValue());
    return object;
  }
  if (auto array = dyn_cast<ArrayAttr>(attr)) {
    json::Array values;
    for (Attribute element : array)
      values.push_back(toJson(element));
    return values;
  }
  if (auto array = dyn_cast<DenseI64ArrayAttr>(attr))
    return json::Array(array.asArrayRef());
  return printToString(attr);
}

static llvm::Expected<int64_t> getInteger(DictionaryAttr dictionary,
                                          StringRef name, StringRef where) {
  if (auto attr = dyn_cast_or_null<IntegerAttr>(dictionary.get(name)))
    return attr.getInt();
  return makeError("the module's " + where + " lacks the integer '" + name +
                   "'");
}

static llvm::Expected<DictionaryAttr> getDictionary(ModuleOp module,
                                                    StringRef name) {
  if (auto attr = module->getAttrOfType<DictionaryAttr>(name))
    return attr;
  return makeError("the module lacks the attribute '" + name +
                   "': it has not gone through all stages");
}

/// How \p rounding finds codes: the option that makes it.
static StringRef getMethod(Operation *rounding) {
  if (isa<KeepCodesOp>(rounding))
    return "keep";
  bool scaled = false;
  for (Value weight = rounding->getOperand(0);
       isa_and_nonnull<ClipOp, ScaleColumnsOp, ScaleRowsOp>(
           weight.getDefiningOp());
       weight = weight.getDefiningOp()->getOperand(0))
    if (auto columns = weight.getDefiningOp<ScaleColumnsOp>())
      scaled |=
          isa_and_nonnull<AwqScalesOp>(columns.getScales().getDefiningOp());
  if (isa<GptqOp>(rounding))
    return scaled ? "awq-gptq" : "gptq";
  return isa_and_nonnull<ClipOp>(rounding->getOperand(0).getDefiningOp())
             ? "awq"
             : "rtn";
}

/// How weights are stored: from the programs of the launches.
static json::Object makeQuantization(ArrayRef<LaunchOp> launches,
                                     StringRef activations) {
  json::Object section{{"weights", "f32"},
                       {"scheme", ""},
                       {"activations", activations.str()},
                       {"method", "none"}};
  for (LaunchOp launch : launches)
    for (Value weight : launch.getWeights()) {
      auto pack = weight.getDefiningOp<PackOp>();
      if (!pack)
        continue;
      if (Operation *rounding = getRounding(pack)) {
        SchemeAttr scheme = getRoundingScheme(rounding);
        bool doubled = llvm::any_of(rounding->getResult(1).getUsers(),
                                    llvm::IsaPred<QuantizeScalesOp>);
        section["weights"] = scheme.getName() + (doubled ? "-dq" : "");
        section["scheme"] = printToString(scheme);
        section["method"] = getMethod(rounding);
        return section;
      }
      if (pack.getLayout().getKind() == LayoutKind::BFloat16)
        section["weights"] = "bf16";
      else if (pack.getLayout().getKind() == LayoutKind::Float16)
        section["weights"] = "f16";
    }
  return section;
}

static json::Object makeTarget(ModuleOp module, const PackagedFile &file) {
  json::Array features;
  std::string cpu;
  for (ModuleOp kernels : module.getOps<ModuleOp>()) {
    if (auto attr = kernels->getAttrOfType<StringAttr>("qlm.target_cpu"))
      cpu = attr.getValue().str();
    auto attr = kernels->getAttrOfType<StringAttr>("qlm.target_features");
    if (!attr)
      continue;
    SmallVector<StringRef> parts;
    attr.getValue().split(parts, ',', /*MaxSplit=*/-1, /*KeepEmpty=*/false);
    for (StringRef part : parts)
      if (part.consume_front("+"))
        features.push_back(part.str());
  }
  return json::Object{{"kind", "cpu"},
                      {"cpu", cpu},
                      {"features", std::move(features)},
                      {"module", file.name},
                      {"module_checksum", toHex(file.checksum)},
                      {"module_bytes", file.bytes}};
}

int64_t ManifestInput::getCodeBytes() const {
  int64_t most = module.bytes;
  for (const PackagedChip &chip : chips)
    most = std::max(most, chip.file.bytes);
  return most;
}

/// A chip's file, and what its kernels take.
static json::Object makeChip(const PackagedChip &chip) {
  json::Object section{{"chip", chip.chip},
                       {"file", chip.file.name},
                       {"checksum", toHex(chip.file.checksum)},
                       {"bytes", chip.file.bytes}};
  json::Object kernels;
  for (const KernelResources &kernel : chip.kernels)
    kernels[kernel.name] = json::Object{{"registers", kernel.registers},
                                        {"spill_bytes", kernel.spillBytes},
                                        {"stack_bytes", kernel.stackBytes},
                                        {"shared_bytes", kernel.sharedBytes}};
  if (!kernels.empty())
    section["kernels"] = std::move(kernels);
  return section;
}

static json::Object makeCudaTarget(const ManifestInput &input) {
  json::Array chips;
  for (const PackagedChip &chip : input.chips)
    chips.push_back(makeChip(chip));
  json::Object section{{"kind", "cuda"}, {"chips", std::move(chips)}};
  if (input.ptx) {
    json::Object ptx = makeChip(*input.ptx);
    ptx["version"] = kPtxVersion;
    section["ptx"] = std::move(ptx);
  }
  return section;
}

static llvm::Expected<json::Object> makePlan(ModuleOp module,
                                             const ManifestInput &input) {
  auto plan = getDictionary(module, kPlanAttr);
  auto model = getDictionary(module, kModelAttr);
  if (!plan || !model)
    return llvm::joinErrors(plan.takeError(), model.takeError());
  auto kv = dyn_cast_or_null<DictionaryAttr>(plan->get("kv"));
  if (!kv)
    return makeError("the module's qlm.plan lacks the dictionary 'kv'");
  int64_t values[5];
  // Memory beside the arena: of each thread, or of the GPU.
  StringRef besides = input.isCuda() ? "workspace_bytes" : "scratch_bytes";
  std::pair<StringRef, DictionaryAttr> fields[] = {{"arena_bytes", *plan},
                                                   {besides, *plan},
                                                   {"max_logit_rows", *plan},
                                                   {"vocabulary_size", *model},
                                                   {"pool_bytes", kv}};
  for (auto [value, field] : llvm::zip_equal(values, fields)) {
    auto found = getInteger(field.second, field.first, "plan or model");
    if (!found)
      return found.takeError();
    value = *found;
  }
  auto [arena, scratch, logitRows, vocabulary, pool] =
      std::tie(values[0], values[1], values[2], values[3], values[4]);
  int64_t logits = logitRows * vocabulary * static_cast<int64_t>(sizeof(float));
  json::Object section = *toJson(*plan).getAsObject();
  section["logits_bytes"] = logits;
  section["peak_bytes"] = input.weights.bytes + arena +
                          (input.isCuda() ? 1 : kCountedThreads) * scratch +
                          pool + logits + input.getCodeBytes();
  return section;
}

//===----------------------------------------------------------------------===//
// Launches
//===----------------------------------------------------------------------===//

static llvm::Expected<json::Array> makeArgument(LaunchOp launch, ArgAttr arg) {
  if (arg.getSpace() != ArgSpace::Weight)
    return json::Array{stringifyArgSpace(arg.getSpace()), arg.getValue()};
  if (arg.getValue() < 0 ||
      arg.getValue() >= static_cast<int64_t>(launch.getWeights().size()))
    return makeUnsupported(launch, "weight arguments must name an operand");
  auto key = getWeightKey(launch.getWeights()[arg.getValue()]);
  if (!key)
    return key.takeError();
  return json::Array{"weight", *key};
}

static json::Object makeTiles(TilesAttr tiles) {
  return json::Object{{"count", tiles.getCount()},
                      {"size", stringifySizeKind(tiles.getSize())},
                      {"block", tiles.getBlock()}};
}

static llvm::Expected<json::Object> makeVariant(LaunchOp launch,
                                                VariantAttr variant) {
  auto module = launch->getParentOfType<ModuleOp>();
  Operation *kernels =
      module.lookupSymbol(variant.getKernel().getRootReference());
  auto chip =
      kernels ? kernels->getAttrOfType<StringAttr>("qlm.chip") : nullptr;
  if (!chip)
    return makeUnsupported(launch, "kernels must lie in a module with a chip");
  json::Object section{
      {"kernel", variant.getKernel().getLeafReference().getValue()},
      {"chip", chip.getValue()},
      {"max_rows", variant.getMaxRows()},
      {"decode_only", variant.getDecodeOnly()},
      {"grid", makeTiles(variant.getGrid())},
      {"block_threads", variant.getBlockThreads()},
      {"shared_bytes", variant.getSharedBytes()},
      {"cluster", variant.getCluster()},
      {"dependent", variant.getDependent()}};
  if (variant.getGridY())
    section["grid_y"] = makeTiles(variant.getGridY());
  return section;
}

static llvm::Expected<json::Object> makeLaunch(LaunchOp launch) {
  json::Array args;
  for (Attribute attr : launch.getArgs()) {
    auto arg = makeArgument(launch, cast<ArgAttr>(attr));
    if (!arg)
      return arg.takeError();
    args.push_back(std::move(*arg));
  }
  json::Object section{
      {"label", launch.getLabel()},
      {"args", std::move(args)},
      {"bytes", static_cast<int64_t>(launch.getBytes())},
      {"flops_per_row", static_cast<int64_t>(launch.getFlopsPerRow())}};
  if (auto tuning = launch->getAttrOfType<DictionaryAttr>("qlm.tuning")) {
    json::Object choices;
    for (NamedAttribute choice : tuning)
      if (auto number = dyn_cast<IntegerAttr>(choice.getValue()))
        choices[choice.getName().getValue()] = number.getInt();
    section["tuning"] = std::move(choices);
  }
  if (!launch.getVariants()) {
    section["kernel"] = launch.getKernel()->getLeafReference().getValue();
    section["tiles"] = makeTiles(*launch.getTiles());
    return section;
  }
  json::Array variants;
  for (Attribute attr : launch.getVariantsAttr()) {
    auto variant = makeVariant(launch, cast<VariantAttr>(attr));
    if (!variant)
      return variant.takeError();
    variants.push_back(std::move(*variant));
  }
  section["rows"] = stringifySizeKind(*launch.getRows());
  section["variants"] = std::move(variants);
  return section;
}

static llvm::Expected<json::Array> makeLaunches(ArrayRef<LaunchOp> launches) {
  json::Array list;
  for (LaunchOp launch : launches) {
    auto entry = makeLaunch(launch);
    if (!entry)
      return entry.takeError();
    list.push_back(std::move(*entry));
  }
  return list;
}

llvm::Expected<json::Object>
mlir::qlm::makeManifest(ModuleOp module, const ManifestInput &input) {
  auto model = getDictionary(module, kModelAttr);
  if (!model)
    return model.takeError();
  auto launches = getLaunches(module);
  if (!launches)
    return launches.takeError();
  auto plan = makePlan(module, input);
  if (!plan)
    return plan.takeError();

  json::Object modelSection = *toJson(*model).getAsObject();
  modelSection.try_emplace("bos_token_id", nullptr);
  auto launchList = makeLaunches(*launches);
  if (!launchList)
    return launchList.takeError();
  auto sampling = makeLaunches(getSamplingLaunches(module));
  if (!sampling)
    return sampling.takeError();
  json::Object files;
  for (const PackagedFile &file : input.files)
    files[file.name] = toHex(file.checksum);
  json::Object manifest{
      {"format", format::kFormatName},
      {"version", format::kFormatVersion},
      {"producer", input.producer},
      {"model", std::move(modelSection)},
      {"quantization", makeQuantization(*launches, input.activations)},
      {"target", input.isCuda() ? makeCudaTarget(input)
                                : makeTarget(module, input.module)},
      {"weights", json::Object{{"file", input.weights.name},
                               {"bytes", input.weights.bytes},
                               {"checksum", toHex(input.weights.checksum)}}},
      {"files", std::move(files)},
      {"plan", std::move(*plan)},
      {"launches", std::move(*launchList)}};
  if (!sampling->empty())
    manifest["sampling"] = std::move(*sampling);
  return manifest;
}

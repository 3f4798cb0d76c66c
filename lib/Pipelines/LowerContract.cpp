//===- LowerContract.cpp - What holds after Lower -------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Contract.h"

#include "mlir/Dialect/GPU/IR/GPUDialect.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/LLVMIR/NVVMDialect.h"
#include "qlm/Lower/Cuda/Kernels.h"
#include "qlm/Package/Format.h"
#include "llvm/ADT/StringMap.h"

using namespace mlir;
using namespace mlir::qlm;
namespace format = ::qlm::format;

static constexpr Stage kStage = Stage::Lower;

//===----------------------------------------------------------------------===//
// The plan
//===----------------------------------------------------------------------===//

static int64_t getPlanned(DictionaryAttr dictionary, StringRef name) {
  return dictionary.getAs<IntegerAttr>(name).getInt();
}

static bool isCuda(ModuleOp module) {
  return !module.getOps<gpu::GPUModuleOp>().empty();
}

static LogicalResult checkPlan(ModuleOp module) {
  auto plan = module->getAttrOfType<DictionaryAttr>(kPlanAttr);
  auto model = module->getAttrOfType<DictionaryAttr>(kModelAttr);
  if (!plan || !model)
    return breakContract(module, kStage,
                         "the module must have qlm.plan and qlm.model");
  if (failed(checkIntegers(
          module, kStage, kPlanAttr, plan,
          {"max_batch", "max_context", "max_step_tokens", "max_logit_rows",
           "arena_bytes",
           isCuda(module) ? "workspace_bytes" : "scratch_bytes"})))
    return failure();
  auto kv = plan.getAs<DictionaryAttr>("kv");
  if (!kv || !kv.getAs<StringAttr>("type"))
    return breakContract(module, kStage, "qlm.plan must have kv with a type");
  if (failed(checkIntegers(module, kStage, "kv of qlm.plan", kv,
                           {"page_tokens", "layers", "pages", "page_bytes",
                            "pool_bytes", "bytes_per_token"})))
    return failure();
  int64_t pool = getPlanned(kv, "layers") * getPlanned(kv, "pages") *
                 getPlanned(kv, "page_bytes");
  if (getPlanned(kv, "pool_bytes") != pool)
    return breakContract(module, kStage,
                         "pool_bytes must be layers * pages * page_bytes = ")
           << pool << ", got " << getPlanned(kv, "pool_bytes");
  return success();
}

//===----------------------------------------------------------------------===//
// The step
//===----------------------------------------------------------------------===//

static LogicalResult checkArguments(ModuleOp module, func::FuncOp step) {
  auto plan = module->getAttrOfType<DictionaryAttr>(kPlanAttr);
  int64_t layers = getPlanned(plan.getAs<DictionaryAttr>("kv"), "layers");
  int64_t expected = format::kStepArgumentCount + layers;
  if (step.getNumArguments() != expected)
    return breakContract(step, kStage, "@step must have ")
           << format::kStepArgumentCount << " arguments and a cache for each "
           << "of " << layers << " layers, got " << step.getNumArguments()
           << " in all";
  for (unsigned i = 0; i < step.getNumArguments(); ++i) {
    StringRef name = i < format::kStepArgumentCount
                         ? StringRef(format::kStepArgumentNames[i])
                         : StringRef("cache");
    auto attr = step.getArgAttrOfType<StringAttr>(i, kStepAttr);
    if (!attr || attr.getValue() != name)
      return breakContract(step, kStage, "argument ")
             << i << " of @step must be called " << name << ", got "
             << (attr ? attr.getValue() : StringRef("nothing"));
  }
  return success();
}

/// Whether the offset of \p arg lies in the \p bytes bytes that are planned.
static LogicalResult checkOffset(LaunchOp launch, ArgAttr arg, int64_t bytes) {
  int64_t alignment = static_cast<int64_t>(
      launch.getVariants() ? format::kDeviceAlignment : format::kAlignment);
  int64_t value = arg.getValue();
  if (value >= 0 && value < bytes && value % alignment == 0)
    return success();
  return breakContract(launch, kStage, stringifyArgSpace(arg.getSpace()))
         << " offsets must be multiples of " << alignment << " below " << bytes
         << ", got " << value;
}

/// Whether \p arg lies within what the plan has.
static LogicalResult checkArgument(LaunchOp launch, ArgAttr arg,
                                   DictionaryAttr plan) {
  int64_t value = arg.getValue();
  switch (arg.getSpace()) {
  case ArgSpace::Weight:
  case ArgSpace::Logits:
    return success();
  case ArgSpace::Sampling:
  case ArgSpace::Sampled:
    if (launch->getParentOfType<func::FuncOp>().getSymName() ==
        cuda::kSampleName)
      return success();
    return breakContract(launch, kStage, stringifyArgSpace(arg.getSpace()))
           << " arguments belong to launches of @sample";
  case ArgSpace::Arena:
    return checkOffset(launch, arg, getPlanned(plan, "arena_bytes"));
  case ArgSpace::Workspace:
    return checkOffset(
        launch, arg,
        launch.getVariants() ? getPlanned(plan, "workspace_bytes") : 0);
  case ArgSpace::Step:
  case ArgSpace::Cache: {
    int64_t count =
        arg.getSpace() == ArgSpace::Step
            ? format::kStepArgumentCount
            : getPlanned(plan.getAs<DictionaryAttr>("kv"), "layers");
    if (value < 0 || value >= count)
      return breakContract(launch, kStage, stringifyArgSpace(arg.getSpace()))
             << " arguments must be below " << count << ", got " << value;
    return success();
  }
  }
  llvm_unreachable("unknown space");
}

static LogicalResult checkKernel(LaunchOp launch, SymbolRefAttr kernel) {
  if (SymbolTable::lookupSymbolIn(launch->getParentOfType<ModuleOp>(), kernel))
    return success();
  return breakContract(launch, kStage, "kernels must exist, got ") << kernel;
}

/// Whether every chip has a kernel for the largest step.
static LogicalResult checkVariants(LaunchOp launch, ModuleOp module) {
  auto plan = module->getAttrOfType<DictionaryAttr>(kPlanAttr);
  StringRef limit = "max_step_tokens";
  if (*launch.getRows() == SizeKind::LogitRows)
    limit = "max_logit_rows";
  else if (*launch.getRows() == SizeKind::Sequences)
    limit = "max_batch";
  int64_t rows = getPlanned(plan, limit);
  for (Attribute attr : launch.getVariantsAttr())
    if (failed(checkKernel(launch, cast<VariantAttr>(attr).getKernel())))
      return failure();
  for (gpu::GPUModuleOp kernels : module.getOps<gpu::GPUModuleOp>())
    if (llvm::none_of(launch.getVariantsAttr(), [&](Attribute attr) {
          auto variant = cast<VariantAttr>(attr);
          return variant.getKernel().getRootReference() == kernels.getName() &&
                 variant.getMaxRows() >= rows && !variant.getDecodeOnly();
        }))
      return breakContract(launch, kStage,
                           "each chip must have a kernel for the largest step, "
                           "got none for ")
             << rows << " rows in @" << kernels.getName();
  return success();
}

static LogicalResult checkLaunch(LaunchOp launch, ModuleOp module,
                                 llvm::StringMap<Value> &keys) {
  if (launch.getVariants() ? failed(checkVariants(launch, module))
                           : failed(checkKernel(launch, *launch.getKernel())))
    return failure();
  auto plan = module->getAttrOfType<DictionaryAttr>(kPlanAttr);
  for (Attribute arg : launch.getArgs())
    if (failed(checkArgument(launch, cast<ArgAttr>(arg), plan)))
      return failure();
  for (Value weight : launch.getWeights()) {
    Operation *op = weight.getDefiningOp();
    auto pack = dyn_cast_or_null<PackOp>(op);
    auto attr = op ? op->getAttrOfType<StringAttr>("qlm.key") : StringAttr();
    if (!pack && !attr)
      return breakContract(launch, kStage,
                           "weights must have a key in the package",
                           "qlm-emit-cpu-kernels");
    StringRef key = pack ? pack.getName() : attr.getValue();
    auto [entry, isNew] = keys.try_emplace(key, weight);
    if (!isNew && entry->second != weight)
      return breakContract(launch, kStage, "keys must be distinct, got two of ")
             << key;
  }
  return success();
}

static bool writesLogits(LaunchOp launch) {
  return llvm::any_of(launch.getArgs(), [](Attribute arg) {
    return cast<ArgAttr>(arg).getSpace() == ArgSpace::Logits;
  });
}

static LogicalResult checkStep(ModuleOp module, func::FuncOp step) {
  bool hasLogits = false;
  llvm::StringMap<Value> keys;
  for (Operation &op : step.getBody().front()) {
    if (auto launch = dyn_cast<LaunchOp>(op)) {
      if (failed(checkLaunch(launch, module, keys)))
        return failure();
      hasLogits |= writesLogits(launch);
    } else if (auto result = dyn_cast<func::ReturnOp>(op)) {
      if (result.getNumOperands())
        return breakContract(&op, kStage, "@step must return nothing",
                             "qlm-emit-cpu-kernels");
    } else if (!isParameterOp(&op)) {
      return breakContract(&op, kStage,
                           "@step must hold launches and parameter programs "
                           "only, got " +
                               op.getName().getStringRef(),
                           "qlm-emit-cpu-kernels");
    }
  }
  if (!hasLogits)
    return breakContract(step, kStage, "a launch must write the logits");
  return success();
}

/// `@sample`, where there is one.
static LogicalResult checkSample(ModuleOp module) {
  auto sample = module.lookupSymbol<func::FuncOp>(cuda::kSampleName);
  if (!sample)
    return success();
  bool hasTokens = false;
  llvm::StringMap<Value> keys;
  for (Operation &op : sample.getBody().front()) {
    auto launch = dyn_cast<LaunchOp>(op);
    if (!launch && !isa<func::ReturnOp>(op))
      return breakContract(&op, kStage,
                           "@sample must hold launches only, got " +
                               op.getName().getStringRef(),
                           "qlm-emit-cuda-kernels");
    if (!launch)
      continue;
    if (failed(checkLaunch(launch, module, keys)))
      return failure();
    for (Attribute arg : launch.getArgs())
      hasTokens |= cast<ArgAttr>(arg).getSpace() == ArgSpace::Sampled;
  }
  if (!hasTokens)
    return breakContract(sample, kStage,
                         "a launch of @sample must write the sampled tokens");
  return success();
}

//===----------------------------------------------------------------------===//
// The kernels
//===----------------------------------------------------------------------===//

static LogicalResult checkGpuKernels(gpu::GPUModuleOp kernels) {
  if (!kernels->getAttrOfType<StringAttr>("qlm.chip"))
    return breakContract(kernels, kStage, "GPU kernels must have qlm.chip");
  if (!kernels->hasAttr("qlm.cubin") && !kernels->hasAttr("qlm.ptx"))
    return breakContract(kernels, kStage,
                         "GPU kernels must have qlm.cubin or qlm.ptx");
  WalkResult result = kernels.walk([&](Operation *op) -> WalkResult {
    if (op == kernels.getOperation() ||
        isa<LLVM::LLVMDialect, NVVM::NVVMDialect>(op->getDialect()))
      return WalkResult::advance();
    return breakContract(op, kStage,
                         "GPU kernels must be in the LLVM and NVVM dialects, "
                         "got " +
                             op->getName().getStringRef(),
                         "qlm-lower-kernels-to-nvvm");
  });
  return failure(result.wasInterrupted());
}

static LogicalResult checkKernels(ModuleOp module) {
  if (isCuda(module)) {
    for (gpu::GPUModuleOp kernels : module.getOps<gpu::GPUModuleOp>())
      if (failed(checkGpuKernels(kernels)))
        return failure();
    return success();
  }
  auto kernels = module.lookupSymbol<ModuleOp>("kernels");
  if (!kernels)
    return breakContract(module, kStage, "there must be a module @kernels");
  for (StringRef name : {"qlm.target_cpu", "qlm.target_features"})
    if (!kernels->getAttrOfType<StringAttr>(name))
      return breakContract(kernels, kStage, "@kernels must have ") << name;
  WalkResult result = kernels.walk([&](Operation *op) -> WalkResult {
    if (op == kernels.getOperation() ||
        isa<LLVM::LLVMDialect>(op->getDialect()))
      return WalkResult::advance();
    return breakContract(op, kStage,
                         "kernels must be in the LLVM dialect, got " +
                             op->getName().getStringRef(),
                         "qlm-lower-kernels-to-llvm");
  });
  return failure(result.wasInterrupted());
}

// - the module has qlm.stage "lower" and a whole qlm.plan;
// - pool_bytes is layers * pages * page_bytes;
// - @step takes the step's arguments and a cache for each layer, in order;
// - it holds launches and parameter programs, and returns nothing;
// - launches name kernels that exist, and buffers inside the plan; on a GPU,
//   each chip has a kernel for the largest step;
// - weights have distinct keys;
// - the logits are written; @sample, if any, holds launches alone and writes
//   the sampled tokens;
// - @kernels has its target and is in the LLVM dialect, or each gpu.module its
//   chip and what it is for, and is in the LLVM and NVVM dialects.
LogicalResult mlir::qlm::verifyAfterLower(ModuleOp module) {
  if (failed(checkStage(module, kStage)) || failed(checkPlan(module)))
    return failure();
  func::FuncOp step = findFunction(module, kStage, kStepName);
  if (!step || failed(checkArguments(module, step)) ||
      failed(checkKernels(module)))
    return failure();
  return success(succeeded(checkStep(module, step)) &&
                 succeeded(checkSample(module)));
}

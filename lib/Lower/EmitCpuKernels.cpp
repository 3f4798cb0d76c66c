//===- EmitCpuKernels.cpp - Emits kernels, turns operations to launches ---===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "StepRows.h"
#include "qlm/Lower/Cpu/Kernels.h"
#include "qlm/Lower/Passes.h"
#include "qlm/Package/Format.h"

#include "llvm/ADT/StringMap.h"

namespace mlir::qlm {
#define GEN_PASS_DEF_EMITCPUKERNELS
#include "qlm/Lower/Passes.h.inc"
} // namespace mlir::qlm

using namespace mlir;
using namespace mlir::qlm;

namespace {
/// Gives every weight operand of a launch a key of its own.
class WeightKeys {
public:
  /// Names \p weight after the first operation that uses it; two tensors
  /// never share a key. Fails, with a diagnostic, where two `qlm.pack` do.
  LogicalResult name(Value weight, StringRef wanted);

private:
  /// The tensor that has a key.
  llvm::StringMap<Value> owners;
};

/// Turns the operations of one step to launches.
class LaunchWriter {
public:
  LaunchWriter(func::FuncOp step, ModuleOp kernels, const cpu::Target &target,
               const cpu::StepLimits &limits)
      : step(step), kernels(kernels), target(target), limits(limits) {}

  LogicalResult write(Operation *op, SizeKind rows);
  int64_t getScratchBytes() const { return scratchBytes; }

private:
  FailureOr<ArgAttr> getArg(Value value, SmallVectorImpl<Value> &weights);
  ArgAttr makeArg(ArgSpace space, int64_t value) {
    return ArgAttr::get(step.getContext(), space, value);
  }

  func::FuncOp step;
  ModuleOp kernels;
  const cpu::Target &target;
  const cpu::StepLimits &limits;
  WeightKeys keys;
  int64_t scratchBytes = 0;
};

struct EmitCpuKernelsPass
    : mlir::qlm::impl::EmitCpuKernelsBase<EmitCpuKernelsPass> {
  using Base::Base;
  void runOnOperation() override;

private:
  ModuleOp makeKernelModule(const cpu::Target &target);
};
} // namespace

LogicalResult WeightKeys::name(Value weight, StringRef wanted) {
  Operation *maker = weight.getDefiningOp();
  if (auto pack = dyn_cast<PackOp>(maker)) {
    auto [entry, isNew] = owners.try_emplace(pack.getName(), weight);
    if (!isNew && entry->second != weight)
      return pack.emitOpError("shares its name with another tensor: ")
             << pack.getNameAttr();
    return success();
  }
  if (maker->hasAttr(kKeyAttr))
    return success();
  std::string key = wanted.str();
  for (int64_t same = 1; !owners.try_emplace(key, weight).second; ++same)
    key = (wanted + "." + Twine(same)).str();
  maker->setAttr(kKeyAttr, StringAttr::get(maker->getContext(), key));
  return success();
}

/// The key of an operand that no `qlm.pack` names.
static std::string getWantedKey(Operation *op, Value weight) {
  if (weight.getDefiningOp<RopeTableOp>())
    return "rope_table";
  return getLabel(op) + ".weight";
}

/// Says where \p value lives; parameters become operands of the launch.
FailureOr<ArgAttr> LaunchWriter::getArg(Value value,
                                        SmallVectorImpl<Value> &weights) {
  if (auto argument = dyn_cast<BlockArgument>(value)) {
    int64_t index = argument.getArgNumber();
    int64_t layer = index - ::qlm::format::kStepArgumentCount;
    return layer < 0 ? makeArg(ArgSpace::Step, index)
                     : makeArg(ArgSpace::Cache, layer);
  }
  if (isParameterValue(value)) {
    weights.push_back(value);
    return makeArg(ArgSpace::Weight, weights.size() - 1);
  }
  auto result = cast<OpResult>(value);
  Operation *maker = result.getOwner();
  // A cache is updated in place: it stays the argument that it was.
  if (auto append = dyn_cast<RopeAppendOp>(maker);
      append && value == append.getUpdatedCache())
    return getArg(append.getCache(), weights);
  if (llvm::any_of(value.getUsers(), [](Operation *user) {
        return user->hasTrait<OpTrait::IsTerminator>();
      }))
    return makeArg(ArgSpace::Logits, 0);
  auto offsets = maker->getAttrOfType<ArrayAttr>(kOffsetsAttr);
  if (!offsets || offsets.size() != maker->getNumResults())
    return maker->emitOpError("has no offsets in the arena; run "
                              "qlm-plan-memory first");
  return makeArg(ArgSpace::Arena,
                 cast<IntegerAttr>(offsets[result.getResultNumber()]).getInt());
}

LogicalResult LaunchWriter::write(Operation *op, SizeKind rows) {
  FailureOr<cpu::KernelInfo> info =
      cpu::emitKernel(kernels, op, target, rows, limits);
  if (failed(info))
    return failure();
  scratchBytes = std::max(scratchBytes, info->scratchBytes);
  SmallVector<Value> weights;
  SmallVector<Attribute> args;
  SmallVector<Value> buffers(op->getOperands());
  llvm::append_range(buffers, op->getResults());
  for (Value buffer : buffers) {
    if (auto append = dyn_cast<RopeAppendOp>(op);
        append && buffer == append.getUpdatedCache())
      continue;
    FailureOr<ArgAttr> arg = getArg(buffer, weights);
    if (failed(arg))
      return failure();
    args.push_back(*arg);
  }
  for (Value weight : weights)
    if (failed(keys.name(weight, getWantedKey(op, weight))))
      return failure();
  OpBuilder builder(op);
  auto kernel = SymbolRefAttr::get(
      builder.getContext(), kKernelsName,
      FlatSymbolRefAttr::get(builder.getContext(), info->name));
  LaunchOp::create(builder, op->getLoc(), kernel, getLabel(op), info->tiles,
                   builder.getArrayAttr(args), info->bytes, info->flopsPerRow,
                   weights);
  return success();
}

ModuleOp EmitCpuKernelsPass::makeKernelModule(const cpu::Target &target) {
  OpBuilder builder(&getContext());
  builder.setInsertionPointToEnd(getOperation().getBody());
  auto kernels =
      ModuleOp::create(builder, builder.getUnknownLoc(), kKernelsName);
  kernels->setAttr(kTargetCpuAttr, builder.getStringAttr(target.cpu));
  kernels->setAttr(kTargetFeaturesAttr,
                   builder.getStringAttr(target.featureString()));
  return kernels;
}

/// Drops what the launches have replaced: the operations, the return's
/// operands and the function's results.
static void eraseReplaced(func::FuncOp step, ArrayRef<Operation *> replaced) {
  auto result = cast<func::ReturnOp>(step.getBody().front().getTerminator());
  result->eraseOperands(0, result.getNumOperands());
  for (Operation *op : llvm::reverse(replaced))
    op->erase();
  step.setFunctionType(FunctionType::get(
      step.getContext(), step.getFunctionType().getInputs(), {}));
  step.removeResAttrsAttr();
}

void EmitCpuKernelsPass::runOnOperation() {
  ModuleOp module = getOperation();
  func::FuncOp step = findStep(module);
  DictionaryAttr plan = findPlan(module);
  if (!step || !plan)
    return signalPassFailure();
  llvm::Expected<cpu::Target> target = cpu::Target::get(targetCpu);
  if (!target) {
    module.emitError() << llvm::toString(target.takeError());
    return signalPassFailure();
  }
  auto planned = [&](StringRef name) {
    return plan.getAs<IntegerAttr>(name).getInt();
  };
  cpu::StepLimits limits{planned("max_step_tokens"), planned("max_batch"),
                         planned("max_logit_rows")};
  LaunchWriter writer(step, makeKernelModule(*target), *target, limits);
  StepRows rows(step);
  for (Operation *op : rows.getOperations())
    if (failed(writer.write(op, rows.get(op))))
      return signalPassFailure();
  eraseReplaced(step, rows.getOperations());
  setPlanInteger(module, "scratch_bytes", writer.getScratchBytes());
}

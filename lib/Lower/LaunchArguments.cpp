//===- LaunchArguments.cpp - What a launch's buffers are ------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "LaunchArguments.h"

#include "StepRows.h"
#include "qlm/Dialect/MethodOps.h"
#include "qlm/Lower/LaunchGroup.h"
#include "qlm/Lower/Passes.h"
#include "qlm/Package/Format.h"

using namespace mlir;
using namespace mlir::qlm;

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
  if (weight.getDefiningOp<StaticScaleOp>())
    return getLabel(op) + ".input_scale";
  return getLabel(op) + ".weight";
}

static ArgAttr makeArg(Value value, ArgSpace space, int64_t number) {
  return ArgAttr::get(value.getContext(), space, number);
}

/// Says where \p value lives; parameters become operands of the launch.
static FailureOr<ArgAttr> getArg(Value value, SmallVectorImpl<Value> &weights) {
  if (auto argument = dyn_cast<BlockArgument>(value)) {
    int64_t index = argument.getArgNumber();
    int64_t layer = index - ::qlm::format::kStepArgumentCount;
    return layer < 0 ? makeArg(value, ArgSpace::Step, index)
                     : makeArg(value, ArgSpace::Cache, layer);
  }
  if (isParameterValue(value)) {
    weights.push_back(value);
    return makeArg(value, ArgSpace::Weight, weights.size() - 1);
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
    return makeArg(value, ArgSpace::Logits, 0);
  auto offsets = maker->getAttrOfType<ArrayAttr>(kOffsetsAttr);
  if (!offsets || offsets.size() != maker->getNumResults())
    return maker->emitOpError("has no offsets in the arena; run "
                              "qlm-plan-memory first");
  return makeArg(value, ArgSpace::Arena,
                 cast<IntegerAttr>(offsets[result.getResultNumber()]).getInt());
}

FailureOr<LaunchArguments> LaunchArguments::get(Operation *op,
                                                WeightKeys &keys) {
  LaunchArguments result;
  for (Value buffer : getLaunchBuffers(op)) {
    FailureOr<ArgAttr> arg = getArg(buffer, result.weights);
    if (failed(arg))
      return failure();
    result.args.push_back(*arg);
  }
  for (Value weight : result.weights)
    if (failed(keys.name(weight, getWantedKey(op, weight))))
      return failure();
  return result;
}

void mlir::qlm::eraseReplaced(func::FuncOp step,
                              ArrayRef<Operation *> replaced) {
  auto result = cast<func::ReturnOp>(step.getBody().front().getTerminator());
  result->eraseOperands(0, result.getNumOperands());
  for (Operation *op : llvm::reverse(replaced))
    op->erase();
  step.setFunctionType(FunctionType::get(
      step.getContext(), step.getFunctionType().getInputs(), {}));
  step.removeResAttrsAttr();
}

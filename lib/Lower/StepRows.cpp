//===- StepRows.cpp - Which size counts an operation's rows ---------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "StepRows.h"
#include "qlm/Package/Format.h"

using namespace mlir;
using namespace mlir::qlm;

StepRows::StepRows(func::FuncOp step) {
  for (Operation &op : step.getBody().front().without_terminator()) {
    if (isParameterOp(&op))
      continue;
    auto norm = dyn_cast<RmsNormQuantizeOp>(op);
    bool wanted =
        isa<SelectRowsOp>(op) || (norm && norm.getRows()) ||
        llvm::any_of(op.getOperands(), [&](Value operand) {
          return rows.lookup(operand.getDefiningOp()) == SizeKind::LogitRows;
        });
    operations.push_back(&op);
    rows[&op] = wanted ? SizeKind::LogitRows : SizeKind::Tokens;
  }
}

func::FuncOp mlir::qlm::findStep(ModuleOp module) {
  auto step = module.lookupSymbol<func::FuncOp>(kStepName);
  if (!step || step.isExternal()) {
    module.emitError("module has no function @")
        << kStepName << "; run qlm-plan-kv-cache first";
    return nullptr;
  }
  return step;
}

DictionaryAttr mlir::qlm::findPlan(ModuleOp module) {
  auto plan = module->getAttrOfType<DictionaryAttr>(kPlanAttr);
  if (!plan)
    module.emitError("module has no attribute ")
        << kPlanAttr << "; run qlm-plan-kv-cache first";
  return plan;
}

void mlir::qlm::setPlanInteger(ModuleOp module, StringRef name, int64_t value) {
  Builder builder(module.getContext());
  NamedAttrList plan(module->getAttrOfType<DictionaryAttr>(kPlanAttr));
  plan.set(name, builder.getI64IntegerAttr(value));
  module->setAttr(kPlanAttr, plan.getDictionary(module.getContext()));
}

static StringRef findName(Location loc) {
  if (auto name = dyn_cast<NameLoc>(loc))
    return name.getName().getValue();
  if (auto fused = dyn_cast<FusedLoc>(loc))
    for (Location part : fused.getLocations())
      if (StringRef name = findName(part); !name.empty())
        return name;
  return {};
}

std::string mlir::qlm::getLabel(Operation *op) {
  StringRef name = findName(op->getLoc());
  return name.empty() ? op->getName().stripDialect().str() : name.str();
}

std::string mlir::qlm::getLaunchLabel(Operation *op) {
  std::string label = getLabel(op);
  if (auto observe = dyn_cast<ObserveOp>(op))
    return ::qlm::format::kObservePrefix + label + ":" +
           std::to_string(observe.getInput().getType().getDimSize(1));
  return label;
}

//===- VerifyContract.cpp - Checks what must hold between two stages ------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Contract.h"

namespace mlir::qlm {
#define GEN_PASS_DEF_VERIFYCONTRACT
#include "qlm/Pipelines/Passes.h.inc"
} // namespace mlir::qlm

using namespace mlir;
using namespace mlir::qlm;

static constexpr StringLiteral kStageNames[] = {"import", "optimize",
                                                "quantize", "lower", "package"};

StringRef mlir::qlm::getStageName(Stage stage) {
  return kStageNames[static_cast<int>(stage)];
}

std::optional<Stage> mlir::qlm::parseStage(StringRef name) {
  for (auto [index, candidate] : llvm::enumerate(kStageNames))
    if (candidate == name)
      return static_cast<Stage>(index);
  return std::nullopt;
}

//===----------------------------------------------------------------------===//
// What the stages' checks share
//===----------------------------------------------------------------------===//

InFlightDiagnostic mlir::qlm::breakContract(Operation *op, Stage stage,
                                            StringRef rule) {
  return mlir::emitError(op->getLoc())
         << "contract after " << getStageName(stage) << ": " << rule;
}

LogicalResult mlir::qlm::breakContract(Operation *op, Stage stage,
                                       const Twine &rule, StringRef culprit) {
  InFlightDiagnostic diagnostic = breakContract(op, stage, rule.str());
  diagnostic.attachNote() << culprit << " should have made it so";
  return diagnostic;
}

LogicalResult mlir::qlm::checkStage(ModuleOp module, Stage stage) {
  auto attr = module->getAttrOfType<StringAttr>(kStageAttr);
  if (attr && attr.getValue() == getStageName(stage))
    return success();
  return breakContract(module, stage, "qlm.stage must name the stage, got ")
         << (attr ? attr.getValue() : StringRef("none"));
}

LogicalResult mlir::qlm::checkIntegers(ModuleOp module, Stage stage,
                                       StringRef attribute,
                                       DictionaryAttr dictionary,
                                       ArrayRef<StringRef> names) {
  for (StringRef name : names)
    if (!isa_and_nonnull<IntegerAttr>(dictionary.get(name)))
      return breakContract(module, stage, attribute)
             << " must have the integer " << name;
  return success();
}

func::FuncOp mlir::qlm::findFunction(ModuleOp module, Stage stage,
                                     StringRef name) {
  auto function = module.lookupSymbol<func::FuncOp>(name);
  if (function && !function.isExternal() &&
      llvm::hasSingleElement(function.getBody()))
    return function;
  breakContract(module, stage, "there must be a function @")
      << name << " of one block";
  return {};
}

//===----------------------------------------------------------------------===//
// The pass
//===----------------------------------------------------------------------===//

LogicalResult mlir::qlm::verifyContract(ModuleOp module, Stage stage) {
  switch (stage) {
  case Stage::Import:
    return verifyAfterImport(module);
  case Stage::Optimize:
    return verifyAfterOptimize(module);
  case Stage::Quantize:
    return verifyAfterQuantize(module);
  case Stage::Lower:
    return verifyAfterLower(module);
  case Stage::Package:
    // Package writes files and leaves the module as it is.
    return success();
  }
  llvm_unreachable("unknown stage");
}

namespace {
struct VerifyContractPass
    : mlir::qlm::impl::VerifyContractBase<VerifyContractPass> {
  using Base::Base;

  void runOnOperation() override {
    std::optional<Stage> stage = parseStage(after);
    if (!stage || *stage == Stage::Package) {
      getOperation().emitError("after must be import, optimize, quantize or "
                               "lower, got '")
          << after << "'";
      return signalPassFailure();
    }
    if (failed(verifyContract(getOperation(), *stage)))
      return signalPassFailure();
    markAllAnalysesPreserved();
  }
};
} // namespace

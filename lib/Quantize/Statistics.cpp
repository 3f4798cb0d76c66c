//===- Statistics.cpp - What a calibration saw, as parameters -------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Statistics.h"

using namespace mlir;
using namespace mlir::qlm;

void mlir::qlm::setStatistics(ModuleOp module, StringRef path) {
  module->setAttr(kStatisticsAttr, StringAttr::get(module.getContext(), path));
}

Value mlir::qlm::loadStatistic(Operation *user, StringRef label, StringRef name,
                               ArrayRef<int64_t> shape) {
  auto module = user->getParentOfType<ModuleOp>();
  OpBuilder builder(user);
  auto type = RankedTensorType::get(shape, builder.getF32Type());
  std::string key = (label + "." + name).str();
  std::string symbol = "statistics." + key;
  if (!module.lookupSymbol(symbol)) {
    OpBuilder::InsertionGuard guard(builder);
    builder.setInsertionPointToStart(module.getBody());
    ParameterOp::create(builder, module.getLoc(), symbol, type, kStatisticsFile,
                        key);
  }
  return LoadOp::create(builder, user->getLoc(), type, symbol);
}

void mlir::qlm::moveParametersBefore(Value value, Operation *op) {
  Operation *maker = value.getDefiningOp();
  if (!maker || maker->getBlock() != op->getBlock() ||
      maker->isBeforeInBlock(op))
    return;
  for (Value operand : maker->getOperands())
    moveParametersBefore(operand, op);
  maker->moveBefore(op);
}

ScaleColumnsOp mlir::qlm::findColumnScales(Value weight) {
  while (Operation *op = weight.getDefiningOp()) {
    if (auto scaled = dyn_cast<ScaleColumnsOp>(op))
      return scaled;
    if (!isa<DequantizeOp, RtnOp, GptqOp, KeepCodesOp, ClipOp, ScaleRowsOp,
             ConvertOp>(op))
      break;
    weight = op->getOperand(0);
  }
  return {};
}

bool mlir::qlm::isLmHead(LinearOp linear) {
  return llvm::any_of(linear->getUsers(), llvm::IsaPred<func::ReturnOp>);
}

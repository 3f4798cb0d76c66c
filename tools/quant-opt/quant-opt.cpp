//===- quant-opt.cpp - Runs passes over qlm IR ----------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "mlir/InitAllDialects.h"
#include "mlir/InitAllExtensions.h"
#include "mlir/InitAllPasses.h"
#include "mlir/Target/LLVMIR/Dialect/All.h"
#include "mlir/Tools/mlir-opt/MlirOptMain.h"
#include "qlm/Dialect/Passes.h"
#include "qlm/Dialect/Qlm.h"
#include "qlm/Lower/Passes.h"
#include "qlm/Optimize/Passes.h"
#include "qlm/Quantize/Passes.h"

int main(int argc, char **argv) {
  mlir::DialectRegistry registry;
  mlir::registerAllDialects(registry);
  mlir::registerAllExtensions(registry);
  mlir::registerAllToLLVMIRTranslations(registry);
  mlir::registerAllPasses();
  registry.insert<mlir::qlm::QlmDialect>();
  mlir::qlm::registerQlmDialectPasses();
  mlir::qlm::registerOptimizePasses();
  mlir::qlm::registerQlmLowerPasses();
  mlir::qlm::registerLowerPipelines();
  mlir::qlm::registerQlmQuantizePasses();
  mlir::qlm::registerQuantizePipelines();
  return mlir::asMainReturnCode(
      mlir::MlirOptMain(argc, argv, "QLM optimizer driver\n", registry));
}

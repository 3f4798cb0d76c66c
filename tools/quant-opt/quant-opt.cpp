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
#include "qlm/Dialect/Graph.h"
#include "qlm/Dialect/Onnx.h"
#include "qlm/Dialect/Qlm.h"
#include "qlm/Pipelines/Pipelines.h"

int main(int argc, char **argv) {
  mlir::DialectRegistry registry;
  mlir::registerAllDialects(registry);
  mlir::registerAllExtensions(registry);
  mlir::registerAllToLLVMIRTranslations(registry);
  mlir::registerAllPasses();
  registry.insert<mlir::qlm::QlmDialect, mlir::qlm::graph::GraphDialect,
                  mlir::qlm::onnxir::OnnxDialect>();
  mlir::qlm::registerAllQlmPasses();
  return mlir::asMainReturnCode(
      mlir::MlirOptMain(argc, argv, "QLM optimizer driver\n", registry));
}

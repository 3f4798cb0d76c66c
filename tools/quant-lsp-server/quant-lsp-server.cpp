//===- quant-lsp-server.cpp - Serves qlm IR to editors --------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "mlir/InitAllDialects.h"
#include "mlir/InitAllExtensions.h"
#include "mlir/Tools/mlir-lsp-server/MlirLspServerMain.h"
#include "qlm/Dialect/Graph.h"
#include "qlm/Dialect/Qlm.h"

int main(int argc, char **argv) {
  mlir::DialectRegistry registry;
  mlir::registerAllDialects(registry);
  mlir::registerAllExtensions(registry);
  registry.insert<mlir::qlm::QlmDialect, mlir::qlm::graph::GraphDialect>();
  return failed(mlir::MlirLspServerMain(argc, argv, registry));
}

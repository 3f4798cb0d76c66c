//===- GraphPasses.h - Passes of the Lower stage on graphs ------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Apart from qlm/Lower/Passes.h: graphs of ONNX files have them alone.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LOWER_GRAPHPASSES_H
#define QLM_LOWER_GRAPHPASSES_H

#include "mlir/Dialect/ControlFlow/IR/ControlFlow.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "qlm/Dialect/Graph.h"
#include "qlm/Lower/Passes.h"

namespace mlir::qlm {

#define GEN_PASS_DECL
#include "qlm/Lower/GraphPasses.h.inc"

#define GEN_PASS_REGISTRATION
#include "qlm/Lower/GraphPasses.h.inc"

} // namespace mlir::qlm

#endif // QLM_LOWER_GRAPHPASSES_H

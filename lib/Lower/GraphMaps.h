//===- GraphMaps.h - Element by element inside of kernels -------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// What a graph does element by element to the rows that a linear takes or gives
// is computed on vectors, while the rows are in a core's cache.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_LOWER_GRAPHMAPS_H
#define QLM_LIB_LOWER_GRAPHMAPS_H

#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "qlm/Dialect/Graph.h"
#include "qlm/Lower/Kernel/Builder.h"

namespace mlir::qlm {

/// How an operand of a map over rows is read at row r, column c.
enum class MapOperand {
  Rows,   ///< [r, c]
  Column, ///< [c]
  One,    ///< the only element
};

/// How \p operand of \p op is read; nothing where vectors can't.
std::optional<MapOperand> getMapOperand(linalg::GenericOp op,
                                        OpOperand &operand);

/// Whether \p op maps rows element by element by what vectors can compute.
bool isRowMap(linalg::GenericOp op);

/// The result of \p op for vectors of its inputs' elements.
kernel::Val emitRowMap(kernel::KernelBuilder &b, linalg::GenericOp op,
                       ArrayRef<kernel::Val> inputs, int64_t lanes);

/// The results of \p op, i8, for four vectors of elements one after the other;
/// \p getInputs gives the inputs of each.
kernel::Val
emitRowCodes(kernel::KernelBuilder &b, linalg::GenericOp op,
             function_ref<SmallVector<kernel::Val>(int64_t part)> getInputs,
             int64_t lanes);

/// Copies windows [\p first, \p first + \p count) of the image rows at \p from
/// to rows at \p to, one after the other.
void emitWindows(kernel::KernelBuilder &b, graph::WindowsOp op,
                 kernel::Ptr from, kernel::Val first, kernel::Val count,
                 kernel::Ptr to);

/// Computes windows [\p lo, \p hi) of a pool.
void emitPool(kernel::KernelBuilder &b, graph::PoolRowsOp op, kernel::Ptr from,
              kernel::Val lo, kernel::Val hi, kernel::Ptr to, int64_t lanes);

} // namespace mlir::qlm

#endif // QLM_LIB_LOWER_GRAPHMAPS_H

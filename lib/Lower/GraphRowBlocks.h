//===- GraphRowBlocks.h - Linears of a graph's rows, with more --*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A step of a decoder has few rows, a graph as many as it likes: rows are cut
// into blocks, so that a kernel's scratch is bounded and a block's activations
// stay in a core's cache while all weights pass. With a block goes what makes
// the linear's input and what its result becomes:
//
//   windows of images, or elements of other rows     ->  scratch
//   rounded rows, with their scales                  ->  scratch
//   the packed linear's kernel                       ->  scratch, or results
//   element by element: residual, ReLU, rounding     ->  results
//
// Tiles of such a launch are
//
//   tile = block of rows * (tiles of the kernel) + tile of the kernel
//
// and neighbouring ones of a block are computed by one call. Many blocks are
// a tile each: then nothing is made twice.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_LOWER_GRAPHROWBLOCKS_H
#define QLM_LIB_LOWER_GRAPHROWBLOCKS_H

#include "GraphMaps.h"
#include "qlm/Dialect/MethodOps.h"
#include "qlm/Lower/Cpu/Kernels.h"

namespace mlir::qlm {

/// A linear with the operations that its launch takes over.
struct FusedLinear {
  PackedLinearOp linear;
  DynamicQuantizeOp quantize; ///< rounds the rows, or null
  graph::WindowsOp windows;   ///< makes them of images, or null
  linalg::GenericOp before;   ///< or of other rows, or null
  /// In the order of the graph.
  SmallVector<linalg::GenericOp> after;
  /// Which of the results, the linear's and those of `after`, are wanted.
  SmallVector<Value> stored;
  /// What the launch reads and writes, in order.
  SmallVector<Value> inputs;
  /// Where all inputs are there.
  Operation *place = nullptr;

  /// Finds what goes with \p linear.
  static FusedLinear get(PackedLinearOp linear);
  /// What the rows are made of, as they come into the launch.
  Value getSource();
  void erase();
};

/// How rows are cut.
struct RowBlocks {
  int64_t rows;        ///< of a block, at most
  int64_t tiles;       ///< of a block, where blocks are few
  int64_t tileColumns; ///< features of a tile
  /// Rows that are multiplied at once, if blocks are to be divided evenly by
  /// them. The first block, whose thread begins first, takes what is left: 52
  /// and 48 of 100 where 16 go together.
  int64_t unit = 0;

  /// Blocks that make enough tiles alone.
  static constexpr int64_t kManyBlocks = 8;
  /// Fewer rows than that are one block.
  static constexpr int64_t kFewRows = 64;
};

struct RowBlocksKernel {
  std::string name;
  RowBlocks blocks;
  int64_t scratchBytes = 0;
};

/// Emits the launch's kernel into \p kernels; \p isSmall prefers small code.
FailureOr<RowBlocksKernel> emitRowBlocks(ModuleOp kernels,
                                         const cpu::Target &target,
                                         FusedLinear &fused, bool isSmall);

} // namespace mlir::qlm

#endif // QLM_LIB_LOWER_GRAPHROWBLOCKS_H

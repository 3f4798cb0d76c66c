//===- GraphWinograd.h - 3 x 3 convolutions of f32, four at once -*- C++
//-*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Winograd's F(2 x 2, 3 x 3) (Lavin and Gray, "Fast algorithms for
// convolutional neural networks", 2015): four neighbouring results, a *quad*,
// take 16 multiplications a channel instead of 36.
//
//   y = A^T ((G g G^T) o (B^T d B)) A
//
//          d: 4 x 4 pixels      g: 3 x 3 kernel       y: 2 x 2 results
//
//   B^T = | 1  0 -1  0 |   G = |  1    0    0  |   A^T = | 1  1  1  0 |
//         | 0  1  1  0 |       | 1/2  1/2  1/2 |         | 0  1 -1 -1 |
//         | 0 -1  1  0 |       | 1/2 -1/2  1/2 |
//         | 0  1  0 -1 |       |  0    0    1  |
//
// For each of the 16 places the products of many quads and channels are a
// linear. All factors are powers of two: only sums round.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_LOWER_GRAPHWINOGRAD_H
#define QLM_LIB_LOWER_GRAPHWINOGRAD_H

#include "GraphRowBlocks.h"

namespace mlir::qlm {

/// The quads of an image, by its results.
struct Quads {
  int64_t rows, columns; ///< of an image
  int64_t perImage() const { return rows * columns; }
  static Quads get(graph::WindowsOp windows);
};

/// Whether \p fused is a convolution that is computed by quads.
bool isWinograd(const FusedLinear &fused);

/// Emits the launch's kernel into \p kernels. Its blocks are of quads; the
/// launch says how many results there are.
FailureOr<RowBlocksKernel>
emitWinograd(ModuleOp kernels, const cpu::Target &target, FusedLinear &fused);

} // namespace mlir::qlm

#endif // QLM_LIB_LOWER_GRAPHWINOGRAD_H

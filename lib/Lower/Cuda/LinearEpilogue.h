//===- LinearEpilogue.h - What becomes of a linear's sums -------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_LOWER_CUDA_LINEAREPILOGUE_H
#define QLM_LIB_LOWER_CUDA_LINEAREPILOGUE_H

#include "LinearShape.h"

namespace mlir::qlm::cuda {

/// Loads elements `column ...` of 16 bytes of a row as vector<4xi32>; those at
/// \p columns and beyond are zero. Plain loads: other kernels may write x.
kernel::Val loadPiece(kernel::KernelBuilder &b, kernel::Ptr row,
                      kernel::Val column, int64_t columns,
                      int64_t elementBytes);

/// silu(gate) * up, f32.
kernel::Val gateUp(kernel::KernelBuilder &b, kernel::Val gate, kernel::Val up);

/// What a sum meets on its way to y besides its own row of w and x; f32, null
/// where the linear has none.
struct EpilogueTerms {
  kernel::Val scale, bias;          ///< of the feature
  kernel::Val inputScale, residual; ///< of the row, of y's element
  kernel::Val outliers;             ///< sumOutliers; null to find it at the end
};

/// Scales, bias, residual, gate, rounding, in this order.
class LinearEpilogue {
public:
  /// \p factor: what the sums have to be multiplied by besides the scales.
  LinearEpilogue(kernel::KernelBuilder &b, const LinearShape &shape,
                 const LinearBuffers &buffers, double factor)
      : b(b), shape(shape), buffers(buffers), factor(factor) {}

  /// The value of a sum (f32 or i32) before the residual: scaled where scales
  /// belong to whole rows of w or x, with bias.
  kernel::Val finish(kernel::Val row, kernel::Val feature, kernel::Val sum);
  /// The same from terms that were loaded before.
  kernel::Val finish(kernel::Val sum, const EpilogueTerms &terms,
                     kernel::Val row, kernel::Val feature);
  /// How many outliers a row has (i32).
  kernel::Val countOutliers(kernel::Val row);
  /// The sum of a row's \p count outliers times their weights of \p feature,
  /// unscaled; of those at \p first, first + step, ... in its list only.
  kernel::Val sumOutliers(kernel::Val row, kernel::Val feature,
                          kernel::Val count, kernel::Val first, int64_t step);
  /// The sums of all of them for \p features neighbouring features of a block,
  /// the first one a multiple of their number.
  SmallVector<kernel::Val> sumOutliers(kernel::Val row, kernel::Val first,
                                       int64_t features);
  /// Scale and bias: they depend on no other kernel.
  void loadFixed(EpilogueTerms &terms, kernel::Val feature);
  /// The row's scale, and the residual of y[row, output].
  void loadMoving(EpilogueTerms &terms, kernel::Val row, kernel::Val output);
  /// y[row, output] of a finished value; adds \p residual, if there is one.
  void storeFinished(kernel::Val row, kernel::Val output, kernel::Val value,
                     kernel::Val residual);
  /// y[row, feature] of a sum.
  void store(kernel::Val row, kernel::Val feature, kernel::Val sum);
  /// y[row, output] of the sums of packed rows \p gate and gate + 8.
  void storeGated(kernel::Val row, kernel::Val output, kernel::Val gate,
                  kernel::Val gateSum, kernel::Val upSum);
  /// The element's address in y.
  kernel::Ptr resultAt(kernel::Val row, kernel::Val output);
  Type resultType();

private:
  kernel::Ptr outlierList(kernel::Val row);
  kernel::Val codeOf(kernel::Val feature, kernel::Val column);
  void storeValue(kernel::Val row, kernel::Val output, kernel::Val value);

  kernel::KernelBuilder &b;
  const LinearShape &shape;
  const LinearBuffers &buffers;
  double factor;
};

} // namespace mlir::qlm::cuda

#endif // QLM_LIB_LOWER_CUDA_LINEAREPILOGUE_H

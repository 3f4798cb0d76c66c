//===- Awq.h - Scales of columns, and clipping ------------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A linear computes the same from inputs x / s and a weight W * s (by columns).
// AWQ (Lin et al., arXiv 2306.00978) chooses s so that rounding W * s loses
// least; SmoothQuant (Xiao et al., arXiv 2211.10438) so that x / s and W * s
// share what is hard to round. Losses are exact means over the inputs seen:
// with H = E[x xᵀ], E |d x|^2 = d H dᵀ for a row d of errors.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_QUANTIZE_AWQ_H
#define QLM_QUANTIZE_AWQ_H

#include "qlm/Quantize/Numerics.h"

#include <vector>

namespace qlm::numerics {

/// Which scale a column takes: `shared` heads of `headDim` columns, side by
/// side, have the same ones. {1, 1}: each column its own.
struct ScaleOrder {
  int64_t shared = 1;
  int64_t headDim = 1;

  int64_t at(int64_t column) const {
    return column / (shared * headDim) * headDim + column % headDim;
  }
  int64_t getScaleCount(int64_t columns) const { return columns / shared; }
};

/// A row-major matrix of somebody else's.
struct WeightView {
  const float *values = nullptr;
  int64_t rows = 0;
};

/// AWQ's search.
struct AwqSearch {
  std::vector<WeightView> weights; ///< all of `columns` columns
  int64_t columns = 0;
  const float *meanMagnitude = nullptr; ///< [columns]
  const float *moments = nullptr;       ///< [columns, columns]
  Scheme scheme;                        ///< by channel or by group
  int64_t steps = 20;
  ScaleOrder order;
  int threads = 1;
};

/// Rows that the loss is taken over; where the weights have more in all, every
/// n-th of them, with the smallest n that is enough.
inline constexpr int64_t kSearchedRows = 1024;

/// `qlm.awq_scales`: writes \p scales `[order.getScaleCount(columns)]`.
/// \p losses, if given, gets the loss of each of the 2 * steps tried.
RoundingResult findAwqScales(const AwqSearch &search, float *scales,
                             std::vector<double> *losses = nullptr);

/// `qlm.smooth_scales`, from the largest magnitudes of the columns of the
/// inputs, \p absmax, and of the weights, \p weightAbsmax.
void findSmoothScales(const float *absmax, const float *weightAbsmax,
                      int64_t columns, double alpha, ScaleOrder order,
                      float *scales);

/// `qlm.clip`: clamps \p weights `[rows, columns]` in place. \p blocks holds
/// the second moments of the columns of each scale, `[scales per row, n, n]`
/// with n the columns per scale.
RoundingResult clipWeight(float *weights, int64_t rows, int64_t columns,
                          const Scheme &scheme, const float *blocks);

} // namespace qlm::numerics

#endif // QLM_QUANTIZE_AWQ_H

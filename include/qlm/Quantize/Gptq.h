//===- Gptq.h - Rounding that makes up for its errors -----------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// GPTQ (Frantar et al., arXiv 2210.17323): columns are rounded one by one, and
// the error of each is made up for in the columns after it, so that
// `W x` changes least over the inputs seen.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_QUANTIZE_GPTQ_H
#define QLM_QUANTIZE_GPTQ_H

#include "qlm/Quantize/LargeBuffer.h"
#include "qlm/Quantize/Numerics.h"
#include "qlm/Quantize/Products.h"

#include <functional>
#include <optional>
#include <vector>

namespace qlm::numerics {

/// How GPTQ goes over a weight.
struct GptqOptions {
  /// Added to the diagonal, as a part of its mean. Where the matrix still
  /// isn't positive definite, ten times as much, up to 1.
  double damping = 0.01;
  /// Columns whose errors are handed on together.
  int64_t blockSize = 128;
  /// Columns with the largest second moments first ("desc_act"). Scales of
  /// groups are then those of the weight as given ("static groups"), so that
  /// groups stay neighbours in the file.
  bool actOrder = false;
  /// Scales of groups from the weight as given, not as changed by errors.
  bool staticGroups = false;
  /// Ranges of scales are shrunk by the part, of 1, 0.95, ... 0.5, that loses
  /// least by the measure of the paper's equation 2.
  bool searchScales = false;
  /// How often codes and scales are gone over once more: see refineGptq.
  int refinements = 0;
  /// In the place of factorCholesky, where it gives an answer: a GPU's. Its
  /// last bits may differ, and so codes at ties. May be empty.
  CholeskyFunction cholesky;
};

/// The second moments of a linear's inputs, made ready for rounding its
/// weight: with H = E[x xᵀ] + damping and R upper triangular, R Rᵀ = H, what
/// the error of column j adds to column k, R[j, k] / R[k, k]. Immutable once
/// made; threads may share it.
class GptqFactor {
public:
  /// Reads row \p row of the moments, `[columns]`; false when it could not.
  /// Called from several threads.
  using ReadRow = std::function<bool(int64_t row, float *target)>;

  /// From symmetric moments `[columns, columns]`, which are read twice. Needs
  /// 4 bytes for each of their elements, 8 more without `options.cholesky`, and
  /// 4 more to refine. False when the matrix is not positive definite with a
  /// damping of 1, or not finite, or not read.
  bool compute(const ReadRow &read, int64_t columns, const GptqOptions &options,
               int threads = 1);
  /// The same from memory.
  bool compute(const float *moments, int64_t columns,
               const GptqOptions &options, int threads = 1);

  int64_t getColumns() const { return columns; }
  /// The damping that was enough.
  double getDamping() const { return damping; }
  /// Columns whose inputs were always 0; their weights become 0.
  int64_t getDeadColumns() const { return deadColumns; }

private:
  bool readDiagonal(const ReadRow &read, int threads);
  std::optional<bool> factorMatrix(const ReadRow &read,
                                   const GptqOptions &options, int threads);
  bool giveRows(const ReadRow &read, int64_t first, int64_t count,
                double *target, int threads) const;
  void takeRows(int64_t first, int64_t count, const double *rows, int threads);
  bool keepDamped(const ReadRow &read, int threads);
  /// The column of row or column \p i of what is factored: H reversed.
  int64_t reversedAt(int64_t i) const {
    int64_t visited = columns - 1 - i;
    return order.empty() ? visited : order[visited];
  }

  friend void refineGptq(const float *weights, int64_t rows, int64_t columns,
                         const Scheme &scheme, const GptqFactor &factor,
                         const GptqOptions &options, uint8_t *codes,
                         float *scales, const uint8_t *zeroPoints);
  friend RoundingResult quantizeGptq(float *weights, int64_t rows,
                                     int64_t columns, const Scheme &scheme,
                                     const GptqFactor &factor,
                                     const GptqOptions &options, uint8_t *codes,
                                     float *scales, uint8_t *zeroPoints);

  int64_t columns = 0;
  double damping = 0, meanMoment = 0;
  int64_t deadColumns = 0;
  std::vector<int64_t> order; ///< column visited i-th; empty: as they stand
  std::vector<bool> dead;     ///< by column as it stands
  /// F, [columns, columns], in the order visited; 0 up to the diagonal.
  LargeBuffer<float> feedback;
  std::vector<double> exactPivots; ///< R[k, k]
  std::vector<float> pivots;
  std::vector<double> diagonal; ///< of H, 1 where it is 0
  LargeBuffer<float> damped;    ///< H, [columns, columns], if it is needed
};

/// Makes the codes and scales of \p weights `[rows, columns]` better by the
/// measure that GPTQ is after, `L = (w - q) H (w - q)ᵀ` for each row, with zero
/// points as they are. `options.refinements` times:
///
/// - scales: with d the numbers that codes stand for at scale 1, the scales s
///   of a row that make L least solve `A s = b`, where
///   `A[g, h] = sum over i in g, j in h of d_i H_ij d_j` and
///   `b[g] = sum over i in g of d_i (H w)_i`; kept where they are positive,
///   and L, with the scales rounded to their type, becomes less;
/// - codes: column by column, the code nearest to what makes L least with all
///   other codes as they are (cyclic coordinate descent, Behdin et al.,
///   arXiv 2309.01885).
///
/// L never grows but by the rounding of f32. `quantizeGptq` calls it.
void refineGptq(const float *weights, int64_t rows, int64_t columns,
                const Scheme &scheme, const GptqFactor &factor,
                const GptqOptions &options, uint8_t *codes, float *scales,
                const uint8_t *zeroPoints);

/// Rounds \p weights `[rows, columns]`, which are changed. Outputs as
/// `quantizeRtn`; granularity channel or group. Rows don't depend on each
/// other, so a weight may be given in parts, from several threads.
RoundingResult quantizeGptq(float *weights, int64_t rows, int64_t columns,
                            const Scheme &scheme, const GptqFactor &factor,
                            const GptqOptions &options, uint8_t *codes,
                            float *scales, uint8_t *zeroPoints);

} // namespace qlm::numerics

#endif // QLM_QUANTIZE_GPTQ_H

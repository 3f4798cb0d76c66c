//===- BlockRounder.h - Rounds columns of GPTQ ---------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_QUANTIZE_NUMERICS_BLOCKROUNDER_H
#define QLM_LIB_QUANTIZE_NUMERICS_BLOCKROUNDER_H

#include "ColumnRounder.h"
#include "RoundKernel.h"

#include <algorithm>
#include <vector>

namespace qlm::numerics {

/// Rounds columns of some rows `[rows, columns]`, kRoundedRows of them at a
/// time.
class BlockRounder {
public:
  /// \p order is the column visited i-th, or null where they are visited as
  /// they stand; \p feedback, as GptqFactor has it, is in that order. At most
  /// \p width columns are a block.
  BlockRounder(int64_t rows, int64_t columns, int64_t width,
               const Scheme &scheme, const int64_t *order,
               const float *feedback, ColumnRounder &rounder);

  /// Rounds columns \p first .. \p next - 1 in the order visited, and adds
  /// their errors to those before \p last. \p weights and \p codes are as the
  /// columns stand, \p current as they are visited. Errors of column
  /// \p first + i go to \p errors[row * width + i].
  void round(int64_t first, int64_t next, int64_t last, const float *weights,
             float *current, uint8_t *codes, float *errors);

private:
  void visit(RoundedColumns &block, int64_t first);
  void packFeedback(RoundedColumns &block, int64_t first);
  void load(RoundedColumns &block, int64_t row, int64_t first,
            const float *weights, const float *current);
  void store(const RoundedColumns &block, int64_t row, int64_t first,
             float *current, uint8_t *codes, float *errors) const;
  void roundOthers(int64_t row, int64_t i, const float *values, uint8_t *codes,
                   float *rounded) const;
  int64_t rowsFrom(int64_t row) const {
    return std::min(kRoundedRows, rows - row);
  }

  const RoundKernel &kernel;
  int64_t rows, columns, width;
  const Scheme &scheme;
  const int64_t *order;
  const float *feedback;
  ColumnRounder &rounder;
  std::vector<float> buffers, packed;
  std::vector<uint8_t> roundedCodes;
  std::vector<int64_t> visited, groups; ///< of the block's columns
};

} // namespace qlm::numerics

#endif // QLM_LIB_QUANTIZE_NUMERICS_BLOCKROUNDER_H

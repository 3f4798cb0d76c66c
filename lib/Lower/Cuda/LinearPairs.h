//===- LinearPairs.h - What becomes of two sums of a linear -----*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// `qlm.swiglu` and `qlm.rope_append` take two features of a row at a time:
// gate and up, or feature k of a head and k + headDim / 2. A GEMV that computes
// both in one thread block (LinearShape::pairDistance) does their work too, and
// what lies between is never stored. It is rounded to the type between all the
// same, so that the results are those of the two operations.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_LOWER_CUDA_LINEARPAIRS_H
#define QLM_LIB_LOWER_CUDA_LINEARPAIRS_H

#include "CachePages.h"
#include "LinearShape.h"

namespace mlir::qlm::cuda {

/// Takes the pairs of a linear's results.
class LinearPairs {
public:
  /// Where a thread block's pairs are.
  struct Place {
    kernel::Ptr shared; ///< `sharedBytes` bytes
    kernel::Val thread; ///< of `threads` that call
    int64_t threads;
    kernel::Val rows; ///< of x, at most maxRows
    int64_t maxRows;
    kernel::Val first; ///< feature pair of the block's number 0
    kernel::Val count; ///< pairs of the thread block
    int64_t most;      ///< the largest count
  };

  virtual ~LinearPairs() = default;

  /// What it keeps for \p pairs pairs of each of \p rows rows.
  virtual int64_t sharedBytes(int64_t pairs, int64_t rows) const { return 0; }
  /// Loads what depends on no earlier kernel; before the wait. A barrier of the
  /// same threads comes before `store`.
  virtual void prepare(kernel::GpuKernelFrame &frame, const Place &place) {}
  /// Stores the values (f32, with bias) of pair \p pair of the thread block in
  /// row \p row of x.
  virtual void store(kernel::GpuKernelFrame &frame, const Place &place,
                     kernel::Val row, kernel::Val pair, kernel::Val first,
                     kernel::Val second) = 0;
};

/// silu(first) * second, to `result` [rows, features]. Pairs are outputs.
class GatedPairs : public LinearPairs {
public:
  GatedPairs(SwigluOp op, kernel::Ptr result);
  void store(kernel::GpuKernelFrame &frame, const Place &place, kernel::Val row,
             kernel::Val pair, kernel::Val first, kernel::Val second) override;

private:
  Type between, to;
  int64_t features;
  kernel::Ptr result;
};

/// Rotates, stores queries, appends keys and values to their pages.
/// Pair p is features k and k + headDim / 2 of head h, in the order
/// p = h * headDim / 2 + k; heads of queries, keys, values.
class RotatedPairs : public LinearPairs {
public:
  /// Operands of the operation without qkv, then the queries.
  static constexpr int64_t kBuffers = 6;
  /// \p buffers: kBuffers of them.
  RotatedPairs(RopeAppendOp op, ArrayRef<kernel::Ptr> buffers);
  /// Whether it serves \p op: a cache with scales needs a head's largest value.
  static bool serves(RopeAppendOp op);

  int64_t sharedBytes(int64_t pairs, int64_t rows) const override;
  void prepare(kernel::GpuKernelFrame &frame, const Place &place) override;
  void store(kernel::GpuKernelFrame &frame, const Place &place, kernel::Val row,
             kernel::Val pair, kernel::Val first, kernel::Val second) override;

private:
  kernel::Ptr angleAt(kernel::KernelBuilder &b, const Place &place,
                      kernel::Val row, kernel::Val pair) const;

  int64_t heads, kvHeads, half;
  CachePages pages;
  Type between, query;
  kernel::Ptr table, cache, positions, sequences, tables, result;
};

} // namespace mlir::qlm::cuda

#endif // QLM_LIB_LOWER_CUDA_LINEARPAIRS_H

//===- RowFormulas.h - Parts that row kernels share ------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// What a kernel and its fused form both emit, so that they agree bit for bit.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_LOWER_CPU_ROWFORMULAS_H
#define QLM_LIB_LOWER_CPU_ROWFORMULAS_H

#include "Chunks.h"
#include "qlm/Lower/Cpu/Target.h"

namespace mlir::qlm::cpu {

/// `qlm.rms_norm` of one row.
class RowNorm {
public:
  /// Sums the squares of the f32 row at \p input. The order depends on nothing
  /// but the length.
  RowNorm(kernel::KernelBuilder &b, kernel::Ptr input, kernel::Ptr weight,
          RankedTensorType weightType, double epsilon, int64_t lanes);

  /// The normalized elements of \p chunk; arbitrary past the row.
  kernel::Val getChunk(const Chunk &chunk) const;

private:
  kernel::KernelBuilder &b;
  kernel::Ptr input, weight;
  Type weightElement;
  kernel::Val factor;
};

/// e^x of f32 as KernelBuilder::exp gives it, at half the cost where AVX512
/// scales vectors by powers of two; below -87.3 without full precision there.
kernel::Val emitExp(kernel::KernelBuilder &b, kernel::Val x,
                    const Target &target);

/// `silu(gate) * up`.
kernel::Val emitGated(kernel::KernelBuilder &b, kernel::Val gate,
                      kernel::Val up, const Target &target);

/// `silu(gate) * up` of a chunk of the f32 rows at \p gate and \p up.
kernel::Val emitGatedChunk(kernel::KernelBuilder &b, const Chunk &chunk,
                           kernel::Ptr gate, kernel::Ptr up,
                           const Target &target);

/// Values of a row times its factor, rounded to i32; beyond \p bound, and for
/// NaN, arbitrary or the bound: clamped, they are codes.
kernel::Val roundRowValues(kernel::KernelBuilder &b, kernel::Val values,
                           kernel::Val factor, double bound);

/// `qlm.dynamic_quantize` of one row.
class RowRounding {
public:
  /// The elements of a chunk, f32; what is past the row doesn't count.
  using ChunkFn = function_ref<kernel::Val(const Chunk &)>;

  /// With \p threshold, magnitudes that reach it are listed.
  RowRounding(kernel::KernelBuilder &b, SchemeAttr scheme,
              std::optional<APFloat> threshold, int64_t features, int64_t lanes)
      : b(b), scheme(scheme), threshold(threshold), features(features),
        lanes(lanes) {}

  /// Where a row's results go.
  struct Places {
    kernel::Ptr codes, scale; ///< i8, f32
    kernel::Ptr outliers;     ///< f32 [1 + 2 * features], of a threshold
  };
  /// The row \p row of the results that are buffers \p first, first + 1 and,
  /// with a threshold, first + 2 of \p frame.
  Places getPlaces(kernel::KernelFrame &frame, int64_t first,
                   kernel::Val row) const;

  /// The largest magnitude of a row; calls \p values once for each chunk.
  kernel::Val getMagnitude(ChunkFn values) const;
  /// Stores the scale of a row with that magnitude; gives its reciprocal, or 0.
  kernel::Val storeScale(kernel::Val magnitude, kernel::Ptr scale) const;
  /// Writes the results of a row with that magnitude; calls \p values once for
  /// each chunk.
  void store(kernel::Val magnitude, ChunkFn values, const Places &places) const;

private:
  kernel::Val isOutlier(kernel::Val x) const;
  kernel::Val getRest(kernel::Val x) const;
  kernel::Val encode(kernel::Val x, kernel::Val factor) const;
  void listOutliers(const Chunk &chunk, kernel::Val x, kernel::Ptr list) const;

  kernel::KernelBuilder &b;
  SchemeAttr scheme;
  std::optional<APFloat> threshold;
  int64_t features, lanes;
};

} // namespace mlir::qlm::cpu

#endif // QLM_LIB_LOWER_CPU_ROWFORMULAS_H

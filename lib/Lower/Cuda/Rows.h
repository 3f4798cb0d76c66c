//===- Rows.h - A block's threads share a row -------------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// What the kernels of row operations have in common: thread i of a block takes
// vectors i, i + threads, ... of its row. What a fused kernel and its parts
// both emit stands here once, so that they agree bit for bit.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_LOWER_CUDA_ROWS_H
#define QLM_LIB_LOWER_CUDA_ROWS_H

#include "Emitters.h"

#include "llvm/ADT/APFloat.h"

#include <optional>

namespace mlir::qlm::cuda {

/// How rows of a known length are split among the threads of a block.
class RowSplit {
public:
  explicit RowSplit(int64_t features)
      : features(features),
        lanes(features % 4 == 0 ? 4 : (features % 2 == 0 ? 2 : 1)) {}

  /// Threads of a block: enough for the row, whole warps, at most \p most.
  int64_t threads(int64_t most = 256) const {
    int64_t wanted = llvm::alignTo(llvm::divideCeil(features, lanes), 32);
    return std::min(wanted, most);
  }
  int64_t getFeatures() const { return features; }
  int64_t getLanes() const { return lanes; }

  /// Row \p row (i32) of a buffer of rows of \p length elements.
  static kernel::Ptr row(kernel::GpuKernelFrame &frame, kernel::Ptr buffer,
                         Type element, kernel::Val row, int64_t length);
  /// Calls \p body with the first element (i32) of each of the thread's
  /// vectors.
  void forEach(kernel::GpuKernelFrame &frame,
               function_ref<void(kernel::Val)> body) const;
  /// Folds the thread's vectors in order.
  kernel::Val
  fold(kernel::GpuKernelFrame &frame, kernel::Val init,
       function_ref<kernel::Val(kernel::Val, kernel::Val)> add) const;

  /// The vector at \p first of the row at \p row, in f32.
  kernel::Val load(kernel::GpuKernelFrame &frame, kernel::Ptr row, Type element,
                   kernel::Val first) const;
  /// Rounds \p value (f32) to \p element and stores it.
  void store(kernel::GpuKernelFrame &frame, kernel::Ptr row, Type element,
             kernel::Val first, kernel::Val value) const;
  /// A vector of the split's lanes, or a scalar.
  Type vectorOf(Type element) const {
    return lanes == 1 ? element : Type(VectorType::get({lanes}, element));
  }

private:
  int64_t features, lanes;
};

/// A row of f32 vectors, used several times: a thread computes its own once and
/// keeps them in registers, if they are few; else each time.
class HeldRow {
public:
  using Source = std::function<kernel::Val(kernel::Val first)>;

  /// \p source gives the vector at an element (i32) of the row.
  HeldRow(kernel::GpuKernelFrame &frame, const RowSplit &split, Source source);

  /// Calls \p body with the first element and value of each of the thread's
  /// vectors.
  void forEach(function_ref<void(kernel::Val first, kernel::Val x)> body) const;
  /// Folds the thread's vectors in order; vectors of zeros may stand between.
  kernel::Val
  fold(kernel::Val init,
       function_ref<kernel::Val(kernel::Val, kernel::Val)> add) const;
  /// Folds all vectors of a round, in which every thread takes part with one
  /// or, past the row's end, with zeros. \p first is the thread's.
  kernel::Val
  foldRounds(kernel::Val init,
             function_ref<kernel::Val(kernel::Val carried, kernel::Val first,
                                      kernel::Val x)>
                 add) const;
  /// What \p change makes of each vector; zeros of zeros.
  HeldRow map(std::function<kernel::Val(kernel::Val x)> change) const;
  /// What \p join makes of each vector and that of \p other, a row of the same
  /// split; zeros of zeros.
  HeldRow zip(const HeldRow &other,
              std::function<kernel::Val(kernel::Val, kernel::Val)> join) const;

private:
  int64_t rounds() const;
  /// Whether each thread has a vector in round \p round.
  bool isFull(int64_t round) const;
  kernel::Val firstOf(int64_t round) const;
  kernel::Val valueOrZero(kernel::Val first, const Source &from) const;

  kernel::GpuKernelFrame &frame;
  RowSplit split;
  Source source;
  SmallVector<kernel::Val> held; ///< empty, or one a round
};

/// Element type of a ranked tensor.
inline Type getElement(Value value) {
  return cast<RankedTensorType>(value.getType()).getElementType();
}
/// Size of the last dimension.
inline int64_t getFeatures(Value value) {
  return cast<RankedTensorType>(value.getType()).getShape().back();
}

/// Sum of the lanes of a vector, by halves; a scalar itself.
kernel::Val sumLanes(kernel::KernelBuilder &b, kernel::Val value);

/// 1 / sqrt(mean of squares + epsilon) of a row; the order of the sum depends
/// on nothing but the length and the block.
kernel::Val emitNormFactor(kernel::GpuKernelFrame &frame, const RowSplit &split,
                           const HeldRow &row, double epsilon);

/// silu(gate) * up.
kernel::Val emitGate(kernel::GpuKernelFrame &frame, kernel::Val gate,
                     kernel::Val up);

/// Where the codes of a row go.
struct RowPlaces {
  kernel::Ptr codes, scale;
  /// The row's list of outliers (`qlm.dynamic_quantize`), null without one.
  kernel::Ptr outliers;

  /// The row's part of the buffers of codes, scales and, where \p threshold is
  /// there, outliers, from number \p first on.
  static RowPlaces get(kernel::GpuKernelFrame &frame, int64_t first,
                       kernel::Val row, int64_t features,
                       std::optional<llvm::APFloat> threshold);
};

/// `qlm.dynamic_quantize` of a row: writes codes, scale and outliers.
void emitRowCodes(kernel::GpuKernelFrame &frame, const RowSplit &split,
                  SchemeAttr scheme, std::optional<llvm::APFloat> threshold,
                  const HeldRow &values, const RowPlaces &places);

/// Begins a kernel with a block for each row: waits for the kernels before,
/// then calls \p body with the row where it is one of the step's.
void forBlockRow(kernel::GpuKernelFrame &frame, SizeKind rows,
                 function_ref<void(kernel::Val)> body);

} // namespace mlir::qlm::cuda

#endif // QLM_LIB_LOWER_CUDA_ROWS_H

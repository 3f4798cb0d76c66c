//===- GemmEmitter.h - Writes the body of a GEMM ----------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Parts of one class: Gemm.cpp has the plan, the copies and the products,
// GemmResults.cpp stores y. Gemm.h describes the kernel.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_LOWER_CUDA_GEMMEMITTER_H
#define QLM_LIB_LOWER_CUDA_GEMMEMITTER_H

#include "Gemm.h"
#include "LinearEpilogue.h"
#include "LinearTables.h"

namespace mlir::qlm::cuda {

class GemmEmitter {
public:
  GemmEmitter(kernel::GpuKernelFrame &frame, const LinearShape &shape,
              const GemmPlan &plan, const LinearBuffers &buffers)
      : frame(frame), b(frame.builder()), shape(shape), plan(plan),
        buffers(buffers), shared(frame.dynamicShared()),
        tables(frame, shape, buffers, shared.at(plan.tables),
               LinearTables::kFewCopies),
        unpacker(b, shape, tables), matrix(b, shape.matrixType(), plan.tokens) {
  }
  void emit();

private:
  /// A stage of the ring: its number, and the parity of its turn.
  struct RingPlace {
    kernel::Val stage, parity;
  };
  /// Two features of a lane, r and r + 8 of its warp's block.
  struct FeatureScales {
    kernel::Val scales[2], biases[2];
  };

  kernel::Mbarrier full(kernel::Val stage) {
    return kernel::Mbarrier(shared.at(plan.barriers).at(stage * 8), b);
  }
  kernel::Mbarrier empty(kernel::Val stage) {
    return kernel::Mbarrier(
        shared.at(plan.barriers + 8 * plan.stages).at(stage * 8), b);
  }
  kernel::Val number(int64_t value) { return b.constant(b.i32(), value); }
  RingPlace advance(RingPlace place) {
    kernel::Val next = place.stage + 1;
    kernel::Val wraps = next == plan.stages;
    return {b.select(wraps, number(0), next),
            b.select(wraps, place.parity ^ 1, place.parity)};
  }
  void emitBarriers();
  void emitRoles(llvm::function_ref<void()> consume);
  void emitTile();

  // Spans of tiles (GemmSpans.cpp).
  void emitSpans();
  void findSpan();
  void locate(kernel::Val index);
  void consumeSpans();
  void storePart(ArrayRef<kernel::Val> sums);
  SmallVector<kernel::Val> addParts(ArrayRef<kernel::Val> sums);
  kernel::Ptr partOf(kernel::Val block);
  kernel::Ptr flagOf(kernel::Val block);

  void emitProducer();
  void forStages(function_ref<void(RingPlace place, kernel::Val step)> visit);
  void copyWeights(RingPlace place, kernel::Val step);
  void copyWeightsInBulk(RingPlace place, kernel::Val step);
  void copyBlocks(kernel::Ptr target, kernel::Ptr source, int64_t blockBytes,
                  int64_t distance, kernel::Val count, kernel::Val bytes);
  void copyInput(RingPlace place, kernel::Val step);

  /// The warp's block number \p h in the tile.
  kernel::Val blockOf(int64_t h) {
    return group * 4 + warpInGroup + h * GemmPlan::kTileBlocks;
  }
  /// Operands of a chunk: four registers for each block of the warp and step.
  using Operands = SmallVector<kernel::Val>;
  SmallVector<kernel::Val> multiplyTile(RingPlace &place);
  SmallVector<kernel::Val> multiplyStage(RingPlace place, kernel::Val step,
                                         SmallVector<kernel::Val> sums,
                                         Operands &operands, bool isLast);
  Operands unpackChunk(RingPlace place, kernel::Val step, int64_t chunk);
  SmallVector<kernel::Val> unpackSteps(kernel::Ptr stage, kernel::Val step,
                                       int64_t h, int64_t first, int64_t count);
  SmallVector<kernel::Val> loadGroup(kernel::Ptr stage, kernel::Val step,
                                     int64_t h, int64_t column,
                                     SmallVectorImpl<kernel::Val> &zeros);

  void storePartials(kernel::Val sums);
  void emitCombined();
  void emitWhole(kernel::Val sums, int64_t h);
  FeatureScales loadFeatureScales();
  /// The value of a sum, without outliers.
  kernel::Val finish(kernel::Val sum, const FeatureScales &features,
                     int64_t half, kernel::Val row);
  kernel::Val addOutliers(kernel::Val values, kernel::Val row,
                          kernel::Val feature);
  /// What the two sums of a lane for row \p row of x give: two values, or one
  /// gated.
  SmallVector<kernel::Val> finishPair(kernel::Val row, kernel::Val first,
                                      kernel::Val second,
                                      const FeatureScales &features);
  /// Stores them to y (f32).
  void storePair(kernel::Val row, ArrayRef<kernel::Val> values);
  void emitRows(kernel::Val sums, const FeatureScales &features, int64_t first,
                int64_t last);
  void syncGroup();
  void storeTile(int64_t first, int64_t last);
  void storeTilePieces(kernel::Val inTile, kernel::Val count, int64_t rows,
                       int64_t first);
  /// Element type of y on its way out.
  Type tileType() { return shape.outliers ? b.f32() : outputType(); }
  Type outputType() {
    return shape.output == OutputFormat::F32   ? b.f32()
           : shape.output == OutputFormat::F16 ? b.f16()
                                               : b.bf16();
  }
  int64_t tileFeatures() const { return GemmPlan::tileFeatures(shape); }
  int64_t tilePitch() const { return GemmPlan::tilePitch(shape); }

  kernel::GpuKernelFrame &frame;
  kernel::KernelBuilder &b;
  const LinearShape &shape;
  const GemmPlan &plan;
  const LinearBuffers &buffers;
  kernel::Ptr shared;
  LinearTables tables;
  WeightUnpacker unpacker;
  kernel::Wgmma matrix;

  kernel::Val thread, lane, warp, rows;
  kernel::Val tileBlock;   ///< first block of the tile
  kernel::Val featureTile; ///< the kFeatures features whose y is made
  kernel::Ptr outgoing;    ///< where y lies on its way out
  kernel::Val firstRow, rank, firstStep, lastStep;
  kernel::Val copier;             ///< number among the threads that copy
  kernel::Val group, warpInGroup; ///< consumer warpgroup, and its warp
  /// Of spans: tiles of rows, tiles that blocks share, the block's own stages
  /// of these, and how many of its pieces are of them, and in all.
  kernel::Val rowTiles, sharedTiles, spanBegin, spanEnd, spanPieces, pieces;
};

} // namespace mlir::qlm::cuda

#endif // QLM_LIB_LOWER_CUDA_GEMMEMITTER_H

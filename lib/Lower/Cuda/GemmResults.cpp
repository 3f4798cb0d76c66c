//===- GemmResults.cpp - y of a GEMM from its sums ------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "GemmEmitter.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cuda;
using namespace mlir::qlm::kernel;

/// Four sums of a lane for rows 8 j + 2 q, + 1 of x: [j][thread] f32x4.
void GemmEmitter::storePartials(Val sums) {
  Type type = shape.input == InputFormat::Int8 ? b.i32() : b.f32();
  for (int64_t j = 0; j < plan.tokens / 8; ++j) {
    Val four = b.zero(b.vec(4, type));
    for (int64_t i = 0; i < 4; ++i)
      four = b.insert(four, matrix.element(sums, 4 * j + i), i);
    shared.at(j * GemmPlan::kConsumers * 16).at(thread * 16).store(four, 16);
  }
}

GemmEmitter::FeatureScales GemmEmitter::loadFeatureScales() {
  FeatureScales result;
  Val feature = featureTile * GemmPlan::kFeatures + group * 64 +
                warpInGroup * kBlockRows + lane / 4;
  for (int64_t half = 0; half < 2; ++half) {
    // Blocks beyond the last are not stored: any address will do.
    Val bounded =
        b.min(feature + half * 8, number(shape.blocks() * kBlockRows - 1));
    if (shape.scales && !shape.grouped())
      result.scales[half] =
          b.toF32(buffers.scales.at(bounded * shape.scaleBytes())
                      .load(shape.halfScales ? b.f16() : b.f32()));
    if (shape.bias)
      result.biases[half] = buffers.bias.at(bounded * 4).load(b.f32());
  }
  return result;
}

Val GemmEmitter::finish(Val sum, const FeatureScales &features, int64_t half,
                        Val row) {
  Val rowScale;
  if (shape.inputScales)
    rowScale = buffers.inputScales.at(row * 4).load(b.f32());
  Val value = shape.input == InputFormat::Int8 ? b.toFloat(sum, b.f32()) : sum;
  if (unpacker.factor() != 1)
    value = value * unpacker.factor();
  if (features.scales[half])
    value = value * features.scales[half];
  if (rowScale)
    value = value * rowScale;
  if (features.biases[half])
    value = value + features.biases[half];
  return value;
}

SmallVector<Val> GemmEmitter::finishPair(Val row, Val first, Val second,
                                         const FeatureScales &features) {
  Val existing = b.min(row, rows - 1);
  SmallVector<Val> values = {finish(first, features, 0, existing),
                             finish(second, features, 1, existing)};
  if (shape.swiglu)
    values = {gateUp(b, values[0], values[1])};
  return values;
}

void GemmEmitter::storePair(Val row, ArrayRef<Val> values) {
  int64_t blockOutputs = shape.swiglu ? 8 : kBlockRows;
  Val output = (featureTile * 2 + group) * tileFeatures() +
               warpInGroup * blockOutputs + lane / 4;
  b.ifThen(row < rows, [&] {
    Val place = frame.wide(row) * shape.outputFeatures() + frame.wide(output);
    for (auto [i, each] : llvm::enumerate(values)) {
      int64_t half = static_cast<int64_t>(i);
      auto store = [&, value = each] {
        Val sum = value;
        if (shape.residual)
          sum =
              sum + buffers.residual.at(place * 4).at(half * 32).load(b.f32());
        buffers.result.at(place * 4).at(half * 32).store(sum);
      };
      if (shape.outputFeatures() % (2 * tileFeatures()) == 0)
        store();
      else
        b.ifThen(output + half * 8 < shape.outputFeatures(), store);
    }
  });
}

/// Through shared memory: lanes of a product have neighbouring rows, lines of y
/// neighbouring features.
void GemmEmitter::emitWhole(Val sums, int64_t h) {
  featureTile = (h ? featureTile + 1 : featureTile);
  // The ring's memory has room for all, what lies behind it for some rows.
  outgoing = plan.spans ? shared.at(plan.outgoing)
                        : shared.at(h * plan.outgoingBytes(shape));
  FeatureScales features = loadFeatureScales();
  for (int64_t row = 0; row < plan.tokens; row += plan.outgoingRows) {
    if (plan.spans && (h || row))
      syncGroup(); // The rows before are stored.
    emitRows(sums, features, row,
             std::min(row + plan.outgoingRows, plan.tokens));
  }
}

/// The same for rows \p first to \p last of the tile.
void GemmEmitter::emitRows(Val sums, const FeatureScales &features,
                           int64_t first, int64_t last) {
  int64_t blockOutputs = shape.swiglu ? 8 : kBlockRows;
  Val feature = warpInGroup * blockOutputs + lane / 4;
  int64_t bytes = GemmPlan::tileBytes(shape);
  for (int64_t j = first / 8; j < last / 8; ++j)
    for (int64_t t = 0; t < 2; ++t) {
      Val inTile = lane % 4 * 2 + (8 * j + t);
      SmallVector<Val> values =
          finishPair(firstRow + inTile, matrix.element(sums, 4 * j + t),
                     matrix.element(sums, 4 * j + 2 + t), features);
      Ptr place = outgoing.at((group * plan.outgoingRows + inTile - first) *
                                  tilePitch() +
                              feature * bytes);
      for (auto [half, value] : llvm::enumerate(values))
        place.at(static_cast<int64_t>(half) * 8 * bytes)
            .store(b.fromF32(value, tileType()));
    }
  storeTile(first, last);
}

/// Adds the partial sums of all ranks, for this rank's part of the rows.
void GemmEmitter::emitCombined() {
  FeatureScales features = loadFeatureScales();
  int64_t pieces = plan.tokens / 8;
  Val lo = rank * pieces / plan.split, hi = (rank + 1) * pieces / plan.split;
  Val own = sharedAddress(b, shared) + thread * 16;
  bool integer = shape.input == InputFormat::Int8;
  b.forRange(lo, hi, 1, [&](Val j) {
    SmallVector<Val> sums;
    for (int64_t other = 0; other < plan.split; ++other) {
      Val from =
          mapToRank(b, own + j * (GemmPlan::kConsumers * 16), number(other));
      SmallVector<Val> four = loadCluster4(b, from);
      for (int64_t i = 0; i < 4; ++i) {
        Val part = integer ? b.bitcast(four[i], b.i32()) : four[i];
        if (other)
          sums[i] = sums[i] + part;
        else
          sums.push_back(part);
      }
    }
    for (int64_t t = 0; t < 2; ++t) {
      Val inTile = j * 8 + lane % 4 * 2 + t;
      Val row = firstRow + inTile;
      if (shape.output == OutputFormat::F32 && !shape.outliers) {
        storePair(row, finishPair(row, sums[t], sums[2 + t], features));
        continue;
      }
      // 16-bit results of few rows, and outliers: straight to memory.
      LinearEpilogue epilogue(b, shape, buffers, unpacker.factor());
      Val feature = featureTile * GemmPlan::kFeatures + group * 64 +
                    warpInGroup * kBlockRows + lane / 4;
      b.ifThen((row < rows) & (feature < shape.blocks() * kBlockRows), [&] {
        if (shape.swiglu) {
          Val output =
              (featureTile * GemmPlan::kTileBlocks + group * 4 + warpInGroup) *
                  8 +
              lane / 4;
          b.ifThen(output < shape.outputFeatures(), [&] {
            epilogue.storeGated(row, output, feature, sums[t], sums[2 + t]);
          });
          return;
        }
        for (int64_t half = 0; half < 2; ++half)
          b.ifThen(feature + half * 8 < shape.outputFeatures(), [&] {
            epilogue.store(row, feature + half * 8, sums[2 * half + t]);
          });
      });
    }
  });
}

/// Rows of a tile of y that a thread has on their way at once.
static constexpr int64_t kRowsTogether = 4;

/// A barrier of the warpgroup.
void GemmEmitter::syncGroup() {
  b.ifElse(
      group == 0, [&] { frame.barrier(2, GemmPlan::kWarpgroup); },
      [&] { frame.barrier(3, GemmPlan::kWarpgroup); });
}

/// Writes rows \p first to \p last of a warpgroup's tile of y from shared
/// memory, 16 bytes a thread.
void GemmEmitter::storeTile(int64_t first, int64_t last) {
  syncGroup();
  int64_t pieces = tileFeatures() * shape.outputBytes() / kPieceBytes;
  int64_t rowStep = GemmPlan::kWarpgroup / pieces;
  Val count = b.min(rows - firstRow, number(last));
  Val own = thread % GemmPlan::kWarpgroup / pieces + first;
  int64_t together =
      std::min(kRowsTogether, std::max((last - first) / rowStep, int64_t(1)));
  b.forRange(own, count, together * rowStep, [&](Val inTile) {
    storeTilePieces(inTile, count, together, first);
  });
}

/// \p values (f32) of features from \p feature on with what the row's outliers
/// add. Here a thread has neighbouring features, whose codes lie side by side
/// in frag8x8, and the code stands once, not once for each sum of a lane.
Val GemmEmitter::addOutliers(Val values, Val row, Val feature) {
  LinearEpilogue epilogue(b, shape, buffers, unpacker.factor());
  int64_t count = values.lanes();
  // Features past the last one are not stored: any will do.
  Val bounded = b.min(feature, number(shape.blocks() * kBlockRows - count));
  SmallVector<Val> sums = epilogue.sumOutliers(row, bounded, count);
  Val result = values;
  for (auto [i, sum] : llvm::enumerate(sums)) {
    int64_t lane = static_cast<int64_t>(i);
    Type type = shape.halfScales ? b.f16() : b.f32();
    Val scale = b.toF32(
        buffers.scales.at((bounded + lane) * shape.scaleBytes()).load(type));
    result = b.insert(result, b.fma(sum, scale, values.lane(lane)), lane);
  }
  return result;
}

/// Stores the thread's piece of rows \p inTile, inTile + rowStep, ..., as far
/// as they are below \p count; all residuals are on their way before the first
/// is used.
void GemmEmitter::storeTilePieces(Val inTile, Val count, int64_t together,
                                  int64_t first) {
  int64_t bytes = shape.outputBytes(), elements = kPieceBytes / bytes;
  int64_t pieces = tileFeatures() / elements;
  int64_t rowStep = GemmPlan::kWarpgroup / pieces;
  Val piece = thread % GemmPlan::kWarpgroup % pieces;
  Val output = (featureTile * 2 + group) * tileFeatures() + piece * elements;
  bool isWhole = shape.outputFeatures() % elements == 0;
  VectorType vector = b.vec(elements, tileType());
  // Past the tile's rows or y's columns another element is read in their place.
  Val lastColumn = number(shape.outputFeatures() - (isWhole ? elements : 1));
  auto placeOf = [&](Val row, Val column) {
    return frame.wide(firstRow + b.min(row, count - 1)) *
               shape.outputFeatures() +
           frame.wide(b.min(column, lastColumn));
  };
  SmallVector<Val> residuals;
  for (int64_t i = 0; shape.residual && i < together; ++i) {
    Val row = inTile + i * rowStep;
    if (isWhole) {
      residuals.push_back(buffers.residual.at(placeOf(row, output) * 4)
                              .load(b.vec(elements, b.f32()), 16));
      continue;
    }
    Val some = b.zero(b.vec(elements, b.f32()));
    for (int64_t k = 0; k < elements; ++k)
      some = b.insert(
          some, buffers.residual.at(placeOf(row, output + k) * 4).load(b.f32()),
          k);
    residuals.push_back(some);
  }
  for (int64_t i = 0; i < together; ++i) {
    Val row = inTile + i * rowStep;
    b.ifThen(row < count, [&] {
      Val values =
          outgoing
              .at((group * plan.outgoingRows + row - first) * tilePitch() +
                  piece * (elements * GemmPlan::tileBytes(shape)))
              .load(vector, kPieceBytes);
      if (shape.outliers)
        values = addOutliers(values, firstRow + row, output);
      if (shape.residual)
        values = b.toF32(values) + residuals[i];
      if (values.elementType() != outputType())
        values = b.fromF32(values, outputType());
      if (isWhole)
        return b.ifThen(output < shape.outputFeatures(), [&] {
          buffers.result.at(placeOf(row, output) * bytes)
              .store(values, kPieceBytes);
        });
      for (int64_t k = 0; k < elements; ++k)
        b.ifThen(output + k < shape.outputFeatures(), [&] {
          buffers.result.at(placeOf(row, output + k) * bytes)
              .store(values.lane(k));
        });
    });
  }
}

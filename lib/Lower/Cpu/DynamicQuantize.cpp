//===- DynamicQuantize.cpp - Emits qlm.dynamic_quantize -------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Buffers: input f32 [rows, features], codes i8 [rows, features],
//          scales f32 [rows], with a threshold outliers f32
//          [rows, 1 + 2 * features] (number, columns, values).
// Tiles:   one a row.
//
// Outliers are few: a chunk of the row is looked at for its largest magnitude
// alone, and those that have one append to the row's list, whose length is kept
// in the list itself.
//
//===----------------------------------------------------------------------===//

#include "Bytes.h"
#include "Emitters.h"
#include "Pages.h"
#include "RowFormulas.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cpu;
using namespace mlir::qlm::kernel;

Val RowRounding::getMagnitude(ChunkFn values) const {
  // One instruction; NaN loses against what came before.
  auto larger = [&](Val x, Val than) { return b.select(x > than, x, than); };
  Val all = foldChunks(
      b, features, b.zero(b.vec(lanes, b.f32())),
      [&](Val largest, const Chunk &chunk) {
        Val x = getRest(chunk.fill(b, values(chunk), 0.0));
        return larger(b.abs(x), largest);
      },
      larger);
  for (int64_t count = lanes / 2; count; count /= 2)
    all = larger(b.slice(all, 0, count), b.slice(all, count, count));
  return all.lane(0);
}

/// Whether the magnitude of \p x reaches the threshold; a NaN's doesn't.
Val RowRounding::isOutlier(Val x) const {
  return b.abs(x) >= threshold->convertToDouble();
}

/// \p x, or 0 for an outlier.
Val RowRounding::getRest(Val x) const {
  return threshold ? b.select(isOutlier(x), b.zero(x.type()), x) : x;
}

/// Appends the columns and values of outliers among \p x to \p list.
void RowRounding::listOutliers(const Chunk &chunk, Val x, Ptr list) const {
  Val mask = isOutlier(chunk.fill(b, x, 0.0));
  Val found = b.countLanes(mask);
  b.ifThen(found > 0, [&] {
    SmallVector<int64_t> lanesOfChunk;
    for (int64_t i = 0; i < lanes; ++i)
      lanesOfChunk.push_back(i);
    Val first = b.broadcast(b.truncate(chunk.first, b.i32()), lanes);
    Val columns = b.toFloat(first + b.table(b.i32(), lanesOfChunk), b.f32());
    Val count = b.toInteger(list.load(b.f32()), b.i64());
    Ptr end = list.at(4).element(b.f32(), count);
    end.storeCompressed(columns, mask);
    end.at(features * 4).storeCompressed(x, mask);
    list.store(b.toFloat(count + found, b.f32()));
  });
}

RowRounding::Places RowRounding::getPlaces(KernelFrame &frame, int64_t first,
                                           Val row) const {
  Places places{frame.buffer(first).element(b.i8(), row * features),
                frame.buffer(first + 1).element(b.f32(), row),
                {}};
  if (threshold)
    places.outliers =
        frame.buffer(first + 2).element(b.f32(), row * (1 + 2 * features));
  return places;
}

Val RowRounding::storeScale(Val magnitude, Ptr scale) const {
  double bound = scheme.getBoundValue();
  scale.store(magnitude / bound);
  // A row of zeros has codes 0, not 0 * infinity.
  return b.select(magnitude == 0.0, b.zero(b.f32()), bound / magnitude);
}

Val mlir::qlm::cpu::roundRowValues(KernelBuilder &b, Val values, Val factor,
                                   double bound) {
  Val scaled = values * factor, most = constantLike(scaled, bound);
  return roundToInts(b, b.select(scaled < most, scaled, most));
}

/// Codes of what is left of a chunk.
Val RowRounding::encode(Val x, Val factor) const {
  double bound = scheme.getBoundValue();
  auto most = static_cast<int64_t>(bound);
  if (!scheme.getStorage().isInteger(8))
    return encodeNumbers(b, x * factor, scheme.getStorage());
  return clampToBytes(b, roundRowValues(b, x, factor, bound), -most, most);
}

void RowRounding::store(Val magnitude, ChunkFn values,
                        const Places &places) const {
  if (threshold)
    places.outliers.store(b.zero(b.f32()));
  Val factor = b.broadcast(storeScale(magnitude, places.scale), lanes);
  forChunks(b, features, lanes, [&](const Chunk &chunk) {
    Val x = values(chunk);
    if (threshold)
      listOutliers(chunk, x, places.outliers);
    chunk.store(b, places.codes, encode(getRest(x), factor));
  });
}

FailureOr<KernelInfo>
mlir::qlm::cpu::emitDynamicQuantize(DynamicQuantizeOp op,
                                    const KernelRequest &request) {
  int64_t features = op.getInput().getType().getDimSize(1);

  KernelFrame frame(request.function, /*count=*/1 + op->getNumResults());
  KernelBuilder &b = frame.builder();
  RowRounding rounding(b, op.getScheme(), op.getThreshold(), features,
                       request.target.lanes());
  b.forRange(frame.lo(), frame.hi(), 1, [&](Val row) {
    Ptr input = frame.buffer(0).readOnly().element(b.f32(), row * features);
    auto values = [&](const Chunk &chunk) {
      return chunk.load(b, input, b.f32());
    };
    rounding.store(rounding.getMagnitude(values), values,
                   rounding.getPlaces(frame, 1, row));
  });
  KernelInfo info;
  info.tiles = request.tilesPerRow(1);
  info.flopsPerRow = 2 * features;
  return info;
}

//===- PlainLinear.cpp - A packed_linear for every layout and shape -------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Buffers: input f32/f16/bf16/i8/f8E4M3FN [rows, K], input scales f32 [rows] of
//          8 bits,
//          outliers f32 [rows, 1 + 2 K] if any,
//          weight packed, scales and zero points packed if there are,
//          bias f32 [N] if any, residual f32 [rows, N] if any,
//          result [rows, N].
//
// In frag layouts a cell is 16 columns: the lane gathers them from the words of
// the four lanes of a tensor core's fragment that hold its row.
//
// A block computes 16 output features (the packed row block) of up to kRows
// input rows. Its warps split the columns: a warp takes cells w, w + warps, ...
// in pairs, a half-warp a cell, a lane the cell's share of one feature; a
// *cell* is what a lane loads at once: 1 column of f32x16 and f16x16, 2 of
// bf16x16x2, 4 of i8x16x4, 8 of i4x16x8. So a warp reads 64 to 128 bytes in a
// row. Partial sums meet in shared memory and are added in the order of the
// warps.
//
//        cells of one row block           block of 8 warps
//   k:  0    1    2    3   ...  16  17
//      [w0] [w0] [w1] [w1] ... [w0][w0]   each [..] = 16 features x 1 cell
//
// The order of a sum depends on nothing but K. It is right for any shape and
// fast for none: the chooser prefers the kernels of PackedLinear*.cpp.
//
//===----------------------------------------------------------------------===//

#include "Rows.h"
#include "qlm/Package/Format.h"
#include "qlm/Package/Tables.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cuda;
using namespace mlir::qlm::kernel;

/// Input rows of a block.
static constexpr int64_t kRows = 8;
static constexpr int64_t kWarps = 8;
static constexpr int64_t kFeatures = ::qlm::format::kRowBlock;
using ::qlm::format::kFragmentColumns;
using ::qlm::format::kFragmentLineBytes;

namespace {
/// One packed_linear, as a kernel sees it.
class PlainLinear {
public:
  PlainLinear(PackedLinearOp op, const CudaRequest &request)
      : op(op), request(request), kind(op.getLayout().getKind()),
        columns(op.getInFeatures()), features(op.getOutFeatures()),
        input(getElement(op.getInput())),
        scheme(op.getScheme().value_or(SchemeAttr())),
        frame(request.createKernel(kWarps * kWarpThreads)), b(frame.builder()) {
  }

  CudaKernel emit();

private:
  /// Columns of a cell, bytes that a lane loads for it.
  int64_t cellColumns() const;
  int64_t cellBytes() const;
  /// Bytes of the 16 rows of a block.
  int64_t blockBytes() const;
  bool isFragment() const { return kind >= LayoutKind::Fragment16; }
  bool isInteger() const { return input.isInteger(8); }
  int64_t zeroCode() const {
    return scheme.getStorage().isUnsignedInteger()
               ? 0
               : int64_t(1) << (scheme.getBits() - 1);
  }
  Ptr next() { return frame.buffer(buffer++); }

  /// The cell's weights (f32; i32 with i8 activations), without scale.
  SmallVector<Val> loadWeights(Val cell);
  SmallVector<Val> loadCodes(Val cell);
  /// The 16 columns of a cell in a frag layout: floats, or codes in i32.
  SmallVector<Val> loadFragment(Val cell);
  /// The word that lane (row, quad) of a fragment has for the cell; 16-bit
  /// weights have two of them.
  Val loadWord(Val cell, int64_t quad, int64_t second);
  Val decode(Val code);
  Val loadScale(Val column);
  Val loadDoubleScale(Val group);
  /// Element (m, column) of the input.
  Val loadInput(int64_t m, Val column);
  /// Adds one cell to the sums of all rows.
  SmallVector<Val> addCell(Val cell, ArrayRef<Val> sums);
  Val sumOutliers(Val row);
  void store(Val row, Val sum);

  PackedLinearOp op;
  const CudaRequest &request;
  LayoutKind kind;
  int64_t columns, features;
  Type input;
  SchemeAttr scheme;
  GpuKernelFrame frame;
  KernelBuilder &b;
  int64_t buffer = 0;

  Ptr inputs, inputScales, outliers, weight, scales, superScales, zeroPoints,
      bias;
  Ptr residual, result;
  Val rowBlock, firstRow, rowCount, feature;
};
} // namespace

int64_t PlainLinear::cellColumns() const {
  switch (kind) {
  case LayoutKind::BFloat16:
    return 2;
  case LayoutKind::Int8:
  case LayoutKind::Float8:
    return 4;
  case LayoutKind::Int4:
    return 8;
  case LayoutKind::Fragment16:
  case LayoutKind::Fragment8:
  case LayoutKind::Fragment8x8:
  case LayoutKind::Fragment4:
    return 16;
  default:
    return 1;
  }
}

int64_t PlainLinear::cellBytes() const {
  return kind == LayoutKind::Float16 ? 2 : 4;
}

int64_t PlainLinear::blockBytes() const {
  int64_t lineColumns = kind == LayoutKind::Fragment16  ? 16
                        : kind == LayoutKind::Fragment4 ? 64
                                                        : 32;
  if (isFragment())
    return llvm::alignTo(columns, kFragmentColumns) / lineColumns *
           kFragmentLineBytes;
  return llvm::divideCeil(columns, cellColumns()) * kFeatures * cellBytes();
}

Val PlainLinear::loadWord(Val cell, int64_t quad, int64_t second) {
  // Cells of a line, and which word of the lane's four holds the cell.
  int64_t cells = kind == LayoutKind::Fragment16  ? 1
                  : kind == LayoutKind::Fragment4 ? 4
                                                  : 2;
  Val lower = feature >> 3, lane = (feature & 7) * 4 + quad;
  Val word = kind == LayoutKind::Fragment4    ? cell % 4
             : kind == LayoutKind::Fragment16 ? lower + 2 * second
                                              : lower + (cell % 2) * 2;
  Val offset = cell / cells * kFragmentLineBytes + lane * 16 + word * 4;
  return weight.at(frame.wide(offset)).load(b.i32());
}

SmallVector<Val> PlainLinear::loadFragment(Val cell) {
  SmallVector<Val> columns(cellColumns());
  for (int64_t quad = 0; quad < 4; ++quad) {
    if (kind == LayoutKind::Fragment16) {
      Type element = getElement(op.getWeight());
      for (int64_t second = 0; second < 2; ++second) {
        Val pair =
            b.toF32(b.bitcast(loadWord(cell, quad, second), b.vec(2, element)));
        for (int64_t i = 0; i < 2; ++i)
          columns[2 * quad + 8 * second + i] = pair.lane(i);
      }
      continue;
    }
    Val word = loadWord(cell, quad, /*second=*/0);
    // Nibbles of both rows share a word.
    Val shifted = word >> ((feature >> 3) * 4);
    for (int64_t i = 0; i < 4; ++i) {
      int64_t pairColumn = 2 * quad + i % 2 + 8 * (i / 2);
      if (kind == LayoutKind::Fragment4)
        columns[pairColumn] = (shifted >> (8 * (i / 2) + 16 * (i % 2))) & 0xf;
      else if (kind == LayoutKind::Fragment8)
        columns[pairColumn] = (word >> (8 * i)) & 0xff;
      else if (scheme.getStorage().isUnsignedInteger() || !scheme.isUniform())
        columns[4 * quad + i] = (word >> (8 * i)) & 0xff;
      else
        columns[4 * quad + i] = b.shiftRightSigned(word << (24 - 8 * i), 24);
    }
  }
  return columns;
}

SmallVector<Val> PlainLinear::loadCodes(Val cell) {
  Ptr place =
      weight.at(frame.wide(cell) * (kFeatures * 4)).element(b.i32(), feature);
  Val word = place.load(b.i32());
  SmallVector<Val> codes;
  if (kind == LayoutKind::Int8 || kind == LayoutKind::Float8) {
    for (int64_t i = 0; i < 4; ++i)
      codes.push_back((word >> (8 * i)) & 0xff);
    return codes;
  }
  // Low nibbles hold columns 0 to 3, high ones 4 to 7.
  for (int64_t i = 0; i < 8; ++i)
    codes.push_back((word >> (8 * (i % 4) + 4 * (i / 4))) & 0xf);
  return codes;
}

SmallVector<Val> PlainLinear::loadWeights(Val cell) {
  if (scheme) {
    SmallVector<Val> codes =
        isFragment() ? loadFragment(cell) : loadCodes(cell);
    if (!scheme.isUniform()) {
      for (Val &code : codes)
        code = decode(code);
      return codes;
    }
    // Codes are offset; a symmetric scheme has its offset as zero point.
    Val zero =
        b.constant(b.i32(), kind == LayoutKind::Fragment8x8 ? 0 : zeroCode());
    if (zeroPoints) {
      Val group = cell * cellColumns() / scheme.getColumnsPerScale(columns);
      zero = b.extendUnsigned(zeroPoints.at(frame.wide(group) * kFeatures)
                                  .element(b.i8(), feature)
                                  .load(b.i8()),
                              b.i32());
    }
    for (Val &code : codes) {
      code = code - zero;
      if (!isInteger())
        code = b.toFloat(code, b.f32());
    }
    return codes;
  }
  if (isFragment())
    return loadFragment(cell);
  Type element = getElement(op.getWeight());
  Ptr place = weight.at(frame.wide(cell) * (kFeatures * cellBytes()))
                  .at(frame.wide(feature) * cellBytes());
  if (kind != LayoutKind::BFloat16)
    return {b.toF32(place.load(element))};
  Val pair = b.toF32(place.load(b.vec(2, element), 4));
  return {pair.lane(0), pair.lane(1)};
}

/// What a code that isn't uniform stands for.
Val PlainLinear::decode(Val code) {
  if (scheme.getCodebook() == Codebook::Float8)
    return frame.fromE4M3(b.truncate(code, b.i8()));
  return frame.constantTable(::qlm::format::kNormalFloat4)
      .element(b.f32(), code)
      .load(b.f32());
}

/// A scale that is a code itself: map[code] * absmax + offset.
Val PlainLinear::loadDoubleScale(Val group) {
  Val code = b.extendUnsigned(scales.at(frame.wide(group) * kFeatures)
                                  .element(b.i8(), feature)
                                  .load(b.i8()),
                              b.i32());
  int64_t groups = columns / scheme.getColumnsPerScale(columns);
  Val index = (rowBlock * kFeatures + feature) * groups + group;
  // Features past the last one have no scales.
  Val last = b.constant(b.i32(), features * groups - 1);
  Val block = b.min(index, last) / ::qlm::format::kDoubleBlock;
  Val absmax = superScales.at(4).element(b.f32(), block).load(b.f32());
  Val mapped = frame.constantTable(::qlm::format::kDynamicMap)
                   .element(b.f32(), code)
                   .load(b.f32());
  return mapped * absmax + superScales.load(b.f32());
}

Val PlainLinear::loadScale(Val column) {
  if (superScales)
    return loadDoubleScale(column / scheme.getColumnsPerScale(columns));
  Type element = getElement(op.getScales());
  Val group = column / scheme.getColumnsPerScale(columns);
  Ptr line = scales.at(frame.wide(group) *
                       (kFeatures * element.getIntOrFloatBitWidth() / 8));
  return b.toF32(line.element(element, feature).load(element));
}

Val PlainLinear::loadInput(int64_t m, Val column) {
  // Rows past the step's read its last row; what they give isn't stored.
  Val row = b.min(firstRow + m, rowCount - 1);
  Ptr line = RowSplit::row(frame, inputs, input, row, columns);
  if (isa<Float8E4M3FNType>(input))
    return frame.fromE4M3(line.at(column).load(b.i8()));
  Val x = line.element(input, column).load(input);
  return isInteger() ? b.extendSigned(x, b.i32()) : b.toF32(x);
}

SmallVector<Val> PlainLinear::addCell(Val cell, ArrayRef<Val> sums) {
  int64_t width = cellColumns();
  Val first = cell * width;
  SmallVector<Val> weights = loadWeights(cell);
  Val scale = scheme ? loadScale(first) : b.constant(b.f32(), 1.0);
  SmallVector<Val> result;
  for (auto [m, sum] : llvm::enumerate(sums)) {
    Val dot = b.zero(isInteger() ? b.i32() : b.f32());
    for (auto [i, w] : llvm::enumerate(weights)) {
      Val column = first + static_cast<int64_t>(i);
      // The last cell may be padded: no column there.
      bool padded = columns % width != 0;
      Val x = loadInput(
          m, padded ? b.min(column, b.constant(b.i32(), columns - 1)) : column);
      if (padded)
        x = b.select(column < columns, x, b.zero(x.type()));
      dot = isInteger() ? dot + x * w : b.fma(x, w, dot);
    }
    if (isInteger())
      dot = b.toFloat(dot, b.f32());
    result.push_back(b.fma(dot, scale, sum));
  }
  return result;
}

/// The row's outliers times their weights, unscaled.
Val PlainLinear::sumOutliers(Val row) {
  Ptr list = RowSplit::row(frame, outliers, b.f32(), row, 1 + 2 * columns);
  Val count = b.toInteger(list.load(b.f32()), b.i32());
  return b.forRange(
      b.constant(b.i32(), int64_t(0)), count, 1, {b.zero(b.f32())},
      [&](Val j, ArrayRef<Val> sums) {
        Ptr entry = list.at(4).element(b.f32(), j);
        Val column = b.toInteger(entry.load(b.f32()), b.i32());
        SmallVector<Val> cell = loadWeights(column / cellColumns());
        Val code = cell[0];
        for (size_t i = 1; i < cell.size(); ++i)
          code = b.select(column % cellColumns() == static_cast<int64_t>(i),
                          cell[i], code);
        Val value = entry.at(columns * 4).load(b.f32());
        return SmallVector<Val>{
            b.fma(value, b.toFloat(code, b.f32()), sums[0])};
      })[0];
}

void PlainLinear::store(Val row, Val sum) {
  Val column = rowBlock * kFeatures + feature;
  b.ifThen((row < rowCount) & (column < features), [&] {
    Val y = sum;
    if (inputScales)
      y = y * inputScales.element(b.f32(), row).load(b.f32());
    if (outliers)
      y = b.fma(sumOutliers(row), loadScale(b.constant(b.i32(), int64_t(0))),
                y);
    if (bias)
      y = y + bias.element(b.f32(), column).load(b.f32());
    if (residual)
      y = y + RowSplit::row(frame, residual, b.f32(), row, features)
                  .element(b.f32(), column)
                  .load(b.f32());
    Type element = getElement(op.getResult());
    RowSplit::row(frame, result, element, row, features)
        .element(element, column)
        .store(b.fromF32(y, element));
  });
}

CudaKernel PlainLinear::emit() {
  inputs = next();
  if (op.getInputScales())
    inputScales = next();
  if (op.getOutliers())
    outliers = next();
  weight = next();
  if (op.getScales())
    scales = next();
  if (op.getSuperScales())
    superScales = next().readOnly();
  if (op.getZeroPoints())
    zeroPoints = next();
  if (op.getBias())
    bias = next();
  if (op.getResidual())
    residual = next();
  result = next();

  rowBlock = frame.block();
  firstRow = frame.blockY() * kRows;
  rowCount = frame.size(request.rows);
  feature = frame.thread() & (kFeatures - 1);
  frame.waitForPrevious();
  frame.launchDependents();
  int64_t cells = llvm::divideCeil(columns, cellColumns());
  // Each row block's weights, scales and zero points stand together.
  Val block = frame.wide(rowBlock);
  weight = weight.at(block * blockBytes()).readOnly();
  if (scheme) {
    int64_t groups = columns / scheme.getColumnsPerScale(columns);
    int64_t scaleBytes = getElement(op.getScales()).getIntOrFloatBitWidth() / 8;
    scales = scales.at(block * (groups * kFeatures * scaleBytes)).readOnly();
    if (zeroPoints)
      zeroPoints = zeroPoints.at(block * (groups * kFeatures)).readOnly();
  }

  b.ifThen(firstRow < rowCount, [&] {
    // Half-warps take cells in turn.
    Val first = frame.thread() / kFeatures;
    SmallVector<Val> sums = b.forRange(
        first, b.constant(b.i32(), cells), 2 * kWarps,
        SmallVector<Val>(kRows, b.zero(b.f32())),
        [&](Val cell, ArrayRef<Val> before) { return addCell(cell, before); });
    Ptr shared = frame.shared(kWarps * kRows * kFeatures * 4);
    Val slot = frame.warp() * (kRows * kFeatures) + feature;
    for (auto [m, sum] : llvm::enumerate(sums)) {
      Val both = sum + frame.shuffleXor(sum, kFeatures);
      b.ifThen(frame.lane() < kFeatures, [&, m = m] {
        shared.element(b.f32(), slot + static_cast<int64_t>(m) * kFeatures)
            .store(both);
      });
    }
    frame.barrier();
    // Thread t adds up row t / 16, feature t % 16.
    b.ifThen(frame.thread() < kRows * kFeatures, [&] {
      Val m = frame.thread() / kFeatures;
      Val sum = b.zero(b.f32());
      for (int64_t warp = 0; warp < kWarps; ++warp)
        sum =
            sum +
            shared.element(b.f32(), frame.thread() + warp * (kRows * kFeatures))
                .load(b.f32());
      store(firstRow + m, sum);
    });
  });

  CudaKernel kernel;
  kernel.grid = request.blocksPerStep(llvm::divideCeil(features, kFeatures));
  kernel.gridY = request.blocksPerRow(1, kRows);
  kernel.blockThreads = frame.threads();
  return kernel;
}

FailureOr<CudaKernel>
mlir::qlm::cuda::emitPlainLinear(PackedLinearOp op,
                                 const CudaRequest &request) {
  SchemeAttr scheme = op.getScheme().value_or(SchemeAttr());
  if (scheme && scheme.getGranularity() == Granularity::Group &&
      scheme.getGroupSize() % 16)
    return op.emitOpError("group size must be a multiple of 16 on a GPU, got ")
           << scheme.getGroupSize();
  return PlainLinear(op, request).emit();
}

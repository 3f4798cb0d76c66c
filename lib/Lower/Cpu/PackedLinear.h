//===- PackedLinear.h - The kernel of qlm.packed_linear ---------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// y[rows, N] = x[rows, K] * w[N, K]^T, with N output features in packed
// blocks of 16 and the layouts of qlm/Package/Format.h.
//
//            one tile: `tileBlocks` blocks of 16 features
//          +---------------------------------------------+
//          | patch: `strips` vectors of features          |
//   rows   |   +--------+--------+                        |
//          |   | acc    | acc    |  `rows` of x           |
//          |   +--------+--------+                        |
//          +---------------------------------------------+
//
// A strip is a vector of `lanes` features: a whole block of 16 with AVX512,
// half of one with AVX2. A patch is what fits into registers; it runs over
// all K columns, group by group. A patch of one row takes many strips, so that
// as many independent sums and memory streams are in flight; a patch of many
// rows takes few strips and uses each unpacked weight for all its rows.
//
// Order of sums: an output's columns are added one by one in ascending order
// (float activations), or exactly in int32 (int8 activations), within a group;
// groups in ascending order by `total = fma(scale, sum, total)`. Neither the
// patch nor the tile changes that, so results don't depend on the number of
// rows or on how tiles are split among threads.
//
// With outliers, `y = fma(scale, sum of a row's listed values times codes,
// ...)` follows the scaling by the row's scale; the values are few and are
// added one by one in the list's order, which is that of columns.
//
// A gated linear's result is silu(gate) * up of two such sums: strips come in
// pairs, a block of gate and the one of up that lies half of the weight behind
// it, and a tile counts blocks of the result.
//
// With AMX, many rows go another way to the same bits (PackedLinearAmx.cpp).
//
// Tested by test/Lower/Cpu/PackedLinearTest.cpp, timed by
// benchmarks/kernels/Linear.cpp.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_LOWER_CPU_PACKEDLINEAR_H
#define QLM_LIB_LOWER_CPU_PACKEDLINEAR_H

#include "Emitters.h"
#include "LinearHooks.h"
#include "qlm/Lower/Kernel/Builder.h"
#include "qlm/Package/Format.h"

#include "llvm/Support/MathExtras.h"

namespace mlir::qlm::cpu {

/// What one packed_linear multiplies, in numbers.
struct LinearShape {
  int64_t columns = 0;  ///< K, input features
  int64_t features = 0; ///< N, output features
  int64_t blocks = 0;   ///< ceil(N / 16)
  bool gated = false;   ///< the result is silu(first half) * second half
  Type resultElement;   ///< f32, or bf16 of a gated linear

  LayoutKind layout = LayoutKind::Float32;
  int64_t wordColumns = 1; ///< columns of a packed word (a feature's unit)
  int64_t wordBytes = 4;   ///< bytes of a packed word
  int64_t words = 0;       ///< ceil(K / wordColumns)

  bool quantized = false;
  bool byteActivations = false;   ///< x is int8 with a scale for each row
  bool float8Activations = false; ///< x is f8E4M3FN with a scale for each row
  bool shortActivations = false;  ///< x is bf16
  int64_t inputBytes = 4;         ///< of an element of x
  bool zeroPoints = false;
  bool halfScales = false;   ///< scales are f16, not f32
  bool doubleScales = false; ///< scales are codes, with scales of their own
  Codebook codebook = Codebook::Uniform;
  int64_t groups = 1;
  int64_t groupColumns = 0; ///< columns that share a scale
  /// What a symmetric scheme adds to its codes: 128 for i8, 8 for i4, 0 for
  /// unsigned storage.
  int64_t offset = 0;

  int64_t blockBytes() const { return words * 16 * wordBytes; }
  /// Weight blocks that make one block of the result.
  int64_t blocksPerResult() const { return gated ? 2 : 1; }
  int64_t resultBlocks() const { return blocks / blocksPerResult(); }
  int64_t resultFeatures() const { return features / blocksPerResult(); }
  /// Where the \p i th block of a patch lies, counted from its first one.
  int64_t blockDistance(int64_t i) const {
    return gated ? i / 2 + i % 2 * resultBlocks() : i;
  }
  int64_t scaleBytes() const { return doubleScales ? 1 : halfScales ? 2 : 4; }

  /// Whether float sums are of codes as they are stored, and what their zero
  /// points add is taken off each group's sum: unpacking is what bounds int4.
  bool correctsFloats(const Target &target) const;

  /// Whether the vectors' way takes int8 rows extended to int16, columns 0, 2,
  /// 1, 3 of each four: without VNNI products are of int16 pairs, and shifts of
  /// rows would be a third of the work.
  bool widensRows(const Target &target, int64_t maxRows) const;
  /// Bytes of a row that is extended.
  int64_t wideBytes() const { return llvm::alignTo(words, 4) * 8; }

  /// Reads \p op; fails with a diagnostic where no kernel serves it.
  static FailureOr<LinearShape> get(PackedLinearOp op);
};

/// Rows and strips of a patch.
struct LinearPatch {
  int64_t rows;
  int64_t strips;
};

/// How a kernel is cut. Patches come with falling numbers of rows; the last
/// has one row.
struct LinearTiling {
  int64_t tileBlocks;
  int64_t prefetchBytes; ///< how far ahead weights are fetched in a stream
  bool streams = true;   ///< results of many rows may pass the caches
  SmallVector<LinearPatch> patches;

  static LinearTiling get(const LinearShape &shape, const Target &target,
                          const LinearTuning &tuning);
};

/// How a kernel multiplies with AMX, by the caches' sizes, and what its scratch
/// memory holds after the sums of activations, as byte offsets.
struct AmxPlan {
  /// Rows and bytes of a row of a register.
  static constexpr int64_t kTileRows = 16;
  static constexpr int64_t kTileBytes = 64;
  /// Tiles of rows and blocks of a patch.
  static constexpr int64_t kRowTiles = 2;
  static constexpr int64_t kBlocks = 2;
  int64_t minRows = 0;      ///< fewer go the vectors' way; 0: no AMX
  int64_t stepColumns = 0;  ///< that one instruction multiplies
  int64_t columnBytes = 0;  ///< of a column of a block, unpacked
  int64_t chunkColumns = 0; ///< of int4 that few rows unpack at once
  int64_t passGroups = 1;   ///< whose sums are scaled in one pass
  bool onePatch = false;    ///< patches are alike, whole or not
  int64_t blocks = kBlocks; ///< of a patch, where there are as many
  int64_t rowBlock = 0;     ///< rows that are multiplied at once
  bool keepsRows = false;   ///< all rows stay arranged, not a row block
  int64_t arranged = 0; ///< rows in tiles: [row tiles, steps, 16, step bytes]
  int64_t totals = 0;   ///< of two patches, [row tiles, blocks, 16, 16] f32
  int64_t sums = 0;     ///< the same in int32, for each group of a pass
  int64_t codes = 0;    ///< unpacked int4 codes of a pair of blocks
  int64_t end = 0;

  int64_t stepBytes(const LinearShape &shape) const {
    return stepColumns * shape.inputBytes;
  }
  /// Whether columns that don't fill their last step get one that begins
  /// earlier, in which rows have zeros for the columns that were multiplied
  /// before.
  static bool hasTail(const LinearShape &shape) {
    return shape.layout == LayoutKind::Int8 && shape.byteActivations &&
           shape.groups == 1 && shape.columns >= kTileBytes &&
           shape.columns % kTileBytes != 0;
  }
  /// Columns of whole steps, and of an arranged row.
  int64_t wholeColumns(const LinearShape &shape) const {
    return shape.columns / stepColumns * stepColumns;
  }
  int64_t arrangedColumns(const LinearShape &shape) const {
    return wholeColumns(shape) + (hasTail(shape) ? stepColumns : 0);
  }
  /// The first column of the tail's weights.
  int64_t tailColumn(const LinearShape &shape) const {
    return shape.words * shape.wordColumns - stepColumns;
  }
  static bool isFor(const LinearShape &shape, const Target &target);
  /// Lines of the next pair that a step of many rows fetches.
  static int64_t getFetchedLines(const LinearShape &shape, const AmxPlan &plan);
  static AmxPlan get(const LinearShape &shape, const LinearTuning &tuning,
                     int64_t maxRows);
};

/// Writes the body of one kernel.
class LinearEmitter {
public:
  LinearEmitter(PackedLinearOp op, const LinearShape &shape,
                const LinearTiling &tiling, const AmxPlan &amx,
                const KernelRequest &request);
  void emit();

private:
  using Val = kernel::Val;
  using Ptr = kernel::Ptr;

  /// A patch at its place.
  struct Place {
    LinearPatch patch;
    Ptr x;        ///< first row of activations
    Ptr weights;  ///< first block
    Val firstRow; ///< i64
    Val block;    ///< i64, first block, which is also the result's
  };

  // PackedLinear.cpp: tiles and patches.
  void emitOnce(function_ref<void()> prepare);
  void emitTile(Val tile);
  void emitRemainingBlocks(Val from, Val to);
  void emitPatch(LinearPatch patch, Val firstRow, Val block, bool masked);
  void store(const Place &place, ArrayRef<Val> totals, bool masked);
  SmallVector<Val> sumOutliers(Ptr block, Val blockNumber, Val row,
                               int64_t strips);
  /// Stores \p y, plus the residual, as features \p feature and what follows of
  /// \p row; only the lanes of \p mask, if there is one. \p streams stores past
  /// the caches.
  void storeResult(Val y, Val row, Val feature, Val mask, bool streams = false);
  bool streamsResults() const;
  /// Runs \p step over \p columns columns from a run-time first column, in
  /// rounds of kRoundColumns and a shorter last one.
  SmallVector<Val> runColumns(const Place &place, Val firstColumn,
                              int64_t columns, ArrayRef<Val> init,
                              function_ref<void(const Place &, int64_t columns,
                                                MutableArrayRef<Val> sums)>
                                  step);
  /// Sums each group with \p sumGroup (which is given the place and the
  /// group's number and gives float vectors) and adds them up, scaled.
  SmallVector<Val>
  sumGroups(const Place &place,
            function_ref<SmallVector<Val>(const Place &, Val group)> sumGroup);
  void prefetch(const Place &place, Ptr base, int64_t blockBytes, Val position,
                int64_t ahead, int64_t bytes);
  void prefetchScales(const Place &place, Val group);
  void emitRowSums();

  // PackedLinearWeights.cpp: packed words to operands.
  int64_t stripOffset(int64_t strip, int64_t bytesPerFeature,
                      int64_t bytesPerBlock) const;
  int64_t stripFeature(int64_t strip) const;
  Val loadWord(const Place &place, int64_t strip, int64_t word);
  Val unpackFloat(Val word, int64_t column, Val zeroPoint);
  double getInputFactor(int64_t column) const;
  SmallVector<Val> unpackBytes(Val word);
  Val loadScale(Val block, Val group, int64_t strip);
  Val loadZeroPoint(Val block, Val group, int64_t strip);

  // PackedLinearTables.cpp: codes that are not uniform.
  Val unpackFloat8(Val word, int64_t column);
  Val lookUpNormalFloat4(Val nibbles);
  Val lookUpDynamicMap(Val codes);
  Val lookUp8(ArrayRef<float> values, Val indices);
  Val gather(Ptr base, Val indices);
  Val loadDoubleScale(Val block, Val group, int64_t strip);

  // PackedLinearFloat.cpp: f32 and bf16 activations.
  SmallVector<Val> sumFloats(const Place &place);
  SmallVector<Val> sumFloatColumns(const Place &place, Val firstColumn,
                                   int64_t columns, ArrayRef<Val> zeros);
  Val sumFloatRow(Ptr x, int64_t count);
  bool multipliesPairs() const;
  SmallVector<Val> sumPairs(const Place &place);
  Val loadActivation(const Place &at, int64_t row, int64_t column);

  // PackedLinearInteger.cpp: int8 activations.
  SmallVector<Val> sumIntegers(const Place &place);
  void dotWords(const Place &place, int64_t columns, MutableArrayRef<Val> sums);
  void dotWide(const Place &place, int64_t columns, MutableArrayRef<Val> sums);
  Val dot(Val sums, Val weights, Val activations);
  void emitWideRow(Val row);
  Val sumBytes(Ptr bytes, int64_t count);
  Val addBytes(Val sums, Val bytes);

  /// A pair of blocks and the rows that it is multiplied by.
  struct AmxPanel {
    Val blocks[AmxPlan::kBlocks];
    Ptr codes[AmxPlan::kBlocks]; ///< as registers want them
    Val firstRow;                ///< of the row block
    Val rowTiles;                ///< of the row block
    bool isFew = false;          ///< one patch has all rows
  };
  struct AmxPatch {
    const AmxPanel &panel;
    int64_t rowTiles;
    Val firstRow, lastRow;
    Ptr x[AmxPlan::kRowTiles]; ///< arranged
    Ptr next;                  ///< this patch's share of the next pair
    Ptr totals;
  };

  /// What a pair's results need beside totals, of each block.
  struct AmxFeatures {
    Val feature[AmxPlan::kBlocks], mask[AmxPlan::kBlocks];
    Val scale[AmxPlan::kBlocks], zero[AmxPlan::kBlocks];
    Val bias[AmxPlan::kBlocks];
  };

  /// Sums of some groups, and what they are multiplied by; of each group and
  /// block.
  struct AmxPass {
    Val firstGroup;
    Ptr sums;
    SmallVector<Val> scales, zeros;
    bool isFirst = false; ///< there are no totals yet
  };

  // PackedLinearAmx.cpp: row blocks, tiles and what is multiplied.
  void emitAmxRowBlocks();
  void emitAmxArranged(Val firstRow, Val lastRow);
  void emitAmxArrangedRow(Val row, Ptr to);
  LinearHooks::CodesFn getAmxBytes(Val row);
  Ptr getAmxArranged(Val rowTile);
  void emitAmxTile(Val tile, const AmxPanel &rows);
  AmxPanel getAmxPanel(AmxPanel rowBlock, Val block);
  void emitAmxPair(AmxPanel panel);
  Val getAmxAhead(Val offset);
  int64_t getCodeColumns() const;
  void emitAmxUnpacked(const AmxPanel &panel, Val column, Val end);
  void emitAmxCodes(const AmxPanel &panel, int64_t s, Val column, Val end,
                    Ptr to);

  // PackedLinearAmxPatch.cpp: products and results.
  Ptr getAmxNext(const AmxPanel &panel, Val rowTile);
  AmxPatch getAmxPatch(const AmxPanel &panel, int64_t rowTiles, Val rowTile);
  void emitAmxPatch(const AmxPatch &patch, const AmxFeatures &features);
  void emitAmxPatches(const AmxPanel &panel);
  SmallVector<Val> emitAmxSteps(const AmxPatch &patch, Val column, Val end,
                                ArrayRef<Val> sums);
  SmallVector<Val> emitAmxRest(const AmxPatch &patch, Val column,
                               ArrayRef<Val> sums);
  void emitAmxOneGroup(const AmxPatch &patch);
  void emitAmxBeside(const AmxPatch &patch, const AmxPatch &before,
                     const AmxFeatures &features);
  bool flowsAmx() const;
  void emitAmxFlow(const AmxPanel &rowBlock);
  SmallVector<Val> emitAmxNextPatch(const AmxPanel &panel, int64_t rowTiles,
                                    Val rowTile, ArrayRef<Val> waiting);
  AmxPatch getAmxWaiting(const AmxPanel &panel, ArrayRef<Val> waiting);
  void emitAmxGroups(const AmxPatch &patch, const AmxFeatures &features);
  SmallVector<Val> emitAmxZeros(const AmxPatch &patch);
  SmallVector<Val> emitAmxStep(const AmxPatch &patch, Val column,
                               Val weightColumn, SmallVector<Val> sums);
  void emitAmxFetch(const AmxPatch &patch, Val column);
  void emitAmxStore(const AmxPatch &patch, ArrayRef<Val> tiles, Ptr to);
  Val getAmxSum(Val sum, Val row, Val group, Val zeroPoint);
  void emitAmxPass(const AmxPatch &patch, Val column, Ptr sums);
  AmxPass loadAmxPass(const AmxPatch &patch, Val firstGroup, Ptr sums);
  Val getAmxPlace(Val local);
  SmallVector<Val> getAmxScaled(const AmxPatch &patch, const AmxPass &pass,
                                Val local);
  void emitAmxScaled(const AmxPatch &patch, const AmxPass &pass);
  void emitAmxLast(const AmxPatch &patch, const AmxPass &pass,
                   const AmxFeatures &features);
  AmxFeatures loadAmxFeatures(const AmxPanel &panel);
  SmallVector<Val> getAmxTotals(const AmxPatch &patch,
                                const AmxFeatures &features, Val local);
  void emitAmxResultRow(const AmxPatch &patch, const AmxFeatures &features,
                        Val local, SmallVector<Val> totals);
  void emitAmxResult(const AmxPatch &patch, const AmxFeatures &features);

  const LinearShape shape;
  const LinearTiling tiling;
  const AmxPlan amx; ///< empty where AMX isn't used
  const Target &target;
  const int64_t lanes; ///< features of a strip
  const int64_t parts; ///< strips of a block
  const LinearHooks *hooks;
  kernel::KernelFrame frame;
  kernel::KernelBuilder &b;
  Val rows; ///< i64
  Ptr input, inputScales, outliers, weights, scales, superScales, zeroPoints,
      bias;
  Ptr residual, result;
  /// Sums of the activations of each row and group, `[rows, groups]`: of int8
  /// codes, i32, and times -offset for symmetric schemes; of floats, f32.
  Ptr rowSums;
  /// Rows extended to int16, `[rows, wideBytes]`, or null.
  Ptr wideRows;
};

} // namespace mlir::qlm::cpu

#endif // QLM_LIB_LOWER_CPU_PACKEDLINEAR_H

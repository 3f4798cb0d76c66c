//===- RoundingProgram.h - Evaluates qlm.rtn --------------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_PACKAGE_ROUNDINGPROGRAM_H
#define QLM_LIB_PACKAGE_ROUNDINGPROGRAM_H

#include "Evaluate.h"
#include "PackedOutput.h"
#include "qlm/Dialect/Qlm.h"
#include "qlm/Quantize/Gptq.h"

#include <atomic>
#include <mutex>

namespace mlir::qlm {

/// The `qlm.rtn`, `qlm.gptq` or `qlm.keep_codes` whose codes, scales or zero
/// points \p pack packs, straight or through `qlm.quantize_scales`; null where
/// there is none.
Operation *getRounding(PackOp pack);
/// The scheme of one of those.
SchemeAttr getRoundingScheme(Operation *rounding);

/// pack(rtn(rows)), pack(gptq(rows)) or pack(keep_codes(rows)): codes, scales
/// and zero points of one weight.
class RoundingProgram : public ParameterProgram {
public:
  static llvm::Expected<std::unique_ptr<RoundingProgram>>
  create(Operation *rounding, ReaderContext &context);

  /// Adds one packed result, which becomes tensor \p tensor.
  void add(PackOp pack, size_t tensor);

  bool needsLook() const override;
  llvm::Error look(int64_t row, int64_t count,
                   EvaluationScratch &scratch) override;
  llvm::Error prepare(int threads) override;
  llvm::Error evaluate(int64_t row, int64_t count, EvaluationScratch &scratch,
                       ArrayRef<PackedTensor> tensors,
                       const WeightsFile &file) override;
  llvm::Error finish(ArrayRef<PackedTensor> tensors,
                     const WeightsFile &file) override;
  /// Groups of zeros, and a damping that was raised.
  std::string getNote() const override;

private:
  /// What a tensor holds.
  enum class Part { Codes, Scales, ZeroPoints, ScaleCodes, SuperScales };

  RoundingProgram(std::unique_ptr<RowReader> reader, SchemeAttr scheme);
  llvm::Error makeRoundingError(const ::qlm::numerics::RoundingResult &result,
                                int64_t row) const;
  llvm::Error factorMoments(int threads);
  /// Finds codes with the known scales, and that they are the rows'.
  llvm::Error keepCodes(int64_t row, int64_t count, EvaluationScratch &scratch);
  /// Rounds the rows in \p scratch.
  llvm::Error round(int64_t row, int64_t count, EvaluationScratch &scratch);

  ::qlm::numerics::Scheme scheme;
  SmallVector<std::pair<Part, PackedOutput>, 3> packs;
  bool doubled = false;             ///< scales are quantized too
  std::vector<float> doubledScales; ///< all scales, when they are

  std::atomic<int64_t> zeroGroups{0};
  double raisedDamping = 0; ///< 0: the one asked for was enough

  // Of keep_codes.
  std::unique_ptr<RowReader> knownScales, knownZeroPoints;

  // Of gptq.
  std::unique_ptr<RowReader> moments;
  ::qlm::numerics::GptqOptions gptq;
  ::qlm::numerics::GptqFactor factor;

  // Of a tensor's one scale.
  std::mutex mutex;
  ::qlm::numerics::ValueRange range;
  float tensorScale = 0;
  uint8_t tensorZeroPoint = 0;
};

} // namespace mlir::qlm

#endif // QLM_LIB_PACKAGE_ROUNDINGPROGRAM_H

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

#include <mutex>

namespace mlir::qlm {

/// The `qlm.rtn` or `qlm.gptq` whose codes, scales or zero points \p pack
/// packs, straight or through `qlm.quantize_scales`; null where there is none.
Operation *getRounding(PackOp pack);
/// The scheme of a `qlm.rtn` or `qlm.gptq`.
SchemeAttr getRoundingScheme(Operation *rounding);

/// pack(rtn(rows)) or pack(gptq(rows)): codes, scales and zero points of one
/// weight.
class RoundingProgram : public ParameterProgram {
public:
  static llvm::Expected<std::unique_ptr<RoundingProgram>>
  create(Operation *rounding, ParameterArchive &archive);

  /// Adds one packed result, which becomes tensor \p tensor.
  void add(PackOp pack, size_t tensor);

  bool needsLook() const override;
  llvm::Error look(int64_t row, int64_t count,
                   EvaluationScratch &scratch) override;
  llvm::Error prepare() override;
  llvm::Error evaluate(int64_t row, int64_t count, EvaluationScratch &scratch,
                       ArrayRef<PackedTensor> tensors,
                       const WeightsFile &file) override;
  llvm::Error finish(ArrayRef<PackedTensor> tensors,
                     const WeightsFile &file) override;

private:
  /// What a tensor holds.
  enum class Part { Codes, Scales, ZeroPoints, ScaleCodes, SuperScales };

  RoundingProgram(std::unique_ptr<RowReader> reader, SchemeAttr scheme);
  llvm::Error makeRoundingError(const ::qlm::numerics::RoundingResult &result,
                                int64_t row) const;
  llvm::Error factorMoments();
  /// Rounds the rows in \p scratch.
  llvm::Error round(int64_t row, int64_t count, EvaluationScratch &scratch);

  ::qlm::numerics::Scheme scheme;
  SmallVector<std::pair<Part, PackedOutput>, 3> packs;
  bool doubled = false;             ///< scales are quantized too
  std::vector<float> doubledScales; ///< all scales, when they are

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

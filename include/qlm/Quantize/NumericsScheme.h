//===- NumericsScheme.h - From #qlm.scheme to plain C++ ---------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_QUANTIZE_NUMERICSSCHEME_H
#define QLM_QUANTIZE_NUMERICSSCHEME_H

#include "qlm/Dialect/Qlm.h"
#include "qlm/Quantize/Numerics.h"

namespace mlir::qlm {

/// On a `qlm.gptq`, an integer: how often codes and scales are gone over once
/// more (numerics::refineGptq).
inline constexpr llvm::StringLiteral kRefineAttr = "qlm.refine";

/// The scheme as the numerics take it.
inline ::qlm::numerics::Scheme getNumericsScheme(SchemeAttr scheme) {
  ::qlm::numerics::Scheme result;
  result.bits = static_cast<int>(scheme.getBits());
  result.granularity =
      static_cast<::qlm::numerics::Granularity>(scheme.getGranularity());
  result.groupSize = scheme.getGroupSize();
  result.zeroPoints = scheme.getZeroPoints();
  result.lo = static_cast<int>(scheme.getLo());
  result.hi = static_cast<int>(scheme.getHi());
  result.bound = scheme.getBoundValue();
  result.scalesF16 = scheme.getScaleType().isF16();
  result.codebook =
      static_cast<::qlm::numerics::Codebook>(scheme.getCodebook());
  return result;
}

/// The layout as the numerics take it.
inline ::qlm::numerics::Layout getNumericsLayout(LayoutKind kind) {
  return static_cast<::qlm::numerics::Layout>(kind);
}

} // namespace mlir::qlm

#endif // QLM_QUANTIZE_NUMERICSSCHEME_H

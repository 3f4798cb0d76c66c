//===- GatedLinear.h - Linears that gate their result -----------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A `qlm.packed_linear` with the unit attribute `qlm.gated` gives the
// `qlm.swiglu` of what its own formulas give: with f32 values y `[tokens,
// outFeatures]`, which are not kept, its result is
//
//   silu(y[t, n]) * y[t, n + outFeatures / 2]      [tokens, outFeatures / 2]
//
// rounded once to the result's type. outFeatures is a multiple of 32, so that
// gate and up are whole blocks of the packed weight, and there is no residual;
// the operation's verifier checks that. Made by `qlm-fuse-gate`.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_DIALECT_GATEDLINEAR_H
#define QLM_DIALECT_GATEDLINEAR_H

#include "qlm/Dialect/Qlm.h"

namespace mlir::qlm {

inline constexpr llvm::StringLiteral kGatedAttr = "qlm.gated";

inline bool isGated(PackedLinearOp op) { return op->hasAttr(kGatedAttr); }

} // namespace mlir::qlm

#endif // QLM_DIALECT_GATEDLINEAR_H

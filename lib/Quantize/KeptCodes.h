//===- KeptCodes.h - Weights that a model holds as codes --------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_QUANTIZE_KEPTCODES_H
#define QLM_LIB_QUANTIZE_KEPTCODES_H

#include "qlm/Dialect/Qlm.h"

namespace mlir::qlm {

/// The values of the codes that \p linear's weight has in the model's file, as
/// `qlm.keep_codes` finds them, made before it. The weight is a parameter of
/// `qlm.kept_scheme`, or several that are joined and whose codes have as many
/// bits and columns a scale; where only some have zero points or scales of f32,
/// all get them. Null where it is none.
Value keepFileCodes(LinearOp linear);

/// Whether \p linear's weight is what such codes stand for already.
bool hasKeptCodes(LinearOp linear);

} // namespace mlir::qlm

#endif // QLM_LIB_QUANTIZE_KEPTCODES_H

//===- FuseGate.h - Gates in the linear of gate and up ----------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The pass `qlm-fuse-gate`. `qlm.swiglu` of a `qlm.packed_linear` that nobody
// else reads becomes part of it (`qlm.gated`, qlm/Dialect/GatedLinear.h): half
// as many values are written, and read by what follows. A `qlm.convert` of the
// result to bf16 is taken in too. For processors: their kernels take a block of
// gate together with one of up, so the weight's order stays. Linears whose gate
// is no whole number of blocks of 16 features, or whose result isn't f32, stay
// as they are.
//
//   %g = qlm.packed_linear %x, %p {inFeatures = 64, outFeatures = 256, ...}
//     : (tensor<?x64xf32>, ...) -> tensor<?x256xf32>
//   %y = qlm.swiglu %g : tensor<?x256xf32> -> tensor<?x128xf32>
//
// becomes
//
//   %y = qlm.packed_linear %x, %p {qlm.gated, inFeatures = 64, ...}
//     : (tensor<?x64xf32>, ...) -> tensor<?x128xf32>
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LOWER_FUSEGATE_H
#define QLM_LOWER_FUSEGATE_H

#include <memory>

namespace mlir {
class Pass;
} // namespace mlir

namespace mlir::qlm {

std::unique_ptr<Pass> createFuseGate();
void registerFuseGate();

} // namespace mlir::qlm

#endif // QLM_LOWER_FUSEGATE_H

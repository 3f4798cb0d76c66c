//===- Bytes.h - From floats to codes of a byte -----------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_LOWER_CPU_BYTES_H
#define QLM_LIB_LOWER_CPU_BYTES_H

#include "qlm/Lower/Kernel/Builder.h"

namespace mlir::qlm::cpu {

/// f32 to i32, halves to even; arbitrary where i32 has no such number.
kernel::Val roundToInts(kernel::KernelBuilder &b, kernel::Val x);

/// i32 clamped to [\p lo, \p hi], as i8. A range that begins at 0 or later is
/// one of unsigned codes.
kernel::Val clampToBytes(kernel::KernelBuilder &b, kernel::Val ints, int64_t lo,
                         int64_t hi);

/// The same of four vectors, one after the other: registers of 32 or 64 bytes.
/// Two instructions saturate, one puts their 16-byte parts in order; narrower
/// ranges take one more for all.
kernel::Val packBytes(kernel::KernelBuilder &b, ArrayRef<kernel::Val> ints,
                      int64_t lo, int64_t hi);

} // namespace mlir::qlm::cpu

#endif // QLM_LIB_LOWER_CPU_BYTES_H

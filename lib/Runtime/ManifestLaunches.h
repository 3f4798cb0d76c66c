//===- ManifestLaunches.h - Launches in a manifest --------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_RUNTIME_MANIFESTLAUNCHES_H
#define QLM_LIB_RUNTIME_MANIFESTLAUNCHES_H

#include "FieldReader.h"
#include "qlm/Runtime/Manifest.h"

namespace qlm {

/// Larger than any model's dimension, small enough that the product of three
/// fits in 63 bits.
inline constexpr int64_t maxDimension = int64_t{1} << 20;
/// Larger than any machine's memory.
inline constexpr int64_t maxBytes = int64_t{1} << 48;

/// The launches in \p reader's member \p key, of a package for a GPU when
/// \p isCuda.
std::vector<Launch> readLaunches(FieldReader &reader, const char *key,
                                 bool isCuda);

} // namespace qlm

#endif // QLM_LIB_RUNTIME_MANIFESTLAUNCHES_H

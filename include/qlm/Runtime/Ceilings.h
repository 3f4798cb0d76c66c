//===- Ceilings.h - What this machine can do at most ------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Decoding cannot be faster than its weights are read, nor a prefill than its
// products are computed. Both limits are measured where and when a package is,
// since they move with what else the machine does.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_RUNTIME_CEILINGS_H
#define QLM_RUNTIME_CEILINGS_H

#include "qlm/Runtime/Manifest.h"

#include <string>

namespace qlm {

class MappedMemory;
class Package;

/// The limits of one package on this machine, by some number of threads.
struct Ceilings {
  /// 10^9 bytes a second of reading the weights where they are: from memory,
  /// or from a cache that they fit in.
  double readGbps = 0;
  /// 10^12 operations (a multiply-add is two) a second, with all operands in
  /// registers, of the unit that multiplies the package's linears.
  double arithmeticTops = 0;
  /// That unit: "AMX int8", "AMX bf16", "VNNI int8", "AVX512 f32", ...
  std::string unit;
};

/// Measures for about \p seconds by \p threads threads, reading \p weights. The
/// machine must have the package's features, and its target must be the
/// processor.
Ceilings measureCeilings(const Package &package, const MappedMemory &weights,
                         int threads, double seconds);

} // namespace qlm

#endif // QLM_RUNTIME_CEILINGS_H

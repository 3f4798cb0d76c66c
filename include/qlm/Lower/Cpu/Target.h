//===- Target.h - The processor that kernels are emitted for ----*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LOWER_CPU_TARGET_H
#define QLM_LOWER_CPU_TARGET_H

#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"

#include <string>
#include <vector>

namespace mlir::qlm::cpu {

/// A processor by its features. The name only tunes instruction scheduling:
/// virtual machines report names that contradict their feature bits.
struct Target {
  /// LLVM's name of the processor, e.g. "x86-64-v4", "znver5".
  std::string cpu;
  /// Features that the code uses, in LLVM's names, sorted, without signs; what
  /// a machine must have to run the package.
  std::vector<std::string> features;
  bool avx512 = false;     ///< AVX512 F, BW, DQ, VL: 512-bit vectors
  bool avx512Vnni = false; ///< vpdpbusd on 512-bit vectors
  bool avxVnni = false;    ///< vpdpbusd on 256-bit vectors, without AVX512
  bool avx512Vbmi = false; ///< byte permutes on 512-bit vectors
  bool avx512Bf16 = false; ///< vdpbf16ps
  bool amxInt8 = false;    ///< int8 matrix registers, beside AVX512
  bool amxBf16 = false;    ///< bf16 matrix registers, beside AVX512
  /// Kernels that take bf16 matrix registers have them in memory: tests run
  /// them so on machines without AMX. No name on the command line says this.
  bool tilesInMemory = false;

  /// 16 or 8: float32 lanes of a vector.
  int64_t lanes() const { return avx512 ? 16 : 8; }
  /// Whether vpdpbusd multiplies the vectors that there are.
  bool dotsBytes() const { return avx512Vnni || avxVnni; }
  /// "+avx512f,+avx512bw,…": what a TargetMachine takes.
  std::string featureString() const;

  /// Finds a target by its name on the command line: `native` (the machine's
  /// own feature bits), `x86-64-v3` (AVX2, FMA, F16C), `alderlake` (v3 with
  /// VNNI), `x86-64-v4` (AVX512 without VNNI), `icelake-server` (v4 with VNNI
  /// and VBMI), `sapphirerapids` (the same with BF16 and AMX).
  /// Fails on any other name.
  static llvm::Expected<Target> get(llvm::StringRef name);
};

} // namespace mlir::qlm::cpu

#endif // QLM_LOWER_CPU_TARGET_H

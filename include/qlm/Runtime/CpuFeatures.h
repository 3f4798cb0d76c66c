//===- CpuFeatures.h - What this processor can do ---------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_RUNTIME_CPUFEATURES_H
#define QLM_RUNTIME_CPUFEATURES_H

#include "qlm/Runtime/Status.h"

#include <string>
#include <vector>

namespace qlm {

/// The machine's features in LLVM's names, sorted, as far as kernels may use
/// them; vector features only where the system saves their registers.
std::vector<std::string> machineFeatures();

/// Fails with Unsupported, naming both lists and the way out, unless each of
/// \p needed is among \p present.
Status checkFeatures(const std::vector<std::string> &needed,
                     const std::vector<std::string> &present);

/// Cores that this process may use: its affinity, cut by the control group's
/// quota; at least 1.
int availableCores();

} // namespace qlm

#endif // QLM_RUNTIME_CPUFEATURES_H

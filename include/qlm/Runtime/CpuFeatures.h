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

/// Asks the system to let this process use AMX's registers, which each process
/// must do once before its first such instruction. Fails with Unsupported,
/// with the system's reason, where it refuses.
Status requestTiles();

/// Makes sure that code which uses the features \p needed can run: they are
/// there, and the system allows them.
Status prepareFeatures(const std::vector<std::string> &needed);

} // namespace qlm

#endif // QLM_RUNTIME_CPUFEATURES_H

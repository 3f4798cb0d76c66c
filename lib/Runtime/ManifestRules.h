//===- ManifestRules.h - What a manifest's numbers must agree on *- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_RUNTIME_MANIFESTRULES_H
#define QLM_LIB_RUNTIME_MANIFESTRULES_H

#include "qlm/Runtime/Manifest.h"

namespace qlm {

/// Checks the plan against the model and against itself:
/// - a page holds keys and values of its tokens, the pool all pages, and the
///   pages every sequence at its longest;
/// - the logits buffer holds the rows of the largest step.
Status checkPlan(const Manifest &manifest, const std::string &name);

/// Checks each launch against the plan: offsets are aligned and inside the
/// arena or workspace, step arguments and layers exist, some launch writes the
/// logits; on a GPU, each launch has a variant for the largest step, and the
/// sampling launches, if any, write the sampled tokens.
Status checkLaunches(const Manifest &manifest, const std::string &name);

} // namespace qlm

#endif // QLM_LIB_RUNTIME_MANIFESTRULES_H

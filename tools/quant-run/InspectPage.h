//===- InspectPage.h - A package's plan as a web page -----------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_TOOLS_QUANT_RUN_INSPECTPAGE_H
#define QLM_TOOLS_QUANT_RUN_INSPECTPAGE_H

#include "qlm/Runtime/Manifest.h"

#include <string>

namespace qlm::tool {

/// Writes one page that needs nothing else: model, memory as bars, target and
/// every launch. Names come from files and are escaped. The file gets its name
/// only when it is whole. Errors: Io.
Status writeInspectPage(const Manifest &manifest, const std::string &path);

} // namespace qlm::tool

#endif // QLM_TOOLS_QUANT_RUN_INSPECTPAGE_H

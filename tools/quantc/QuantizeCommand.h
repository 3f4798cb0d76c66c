//===- QuantizeCommand.h - quantc quantize ----------------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
//   quantc quantize MODEL --format FORMAT -o FOLDER [quantc's options]
//
// writes a checkpoint that another tool loads. The formats live in one place,
// python/qlm, beside their readers; this hands the command to it.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_TOOLS_QUANTC_QUANTIZECOMMAND_H
#define QLM_TOOLS_QUANTC_QUANTIZECOMMAND_H

#include "llvm/ADT/ArrayRef.h"

/// Runs `qlm.quantize` by the first `python3` of PATH with \p arguments, which
/// are those after `quantize`. The package `qlm` beside the folder of
/// \p program comes before an installed one. Returns its exit code, or 1 with
/// a message where no Python can run it.
int runQuantizeCommand(const char *program,
                       llvm::ArrayRef<const char *> arguments);

#endif // QLM_TOOLS_QUANTC_QUANTIZECOMMAND_H

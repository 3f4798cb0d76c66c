//===- Statistics.h - What a calibration saw, as parameters -----*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_QUANTIZE_STATISTICS_H
#define QLM_LIB_QUANTIZE_STATISTICS_H

#include "ParameterUses.h"
#include "qlm/Dialect/MethodOps.h"

namespace mlir::qlm {

/// Says that \p module's statistics lie in the file \p path.
void setStatistics(ModuleOp module, StringRef path);

/// The statistic LABEL.NAME, loaded before \p user: a parameter of the file
/// "statistics" (qlm/Calibrate/Calibrate.h lists them).
Value loadStatistic(Operation *user, StringRef label, StringRef name,
                    ArrayRef<int64_t> shape);

/// Moves the parameter program of \p value up to before \p op, where it doesn't
/// come before it yet.
void moveParametersBefore(Value value, Operation *op);

/// The `qlm.scale_columns` that \p weight went through before it was rounded;
/// null where there is none.
ScaleColumnsOp findColumnScales(Value weight);

/// Whether \p linear makes the logits: what the function returns.
bool isLmHead(LinearOp linear);

} // namespace mlir::qlm

#endif // QLM_LIB_QUANTIZE_STATISTICS_H

//===- StepRows.h - Which size counts an operation's rows -------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A step has a row for each token until `qlm.select_rows` (or an operation
// that has taken it in), and a row for each wanted logit row after it. Types
// don't tell the two apart: both are `?`.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_LOWER_STEPROWS_H
#define QLM_LIB_LOWER_STEPROWS_H

#include "qlm/Dialect/Qlm.h"

namespace mlir::qlm {

/// The operations of a step that run when a step runs, and what counts their
/// rows.
class StepRows {
public:
  explicit StepRows(func::FuncOp step);

  /// In program order, without parameter programs and the return.
  ArrayRef<Operation *> getOperations() const { return operations; }
  /// LogitRows for `qlm.select_rows`, `qlm.rms_norm_quantize` with rows and
  /// everything computed from them, else Tokens.
  SizeKind get(Operation *op) const { return rows.lookup(op); }

private:
  SmallVector<Operation *> operations;
  DenseMap<Operation *, SizeKind> rows;
};

/// The function that the KV plan wrote; null, with a diagnostic on \p module,
/// where there is none.
func::FuncOp findStep(ModuleOp module);

/// The plan's dictionary, or null, with a diagnostic on \p module.
DictionaryAttr findPlan(ModuleOp module);

/// Adds or replaces an integer of the module's plan.
void setPlanInteger(ModuleOp module, StringRef name, int64_t value);

/// A name for \p op in profiles and keys: its location's name
/// ("layers.0.qkv"), else its mnemonic.
std::string getLabel(Operation *op);

/// The label of \p op's launch: its own, or of qlm.observe "observe:LABEL:
/// FEATURES", which tells runtimes to show the rows.
std::string getLaunchLabel(Operation *op);

} // namespace mlir::qlm

#endif // QLM_LIB_LOWER_STEPROWS_H

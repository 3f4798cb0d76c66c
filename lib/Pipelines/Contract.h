//===- Contract.h - Sentences of the contracts ------------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_PIPELINES_CONTRACT_H
#define QLM_LIB_PIPELINES_CONTRACT_H

#include "qlm/Dialect/Qlm.h"
#include "qlm/Pipelines/Pipelines.h"

namespace mlir::qlm {

/// Emits "contract after STAGE: RULE" at \p op. Values are streamed behind.
InFlightDiagnostic breakContract(Operation *op, Stage stage, StringRef rule);

/// Emits the same with a note that names the pass that should have made the
/// rule true.
LogicalResult breakContract(Operation *op, Stage stage, const Twine &rule,
                            StringRef culprit);

/// `qlm.stage` names \p stage.
LogicalResult checkStage(ModuleOp module, Stage stage);

/// Checks the integers \p names of a dictionary attribute of the module.
LogicalResult checkIntegers(ModuleOp module, Stage stage, StringRef attribute,
                            DictionaryAttr dictionary,
                            ArrayRef<StringRef> names);

/// The function \p name with one block, or null after an error.
func::FuncOp findFunction(ModuleOp module, Stage stage, StringRef name);

// One function a stage; a list in its comment mirrors the note.
LogicalResult verifyAfterImport(ModuleOp module);
LogicalResult verifyAfterOptimize(ModuleOp module);
LogicalResult verifyAfterQuantize(ModuleOp module);
LogicalResult verifyAfterLower(ModuleOp module);

/// What holds of `@forward` after Import, Optimize and Quantize alike: its
/// signature, its dialects, and weights outside the IR.
LogicalResult checkForward(ModuleOp module, Stage stage);

} // namespace mlir::qlm

#endif // QLM_LIB_PIPELINES_CONTRACT_H

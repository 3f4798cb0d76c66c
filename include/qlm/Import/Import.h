//===- Import.h - Model folders into IR -------------------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_IMPORT_IMPORT_H
#define QLM_IMPORT_IMPORT_H

#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/OwningOpRef.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"

namespace mlir::qlm {

struct ImportOptions {
  /// Spells attention with matmul, scale, causal_mask and softmax instead of
  /// `qlm.attention`.
  bool plainOps = false;
};

/// Imports the Hugging Face folder at \p folder as a module with
/// `func @forward(tokens, positions) -> logits`; the form is in
/// docs/design/2026-11-23-ir-contracts.md, "After Import".
///
/// Reads `config.json`, `generation_config.json` if it is there, and the
/// headers of `model.safetensors` or of the files that
/// `model.safetensors.index.json` names. No weight is read. Loads the
/// dialects it needs into \p context.
///
/// Fails with one line that names the file, and the key or tensor, when
/// something is missing, malformed or not supported. Tensors that the
/// architecture doesn't have are ignored with a warning diagnostic.
llvm::Expected<OwningOpRef<ModuleOp>>
importModelFolder(StringRef folder, MLIRContext &context,
                  const ImportOptions &options);

/// What the folder beside an ONNX file of a decoder says of it: the attribute
/// `qlm.config` that `qlm-raise-decoder` makes `qlm.model` of. From
/// `config.json` and `generation_config.json`, or else from the
/// `genai_config.json` of ONNX Runtime's generator.
llvm::Expected<DictionaryAttr> readDecoderConfig(llvm::StringRef folder,
                                                 MLIRContext &context);

} // namespace mlir::qlm

#endif // QLM_IMPORT_IMPORT_H

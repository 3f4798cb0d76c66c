//===- Onnx.h - ONNX graphs into IR -----------------------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_IMPORT_ONNX_H
#define QLM_IMPORT_ONNX_H

#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/OwningOpRef.h"
#include "qlm/Archive/OnnxFile.h"
#include "llvm/ADT/StringMap.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"

#include <string>
#include <vector>

namespace mlir::qlm {

/// An input that is given while compiling: its elements in order.
struct FixedInput {
  /// NumPy's name; types that NumPy lacks are "void1" and "void2".
  std::string typeName;
  std::vector<int64_t> shape;
  std::vector<char> bytes; ///< little endian
};

struct OnnxOptions {
  /// Inputs that become constants, by name.
  llvm::StringMap<FixedInput> fixed;
};

/// Imports the graph of \p file as a module with `qlm.kind = "graph"` and
/// `func @graph(inputs…) -> (outputs…)`, in linalg, tensor, scf, arith and
/// math. Arguments and results carry `qlm.name` and `qlm.type` (NumPy's name
/// of the element type). Large initializers stay outside: they become last
/// arguments with `qlm.weight`, the initializer's name.
///
/// Refuses, in one message that lists every one of them, nodes whose operator
/// isn't handled; else fails at the first node that can't be imported, naming
/// it. Loads the dialects it needs into \p context.
llvm::Expected<OwningOpRef<ModuleOp>>
importOnnx(OnnxFile &file, MLIRContext &context, const OnnxOptions &options);

/// Imports the graph of \p file as `func @graph` of onnx.node operations, for
/// passes that raise it to a decoder. Weights stay in their files, which lie in
/// \p folder, but for those of com.microsoft.MatMulNBits: their codes are
/// written to \p packedPath (PackedCodes), and the module says so
/// (kPackedAttr). Fails, naming the node, on names that aren't defined or are
/// twice, and on attributes and tensors of other kinds than decoders have.
llvm::Expected<OwningOpRef<ModuleOp>>
importOnnxNodes(OnnxFile &file, MLIRContext &context, llvm::StringRef folder,
                llvm::StringRef packedPath);

/// A line for each operator that `importOnnx` handles: "domain.Name", sorted.
std::vector<std::string> listOnnxOperators();

} // namespace mlir::qlm

#endif // QLM_IMPORT_ONNX_H

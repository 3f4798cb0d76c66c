//===- ObjectFile.h - Kernels to machine code -------------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_PACKAGE_OBJECTFILE_H
#define QLM_PACKAGE_OBJECTFILE_H

#include "mlir/IR/BuiltinOps.h"
#include "llvm/ADT/SmallVector.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"

#include <string>

namespace mlir::qlm {

/// What compiled code may call that it doesn't define.
enum class Libraries {
  None,    ///< kernels of models
  CAndMath ///< host functions of graphs: malloc, memcpy, expf, …
};

/// How hard the optimizer tries.
enum class Effort {
  Quick, ///< for code that runs once
  Full
};

/// Compiles a module of the LLVM dialect to position-independent x86-64 object
/// code, optimized for its attributes `qlm.target_cpu` (tuning only) and
/// `qlm.target_features` ("+avx2,+fma": exactly the instructions allowed).
/// Without the attributes, code for any x86-64 processor. A module with
/// `qlm.small_code` gets small code, and a library without a symbol table.
///
/// Fails if the code calls a function that neither it nor \p libraries define.
/// The message names the functions.
llvm::Expected<llvm::SmallVector<char, 0>>
emitObjectCode(ModuleOp kernels, Libraries libraries = Libraries::None,
               Effort effort = Effort::Full);

/// Compiles \p kernels as above and links them to the shared library \p path.
/// Symbols of \p libraries stay open: the process that loads it has them.
llvm::Error emitSharedLibrary(ModuleOp kernels, llvm::StringRef path,
                              Libraries libraries = Libraries::None,
                              Effort effort = Effort::Full);

/// Finds a linker: `ld.lld` of LLVM 22, any `ld.lld`, or `ld`. Searches the
/// directory of LLVM's tools, then PATH.
llvm::Expected<std::string> findLinker();

} // namespace mlir::qlm

#endif // QLM_PACKAGE_OBJECTFILE_H

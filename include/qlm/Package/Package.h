//===- Package.h - Writes a lowered module as a package ---------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The last stage of the compiler: a module after Lower becomes the folder that
// qlm/Package/Format.h describes.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_PACKAGE_PACKAGE_H
#define QLM_PACKAGE_PACKAGE_H

#include "mlir/IR/BuiltinOps.h"
#include "qlm/Quantize/Gptq.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"
#include "llvm/Support/JSON.h"

#include <functional>
#include <string>

namespace mlir::qlm {

/// How far a package has come.
struct PackageProgress {
  /// The tensor or file at work, e.g. "layers.3.gate_up.weight".
  llvm::StringRef item;
  /// Bytes of weights.safetensors written, and all of them.
  int64_t bytesDone = 0;
  int64_t bytesTotal = 0;
};

struct PackageOptions {
  /// The folder to write; its parent must exist.
  std::string output;
  /// The folder that tokenizer.json, tokenizer_config.json,
  /// generation_config.json and config.json are copied from; empty for none.
  /// Files that it lacks are left out.
  std::string modelFolder;
  /// Who wrote the package, e.g. "quantc 0.1.0".
  std::string producer = "qlm";
  /// "none" or "int8-dynamic": activations of quantized linears, for the
  /// manifest; what else it says of quantization comes from the IR.
  std::string activations = "none";
  /// Whether an existing package at `output` is replaced. Anything else that
  /// stands there is refused in either case.
  bool overwrite = true;
  /// Threads that evaluate weights; 0 means all of the machine's.
  int threads = 0;
  /// Whether infinities and NaN in weights count as 0; else they are refused.
  bool allowNonfinite = false;
  /// See numerics::GptqOptions::cholesky.
  ::qlm::numerics::CholeskyFunction cholesky;
  /// Called with what is worth saying of a weight, one line: groups of zeros,
  /// values that were not finite, a damping that was raised. May be empty.
  std::function<void(llvm::StringRef)> note;
  /// Called now and then, from one thread at a time; may be empty.
  std::function<void(const PackageProgress &)> progress;
  /// Asked now and then, from any thread; true stops the work with the error
  /// "interrupted". May be empty.
  std::function<bool()> cancelled;
  /// Looks at the finished package, in a folder beside `output`, before it gets
  /// its name: returns the accuracy card for the manifest, or an error, with
  /// which nothing is written. May be empty.
  std::function<llvm::Expected<llvm::json::Object>(llvm::StringRef folder)>
      judge;
};

/// What was written, for a summary.
struct PackageSummary {
  int64_t weightBytes = 0;
  int64_t moduleBytes = 0;
  /// Memory the runtime will need: manifest's "peak_bytes".
  int64_t peakBytes = 0;
};

/// Writes \p module, which has gone through Lower, as a package. Parameter
/// programs are evaluated by blocks of rows: neither a source tensor nor a
/// packed one is ever held whole. The folder appears complete or not at all:
/// everything is made in `OUTPUT.tmp-<process id>` beside it and renamed at
/// the end; on failure that folder is removed and an older package stays.
///
/// Errors are one line: a path that can't be written, a weight that is not
/// finite, an unsupported parameter program (with the operation's spelling),
/// kernels that call a function no package has, no linker.
llvm::Expected<PackageSummary> writePackage(ModuleOp module,
                                            const PackageOptions &options);

} // namespace mlir::qlm

#endif // QLM_PACKAGE_PACKAGE_H

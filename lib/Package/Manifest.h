//===- Manifest.h - manifest.json -------------------------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_PACKAGE_MANIFEST_H
#define QLM_LIB_PACKAGE_MANIFEST_H

#include "mlir/IR/BuiltinOps.h"
#include "qlm/Dialect/Qlm.h"
#include "qlm/Package/CudaBinary.h"
#include "llvm/Support/Error.h"
#include "llvm/Support/JSON.h"

#include <optional>
#include <string>
#include <vector>

namespace mlir::qlm {

/// A file of the package with its checksum.
struct PackagedFile {
  std::string name;
  int64_t bytes = 0;
  uint64_t checksum = 0;
};

/// Machine code or PTX of the kernels for one GPU.
struct PackagedChip {
  std::string chip;
  PackagedFile file;
  /// What ptxas said of each kernel; empty for PTX.
  std::vector<KernelResources> kernels;
};

/// What the manifest says beside what the module says.
struct ManifestInput {
  std::string producer;
  std::string activations;
  PackagedFile weights;
  /// Of a processor.
  PackagedFile module;
  /// Of GPUs.
  std::vector<PackagedChip> chips;
  std::optional<PackagedChip> ptx;
  std::vector<PackagedFile> files;

  bool isCuda() const { return !chips.empty() || ptx; }
  /// Bytes of code that a machine loads at most.
  int64_t getCodeBytes() const;
};

/// A checksum as the manifest spells it: 16 hex digits.
std::string toHex(uint64_t checksum);

/// A launch's weight operands have these keys.
llvm::Expected<std::string> getWeightKey(Value weight);

/// The launches of `@step`, in order.
llvm::Expected<std::vector<LaunchOp>> getLaunches(ModuleOp module);

/// The launches of `@sample`, in order; none where the module has no such
/// function.
std::vector<LaunchOp> getSamplingLaunches(ModuleOp module);

/// Builds manifest.json of a module after Lower; the format is described in
/// qlm/Package/Format.h. Fails when an attribute of the module is missing.
llvm::Expected<llvm::json::Object> makeManifest(ModuleOp module,
                                                const ManifestInput &input);

} // namespace mlir::qlm

#endif // QLM_LIB_PACKAGE_MANIFEST_H

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
#include "llvm/Support/Error.h"
#include "llvm/Support/JSON.h"

#include <string>
#include <vector>

namespace mlir::qlm {

/// A file of the package with its checksum.
struct PackagedFile {
  std::string name;
  int64_t bytes = 0;
  uint64_t checksum = 0;
};

/// What the manifest says beside what the module says.
struct ManifestInput {
  std::string producer;
  std::string activations;
  PackagedFile weights;
  PackagedFile module;
  std::vector<PackagedFile> files;
};

/// A checksum as the manifest spells it: 16 hex digits.
std::string toHex(uint64_t checksum);

/// A launch's weight operands have these keys.
llvm::Expected<std::string> getWeightKey(Value weight);

/// The launches of `@step`, in order.
llvm::Expected<std::vector<LaunchOp>> getLaunches(ModuleOp module);

/// Builds manifest.json of a module after Lower; the format is described in
/// qlm/Package/Format.h. Fails when an attribute of the module is missing.
llvm::Expected<llvm::json::Object> makeManifest(ModuleOp module,
                                                const ManifestInput &input);

} // namespace mlir::qlm

#endif // QLM_LIB_PACKAGE_MANIFEST_H

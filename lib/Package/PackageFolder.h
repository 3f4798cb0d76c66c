//===- PackageFolder.h - A package's folder and common files ----*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_PACKAGE_PACKAGEFOLDER_H
#define QLM_LIB_PACKAGE_PACKAGEFOLDER_H

#include "Manifest.h"
#include "llvm/ADT/STLFunctionalExtras.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"
#include "llvm/Support/JSON.h"

#include <string>

namespace mlir::qlm {

std::string joinPath(llvm::StringRef folder, llvm::StringRef name);

/// Size and checksum of the file \p name of \p folder.
llvm::Expected<PackagedFile> describeFile(llvm::StringRef folder,
                                          llvm::StringRef name);

/// Writes a file anew; the error names it.
llvm::Error writeFile(llvm::StringRef filePath, llvm::StringRef bytes);

/// Writes manifest.json with its own checksum in it.
llvm::Error writeManifest(llvm::StringRef folder, llvm::json::Object manifest);

/// Lets \p fill write into a folder beside \p output, then puts that in its
/// place: a package appears complete or not at all. An existing package is
/// replaced only with \p overwrite, anything else never.
llvm::Error
writePackageFolder(llvm::StringRef output, bool overwrite,
                   llvm::function_ref<llvm::Error(llvm::StringRef)> fill);

} // namespace mlir::qlm

#endif // QLM_LIB_PACKAGE_PACKAGEFOLDER_H

//===- QuantizeCommand.cpp - quantc quantize ------------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "QuantizeCommand.h"

#include "llvm/ADT/SmallVector.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/Program.h"
#include "llvm/Support/raw_ostream.h"

#include <string>

namespace fs = llvm::sys::fs;
namespace path = llvm::sys::path;

/// Arguments: the folder of the package or "", then those of the command.
static constexpr llvm::StringLiteral kScript = R"(
import sys
if sys.argv[1]:
    sys.path.insert(0, sys.argv[1])
try:
    from qlm.quantize import main
except ImportError as error:
    sys.exit('quantc quantize: error: needs a python3 with NumPy and the '
             f'package qlm, got: {error}')
sys.exit(main(sys.argv[2:], 'quantc quantize'))
)";

static int fail(const llvm::Twine &message) {
  llvm::errs() << "quantc quantize: error: " << message << "\n";
  return 1;
}

/// The folder with the package that was built with this program, or "".
static std::string findPackageFolder(const char *program) {
  static int anchor;
  llvm::SmallString<256> folder(fs::getMainExecutable(program, &anchor));
  path::remove_filename(folder);
  path::append(folder, "..", "python");
  llvm::SmallString<256> module(folder);
  path::append(module, "qlm", "quantize.py");
  return fs::exists(module) ? std::string(folder) : "";
}

int runQuantizeCommand(const char *program,
                       llvm::ArrayRef<const char *> arguments) {
  llvm::ErrorOr<std::string> python = llvm::sys::findProgramByName("python3");
  if (!python)
    return fail("needs python3 on PATH");
  std::string folder = findPackageFolder(program);
  llvm::SmallVector<llvm::StringRef> words = {*python, "-c", kScript, folder};
  words.append(arguments.begin(), arguments.end());
  std::string message;
  int code = llvm::sys::ExecuteAndWait(*python, words, /*Env=*/std::nullopt,
                                       /*Redirects=*/{}, /*SecondsToWait=*/0,
                                       /*MemoryLimit=*/0, &message);
  return code < 0 ? fail("python3 did not end by itself: " + message) : code;
}

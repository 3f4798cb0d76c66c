//===- Errors.h - Errors that are a line of text ----------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_ARCHIVE_ERRORS_H
#define QLM_ARCHIVE_ERRORS_H

#include "llvm/ADT/Twine.h"
#include "llvm/Support/Error.h"

namespace mlir::qlm {

/// An error whose text is \p message, taken as it stands. (LLVM's own function
/// takes a literal for a format.)
inline llvm::Error makeError(const llvm::Twine &message) {
  return llvm::createStringError(llvm::inconvertibleErrorCode(), message);
}

} // namespace mlir::qlm

#endif // QLM_ARCHIVE_ERRORS_H

//===- WriteSafetensors.h - Writes tensors of floats ------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_ARCHIVE_WRITESAFETENSORS_H
#define QLM_ARCHIVE_WRITESAFETENSORS_H

#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/SmallVector.h"
#include "llvm/Support/Error.h"

#include <string>

namespace mlir::qlm {

/// A named tensor of f32 that somebody else owns, in row-major order.
struct FloatTensor {
  std::string name;
  llvm::SmallVector<int64_t> shape;
  llvm::ArrayRef<float> values;
};

/// Writes \p tensors, whose names differ, as a safetensors file; fails where
/// \p path can't be written.
llvm::Error writeSafetensors(llvm::StringRef path,
                             llvm::ArrayRef<FloatTensor> tensors);

} // namespace mlir::qlm

#endif // QLM_ARCHIVE_WRITESAFETENSORS_H

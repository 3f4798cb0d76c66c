//===- MethodReaders.h - Rows that a method has changed ---------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_PACKAGE_METHODREADERS_H
#define QLM_LIB_PACKAGE_METHODREADERS_H

#include "RowReader.h"

namespace mlir::qlm {

/// The reader of a `qlm.scale_columns`, `scale_rows`, `scale_moments`, `clip`,
/// `awq_scales`, `smooth_scales` or `static_scale`; null where \p value is
/// made by something else. Searches run when their result is first read, once
/// for all readers of \p context.
llvm::Expected<std::unique_ptr<RowReader>>
createMethodReader(Value value, ReaderContext &context);

} // namespace mlir::qlm

#endif // QLM_LIB_PACKAGE_METHODREADERS_H

//===- PackageErrors.h - Errors of packaging --------------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_PACKAGE_PACKAGEERRORS_H
#define QLM_LIB_PACKAGE_PACKAGEERRORS_H

#include "mlir/IR/BuiltinTypes.h"
#include "mlir/IR/Operation.h"
#include "qlm/Archive/Errors.h"
#include "qlm/Quantize/Numerics.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/raw_ostream.h"

#include <optional>
#include <string>
#include <vector>

namespace mlir::qlm {

/// The error of code that uses the functions \p missing, which nothing defines;
/// success where there are none.
inline llvm::Error checkNothingMissing(std::vector<std::string> missing) {
  if (missing.empty())
    return llvm::Error::success();
  llvm::sort(missing);
  return makeError("kernels must not call library functions, got " +
                   llvm::join(missing, ", "));
}

/// A type, attribute or operation as text, on one line.
template <typename T> std::string printToString(const T &object) {
  std::string text;
  llvm::raw_string_ostream(text) << object;
  return text;
}

/// The error of a parameter program that can't be evaluated: \p rule and the
/// operation's own spelling.
inline llvm::Error makeUnsupported(Operation *op, const llvm::Twine &rule) {
  std::string text;
  llvm::raw_string_ostream stream(text);
  op->print(stream,
            OpPrintingFlags().useLocalScope().elideLargeElementsAttrs());
  return makeError("unsupported parameter program: " + rule + ", got " + text);
}

/// The numerics' name of a float type; none for another type.
inline std::optional<::qlm::numerics::FloatType> getFloatType(Type type) {
  using ::qlm::numerics::FloatType;
  if (type.isF32())
    return FloatType::Float32;
  if (type.isF16())
    return FloatType::Float16;
  if (type.isBF16())
    return FloatType::BFloat16;
  return std::nullopt;
}

} // namespace mlir::qlm

#endif // QLM_LIB_PACKAGE_PACKAGEERRORS_H

//===- JsonFields.h - Checked members of a JSON object ----------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_IMPORT_JSONFIELDS_H
#define QLM_LIB_IMPORT_JSONFIELDS_H

#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"
#include "llvm/Support/JSON.h"

#include <optional>
#include <string>

namespace mlir::qlm {

/// Reads members of an untrusted object by type and range. A member that is
/// null counts as absent, as in transformers. Errors name the key, the rule and
/// the value.
class JsonFields {
public:
  explicit JsonFields(const llvm::json::Object &object) : object(object) {}

  /// Whether the key is there, even if null.
  bool has(llvm::StringRef key) const { return object.get(key); }
  /// The member, or null where absent.
  const llvm::json::Value *find(llvm::StringRef key) const;
  /// An integer from 1 to \p limit; must be there if \p absent has no value.
  llvm::Error getSize(llvm::StringRef key, std::optional<int64_t> absent,
                      int64_t limit, int64_t &result) const;
  /// A number from \p low to \p high.
  llvm::Error getReal(llvm::StringRef key, std::optional<double> absent,
                      double low, double high, double &result) const;
  /// Leaves \p result as it is where absent.
  llvm::Error getBool(llvm::StringRef key, bool &result) const;
  llvm::Expected<std::string> getString(llvm::StringRef key,
                                        llvm::StringRef absent) const;

private:
  const llvm::json::Object &object;
};

/// \p number with up to six digits.
std::string printNumber(double number);
/// \p value as JSON on one line, cut short for messages.
std::string printValue(const llvm::json::Value &value);

} // namespace mlir::qlm

#endif // QLM_LIB_IMPORT_JSONFIELDS_H

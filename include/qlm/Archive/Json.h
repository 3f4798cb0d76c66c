//===- Json.h - JSON from untrusted files -----------------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// llvm::json recurses once a nesting level, keeps the last of two equal keys
// and spends kilobytes on each object, so hostile text is walked by JsonCursor
// first, or only.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_ARCHIVE_JSON_H
#define QLM_ARCHIVE_JSON_H

#include "llvm/ADT/StringRef.h"
#include "llvm/ADT/Twine.h"
#include "llvm/Support/Error.h"
#include "llvm/Support/JSON.h"

#include <cstdint>
#include <string>

namespace mlir::qlm {

/// What a JSON text may cost.
struct JsonLimits {
  size_t bytes = 1 << 20;
  unsigned depth = 32;
  /// Objects and arrays together; each may take some kilobytes.
  size_t containers = 10000;
};

/// Walks a JSON text without building it: constant memory, no recursion that
/// the text controls beyond a depth. All errors say "at byte N".
class JsonCursor {
public:
  explicit JsonCursor(llvm::StringRef text) : text(text) {}

  /// Takes \p punctuation, after any white space.
  llvm::Error expect(char punctuation);
  /// Takes \p punctuation if it comes next.
  bool consume(char punctuation);
  /// Takes a string and unescapes it.
  llvm::Expected<std::string> readString();
  /// Takes a number without sign, fraction or exponent that fits 63 bits.
  llvm::Expected<int64_t> readSize();
  /// Takes any value, checking objects for repeated keys and counting against
  /// \p limits.
  llvm::Error skipValue(JsonLimits &limits);
  /// Fails unless only white space is left.
  llvm::Error expectEnd();
  /// An error that names the current place.
  llvm::Error makeError(const llvm::Twine &message) const;

private:
  void skipSpace();
  /// Takes the members of an object or the elements of an array.
  llvm::Error skipContainer(JsonLimits &limits, bool isObject);
  llvm::Error skipScalar();

  llvm::StringRef text;
  size_t at = 0;
};

/// \p name in quotes for a one-line message: escapes what can't be printed and
/// cuts what is over 120 bytes.
std::string quoteName(llvm::StringRef name);

/// Parses \p text after checking it against \p limits; refuses repeated keys.
llvm::Expected<llvm::json::Value> parseBoundedJson(llvm::StringRef text,
                                                   JsonLimits limits = {});

/// Reads and parses the file at \p path; errors begin with the path.
llvm::Expected<llvm::json::Value> readBoundedJson(llvm::StringRef path,
                                                  JsonLimits limits = {});

} // namespace mlir::qlm

#endif // QLM_ARCHIVE_JSON_H

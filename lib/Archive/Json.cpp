//===- Json.cpp - JSON from untrusted files -------------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Archive/Json.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringSet.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/raw_ostream.h"

namespace mlir::qlm {

llvm::Error JsonCursor::makeError(const llvm::Twine &message) const {
  return llvm::createStringError(message + " at byte " + llvm::Twine(at));
}

void JsonCursor::skipSpace() {
  while (at < text.size() && (text[at] == ' ' || text[at] == '\n' ||
                              text[at] == '\t' || text[at] == '\r'))
    ++at;
}

bool JsonCursor::consume(char punctuation) {
  skipSpace();
  if (at == text.size() || text[at] != punctuation)
    return false;
  ++at;
  return true;
}

llvm::Error JsonCursor::expect(char punctuation) {
  if (consume(punctuation))
    return llvm::Error::success();
  if (at == text.size())
    return makeError("expected '" + llvm::Twine(punctuation) +
                     "', got the end of the text");
  return makeError("expected '" + llvm::Twine(punctuation) + "'");
}

llvm::Error JsonCursor::expectEnd() {
  skipSpace();
  return at == text.size() ? llvm::Error::success()
                           : makeError("expected the end of the text");
}

llvm::Expected<std::string> JsonCursor::readString() {
  if (llvm::Error error = expect('"'))
    return std::move(error);
  size_t begin = at - 1;
  bool escaped = false;
  while (at < text.size() && text[at] != '"') {
    if (static_cast<unsigned char>(text[at]) < 0x20)
      return makeError("control character in a string");
    escaped |= text[at] == '\\';
    at += text[at] == '\\' ? 2 : 1;
  }
  if (at >= text.size()) {
    at = text.size();
    return makeError("string without an end");
  }
  ++at;
  llvm::StringRef token = text.slice(begin, at);
  if (!llvm::json::isUTF8(token))
    return makeError("string is not UTF-8");
  if (!escaped)
    return token.drop_front().drop_back().str();
  // Escapes are left to llvm::json: the token is one string, so it is flat.
  llvm::Expected<llvm::json::Value> value = llvm::json::parse(token);
  if (!value) {
    llvm::consumeError(value.takeError());
    return makeError("malformed escape in a string");
  }
  return value->getAsString()->str();
}

llvm::Expected<int64_t> JsonCursor::readSize() {
  skipSpace();
  llvm::StringRef digits = text.substr(at).take_while(llvm::isDigit);
  if (digits.empty())
    return makeError("expected a number of zero or more");
  char after =
      at + digits.size() < text.size() ? text[at + digits.size()] : '\0';
  if (after == '.' || after == 'e' || after == 'E')
    return makeError("expected a whole number");
  int64_t value = 0;
  if (digits.getAsInteger(10, value))
    return makeError("number does not fit 63 bits");
  if (digits.size() > 1 && digits.front() == '0')
    return makeError("number begins with 0");
  at += digits.size();
  return value;
}

llvm::Error JsonCursor::skipScalar() {
  llvm::StringRef token = text.substr(at).take_until(
      [](char c) { return llvm::StringRef(",]} \n\t\r").contains(c); });
  // Numbers and literals are short; llvm::json knows their grammar.
  if (token.empty() || token.size() > 64)
    return makeError("expected a value");
  llvm::Expected<llvm::json::Value> value = llvm::json::parse(token);
  if (!value) {
    llvm::consumeError(value.takeError());
    return makeError("malformed value");
  }
  at += token.size();
  return llvm::Error::success();
}

llvm::Error JsonCursor::skipContainer(JsonLimits &limits, bool isObject) {
  if (limits.depth == 0)
    return makeError("nested too deeply");
  if (limits.containers == 0)
    return makeError("too many objects and arrays");
  --limits.containers;
  --limits.depth;
  char close = isObject ? '}' : ']';
  llvm::StringSet<> keys;
  if (!consume(close)) {
    do {
      if (isObject) {
        llvm::Expected<std::string> key = readString();
        if (!key)
          return key.takeError();
        if (!keys.insert(*key).second)
          return makeError("key " + quoteName(*key) + " is repeated");
        if (llvm::Error error = expect(':'))
          return error;
      }
      if (llvm::Error error = skipValue(limits))
        return error;
    } while (consume(','));
    if (llvm::Error error = expect(close))
      return error;
  }
  ++limits.depth;
  return llvm::Error::success();
}

llvm::Error JsonCursor::skipValue(JsonLimits &limits) {
  skipSpace();
  if (at == text.size())
    return makeError("expected a value");
  if (text[at] == '"')
    return readString().takeError();
  if (consume('{'))
    return skipContainer(limits, /*isObject=*/true);
  if (consume('['))
    return skipContainer(limits, /*isObject=*/false);
  return skipScalar();
}

std::string quoteName(llvm::StringRef name) {
  constexpr size_t kLimit = 120;
  std::string text = "'";
  llvm::raw_string_ostream stream(text);
  llvm::printEscapedString(name.take_front(kLimit), stream);
  stream << (name.size() > kLimit ? "...'" : "'");
  return text;
}

llvm::Expected<llvm::json::Value> parseBoundedJson(llvm::StringRef text,
                                                   JsonLimits limits) {
  if (text.size() > limits.bytes)
    return llvm::createStringError("text of " + llvm::Twine(text.size()) +
                                   " bytes is over the limit of " +
                                   llvm::Twine(limits.bytes));
  JsonCursor cursor(text);
  if (llvm::Error error = cursor.skipValue(limits))
    return std::move(error);
  if (llvm::Error error = cursor.expectEnd())
    return std::move(error);
  return llvm::json::parse(text);
}

llvm::Expected<llvm::json::Value> readBoundedJson(llvm::StringRef path,
                                                  JsonLimits limits) {
  llvm::sys::fs::file_status status;
  std::error_code code = llvm::sys::fs::status(path, status);
  if (code)
    return llvm::createStringError(code, path + ": " + code.message());
  // Opening a pipe would wait for its writer.
  if (!llvm::sys::fs::is_regular_file(status))
    return llvm::createStringError(path + ": not a regular file");
  if (status.getSize() > limits.bytes)
    return llvm::createStringError(path + ": " + llvm::Twine(status.getSize()) +
                                   " bytes are over the limit of " +
                                   llvm::Twine(limits.bytes));
  auto buffer = llvm::MemoryBuffer::getFile(path);
  if (!buffer)
    return llvm::createStringError(buffer.getError(),
                                   path + ": " + buffer.getError().message());
  llvm::Expected<llvm::json::Value> value =
      parseBoundedJson((*buffer)->getBuffer(), limits);
  if (!value)
    return llvm::createStringError(
        path + ": malformed JSON: " + llvm::toString(value.takeError()));
  return value;
}

} // namespace mlir::qlm

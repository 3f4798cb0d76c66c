//===- JsonFields.cpp - Checked members of a JSON object ------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "JsonFields.h"

#include "llvm/ADT/Twine.h"
#include "llvm/Support/Format.h"
#include "llvm/Support/FormatVariadic.h"

namespace mlir::qlm {

std::string printNumber(double number) {
  return llvm::formatv("{0}", llvm::format("%.6g", number)).str();
}

std::string printValue(const llvm::json::Value &value) {
  // JSON's own printing gives a fraction 17 digits.
  if (value.getAsNumber() && !value.getAsUINT64() && !value.getAsInteger())
    return printNumber(*value.getAsNumber());
  constexpr size_t kLimit = 60;
  std::string text = llvm::formatv("{0}", value).str();
  if (text.size() > kLimit) {
    text.resize(kLimit);
    text += "...";
  }
  return text;
}

const llvm::json::Value *JsonFields::find(llvm::StringRef key) const {
  const llvm::json::Value *value = object.get(key);
  return value && value->kind() == llvm::json::Value::Null ? nullptr : value;
}

static llvm::Error missing(llvm::StringRef key) {
  return llvm::createStringError("'" + key + "' is missing");
}

llvm::Error JsonFields::getSize(llvm::StringRef key,
                                std::optional<int64_t> absent, int64_t limit,
                                int64_t &result) const {
  const llvm::json::Value *value = find(key);
  if (!value && !absent)
    return missing(key);
  if (!value) {
    result = *absent;
    return llvm::Error::success();
  }
  std::optional<int64_t> integer = value->getAsInteger();
  if (!integer || *integer < 1 || *integer > limit)
    return llvm::createStringError(
        "'" + key + "' must be an integer from 1 to " + llvm::Twine(limit) +
        ", got " + printValue(*value));
  result = *integer;
  return llvm::Error::success();
}

llvm::Error JsonFields::getReal(llvm::StringRef key,
                                std::optional<double> absent, double low,
                                double high, double &result) const {
  const llvm::json::Value *value = find(key);
  if (!value && !absent)
    return missing(key);
  if (!value) {
    result = *absent;
    return llvm::Error::success();
  }
  std::optional<double> number = value->getAsNumber();
  // Written so that a NaN fails too.
  if (!number || !(*number >= low && *number <= high))
    return llvm::createStringError(
        "'" + key + "' must be a number from " + printNumber(low) + " to " +
        printNumber(high) + ", got " + printValue(*value));
  result = *number;
  return llvm::Error::success();
}

llvm::Error JsonFields::getBool(llvm::StringRef key, bool &result) const {
  const llvm::json::Value *value = find(key);
  if (!value)
    return llvm::Error::success();
  std::optional<bool> flag = value->getAsBoolean();
  if (!flag)
    return llvm::createStringError("'" + key + "' must be true or false, got " +
                                   printValue(*value));
  result = *flag;
  return llvm::Error::success();
}

llvm::Expected<std::string>
JsonFields::getString(llvm::StringRef key, llvm::StringRef absent) const {
  const llvm::json::Value *value = find(key);
  if (!value)
    return absent.str();
  std::optional<llvm::StringRef> text = value->getAsString();
  if (!text)
    return llvm::createStringError("'" + key + "' must be a string, got " +
                                   printValue(*value));
  return text->str();
}

} // namespace mlir::qlm

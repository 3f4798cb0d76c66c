//===- TensorFields.cpp - Finds tensors' bytes in a serialized model ------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "TensorFields.h"

#include "llvm/ADT/STLFunctionalExtras.h"

using namespace mlir::qlm;

// Numbers of fields in onnx.proto.
static constexpr uint64_t kModelGraph = 7;
static constexpr uint64_t kGraphInitializer = 5;
static constexpr uint64_t kTensorRawData = 9;

namespace {
/// The kinds of fields of protobuf's wire format that are still in use.
enum WireType { Varint = 0, Fixed64 = 1, Length = 2, Fixed32 = 5 };

/// One field of a serialized message.
struct Field {
  uint64_t number = 0;
  unsigned wire = 0;
  llvm::StringRef all;     ///< with its tag
  llvm::StringRef content; ///< of a field with a length
};
} // namespace

/// A number of up to ten bytes of seven bits, the lowest first.
static std::optional<uint64_t> takeVarint(llvm::StringRef &bytes) {
  uint64_t value = 0;
  for (unsigned i = 0; i < 10 && i < bytes.size(); ++i) {
    auto byte = static_cast<unsigned char>(bytes[i]);
    value |= static_cast<uint64_t>(byte & 0x7f) << (7 * i);
    if (byte < 0x80) {
      bytes = bytes.drop_front(i + 1);
      return value;
    }
  }
  return std::nullopt;
}

static bool skip(llvm::StringRef &bytes, uint64_t count) {
  if (count > bytes.size())
    return false;
  bytes = bytes.drop_front(count);
  return true;
}

static std::optional<Field> takeField(llvm::StringRef &bytes) {
  Field field;
  llvm::StringRef start = bytes;
  auto tag = takeVarint(bytes);
  if (!tag)
    return std::nullopt;
  field.number = *tag >> 3;
  field.wire = *tag & 7;
  bool fits = false;
  if (field.wire == Varint) {
    fits = takeVarint(bytes).has_value();
  } else if (field.wire == Fixed64 || field.wire == Fixed32) {
    fits = skip(bytes, field.wire == Fixed64 ? 8 : 4);
  } else if (field.wire == Length) {
    auto size = takeVarint(bytes);
    llvm::StringRef rest = bytes;
    fits = size && skip(bytes, *size);
    if (fits)
      field.content = rest.take_front(*size);
  }
  if (!fits)
    return std::nullopt;
  field.all = start.drop_back(bytes.size());
  return field;
}

/// Calls \p visit with each field of a message; false where it is malformed.
static bool visitFields(llvm::StringRef message,
                        llvm::function_ref<bool(const Field &)> visit) {
  while (!message.empty()) {
    auto field = takeField(message);
    if (!field || !visit(*field))
      return false;
  }
  return true;
}

static bool cutTensor(llvm::StringRef message, size_t leastBytes,
                      ModelParts &parts) {
  ModelParts::Initializer tensor;
  bool fine = visitFields(message, [&](const Field &field) {
    bool isRaw = field.number == kTensorRawData && field.wire == Length;
    if (isRaw && field.content.size() >= leastBytes)
      tensor.bytes = field.content;
    else
      tensor.message += field.all;
    // Of two fields that are there once, the last counts.
    if (isRaw && field.content.size() < leastBytes)
      tensor.bytes = {};
    return true;
  });
  parts.initializers.push_back(std::move(tensor));
  return fine;
}

std::optional<ModelParts> mlir::qlm::cutModel(llvm::StringRef bytes,
                                              size_t leastBytes) {
  ModelParts parts;
  auto visitGraph = [&](const Field &field) {
    if (field.number == kGraphInitializer && field.wire == Length)
      return cutTensor(field.content, leastBytes, parts);
    parts.graph += field.all;
    return true;
  };
  auto visitModel = [&](const Field &field) {
    if (field.number == kModelGraph && field.wire == Length) {
      parts.hasGraph = true;
      return visitFields(field.content, visitGraph);
    }
    parts.model += field.all;
    return true;
  };
  if (!visitFields(bytes, visitModel))
    return std::nullopt;
  return parts;
}

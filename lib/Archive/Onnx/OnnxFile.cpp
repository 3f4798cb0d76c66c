//===- OnnxFile.cpp - An ONNX model and its tensors' bytes ----------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Archive/OnnxFile.h"

#include "TensorFields.h"
#include "qlm/Archive/Errors.h"
#include "qlm/Archive/Json.h"
#include "qlm/Archive/ParameterArchive.h"

#include "onnx-ml.pb.h"
#include "llvm/ADT/SmallString.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Path.h"

#include <climits>
#include <cstring>
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <sys/stat.h>

using namespace mlir::qlm;
using onnx::TensorProto;

/// Messages inside messages; a graph in an attribute takes four.
static constexpr int kDeepestNesting = 64;
/// Bytes of an initializer from which on they stay in the file.
static constexpr size_t kLeastCut = 64;

int64_t mlir::qlm::getOnnxElementBytes(int32_t dataType) {
  switch (dataType) {
  case TensorProto::DOUBLE:
  case TensorProto::INT64:
  case TensorProto::UINT64:
  case TensorProto::COMPLEX64:
    return 8;
  case TensorProto::COMPLEX128:
    return 16;
  case TensorProto::FLOAT:
  case TensorProto::INT32:
  case TensorProto::UINT32:
    return 4;
  case TensorProto::FLOAT16:
  case TensorProto::BFLOAT16:
  case TensorProto::INT16:
  case TensorProto::UINT16:
    return 2;
  case TensorProto::STRING:
  case TensorProto::UNDEFINED:
    return 0;
  default:
    return TensorProto::DataType_IsValid(dataType) ? 1 : 0;
  }
}

/// Bits of one element where several share a byte of `raw_data`; else 0.
static int64_t getPackedBits(int32_t dataType) {
  switch (dataType) {
  case TensorProto::INT4:
  case TensorProto::UINT4:
  case TensorProto::FLOAT4E2M1:
    return 4;
  case TensorProto::INT2:
  case TensorProto::UINT2:
    return 2;
  default:
    return 0;
  }
}

std::string mlir::qlm::getOnnxTypeName(int32_t dataType) {
  switch (dataType) {
  case TensorProto::FLOAT:
    return "float32";
  case TensorProto::DOUBLE:
    return "float64";
  default:
    if (TensorProto::DataType_IsValid(dataType))
      return llvm::StringRef(TensorProto::DataType_Name(
                                 static_cast<TensorProto::DataType>(dataType)))
          .lower();
    return "type " + std::to_string(dataType);
  }
}

OnnxFile::OnnxFile() : model(std::make_unique<onnx::ModelProto>()) {}
OnnxFile::~OnnxFile() = default;

/// Parses \p bytes without running past the allowed nesting.
static bool parseMessage(llvm::StringRef bytes,
                         google::protobuf::MessageLite &message) {
  google::protobuf::io::ArrayInputStream array(bytes.data(),
                                               static_cast<int>(bytes.size()));
  google::protobuf::io::CodedInputStream stream(&array);
  stream.SetRecursionLimit(kDeepestNesting);
  return message.MergePartialFromCodedStream(&stream) &&
         stream.ConsumedEntireMessage();
}

llvm::Error OnnxFile::parse(llvm::StringRef bytes) {
  if (bytes.size() > INT_MAX)
    return makeError("an ONNX file holds at most 2 GB, got " +
                     llvm::Twine(bytes.size()) + " bytes");
  auto parts = cutModel(bytes, kLeastCut);
  bool fine = parts && parseMessage(parts->model, *model);
  if (fine && parts->hasGraph) {
    fine = parseMessage(parts->graph, *model->mutable_graph());
    for (const ModelParts::Initializer &part : parts->initializers) {
      TensorProto *tensor = model->mutable_graph()->add_initializer();
      fine = fine && parseMessage(part.message, *tensor);
      if (part.bytes.data())
        cut[tensor] = part.bytes;
    }
  }
  if (!fine)
    return makeError(
        "not an ONNX model: malformed, cut short, or nested over " +
        llvm::Twine(kDeepestNesting) + " deep");
  if (!parts->hasGraph)
    return makeError("not an ONNX model: it has no graph");
  return llvm::Error::success();
}

llvm::Expected<std::unique_ptr<OnnxFile>>
OnnxFile::parse(llvm::StringRef bytes, llvm::StringRef folder) {
  std::unique_ptr<OnnxFile> file(new OnnxFile);
  file->folder = folder.str();
  if (llvm::Error error = file->parse(bytes))
    return std::move(error);
  return file;
}

llvm::Expected<std::unique_ptr<OnnxFile>> OnnxFile::open(llvm::StringRef path) {
  auto buffer = llvm::MemoryBuffer::getFile(path, /*IsText=*/false,
                                            /*RequiresNullTerminator=*/false);
  if (!buffer)
    return makeError(path + ": " + buffer.getError().message());
  llvm::StringRef folder = llvm::sys::path::parent_path(path);
  std::unique_ptr<OnnxFile> file(new OnnxFile);
  file->folder = folder.empty() ? "." : folder.str();
  file->name = llvm::sys::path::filename(path).str();
  file->buffer = std::move(*buffer);
  if (llvm::Error error = file->parse(file->buffer->getBuffer()))
    return makeError(path + ": " + llvm::toString(std::move(error)));
  return file;
}

//===----------------------------------------------------------------------===//
// Tensors
//===----------------------------------------------------------------------===//

static std::string nameOf(const TensorProto &tensor) {
  return "tensor " + quoteName(tensor.name());
}

/// Number of elements; bounded so that their bytes can be counted too.
static llvm::Expected<int64_t> countElements(const TensorProto &tensor) {
  int64_t count = 1;
  for (int64_t size : tensor.dims()) {
    if (size < 0)
      return makeError(nameOf(tensor) + " has the dimension " +
                       llvm::Twine(size));
    if (__builtin_mul_overflow(count, size, &count) || count > INT64_MAX / 32)
      return makeError(nameOf(tensor) + " has dimensions whose product "
                                        "overflows");
  }
  return count;
}

llvm::ArrayRef<char> OnnxFile::keep(std::vector<char> bytes) {
  converted.push_back(std::move(bytes));
  return converted.back();
}

llvm::Expected<llvm::MemoryBuffer *>
OnnxFile::mapExternal(llvm::StringRef location) {
  if (folder.empty() || !isContainedPath(location))
    return makeError("external data " + quoteName(location) +
                     " must lie in the model's folder");
  auto [entry, isNew] = external.try_emplace(location);
  if (!isNew)
    return entry->second.get();
  llvm::SmallString<256> path(folder), realPath, realFolder;
  llvm::sys::path::append(path, location);
  // No link may lead out: the canonical path is compared, and a file with a
  // second name (a hard link) could be anyone's.
  struct stat info;
  if (std::error_code code = llvm::sys::fs::real_path(path, realPath))
    return makeError("external data " + quoteName(location) + ": " +
                     code.message());
  if (llvm::sys::fs::real_path(folder, realFolder) ||
      !llvm::StringRef(realPath).starts_with((realFolder + "/").str()) ||
      lstat(realPath.c_str(), &info) != 0 || !S_ISREG(info.st_mode) ||
      info.st_nlink != 1)
    return makeError("external data " + quoteName(location) +
                     " must be a plain file in the model's folder, without "
                     "links");
  auto buffer = llvm::MemoryBuffer::getFile(realPath, /*IsText=*/false,
                                            /*RequiresNullTerminator=*/false);
  if (!buffer)
    return makeError("external data " + quoteName(location) + ": " +
                     buffer.getError().message());
  entry->second = std::move(*buffer);
  return entry->second.get();
}

llvm::Expected<llvm::StringRef>
OnnxFile::getExternalData(const TensorProto &tensor) {
  llvm::StringRef location;
  uint64_t offset = 0, length = 0;
  bool hasLength = false;
  for (const onnx::StringStringEntryProto &entry : tensor.external_data()) {
    llvm::StringRef value = entry.value();
    uint64_t *number = entry.key() == "offset"   ? &offset
                       : entry.key() == "length" ? &length
                                                 : nullptr;
    if (entry.key() == "location")
      location = value;
    else if (number && value.getAsInteger(10, *number))
      return makeError(nameOf(tensor) + " has the external " + entry.key() +
                       " " + quoteName(value) + ", not a whole number");
    hasLength |= entry.key() == "length";
  }
  auto buffer = mapExternal(location);
  if (!buffer)
    return makeError(nameOf(tensor) + ": " +
                     llvm::toString(buffer.takeError()));
  uint64_t size = (*buffer)->getBufferSize();
  if (offset > size || (hasLength && length > size - offset))
    return makeError(nameOf(tensor) + " reaches past the " + llvm::Twine(size) +
                     " bytes of its external data: offset " +
                     llvm::Twine(offset) + ", length " + llvm::Twine(length));
  return (*buffer)->getBuffer().substr(offset,
                                       hasLength ? length : size - offset);
}

/// Spreads elements that share bytes, the first in the lowest bits, one to a
/// byte; signed ones get their sign.
static std::vector<char> unpack(llvm::StringRef bytes, int64_t count,
                                int64_t bits, bool isSigned) {
  std::vector<char> result(count);
  int64_t perByte = 8 / bits;
  for (int64_t i = 0; i < count; ++i) {
    int code = (static_cast<unsigned char>(bytes[i / perByte]) >>
                (i % perByte * bits)) &
               ((1 << bits) - 1);
    if (isSigned && code >> (bits - 1))
      code -= 1 << bits;
    result[i] = static_cast<char>(code);
  }
  return result;
}

/// The low \p elementBytes of each value.
template <typename Values>
static std::vector<char> narrow(const Values &values, int64_t elementBytes) {
  std::vector<char> bytes(values.size() * elementBytes);
  char *next = bytes.data();
  for (auto value : values) {
    std::memcpy(next, &value, elementBytes);
    next += elementBytes;
  }
  return bytes;
}

/// The elements that stand in one of the typed fields.
static std::vector<char> takeTypedField(const TensorProto &tensor,
                                        int64_t elementBytes) {
  switch (tensor.data_type()) {
  case TensorProto::FLOAT:
  case TensorProto::COMPLEX64:
    return narrow(tensor.float_data(), 4);
  case TensorProto::DOUBLE:
  case TensorProto::COMPLEX128:
    return narrow(tensor.double_data(), 8);
  case TensorProto::INT64:
    return narrow(tensor.int64_data(), 8);
  case TensorProto::UINT64:
  case TensorProto::UINT32:
    return narrow(tensor.uint64_data(), elementBytes);
  default:
    return narrow(tensor.int32_data(), elementBytes);
  }
}

llvm::Expected<llvm::ArrayRef<char>>
OnnxFile::getData(const TensorProto &tensor) {
  int64_t elementBytes = getOnnxElementBytes(tensor.data_type());
  if (elementBytes == 0)
    return makeError(nameOf(tensor) + " has elements of " +
                     getOnnxTypeName(tensor.data_type()) +
                     ", which are not handled");
  auto count = countElements(tensor);
  if (!count)
    return count.takeError();
  bool isExternal = tensor.data_location() == TensorProto::EXTERNAL;
  int64_t bits = getPackedBits(tensor.data_type());
  bool isSigned = tensor.data_type() == TensorProto::INT4 ||
                  tensor.data_type() == TensorProto::INT2;
  llvm::StringRef raw = tensor.raw_data();
  auto inFile = cut.find(&tensor);
  if (inFile != cut.end())
    raw = inFile->second;
  if (isExternal) {
    auto data = getExternalData(tensor);
    if (!data)
      return data.takeError();
    raw = *data;
  }
  uint64_t expected = bits ? llvm::divideCeil(*count * bits, 8)
                           : static_cast<uint64_t>(*count * elementBytes);
  if (isExternal || tensor.has_raw_data() || inFile != cut.end()) {
    if (raw.size() != expected)
      return makeError(nameOf(tensor) + " needs " + llvm::Twine(expected) +
                       " bytes, got " + llvm::Twine(raw.size()));
    if (bits)
      return keep(unpack(raw, *count, bits, isSigned));
    return llvm::ArrayRef<char>(raw.data(), raw.size());
  }
  std::vector<char> bytes = takeTypedField(tensor, elementBytes);
  // Packed elements share the bytes of int32_data too.
  if (bytes.size() != expected)
    return makeError(nameOf(tensor) + " needs " + llvm::Twine(expected) +
                     " bytes, its values give " + llvm::Twine(bytes.size()));
  if (bits)
    return keep(unpack(llvm::StringRef(bytes.data(), bytes.size()), *count,
                       bits, isSigned));
  return keep(std::move(bytes));
}

llvm::Expected<OnnxFile::Place> OnnxFile::getPlace(const TensorProto &tensor) {
  auto data = getData(tensor);
  if (!data)
    return data.takeError();
  auto offsetIn = [&](llvm::StringRef buffer) -> std::optional<int64_t> {
    std::less_equal<const char *> before;
    if (!before(buffer.begin(), data->begin()) ||
        !before(data->end(), buffer.end()))
      return std::nullopt;
    return data->begin() - buffer.begin();
  };
  if (buffer)
    if (auto offset = offsetIn(buffer->getBuffer()))
      return Place{name, *offset};
  for (const auto &[location, mapped] : external)
    if (mapped)
      if (auto offset = offsetIn(mapped->getBuffer()))
        return Place{location.str(), *offset};
  return makeError(nameOf(tensor) +
                   " must be stored as bytes, not as a list of numbers");
}

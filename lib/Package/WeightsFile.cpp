//===- WeightsFile.cpp - The file of packed weights -----------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "WeightsFile.h"

#include "PackageErrors.h"
#include "qlm/Package/Format.h"
#include "llvm/ADT/StringSet.h"
#include "llvm/Support/Endian.h"
#include "llvm/Support/JSON.h"
#include "llvm/Support/MathExtras.h"

#include <cerrno>
#include <fcntl.h>
#include <unistd.h>

using namespace mlir;
using namespace mlir::qlm;
namespace format = ::qlm::format;

static llvm::Error makeFileError(StringRef verb, StringRef path, int code) {
  return makeError("cannot " + verb + " '" + path +
                   "': " + std::generic_category().message(code));
}

llvm::Expected<PackedTensor> PackedTensor::get(StringRef key,
                                               RankedTensorType type) {
  PackedTensor tensor;
  tensor.key = key.str();
  Type element = type.getElementType();
  if (element.isF32())
    tensor.type = "F32";
  else if (element.isF16())
    tensor.type = "F16";
  else if (element.isBF16())
    tensor.type = "BF16";
  else if (element.isInteger(8))
    tensor.type = "U8";
  else
    return makeError("packed weights are f32, f16, bf16 or i8, got " +
                     printToString(type) + " for '" + key + "'");
  tensor.shape.assign(type.getShape().begin(), type.getShape().end());
  tensor.bytes = type.getNumElements() * (element.getIntOrFloatBitWidth() / 8);
  return tensor;
}

/// The format allows no holes, so bytes between tensors are tensors too: one
/// after each tensor whose end is not aligned, and 64 bytes after the last one
/// because kernels may read past a buffer's end. Offsets are from the start of
/// the data.
static SmallVector<PackedTensor>
addPadding(MutableArrayRef<PackedTensor> tensors) {
  SmallVector<PackedTensor> all;
  int64_t offset = 0, pads = 0;
  for (PackedTensor &tensor : tensors) {
    tensor.offset = offset;
    all.push_back(tensor);
    offset += tensor.bytes;
    int64_t gap = llvm::alignTo(offset, format::kAlignment) - offset;
    if (&tensor == &tensors.back())
      gap += format::kAlignment;
    if (gap == 0)
      continue;
    PackedTensor pad;
    pad.key = format::kPaddingPrefix + std::to_string(pads++);
    pad.type = "U8";
    pad.shape = {gap};
    pad.bytes = gap;
    pad.offset = offset;
    all.push_back(pad);
    offset += gap;
  }
  return all;
}

/// The header: its size, the JSON object, and spaces up to a multiple of 64.
static std::string makeHeader(ArrayRef<PackedTensor> tensors) {
  std::string header(8, '\0');
  llvm::raw_string_ostream stream(header);
  llvm::json::OStream json(stream);
  json.object([&] {
    json.attributeObject(
        "__metadata__", [&] { json.attribute("format", format::kFormatName); });
    for (const PackedTensor &tensor : tensors)
      json.attributeObject(tensor.key, [&] {
        json.attribute("dtype", tensor.type);
        json.attributeArray("shape", [&] {
          for (int64_t size : tensor.shape)
            json.value(size);
        });
        json.attributeArray("data_offsets", [&] {
          json.value(tensor.offset);
          json.value(tensor.offset + tensor.bytes);
        });
      });
  });
  stream.flush();
  header.resize(llvm::alignTo(header.size(), format::kAlignment), ' ');
  llvm::support::endian::write64le(header.data(), header.size() - 8);
  return header;
}

llvm::Expected<WeightsFile>
WeightsFile::create(StringRef path, MutableArrayRef<PackedTensor> tensors) {
  llvm::StringSet<> keys;
  for (const PackedTensor &tensor : tensors)
    if (!keys.insert(tensor.key).second)
      return makeError("two different weights have the key '" + tensor.key +
                       "'");
  SmallVector<PackedTensor> all = addPadding(tensors);
  std::string header = makeHeader(all);
  for (PackedTensor &tensor : tensors)
    tensor.offset += header.size();
  int64_t size = header.size();
  if (!all.empty())
    size += all.back().offset + all.back().bytes;

  int descriptor =
      ::open(path.str().c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (descriptor < 0)
    return makeFileError("create", path, errno);
  WeightsFile file(path.str(), descriptor, size);
  if (::ftruncate(descriptor, size) != 0)
    return makeFileError("write", path, errno);
  if (llvm::Error error = file.write(
          0, ArrayRef(reinterpret_cast<const uint8_t *>(header.data()),
                      header.size())))
    return std::move(error);
  return std::move(file);
}

WeightsFile::WeightsFile(WeightsFile &&other)
    : path(std::move(other.path)), descriptor(other.descriptor),
      size(other.size) {
  other.descriptor = -1;
}

WeightsFile::~WeightsFile() {
  if (descriptor >= 0)
    ::close(descriptor);
}

llvm::Error WeightsFile::write(int64_t offset, ArrayRef<uint8_t> bytes) const {
  while (!bytes.empty()) {
    ssize_t written = ::pwrite(descriptor, bytes.data(), bytes.size(), offset);
    if (written < 0 && errno == EINTR)
      continue;
    if (written <= 0)
      return makeFileError("write", path, written < 0 ? errno : ENOSPC);
    bytes = bytes.drop_front(written);
    offset += written;
  }
  return llvm::Error::success();
}

static llvm::Expected<uint64_t> checksumDescriptor(int descriptor,
                                                   StringRef path) {
  format::Checksum checksum;
  std::vector<uint8_t> buffer(1 << 20);
  int64_t offset = 0;
  while (true) {
    // Blocks before the last must be full: read until one is.
    size_t filled = 0;
    while (filled < buffer.size()) {
      ssize_t got = ::pread(descriptor, buffer.data() + filled,
                            buffer.size() - filled, offset + filled);
      if (got < 0 && errno == EINTR)
        continue;
      if (got < 0)
        return makeFileError("read", path, errno);
      if (got == 0)
        break;
      filled += got;
    }
    checksum.update(buffer.data(), filled);
    offset += filled;
    if (filled < buffer.size())
      return checksum.finish();
  }
}

llvm::Expected<uint64_t> WeightsFile::computeChecksum() const {
  return checksumDescriptor(descriptor, path);
}

llvm::Expected<uint64_t> mlir::qlm::computeFileChecksum(StringRef path) {
  int descriptor = ::open(path.str().c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0)
    return makeFileError("read", path, errno);
  llvm::Expected<uint64_t> checksum = checksumDescriptor(descriptor, path);
  ::close(descriptor);
  return checksum;
}

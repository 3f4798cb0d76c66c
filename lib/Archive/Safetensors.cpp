//===- Safetensors.cpp - Reads safetensors files --------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Archive/Safetensors.h"
#include "qlm/Archive/Json.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringSet.h"
#include "llvm/Support/Endian.h"
#include "llvm/Support/MathExtras.h"
#include "llvm/Support/raw_ostream.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <tuple>
#include <unistd.h>

namespace mlir::qlm {

/// The limit of the reference implementation.
static constexpr uint64_t kMaxHeaderBytes = 100000000;
static constexpr unsigned kMaxRank = 8;
/// Far above any model; bounds the memory that a header may take.
static constexpr size_t kMaxTensors = 1000000;

namespace {
struct TypeEntry {
  ArchiveType type;
  llvm::StringLiteral name;
  unsigned bytes;
};
} // namespace

static constexpr TypeEntry kTypes[] = {
    {ArchiveType::Bool, "BOOL", 1},      {ArchiveType::U8, "U8", 1},
    {ArchiveType::I8, "I8", 1},          {ArchiveType::F8E4M3, "F8_E4M3", 1},
    {ArchiveType::F8E5M2, "F8_E5M2", 1}, {ArchiveType::F8E8M0, "F8_E8M0", 1},
    {ArchiveType::U16, "U16", 2},        {ArchiveType::I16, "I16", 2},
    {ArchiveType::F16, "F16", 2},        {ArchiveType::BF16, "BF16", 2},
    {ArchiveType::U32, "U32", 4},        {ArchiveType::I32, "I32", 4},
    {ArchiveType::F32, "F32", 4},        {ArchiveType::U64, "U64", 8},
    {ArchiveType::I64, "I64", 8},        {ArchiveType::F64, "F64", 8},
    {ArchiveType::C64, "C64", 8},
};

llvm::StringRef getArchiveTypeName(ArchiveType type) {
  return kTypes[static_cast<unsigned>(type)].name;
}

std::optional<ArchiveType> getArchiveType(llvm::StringRef name) {
  for (const TypeEntry &entry : kTypes)
    if (entry.name == name)
      return entry.type;
  return std::nullopt;
}

unsigned getArchiveTypeBytes(ArchiveType type) {
  return kTypes[static_cast<unsigned>(type)].bytes;
}

std::string ArchiveTensor::getTypeString() const {
  std::string text;
  llvm::raw_string_ostream stream(text);
  stream << getArchiveTypeName(type) << '[';
  llvm::interleaveComma(shape, stream);
  stream << ']';
  return text;
}

namespace {
/// Where a header puts a tensor, relative to the end of the header.
struct Placement {
  size_t tensor;
  int64_t begin, end;
};

class HeaderParser {
public:
  explicit HeaderParser(llvm::StringRef header) : cursor(header) {}

  llvm::Error parse();

  std::vector<ArchiveTensor> tensors;
  std::vector<Placement> placements;

private:
  llvm::Error parseMetadata();
  llvm::Error parseTensor(std::string name);
  llvm::Error parseType(ArchiveTensor &tensor);
  llvm::Error parseShape(ArchiveTensor &tensor);
  llvm::Error parseOffsets(Placement &placement);
  /// Fails unless the offsets hold exactly the shape's elements.
  llvm::Error checkSize(const ArchiveTensor &tensor,
                        const Placement &placement);

  JsonCursor cursor;
};
} // namespace

llvm::Error HeaderParser::parse() {
  if (llvm::Error error = cursor.expect('{'))
    return error;
  llvm::StringSet<> names;
  if (cursor.consume('}'))
    return cursor.expectEnd();
  do {
    llvm::Expected<std::string> name = cursor.readString();
    if (!name)
      return name.takeError();
    if (!names.insert(*name).second)
      return llvm::createStringError("tensor " + quoteName(*name) +
                                     " is repeated");
    if (llvm::Error error = cursor.expect(':'))
      return error;
    if (llvm::Error error =
            *name == "__metadata__" ? parseMetadata() : parseTensor(*name))
      return error;
    if (tensors.size() > kMaxTensors)
      return llvm::createStringError("more than " + llvm::Twine(kMaxTensors) +
                                     " tensors");
  } while (cursor.consume(','));
  if (llvm::Error error = cursor.expect('}'))
    return error;
  return cursor.expectEnd();
}

llvm::Error HeaderParser::parseMetadata() {
  if (llvm::Error error = cursor.expect('{'))
    return error;
  llvm::StringSet<> keys;
  if (cursor.consume('}'))
    return llvm::Error::success();
  do {
    llvm::Expected<std::string> key = cursor.readString();
    if (!key)
      return key.takeError();
    if (!keys.insert(*key).second)
      return cursor.makeError("key " + quoteName(*key) + " is repeated");
    if (llvm::Error error = cursor.expect(':'))
      return error;
    if (llvm::Error error = cursor.readString().takeError())
      return error;
  } while (cursor.consume(','));
  return cursor.expect('}');
}

llvm::Error HeaderParser::parseType(ArchiveTensor &tensor) {
  llvm::Expected<std::string> text = cursor.readString();
  if (!text)
    return text.takeError();
  std::optional<ArchiveType> type = getArchiveType(*text);
  if (!type)
    return llvm::createStringError("unknown dtype " + quoteName(*text));
  tensor.type = *type;
  return llvm::Error::success();
}

llvm::Error HeaderParser::parseShape(ArchiveTensor &tensor) {
  if (llvm::Error error = cursor.expect('['))
    return error;
  if (cursor.consume(']'))
    return llvm::Error::success();
  do {
    llvm::Expected<int64_t> size = cursor.readSize();
    if (!size)
      return size.takeError();
    if (tensor.shape.size() == kMaxRank)
      return llvm::createStringError("more than " + llvm::Twine(kMaxRank) +
                                     " dimensions");
    tensor.shape.push_back(*size);
  } while (cursor.consume(','));
  return cursor.expect(']');
}

llvm::Error HeaderParser::parseOffsets(Placement &placement) {
  if (llvm::Error error = cursor.expect('['))
    return error;
  llvm::Expected<int64_t> begin = cursor.readSize();
  if (!begin)
    return begin.takeError();
  if (llvm::Error error = cursor.expect(','))
    return error;
  llvm::Expected<int64_t> end = cursor.readSize();
  if (!end)
    return end.takeError();
  placement.begin = *begin;
  placement.end = *end;
  return cursor.expect(']');
}

llvm::Error HeaderParser::checkSize(const ArchiveTensor &tensor,
                                    const Placement &placement) {
  int64_t bytes = getArchiveTypeBytes(tensor.type);
  for (int64_t size : tensor.shape)
    if (llvm::MulOverflow(bytes, size, bytes))
      return llvm::createStringError("the size of " + tensor.getTypeString() +
                                     " overflows");
  if (placement.end < placement.begin ||
      placement.end - placement.begin != bytes)
    return llvm::createStringError(
        tensor.getTypeString() + " takes " + llvm::Twine(bytes) +
        " bytes, data_offsets are [" + llvm::Twine(placement.begin) + ", " +
        llvm::Twine(placement.end) + "]");
  return llvm::Error::success();
}

llvm::Error HeaderParser::parseTensor(std::string name) {
  auto inTensor = [&](llvm::Error error) {
    return llvm::createStringError("tensor " + quoteName(name) + ": " +
                                   llvm::toString(std::move(error)));
  };
  ArchiveTensor tensor;
  Placement placement{tensors.size(), 0, 0};
  bool hasType = false, hasShape = false, hasOffsets = false;
  if (llvm::Error error = cursor.expect('{'))
    return inTensor(std::move(error));
  do {
    llvm::Expected<std::string> key = cursor.readString();
    if (!key)
      return inTensor(key.takeError());
    if (llvm::Error error = cursor.expect(':'))
      return inTensor(std::move(error));
    bool *seen = *key == "dtype"          ? &hasType
                 : *key == "shape"        ? &hasShape
                 : *key == "data_offsets" ? &hasOffsets
                                          : nullptr;
    if (!seen || *seen)
      return inTensor(cursor.makeError((seen ? "repeated" : "unknown") +
                                       llvm::Twine(" key ") + quoteName(*key)));
    *seen = true;
    llvm::Error error = seen == &hasType    ? parseType(tensor)
                        : seen == &hasShape ? parseShape(tensor)
                                            : parseOffsets(placement);
    if (error)
      return inTensor(std::move(error));
  } while (cursor.consume(','));
  if (llvm::Error error = cursor.expect('}'))
    return inTensor(std::move(error));
  if (!hasType || !hasShape || !hasOffsets)
    return inTensor(llvm::createStringError(
        "expected the keys dtype, shape and data_offsets"));
  if (llvm::Error error = checkSize(tensor, placement))
    return inTensor(std::move(error));
  tensor.name = std::move(name);
  tensors.push_back(std::move(tensor));
  placements.push_back(placement);
  return llvm::Error::success();
}

/// Sorts tensors by their data and points them at it. The format wants the
/// data to be covered exactly: neither overlaps nor holes.
static llvm::Error placeTensors(HeaderParser &parser,
                                llvm::ArrayRef<uint8_t> data,
                                std::vector<ArchiveTensor> &placed) {
  llvm::sort(parser.placements, [](const Placement &lhs, const Placement &rhs) {
    return std::tie(lhs.begin, lhs.end, lhs.tensor) <
           std::tie(rhs.begin, rhs.end, rhs.tensor);
  });
  int64_t filled = 0;
  int64_t size = data.size();
  placed.reserve(parser.tensors.size());
  for (const Placement &placement : parser.placements) {
    ArchiveTensor &tensor = parser.tensors[placement.tensor];
    auto refuse = [&](const llvm::Twine &rule) {
      return llvm::createStringError("tensor " + quoteName(tensor.name) + ": " +
                                     rule + ", data_offsets are [" +
                                     llvm::Twine(placement.begin) + ", " +
                                     llvm::Twine(placement.end) + "]");
    };
    if (placement.end > size)
      return refuse("data ends past the file's " + llvm::Twine(size) +
                    " bytes of data");
    if (placement.begin < filled)
      return refuse("data overlaps another tensor's, which ends at " +
                    llvm::Twine(filled));
    if (placement.begin > filled)
      return refuse("data leaves a hole after byte " + llvm::Twine(filled));
    tensor.data = data.slice(placement.begin, placement.end - placement.begin);
    filled = placement.end;
    placed.push_back(std::move(tensor));
  }
  if (filled != size)
    return llvm::createStringError("tensors fill " + llvm::Twine(filled) +
                                   " of the file's " + llvm::Twine(size) +
                                   " bytes of data");
  return llvm::Error::success();
}

static llvm::Error parseBytes(llvm::ArrayRef<uint8_t> bytes,
                              std::vector<ArchiveTensor> &tensors) {
  constexpr uint64_t kPrefix = sizeof(uint64_t);
  if (bytes.size() < kPrefix)
    return llvm::createStringError("too short for a safetensors header: " +
                                   llvm::Twine(bytes.size()) + " bytes");
  uint64_t headerBytes = llvm::support::endian::read64le(bytes.data());
  if (headerBytes > kMaxHeaderBytes)
    return llvm::createStringError("header of " + llvm::Twine(headerBytes) +
                                   " bytes is over the limit of " +
                                   llvm::Twine(kMaxHeaderBytes));
  if (headerBytes > bytes.size() - kPrefix)
    return llvm::createStringError("header of " + llvm::Twine(headerBytes) +
                                   " bytes ends past the file's " +
                                   llvm::Twine(bytes.size()));
  HeaderParser parser(llvm::toStringRef(bytes.slice(kPrefix, headerBytes)));
  if (llvm::Error error = parser.parse())
    return llvm::createStringError("malformed header: " +
                                   llvm::toString(std::move(error)));
  return placeTensors(parser, bytes.drop_front(kPrefix + headerBytes), tensors);
}

llvm::Expected<std::vector<ArchiveTensor>>
parseSafetensors(llvm::ArrayRef<uint8_t> bytes, llvm::StringRef path) {
  std::vector<ArchiveTensor> tensors;
  if (llvm::Error error = parseBytes(bytes, tensors))
    return llvm::createStringError(path + ": " +
                                   llvm::toString(std::move(error)));
  return tensors;
}

llvm::Expected<std::unique_ptr<SafetensorsFile>>
SafetensorsFile::open(llvm::StringRef path) {
  std::string name = path.str();
  auto fail = [&](const llvm::Twine &message) {
    return llvm::createStringError(name + ": " + message);
  };
  // O_NONBLOCK so that a pipe in a file's place doesn't wait for a writer.
  int descriptor = ::open(name.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0)
    return fail(std::strerror(errno));
  struct stat status;
  if (::fstat(descriptor, &status) != 0 || !S_ISREG(status.st_mode)) {
    ::close(descriptor);
    return fail("not a regular file");
  }
  size_t size = status.st_size;
  if (size == 0) {
    ::close(descriptor);
    return fail("too short for a safetensors header: 0 bytes");
  }
  void *mapping = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, descriptor, 0);
  int mapError = errno;
  ::close(descriptor);
  if (mapping == MAP_FAILED)
    return fail("cannot map " + llvm::Twine(size) +
                " bytes: " + std::strerror(mapError));
  std::unique_ptr<SafetensorsFile> file(
      new SafetensorsFile(name, mapping, size));
  auto tensors = parseSafetensors(
      llvm::ArrayRef(static_cast<const uint8_t *>(mapping), size), name);
  if (!tensors)
    return tensors.takeError();
  file->tensors = std::move(*tensors);
  for (auto [index, tensor] : llvm::enumerate(file->tensors))
    file->indices[tensor.name] = index;
  return file;
}

SafetensorsFile::~SafetensorsFile() { ::munmap(mapping, size); }

const ArchiveTensor *SafetensorsFile::lookup(llvm::StringRef name) const {
  auto found = indices.find(name);
  return found == indices.end() ? nullptr : &tensors[found->second];
}

void adviseDone(llvm::ArrayRef<uint8_t> range) {
  const uintptr_t page = ::sysconf(_SC_PAGESIZE);
  uintptr_t begin =
      llvm::alignDown(reinterpret_cast<uintptr_t>(range.begin()), page);
  uintptr_t end =
      llvm::alignDown(reinterpret_cast<uintptr_t>(range.end()), page);
  // The mapping is read-only and backed by the file: a failure costs memory,
  // never data.
  if (begin < end)
    (void)::madvise(reinterpret_cast<void *>(begin), end - begin,
                    MADV_DONTNEED);
}

} // namespace mlir::qlm

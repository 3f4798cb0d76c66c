//===- Safetensors.h - Reads safetensors files ------------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A safetensors file is `u64 headerSize` (little endian), a JSON object of
// `name -> {dtype, shape, data_offsets}`, and the tensors' bytes. Its content
// is untrusted: nothing is believed before it is checked against the file's
// own size. Format: huggingface/safetensors, README, "Format".
//
//===----------------------------------------------------------------------===//

#ifndef QLM_ARCHIVE_SAFETENSORS_H
#define QLM_ARCHIVE_SAFETENSORS_H

#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/SmallVector.h"
#include "llvm/ADT/StringMap.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace mlir::qlm {

/// Element types of safetensors that fill whole bytes.
enum class ArchiveType : uint8_t {
  Bool,
  U8,
  I8,
  F8E4M3,
  F8E5M2,
  F8E8M0,
  U16,
  I16,
  F16,
  BF16,
  U32,
  I32,
  F32,
  U64,
  I64,
  F64,
  C64,
};

/// The type's name in a header: "BF16".
llvm::StringRef getArchiveTypeName(ArchiveType type);
/// The inverse of getArchiveTypeName; none for an unknown name.
std::optional<ArchiveType> getArchiveType(llvm::StringRef name);
/// Bytes of one element.
unsigned getArchiveTypeBytes(ArchiveType type);

/// One tensor of a file; `data` points into the mapping and lives as long as
/// the SafetensorsFile. It may be unaligned: the format pads nothing.
struct ArchiveTensor {
  std::string name;
  ArchiveType type = ArchiveType::F32;
  /// Dimensions, outermost first; empty for a scalar.
  llvm::SmallVector<int64_t, 4> shape;
  /// Elements in row-major order, little endian; its size is the product of
  /// the shape times the type's bytes.
  llvm::ArrayRef<uint8_t> data;

  /// "BF16[32, 64]", for messages.
  std::string getTypeString() const;
};

/// Checks a whole file held in \p bytes and lists its tensors in the order of
/// their data. \p path only names the file in errors.
///
/// Fails when: the header's size is over 100 MB or past the end; the JSON is
/// malformed, too deep or repeats a name; a type is unknown; a shape is
/// negative, has more than 8 dimensions or overflows; offsets disagree with
/// the shape, lie outside of the file, overlap, or leave bytes unnamed.
llvm::Expected<std::vector<ArchiveTensor>>
parseSafetensors(llvm::ArrayRef<uint8_t> bytes, llvm::StringRef path);

/// Lets the system drop the pages under \p range, part of a mapped tensor's
/// data, from resident memory; reading them again is slow but valid. The page
/// that holds the end of \p range is kept for the reader's next block.
void adviseDone(llvm::ArrayRef<uint8_t> range);

/// A memory-mapped safetensors file. Reading is safe from several threads.
class SafetensorsFile {
public:
  /// Maps and checks the file at \p path; nothing but the header is read.
  static llvm::Expected<std::unique_ptr<SafetensorsFile>>
  open(llvm::StringRef path);

  ~SafetensorsFile();
  SafetensorsFile(const SafetensorsFile &) = delete;
  SafetensorsFile &operator=(const SafetensorsFile &) = delete;

  /// The tensor called \p name, or null.
  const ArchiveTensor *lookup(llvm::StringRef name) const;
  /// All tensors, by their place in the file.
  llvm::ArrayRef<ArchiveTensor> getTensors() const { return tensors; }
  llvm::StringRef getPath() const { return path; }

private:
  SafetensorsFile(std::string path, void *mapping, size_t size)
      : path(std::move(path)), mapping(mapping), size(size) {}

  std::string path;
  void *mapping;
  size_t size;
  std::vector<ArchiveTensor> tensors;
  llvm::StringMap<size_t> indices;
};

} // namespace mlir::qlm

#endif // QLM_ARCHIVE_SAFETENSORS_H

//===- WeightsFile.h - The file of packed weights ---------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_PACKAGE_WEIGHTSFILE_H
#define QLM_LIB_PACKAGE_WEIGHTSFILE_H

#include "mlir/IR/BuiltinTypes.h"
#include "llvm/ADT/SmallVector.h"
#include "llvm/Support/Error.h"

#include <string>

namespace mlir::qlm {

/// One tensor of weights.safetensors.
struct PackedTensor {
  std::string key;
  /// Element type in the format's names: F32, F16, BF16 or U8.
  std::string type;
  SmallVector<int64_t> shape;
  int64_t bytes = 0;
  /// Where its bytes begin in the file; a multiple of 64.
  int64_t offset = 0;

  /// The tensor that holds a value of \p type; an i8 value is U8.
  static llvm::Expected<PackedTensor> get(StringRef key, RankedTensorType type);
};

/// A safetensors file with the alignment that qlm/Package/Format.h asks for,
/// written in any order and from any thread. Nothing is mapped or buffered, so
/// a file of any size needs no memory.
class WeightsFile {
public:
  /// Creates the file at \p path with room for \p tensors, sets their offsets
  /// and writes the header. Fails when two tensors have one key.
  static llvm::Expected<WeightsFile>
  create(StringRef path, MutableArrayRef<PackedTensor> tensors);

  WeightsFile(WeightsFile &&other);
  WeightsFile(const WeightsFile &) = delete;
  WeightsFile &operator=(const WeightsFile &) = delete;
  ~WeightsFile();

  /// Writes \p bytes at \p offset of the file.
  llvm::Error write(int64_t offset, ArrayRef<uint8_t> bytes) const;
  /// The checksum of the whole file, header included. Call it once, after all
  /// writes.
  llvm::Expected<uint64_t> computeChecksum() const;
  /// Bytes of the whole file.
  int64_t getSize() const { return size; }

private:
  WeightsFile(std::string path, int descriptor, int64_t size)
      : path(std::move(path)), descriptor(descriptor), size(size) {}

  std::string path;
  int descriptor;
  int64_t size;
};

/// The checksum of the file at \p path, any size.
llvm::Expected<uint64_t> computeFileChecksum(StringRef path);

} // namespace mlir::qlm

#endif // QLM_LIB_PACKAGE_WEIGHTSFILE_H

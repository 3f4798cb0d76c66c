//===- MappedMemory.h - Files and buffers from mmap -------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_RUNTIME_MAPPEDMEMORY_H
#define QLM_RUNTIME_MAPPEDMEMORY_H

#include "qlm/Runtime/Status.h"

#include <cstddef>
#include <string>

namespace qlm {

/// A range of address space, unmapped with its owner. At least 64 bytes past
/// its end may be read.
class MappedMemory {
public:
  MappedMemory() = default;
  MappedMemory(MappedMemory &&other) noexcept { swap(other); }
  MappedMemory &operator=(MappedMemory &&other) noexcept {
    swap(other);
    return *this;
  }
  ~MappedMemory();

  /// Maps the whole regular file at \p path, private and read-only.
  /// Errors: NotFound, Io.
  static Result<MappedMemory> mapFile(const std::string &path);

  /// Maps \p bytes of zeros that take memory only once they are touched, in
  /// huge pages where the system has them; \p purpose names it in messages.
  /// Errors: ResourceExhausted.
  static Result<MappedMemory> allocate(size_t bytes, const char *purpose);

  /// Makes all of an allocation resident now. Errors: ResourceExhausted, where
  /// the system can tell.
  Status touch() const;

  /// Asks the system to read the file ahead.
  void adviseWillNeed() const;

  char *data() const { return static_cast<char *>(address); }
  size_t size() const { return bytes; }

private:
  void swap(MappedMemory &other);

  void *address = nullptr;
  size_t bytes = 0;
  size_t mappedBytes = 0;
};

} // namespace qlm

#endif // QLM_RUNTIME_MAPPEDMEMORY_H

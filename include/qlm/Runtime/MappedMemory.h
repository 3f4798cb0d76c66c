//===- MappedMemory.h - Files and buffers from mmap -------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_RUNTIME_MAPPEDMEMORY_H
#define QLM_RUNTIME_MAPPEDMEMORY_H

#include "qlm/Runtime/Status.h"

#include <atomic>
#include <cstddef>
#include <cstdint>
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

  /// Reads the whole regular file at \p path into memory of its own, as
  /// allocate() gives it, by \p threads threads. Where \p checksum is given, it
  /// becomes the sum of what was read. Unlike a mapping's, the bytes stay what
  /// they are when the file is changed or cut short later, and may lie in huge
  /// pages. Setting \p isCancelled ends it soon. Errors: NotFound, Io (also
  /// when cancelled), ResourceExhausted.
  static Result<MappedMemory>
  readFile(const std::string &path, int threads, uint64_t *checksum = nullptr,
           const std::atomic<bool> *isCancelled = nullptr);

  /// Maps \p bytes of zeros that take memory only once they are touched, in
  /// huge pages where the system has them; \p purpose names it in messages.
  /// Errors: ResourceExhausted.
  static Result<MappedMemory> allocate(size_t bytes, const char *purpose);

  /// Whether the system gives huge pages to allocations of \p bytes.
  static bool hasHugePages(size_t bytes);

  /// Makes all of an allocation resident now. Errors: ResourceExhausted, where
  /// the system can tell.
  Status touch() const;

  /// Asks the system to read the file ahead.
  void adviseWillNeed() const;

  /// Gives back the memory that reading a mapped file has taken; it may still
  /// be read.
  void adviseDontNeed() const;

  char *data() const { return static_cast<char *>(address); }
  size_t size() const { return bytes; }

private:
  void swap(MappedMemory &other);

  static Result<MappedMemory> readOpen(int descriptor, const std::string &path,
                                       int threads, uint64_t *checksum,
                                       const std::atomic<bool> *isCancelled);

  void *address = nullptr;
  size_t bytes = 0;
  size_t mappedBytes = 0;
};

} // namespace qlm

#endif // QLM_RUNTIME_MAPPEDMEMORY_H

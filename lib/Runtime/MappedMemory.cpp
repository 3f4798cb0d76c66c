//===- MappedMemory.cpp - Files and buffers from mmap ---------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/MappedMemory.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>

using namespace qlm;

static constexpr size_t hugePageBytes = size_t{2} << 20;
/// Smaller buffers would be rounded up to a huge page: more than was planned.
static constexpr size_t leastHugeBytes = 4 * hugePageBytes;

static Status systemError(StatusCode code, const std::string &what) {
  return Status(code, what + ": " + std::strerror(errno));
}

MappedMemory::~MappedMemory() {
  if (address)
    munmap(address, mappedBytes);
}

void MappedMemory::swap(MappedMemory &other) {
  std::swap(address, other.address);
  std::swap(bytes, other.bytes);
  std::swap(mappedBytes, other.mappedBytes);
}

/// Maps the open file \p descriptor over the beginning of a reservation that
/// is a page longer, so that reading past the file's end stays inside it.
static void *mapWithGuard(int descriptor, size_t size, size_t reserved) {
  void *address = mmap(nullptr, reserved, PROT_READ,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (address == MAP_FAILED || size == 0)
    return address;
  if (mmap(address, size, PROT_READ, MAP_PRIVATE | MAP_FIXED, descriptor, 0) !=
      MAP_FAILED)
    return address;
  int error = errno;
  munmap(address, reserved);
  errno = error;
  return MAP_FAILED;
}

Result<MappedMemory> MappedMemory::mapFile(const std::string &path) {
  int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0)
    return systemError(errno == ENOENT ? StatusCode::NotFound : StatusCode::Io,
                       path);
  struct stat info;
  Result<MappedMemory> result = Status(StatusCode::Io, path);
  if (fstat(descriptor, &info) != 0) {
    result = systemError(StatusCode::Io, path);
  } else if (!S_ISREG(info.st_mode)) {
    result = Status(StatusCode::Io, path + ": not a regular file");
  } else {
    MappedMemory memory;
    memory.bytes = static_cast<size_t>(info.st_size);
    size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    size_t reserved = (memory.bytes + page - 1) / page * page + page;
    void *address = mapWithGuard(descriptor, memory.bytes, reserved);
    if (address == MAP_FAILED) {
      result = systemError(StatusCode::Io, path);
    } else {
      memory.address = address;
      memory.mappedBytes = reserved;
      result = Result<MappedMemory>(std::move(memory));
    }
  }
  close(descriptor);
  return result;
}

Result<MappedMemory> MappedMemory::allocate(size_t bytes, const char *purpose) {
  MappedMemory memory;
  memory.bytes = bytes;
  size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  size_t reserved = (bytes + page - 1) / page * page + page;
  // What is mapped beyond goes back once the first huge page is known.
  size_t slack = bytes >= leastHugeBytes ? hugePageBytes : 0;
  void *start = mmap(nullptr, reserved + slack, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (start == MAP_FAILED)
    return systemError(StatusCode::ResourceExhausted,
                       "cannot map " + std::to_string(bytes) + " bytes for " +
                           purpose);
  char *address = static_cast<char *>(start);
  if (slack) {
    size_t before = -reinterpret_cast<uintptr_t>(address) & (hugePageBytes - 1);
    if (before)
      munmap(address, before);
    address += before;
    if (slack > before)
      munmap(address + reserved, slack - before);
    madvise(address, reserved, MADV_HUGEPAGE);
  }
  memory.address = address;
  memory.mappedBytes = reserved;
  return memory;
}

bool MappedMemory::hasHugePages(size_t bytes) {
  std::ifstream file("/sys/kernel/mm/transparent_hugepage/enabled");
  std::string text;
  std::getline(file, text);
  // "always [madvise] never"
  return bytes >= leastHugeBytes && file &&
         text.find("[never]") == std::string::npos;
}

Status MappedMemory::touch() const {
#ifdef MADV_POPULATE_WRITE
  if (!address || madvise(address, bytes, MADV_POPULATE_WRITE) == 0)
    return Status();
  if (errno != EINVAL)
    return systemError(StatusCode::ResourceExhausted,
                       "cannot reserve " + std::to_string(bytes) + " bytes");
#endif
  // Systems before Linux 5.14: write to each page.
  size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  for (size_t offset = 0; offset < bytes; offset += page)
    static_cast<volatile char *>(address)[offset] = 0;
  return Status();
}

void MappedMemory::adviseWillNeed() const {
  if (address)
    madvise(address, bytes, MADV_WILLNEED);
}

void MappedMemory::adviseDontNeed() const {
  if (address)
    madvise(address, bytes, MADV_DONTNEED);
}

//===- ReadIntoMemory.cpp - Reads a file by several threads ---------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Copying from the page cache takes a core longer than the memory: threads
// share the file in parts of 1 MiB. The checksum needs the parts in order;
// whichever thread finds that no other sums does it, as far as the parts are
// there, while they are still in a cache.
//
//===----------------------------------------------------------------------===//

#include "qlm/Package/Format.h"
#include "qlm/Runtime/MappedMemory.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <memory>
#include <mutex>
#include <sys/stat.h>
#include <thread>
#include <unistd.h>
#include <vector>

using namespace qlm;

/// A multiple of 32, as the checksum wants it.
static constexpr size_t partBytes = size_t{1} << 20;
/// More threads than this read no faster.
static constexpr int mostThreads = 8;

namespace {
class PartReader {
public:
  PartReader(int descriptor, char *to, size_t size, bool sums,
             const std::atomic<bool> *isCancelled)
      : descriptor(descriptor), to(to), size(size), sums(sums),
        isCancelled(isCancelled), parts((size + partBytes - 1) / partBytes),
        done(new std::atomic<bool>[parts]()) {}

  /// Reads parts until none are left; several threads may.
  void work() {
    while (failure == 0) {
      size_t part = next.fetch_add(1, std::memory_order_relaxed);
      if (part >= parts)
        return;
      bool isStopped = isCancelled && *isCancelled;
      if (int error = isStopped ? ECANCELED : read(part)) {
        failure = error;
        return;
      }
      done[part].store(true, std::memory_order_release);
      if (sums)
        sumUp();
    }
  }

  /// 0, an errno, or endedEarly.
  int getFailure() const { return failure; }
  /// After work(): the sum of all.
  uint64_t finish() {
    sumUp();
    return checksum.finish();
  }
  static constexpr int endedEarly = -1;

private:
  size_t length(size_t part) const {
    return std::min(partBytes, size - part * partBytes);
  }

  int read(size_t part) const {
    size_t begin = part * partBytes;
    for (size_t at = 0; at < length(part);) {
      ssize_t got = pread(descriptor, to + begin + at, length(part) - at,
                          static_cast<off_t>(begin + at));
      if (got < 0 && errno == EINTR)
        continue;
      if (got <= 0)
        return got < 0 ? errno : endedEarly;
      at += static_cast<size_t>(got);
    }
    return 0;
  }

  void sumUp() {
    std::unique_lock<std::mutex> lock(summing, std::try_to_lock);
    if (!lock)
      return;
    for (; summed < parts && done[summed].load(std::memory_order_acquire);
         ++summed)
      checksum.update(to + summed * partBytes, length(summed));
  }

  const int descriptor;
  char *const to;
  const size_t size;
  const bool sums;
  const std::atomic<bool> *isCancelled; ///< or null
  const size_t parts;
  std::unique_ptr<std::atomic<bool>[]> done;
  std::atomic<size_t> next{0};
  std::atomic<int> failure{0};
  std::mutex summing;
  size_t summed = 0;
  format::Checksum checksum;
};
} // namespace

Result<MappedMemory>
MappedMemory::readOpen(int descriptor, const std::string &path, int threads,
                       uint64_t *checksum,
                       const std::atomic<bool> *isCancelled) {
  struct stat info;
  if (fstat(descriptor, &info) != 0)
    return Status(StatusCode::Io, path + ": " + std::strerror(errno));
  if (!S_ISREG(info.st_mode))
    return Status(StatusCode::Io, path + ": not a regular file");
  size_t size = static_cast<size_t>(info.st_size);
  Result<MappedMemory> memory = allocate(size, "the weights");
  if (!memory.ok())
    return memory;
  PartReader reader(descriptor, memory->data(), size, checksum != nullptr,
                    isCancelled);
  std::vector<std::thread> helpers;
  for (int i = 1; i < std::min(threads, mostThreads); ++i)
    helpers.emplace_back([&] { reader.work(); });
  reader.work();
  for (std::thread &helper : helpers)
    helper.join();
  if (int error = reader.getFailure())
    return Status(StatusCode::Io,
                  path + ": " +
                      (error == PartReader::endedEarly
                           ? "file became shorter while it was read"
                           : std::strerror(error)));
  if (checksum)
    *checksum = reader.finish();
  return memory;
}

Result<MappedMemory>
MappedMemory::readFile(const std::string &path, int threads, uint64_t *checksum,
                       const std::atomic<bool> *isCancelled) {
  int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0)
    return Status(errno == ENOENT ? StatusCode::NotFound : StatusCode::Io,
                  path + ": " + std::strerror(errno));
  Result<MappedMemory> memory =
      readOpen(descriptor, path, threads, checksum, isCancelled);
  close(descriptor);
  return memory;
}

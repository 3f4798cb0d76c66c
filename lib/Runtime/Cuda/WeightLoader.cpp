//===- WeightLoader.cpp - Brings weights to the GPU -----------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "WeightLoader.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <fcntl.h>
#include <mutex>
#include <thread>
#include <unistd.h>

using namespace qlm;
using namespace qlm::cuda;

/// Bytes read at once: long enough that a copy's start costs nothing, short
/// enough to stay in a core's cache for the checksum. A multiple of the
/// checksum's 32 bytes.
static constexpr uint64_t kChunkBytes = 4 << 20;
/// More readers than this only wait for each other's checksum.
static constexpr int kMaxReaders = 8;

namespace {
/// Part of the file and where it goes.
struct Copy {
  uint64_t begin, end;
  DevicePointer to; ///< of begin
};

/// A file descriptor, closed with its owner.
struct File {
  explicit File(const std::string &path)
      : descriptor(open(path.c_str(), O_RDONLY | O_CLOEXEC)) {}
  ~File() {
    if (descriptor >= 0)
      close(descriptor);
  }
  int descriptor;
};

/// One pass over the file by several threads.
class Pass {
public:
  Pass(const Gpu &gpu, const std::string &path, uint64_t size,
       std::vector<Copy> copies, bool isVerified)
      : gpu(gpu), path(path), file(path), size(size), copies(std::move(copies)),
        isVerified(isVerified) {}

  Status run(int threads);
  const format::Checksum &getChecksum() const { return checksum; }

private:
  /// A pinned buffer, and when the GPU has read it.
  struct Buffer {
    PinnedMemory memory;
    OwnedEvent copied;
  };

  Status read();
  Status readChunk(char *to, uint64_t begin, uint64_t end) const;
  bool sum(const char *data, uint64_t index, uint64_t bytes);
  Status send(const char *data, uint64_t begin, uint64_t end, Stream stream);
  void fail(const Status &error);

  const Gpu &gpu;
  const std::string &path;
  const File file;
  const uint64_t size;
  const std::vector<Copy> copies; ///< by place in the file
  const bool isVerified;
  std::atomic<uint64_t> next{0};
  std::mutex mutex;
  std::condition_variable turnChanged;
  uint64_t turn = 0; ///< chunk to be summed next
  format::Checksum checksum;
  Status status;
};
} // namespace

void Pass::fail(const Status &error) {
  std::lock_guard<std::mutex> lock(mutex);
  if (status.ok())
    status = error;
  turnChanged.notify_all();
}

Status Pass::readChunk(char *to, uint64_t begin, uint64_t end) const {
  while (begin < end) {
    ssize_t count =
        pread(file.descriptor, to, end - begin, static_cast<off_t>(begin));
    if (count < 0 && errno == EINTR)
      continue;
    if (count < 0)
      return Status(StatusCode::Io, path + ": " + std::strerror(errno));
    if (count == 0)
      return Status(StatusCode::Corrupt, path + ": file ends at " +
                                             std::to_string(begin) + " of " +
                                             std::to_string(size) + " bytes");
    begin += static_cast<uint64_t>(count);
    to += count;
  }
  return Status();
}

/// Adds chunk \p index to the checksum when its turn has come; false when some
/// thread failed.
bool Pass::sum(const char *data, uint64_t index, uint64_t bytes) {
  std::unique_lock<std::mutex> lock(mutex);
  turnChanged.wait(lock, [&] { return turn == index || !status.ok(); });
  if (!status.ok())
    return false;
  lock.unlock(); // whose turn it is alone touches the checksum
  checksum.update(data, bytes);
  lock.lock();
  ++turn;
  turnChanged.notify_all();
  return true;
}

/// Starts the copies of the file's bytes begin .. end - 1, which lie at
/// \p data.
Status Pass::send(const char *data, uint64_t begin, uint64_t end,
                  Stream stream) {
  auto copy =
      std::partition_point(copies.begin(), copies.end(),
                           [&](const Copy &copy) { return copy.end <= begin; });
  for (; copy != copies.end() && copy->begin < end; ++copy) {
    uint64_t from = std::max(begin, copy->begin);
    uint64_t to = std::min(end, copy->end);
    QLM_CUDA_TRY(gpu.getDriver(), "bringing weights to the GPU",
                 cuMemcpyHtoDAsync, copy->to + (from - copy->begin),
                 data + (from - begin), to - from, stream);
  }
  return Status();
}

/// Reads chunks until none is left.
Status Pass::read() {
  QLM_RETURN_IF_ERROR(gpu.makeCurrent());
  const Driver &driver = gpu.getDriver();
  Buffer buffers[2];
  for (Buffer &buffer : buffers) {
    Result<PinnedMemory> memory =
        allocatePinned(gpu, kChunkBytes, "loading weights");
    if (!memory.ok())
      return memory.status();
    buffer.memory = memory.take();
    Result<OwnedEvent> event = makeEvent(gpu);
    if (!event.ok())
      return event.status();
    buffer.copied = event.take();
  }
  // After the buffers: it is destroyed first, when its copies are done.
  Result<OwnedStream> stream = makeStream(gpu);
  if (!stream.ok())
    return stream.status();

  Status result;
  for (int use = 0; result.ok(); ++use) {
    uint64_t index = next++, begin = index * kChunkBytes;
    if (begin >= size)
      break;
    uint64_t end = std::min(size, begin + kChunkBytes);
    Buffer &buffer = buffers[use % 2];
    char *data = static_cast<char *>(buffer.memory.get());
    const char *doing = "bringing weights to the GPU";
    if (use >= 2)
      result =
          QLM_CUDA_CALL(driver, doing, cuEventSynchronize, buffer.copied.get());
    if (result.ok())
      result = readChunk(data, begin, end);
    if (result.ok() && isVerified && !sum(data, index, end - begin))
      break;
    if (result.ok())
      result = send(data, begin, end, stream->get());
    if (result.ok())
      result = QLM_CUDA_CALL(driver, doing, cuEventRecord, buffer.copied.get(),
                             stream->get());
  }
  // Also after a failure: the buffers must not go while they are read.
  Status synced = QLM_CUDA_CALL(driver, "bringing weights to the GPU",
                                cuStreamSynchronize, stream->get());
  return result.ok() ? synced : result;
}

Status Pass::run(int threads) {
  if (file.descriptor < 0)
    return Status(StatusCode::Io, path + ": " + std::strerror(errno));
  auto work = [this] {
    if (Status result = read(); !result.ok())
      fail(result);
  };
  std::vector<std::thread> others;
  for (int i = 1; i < threads; ++i)
    others.emplace_back(work);
  work();
  for (std::thread &thread : others)
    thread.join();
  return status;
}

DeviceWeights::DeviceWeights(const Package &package) : package(package) {
  auto place = [&](const std::vector<Launch> &launches) {
    for (const Launch &launch : launches)
      for (const LaunchArgument &argument : launch.arguments) {
        if (argument.kind != LaunchArgumentKind::Weight ||
            !offsets.try_emplace(argument.key, bytes).second)
          continue;
        int64_t size =
            static_cast<int64_t>(package.getTensors().at(argument.key).bytes);
        int64_t unit = static_cast<int64_t>(format::kDeviceAlignment);
        bytes += (size + unit - 1) / unit * unit;
      }
  };
  place(package.getManifest().launches);
  place(package.getManifest().sampling);
}

Status DeviceWeights::load(const Gpu &gpu, int threads) {
  Result<DeviceMemory> allocated = allocateDevice(gpu, bytes, "weights");
  if (!allocated.ok())
    return allocated.status();
  memory = allocated.take();
  std::vector<Copy> copies;
  for (const auto &[key, offset] : offsets) {
    const TensorEntry &entry = package.getTensors().at(key);
    copies.push_back(
        {entry.offset, entry.offset + entry.bytes, memory.get() + offset});
  }
  std::sort(copies.begin(), copies.end(),
            [](const Copy &a, const Copy &b) { return a.begin < b.begin; });

  const FileInfo &info = package.getManifest().weights;
  std::string path = package.getPath() + "/" + info.file;
  bool isVerified = package.mustVerifyWeights();
  Pass pass(gpu, path, static_cast<uint64_t>(info.bytes), std::move(copies),
            isVerified);
  uint64_t chunks =
      (static_cast<uint64_t>(info.bytes) + kChunkBytes - 1) / kChunkBytes;
  int readers = static_cast<int>(
      std::min<uint64_t>(chunks, std::clamp(threads, 1, kMaxReaders)));
  QLM_RETURN_IF_ERROR(pass.run(readers));
  if (isVerified)
    return compareChecksum(pass.getChecksum(), info.checksum, path);
  return Status();
}

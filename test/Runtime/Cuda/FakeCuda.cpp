//===- FakeCuda.cpp - A CUDA driver without a GPU -------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "FakeCuda.h"

#include "../../../lib/Runtime/Cuda/DriverApi.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <dlfcn.h>
#include <elf.h>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <sys/mman.h>
#include <unistd.h>
#include <utility>
#include <vector>

using namespace qlm::cuda;
using qlm::test::FakeGpuKernel;

namespace {
using Address = unsigned long long;
Address toAddress(const void *pointer) {
  return reinterpret_cast<Address>(pointer);
}

/// Work of a stream, and the memory that it touches.
struct Operation {
  std::function<void()> run;
  std::vector<std::pair<Address, size_t>> ranges;
};

struct State {
  int devices = 1, capability = 90, version = 13000, sharedBytes = 232448;
  size_t memory = size_t{1} << 30;
  std::string failing;
  int failAt = 0, failError = 0;
  bool failForever = false;
  std::map<std::string, int> calls;
  std::string violations;
  int dependentLaunches = 0;
  size_t fetchedBytes = 0, usedBytes = 0;
  bool isStarted = false;
  int contexts = 0;
  std::map<Address, size_t> device, pinned; ///< live allocations
  std::set<void *> streams, events, modules, graphs, execs;
};

State &state() {
  static State *instance = new State();
  return *instance;
}
std::recursive_mutex mutex;
thread_local Context current = nullptr;
ContextObject *const theContext = reinterpret_cast<ContextObject *>(0x1000);

void violate(const std::string &what) { state().violations += what + "\n"; }

/// Counts a call; the error that it must fail with, or success.
int enter(const char *name, bool needsContext = true) {
  State &s = state();
  ++s.calls[name];
  if (s.failing == name && s.failAt > 0 && --s.failAt == 0) {
    if (s.failForever)
      s.failAt = 1;
    return s.failError;
  }
  if (needsContext && !current)
    violate(std::string(name) + ": no context is current on this thread");
  return kSuccess;
}

bool isInside(const std::map<Address, size_t> &allocations, Address begin,
              size_t bytes) {
  auto found = allocations.upper_bound(begin);
  if (found == allocations.begin())
    return false;
  --found;
  return begin + bytes <= found->first + found->second;
}
} // namespace

// The driver's objects.
namespace qlm::cuda {
struct ModuleObject {
  void *library;
  std::vector<FunctionObject *> functions;
};
struct FunctionObject {
  const FakeGpuKernel *kernel;
  int sharedBytes;
  int carveout = -1; ///< percent; -1 leaves it to the driver
  bool hasLargeClusters = false;
};
struct GraphObject {
  std::vector<Operation> operations;
};
struct GraphExecObject {
  std::vector<Operation> operations;
  int pending = 0;
};
struct EventObject {
  int asked = 0, recorded = 0;
  StreamObject *stream = nullptr;
};
struct StreamObject {
  std::deque<Operation> queue;
  GraphObject *capture = nullptr;

  void drain() {
    while (!queue.empty()) {
      Operation operation = std::move(queue.front());
      queue.pop_front();
      operation.run();
    }
  }
  /// Runs no more than what the event waits for.
  void drainUntil(const EventObject &event) {
    while (event.recorded < event.asked && !queue.empty()) {
      Operation operation = std::move(queue.front());
      queue.pop_front();
      operation.run();
    }
  }
};
} // namespace qlm::cuda

namespace {
/// Every stream that lives; the work waiting in one may use \p begin.
void checkUnused(const char *name, Address begin) {
  for (void *pointer : state().streams)
    for (const Operation &operation :
         static_cast<StreamObject *>(pointer)->queue)
      for (auto [at, bytes] : operation.ranges)
        if (at >= begin && at < begin + 1)
          violate(std::string(name) + ": memory is freed that work waits for");
}

int push(Stream stream, Operation operation) {
  if (!state().streams.count(stream)) {
    violate("a stream is used that doesn't live");
    return kInvalidHandle;
  }
  if (stream->capture)
    stream->capture->operations.push_back(std::move(operation));
  else
    stream->queue.push_back(std::move(operation));
  return kSuccess;
}

/// The allocation that holds \p address, whose begin stands for it in ranges.
std::pair<Address, size_t> rangeOf(const std::map<Address, size_t> &from,
                                   Address address, size_t bytes,
                                   const char *name) {
  if (!isInside(from, address, bytes)) {
    violate(std::string(name) + ": " + std::to_string(bytes) +
            " bytes are not inside one live allocation");
    return {0, 0};
  }
  return *--from.upper_bound(address);
}

int allocate(std::map<Address, size_t> &from, void **pointer, size_t bytes) {
  // 256-byte aligned, as the driver's; filled so that nobody counts on zeros.
  void *memory = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  std::memset(memory, 0xA5, bytes);
  from[toAddress(memory)] = bytes;
  *pointer = memory;
  return kSuccess;
}

int release(const char *name, std::map<Address, size_t> &from, void *pointer) {
  auto found = from.find(toAddress(pointer));
  if (found == from.end()) {
    violate(std::string(name) + ": the memory doesn't live");
    return kInvalidValue;
  }
  checkUnused(name, found->first);
  from.erase(found);
  std::free(pointer);
  return kSuccess;
}

int forget(const char *name, std::set<void *> &from, void *object) {
  if (from.erase(object))
    return kSuccess;
  violate(std::string(name) + ": the object doesn't live");
  return kInvalidHandle;
}
} // namespace

#define ENTER(...)                                                             \
  std::lock_guard<std::recursive_mutex> lock(mutex);                           \
  if (int error = enter(__func__, ##__VA_ARGS__))                              \
    return error;

extern "C" {
int cuInit(unsigned) {
  ENTER(false);
  state().isStarted = true;
  return state().devices ? kSuccess : kNoDevice;
}
int cuDriverGetVersion(int *version) {
  ENTER(false);
  *version = state().version;
  return kSuccess;
}
int cuGetErrorName(int error, const char **text) {
  *text = error == kOutOfMemory      ? "CUDA_ERROR_OUT_OF_MEMORY"
          : error == kNoDevice       ? "CUDA_ERROR_NO_DEVICE"
          : error == kIllegalAddress ? "CUDA_ERROR_ILLEGAL_ADDRESS"
          : error == kInvalidImage   ? "CUDA_ERROR_INVALID_IMAGE"
          : error == kNoBinaryForGpu ? "CUDA_ERROR_NO_BINARY_FOR_GPU"
                                     : nullptr;
  return *text ? kSuccess : kInvalidValue;
}
int cuGetErrorString(int error, const char **text) {
  *text = error == kOutOfMemory ? "out of memory" : nullptr;
  return *text ? kSuccess : kInvalidValue;
}
int cuDeviceGetCount(int *count) {
  ENTER(false);
  *count = state().devices;
  return kSuccess;
}
int cuDeviceGet(Device *device, int ordinal) {
  ENTER(false);
  *device = ordinal;
  return ordinal < state().devices ? kSuccess : kInvalidValue;
}
int cuDeviceGetName(char *name, int size, Device) {
  ENTER(false);
  std::strncpy(name, "Fake GPU", static_cast<size_t>(size));
  return kSuccess;
}
int cuDeviceGetAttribute(int *value, int attribute, Device) {
  ENTER(false);
  switch (attribute) {
  case kComputeCapabilityMajor:
    *value = state().capability / 10;
    return kSuccess;
  case kComputeCapabilityMinor:
    *value = state().capability % 10;
    return kSuccess;
  case kMaxSharedBytesOptin:
    *value = state().sharedBytes;
    return kSuccess;
  case kMultiprocessorCount:
    *value = 4;
    return kSuccess;
  }
  return kInvalidValue;
}
int cuDevicePrimaryCtxRetain(Context *context, Device) {
  ENTER(false);
  if (!state().isStarted)
    violate("cuDevicePrimaryCtxRetain: before cuInit");
  ++state().contexts;
  *context = theContext;
  return kSuccess;
}
int cuDevicePrimaryCtxRelease_v2(Device) {
  ENTER(false);
  --state().contexts;
  return kSuccess;
}
int cuCtxSetCurrent(Context context) {
  ENTER(false);
  if (context != theContext || state().contexts < 1)
    violate("cuCtxSetCurrent: the context doesn't live");
  current = context;
  return kSuccess;
}
int cuMemGetInfo_v2(size_t *free, size_t *total) {
  ENTER();
  *total = state().memory;
  *free = state().memory - state().usedBytes;
  return kSuccess;
}
int cuMemAlloc_v2(DevicePointer *pointer, size_t bytes) {
  ENTER();
  if (bytes == 0)
    return kInvalidValue;
  if (bytes > state().memory - state().usedBytes)
    return kOutOfMemory;
  state().usedBytes += bytes;
  void *memory = nullptr;
  int error = allocate(state().device, &memory, bytes);
  *pointer = toAddress(memory);
  return error;
}
int cuMemFree_v2(DevicePointer pointer) {
  ENTER();
  auto found = state().device.find(pointer);
  if (found != state().device.end())
    state().usedBytes -= found->second;
  return release(__func__, state().device, reinterpret_cast<void *>(pointer));
}
int cuMemAllocHost_v2(void **pointer, size_t bytes) {
  ENTER();
  return allocate(state().pinned, pointer, bytes);
}
int cuMemFreeHost(void *pointer) {
  ENTER();
  return release(__func__, state().pinned, pointer);
}
int cuMemcpyHtoDAsync_v2(DevicePointer to, const void *from, size_t bytes,
                         Stream stream) {
  ENTER();
  Operation operation;
  operation.ranges = {
      rangeOf(state().device, to, bytes, __func__),
      rangeOf(state().pinned, toAddress(from), bytes, __func__)};
  operation.run = [=] {
    std::memcpy(reinterpret_cast<void *>(to), from, bytes);
  };
  return push(stream, std::move(operation));
}
int cuMemcpyDtoHAsync_v2(void *to, DevicePointer from, size_t bytes,
                         Stream stream) {
  ENTER();
  Operation operation;
  operation.ranges = {rangeOf(state().device, from, bytes, __func__),
                      rangeOf(state().pinned, toAddress(to), bytes, __func__)};
  operation.run = [=] {
    std::memcpy(to, reinterpret_cast<void *>(from), bytes);
    state().fetchedBytes += bytes;
  };
  return push(stream, std::move(operation));
}
int cuMemsetD8Async(DevicePointer to, unsigned char value, size_t bytes,
                    Stream stream) {
  ENTER();
  Operation operation;
  operation.ranges = {rangeOf(state().device, to, bytes, __func__)};
  operation.run = [=] {
    std::memset(reinterpret_cast<void *>(to), value, bytes);
  };
  return push(stream, std::move(operation));
}
int cuStreamCreate(Stream *stream, unsigned) {
  ENTER();
  *stream = new StreamObject();
  state().streams.insert(*stream);
  return kSuccess;
}
int cuStreamDestroy_v2(Stream stream) {
  ENTER();
  if (forget(__func__, state().streams, stream))
    return kInvalidHandle;
  if (!stream->queue.empty())
    violate("cuStreamDestroy: work waits in the stream");
  delete stream;
  return kSuccess;
}
// Waiting that fails leaves nothing running, as when the GPU is lost.
int cuStreamSynchronize(Stream stream) {
  std::lock_guard<std::recursive_mutex> lock(mutex);
  if (int error = enter(__func__)) {
    stream->drain();
    return error;
  }
  if (stream->capture) {
    violate("cuStreamSynchronize: the stream is being captured");
    return kInvalidValue;
  }
  stream->drain();
  return kSuccess;
}
int cuStreamBeginCapture_v2(Stream stream, int) {
  ENTER();
  if (stream->capture)
    violate("cuStreamBeginCapture: the stream is being captured");
  stream->capture = new GraphObject();
  state().graphs.insert(stream->capture);
  return kSuccess;
}
int cuStreamEndCapture(Stream stream, Graph *graph) {
  std::lock_guard<std::recursive_mutex> lock(mutex);
  if (int error = enter(__func__)) {
    state().graphs.erase(stream->capture);
    delete std::exchange(stream->capture, nullptr);
    *graph = nullptr;
    return error;
  }
  *graph = stream->capture;
  stream->capture = nullptr;
  return *graph ? kSuccess : kInvalidValue;
}
int cuEventCreate(Event *event, unsigned) {
  ENTER();
  *event = new EventObject();
  state().events.insert(*event);
  return kSuccess;
}
int cuEventDestroy_v2(Event event) {
  ENTER();
  if (forget(__func__, state().events, event))
    return kInvalidHandle;
  delete event;
  return kSuccess;
}
int cuEventRecord(Event event, Stream stream) {
  ENTER();
  event->stream = stream;
  ++event->asked;
  return push(stream, {[event] { ++event->recorded; }, {}});
}
int cuEventSynchronize(Event event) {
  std::lock_guard<std::recursive_mutex> lock(mutex);
  if (int error = enter(__func__)) {
    if (event->stream)
      event->stream->drainUntil(*event);
    return error;
  }
  if (!event->stream) {
    violate("cuEventSynchronize: the event was never recorded");
    return kInvalidValue;
  }
  event->stream->drainUntil(*event);
  return kSuccess;
}
int cuEventElapsedTime(float *milliseconds, Event begin, Event end) {
  ENTER();
  if (!begin->recorded || !end->recorded)
    violate("cuEventElapsedTime: an event has not happened");
  *milliseconds = 0.5;
  return kSuccess;
}

/// The module's kernels. An image is a shared object, or "// ptx PATH", the
/// path of one.
int cuModuleLoadDataEx(Module *module, const void *image, unsigned, int *,
                       void **) {
  ENTER();
  std::string path;
  int descriptor = -1;
  if (std::memcmp(image, "// ptx ", 7) == 0) {
    path = static_cast<const char *>(image) + 7;
  } else if (std::memcmp(image, ELFMAG, SELFMAG) == 0) {
    auto *header = static_cast<const Elf64_Ehdr *>(image);
    size_t bytes =
        header->e_shoff + size_t{header->e_shnum} * header->e_shentsize;
    descriptor = memfd_create("fakecuda", 0);
    if (write(descriptor, image, bytes) != static_cast<ssize_t>(bytes))
      return kInvalidImage;
    path = "/proc/self/fd/" + std::to_string(descriptor);
  } else {
    return kInvalidImage;
  }
  void *library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (descriptor >= 0)
    close(descriptor);
  if (!library)
    return kInvalidImage;
  *module = new ModuleObject{library, {}};
  state().modules.insert(*module);
  return kSuccess;
}
int cuModuleUnload(Module module) {
  ENTER();
  if (forget(__func__, state().modules, module))
    return kInvalidHandle;
  for (FunctionObject *function : module->functions)
    delete function;
  dlclose(module->library);
  delete module;
  return kSuccess;
}
int cuModuleGetFunction(Function *function, Module module, const char *name) {
  ENTER();
  auto *kernels = static_cast<const FakeGpuKernel *>(
      dlsym(module->library, "fakeGpuKernels"));
  for (; kernels->name; ++kernels)
    if (std::strcmp(kernels->name, name) == 0) {
      *function = new FunctionObject{kernels, 48 << 10};
      module->functions.push_back(*function);
      return kSuccess;
    }
  return kNotFound;
}
int cuFuncSetAttribute(Function function, int attribute, int value) {
  ENTER();
  if (attribute == kSharedCarveout && value >= 0 && value <= 100) {
    function->carveout = value;
    return kSuccess;
  }
  if (attribute == kLargeClusters && value == 1) {
    function->hasLargeClusters = true;
    return kSuccess;
  }
  if (attribute != kMaxDynamicSharedBytes || value > state().sharedBytes)
    return kInvalidValue;
  function->sharedBytes = value;
  return kSuccess;
}

/// Kernels run with the values that the parameters have now.
int cuLaunchKernelEx(const LaunchConfig *config, Function function,
                     void **parameters, void **) {
  ENTER();
  const FakeGpuKernel *kernel = function->kernel;
  if (!config->gridX || !config->gridY || !config->gridZ || !config->blockX ||
      config->blockX > 1024)
    violate(std::string(kernel->name) + ": a grid or block without size");
  if (config->sharedBytes > static_cast<unsigned>(function->sharedBytes))
    violate(std::string(kernel->name) + ": more shared memory than it may");
  for (unsigned i = 0; i < config->attributeCount; ++i)
    if (config->attributes[i].id == kProgrammaticStreamSerialization) {
      ++state().dependentLaunches;
      // Kernels that divide a multiprocessor's cache differently never overlap.
      if (function->carveout != 100)
        violate(std::string(kernel->name) + ": has the driver's carveout");
    } else if (config->attributes[i].id == kClusterDimension) {
      unsigned blocks = config->attributes[i].value.cluster.x;
      if (blocks > kPortableCluster && !function->hasLargeClusters)
        violate(std::string(kernel->name) + ": larger clusters than it may");
      if (config->gridX % blocks)
        violate(std::string(kernel->name) + ": a part of a cluster");
    }
  Operation operation;
  std::vector<void *> values;
  for (int i = 0; i < kernel->parameters; ++i) {
    auto value = *static_cast<DevicePointer *>(parameters[i]);
    if (value % 256)
      violate(std::string(kernel->name) + ": argument " + std::to_string(i) +
              " is not aligned to 256 bytes");
    operation.ranges.push_back(rangeOf(state().device, value, 1, kernel->name));
    values.push_back(reinterpret_cast<void *>(value));
  }
  if (operation.ranges.empty() || !operation.ranges.back().second)
    return kIllegalAddress;
  auto x = static_cast<int64_t>(config->gridX);
  auto y = static_cast<int64_t>(config->gridY);
  operation.run = [=] {
    for (int64_t j = 0; j < y; ++j)
      for (int64_t i = 0; i < x; ++i)
        kernel->run(values.data(), i, j);
  };
  return push(config->stream, std::move(operation));
}
int cuGraphInstantiateWithFlags(GraphExec *exec, Graph graph,
                                unsigned long long) {
  ENTER();
  *exec = new GraphExecObject{graph->operations};
  state().execs.insert(*exec);
  return kSuccess;
}
int cuGraphUpload(GraphExec, Stream) {
  ENTER();
  return kSuccess;
}
int cuGraphLaunch(GraphExec exec, Stream stream) {
  ENTER();
  if (!state().execs.count(exec)) {
    violate("cuGraphLaunch: the graph doesn't live");
    return kInvalidHandle;
  }
  ++exec->pending;
  for (const Operation &operation : exec->operations)
    push(stream, operation);
  return push(stream, {[exec] { --exec->pending; }, {}});
}
int cuGraphExecDestroy(GraphExec exec) {
  ENTER();
  if (forget(__func__, state().execs, exec))
    return kInvalidHandle;
  if (exec->pending)
    violate("cuGraphExecDestroy: the graph waits in a stream");
  delete exec;
  return kSuccess;
}
int cuGraphDestroy(Graph graph) {
  ENTER();
  if (forget(__func__, state().graphs, graph))
    return kInvalidHandle;
  delete graph;
  return kSuccess;
}

//===----------------------------------------------------------------------===//
// For the tests
//===----------------------------------------------------------------------===//

void fakeCudaReset() { state() = State(); }
void fakeCudaSetDevices(int count) { state().devices = count; }
void fakeCudaSetCapability(int capability) { state().capability = capability; }
void fakeCudaSetVersion(int version) { state().version = version; }
void fakeCudaSetMemory(size_t bytes) { state().memory = bytes; }
void fakeCudaSetSharedBytes(int bytes) { state().sharedBytes = bytes; }
void fakeCudaFail(const char *function, int nth, int error, bool forever) {
  state().failing = function;
  state().failAt = nth;
  state().failError = error;
  state().failForever = forever;
}
int fakeCudaCalls(const char *function) { return state().calls[function]; }
int fakeCudaLiveObjects() {
  const State &s = state();
  return s.contexts +
         static_cast<int>(s.device.size() + s.pinned.size() + s.streams.size() +
                          s.events.size() + s.modules.size() + s.graphs.size() +
                          s.execs.size());
}
const char *fakeCudaViolations() { return state().violations.c_str(); }
int fakeCudaDependentLaunches() { return state().dependentLaunches; }
size_t fakeCudaFetchedBytes() { return state().fetchedBytes; }
}

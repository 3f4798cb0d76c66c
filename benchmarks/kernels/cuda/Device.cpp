//===- Device.cpp - A GPU for checks and timings of kernels ---------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Device.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <dlfcn.h>
#include <fstream>
#include <iterator>
#include <sstream>
#include <thread>

using namespace qlm::bench;

//===----------------------------------------------------------------------===//
// The driver's interface, as far as it is used
//===----------------------------------------------------------------------===//

namespace {

constexpr int kSharedBytesAttribute = 8, kLocalBytesAttribute = 3,
              kRegistersAttribute = 4;   // CUfunction_attribute
constexpr int kMultiprocessorCount = 16; // CUdevice_attribute
constexpr int kClusterDimension = 4, kStreamSerialization = 6;
constexpr int kNonBlocking = 1, kRelaxedCapture = 2;

/// CUlaunchAttribute and CUlaunchConfig.
struct LaunchAttribute {
  int id;
  char padding[4];
  union {
    char bytes[64];
    struct {
      unsigned x, y, z;
    } cluster;
    int serialization;
  } value;
};
struct LaunchConfig {
  unsigned gridX, gridY, gridZ, blockX, blockY, blockZ, sharedBytes;
  void *stream;
  LaunchAttribute *attributes;
  unsigned attributeCount;
};

struct Driver {
  void *library = nullptr;
  template <typename T> void find(T &function, const char *symbol) {
    function = reinterpret_cast<T>(dlsym(library, symbol));
    if (!function) {
      std::fprintf(stderr, "the CUDA driver has no %s\n", symbol);
      std::exit(1);
    }
  }
  int (*init)(unsigned);
  int (*deviceGet)(int *, int);
  int (*deviceName)(char *, int, int);
  int (*deviceAttribute)(int *, int, int);
  int (*retainContext)(void **, int);
  int (*setContext)(void *);
  int (*moduleLoad)(void **, const void *);
  int (*getFunction)(void **, void *, const char *);
  int (*setAttribute)(void *, int, int);
  int (*getAttribute)(int *, int, void *);
  int (*allocate)(Address *, size_t);
  int (*release)(Address);
  int (*toDevice)(Address, const void *, size_t);
  int (*toHost)(void *, Address, size_t);
  int (*fill)(Address, unsigned char, size_t);
  int (*streamCreate)(void **, unsigned);
  int (*streamSynchronize)(void *);
  int (*beginCapture)(void *, int);
  int (*endCapture)(void *, void **);
  int (*instantiate)(void **, void *, unsigned long long);
  int (*graphLaunch)(void *, void *);
  int (*graphExecDestroy)(void *);
  int (*graphDestroy)(void *);
  int (*eventCreate)(void **, unsigned);
  int (*eventRecord)(void *, void *);
  int (*eventSynchronize)(void *);
  int (*eventElapsed)(float *, void *, void *);
  int (*eventDestroy)(void *);
  int (*launch)(const LaunchConfig *, void *, void **, void **);
  int (*errorString)(int, const char **);

  Driver() {
    library = dlopen("libcuda.so.1", RTLD_NOW);
    if (!library) {
      std::fprintf(stderr, "no CUDA driver: %s\n", dlerror());
      std::exit(1);
    }
    find(init, "cuInit");
    find(deviceGet, "cuDeviceGet");
    find(deviceName, "cuDeviceGetName");
    find(deviceAttribute, "cuDeviceGetAttribute");
    find(retainContext, "cuDevicePrimaryCtxRetain");
    find(setContext, "cuCtxSetCurrent");
    find(moduleLoad, "cuModuleLoadData");
    find(getFunction, "cuModuleGetFunction");
    find(setAttribute, "cuFuncSetAttribute");
    find(getAttribute, "cuFuncGetAttribute");
    find(allocate, "cuMemAlloc_v2");
    find(release, "cuMemFree_v2");
    find(toDevice, "cuMemcpyHtoD_v2");
    find(toHost, "cuMemcpyDtoH_v2");
    find(fill, "cuMemsetD8_v2");
    find(streamCreate, "cuStreamCreate");
    find(streamSynchronize, "cuStreamSynchronize");
    find(beginCapture, "cuStreamBeginCapture_v2");
    find(endCapture, "cuStreamEndCapture");
    find(instantiate, "cuGraphInstantiateWithFlags");
    find(graphLaunch, "cuGraphLaunch");
    find(graphExecDestroy, "cuGraphExecDestroy");
    find(graphDestroy, "cuGraphDestroy");
    find(eventCreate, "cuEventCreate");
    find(eventRecord, "cuEventRecord");
    find(eventSynchronize, "cuEventSynchronize");
    find(eventElapsed, "cuEventElapsedTime");
    find(eventDestroy, "cuEventDestroy_v2");
    find(launch, "cuLaunchKernelEx");
    find(errorString, "cuGetErrorString");
  }
};

Driver &driver() {
  static Driver theDriver;
  return theDriver;
}

} // namespace

#define CHECK(call) check(driver().call, #call)

void Device::check(int result, const char *call) {
  if (!result)
    return;
  const char *text = "unknown error";
  driver().errorString(result, &text);
  std::fprintf(stderr, "%s: %s\n", call, text);
  std::exit(1);
}

//===----------------------------------------------------------------------===//
// The device
//===----------------------------------------------------------------------===//

Device::Device() {
  CHECK(init(0));
  int device;
  CHECK(deviceGet(&device, 0));
  char text[256];
  CHECK(deviceName(text, sizeof(text), device));
  name = text;
  CHECK(deviceAttribute(&multiprocessors, kMultiprocessorCount, device));
  void *context;
  CHECK(retainContext(&context, device));
  CHECK(setContext(context));
  CHECK(streamCreate(&stream, kNonBlocking));
}

Address Device::allocate(size_t bytes) {
  Address address;
  CHECK(allocate(&address, std::max<size_t>(bytes, 256)));
  allocations.push_back(address);
  return address;
}

void Device::release() {
  for (Address address : allocations)
    CHECK(release(address));
  allocations.clear();
}

Address Device::upload(const void *data, size_t bytes) {
  // Kernels may read up to 63 bytes past the end.
  Address address = allocate(bytes + 64);
  CHECK(fill(address, 0, bytes + 64));
  CHECK(toDevice(address, data, bytes));
  return address;
}

void Device::download(void *data, Address from, size_t bytes) {
  CHECK(toHost(data, from, bytes));
}

void Device::fill(Address to, uint8_t byte, size_t bytes) {
  CHECK(fill(to, byte, bytes));
}

Kernel Device::load(const std::string &path, const std::string &kernel,
                    unsigned sharedBytes) {
  std::ifstream file(path, std::ios::binary);
  std::string image((std::istreambuf_iterator<char>(file)), {});
  if (image.empty()) {
    std::fprintf(stderr, "cannot read %s\n", path.c_str());
    std::exit(1);
  }
  void *module;
  CHECK(moduleLoad(&module, image.c_str()));
  Kernel result;
  CHECK(getFunction(&result.function, module, kernel.c_str()));
  result.sharedBytes = sharedBytes;
  if (sharedBytes)
    CHECK(setAttribute(result.function, kSharedBytesAttribute,
                       static_cast<int>(sharedBytes)));
  return result;
}

int Device::getRegisters(const Kernel &kernel) {
  int value;
  CHECK(getAttribute(&value, kRegistersAttribute, kernel.function));
  return value;
}

int Device::getLocalBytes(const Kernel &kernel) {
  int value;
  CHECK(getAttribute(&value, kLocalBytesAttribute, kernel.function));
  return value;
}

void Device::launch(const Kernel &kernel,
                    const std::vector<Address> &arguments) {
  LaunchAttribute attributes[2] = {};
  LaunchConfig config = {};
  config.gridX = kernel.gridX;
  config.gridY = kernel.gridY;
  config.gridZ = kernel.gridZ;
  config.blockX = kernel.threads;
  config.blockY = config.blockZ = 1;
  config.sharedBytes = kernel.sharedBytes;
  config.stream = stream;
  config.attributes = attributes;
  auto add = [&]() -> LaunchAttribute & {
    return attributes[config.attributeCount++];
  };
  if (kernel.dependent) {
    LaunchAttribute &attribute = add();
    attribute.id = kStreamSerialization;
    attribute.value.serialization = 1;
  }
  if (kernel.cluster > 1) {
    LaunchAttribute &attribute = add();
    attribute.id = kClusterDimension;
    attribute.value.cluster = {kernel.cluster, 1, 1};
  }
  std::vector<void *> pointers;
  for (const Address &argument : arguments)
    pointers.push_back(const_cast<Address *>(&argument));
  CHECK(launch(&config, kernel.function, pointers.data(), nullptr));
}

void Device::synchronize() { CHECK(streamSynchronize(stream)); }

Device::Times Device::timeGraph(int count, const std::function<void(int)> &one,
                                int replays) {
  void *graph, *exec, *start, *end;
  CHECK(beginCapture(stream, kRelaxedCapture));
  for (int i = 0; i < count; ++i)
    one(i);
  CHECK(endCapture(stream, &graph));
  CHECK(instantiate(&exec, graph, 0));
  CHECK(eventCreate(&start, 0));
  CHECK(eventCreate(&end, 0));
  constexpr int kWarmUp = 3;
  std::vector<double> times;
  for (int i = 0; i < kWarmUp + replays; ++i) {
    CHECK(eventRecord(start, stream));
    CHECK(graphLaunch(exec, stream));
    CHECK(eventRecord(end, stream));
    CHECK(eventSynchronize(end));
    float milliseconds;
    CHECK(eventElapsed(&milliseconds, start, end));
    if (i >= kWarmUp)
      times.push_back(double(milliseconds) * 1e3 / count);
  }
  std::sort(times.begin(), times.end());
  CHECK(graphExecDestroy(exec));
  CHECK(graphDestroy(graph));
  CHECK(eventDestroy(start));
  CHECK(eventDestroy(end));
  return {times[times.size() / 2], times.front(), times.back()};
}

//===----------------------------------------------------------------------===//
// Cases and numbers
//===----------------------------------------------------------------------===//

Case::Case(const std::string &line) {
  std::istringstream stream(line);
  for (std::string word; stream >> word;) {
    size_t equals = word.find('=');
    if (equals != std::string::npos)
      words[word.substr(0, equals)] = word.substr(equals + 1);
  }
}

std::string Case::text(const std::string &key,
                       const std::string &otherwise) const {
  auto found = words.find(key);
  return found == words.end() ? otherwise : found->second;
}

int64_t Case::number(const std::string &key, int64_t otherwise) const {
  auto found = words.find(key);
  return found == words.end() ? otherwise : std::stoll(found->second);
}

std::vector<Case> qlm::bench::readCases(const std::string &path) {
  std::ifstream file(path);
  std::vector<Case> cases;
  for (std::string line; std::getline(file, line);)
    if (!line.empty())
      cases.emplace_back(line);
  if (cases.empty()) {
    std::fprintf(stderr, "no cases in %s\n", path.c_str());
    std::exit(1);
  }
  return cases;
}

void qlm::bench::writeTimings(const std::string &path,
                              const std::vector<Timing> &timings) {
  std::ofstream file(path);
  const char *between = "{";
  for (const Timing &each : timings) {
    char text[200];
    std::snprintf(text, sizeof(text),
                  "\"%s\": {\"us\": %.3f, \"gbps\": %.1f, \"tflops\": %.1f}",
                  each.label.c_str(), each.microseconds,
                  each.gigabytesPerSecond, each.teraOperations);
    file << between << text;
    between = ",\n ";
  }
  file << (timings.empty() ? "{}\n" : "}\n");
}

int qlm::bench::runCases(
    int argc, char **argv,
    const std::function<std::unique_ptr<CaseRun>(Device &, const std::string &,
                                                 const Case &, int)> &make) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: %s DIR [check|time|all]\n", argv[0]);
    return 2;
  }
  std::string folder = argv[1], mode = argc > 2 ? argv[2] : "all";
  Device device;
  std::printf("%s, %d multiprocessors\n", device.getName().c_str(),
              device.getMultiprocessors());
  int failures = 0, count = 0;
  std::vector<Timing> timings;
  for (const Case &words : readCases(folder + "/cases.txt")) {
    std::unique_ptr<CaseRun> run = make(device, folder, words, ++count);
    std::string said;
    if (mode != "time")
      failures += !run->check(said);
    if (run->isTimed() && mode != "check")
      timings.push_back(run->time(said));
    if (!said.empty())
      std::printf("%s  %s\n", run->describe().c_str(), said.c_str());
    std::fflush(stdout);
    device.release();
  }
  writeTimings(folder + "/times.json", timings);
  std::printf("%d cases, %d failed\n", count, failures);
  return failures ? 1 : 0;
}

void qlm::bench::parallelFor(int64_t count,
                             const std::function<void(int64_t)> &body) {
  std::atomic<int64_t> next(0);
  std::vector<std::thread> threads;
  unsigned processors = std::max(1u, std::thread::hardware_concurrency());
  for (unsigned t = 0; t < processors; ++t)
    threads.emplace_back([&] {
      for (int64_t i; (i = next++) < count;)
        body(i);
    });
  for (std::thread &thread : threads)
    thread.join();
}

std::vector<float> qlm::bench::randomNormal(size_t count, float deviation,
                                            uint64_t seed) {
  std::vector<float> values(count);
  constexpr size_t kChunk = 1 << 16;
  parallelFor(
      static_cast<int64_t>((count + kChunk - 1) / kChunk), [&](int64_t chunk) {
        std::mt19937_64 engine(seed * 1000003 + static_cast<uint64_t>(chunk));
        std::normal_distribution<float> distribution(0, deviation);
        size_t first = static_cast<size_t>(chunk) * kChunk;
        size_t last = std::min(count, first + kChunk);
        for (size_t i = first; i < last; ++i)
          values[i] = distribution(engine);
      });
  return values;
}

double qlm::bench::relativeError(const std::vector<double> &reference,
                                 const std::vector<double> &result) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < reference.size(); ++i) {
    difference += (result[i] - reference[i]) * (result[i] - reference[i]);
    norm += reference[i] * reference[i];
  }
  return std::sqrt(difference / std::max(norm, 1e-300));
}

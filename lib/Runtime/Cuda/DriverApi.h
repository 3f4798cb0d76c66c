//===- DriverApi.h - What we use of the CUDA driver API ---------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Our own declarations, so that no CUDA header is needed to build: values and
// layouts are those of the driver's stable binary interface. The fake driver
// of the tests includes them too.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_RUNTIME_CUDA_DRIVERAPI_H
#define QLM_LIB_RUNTIME_CUDA_DRIVERAPI_H

#include <cstddef>
#include <cstdint>

namespace qlm::cuda {

using Device = int;
using DevicePointer = unsigned long long;
using Context = struct ContextObject *;
using Module = struct ModuleObject *;
using Function = struct FunctionObject *;
using Stream = struct StreamObject *;
using Event = struct EventObject *;
using Graph = struct GraphObject *;
using GraphExec = struct GraphExecObject *;

/// CUresult: those that are told apart.
enum ErrorCode : int {
  kSuccess = 0,
  kInvalidValue = 1,
  kOutOfMemory = 2,
  kNoDevice = 100,
  kInvalidImage = 200,
  kNoBinaryForGpu = 209,
  kInvalidPtx = 218,
  kUnsupportedPtxVersion = 222,
  kInvalidHandle = 400,
  kNotFound = 500,
  kIllegalAddress = 700,
};

/// CUdevice_attribute.
enum DeviceAttribute : int {
  kMultiprocessorCount = 16,
  kComputeCapabilityMajor = 75,
  kComputeCapabilityMinor = 76,
  kMaxSharedBytesOptin = 97,
};

/// CUfunction_attribute.
enum FunctionAttribute : int {
  kMaxDynamicSharedBytes = 8,
  kSharedCarveout = 9, ///< percent of the first-level cache
  kLargeClusters = 14, ///< of more than kPortableCluster blocks
};

/// Blocks of a cluster that every GPU with clusters allows.
inline constexpr unsigned kPortableCluster = 8;

inline constexpr unsigned kStreamNonBlocking = 1;
inline constexpr unsigned kEventDefault = 0;
inline constexpr int kCaptureThreadLocal = 1;

/// CUlaunchAttributeID.
enum LaunchAttributeId : int {
  kClusterDimension = 4,
  kProgrammaticStreamSerialization = 6,
};

/// CUlaunchAttribute.
struct LaunchAttribute {
  int id;
  char padding[4];
  union {
    char bytes[64];
    struct {
      unsigned x, y, z;
    } cluster;
    int programmaticStreamSerialization;
  } value;
};
static_assert(sizeof(LaunchAttribute) == 72);

/// CUlaunchConfig.
struct LaunchConfig {
  unsigned gridX, gridY, gridZ;
  unsigned blockX, blockY, blockZ;
  unsigned sharedBytes;
  Stream stream;
  LaunchAttribute *attributes;
  unsigned attributeCount;
};
static_assert(sizeof(LaunchConfig) == 56);

// X(function, exported name, parameters). The names with a version are those
// that cuda.h gives the plain ones.
#define QLM_CUDA_FUNCTIONS(X)                                                  \
  X(cuInit, cuInit, (unsigned flags))                                          \
  X(cuDriverGetVersion, cuDriverGetVersion, (int *version))                    \
  X(cuGetErrorName, cuGetErrorName, (int error, const char **text))            \
  X(cuGetErrorString, cuGetErrorString, (int error, const char **text))        \
  X(cuDeviceGetCount, cuDeviceGetCount, (int *count))                          \
  X(cuDeviceGet, cuDeviceGet, (Device * device, int ordinal))                  \
  X(cuDeviceGetName, cuDeviceGetName, (char *name, int size, Device device))   \
  X(cuDeviceGetAttribute, cuDeviceGetAttribute,                                \
    (int *value, int attribute, Device device))                                \
  X(cuDevicePrimaryCtxRetain, cuDevicePrimaryCtxRetain,                        \
    (Context * context, Device device))                                        \
  X(cuDevicePrimaryCtxRelease, cuDevicePrimaryCtxRelease_v2, (Device device))  \
  X(cuCtxSetCurrent, cuCtxSetCurrent, (Context context))                       \
  X(cuMemGetInfo, cuMemGetInfo_v2, (size_t *free, size_t *total))              \
  X(cuMemAlloc, cuMemAlloc_v2, (DevicePointer * pointer, size_t bytes))        \
  X(cuMemFree, cuMemFree_v2, (DevicePointer pointer))                          \
  X(cuMemAllocHost, cuMemAllocHost_v2, (void **pointer, size_t bytes))         \
  X(cuMemFreeHost, cuMemFreeHost, (void *pointer))                             \
  X(cuMemcpyHtoDAsync, cuMemcpyHtoDAsync_v2,                                   \
    (DevicePointer to, const void *from, size_t bytes, Stream stream))         \
  X(cuMemcpyDtoHAsync, cuMemcpyDtoHAsync_v2,                                   \
    (void *to, DevicePointer from, size_t bytes, Stream stream))               \
  X(cuMemsetD8Async, cuMemsetD8Async,                                          \
    (DevicePointer to, unsigned char value, size_t bytes, Stream stream))      \
  X(cuStreamCreate, cuStreamCreate, (Stream * stream, unsigned flags))         \
  X(cuStreamDestroy, cuStreamDestroy_v2, (Stream stream))                      \
  X(cuStreamSynchronize, cuStreamSynchronize, (Stream stream))                 \
  X(cuStreamBeginCapture, cuStreamBeginCapture_v2, (Stream stream, int mode))  \
  X(cuStreamEndCapture, cuStreamEndCapture, (Stream stream, Graph * graph))    \
  X(cuEventCreate, cuEventCreate, (Event * event, unsigned flags))             \
  X(cuEventDestroy, cuEventDestroy_v2, (Event event))                          \
  X(cuEventRecord, cuEventRecord, (Event event, Stream stream))                \
  X(cuEventSynchronize, cuEventSynchronize, (Event event))                     \
  X(cuEventElapsedTime, cuEventElapsedTime,                                    \
    (float *milliseconds, Event begin, Event end))                             \
  X(cuModuleLoadDataEx, cuModuleLoadDataEx,                                    \
    (Module * module, const void *image, unsigned count, int *options,         \
     void **values))                                                           \
  X(cuModuleUnload, cuModuleUnload, (Module module))                           \
  X(cuModuleGetFunction, cuModuleGetFunction,                                  \
    (Function * function, Module module, const char *name))                    \
  X(cuFuncSetAttribute, cuFuncSetAttribute,                                    \
    (Function function, int attribute, int value))                             \
  X(cuLaunchKernelEx, cuLaunchKernelEx,                                        \
    (const LaunchConfig *config, Function function, void **parameters,         \
     void **extra))                                                            \
  X(cuGraphInstantiate, cuGraphInstantiateWithFlags,                           \
    (GraphExec * exec, Graph graph, unsigned long long flags))                 \
  X(cuGraphUpload, cuGraphUpload, (GraphExec exec, Stream stream))             \
  X(cuGraphLaunch, cuGraphLaunch, (GraphExec exec, Stream stream))             \
  X(cuGraphExecDestroy, cuGraphExecDestroy, (GraphExec exec))                  \
  X(cuGraphDestroy, cuGraphDestroy, (Graph graph))

} // namespace qlm::cuda

#endif // QLM_LIB_RUNTIME_CUDA_DRIVERAPI_H

//===- Driver.cpp - The CUDA driver, opened at run time -------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Driver.h"

#include <dlfcn.h>

using namespace qlm;
using namespace qlm::cuda;

Result<std::unique_ptr<Driver>> Driver::open(const std::string &library) {
  void *handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle)
    return Status(StatusCode::Unsupported,
                  std::string("no CUDA driver: ") + dlerror() +
                      "; the package needs an NVIDIA GPU and its driver");
  std::unique_ptr<Driver> driver(new Driver());
#define QLM_CUDA_FIND(function, symbol, parameters)                            \
  driver->function =                                                           \
      reinterpret_cast<int(*) parameters>(dlsym(handle, #symbol));             \
  if (!driver->function)                                                       \
    return Status(StatusCode::Unsupported,                                     \
                  library + ": the CUDA driver has no " #symbol                \
                            "; a driver of CUDA 12.0 or later is needed");
  QLM_CUDA_FUNCTIONS(QLM_CUDA_FIND)
#undef QLM_CUDA_FIND
  QLM_CUDA_TRY(*driver, "starting the CUDA driver", cuInit, 0);
  QLM_CUDA_TRY(*driver, "asking for the driver's version", cuDriverGetVersion,
               &driver->version);
  return driver;
}

Status Driver::makeError(int error, const char *call,
                         std::string_view doing) const {
  const char *name = nullptr, *text = nullptr;
  cuGetErrorName(error, &name);
  cuGetErrorString(error, &text);
  std::string message = std::string(call) + " failed with " +
                        (name ? name : "error " + std::to_string(error)) +
                        (text ? " (" + std::string(text) + ")" : "") +
                        " while " + std::string(doing);
  StatusCode code = StatusCode::Io;
  if (error == kOutOfMemory)
    code = StatusCode::ResourceExhausted;
  else if (error == kNoDevice || error == kInvalidImage ||
           error == kNoBinaryForGpu || error == kInvalidPtx ||
           error == kUnsupportedPtxVersion)
    code = StatusCode::Unsupported;
  return Status(code, message);
}

std::string cuda::versionText(int version) {
  return std::to_string(version / 1000) + "." +
         std::to_string(version % 1000 / 10);
}

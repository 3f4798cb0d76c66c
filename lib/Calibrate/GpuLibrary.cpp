//===- GpuLibrary.cpp - CUDA's libraries, opened at run time --------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "GpuLibrary.h"

using namespace qlm;

Status qlm::openGpuLibrary(const char *title,
                           const std::vector<std::string> &names,
                           const std::function<bool(void *library)> &findAll) {
  for (const std::string &name : names)
    if (void *library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
        library && findAll(library))
      return Status();
  return Status(StatusCode::Unsupported,
                std::string("cannot open ") + title + ": none of " +
                    std::to_string(names.size()) + " libraries, the last '" +
                    (names.empty() ? "" : names.back()) + "'");
}

Status qlm::checkGpuLibrary(int error, const char *call) {
  if (error == 0)
    return Status();
  return Status(StatusCode::Io,
                std::string(call) + " failed with " + std::to_string(error));
}

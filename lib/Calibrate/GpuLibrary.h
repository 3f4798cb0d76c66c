//===- GpuLibrary.h - CUDA's libraries, opened at run time ------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_CALIBRATE_GPULIBRARY_H
#define QLM_LIB_CALIBRATE_GPULIBRARY_H

#include "qlm/Runtime/Status.h"

#include <dlfcn.h>
#include <functional>
#include <string>
#include <vector>

namespace qlm {

/// Sets \p function to what \p library calls \p symbol; false without one.
template <typename Function>
bool findSymbol(void *library, const char *symbol, Function *&function) {
  function = reinterpret_cast<Function *>(dlsym(library, symbol));
  return function != nullptr;
}

/// Opens the first of \p names that there is and in which \p findAll finds what
/// is needed. It stays open for the process, as the driver does. \p title is
/// the library's in the error.
Status openGpuLibrary(const char *title, const std::vector<std::string> &names,
                      const std::function<bool(void *library)> &findAll);

/// The status of \p call, which gave \p error: 0 where all is well.
Status checkGpuLibrary(int error, const char *call);

} // namespace qlm

#endif // QLM_LIB_CALIBRATE_GPULIBRARY_H

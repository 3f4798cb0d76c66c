//===- Driver.h - The CUDA driver, opened at run time -----------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_RUNTIME_CUDA_DRIVER_H
#define QLM_LIB_RUNTIME_CUDA_DRIVER_H

#include "DriverApi.h"
#include "qlm/Runtime/Status.h"

#include <memory>
#include <string>
#include <string_view>

namespace qlm::cuda {

/// The functions of the driver's library. Immutable; may be shared by threads.
class Driver {
public:
  /// Opens \p library and initialises the driver. It stays open for the
  /// process: a driver's own threads outlive any of its objects.
  /// Errors: Unsupported (no such library, or one without a function that we
  /// use, or no GPU).
  static Result<std::unique_ptr<Driver>> open(const std::string &library);

  /// Success, or a Status that names the call, the driver's error and what was
  /// being done: "cuMemAlloc failed with CUDA_ERROR_OUT_OF_MEMORY (out of
  /// memory) while taking the arena". Errors: ResourceExhausted for memory,
  /// Unsupported for a missing GPU or code that it can't run, else Io.
  Status check(int error, const char *call, std::string_view doing) const {
    return error == kSuccess ? Status() : makeError(error, call, doing);
  }

  /// The CUDA version that the driver offers: 13000 for 13.0.
  int getVersion() const { return version; }

#define QLM_CUDA_MEMBER(function, symbol, parameters)                          \
  int(*function) parameters = nullptr;
  QLM_CUDA_FUNCTIONS(QLM_CUDA_MEMBER)
#undef QLM_CUDA_MEMBER

private:
  Driver() = default;
  Status makeError(int error, const char *call, std::string_view doing) const;

  int version = 0;
};

/// "13.0" of 13000.
std::string versionText(int version);

} // namespace qlm::cuda

/// Calls \p function of \p driver; a Status that says what was being done.
#define QLM_CUDA_CALL(driver, doing, function, ...)                            \
  (driver).check((driver).function(__VA_ARGS__), #function, doing)

/// The same, returning the Status when it failed.
#define QLM_CUDA_TRY(driver, doing, function, ...)                             \
  QLM_RETURN_IF_ERROR(QLM_CUDA_CALL(driver, doing, function, __VA_ARGS__))

#endif // QLM_LIB_RUNTIME_CUDA_DRIVER_H

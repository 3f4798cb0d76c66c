//===- Status.h - Errors of the runtime -------------------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_RUNTIME_STATUS_H
#define QLM_RUNTIME_STATUS_H

#include <optional>
#include <string>
#include <utility>

namespace qlm {

/// What kind of failure a Status reports. The tools map every kind but
/// `Internal` to exit code 1.
enum class StatusCode {
  Ok,
  InvalidArgument,   ///< a request or option breaks a rule
  NotFound,          ///< a file, tensor or name does not exist
  Corrupt,           ///< a file's content contradicts itself or its checksum
  Unsupported,       ///< well formed, but of a version or kind not handled
  ResourceExhausted, ///< does not fit in what was planned
  Io,                ///< the operating system refused
  Internal,          ///< a bug in the runtime
};

/// Success, or a failure with a one-line message (lower case, no full stop,
/// naming the file, tensor or option and the values).
class [[nodiscard]] Status {
public:
  Status() = default;
  Status(StatusCode code, std::string message)
      : code(code), text(std::move(message)) {}

  bool ok() const { return code == StatusCode::Ok; }
  StatusCode getCode() const { return code; }
  const std::string &message() const { return text; }

private:
  StatusCode code = StatusCode::Ok;
  std::string text;
};

/// A value, or the Status that says why there is none.
template <typename T> class [[nodiscard]] Result {
public:
  Result(T value) : value(std::move(value)) {}
  Result(Status status) : error(std::move(status)) {}

  bool ok() const { return value.has_value(); }
  const Status &status() const { return error; }
  T &operator*() { return *value; }
  const T &operator*() const { return *value; }
  T *operator->() { return &*value; }
  const T *operator->() const { return &*value; }
  /// Moves the value out; the Result must be ok.
  T take() { return std::move(*value); }

private:
  std::optional<T> value;
  Status error;
};

} // namespace qlm

/// Returns the Status of \p expr from the enclosing function when it failed.
#define QLM_RETURN_IF_ERROR(expr)                                              \
  do {                                                                         \
    if (::qlm::Status status_ = (expr); !status_.ok())                         \
      return status_;                                                          \
  } while (false)

#endif // QLM_RUNTIME_STATUS_H

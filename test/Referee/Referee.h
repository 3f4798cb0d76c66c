//===- Referee.h - Runs the definitions of operations -----------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Compiles a function of qlm operations through their definitions and runs it,
// so that kernels can be compared with what the operations mean.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_TEST_REFEREE_H
#define QLM_TEST_REFEREE_H

#include "mlir/ExecutionEngine/ExecutionEngine.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/BuiltinTypes.h"
#include "llvm/Support/Error.h"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace qlm::test {

/// A dense row-major array: `bytes` holds elements of `elementBytes` each (an
/// i4 or ui4 element takes one byte).
struct Array {
  std::vector<int64_t> shape;
  int64_t elementBytes = 4;
  std::vector<uint8_t> bytes;

  int64_t count() const;
  /// An array of \p values.
  template <typename T>
  static Array of(std::vector<int64_t> shape, const std::vector<T> &values) {
    Array array{std::move(shape), sizeof(T), {}};
    auto *data = reinterpret_cast<const uint8_t *>(values.data());
    array.bytes.assign(data, data + values.size() * sizeof(T));
    return array;
  }
  /// The elements as \p T, whose size must be `elementBytes`.
  template <typename T> std::vector<T> as() const {
    auto *data = reinterpret_cast<const T *>(bytes.data());
    return std::vector<T>(data, data + bytes.size() / sizeof(T));
  }
};

/// What to compile of a module.
struct RefereeOptions {
  /// The function's name.
  std::string entry = "main";
  /// The size that every dynamic dimension of the function gets; 0 when it has
  /// none.
  int64_t tokens = 0;
};

/// A compiled function.
class Referee {
public:
  /// Compiles a function of the module in \p text, whose argument and result
  /// types are static tensors, once `tokens` is put in. Each `qlm.load` of it
  /// becomes what the module's `qlm.source` folder holds. Fails with the
  /// diagnostics.
  static llvm::Expected<std::unique_ptr<Referee>>
  compile(llvm::StringRef text, const RefereeOptions &options = {});

  /// Runs the function. Fails when the inputs don't fit its arguments.
  llvm::Expected<std::vector<Array>> run(const std::vector<Array> &inputs);

  /// The function's type, without dynamic dimensions.
  mlir::FunctionType getType() const { return type; }

private:
  Referee() = default;
  std::unique_ptr<mlir::MLIRContext> context;
  std::unique_ptr<mlir::ExecutionEngine> engine;
  mlir::FunctionType type;
  std::string entry;
  /// Values of the loads, passed behind the inputs.
  std::vector<Array> parameters;
};

} // namespace qlm::test

#endif // QLM_TEST_REFEREE_H

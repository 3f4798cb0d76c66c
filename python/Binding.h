//===- Binding.h - What the binding's files share ---------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_PYTHON_BINDING_H
#define QLM_PYTHON_BINDING_H

#include "qlm/Runtime/Status.h"

#include <nanobind/nanobind.h>
#include <stdexcept>

/// Becomes Python's qlm.Error.
struct Failure : std::runtime_error {
  explicit Failure(const qlm::Status &status)
      : std::runtime_error(status.message()) {}
};

/// Becomes Python's qlm.Busy: a queue is full, try again.
struct Busy : Failure {
  using Failure::Failure;
};

void bindEngine(nanobind::module_ &module);

#endif // QLM_PYTHON_BINDING_H

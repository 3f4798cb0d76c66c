//===- CudaPackage.h - The fake package, for a GPU --------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_TEST_RUNTIME_CUDA_CUDAPACKAGE_H
#define QLM_TEST_RUNTIME_CUDA_CUDAPACKAGE_H

#include "../Core/FakePackage.h"
#include "qlm/Runtime/Model.h"

namespace qlm::test {

/// The fake model compiled for sm_90a, with PTX for sm_80, and with kernels
/// that choose tokens. \p change may edit the manifest.
class CudaPackage : public FakePackage {
public:
  explicit CudaPackage(
      const FakeLimits &limits = {},
      const std::function<void(Json &)> &change = [](Json &) {});

  /// Loads it with the fake driver.
  Result<std::unique_ptr<Model>> load() const;
  /// The message with which loading fails.
  std::string refusal() const;
};

/// The bytes that stand for a cubin.
std::string fakeCubin();

} // namespace qlm::test

#endif // QLM_TEST_RUNTIME_CUDA_CUDAPACKAGE_H

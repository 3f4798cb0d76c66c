//===- FakePackage.h - A package written for a test -------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_TEST_RUNTIME_CORE_FAKEPACKAGE_H
#define QLM_TEST_RUNTIME_CORE_FAKEPACKAGE_H

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace qlm::test {

using Json = nlohmann::json;

/// Limits of the plan.
struct FakeLimits {
  int64_t maxBatch = 3, maxContext = 64, maxStepTokens = 8;
};

/// A correct manifest of the fake model, checksums and sizes of files zero.
Json fakeManifest(const FakeLimits &limits = {});

/// The bytes of a safetensors file of float32 tensors [rows, fakeHidden].
std::string safetensors(
    const std::vector<std::pair<std::string, std::vector<float>>> &tensors);

/// Checksum as the manifest spells it.
std::string checksumOf(const std::string &bytes);

/// A package of the fake model in a temporary folder, removed with the object.
class FakePackage {
public:
  /// \p change may edit the manifest before it is written, checksums in place.
  explicit FakePackage(
      const FakeLimits &limits = {},
      const std::function<void(Json &)> &change = [](Json &) {});
  ~FakePackage();

  const std::string &path() const { return folder; }
  std::string file(const char *name) const { return folder + "/" + name; }
  std::string read(const char *name) const;
  void write(const char *name, const std::string &bytes) const;
  /// Replaces the manifest's text.
  void writeManifest(const Json &manifest) const;
  Json readManifest() const;

private:
  std::string folder;
};

} // namespace qlm::test

#endif // QLM_TEST_RUNTIME_CORE_FAKEPACKAGE_H

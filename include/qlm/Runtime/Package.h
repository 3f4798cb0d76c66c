//===- Package.h - A loaded package -----------------------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_RUNTIME_PACKAGE_H
#define QLM_RUNTIME_PACKAGE_H

#include "qlm/Package/Format.h"
#include "qlm/Runtime/Manifest.h"
#include "qlm/Runtime/MappedMemory.h"
#include "qlm/Runtime/TensorTable.h"

#include <atomic>
#include <memory>
#include <string>
#include <vector>

namespace qlm {

/// Where the weights of a package for the processor lie. Huge pages are read a
/// tenth to a fifth faster than pages of 4 KiB, which is all that the mapping
/// of a file has on most file systems; copying takes time at the start, and
/// memory that no other process shares.
enum class WeightsMemory {
  /// Copied where the system has huge pages and memory for them: large weights
  /// late, others while loading.
  Automatic,
  HugePages, ///< copied while loading
  /// Mapped while loading, so that the first token comes soon; copied by a
  /// thread of its own after the first step.
  Late,
  Mapped ///< in the page cache; cutting the file short ends the process
};

/// A package on disk, checked, with its weights mapped and its kernels found.
/// Immutable; may be shared by threads.
///
/// A package holds machine code, so it is trusted like a program: checksums
/// find damage, not malice.
class Package {
public:
  struct Options {
    /// Compare the weights with their checksum: reads the whole file once. For
    /// a GPU it is done while they are brought there.
    bool verifyWeights = true;
    /// Where the processor reads the weights.
    WeightsMemory weightsMemory = WeightsMemory::Automatic;
    /// Threads that read the file where it is copied.
    int threads = 1;
    /// Never copy late.
    bool copyWhileLoading = false;
  };

  /// Loads the package folder at \p path.
  /// Errors: NotFound (no package, or a file of it missing), Corrupt
  /// (truncated, damaged, or in contradiction to itself), Unsupported (another
  /// version, or a processor without the features), Io.
  static Result<std::unique_ptr<Package>> load(const std::string &path,
                                               const Options &options);
  ~Package();
  Package(const Package &) = delete;
  Package &operator=(const Package &) = delete;

  const std::string &getPath() const { return path; }
  const Manifest &getManifest() const { return manifest; }
  const TensorTable &getTensors() const { return tensors; }
  /// Whether the weights were copied, and not mapped.
  bool areWeightsCopied() const { return weightsCopied; }
  /// Whether weights that are mapped are to be copied after the first step.
  bool isCopyDue() const { return copyDue; }
  /// Reads the file of the weights into memory of its own, by one thread, and
  /// compares its checksum. Setting \p isCancelled ends it soon, with an error
  /// that says nothing. Errors: Io, Corrupt, ResourceExhausted.
  Result<MappedMemory> copyWeights(const std::atomic<bool> &isCancelled) const;
  /// What the caller should know about where the weights are; often empty.
  const std::string &note() const { return notes; }
  /// All bytes of the weights' file.
  const MappedMemory &weightsMemory() const { return weights; }
  /// Whether the weights' checksum is still to be compared.
  bool mustVerifyWeights() const { return verifyLater; }
  /// The content of a file that the manifest names, its size and checksum
  /// compared. Errors: NotFound, Io, Corrupt.
  Result<std::string> readChecked(const FileInfo &info) const;
  /// The kernel of each launch, in the launches' order; none for a GPU.
  const std::vector<format::KernelFunction> &getKernels() const {
    return kernels;
  }

private:
  Package() = default;
  Status loadWeights(const Options &options);
  Status mapWeights(const Options &options);
  /// The file of the weights, read into memory; its size is compared, its
  /// checksum given where it is wanted.
  Result<MappedMemory>
  readWeightsFile(int threads, uint64_t *checksum,
                  const std::atomic<bool> *isCancelled = nullptr) const;
  Status readWeights(const Options &options);
  Status checkWeightsTable();
  Status openModule();

  std::string path;
  Manifest manifest;
  MappedMemory weights;
  TensorTable tensors;
  bool weightsCopied = false, copyDue = false, verifyLater = false;
  std::string notes;
  void *module = nullptr;
  std::vector<format::KernelFunction> kernels;
};

/// Reads and checks the manifest of the package at \p path alone; neither
/// weights nor code are touched. Errors as Package::load.
Result<Manifest> readManifest(const std::string &path);

/// Fails with Corrupt unless \p checksum, taken over \p file, is \p expected,
/// which the manifest gives.
Status compareChecksum(uint64_t checksum, const std::string &expected,
                       const std::string &file);

/// The whole content of a small file. Errors: NotFound, Io.
Result<std::string> readFile(const std::string &path);

} // namespace qlm

#endif // QLM_RUNTIME_PACKAGE_H

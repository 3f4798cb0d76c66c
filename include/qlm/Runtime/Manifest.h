//===- Manifest.h - What a package says of itself ---------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// manifest.json as structs. Its form is described in qlm/Package/Format.h.
// Every number is checked while reading: ranges first, then what must agree
// with what, so that code behind the manifest can add and multiply freely.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_RUNTIME_MANIFEST_H
#define QLM_RUNTIME_MANIFEST_H

#include "qlm/Package/Format.h"
#include "qlm/Runtime/Status.h"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace qlm {

/// The model's shape, as its config named it.
struct ModelInfo {
  std::string architecture;
  std::string name;
  int64_t vocabularySize = 0;
  int64_t hiddenSize = 0;
  int64_t layers = 0;
  int64_t heads = 0;
  int64_t kvHeads = 0;
  int64_t headDim = 0;
  int64_t intermediateSize = 0;
  int64_t contextLength = 0;
  int64_t parameters = 0;
  std::optional<int32_t> bosTokenId;
  std::vector<int32_t> eosTokenIds;
};

/// How the weights were quantized, for people to read.
struct QuantizationInfo {
  std::string weights;
  std::string scheme;
  std::string activations;
  std::string method;
};

/// One file of the package and the checksum it must have.
struct FileInfo {
  std::string file;     ///< file name inside the package
  int64_t bytes = -1;   ///< -1 when the manifest doesn't say
  std::string checksum; ///< 16 hex digits
};

/// What a kernel of a GPU takes, as its assembler said.
struct KernelResources {
  std::string kernel;
  int64_t registers = 0;   ///< of a thread
  int64_t spillBytes = 0;  ///< of registers that found no place
  int64_t stackBytes = 0;  ///< of a thread
  int64_t sharedBytes = 0; ///< of a block, without what a launch adds
};

/// Machine code for one GPU, or PTX for those that came later.
struct GpuModule {
  std::string chip;       ///< "sm_90a": LLVM's name
  int64_t ptxVersion = 0; ///< of PTX: 83 is 8.3
  FileInfo file;
  std::vector<KernelResources> kernels; ///< empty where it isn't known
};

/// What the package was compiled for.
struct TargetInfo {
  std::string kind; ///< "cpu" or "cuda"
  // Of a processor:
  std::string cpu;
  std::vector<std::string> features; ///< LLVM's names
  std::string module;                ///< file name inside the package
  std::string moduleChecksum;        ///< 16 hex digits
  int64_t moduleBytes = 0;
  // Of GPUs:
  std::vector<GpuModule> chips;
  std::optional<GpuModule> ptx;

  bool isCuda() const { return kind == "cuda"; }
};

/// The paged KV cache: `layers` pools of `pages` pages.
struct KvPlan {
  std::string type; ///< "f32", "f16" or "bf16"
  int64_t pageTokens = 0;
  int64_t layers = 0;
  int64_t pages = 0;         ///< of each layer
  int64_t pageBytes = 0;     ///< of one page of one layer
  int64_t poolBytes = 0;     ///< layers * pages * pageBytes
  int64_t bytesPerToken = 0; ///< over all layers
};

/// Limits of a step and the memory planned for them, in bytes.
struct MemoryPlan {
  int64_t maxBatch = 0;
  int64_t maxContext = 0;
  int64_t maxStepTokens = 0;
  int64_t maxLogitRows = 0;
  int64_t arenaBytes = 0;
  int64_t scratchBytes = 0;   ///< of each thread
  int64_t workspaceBytes = 0; ///< of a GPU
  KvPlan kv;
  int64_t logitsBytes = 0;
  int64_t peakBytes = 0; ///< resident at most, besides the process itself

  /// Entries of a block table.
  int64_t maxPagesPerSequence() const {
    return (maxContext + kv.pageTokens - 1) / kv.pageTokens;
  }
};

/// What a launch's buffer is.
enum class LaunchArgumentKind {
  Weight,
  Arena,
  Step,
  Cache,
  Logits,
  Workspace,
  Sampling,
  Sampled
};

/// One buffer of a launch.
struct LaunchArgument {
  LaunchArgumentKind kind = LaunchArgumentKind::Arena;
  std::string key; ///< of a weight
  /// Offset in arena or workspace, step argument, or layer of the cache.
  int64_t value = 0;
};

/// Which size of a step counts a launch's tiles.
enum class TileSize { One, Tokens, Sequences, LogitRows };

/// `count * ceil(size / block)` tiles or thread blocks.
struct Tiles {
  int64_t count = 1;
  TileSize size = TileSize::One;
  int64_t block = 1;
};

/// The size \p which of a step.
int64_t sizeOf(TileSize which, const format::StepSizes &sizes);
/// Tiles of a step with \p sizes.
int64_t countTiles(const Tiles &tiles, const format::StepSizes &sizes);

/// One way to run a launch on a GPU.
struct LaunchVariant {
  std::string kernel;
  std::string chip; ///< only on this one; empty means on all
  int64_t maxRows = 0;
  bool isDecodeOnly = false; ///< for steps in which each sequence has one row
  Tiles grid, gridY;
  int64_t blockThreads = 0;
  int64_t sharedBytes = 0;
  int64_t cluster = 1;
  bool isDependent = false; ///< may begin before the launch before it ends
};

/// One kernel call of a step.
struct Launch {
  std::string kernel; ///< on a GPU, that of the first variant
  std::string label;
  Tiles tiles;
  TileSize rows = TileSize::Tokens; ///< what LaunchVariant::maxRows counts
  std::vector<LaunchVariant> variants;
  std::vector<LaunchArgument> arguments;
  int64_t bytes = 0; ///< of weights that it reads
  int64_t flopsPerRow = 0;
};

/// The label and the features of what a launch observes, from a label
/// "observe:LABEL:FEATURES"; nothing where it is of another form.
std::optional<std::pair<std::string, int64_t>>
parseObserveLabel(const std::string &label);

/// manifest.json, checked.
struct Manifest {
  std::string checksum; ///< of the manifest's text; empty if it says none
  std::string producer;
  ModelInfo model;
  QuantizationInfo quantization;
  TargetInfo target;
  FileInfo weights;
  std::vector<FileInfo> files; ///< besides the module and the weights
  MemoryPlan plan;
  std::vector<Launch> launches;
  std::vector<Launch> sampling; ///< choose tokens on the device; may be empty
};

/// Reads a manifest; \p name stands for the file in messages. Thread safe.
///
/// Errors: Corrupt (not JSON, a field missing, out of range or in
/// contradiction to another), Unsupported (another format version or target
/// kind).
Result<Manifest> parseManifest(std::string_view json, const std::string &name);

} // namespace qlm

#endif // QLM_RUNTIME_MANIFEST_H

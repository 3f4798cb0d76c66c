//===- Format.h - What compiler and runtime agree on ------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// clang-format off
// The one header that the compiler and the runtime share. A package is a
// folder:
//
//   manifest.json          plan, launches, versions, checksums (below)
//   weights.safetensors    packed tensors, data aligned to 64 bytes
//   module.cpu.so          the kernels, of a package for the processor; or
//   module.CHIP.cubin      the kernels for each GPU, and
//   module.ptx             the same for GPUs that came later
//   tokenizer.json, tokenizer_config.json, generation_config.json, config.json
//                          copied from the model, those that it has
//
// manifest.json, one object (all sizes in bytes unless said otherwise):
//
//   {
//     "format": "qlm-package", "version": 2,
//     "checksum": hex64,                         // of this file; see below
//     "producer": "quantc 0.1.0",
//     "model": {"architecture": "llama", "name": str, "vocabulary_size": int,
//               "hidden_size": int, "layers": int, "heads": int,
//               "kv_heads": int, "head_dim": int, "intermediate_size": int,
//               "context_length": int, "bos_token_id": int|null,
//               "eos_token_ids": [int], "parameters": int,
//               "windows": [int]}, // optional, of each layer: how many of the
//                                  // last keys tokens see; 0: all
//     "quantization": {"weights": "int4-g128"|"int8"|"bf16"|..., "scheme": str,
//                      "activations": "none"|"bf16"|"int8-dynamic"|
//                                     "int8-static"|"fp8-dynamic",
//                      "method": "rtn"|"none"},
//     "target": {"kind": "cpu", "cpu": str, "features": ["avx512vnni", ...],
//                "module": "module.cpu.so", "module_checksum": hex64,
//                "module_bytes": int},         // or, for a GPU:
//               {"kind": "cuda",
//                "chips": [{"chip": "sm_90a"|..., "file": str,
//                           "checksum": hex64, "bytes": int,
//                           "kernels": {NAME: {"registers": int, // a thread's
//                                              "spill_bytes": int,
//                                              "stack_bytes": int,
//                                              "shared_bytes": int}}}],
//                                          // as ptxas says; optional, a report
//                "ptx": {"chip": str, "version": int, // of the PTX ISA, 84 is 8.4
//                        "file": str, "checksum": hex64, "bytes": int}|null},
//     "weights": {"file": "weights.safetensors", "bytes": int,
//                 "checksum": hex64},
//     "files": {"tokenizer.json": hex64, ...},
//     "plan": {"max_batch": int, "max_context": int, "max_step_tokens": int,
//              "max_logit_rows": int, "arena_bytes": int,
//              "scratch_bytes": int,            // of each thread; cpu
//              "workspace_bytes": int,          // cuda
//              "kv": {"type": "f32"|"f16"|"bf16"|"int8"|"fp8",
//                     "page_tokens": int,
//                     "layers": int, "pages": int, // of each layer
//                     "page_bytes": int,           // of one layer; a multiple
//                                                  // of 256 on cuda
//                     "pool_bytes": int,           // layers * pages * page_bytes
//                     "bytes_per_token": int},
//              "logits_bytes": int, "peak_bytes": int},
//     "launches": [{"kernel": str, "label": str,
//                   "tiles": {"count": int, "size": "one"|"tokens"|"sequences"
//                                                   |"logit_rows", "block": int},
//                   "args": [["weight", key] | ["arena", offset] |
//                            ["step", index] | ["cache", layer] | ["logits", 0]
//                            | ["workspace", offset]],
//                   "bytes": int, "flops_per_row": int,
//                   "tuning": {...}}],       // optional: what --tune chose
//     "sampling": [...],       // cuda, optional: launches that choose tokens;
//                              // they may have ["sampling", 0] (SampleRequest
//                              // [logit_rows]) and ["sampled", 0] (SampleResult
//                              // [logit_rows]) among their args; where one has
//                              // ["step", 0], it leaves the token of wanted row
//                              // i in tokens[i], to feed the next step
//     "accuracy": {...}                          // optional card
//   }
//
// On cuda a launch has, instead of "kernel" and "tiles":
//
//   "rows": "tokens"|"sequences"|"logit_rows",   // what max_rows counts
//   "variants": [{"kernel": str, "chip": str,     // chip: only on it; optional
//                 "max_rows": int,
//                 "decode_only": bool,            // each sequence has one row
//                 "grid": {"count", "size", "block"},   // as "tiles"; a
//                             // count may be 0: nothing is launched, since a
//                             // neighbour's kernel does the launch's work
//                 "grid_y": {"count", "size", "block"}, // optional, 1
//                 "block_threads": int, "shared_bytes": int, "cluster": int,
//                 "dependent": bool}]             // programmatic launch
//
// The first variant that fits the step is run: its chip is the GPU's, its
// max_rows are at least the rows that the step, or the bucket that a captured
// step stands for, has at most. A launch must have one for the largest step.
//
// A launch whose label is "observe:LABEL:FEATURES" does nothing but show the
// rows of its first argument, float32 [rows, FEATURES], to a calibration.
//
// A "checksum" is FNV-1a over 64-bit words, mixed in four lanes, as 16 hex
// digits (class Checksum below), of a whole file. It finds damage, not malice.
// The manifest's own is taken with kNoChecksum in its place.
//
// weights.safetensors is a plain safetensors file. The spaces that end its
// header make the data begin at a multiple of 64 bytes of the file. Tensors
// stand in the order of their first use. The format allows no holes, so where
// a tensor's end is not a multiple of 64, a U8 tensor `__pad.N` of the missing
// bytes follows; one of at least 64 bytes follows the last tensor, so that a
// mapping may be read past it.
//
// Packed layouts, N output features (rows) and K input features (columns),
// NB = ceil(N / 16); rows and columns beyond N and K are zero bytes, so that
// whatever an activation buffer holds past its last column adds nothing:
//
//   f32x16     f32  [NB][K][16]           value(16 b + r, k) at [b][k][r]
//   f16x16     f16  [NB][K][16]           the same
//   bf16x16x2  bf16 [NB][ceil(K/2)][16][2]  value(16 b + r, 2 j + i) at [b][j][r][i]
//   i8x16x4    u8   [NB][ceil(K/4)][16][4]  u(16 b + r, 4 j + i) at [b][j][r][i]
//   i4x16x8    u8   [NB][ceil(K/8)][16][4]  low nibble u(16 b + r, 8 j + i),
//                                           high nibble u(16 b + r, 8 j + 4 + i)
//   scale16    f32 or f16 [NB][G][16]     scale(16 b + r, g); G = 1 for channel
//   zero16     u8   [NB][G][16]           zero point, same offset as the codes
//   bias       f32  [NB * 16]             zero padded
//
// and for NVIDIA GPUs, in lines of 512 bytes that hold the registers which the
// 32 lanes of a warp give the tensor cores, 16 bytes a lane; L = lines of a
// block, whose columns are padded to a multiple of 64; lane l = 4 r + q:
//
//   frag16     16 bits [NB][L][32][4][2]  value(16 b + r + 8 (w % 2),
//                                           16 c + 2 q + 8 (w / 2) + i)
//                                           at [b][c][l][w][i]
//   frag8      u8   [NB][L][32][4][4]     u(16 b + r + 8 (w % 2), 32 c + 16 (w / 2)
//                                           + 2 q + i % 2 + 8 (i / 2)) at [b][c][l][w][i]
//   frag8x8    8 bits [NB][L][32][4][4]   code(16 b + r + 8 (w % 2),
//                                           32 c + 16 (w / 2) + 4 q + i)
//                                           at [b][c][l][w][i]: no offset
//   frag4      u4   [NB][L][32][4][8]     u(16 b + r + 8 (j % 2), 64 c + 16 w
//                                           + 2 q + 8 (j % 4 / 2) + j / 4)
//                                           in bits 4 j of word [b][c][l][w]
//
// where u = code - lowest value of the storage type: code + 128 for i8,
// code + 8 for i4, the code itself for ui8 and ui4 (offset binary, what
// vpdpbusd wants as its unsigned operand). The offset of a symmetric scheme
// acts as the zero point 128 or 8. In MLIR the packed element type of codes
// and zero points is i8, and the shape is flattened to three dimensions:
// [NB, K, 16] or [NB, J, 16 * elements]; scales [NB, G, 16]; bias [NB * 16].
//
// Kernels have one signature (KernelFunction). `buffers[i]` is the i-th
// argument's address; `sizes` is StepSizes; tiles lo .. hi - 1 of the launch
// are computed; `scratch` is private to the thread, 64-byte aligned, of the
// plan's scratch_bytes. Every buffer is 64-byte aligned and may be read (not
// written) up to 63 bytes past its end.
//
// A kernel of a GPU takes one 64-bit device address an argument, in the
// launch's order, then the address of StepSizes. Every buffer is 256-byte
// aligned on the device. Rows beyond the step's sizes are left alone: one
// captured step serves all sizes up to its bucket's. The workspace is zero at
// the first step, and each launch leaves the words that it counts on at zero.
// clang-format on
//
//===----------------------------------------------------------------------===//

#ifndef QLM_PACKAGE_FORMAT_H
#define QLM_PACKAGE_FORMAT_H

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace qlm::format {

inline constexpr const char kFormatName[] = "qlm-package";
/// Raised whenever a runtime of the version before would read a package
/// wrongly. 2: launches of the processor's kernels begin with beginLaunch.
inline constexpr int64_t kFormatVersion = 2;
inline constexpr const char kManifestFile[] = "manifest.json";
/// Stands in the manifest where its checksum goes, while that is computed.
inline constexpr const char kNoChecksum[] = "0000000000000000";
inline constexpr const char kWeightsFile[] = "weights.safetensors";
inline constexpr const char kCpuModuleFile[] = "module.cpu.so";
inline constexpr const char kPtxModuleFile[] = "module.ptx";
inline constexpr const char kTokenizerFile[] = "tokenizer.json";
inline constexpr const char kGenerationConfigFile[] = "generation_config.json";
inline constexpr const char kTokenizerConfigFile[] = "tokenizer_config.json";
inline constexpr const char kConfigFile[] = "config.json";
/// Begins the label of a launch that a calibration watches.
inline constexpr const char kObservePrefix[] = "observe:";
/// Names of the tensors in weights.safetensors that only align the next one.
inline constexpr const char kPaddingPrefix[] = "__pad.";

/// Alignment of tensors in weights.safetensors, arena buffers and pages.
inline constexpr size_t kAlignment = 64;
/// Alignment of every buffer on a GPU.
inline constexpr size_t kDeviceAlignment = 256;
/// Rows of a packed weight that share a vector.
inline constexpr int64_t kRowBlock = 16;
/// Bytes of a line of the GPU's layouts, and what their columns are padded to.
inline constexpr int64_t kFragmentLineBytes = 512;
inline constexpr int64_t kFragmentColumns = 64;

/// Sizes of one step, as the kernels read them.
struct StepSizes {
  int64_t tokens;              ///< rows of the step
  int64_t sequences;           ///< sequences with at least one row
  int64_t logitRows;           ///< rows whose logits are wanted
  int64_t maxPagesPerSequence; ///< row stride of the block tables, in entries
};
inline constexpr int kSizeTokens = 0;
inline constexpr int kSizeSequences = 1;
inline constexpr int kSizeLogitRows = 2;
inline constexpr int kSizeMaxPages = 3;

/// Buffers that describe a step; all are int32.
enum class StepArgument : int {
  Tokens = 0,          ///< [tokens] vocabulary ids
  Positions = 1,       ///< [tokens] position of each token in its sequence
  TokenSequences = 2,  ///< [tokens] index of the token's sequence in the step
  SequenceOffsets = 3, ///< [sequences + 1] first row of each sequence
  ContextLengths = 4,  ///< [sequences] tokens in the cache after the step
  BlockTables = 5,     ///< [sequences, maxPagesPerSequence] page numbers
  LogitRows = 6,       ///< [logitRows] rows whose logits are wanted
};
inline constexpr int kStepArgumentCount = 7;
inline constexpr const char *kStepArgumentNames[kStepArgumentCount] = {
    "tokens",          "positions",    "token_sequences", "sequence_offsets",
    "context_lengths", "block_tables", "logit_rows"};

/// How the token of one wanted row is to be chosen on the device; the rules
/// are those of qlm/Runtime/Sampler.h.
struct SampleRequest {
  float temperature; ///< 0 takes the most likely token
  float topP;
  float minP;
  int32_t topK;   ///< 0 keeps all
  double uniform; ///< the draw, in [0, 1)
  uint64_t unused;
};
static_assert(sizeof(SampleRequest) == 32, "kernels read it at these offsets");

/// What was chosen for one wanted row.
struct SampleResult {
  int32_t token;        ///< of the vocabulary in any case: it may be fed on
  float logProbability; ///< NaN when the logits are not finite numbers
};
static_assert(sizeof(SampleResult) == 8, "kernels write it at these offsets");

/// Address of a compiled kernel.
using KernelFunction = void (*)(void *const *buffers, const StepSizes *sizes,
                                int64_t lo, int64_t hi, void *scratch);

/// Continues a checksum over \p size bytes at \p data: FNV-1a over
/// little-endian 64-bit words in four interleaved lanes, the tail padded with
/// zeros. Blocks passed one after the other must be multiples of 32 bytes,
/// except the last.
class Checksum {
public:
  void update(const void *data, size_t size) {
    const unsigned char *p = static_cast<const unsigned char *>(data);
    total += size;
    for (; size >= 32; p += 32, size -= 32)
      block(p);
    if (size) {
      unsigned char tail[32] = {};
      std::memcpy(tail, p, size);
      block(tail);
    }
  }
  uint64_t finish() const {
    uint64_t h = kOffset ^ total;
    for (uint64_t lane : lanes)
      h = mix(h ^ lane);
    return h;
  }

private:
  static constexpr uint64_t kOffset = 0xcbf29ce484222325ull;
  static constexpr uint64_t kPrime = 0x100000001b3ull;
  static uint64_t mix(uint64_t h) {
    h *= kPrime;
    return h ^ (h >> 29);
  }
  void block(const unsigned char *p) {
    for (int i = 0; i < 4; ++i) {
      uint64_t word;
      std::memcpy(&word, p + 8 * i, 8);
      lanes[i] = mix(lanes[i] ^ word);
    }
  }
  uint64_t lanes[4] = {kOffset, kOffset + 1, kOffset + 2, kOffset + 3};
  uint64_t total = 0;
};

} // namespace qlm::format

#endif // QLM_PACKAGE_FORMAT_H

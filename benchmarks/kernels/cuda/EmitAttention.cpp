//===- EmitAttention.cpp - Kernels and cases of attention -----------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Compiles the GPU's attention of a list of cases, one a line of standard
// input, and writes cubins and `cases.txt` for qlm-run-cuda-attention:
//
//   qlm-emit-cuda-attention DIR [--chip=sm_90a] < LIST
//
// A line has `key=value` words: kernel (decode, wgmma, prefill), heads,
// kv_heads, dim, page (tokens), kv (f16, bf16, int8, fp8), type (f16, bf16
// or f32, of queries and results), window (0: none), sequences and context of
// what is timed, launches (of a graph that is timed, of tiles), tile (rows of
// one, of wgmma: 64 or 128), blocks (of a launch, of wgmma), label (of the
// time; no label: checked alone).
//
//===----------------------------------------------------------------------===//

#include "CompileCuda.h"

#include "../../../lib/Lower/Cuda/Attention.h"

#include "qlm/Lower/Cuda/Kernels.h"
#include "qlm/Lower/Cuda/Workspace.h"
#include "qlm/Lower/Kernel/GpuFrame.h"

#include "mlir/Dialect/LLVMIR/NVVMDialect.h"
#include "llvm/ADT/StringSwitch.h"
#include "llvm/Support/FormatVariadic.h"

#include <cmath>

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cuda;
using namespace mlir::qlm::kernel;
using mlir::qlm::bench::Words;

/// Of the machines that packages are compiled for.
static constexpr int64_t kMultiprocessors = 132;

namespace {
/// How a kernel is launched.
struct Launch {
  int64_t perRow = 0; ///< blocks of a row, or of a tile of `rows` rows
  int64_t rows = 1;   ///< 0: blocks of a step of any size
  int64_t threads = 1, shared = 0, workspace = 0;
};
} // namespace

static AttentionShape getShape(const Words &words, MLIRContext *context) {
  AttentionShape shape;
  shape.heads = words.number("heads", 32);
  shape.kvHeads = words.number("kv_heads", 8);
  shape.headDim = words.number("dim", 128);
  shape.pageTokens = words.number("page", 64);
  shape.kv = llvm::StringSwitch<KvType>(words.text("kv", "f16"))
                 .Case("bf16", KvType::BF16)
                 .Case("int8", KvType::I8)
                 .Case("fp8", KvType::F8E4M3)
                 .Default(KvType::F16);
  Builder b(context);
  shape.query = llvm::StringSwitch<Type>(words.text("type", "f16"))
                    .Case("f32", b.getF32Type())
                    .Case("bf16", b.getBF16Type())
                    .Default(b.getF16Type());
  shape.result = shape.query;
  shape.scale = 1 / std::sqrt(static_cast<double>(shape.headDim));
  shape.window = words.number("window", 0);
  return shape;
}

/// Arguments: queries, cache, positions, sequences of tokens, block tables,
/// results, workspace, then the sizes.
static AttentionBuffers getBuffers(GpuKernelFrame &frame) {
  AttentionBuffers buffers;
  Ptr *places[] = {&buffers.query,       &buffers.cache,
                   &buffers.positions,   &buffers.tokenSequences,
                   &buffers.blockTables, &buffers.result,
                   &buffers.workspace};
  for (auto [i, place] : llvm::enumerate(places))
    *place = frame.buffer(static_cast<int64_t>(i));
  buffers.shared = frame.dynamicShared();
  buffers.tokens = frame.size(SizeKind::Tokens);
  buffers.sequences = frame.size(SizeKind::Sequences);
  buffers.maxPages = frame.maxPagesPerSequence();
  return buffers;
}

static constexpr int64_t kBuffers = 7;

static Launch emitDecode(gpu::GPUModuleOp kernels, StringRef name,
                         const AttentionShape &shape, int64_t sequences) {
  DecodePlan plan = DecodePlan::get(shape, sequences,
                                    sequences <= DecodePlan::kFewRows
                                        ? DecodePlan::kSplitsOfFew
                                        : DecodePlan::kSplitsOfMany);
  plan.isEarly = true;
  plan.spread(shape, kMultiprocessors);
  GpuKernelFrame frame(
      createGpuKernel(kernels, name, kBuffers, plan.threads()));
  emitDecodeAttention(frame.builder(), shape, plan, getBuffers(frame));
  Launch launch;
  launch.perRow = plan.gridPerRow;
  launch.threads = plan.threads();
  launch.shared = plan.sharedBytes(shape);
  launch.workspace = plan.scratchBytes(shape) + kZeroBytes;
  return launch;
}

static Launch emitPrefill(gpu::GPUModuleOp kernels, StringRef name,
                          const AttentionShape &shape) {
  PrefillPlan plan = PrefillPlan::get(shape);
  GpuKernelFrame frame(
      createGpuKernel(kernels, name, kBuffers, plan.threads()));
  emitPrefillAttention(frame.builder(), shape, plan, getBuffers(frame));
  Launch launch;
  launch.perRow = shape.heads;
  launch.rows = plan.blockRows();
  launch.threads = plan.threads();
  launch.shared = plan.sharedBytes(shape);
  return launch;
}

static Launch emitWgmma(gpu::GPUModuleOp kernels, StringRef name,
                        const AttentionShape &shape, const Words &words) {
  int64_t rows = words.number("sequences", 1) * words.number("context", 512);
  // As for more rows, or for one.
  if (int64_t tile = words.number("tile", 0))
    rows = tile == WgmmaPlan::kGroupRows ? 1 : INT32_MAX;
  WgmmaPlan plan = WgmmaPlan::get(shape, rows, kMultiprocessors);
  GpuKernelFrame frame(
      createGpuKernel(kernels, name, kBuffers, plan.threads()));
  frame.getFunction()->setAttr(
      NVVM::NVVMDialect::getMinctasmAttrName(),
      frame.builder().getI32IntegerAttr(plan.blocksPerProcessor));
  emitWgmmaAttention(frame.builder(), shape, plan, getBuffers(frame));
  Launch launch;
  launch.perRow = words.number("blocks", plan.grid);
  launch.rows = 0;
  launch.threads = plan.threads();
  launch.shared = plan.sharedBytes(shape);
  launch.workspace = kCounterBytes;
  return launch;
}

static Launch emitCase(gpu::GPUModuleOp kernels, StringRef name,
                       const Words &words) {
  AttentionShape shape = getShape(words, kernels.getContext());
  std::string kind = words.text("kernel", "decode");
  if (kind == "wgmma")
    return emitWgmma(kernels, name, shape, words);
  if (kind == "prefill")
    return emitPrefill(kernels, name, shape);
  return emitDecode(kernels, name, shape, words.number("sequences", 16));
}

int main(int argc, char **argv) {
  return bench::emitCases(
      argc, argv, "attention",
      [](gpu::GPUModuleOp kernels, StringRef name, const Words &words) {
        Launch launch = emitCase(kernels, name, words);
        return llvm::formatv("per_row={0} rows={1} threads={2} shared={3} "
                             "workspace={4}",
                             launch.perRow, launch.rows, launch.threads,
                             launch.shared, launch.workspace)
            .str();
      });
}

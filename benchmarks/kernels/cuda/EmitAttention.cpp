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
// kv_heads, dim, page (tokens), kv (f16, bf16, int8, fp8), type (f16 or bf16,
// of queries and results), window (0: none), sequences and context of what is
// timed, label (of the time; no label: checked alone).
//
//===----------------------------------------------------------------------===//

#include "CompileCuda.h"

#include "../../../lib/Lower/Cuda/Attention.h"

#include "qlm/Lower/Cuda/Kernels.h"
#include "qlm/Lower/Cuda/Workspace.h"
#include "qlm/Lower/Kernel/GpuFrame.h"

#include "mlir/Dialect/LLVMIR/NVVMDialect.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringSwitch.h"
#include "llvm/Support/CommandLine.h"
#include "llvm/Support/raw_ostream.h"

#include <cmath>
#include <iostream>

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
  int64_t rows = 1, threads = 1, shared = 0, workspace = 0;
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
  shape.query = words.text("type", "f16") == "bf16" ? Type(b.getBF16Type())
                                                    : Type(b.getF16Type());
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
  emitDecodeAttention(frame.builder(), shape, plan, AttentionRows::All,
                      getBuffers(frame));
  Launch launch;
  launch.perRow = plan.gridPerRow;
  launch.threads = plan.threads();
  launch.shared = plan.sharedBytes(shape);
  launch.workspace = plan.scratchBytes(shape) + kZeroBytes;
  return launch;
}

template <typename Plan, typename Emit>
static Launch emitTiles(gpu::GPUModuleOp kernels, StringRef name,
                        const AttentionShape &shape, Emit emit) {
  Plan plan = Plan::get(shape);
  GpuKernelFrame frame(
      createGpuKernel(kernels, name, kBuffers, plan.threads()));
  if (std::is_same_v<Plan, WgmmaPlan>)
    frame.getFunction()->setAttr(NVVM::NVVMDialect::getMinctasmAttrName(),
                                 frame.builder().getI32IntegerAttr(1));
  emit(frame.builder(), shape, plan, AttentionRows::All, getBuffers(frame));
  Launch launch;
  launch.perRow = shape.heads;
  launch.rows = plan.blockRows();
  launch.threads = plan.threads();
  launch.shared = plan.sharedBytes(shape);
  return launch;
}

static Launch emitCase(gpu::GPUModuleOp kernels, StringRef name,
                       const Words &words) {
  AttentionShape shape = getShape(words, kernels.getContext());
  std::string kind = words.text("kernel", "decode");
  if (kind == "wgmma")
    return emitTiles<WgmmaPlan>(kernels, name, shape, emitWgmmaAttention);
  if (kind == "prefill")
    return emitTiles<PrefillPlan>(kernels, name, shape, emitPrefillAttention);
  return emitDecode(kernels, name, shape, words.number("sequences", 16));
}

static llvm::cl::opt<std::string> folder(llvm::cl::Positional,
                                         llvm::cl::Required);
static llvm::cl::opt<std::string> chip("chip", llvm::cl::init("sm_90a"));

int main(int argc, char **argv) {
  llvm::cl::ParseCommandLineOptions(argc, argv, "emits CUDA attention\n");
  llvm::ExitOnError exitOnError("qlm-emit-cuda-attention: ");
  std::unique_ptr<MLIRContext> context = bench::createCudaContext();
  std::error_code error;
  llvm::raw_fd_ostream cases(folder + "/cases.txt", error);
  std::string line;
  for (int64_t index = 0; std::getline(std::cin, line);) {
    if (line.empty() || line[0] == '#')
      continue;
    Words words(line);
    std::string name = "attention" + std::to_string(index++);
    Location loc = UnknownLoc::get(context.get());
    OwningOpRef<ModuleOp> module = ModuleOp::create(loc);
    OpBuilder b(context.get());
    b.setInsertionPointToEnd(module->getBody());
    auto kernels = gpu::GPUModuleOp::create(b, loc, "kernels");
    Launch launch = emitCase(kernels, name, words);
    std::string said =
        exitOnError(bench::compileCuda(*module, chip, folder + "/" + name));
    for (StringRef part : llvm::split(StringRef(said), '\n'))
      if (part.contains("registers") || part.contains("spill"))
        llvm::errs() << name << ": " << part.trim() << "\n";
    cases << line << " name=" << name << " per_row=" << launch.perRow
          << " tile=" << launch.rows << " threads=" << launch.threads
          << " shared=" << launch.shared << " workspace=" << launch.workspace
          << "\n";
  }
  return 0;
}

//===- EmitLinears.cpp - Kernels and cases of linears ---------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Compiles the GPU's linears of a list of cases, one a line of standard input,
// and writes cubins and `cases.txt` for qlm-run-cuda-linears:
//
//   qlm-emit-cuda-linears DIR [--chip=sm_90a] < LIST
//
// A line has `key=value` words: rows, features, columns, weights (f16, bf16,
// int8, int4, fp8, nf4), input (f16, bf16, int8, fp8), output (f32, f16,
// bf16), group (0: none), scales (none, f16, f32), zero_points, input_scales,
// bias, residual, swiglu, norm (0 or 1), kernel (gemv, gemm, auto), run
// (rows of the step, default rows), tile, split,
// warp_blocks, atoms, chunk, spans, alone (of a gemm), time
// (0 or 1), label (of the time).
//
//===----------------------------------------------------------------------===//

#include "CompileCuda.h"

#include "../../../lib/Lower/Cuda/Gemm.h"
#include "../../../lib/Lower/Cuda/Gemv.h"
#include "qlm/Lower/Cuda/Kernels.h"
#include "qlm/Lower/Cuda/Workspace.h"

#include "llvm/ADT/StringSwitch.h"
#include "llvm/Support/FormatVariadic.h"

using namespace mlir;
using namespace mlir::qlm;
using mlir::qlm::bench::Words;
using namespace mlir::qlm::cuda;
using namespace mlir::qlm::kernel;

namespace {
/// How a kernel is launched.
struct Launch {
  int64_t grid = 1, threads = 1, shared = 0, cluster = 1;
  int64_t workspace = 0;
};

} // namespace

static LinearShape getShape(const Words &words) {
  LinearShape shape;
  shape.features = words.number("features", 1);
  shape.columns = words.number("columns", 1);
  shape.weights = llvm::StringSwitch<WeightFormat>(words.text("weights", "f16"))
                      .Case("f16", WeightFormat::F16)
                      .Case("bf16", WeightFormat::BF16)
                      .Case("int8", WeightFormat::Int8)
                      .Case("int4", WeightFormat::Int4)
                      .Case("fp8", WeightFormat::Fp8)
                      .Case("nf4", WeightFormat::Nf4);
  shape.input = llvm::StringSwitch<InputFormat>(words.text("input", "f16"))
                    .Case("f16", InputFormat::F16)
                    .Case("bf16", InputFormat::BF16)
                    .Case("int8", InputFormat::Int8)
                    .Case("fp8", InputFormat::Fp8);
  shape.output = llvm::StringSwitch<OutputFormat>(words.text("output", "f32"))
                     .Case("f32", OutputFormat::F32)
                     .Case("f16", OutputFormat::F16)
                     .Case("bf16", OutputFormat::BF16);
  shape.groupColumns = words.number("group", 0);
  std::string scales = words.text("scales", "none");
  shape.scales = scales != "none";
  shape.halfScales = scales == "f16";
  shape.zeroPoints = words.number("zero_points", 0);
  shape.inputScales = words.number("input_scales", 0);
  shape.bias = words.number("bias", 0);
  shape.residual = words.number("residual", 0);
  shape.swiglu = words.number("swiglu", 0);
  shape.norm = words.number("norm", 0);
  shape.epsilon = 1e-5;
  return shape;
}

/// Emits the kernel of a case into \p kernels; its arguments are all operands
/// in this order: input, input scales, norm weight, weights, scales, zero
/// points, bias, residual, result, workspace, sizes.
static Launch emitCase(gpu::GPUModuleOp kernels, StringRef name,
                       const LinearShape &shape, const Words &words) {
  constexpr int64_t kBuffers = 10;
  int64_t rows = words.number("rows", 1);
  Launch launch;
  auto makeBuffers = [](GpuKernelFrame &frame) {
    LinearBuffers buffers;
    Ptr *places[] = {
        &buffers.input,   &buffers.inputScales, &buffers.normWeight,
        &buffers.weights, &buffers.scales,      &buffers.zeroPoints,
        &buffers.bias,    &buffers.residual,    &buffers.result};
    for (int64_t i = 0; i < 9; ++i)
      *places[i] = frame.buffer(i);
    buffers.workspace = frame.buffer(9);
    return buffers;
  };
  auto setBlocks = [&](LLVM::LLVMFuncOp function, int64_t blocks) {
    function->setAttr("nvvm.minctasm",
                      Builder(kernels.getContext()).getI32IntegerAttr(blocks));
  };
  std::string kind = words.text("kernel", "auto");
  if (kind == "gemm" || (kind == "auto" && !GemvPlan::serves(shape, rows))) {
    GemmPlan::Wish wish;
    wish.tokens = words.number("tile", 0);
    wish.split = words.number("split", 0);
    wish.warpBlocks = words.number("warp_blocks", 0);
    wish.atoms = words.number("atoms", 0);
    wish.chunkSteps = words.number("chunk", 0);
    wish.spans = words.number("spans", 0);
    wish.isAlone = words.number("alone", 0);
    GemmPlan plan = GemmPlan::get(shape, rows, /*multiprocessors=*/132, wish);
    if (plan.spans)
      launch.workspace = kZeroBytes + plan.scratchBytes();
    launch.grid = plan.grid(shape, rows);
    launch.threads = GemmPlan::kThreads;
    launch.shared = plan.sharedBytes;
    launch.cluster = plan.split;
    auto function = createGpuKernel(kernels, name, kBuffers, launch.threads);
    setBlocks(function, plan.shareMultiprocessor ? 2 : 1);
    GpuKernelFrame frame(function);
    emitGemm(frame, shape, plan, makeBuffers(frame));
    return launch;
  }
  GemvPlan plan = GemvPlan::get(shape, rows, /*multiprocessors=*/132);
  launch.grid = plan.grid;
  launch.threads = plan.threads();
  launch.shared = plan.sharedBytes;
  auto function = createGpuKernel(kernels, name, kBuffers, launch.threads);
  setBlocks(function, plan.residentBlocks());
  GpuKernelFrame frame(function);
  emitGemv(frame, shape, plan, makeBuffers(frame));
  return launch;
}

int main(int argc, char **argv) {
  return bench::emitCases(
      argc, argv, "linear",
      [](gpu::GPUModuleOp kernels, StringRef name, const Words &words) {
        Launch launch = emitCase(kernels, name, getShape(words), words);
        return llvm::formatv("grid={0} threads={1} shared={2} cluster={3} "
                             "workspace={4}",
                             launch.grid, launch.threads, launch.shared,
                             launch.cluster, launch.workspace)
            .str();
      });
}

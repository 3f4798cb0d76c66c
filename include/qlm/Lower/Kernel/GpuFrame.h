//===- GpuFrame.h - The body of a GPU kernel --------------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The builder's side of a GPU: threads, blocks, shared memory, barriers,
// shuffles and reductions. An emitter reads like the kernel it emits:
//
//   GpuKernelFrame frame(function, /*buffers=*/2);
//   KernelBuilder &b = frame.builder();
//   frame.waitForPrevious();
//   Val row = frame.block();
//   b.ifThen(row < frame.size(SizeKind::Tokens), [&] {
//     Val x = frame.buffer(0).element(b.f32(), row * 64 + frame.lane())
//                 .load(b.f32());
//     Val sum = frame.warpSum(x);
//     frame.ifLane(0, [&] {
//       frame.buffer(1).element(b.f32(), row).store(sum);
//     });
//   });
//
// Index arithmetic is i32 (a GPU has no 64-bit integer units); widen a product
// that may pass 2^31 with `frame.wide` before it becomes an offset.
// Kernels are `llvm.func` with `nvvm.kernel` inside a `gpu.module`; their
// arguments are the buffers in global memory, then the step's sizes:
// docs/design/2026-11-28-cuda-target.md.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LOWER_KERNEL_GPUFRAME_H
#define QLM_LOWER_KERNEL_GPUFRAME_H

#include "mlir/Dialect/GPU/IR/GPUDialect.h"
#include "qlm/Lower/Kernel/Builder.h"

namespace mlir::qlm::kernel {

/// Threads of a warp.
inline constexpr int64_t kWarpThreads = 32;
/// Address spaces of NVIDIA's processors in LLVM.
inline constexpr unsigned kGlobalSpace = 1;
inline constexpr unsigned kSharedSpace = 3;
inline constexpr unsigned kConstantSpace = 4;
/// Memory and registers of one block that no kernel may exceed statically.
inline constexpr int64_t kStaticSharedLimit = 48 * 1024;
/// Attribute of a `gpu.module`: the processor it is for, e.g. "sm_90a".
inline constexpr llvm::StringLiteral kChipAttr = "qlm.chip";

/// Registers the dialects that GPU kernels are made of.
void registerGpuKernelDialects(DialectRegistry &registry);

/// Makes an empty kernel `llvm.func @name(ptr<1> x buffers, ptr<1> sizes)` of
/// \p threads threads a block at the end of \p kernels, with a return.
LLVM::LLVMFuncOp createGpuKernel(gpu::GPUModuleOp kernels, StringRef name,
                                 int64_t buffers, int64_t threads);

/// The body of a GPU kernel: its arguments and what its threads share.
class GpuKernelFrame {
public:
  /// Enters \p function, as createGpuKernel makes it.
  explicit GpuKernelFrame(LLVM::LLVMFuncOp function);

  KernelBuilder &builder() { return b; }
  LLVM::LLVMFuncOp getFunction() const { return function; }
  /// Threads of a block.
  int64_t threads() const { return blockThreads; }
  int64_t warps() const { return blockThreads / kWarpThreads; }

  // Arguments.
  /// The buffer of argument \p index, in global memory, 256-byte aligned.
  Ptr buffer(int64_t index);
  /// A size of the step (i32); `one` is 1. Written by the host before the
  /// step, so that it may be read before `waitForPrevious`.
  Val size(SizeKind kind);
  /// Row stride of the block tables, in entries (i32).
  Val maxPagesPerSequence();

  // Places (i32).
  Val thread();
  Val lane() { return thread() & (kWarpThreads - 1); }
  /// The same number in all lanes of a warp, and known to be: the compiler
  /// keeps what follows from it in uniform registers.
  Val warp();
  Val block();
  Val blockY();
  /// Blocks along x, y.
  Val blocks();
  Val blocksY();
  /// i32 to i64, not negative.
  Val wide(Val value) { return b.extendUnsigned(value, b.i64()); }

  // Shared memory.
  /// \p bytes bytes of the block's memory, at most 48 KB for all of a kernel.
  Ptr shared(int64_t bytes, int64_t alignment = 16);
  /// The launch's dynamic shared memory, aligned to 1024 bytes.
  Ptr dynamicShared();
  /// Bytes of static shared memory so far.
  int64_t sharedBytes() const { return staticBytes; }

  /// A table of f32 in constant memory, the same for all kernels of a module.
  Ptr constantTable(ArrayRef<float> values);

  // Order.
  /// All threads of the block arrive, and see what the others wrote.
  void barrier();
  /// The same for \p count threads (whole warps) under barrier \p id, 1 to 15.
  void barrier(int64_t id, int64_t count);
  void syncWarp();
  /// Waits until the kernels before are done and their writes visible. Every
  /// thread that reads or writes what an earlier kernel touched calls it
  /// first; only weights and step arguments may be read before. Nothing but a
  /// dependent launch makes it wait; nothing on chips that have none.
  void waitForPrevious();
  /// Lets the next kernel start its blocks as this one's leave.
  void launchDependents();

  // Warps: every lane takes part.
  /// A value (i32, f32, or a vector or scalar of 32 or 64 bits in all) of the
  /// lane whose number differs in the bits of \p mask.
  Val shuffleXor(Val value, int64_t mask);
  Val shuffleDown(Val value, int64_t distance);
  /// Of lane \p from (i32, the same or different in each lane).
  Val shuffle(Val value, Val from);
  /// Folds the lanes of each run of \p width lanes by halves, in a fixed
  /// order; every lane gets the result.
  Val warpFold(Val value, function_ref<Val(Val, Val)> fold,
               int64_t width = kWarpThreads);
  Val warpSum(Val value, int64_t width = kWarpThreads);
  Val warpMax(Val value, int64_t width = kWarpThreads);

  // Blocks: every thread takes part.
  /// Sum or maximum over the threads: lanes by halves, then warps in order.
  /// The result is in every thread. Holds two barriers.
  Val blockSum(Val value);
  Val blockMax(Val value);

  // Control.
  void ifThread(int64_t number, function_ref<void()> body) {
    b.ifThen(thread() == number, body);
  }
  void ifLane(int64_t number, function_ref<void()> body) {
    b.ifThen(lane() == number, body);
  }
  /// for (i = first; i < hi; i += stride): what the block's threads share.
  void forThreads(Val hi, function_ref<void(Val)> body) {
    forStride(thread(), hi, blockThreads, body);
  }
  void forStride(Val first, Val hi, int64_t stride,
                 function_ref<void(Val)> body) {
    b.forRange(first, hi, stride, body);
  }

  // Arithmetic that this kind of processor has.
  /// 2^x and 1/x of f32 by the special function unit: relative error below
  /// 2^-22. 1/x takes denormals for zero and gives zero for them.
  Val exp2Fast(Val x);
  Val reciprocalFast(Val x);
  /// e^x through exp2Fast: error below 2e-7 * (1 + |x|), so a softmax or a
  /// sigmoid loses nothing that f32 had.
  Val expFast(Val x);
  /// f32 of E4M3 codes (i8 scalar or vector): exact, on every chip.
  Val fromE4M3(Val codes);

private:
  Val blockFold(Val value, function_ref<Val(Val, Val)> fold);

  LLVM::LLVMFuncOp function;
  KernelBuilder b;
  int64_t blockThreads;
  /// Whether the chip has dependent launches.
  bool isDependent;
  int64_t staticBytes = 0;
  int64_t sharedCount = 0;
  Ptr foldScratch;
  Ptr dynamic;
};

} // namespace mlir::qlm::kernel

#endif // QLM_LOWER_KERNEL_GPUFRAME_H

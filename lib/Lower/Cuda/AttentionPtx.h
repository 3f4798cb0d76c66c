//===- AttentionPtx.h - Instructions that attention needs -------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// PTX instructions that MLIR's operations don't reach, or would reach as calls
// of libdevice, by inline assembly. Registers that hold packed elements are
// i32; a pair of halves has its first element in the low bits.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_LOWER_CUDA_ATTENTIONPTX_H
#define QLM_LIB_LOWER_CUDA_ATTENTIONPTX_H

#include "qlm/Lower/Kernel/Builder.h"

namespace mlir::qlm::cuda {

/// What the tensor cores multiply; sums are f32.
enum class HalfType { F16, BF16 };

class Ptx {
public:
  explicit Ptx(kernel::KernelBuilder &b) : b(b) {}

  using Val = kernel::Val;
  using Vals = SmallVector<Val>;

  /// One piece of inline assembly; \p effects keeps it in place among others
  /// that have effects.
  Vals assemble(const Twine &text, StringRef constraints,
                ArrayRef<Type> results, ArrayRef<Val> operands,
                bool effects = false);

  /// Index in the block, index of the block (i32).
  Val thread();
  Val block();
  Val blockY();
  /// Blocks of the grid along x (i32).
  Val blocks();

  /// 2^x of f32, relative error below 2e-7 + 2^-22; 0 of -infinity.
  Val exp2(Val x);
  /// Base 2 logarithm of f32, absolute error below 2^-21.
  Val log2(Val x);
  /// What the maximum of no score is (f32).
  Val infinity();
  /// \p maximum, or zero where no score was seen, so that differences with it
  /// are numbers.
  Val finite(Val maximum);
  /// The larger of two f32.
  Val larger(Val a, Val b);
  /// 1 / x of f32, one unit in the last place.
  Val reciprocal(Val x);
  /// \p value of the lane whose index differs by \p mask.
  Val shuffleXor(Val value, int64_t mask);
  /// Bytes of \p a (0 to 3) and \p b (4 to 7), the lowest nibble of
  /// \p selector first.
  Val permute(Val a, Val b, int64_t selector);
  /// Two f32 rounded to a pair of halves.
  Val pack(Val low, Val high, HalfType type);
  /// Two f16 in i32: a - b, exactly where representable.
  Val subtractHalves(Val a, Val b);
  /// The halves of a pair as f32.
  std::pair<Val, Val> unpack(Val pair, HalfType type);

  /// sums[16][8] += a[16][16] * b[16][8] in a warp; lane l holds of the sums
  /// row l / 4 (+ 8), columns 2 (l % 4) and the next.
  void multiply(MutableArrayRef<Val> sums, ArrayRef<Val> a, Val b0, Val b1,
                HalfType type);

  /// Starts to copy 16 bytes from global to shared memory (i32 address); the
  /// copies so far are a group; waits until only \p pending groups are left.
  void copyAsync(Val shared, kernel::Ptr global);
  void commitCopies();
  void waitForCopies(int64_t pending);

  /// Counts an u32 in global memory up, from \p last on to 0 again; gives what
  /// it was. No order with other accesses.
  Val countUp(kernel::Ptr counter, Val last);

  // mbarriers, by their shared address (i32).
  void initBarrier(Val barrier, int64_t arrivals);
  /// Makes initialized barriers visible to the copy engine.
  void fenceBarriers();
  void arrive(Val barrier);
  /// Arrives, and expects \p bytes (i32) more of bulk copies.
  void arriveExpecting(Val barrier, Val bytes);
  /// Waits for the end of the phase of \p parity (i32).
  void waitBarrier(Val barrier, Val parity);
  /// Copies \p bytes (i32, a multiple of 16) to shared memory; they count at
  /// \p barrier.
  void bulkCopy(Val shared, kernel::Ptr global, Val bytes, Val barrier);
  /// Orders the thread's accesses to shared memory before those of wgmma.
  void fenceProxy();

  // wgmma. A group of instructions is issued by one call; results are valid
  // after waitProducts, which returns them.

  /// The same f32 or i64, computed here, neither before nor later: between
  /// products in flight nothing may define their operands, or ptxas serialises
  /// them.
  Vals pin(ArrayRef<Val> values);
  /// queries [64, 16 steps] times keys [columns, 16 steps], a descriptor a
  /// step; gives columns / 2 sums.
  Vals multiplyShared(ArrayRef<Val> queries, ArrayRef<Val> keys,
                      int64_t columns, HalfType type);
  /// sums += weights [steps][4] (registers) times values [16 steps, columns],
  /// columns contiguous, a descriptor a step.
  Vals multiplyRegisters(ArrayRef<Val> sums, ArrayRef<Val> weights,
                         ArrayRef<Val> values, int64_t columns, HalfType type);
  /// Waits until \p pending calls are left; \p sums are theirs, \p kept stay
  /// untouched until then.
  Vals waitProducts(int64_t pending, ArrayRef<Val> sums,
                    ArrayRef<Val> kept = {});
  void setRegisters(int64_t count, bool increase);

  /// The shared address of \p place (i32).
  Val address(kernel::Ptr place);

  /// All threads of the block.
  void barrier();
  /// \p threads of the block, at barrier \p id.
  void barrier(int64_t id, int64_t threads);
  /// Programmatic dependent launch: the next kernel may start; what the
  /// previous kernel wrote is there.
  void launchDependents();
  void waitForPrevious();

private:
  kernel::KernelBuilder &b;
};

} // namespace mlir::qlm::cuda

#endif // QLM_LIB_LOWER_CUDA_ATTENTIONPTX_H

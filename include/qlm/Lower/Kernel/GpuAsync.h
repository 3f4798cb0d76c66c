//===- GpuAsync.h - Copies and barriers of a GPU kernel ---------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Asynchronous copies into shared memory, the barriers that say when they have
// landed. Instructions are inline PTX where a kernel
// needs their exact form. Shared pointers are in address space 3, global ones
// in address space 1.
//
//   Mbarrier full(smem.at(0), b);
//   b.ifThen(thread == 0, [&] { full.init(1); fenceMbarrierInit(b); });
//   ... block barrier ...
//   b.ifThen(thread == 0, [&] {
//     full.arriveExpecting(b.constant(b.i32(), 4096));
//     bulkCopy(slot, weights, b.constant(b.i32(), 4096), full,
//              CacheHint::EvictFirst);
//   });
//   full.wait(/*parity=*/b.constant(b.i32(), 0));
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LOWER_KERNEL_GPUASYNC_H
#define QLM_LOWER_KERNEL_GPUASYNC_H

#include "qlm/Lower/Kernel/Builder.h"

namespace mlir::qlm::kernel {

/// Inline PTX with one result (or none, where \p result is null). A struct
/// type gives several values. With \p effects the compiler keeps its place
/// among memory accesses; without, it is as movable as an addition.
Value inlinePtx(KernelBuilder &b, Type result, StringRef text,
                StringRef constraints, ArrayRef<Val> operands, bool effects);

/// The 32-bit address that PTX instructions take for shared memory.
Val sharedAddress(KernelBuilder &b, Ptr pointer);

/// An mbarrier: 8 bytes of shared memory that count arrivals and bytes. It
/// alternates between parity 0 (its first use) and 1.
class Mbarrier {
public:
  Mbarrier(Ptr address, KernelBuilder &b);

  /// Sets the arrivals of a phase. One thread does; the others may use the
  /// barrier after `fenceMbarrierInit` and a block barrier.
  void init(int64_t arrivals);
  void arrive();
  /// Arrives, and makes the phase wait for \p bytes (i32) of bulk copies too.
  void arriveExpecting(Val bytes);
  /// Arrives when the thread's earlier `copyAsync` have landed; counts as one
  /// of the barrier's arrivals.
  void arriveAfterCopies();
  /// Waits until the phase of \p parity (i32, 0 or 1) is complete. A fresh
  /// barrier counts as having completed a phase of parity 1.
  void wait(Val parity);

  Val address() const { return place; }

private:
  KernelBuilder &b;
  Val place;
};

/// Makes initialized mbarriers visible to the copy engine.
void fenceMbarrierInit(KernelBuilder &b);
/// Orders this thread's ordinary accesses to shared memory before those of the
/// copy engine and of wgmma that follow a barrier.
void fenceAsyncProxy(KernelBuilder &b);

/// What L2 does with the lines of a copy.
enum class CacheHint {
  Normal,
  EvictFirst, ///< read once: weights
  EvictLast   ///< read by all blocks: activations
};

/// Copies \p bytes (i32, a multiple of 16) from global to shared memory; both
/// addresses are multiples of 16. The bytes count for \p barrier. One thread
/// issues it for all.
void bulkCopy(Ptr target, Ptr source, Val bytes, const Mbarrier &barrier,
              CacheHint hint = CacheHint::Normal);

/// Copies 16 bytes from global to shared memory (cp.async).
void copyAsync16(Ptr target, Ptr source);
/// The same, of which only the first \p bytes (i32, 0 to 16) are read; the
/// others become zero. Nothing is read when it is 0.
void copyAsync16(Ptr target, Ptr source, Val bytes);
void commitCopies(KernelBuilder &b);
/// Waits until at most \p pending committed groups are under way.
void waitCopies(KernelBuilder &b, int64_t pending);

/// Orders the thread's accesses to global memory for all blocks.
void fenceDevice(KernelBuilder &b);
/// Sets a word (i32, zero) to one after all that the thread and, by a barrier
/// after their fenceDevice, others have written.
void raiseFlag(Ptr flag);
/// Waits until the word isn't zero; what was written before it is seen.
void awaitFlag(Ptr flag);

/// Waits for \p threads threads at barrier \p id (1 to 15; 0 is the block's).
void namedBarrier(KernelBuilder &b, int64_t id, int64_t threads);
void namedBarrier(KernelBuilder &b, Val id, int64_t threads);
/// Counts as one of its threads without waiting.
void arriveNamedBarrier(KernelBuilder &b, int64_t id, int64_t threads);

/// Gives registers back to the block's pool, or takes more (sm_90a; multiples
/// of 8; all warps of a warpgroup do it).
void decreaseRegisters(KernelBuilder &b, int64_t count);
void increaseRegisters(KernelBuilder &b, int64_t count);

/// All blocks of the cluster arrive and wait (sm_90); shared memory written
/// before can be read by them after.
void clusterBarrier(KernelBuilder &b);
/// The same address in the shared memory of block \p rank (i32) of the
/// cluster, as a 32-bit address for `loadCluster`.
Val mapToRank(KernelBuilder &b, Val sharedAddress, Val rank);
/// Loads four f32 from an address of `mapToRank`.
SmallVector<Val> loadCluster4(KernelBuilder &b, Val address);

} // namespace mlir::qlm::kernel

#endif // QLM_LOWER_KERNEL_GPUASYNC_H

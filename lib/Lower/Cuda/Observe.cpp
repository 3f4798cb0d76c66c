//===- Observe.cpp - Statistics of the rows that calibration watches ------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Steps leave this launch out: its grid has no blocks along x. An executor
// whose values are observed either shows the rows on the host
// (Executor::setObserver), or starts the kernel with one block along x
// (Executor::setDeviceObserver) and these buffers, all but the first of the
// observer's:
//
//   0  rows f32 [rows, features]
//   1  magnitudes f64 [features]  += sum of |x| over the rows
//   2  absmax i32 [features]      largest |x| so far, as bits
//   3  counts i64 [2048]          += values by |x| * 2048 / top, cut to 2047
//   4  top i32 [1]                bits of the first window's largest |x| that
//                                 isn't 0
//   5  window i32 [3]             largest bits of |x| over x < 0 and over the
//                                 others; 0, or 1 once those are known
//
// Started with window[2] = 0 it finds 1, 2 and window[0..1]; with 1 it finds 3
// and 4, which need the range of all columns. A block has kLanes columns, one
// a lane, and its warps share the rows:
//
//            lane 0 .. 31
//   warp 0   row 0, 32, ..  ─┐
//   warp 1   row 1, 33, ..   ├─► warp 0 folds the warps in order
//    ..                     ─┘
//
// No sum depends on the order of blocks. An infinity or NaN shows as bits of
// infinity or more. Reads each row twice, 8 bytes a value in all.
// Reference: the processor's observer, by scripts/gpu_test.py; time:
// benchmarks/results/2026-11-29-quantization-gpu.md.
//
//===----------------------------------------------------------------------===//

#include "Rows.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cuda;
using namespace mlir::qlm::kernel;

static constexpr int64_t kBuffers = 6;
static constexpr int64_t kLanes = kWarpThreads; ///< columns of a block
static constexpr int64_t kWarps = 32;
/// As qlm/Calibrate/RangeObserver.h has them.
static constexpr int64_t kBins = 2048;
static constexpr int64_t kMagnitudeMask = 0x7fffffff;

namespace {

/// Emits the body for one count of features.
class ObserveEmitter {
public:
  ObserveEmitter(GpuKernelFrame &frame, Val rows, int64_t features)
      : frame(frame), b(frame.builder()), rows(rows), features(features),
        column(frame.blockY() * kLanes + frame.lane()),
        readColumn(b.min(column, b.constant(b.i32(), features - 1))) {}

  void emitColumns();
  void emitCounts();

private:
  /// The bits of the thread's value in \p row; lanes past the last column read
  /// it again.
  Val loadBits(Val row) {
    Ptr at = RowSplit::row(frame, frame.buffer(0), b.f32(), row, features);
    return at.element(b.i32(), readColumn).load(b.i32());
  }
  Val toDouble(Val bits) {
    Val value = b.bitcast(bits, b.f32());
    return b.val(
        arith::ExtFOp::create(b, b.getLoc(), b.getF64Type(), value.get()));
  }
  void atomic(LLVM::AtomicBinOp kind, Ptr place, Val value) {
    LLVM::AtomicRMWOp::create(b, b.getLoc(), kind, place.get(), value.get(),
                              LLVM::AtomicOrdering::monotonic);
  }
  Ptr window(int64_t index) { return frame.buffer(5).at(4 * index); }

  GpuKernelFrame &frame;
  KernelBuilder &b;
  Val rows;
  int64_t features;
  Val column, readColumn;
};

} // namespace

void ObserveEmitter::emitColumns() {
  Type i32 = b.i32(), f64 = b.getF64Type();
  Val zero = b.constant(i32, int64_t(0));
  SmallVector<Val> seen =
      b.forRange(frame.warp(), rows, kWarps, {zero, zero, b.zero(f64)},
                 [&](Val row, ArrayRef<Val> so) -> SmallVector<Val> {
                   Val bits = loadBits(row), magnitude = bits & kMagnitudeMask;
                   Val isNegative = bits < 0;
                   return {b.max(so[0], b.select(isNegative, magnitude, zero)),
                           b.max(so[1], b.select(isNegative, zero, magnitude)),
                           so[2] + toDouble(magnitude)};
                 });
  constexpr int64_t kThreads = kLanes * kWarps;
  Ptr parts[] = {frame.shared(4 * kThreads), frame.shared(4 * kThreads),
                 frame.shared(8 * kThreads)};
  Type types[] = {i32, i32, f64};
  for (int i = 0; i < 3; ++i)
    parts[i].element(types[i], frame.thread()).store(seen[i]);
  frame.barrier();
  b.ifThen(frame.warp() == 0, [&] {
    Val lane = frame.lane();
    auto load = [&](int i, Val warp) {
      return parts[i].element(types[i], warp * kLanes + lane).load(types[i]);
    };
    SmallVector<Val> all = b.forRange(
        b.constant(i32, int64_t(1)), b.constant(i32, kWarps), 1,
        {load(0, zero), load(1, zero), load(2, zero)},
        [&](Val warp, ArrayRef<Val> so) -> SmallVector<Val> {
          return {b.max(so[0], load(0, warp)), b.max(so[1], load(1, warp)),
                  so[2] + load(2, warp)};
        });
    b.ifThen(column < features, [&] {
      Ptr sum = frame.buffer(1).element(f64, column);
      sum.store(sum.load(f64) + all[2]);
      Ptr largest = frame.buffer(2).element(i32, column);
      largest.store(b.max(largest.load(i32), b.max(all[0], all[1])));
    });
    Val negative = frame.warpMax(all[0]), other = frame.warpMax(all[1]);
    frame.ifLane(0, [&] {
      atomic(LLVM::AtomicBinOp::max, window(0), negative);
      atomic(LLVM::AtomicBinOp::max, window(1), other);
    });
  });
}

void ObserveEmitter::emitCounts() {
  Type i32 = b.i32(), i64 = b.i64(), f64 = b.getF64Type();
  Ptr counts = frame.shared(4 * kBins);
  Val bins = b.constant(i32, kBins);
  frame.forThreads(bins, [&](Val bin) {
    counts.element(i32, bin).store(b.constant(i32, int64_t(0)));
  });
  // Block 0 writes it while others read it, and both find the same.
  Val stored = frame.buffer(4).load(i32);
  Val top = b.select(stored == 0,
                     b.max(window(0).load(i32), window(1).load(i32)), stored);
  frame.barrier();
  b.ifThen(top != 0, [&] {
    Val binsPerUnit =
        literal(b.zero(f64), static_cast<double>(kBins)) / toDouble(top);
    Val last = literal(binsPerUnit, static_cast<double>(kBins - 1));
    b.forRange(frame.warp(), rows, kWarps, [&](Val row) {
      Val place = toDouble(loadBits(row) & kMagnitudeMask) * binsPerUnit;
      Val bin = b.toInteger(b.select(place < last, place, last), i32);
      b.ifThen(column < features, [&] {
        atomic(LLVM::AtomicBinOp::add, counts.element(i32, bin),
               b.constant(i32, int64_t(1)));
      });
    });
    b.ifThen(frame.blockY() == 0,
             [&] { frame.ifThread(0, [&] { frame.buffer(4).store(top); }); });
  });
  frame.barrier();
  frame.forThreads(bins, [&](Val bin) {
    Val count = counts.element(i32, bin).load(i32);
    b.ifThen(count != 0, [&] {
      atomic(LLVM::AtomicBinOp::add, frame.buffer(3).element(i64, bin),
             b.extendUnsigned(count, i64));
    });
  });
}

FailureOr<CudaKernel> mlir::qlm::cuda::emitObserve(ObserveOp op,
                                                   const CudaRequest &request) {
  int64_t features = op.getInput().getType().getDimSize(1);
  GpuKernelFrame frame(createGpuKernel(request.kernels, request.name, kBuffers,
                                       kLanes * kWarps));
  frame.waitForPrevious();
  frame.launchDependents();
  ObserveEmitter emitter(frame, frame.size(request.rows), features);
  KernelBuilder &b = frame.builder();
  Val phase = frame.buffer(5).at(8).load(b.i32());
  b.ifElse(
      phase == 0, [&] { emitter.emitColumns(); },
      [&] { emitter.emitCounts(); });
  CudaKernel kernel;
  kernel.grid = request.blocksPerRow(0);
  kernel.gridY = request.blocksPerStep(llvm::divideCeil(features, kLanes));
  kernel.blockThreads = frame.threads();
  kernel.dependent = false;
  return kernel;
}

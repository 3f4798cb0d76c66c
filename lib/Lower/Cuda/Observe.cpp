//===- Observe.cpp - The launch that calibration watches ------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A launch of no blocks: the executor brings the rows of its first buffer to
// the host and shows them to an observer (Executor::setObserver).
//
//===----------------------------------------------------------------------===//

#include "Emitters.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cuda;

FailureOr<CudaKernel> mlir::qlm::cuda::emitObserve(ObserveOp,
                                                   const CudaRequest &request) {
  kernel::GpuKernelFrame frame(request.createKernel(kernel::kWarpThreads));
  CudaKernel kernel;
  kernel.grid = request.blocksPerRow(0);
  kernel.blockThreads = frame.threads();
  kernel.dependent = false;
  return kernel;
}

//===- Observe.cpp - The launch that calibration watches ------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A kernel of one tile a row that does nothing: the executor shows the rows of
// its first buffer to an observer instead (Executor::setObserver).
//
//===----------------------------------------------------------------------===//

#include "Emitters.h"
#include "qlm/Lower/Kernel/Builder.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cpu;

FailureOr<KernelInfo>
mlir::qlm::cpu::emitObserve(ObserveOp, const KernelRequest &request) {
  kernel::KernelFrame frame(request.function, /*count=*/1);
  KernelInfo info;
  info.tiles = request.tilesPerRow(1);
  return info;
}

//===- InsertObservers.cpp - Observes the inputs of linears ---------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "WeightLabels.h"
#include "qlm/Quantize/Passes.h"

namespace mlir::qlm {
#define GEN_PASS_DEF_INSERTOBSERVERS
#include "qlm/Quantize/Passes.h.inc"
} // namespace mlir::qlm

using namespace mlir;
using namespace mlir::qlm;

namespace {
struct InsertObserversPass
    : ::mlir::qlm::impl::InsertObserversBase<InsertObserversPass> {
  using Base::Base;
  void runOnOperation() override {
    UniqueLabels labels;
    getOperation().walk([&](LinearOp linear) {
      OpBuilder builder(linear);
      auto name = builder.getStringAttr(labels.take(linear));
      ObserveOp::create(builder, NameLoc::get(name), linear.getInput());
    });
  }
};
} // namespace

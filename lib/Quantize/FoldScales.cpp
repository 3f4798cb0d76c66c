//===- FoldScales.cpp - Moves scales out of linears -----------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "ParameterUses.h"
#include "qlm/Dialect/MethodOps.h"
#include "qlm/Quantize/Passes.h"

namespace mlir::qlm {
#define GEN_PASS_DEF_FOLDSCALES
#include "qlm/Quantize/Passes.h.inc"
} // namespace mlir::qlm

using namespace mlir;
using namespace mlir::qlm;

namespace {
struct FoldScalesPass : ::mlir::qlm::impl::FoldScalesBase<FoldScalesPass> {
  using Base::Base;
  void runOnOperation() override;
};
} // namespace

namespace {
/// What a linear multiplies: floats, or codes with a scale for each token.
struct LinearInput {
  Value values;
  Value scales, outliers; ///< of codes; may be null
};
} // namespace

/// The codes and scales that \p input stands for, if it has a scale for each
/// token; else itself.
static LinearInput getInputCodes(Value input) {
  auto dequantize = input.getDefiningOp<DequantizeOp>();
  // Only what these operations make: the kernels' sums of products of codes
  // are exact for it.
  if (!dequantize || !isa_and_nonnull<DynamicQuantizeOp, StaticQuantizeOp>(
                         dequantize.getCodes().getDefiningOp()))
    return {input, {}, {}};
  return {dequantize.getCodes(), dequantize.getScales(),
          dequantize.getOutliers()};
}

static void foldScales(LinearOp linear, DequantizeOp weight) {
  OpBuilder builder(linear);
  LinearInput input = getInputCodes(linear.getInput());
  auto folded = QuantizedLinearOp::create(
      builder, linear.getLoc(), linear.getType(), input.values, input.scales,
      input.outliers, weight.getCodes(), weight.getScales(),
      weight.getZeroPoints(), linear.getBias(), linear.getResidual(),
      weight.getScheme());
  linear.replaceAllUsesWith(folded.getResult());
  linear.erase();
}

void FoldScalesPass::runOnOperation() {
  getOperation().walk([](LinearOp linear) {
    auto weight = linear.getWeight().getDefiningOp<DequantizeOp>();
    if (weight && weight.getScheme().getGranularity() != Granularity::Row)
      foldScales(linear, weight);
  });
  eraseUnusedParameters(getOperation());
}

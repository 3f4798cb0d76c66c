//===- PackWeights.cpp - Orders weights as the kernels read them ----------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "ParameterUses.h"
#include "WeightLabels.h"
#include "qlm/Quantize/Passes.h"

namespace mlir::qlm {
#define GEN_PASS_DEF_PACKWEIGHTS
#include "qlm/Quantize/Passes.h.inc"
} // namespace mlir::qlm

using namespace mlir;
using namespace mlir::qlm;

namespace {

/// The parameters of a linear, quantized or not.
struct LinearParameters {
  Value weight, scales, zeroPoints, bias; ///< null where there is none
  SchemeAttr scheme;                      ///< null without quantization
};

/// What a linear multiplies by them; scales and outliers may be null.
struct LinearInput {
  Value values, scales, outliers;
};

/// Packs parameters, each once, under keys that are distinct.
class Packer {
public:
  explicit Packer(bool forGpu) : forGpu(forGpu) {}

  /// \p value in \p layout; the key is \p label, a dot, and \p part. Null
  /// where \p value is null.
  /// A scale of a whole tensor is repeated for \p rows rows.
  Value pack(Operation *user, Value value, LayoutKind layout, StringRef label,
             StringRef part, int64_t rows = 0);
  /// Replaces \p linear by a `qlm.packed_linear`.
  LogicalResult replace(Operation *linear, LinearInput input,
                        LinearParameters parameters, Value residual);

private:
  bool forGpu;
  UniqueLabels labels;
  DenseMap<std::pair<Value, LayoutKind>, Value> packed;
};

struct PackWeightsPass : ::mlir::qlm::impl::PackWeightsBase<PackWeightsPass> {
  using Base::Base;
  void runOnOperation() override;
};

} // namespace

Value Packer::pack(Operation *user, Value value, LayoutKind layout,
                   StringRef label, StringRef part, int64_t rows) {
  if (!value)
    return {};
  Value &result = packed[{value, layout}];
  if (result)
    return result;
  OpBuilder builder(user);
  auto type = cast<RankedTensorType>(value.getType());
  if (rows && type.getRank() == 1 && type.getDimSize(0) == 1)
    type = type.clone({rows});
  result = PackOp::create(builder, user->getLoc(), getPackedType(type, layout),
                          value, LayoutAttr::get(user->getContext(), layout),
                          builder.getStringAttr(label + "." + part));
  return result;
}

LogicalResult Packer::replace(Operation *linear, LinearInput input,
                              LinearParameters parameters, Value residual) {
  if (failed(checkParameter(linear, parameters.weight, "weight")) ||
      (parameters.scheme &&
       failed(checkParameter(linear, parameters.scales, "scales"))) ||
      (parameters.zeroPoints &&
       failed(checkParameter(linear, parameters.zeroPoints, "zero points"))) ||
      (parameters.bias &&
       failed(checkParameter(linear, parameters.bias, "bias"))))
    return failure();
  auto type = cast<RankedTensorType>(parameters.weight.getType());
  LayoutKind layout = forGpu
                          ? getGpuWeightLayout(type.getElementType(),
                                               static_cast<bool>(input.scales))
                          : getWeightLayout(type.getElementType());
  std::string label = labels.take(linear);
  OpBuilder builder(linear);
  if (parameters.bias)
    parameters.bias =
        convertParameter(parameters.bias, builder.getF32Type(), linear);
  Value weight = pack(linear, parameters.weight, layout, label, "weight");
  int64_t rows = type.getDimSize(0);
  Value scales, superScales;
  auto doubled = parameters.scales
                     ? parameters.scales.getDefiningOp<DequantizeScalesOp>()
                     : DequantizeScalesOp();
  if (doubled) {
    scales = pack(linear, doubled.getCodes(), LayoutKind::ScaleCode, label,
                  "scales");
    superScales = pack(linear, doubled.getSuper(), LayoutKind::Plain, label,
                       "super_scales");
  } else {
    scales = pack(linear, parameters.scales, LayoutKind::Scale, label, "scales",
                  rows);
  }
  Value zeroPoints = pack(linear, parameters.zeroPoints, LayoutKind::ZeroPoint,
                          label, "zero_points", rows);
  Value bias = pack(linear, parameters.bias, LayoutKind::Bias, label, "bias");
  auto replacement = PackedLinearOp::create(
      builder, linear->getLoc(), linear->getResult(0).getType(), input.values,
      input.scales, input.outliers, weight, scales, superScales, zeroPoints,
      bias, residual, type.getDimSize(1), type.getDimSize(0),
      LayoutAttr::get(linear->getContext(), layout), parameters.scheme);
  linear->getResult(0).replaceAllUsesWith(replacement.getResult());
  linear->erase();
  return success();
}

/// The bf16 values that \p linear's input stands for, if its weight is bf16
/// too; else the input.
static Value getShortInput(LinearOp linear) {
  auto weight = cast<RankedTensorType>(linear.getWeight().getType());
  auto extended = linear.getInput().getDefiningOp<ConvertOp>();
  if (!extended || !weight.getElementType().isBF16() ||
      !extended.getInput().getType().getElementType().isBF16())
    return linear.getInput();
  return extended.getInput();
}

void PackWeightsPass::runOnOperation() {
  ModuleOp module = getOperation();
  if (target != "cpu" && target != "cuda") {
    module.emitError() << "target must be cpu or cuda, got '" << target << "'";
    return signalPassFailure();
  }
  Packer packer(/*forGpu=*/target == "cuda");
  WalkResult result = module.walk([&](Operation *op) -> WalkResult {
    if (auto linear = dyn_cast<LinearOp>(op))
      return packer.replace(
          linear, {getShortInput(linear), {}, {}},
          {linear.getWeight(), Value(), Value(), linear.getBias(), {}},
          linear.getResidual());
    if (auto linear = dyn_cast<QuantizedLinearOp>(op))
      return packer.replace(
          linear,
          {linear.getInput(), linear.getInputScales(), linear.getOutliers()},
          {linear.getCodes(), linear.getScales(), linear.getZeroPoints(),
           linear.getBias(), linear.getScheme()},
          linear.getResidual());
    if (auto norm = dyn_cast<RmsNormOp>(op)) {
      if (failed(checkParameter(norm, norm.getWeight(), "weight")))
        return WalkResult::interrupt();
      norm.getWeightMutable().assign(convertParameter(
          norm.getWeight(), Float32Type::get(&getContext()), norm));
    }
    return WalkResult::advance();
  });
  if (result.wasInterrupted())
    return signalPassFailure();
  eraseUnusedParameters(module);
  module->setAttr(kStageAttr, StringAttr::get(&getContext(), "quantize"));
}

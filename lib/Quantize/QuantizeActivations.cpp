//===- QuantizeActivations.cpp - Quantizes the inputs of linears ----------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "WeightLabels.h"
#include "qlm/Quantize/Passes.h"

namespace mlir::qlm {
#define GEN_PASS_DEF_QUANTIZEACTIVATIONS
#include "qlm/Quantize/Passes.h.inc"
} // namespace mlir::qlm

using namespace mlir;
using namespace mlir::qlm;

namespace {
struct QuantizeActivationsPass
    : ::mlir::qlm::impl::QuantizeActivationsBase<QuantizeActivationsPass> {
  using Base::Base;
  void runOnOperation() override;

private:
  LogicalResult quantizeFunction(func::FuncOp function);
};
} // namespace

/// The one scheme of `qlm.dynamic_quantize`.
static SchemeAttr getRowScheme(MLIRContext *context) {
  Builder builder(context);
  return SchemeAttr::get(context, builder.getI8Type(), Granularity::Row,
                         /*groupSize=*/0, /*zeroPoints=*/false, /*lo=*/-127,
                         /*hi=*/127, APFloat(127.0), builder.getF32Type());
}

/// The values of \p input rounded to int8, made right after \p input, where
/// they dominate all its users.
static Value quantizeInput(Value input, Location loc) {
  OpBuilder builder(input.getContext());
  builder.setInsertionPointAfterValue(input);
  SchemeAttr scheme = getRowScheme(input.getContext());
  auto type = cast<RankedTensorType>(input.getType());
  auto codes = type.clone(builder.getI8Type());
  auto scales =
      RankedTensorType::get({type.getDimSize(0)}, builder.getF32Type());
  auto rounded =
      DynamicQuantizeOp::create(builder, loc, codes, scales, input, scheme);
  return DequantizeOp::create(builder, loc, type, rounded.getCodes(),
                              rounded.getScales(), /*zeroPoints=*/Value(),
                              scheme);
}

/// "f32" or "nf4-g64": how \p weight is stored.
static std::string getStoredName(Value weight) {
  if (auto dequantize = weight.getDefiningOp<DequantizeOp>())
    return dequantize.getScheme().getName();
  std::string name;
  llvm::raw_string_ostream(name)
      << cast<RankedTensorType>(weight.getType()).getElementType();
  return name;
}

/// The values of \p input rounded to bf16, made right after \p input.
static Value shortenInput(Value input, Location loc) {
  OpBuilder builder(input.getContext());
  builder.setInsertionPointAfterValue(input);
  auto type = cast<RankedTensorType>(input.getType());
  Value rounded =
      ConvertOp::create(builder, loc, type.clone(builder.getBF16Type()), input);
  return ConvertOp::create(builder, loc, type, rounded);
}

static Type getWeightElement(LinearOp linear) {
  return cast<RankedTensorType>(linear.getWeight().getType()).getElementType();
}

LogicalResult QuantizeActivationsPass::quantizeFunction(func::FuncOp function) {
  bool shortens = activations == "bf16";
  LinearOp unfit;
  DenseMap<Value, Value> rounded;
  function.walk([&](LinearOp linear) {
    auto codes = linear.getWeight().getDefiningOp<DequantizeOp>();
    bool fits = shortens ? getWeightElement(linear).isBF16()
                         : codes && codes.getScheme().isUniform();
    if (!fits) {
      unfit = unfit ? unfit : linear;
      return;
    }
    Value &value = rounded[linear.getInput()];
    if (!value)
      value = shortens ? shortenInput(linear.getInput(), linear.getLoc())
                       : quantizeInput(linear.getInput(), linear.getLoc());
    linear.getInputMutable().assign(value);
  });
  if (!rounded.empty() || !unfit)
    return success();
  InFlightDiagnostic diagnostic =
      unfit.emitError() << "activations=" << activations << " needs "
                        << (shortens ? "bf16 weights"
                                     : "weights of integer codes")
                        << ", got " << getStoredName(unfit.getWeight())
                        << " in " << getWeightLabel(unfit);
  diagnostic.attachNote() << (shortens ? "choose weights=bf16"
                                       : "choose weights=int8 or weights=int4")
                          << ", or activations=none";
  return failure();
}

void QuantizeActivationsPass::runOnOperation() {
  if (activations == "none")
    return;
  if (activations != "int8-dynamic" && activations != "bf16") {
    getOperation().emitError()
        << "activations must be none, bf16 or int8-dynamic, got '"
        << activations << "'";
    return signalPassFailure();
  }
  for (auto function : getOperation().getOps<func::FuncOp>())
    if (failed(quantizeFunction(function)))
      return signalPassFailure();
}

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

LogicalResult QuantizeActivationsPass::quantizeFunction(func::FuncOp function) {
  LinearOp floatLinear;
  DenseMap<Value, Value> rounded;
  function.walk([&](LinearOp linear) {
    auto weight = linear.getWeight().getDefiningOp<DequantizeOp>();
    if (!weight || !weight.getScheme().isUniform()) {
      floatLinear = floatLinear ? floatLinear : linear;
      return;
    }
    Value &value = rounded[linear.getInput()];
    if (!value)
      value = quantizeInput(linear.getInput(), linear.getLoc());
    linear.getInputMutable().assign(value);
  });
  if (!rounded.empty() || !floatLinear)
    return success();
  InFlightDiagnostic diagnostic =
      floatLinear.emitError()
      << "activations=int8-dynamic needs weights of integer codes, got "
      << getStoredName(floatLinear.getWeight()) << " in "
      << getWeightLabel(floatLinear);
  diagnostic.attachNote() << "choose weights=int8 or weights=int4, or "
                             "activations=none";
  return failure();
}

void QuantizeActivationsPass::runOnOperation() {
  if (activations == "none")
    return;
  if (activations != "int8-dynamic") {
    getOperation().emitError()
        << "activations must be none or int8-dynamic, got '" << activations
        << "'";
    return signalPassFailure();
  }
  for (auto function : getOperation().getOps<func::FuncOp>())
    if (failed(quantizeFunction(function)))
      return signalPassFailure();
}

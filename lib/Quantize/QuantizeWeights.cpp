//===- QuantizeWeights.cpp - Gives weights their stored type --------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "ParameterUses.h"
#include "WeightLabels.h"
#include "qlm/Quantize/Passes.h"

#include "llvm/ADT/StringSwitch.h"

namespace mlir::qlm {
#define GEN_PASS_DEF_QUANTIZEWEIGHTS
#include "qlm/Quantize/Passes.h.inc"
} // namespace mlir::qlm

using namespace mlir;
using namespace mlir::qlm;

namespace {

/// What the options ask for: a float type or a scheme.
struct Target {
  FloatType type;    ///< null when weights are quantized
  SchemeAttr scheme; ///< null when weights stay floats
};

struct QuantizeWeightsPass
    : ::mlir::qlm::impl::QuantizeWeightsBase<QuantizeWeightsPass> {
  using Base::Base;
  void runOnOperation() override;

private:
  FailureOr<Target> checkOptions();
  SchemeAttr makeScheme(unsigned bits);
  FailureOr<Value> quantize(LinearOp linear, SchemeAttr scheme);
};

} // namespace

/// Whether \p linear makes the logits: what the function returns.
static bool isLmHead(LinearOp linear) {
  return llvm::any_of(linear->getUsers(), llvm::IsaPred<func::ReturnOp>);
}

SchemeAttr QuantizeWeightsPass::makeScheme(unsigned bits) {
  MLIRContext *context = &getContext();
  Builder builder(context);
  Type storage = zeroPoints ? builder.getIntegerType(bits, /*isSigned=*/false)
                            : builder.getIntegerType(bits);
  // The range [-127, 127] keeps int8 symmetric, as activations are; int4
  // can't spare a code, and 7.5 spreads both ends over the range [-8, 7].
  bool wide = bits == 8;
  int64_t lo = zeroPoints ? 0 : (wide ? -127 : -8);
  int64_t hi = zeroPoints ? (wide ? 255 : 15) : (wide ? 127 : 7);
  double bound = zeroPoints ? 0.0 : (wide ? 127.0 : 7.5);
  Type scaleType = wide ? Type(builder.getF32Type()) : builder.getF16Type();
  return SchemeAttr::get(context, storage,
                         wide ? Granularity::Channel : Granularity::Group,
                         wide ? 0 : int64_t(groupSize), zeroPoints, lo, hi,
                         APFloat(bound), scaleType);
}

FailureOr<Target> QuantizeWeightsPass::checkOptions() {
  ModuleOp module = getOperation();
  if (method != "rtn")
    return module.emitError() << "method must be rtn, got '" << method << "'";
  if (tableType != "source" && tableType != "f32")
    return module.emitError()
           << "table-type must be source or f32, got '" << tableType << "'";
  if (weights == "int4" && groupSize <= 0)
    return module.emitError()
           << "group-size must be positive, got " << int64_t(groupSize);
  if (weights == "int4" || weights == "int8")
    return Target{{}, makeScheme(weights == "int4" ? 4 : 8)};
  Builder builder(&getContext());
  auto type = llvm::StringSwitch<FloatType>(weights)
                  .Case("f32", builder.getF32Type())
                  .Case("f16", builder.getF16Type())
                  .Case("bf16", builder.getBF16Type())
                  .Default({});
  if (!type)
    return module.emitError()
           << "weights must be f32, bf16, f16, int8 or int4, got '" << weights
           << "'";
  if (zeroPoints)
    return module.emitError()
           << "zero-points needs weights=int8 or weights=int4, got '" << weights
           << "'";
  return Target{type, {}};
}

/// The values of \p linear's weight rounded to codes of \p scheme.
FailureOr<Value> QuantizeWeightsPass::quantize(LinearOp linear,
                                               SchemeAttr scheme) {
  auto type = cast<RankedTensorType>(linear.getWeight().getType());
  int64_t rows = type.getDimSize(0), columns = type.getDimSize(1);
  if (scheme.getGranularity() == Granularity::Group &&
      columns % scheme.getGroupSize() != 0) {
    InFlightDiagnostic diagnostic =
        linear.emitError() << "group size must divide the columns, got "
                           << scheme.getGroupSize() << " and " << columns
                           << " in " << getWeightLabel(linear) << " (" << rows
                           << "x" << columns << ")";
    diagnostic.attachNote() << "choose a group-size that divides " << columns
                            << ", or weights=int8, which has no groups";
    return failure();
  }
  auto codes = type.clone(scheme.getStorage());
  SmallVector<int64_t> shape = scheme.getScaleShape(rows, columns);
  auto scales = RankedTensorType::get(shape, scheme.getScaleType());
  auto zeros = RankedTensorType::get(shape, scheme.getStorage());
  OpBuilder builder(linear);
  Location loc = linear.getLoc();
  auto rtn = RtnOp::create(builder, loc, codes, scales,
                           zeroPoints ? zeros : RankedTensorType(),
                           linear.getWeight(), scheme);
  return Value(DequantizeOp::create(
      builder, loc, type.clone(builder.getF32Type()), rtn.getCodes(),
      rtn.getScales(), rtn.getZeroPoints(), scheme));
}

void QuantizeWeightsPass::runOnOperation() {
  FailureOr<Target> target = checkOptions();
  if (failed(target))
    return signalPassFailure();
  // A weight's new value, made before its first user in program order.
  DenseMap<Value, Value> converted;
  WalkResult result = getOperation().walk([&](LinearOp linear) {
    if (keepLmHead && isLmHead(linear))
      return WalkResult::advance();
    Value weight = linear.getWeight();
    if (failed(checkParameter(linear, weight, "weight")))
      return WalkResult::interrupt();
    Value &value = converted[weight];
    if (!value && target->type)
      value = convertParameter(weight, target->type, linear);
    if (!value) {
      FailureOr<Value> rounded = quantize(linear, target->scheme);
      if (failed(rounded))
        return WalkResult::interrupt();
      value = *rounded;
    }
    linear.getWeightMutable().assign(value);
    return WalkResult::advance();
  });
  if (result.wasInterrupted())
    return signalPassFailure();
  if (tableType == "f32")
    getOperation().walk([&](EmbeddingOp embedding) {
      embedding.getTableMutable().assign(convertParameter(
          embedding.getTable(), Float32Type::get(&getContext()), embedding));
    });
}

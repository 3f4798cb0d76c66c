//===- QuantizeWeights.cpp - Gives weights their stored type --------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "KeptCodes.h"
#include "Statistics.h"
#include "WeightLabels.h"
#include "WeightScheme.h"
#include "qlm/Quantize/NumericsScheme.h"
#include "qlm/Quantize/Passes.h"

namespace mlir::qlm {
#define GEN_PASS_DEF_QUANTIZEWEIGHTS
#include "qlm/Quantize/Passes.h.inc"
} // namespace mlir::qlm

using namespace mlir;
using namespace mlir::qlm;

namespace {

struct QuantizeWeightsPass
    : ::mlir::qlm::impl::QuantizeWeightsBase<QuantizeWeightsPass> {
  using Base::Base;
  void runOnOperation() override;

private:
  FailureOr<WeightTarget> checkOptions();
  FailureOr<Value> quantize(LinearOp linear, const WeightTarget &target,
                            StringRef label);
  Value loadMoments(LinearOp linear, Value weight, StringRef label);
};

} // namespace

FailureOr<WeightTarget> QuantizeWeightsPass::checkOptions() {
  ModuleOp module = getOperation();
  StringRef known[] = {"rtn", "gptq", "awq", "keep"};
  if (!llvm::is_contained(known, StringRef(method)))
    return module.emitError()
           << "method must be rtn, gptq, awq or keep, got '" << method << "'";
  if (method == "keep" && statistics.empty())
    return module.emitError(
        "method=keep needs a checkpoint's scales as statistics");
  if (method == "keep" && weights == "nf4")
    return module.emitError("method=keep needs weights int4, int8 or fp8, got "
                            "'nf4', whose codes rounding finds again");
  if (method != "rtn" && statistics.empty())
    return module.emitError()
           << "method=" << method << " needs statistics of a calibration";
  if (method != "rtn" && granularity == "tensor")
    return module.emitError()
           << "method=" << method
           << " needs granularity channel or group, got 'tensor'";
  if (damping < 0 || blockSize <= 0)
    return module.emitError()
           << "damping must not be negative and block-size "
              "positive, got "
           << double(damping) << " and " << int64_t(blockSize);
  if (refine < 0 || refine > 100)
    return module.emitError()
           << "refine must be from 0 to 100, got " << int64_t(refine);
  if (tableType != "source" && tableType != "f32")
    return module.emitError()
           << "table-type must be source or f32, got '" << tableType << "'";
  return getWeightTarget(
      module, {weights, granularity, groupSize, zeroPoints, doubleQuant});
}

/// The values of \p scales after double quantization.
static Value quantizeTwice(OpBuilder &builder, Location loc, Value scales) {
  auto type = cast<RankedTensorType>(scales.getType());
  auto codes = type.clone(builder.getIntegerType(8, /*isSigned=*/false));
  auto super = RankedTensorType::get(
      {getSuperScaleCount(type.getNumElements())}, builder.getF32Type());
  auto quantized = QuantizeScalesOp::create(builder, loc, codes, super, scales);
  return DequantizeScalesOp::create(builder, loc, type, quantized.getCodes(),
                                    quantized.getSuper());
}

/// The second moments of \p linear's inputs, a parameter of the statistics,
/// divided by what the columns of \p weight were multiplied by.
Value QuantizeWeightsPass::loadMoments(LinearOp linear, Value weight,
                                       StringRef label) {
  int64_t columns = cast<RankedTensorType>(weight.getType()).getDimSize(1);
  Value moments =
      loadStatistic(linear, label, "second_moments", {columns, columns});
  ScaleColumnsOp scaled = findColumnScales(weight);
  if (!scaled)
    return moments;
  OpBuilder builder(linear);
  return ScaleMomentsOp::create(builder, linear.getLoc(), moments,
                                scaled.getScales(), scaled.getHeadsAttr());
}

/// The values of \p linear's weight rounded to codes of \p target's scheme.
FailureOr<Value> QuantizeWeightsPass::quantize(LinearOp linear,
                                               const WeightTarget &target,
                                               StringRef label) {
  SchemeAttr scheme = target.scheme;
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
  RankedTensorType zeroType = zeroPoints ? zeros : RankedTensorType();
  Value weight = linear.getWeight(), moments;
  if (method == "gptq" || method == "awq")
    moments = loadMoments(linear, weight, label);
  if (method == "awq")
    weight = ClipOp::create(builder, loc, type.clone(builder.getF32Type()),
                            weight, moments, scheme);
  Operation *rounding;
  if (method == "gptq")
    rounding = GptqOp::create(
        builder, loc, codes, scales, zeroType, weight, moments, scheme,
        builder.getF64FloatAttr(damping), builder.getI64IntegerAttr(blockSize),
        actOrder ? builder.getUnitAttr() : UnitAttr(),
        staticGroups ? builder.getUnitAttr() : UnitAttr());
  else if (method == "keep")
    rounding = KeepCodesOp::create(
        builder, loc, codes, scales, zeroType, weight,
        loadStatistic(linear, label, "scales", shape),
        zeroPoints ? loadStatistic(linear, label, "zero_points", shape)
                   : Value(),
        scheme);
  else
    rounding =
        RtnOp::create(builder, loc, codes, scales, zeroType, weight, scheme);
  if (method == "gptq" && searchScales)
    rounding->setAttr(kSearchScalesAttr, builder.getUnitAttr());
  if (method == "gptq" && refine)
    rounding->setAttr(kRefineAttr, builder.getI64IntegerAttr(refine));
  Value storedScales = rounding->getResult(1);
  if (target.doubleQuant)
    storedScales = quantizeTwice(builder, loc, storedScales);
  return Value(DequantizeOp::create(
      builder, loc, type.clone(builder.getF32Type()), rounding->getResult(0),
      storedScales, zeroPoints ? rounding->getResult(2) : Value(),
      /*outliers=*/Value(), scheme));
}

void QuantizeWeightsPass::runOnOperation() {
  FailureOr<WeightTarget> target = checkOptions();
  if (failed(target))
    return signalPassFailure();
  if (method != "rtn")
    setStatistics(getOperation(), statistics);
  UniqueLabels labels;
  // A weight's new value, made before its first user in program order.
  DenseMap<Value, Value> converted;
  WalkResult result = getOperation().walk([&](LinearOp linear) {
    std::string label = labels.take(linear);
    if (hasKeptCodes(linear))
      return WalkResult::advance();
    Value weight = linear.getWeight();
    Value &kept = converted[weight];
    if (!kept)
      kept = keepFileCodes(linear);
    if (kept) {
      linear.getWeightMutable().assign(kept);
      return WalkResult::advance();
    }
    if (keepLmHead && isLmHead(linear))
      return WalkResult::advance();
    if (!target->type && !target->scheme)
      return WalkResult::advance();
    if (failed(checkParameter(linear, weight, "weight")))
      return WalkResult::interrupt();
    Value &value = converted[weight];
    if (!value && target->type)
      value = convertParameter(weight, target->type, linear);
    if (!value) {
      FailureOr<Value> rounded = quantize(linear, *target, label);
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

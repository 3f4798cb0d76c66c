//===- QuantizeWeights.cpp - Gives weights their stored type --------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "ParameterUses.h"
#include "WeightLabels.h"
#include "WeightScheme.h"
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
  Value loadMoments(LinearOp linear, StringRef label, int64_t columns);
};

} // namespace

/// Whether \p linear makes the logits: what the function returns.
static bool isLmHead(LinearOp linear) {
  return llvm::any_of(linear->getUsers(), llvm::IsaPred<func::ReturnOp>);
}

FailureOr<WeightTarget> QuantizeWeightsPass::checkOptions() {
  ModuleOp module = getOperation();
  if (method != "rtn" && method != "gptq")
    return module.emitError()
           << "method must be rtn or gptq, got '" << method << "'";
  if (method == "gptq" && statistics.empty())
    return module.emitError("method=gptq needs statistics of a calibration");
  if (method == "gptq" && granularity == "tensor")
    return module.emitError(
        "method=gptq needs granularity channel or group, got 'tensor'");
  if (damping < 0 || blockSize <= 0)
    return module.emitError()
           << "damping must not be negative and block-size "
              "positive, got "
           << double(damping) << " and " << int64_t(blockSize);
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

/// The second moments of \p linear's inputs, a parameter of the statistics.
Value QuantizeWeightsPass::loadMoments(LinearOp linear, StringRef label,
                                       int64_t columns) {
  ModuleOp module = getOperation();
  OpBuilder builder(linear);
  auto type = RankedTensorType::get({columns, columns}, builder.getF32Type());
  std::string key = (label + ".second_moments").str();
  std::string symbol = ("statistics." + key);
  if (!module.lookupSymbol(symbol)) {
    OpBuilder::InsertionGuard guard(builder);
    builder.setInsertionPointToStart(module.getBody());
    ParameterOp::create(builder, module.getLoc(), symbol, type, kStatisticsFile,
                        key);
  }
  return LoadOp::create(builder, linear.getLoc(), type, symbol);
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
  Operation *rounding;
  if (method == "gptq")
    rounding = GptqOp::create(
        builder, loc, codes, scales, zeroType, linear.getWeight(),
        loadMoments(linear, label, columns), scheme,
        builder.getF64FloatAttr(damping), builder.getI64IntegerAttr(blockSize),
        actOrder ? builder.getUnitAttr() : UnitAttr(),
        staticGroups ? builder.getUnitAttr() : UnitAttr());
  else
    rounding = RtnOp::create(builder, loc, codes, scales, zeroType,
                             linear.getWeight(), scheme);
  Value storedScales = rounding->getResult(1);
  if (target.doubleQuant)
    storedScales = quantizeTwice(builder, loc, storedScales);
  return Value(DequantizeOp::create(
      builder, loc, type.clone(builder.getF32Type()), rounding->getResult(0),
      storedScales, zeroPoints ? rounding->getResult(2) : Value(), scheme));
}

void QuantizeWeightsPass::runOnOperation() {
  FailureOr<WeightTarget> target = checkOptions();
  if (failed(target))
    return signalPassFailure();
  if (method == "gptq")
    getOperation()->setAttr(kStatisticsAttr,
                            StringAttr::get(&getContext(), statistics));
  UniqueLabels labels;
  // A weight's new value, made before its first user in program order.
  DenseMap<Value, Value> converted;
  WalkResult result = getOperation().walk([&](LinearOp linear) {
    std::string label = labels.take(linear);
    if (keepLmHead && isLmHead(linear))
      return WalkResult::advance();
    Value weight = linear.getWeight();
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

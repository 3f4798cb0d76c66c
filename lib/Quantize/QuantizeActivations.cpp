//===- QuantizeActivations.cpp - Quantizes the inputs of linears ----------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Statistics.h"
#include "WeightLabels.h"
#include "qlm/Quantize/Passes.h"

#include <cmath>

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
  LogicalResult checkOptions();
  LogicalResult quantizeFunction(func::FuncOp function, UniqueLabels &labels);
  FailureOr<Value> quantizeStatic(LinearOp linear, StringRef label);
  LogicalResult reportUnfit(LinearOp linear);
};
} // namespace

/// The schemes of `qlm.dynamic_quantize`.
static SchemeAttr getRowScheme(MLIRContext *context, bool isFloat8 = false) {
  Builder builder(context);
  if (isFloat8) {
    Type storage = Float8E4M3FNType::get(context);
    return SchemeAttr::get(context, storage, Granularity::Row, /*groupSize=*/0,
                           /*zeroPoints=*/false, /*lo=*/0, /*hi=*/0,
                           APFloat(getCacheBound(storage)),
                           builder.getF32Type(), Codebook::Float8);
  }
  return SchemeAttr::get(context, builder.getI8Type(), Granularity::Row,
                         /*groupSize=*/0, /*zeroPoints=*/false, /*lo=*/-127,
                         /*hi=*/127, APFloat(127.0), builder.getF32Type());
}

/// The values of \p input rounded as \p scheme says, but for magnitudes that
/// reach \p threshold (0: none), made right after \p input, where they dominate
/// all its users.
static Value quantizeInput(Value input, SchemeAttr scheme, double threshold,
                           Location loc) {
  OpBuilder builder(input.getContext());
  builder.setInsertionPointAfterValue(input);
  auto type = cast<RankedTensorType>(input.getType());
  auto codes = type.clone(scheme.getStorage());
  auto scales =
      RankedTensorType::get({type.getDimSize(0)}, builder.getF32Type());
  RankedTensorType outliers;
  FloatAttr limit;
  if (threshold) {
    outliers = scales.clone({type.getDimSize(0), 1 + 2 * type.getDimSize(1)});
    limit = builder.getF32FloatAttr(static_cast<float>(threshold));
  }
  auto rounded = DynamicQuantizeOp::create(builder, loc, codes, scales,
                                           outliers, input, scheme, limit);
  return DequantizeOp::create(builder, loc, type, rounded.getCodes(),
                              rounded.getScales(), /*zeroPoints=*/Value(),
                              rounded.getOutliers(), scheme);
}

namespace {
/// Where the range of an input is found: the statistic, its elements (0: one a
/// column), and the one that counts (-1: all).
struct RangeSource {
  StringRef name, statistic;
  int64_t size, element;
};
} // namespace

static constexpr RangeSource kRanges[] = {
    {"minmax", "absmax", 0, -1},
    {"average", "average_range", 2, -1},
    {"percentile", "thresholds", 3, 1},
    {"entropy", "thresholds", 3, 2},
};

/// The values of \p linear's input rounded to int8 with a scale of the
/// statistics that are called \p label.
FailureOr<Value> QuantizeActivationsPass::quantizeStatic(LinearOp linear,
                                                         StringRef label) {
  const RangeSource *source = llvm::find_if(
      kRanges, [&](const RangeSource &each) { return each.name == range; });
  Value input = linear.getInput();
  auto type = cast<RankedTensorType>(input.getType());
  ScaleColumnsOp migrated = findColumnScales(linear.getWeight());
  if (migrated && source->size)
    return linear.emitError()
           << "range=" << range << " needs inputs as calibration saw them; "
           << "those of " << label << " are divided by scales, choose minmax";
  OpBuilder builder(linear);
  Location loc = linear.getLoc();
  int64_t size = source->size ? source->size : type.getDimSize(1);
  Value magnitudes = loadStatistic(linear, label, source->statistic, size);
  auto one = RankedTensorType::get({1}, builder.getF32Type());
  Value scale = StaticScaleOp::create(
      builder, loc, one, magnitudes, migrated ? migrated.getScales() : Value(),
      source->element < 0 ? IntegerAttr()
                          : builder.getI64IntegerAttr(source->element),
      migrated ? migrated.getHeadsAttr() : DenseI64ArrayAttr());
  SchemeAttr scheme = getRowScheme(&getContext());
  // Right after the input, where the codes dominate all its users.
  builder.setInsertionPointAfterValue(input);
  auto codes = type.clone(builder.getI8Type());
  auto scales =
      RankedTensorType::get({type.getDimSize(0)}, builder.getF32Type());
  auto rounded = StaticQuantizeOp::create(builder, loc, codes, scales, input,
                                          scale, scheme);
  moveParametersBefore(scale, rounded);
  return Value(DequantizeOp::create(builder, loc, type, rounded.getCodes(),
                                    rounded.getScales(),
                                    /*zeroPoints=*/Value(),
                                    /*outliers=*/Value(), scheme));
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

/// Whether outliers can be multiplied by codes of \p scheme.
static bool takesOutliers(SchemeAttr scheme) {
  return scheme.getBits() == 8 && scheme.getGranularity() != Granularity::Group;
}

static Type getWeightElement(LinearOp linear) {
  return cast<RankedTensorType>(linear.getWeight().getType()).getElementType();
}

LogicalResult QuantizeActivationsPass::quantizeFunction(func::FuncOp function,
                                                        UniqueLabels &labels) {
  bool shortens = activations == "bf16",
       isFloat8 = activations == "fp8-dynamic";
  SchemeAttr scheme = getRowScheme(&getContext(), isFloat8);
  auto takesCodes = [&](SchemeAttr weight) {
    if (isFloat8)
      return weight.getCodebook() == Codebook::Float8;
    return weight.isUniform() && (!outlierThreshold || takesOutliers(weight));
  };
  LinearOp unfit;
  DenseMap<Value, Value> rounded;
  auto round = [&](LinearOp linear, StringRef label) -> FailureOr<Value> {
    if (activations == "int8-static")
      return quantizeStatic(linear, label);
    return shortens ? shortenInput(linear.getInput(), linear.getLoc())
                    : quantizeInput(linear.getInput(), scheme, outlierThreshold,
                                    linear.getLoc());
  };
  WalkResult result = function.walk([&](LinearOp linear) {
    std::string label = labels.take(linear);
    auto codes = linear.getWeight().getDefiningOp<DequantizeOp>();
    bool fits = shortens ? getWeightElement(linear).isBF16()
                         : codes && takesCodes(codes.getScheme());
    if (!fits) {
      unfit = unfit ? unfit : linear;
      return WalkResult::advance();
    }
    Value input = linear.getInput(), value = rounded.lookup(input);
    if (!value) {
      FailureOr<Value> made = round(linear, label);
      if (failed(made))
        return WalkResult::interrupt();
      value = rounded[input] = *made;
    }
    linear.getInputMutable().assign(value);
    return WalkResult::advance();
  });
  if (result.wasInterrupted())
    return failure();
  if (!rounded.empty() || !unfit)
    return success();
  return reportUnfit(unfit);
}

/// Says what \p linear, the first of which none fits, should have been.
LogicalResult QuantizeActivationsPass::reportUnfit(LinearOp linear) {
  StringRef option = activations, needed = "weights of integer codes",
            choice = "weights=int8 or weights=int4";
  if (outlierThreshold) {
    option = "outlier-threshold";
    needed = "weights of 8-bit codes by channel or tensor";
    choice = "weights=int8";
  } else if (activations == "bf16") {
    needed = "bf16 weights";
    choice = "weights=bf16";
  } else if (activations == "fp8-dynamic") {
    needed = "weights of f8E4M3FN";
    choice = "weights=fp8";
  }
  InFlightDiagnostic diagnostic = linear.emitError()
                                  << (outlierThreshold ? "" : "activations=")
                                  << option << " needs " << needed << ", got "
                                  << getStoredName(linear.getWeight()) << " in "
                                  << getWeightLabel(linear);
  diagnostic.attachNote() << "choose " << choice << ", or "
                          << (outlierThreshold ? "no threshold"
                                               : "activations=none");
  return failure();
}

LogicalResult QuantizeActivationsPass::checkOptions() {
  ModuleOp module = getOperation();
  StringRef known[] = {"none", "bf16", "int8-dynamic", "int8-static",
                       "fp8-dynamic"};
  if (!llvm::is_contained(known, StringRef(activations)))
    return module.emitError() << "activations must be none, bf16, "
                                 "int8-dynamic, int8-static or fp8-dynamic, "
                                 "got '"
                              << activations << "'";
  if (!(outlierThreshold >= 0) || std::isinf(outlierThreshold))
    return module.emitError()
           << "outlier-threshold must be a number that is not negative, got "
           << outlierThreshold;
  if (outlierThreshold && activations != "int8-dynamic")
    return module.emitError()
           << "outlier-threshold needs activations=int8-dynamic, got "
           << activations;
  if (activations != "int8-static")
    return success();
  if (statistics.empty())
    return module.emitError(
        "activations=int8-static needs statistics of a calibration");
  if (llvm::none_of(
          kRanges, [&](const RangeSource &each) { return each.name == range; }))
    return module.emitError()
           << "range must be minmax, average, percentile or entropy, got '"
           << range << "'";
  setStatistics(module, statistics);
  return success();
}

void QuantizeActivationsPass::runOnOperation() {
  if (failed(checkOptions()))
    return signalPassFailure();
  if (activations == "none")
    return;
  UniqueLabels labels;
  for (auto function : getOperation().getOps<func::FuncOp>())
    if (failed(quantizeFunction(function, labels)))
      return signalPassFailure();
}

//===- MigrateScales.cpp - Shares ranges between inputs and weights -------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Statistics.h"
#include "WeightLabels.h"
#include "WeightScheme.h"
#include "qlm/Dialect/MethodOps.h"
#include "qlm/Quantize/Passes.h"
#include "llvm/ADT/MapVector.h"

namespace mlir::qlm {
#define GEN_PASS_DEF_MIGRATESCALES
#include "qlm/Quantize/Passes.h.inc"
} // namespace mlir::qlm

using namespace mlir;
using namespace mlir::qlm;

namespace {

/// Where the inverse of an input's scales can be folded.
struct Source {
  RmsNormOp norm;                  ///< the norm's weight,
  LinearOp linear;                 ///< or rows of a linear's weight
  int64_t firstRow = 0;            ///< of `linear`
  std::optional<ScaleOrder> heads; ///< of an attention between them
};

struct MigrateScalesPass
    : ::mlir::qlm::impl::MigrateScalesBase<MigrateScalesPass> {
  using Base::Base;
  void runOnOperation() override;

private:
  LogicalResult checkOptions();
  FailureOr<Value> findScales(ArrayRef<LinearOp> linears, StringRef label,
                              DenseI64ArrayAttr heads);
  LogicalResult migrate(ArrayRef<LinearOp> linears, StringRef label);

  WeightTarget target;
};

} // namespace

LogicalResult MigrateScalesPass::checkOptions() {
  ModuleOp module = getOperation();
  if (migration != "none" && migration != "awq" && migration != "smooth")
    return module.emitError() << "migration must be none, awq or smooth, got '"
                              << migration << "'";
  if (migration != "none" && statistics.empty())
    return module.emitError()
           << "migration=" << migration << " needs statistics of a calibration";
  if (!(smoothing >= 0 && smoothing <= 1))
    return module.emitError()
           << "smoothing must be from 0 to 1, got " << double(smoothing);
  FailureOr<WeightTarget> found = getWeightTarget(
      module, {weights, granularity, groupSize, zeroPoints, doubleQuant});
  if (failed(found))
    return failure();
  target = *found;
  if (migration == "awq" && !target.scheme)
    return module.emitError()
           << "migration=awq needs quantized weights, got '" << weights << "'";
  if (migration == "awq" &&
      target.scheme.getGranularity() == Granularity::Tensor)
    return module.emitError(
        "migration=awq needs granularity channel or group, got 'tensor'");
  return success();
}

/// Whether nothing but linears (and observers) reads \p value.
static bool feedsLinearsOnly(Value value) {
  return llvm::all_of(value.getUsers(), llvm::IsaPred<LinearOp, ObserveOp>);
}

/// The linear of which \p value is a run of columns, through a split at most;
/// \p firstColumn is where the run begins.
static LinearOp findMaker(Value value, int64_t &firstColumn) {
  firstColumn = 0;
  if (auto split = value.getDefiningOp<SplitOp>()) {
    if (!value.hasOneUse() || !split.getInput().hasOneUse())
      return {};
    for (Value part : split.getParts()) {
      if (part == value)
        break;
      firstColumn += cast<RankedTensorType>(part.getType()).getDimSize(1);
    }
    return split.getInput().getDefiningOp<LinearOp>();
  }
  return value.hasOneUse() ? value.getDefiningOp<LinearOp>() : LinearOp();
}

/// What makes \p input, if its columns can be divided there by scales.
static std::optional<Source> findSource(Value input) {
  if (!feedsLinearsOnly(input))
    return std::nullopt;
  Source source;
  if (auto norm = input.getDefiningOp<RmsNormOp>()) {
    source.norm = norm;
    return source;
  }
  // silu(gate) * up is linear in up, which is the second half.
  if (auto swiglu = input.getDefiningOp<SwigluOp>()) {
    source.linear = findMaker(swiglu.getInput(), source.firstRow);
    source.firstRow += cast<RankedTensorType>(input.getType()).getDimSize(1);
  }
  // An attention's result is linear in its values, head by head.
  if (auto attention = input.getDefiningOp<AttentionOp>()) {
    source.linear = findMaker(attention.getValue(), source.firstRow);
    int64_t columns = cast<RankedTensorType>(input.getType()).getDimSize(1);
    int64_t heads = attention.getHeads();
    source.heads =
        ScaleOrder{heads / int64_t(attention.getKvHeads()), columns / heads};
  }
  // A residual would have to be divided too.
  if (!source.linear || source.linear.getResidual())
    return std::nullopt;
  return source;
}

/// Divides by \p scales what \p source makes.
static void foldIntoSource(const Source &source, Value scales) {
  auto divide = [&](OpOperand &operand, int64_t firstRow) {
    OpBuilder builder(operand.getOwner());
    auto type = cast<RankedTensorType>(operand.get().getType());
    operand.set(ScaleRowsOp::create(builder, operand.getOwner()->getLoc(),
                                    type.clone(builder.getF32Type()),
                                    operand.get(), scales, firstRow));
  };
  if (source.norm)
    return divide(RmsNormOp(source.norm).getWeightMutable(), /*firstRow=*/0);
  LinearOp linear = source.linear;
  divide(linear.getWeightMutable(), source.firstRow);
  for (OpOperand &bias : linear.getBiasMutable())
    divide(bias, source.firstRow);
}

/// The scales of the columns of \p linears, a parameter made before the first.
FailureOr<Value> MigrateScalesPass::findScales(ArrayRef<LinearOp> linears,
                                               StringRef label,
                                               DenseI64ArrayAttr heads) {
  SmallVector<Value> weights;
  for (LinearOp linear : linears)
    weights.push_back(linear.getWeight());
  auto weightType = cast<RankedTensorType>(weights.front().getType());
  int64_t columns = weightType.getDimSize(1);
  LinearOp first = linears.front();
  if (migration == "awq" &&
      target.scheme.getGranularity() == Granularity::Group &&
      columns % target.scheme.getGroupSize() != 0)
    return first.emitError() << "group size must divide the columns, got "
                             << target.scheme.getGroupSize() << " and "
                             << columns << " in " << label;
  OpBuilder builder(first);
  Location loc = first.getLoc();
  int64_t count = heads ? columns / heads[0] : columns;
  auto type = RankedTensorType::get({count}, builder.getF32Type());
  auto load = [&](StringRef name, ArrayRef<int64_t> shape) {
    return loadStatistic(first, label, name, shape);
  };
  if (migration == "smooth")
    return Value(SmoothScalesOp::create(
        builder, loc, type, weights, load("absmax", columns),
        builder.getF32FloatAttr(static_cast<float>(smoothing)), heads));
  Value means = load("mean_magnitude", columns);
  Value moments = load("second_moments", {columns, columns});
  return Value(AwqScalesOp::create(builder, loc, type, weights, means, moments,
                                   target.scheme, builder.getI64IntegerAttr(20),
                                   heads));
}

/// Migrates the scales of an input that \p linears share; \p label is that of
/// its statistics. Nothing happens where there is nowhere to fold them.
LogicalResult MigrateScalesPass::migrate(ArrayRef<LinearOp> linears,
                                         StringRef label) {
  LinearOp first = linears.front();
  std::optional<Source> source = findSource(first.getInput());
  if (!source)
    return success();
  OpBuilder builder(first);
  DenseI64ArrayAttr heads;
  if (source->heads && source->heads->shared > 1)
    heads = builder.getDenseI64ArrayAttr(
        {source->heads->shared, source->heads->headDim});
  FailureOr<Value> scales = findScales(linears, label, heads);
  if (failed(scales))
    return failure();
  for (LinearOp linear : linears) {
    OpBuilder before(linear);
    auto type = cast<RankedTensorType>(linear.getWeight().getType());
    linear.getWeightMutable().assign(ScaleColumnsOp::create(
        before, linear.getLoc(), type.clone(before.getF32Type()),
        linear.getWeight(), *scales, heads));
  }
  // What makes the scales must come before what they are folded into.
  Operation *maker = source->norm ? source->norm.getOperation()
                                  : source->linear.getOperation();
  moveParametersBefore(*scales, maker);
  foldIntoSource(*source, *scales);
  return success();
}

void MigrateScalesPass::runOnOperation() {
  if (failed(checkOptions()))
    return signalPassFailure();
  if (migration == "none")
    return;
  setStatistics(getOperation(), statistics);
  UniqueLabels labels;
  /// Linears by input, and the label of the first of each.
  llvm::MapVector<Value, std::pair<SmallVector<LinearOp>, std::string>> groups;
  WalkResult result = getOperation().walk([&](LinearOp linear) {
    std::string label = labels.take(linear);
    if (failed(checkParameter(linear, linear.getWeight(), "weight")))
      return WalkResult::interrupt();
    auto &[linears, first] = groups[linear.getInput()];
    if (linears.empty())
      first = label;
    linears.push_back(linear);
    return WalkResult::advance();
  });
  if (result.wasInterrupted())
    return signalPassFailure();
  for (auto &[input, group] : groups) {
    bool kept = keepLmHead && llvm::any_of(group.first, isLmHead);
    if (!kept && failed(migrate(group.first, group.second)))
      return signalPassFailure();
  }
}

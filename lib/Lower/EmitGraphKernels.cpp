//===- EmitGraphKernels.cpp - Kernels of a graph's linears ----------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Each linear becomes one launch, with what GraphRowBlocks.h takes over; what
// is left over of windows, pools and roundings becomes launches of its own, as
// does each attention.
//
//===----------------------------------------------------------------------===//

#include "FusedRows.h"
#include "GraphAttention.h"
#include "GraphLaunches.h"
#include "GraphRowBlocks.h"
#include "GraphWinograd.h"
#include "qlm/Dialect/MethodOps.h"
#include "qlm/Lower/Cpu/Kernels.h"
#include "qlm/Lower/GraphPasses.h"
#include "qlm/Lower/Kernel/Builder.h"
#include "qlm/Lower/LowerGraph.h"
#include "qlm/Package/Format.h"

#include "mlir/IR/TypeUtilities.h"
#include "mlir/Pass/PassManager.h"
#include "llvm/ADT/StringMap.h"
#include "llvm/ADT/TypeSwitch.h"
#include "llvm/Support/MathExtras.h"

namespace mlir::qlm {
#define GEN_PASS_DEF_EMITGRAPHKERNELS
#include "qlm/Lower/GraphPasses.h.inc"
} // namespace mlir::qlm

using namespace mlir;
using namespace mlir::qlm;
using kernel::KernelFrame;

/// Graphs with fewer bytes of weights get small code.
static constexpr int64_t kSmallWeightBytes = 1 << 20;

namespace {
/// Turns the operations of a graph to launches.
class GraphKernelWriter {
public:
  GraphKernelWriter(ModuleOp kernels, const cpu::Target &target, bool isSmall)
      : kernels(kernels), target(target), isSmall(isSmall) {}

  /// Writes a linear and what goes with it.
  LogicalResult writeLinear(PackedLinearOp op);
  /// Writes what no linear took over.
  LogicalResult writeRest(Operation *op);

private:
  LogicalResult writeRows(Operation *op);
  void writeWindows(graph::WindowsOp op);
  void writePool(graph::PoolRowsOp op);
  void writeAttention(graph::AttentionOp op);
  template <typename Op> void replacePlaces(Op op, StringRef kernel);
  graph::LaunchOp launch(Operation *place, StringRef kernel, Value rows,
                         Value tiles, int64_t scratchBytes, ValueRange inputs,
                         ArrayRef<Value> results);
  void replace(Operation *op, StringRef kernel, Value rows, Value tiles,
               int64_t scratchBytes);

  ModuleOp kernels;
  const cpu::Target &target;
  bool isSmall;
  /// Names and bytes of scratch of the kernels of attentions, by what they are
  /// made for.
  llvm::StringMap<std::pair<std::string, int64_t>> attentions;
};

struct EmitGraphKernelsPass
    : mlir::qlm::impl::EmitGraphKernelsBase<EmitGraphKernelsPass> {
  using Base::Base;

  void getDependentDialects(DialectRegistry &registry) const override {
    Base::getDependentDialects(registry);
    OpPassManager pm(ModuleOp::getOperationName());
    buildKernelsToLLVMPipeline(pm);
    pm.getDependentDialects(registry);
  }
  void runOnOperation() override;
};
} // namespace

/// A launch at \p place that gives \p results.
graph::LaunchOp GraphKernelWriter::launch(Operation *place, StringRef kernel,
                                          Value rows, Value tiles,
                                          int64_t scratchBytes,
                                          ValueRange inputs,
                                          ArrayRef<Value> results) {
  OpBuilder b(place);
  SmallVector<Value> outputs;
  SmallVector<Type> types;
  for (Value result : results) {
    auto type = cast<RankedTensorType>(result.getType());
    SmallVector<Value> open;
    if (type.isDynamicDim(0))
      open.push_back(rows);
    types.push_back(type);
    outputs.push_back(tensor::EmptyOp::create(
        b, place->getLoc(), type.getShape(), type.getElementType(), open));
  }
  return graph::LaunchOp::create(
      b, place->getLoc(), types, FlatSymbolRefAttr::get(b.getContext(), kernel),
      rows, tiles, b.getI64IntegerAttr(scratchBytes), inputs, outputs);
}

void GraphKernelWriter::replace(Operation *op, StringRef kernel, Value rows,
                                Value tiles, int64_t scratchBytes) {
  SmallVector<Value> results(op->getResults());
  op->replaceAllUsesWith(launch(op, kernel, rows, tiles, scratchBytes,
                                op->getOperands(), results));
  op->erase();
}

static Value getRows(OpBuilder &b, Location loc, Value tensor) {
  return b.createOrFold<tensor::DimOp>(loc, tensor, int64_t(0));
}

LogicalResult GraphKernelWriter::writeRows(Operation *op) {
  FailureOr<cpu::KernelInfo> info = cpu::emitKernel(
      kernels, op, target, SizeKind::Tokens, cpu::StepLimits{1, 1, 1});
  if (failed(info))
    return failure();
  OpBuilder b(op);
  Value rows = getRows(b, op->getLoc(), op->getOperand(0));
  Value tiles = b.createOrFold<arith::MulIOp>(
      op->getLoc(), rows,
      arith::ConstantIndexOp::create(b, op->getLoc(), info->tiles.getCount()));
  replace(op, info->name, rows, tiles, info->scratchBytes);
  return success();
}

/// How many tiles the launch of \p rows has; as the kernel finds it.
static Value countTiles(OpBuilder &b, Location loc, Value rows,
                        const RowBlocks &blocks) {
  auto constant = [&](int64_t value) -> Value {
    return arith::ConstantIndexOp::create(b, loc, value);
  };
  auto isLeast = [&](Value value, int64_t least) {
    return b.createOrFold<arith::CmpIOp>(loc, arith::CmpIPredicate::sge, value,
                                         constant(least));
  };
  Value count =
      b.createOrFold<arith::CeilDivUIOp>(loc, rows, constant(blocks.rows));
  Value even = b.createOrFold<arith::MulIOp>(
      loc, b.createOrFold<arith::CeilDivUIOp>(loc, count, constant(2)),
      constant(2));
  count = b.createOrFold<arith::SelectOp>(
      loc, isLeast(rows, RowBlocks::kFewRows), even, count);
  Value each = b.createOrFold<arith::SelectOp>(
      loc, isLeast(count, RowBlocks::kManyBlocks), constant(1),
      constant(blocks.tiles));
  return b.createOrFold<arith::MulIOp>(loc, count, each);
}

/// The rows of \p fused, by what stays of it: neither windows nor rounded rows
/// do.
static Value countRows(OpBuilder &b, FusedLinear &fused) {
  Location loc = fused.linear.getLoc();
  auto constant = [&](int64_t value) -> Value {
    return arith::ConstantIndexOp::create(b, loc, value);
  };
  int64_t known = getRanked(fused.linear.getResult()).getDimSize(0);
  if (!ShapedType::isDynamic(known))
    return constant(known);
  if (fused.windows) {
    ArrayRef<int64_t> size = fused.windows.getSize(),
                      places = fused.windows.getPlaces();
    Value pixels = getRows(b, loc, fused.windows.getInput());
    Value images =
        arith::DivUIOp::create(b, loc, pixels, constant(size[0] * size[1]));
    return arith::MulIOp::create(b, loc, images,
                                 constant(places[0] * places[1]));
  }
  if (fused.before)
    for (OpOperand *operand : fused.before.getDpsInputOperands())
      if (getMapOperand(fused.before, *operand) == MapOperand::Rows)
        return getRows(b, loc, operand->get());
  return getRows(b, loc, fused.getSource());
}

LogicalResult GraphKernelWriter::writeLinear(PackedLinearOp op) {
  FusedLinear fused = FusedLinear::get(op);
  bool byQuads = isWinograd(fused);
  FailureOr<RowBlocksKernel> kernel =
      byQuads ? emitWinograd(kernels, target, fused)
              : emitRowBlocks(kernels, target, fused, isSmall);
  if (failed(kernel))
    return failure();
  OpBuilder b(fused.place);
  Location loc = op.getLoc();
  Value rows = countRows(b, fused);
  Value units = rows;
  if (byQuads) {
    ArrayRef<int64_t> places = fused.windows.getPlaces();
    auto constant = [&](int64_t value) -> Value {
      return arith::ConstantIndexOp::create(b, loc, value);
    };
    Value images = b.createOrFold<arith::DivUIOp>(
        loc, rows, constant(places[0] * places[1]));
    units = b.createOrFold<arith::MulIOp>(
        loc, images, constant(Quads::get(fused.windows).perImage()));
  }
  graph::LaunchOp made =
      launch(fused.place, kernel->name, rows,
             countTiles(b, loc, units, kernel->blocks), kernel->scratchBytes,
             fused.inputs, fused.stored);
  // A thread makes the pixels of a block once.
  if (byQuads)
    made->setAttr(kTilesApartAttr, b.getUnitAttr());
  for (auto [old, result] : llvm::zip_equal(fused.stored, made.getResults()))
    old.replaceAllUsesWith(result);
  fused.erase();
  return success();
}

/// Windows that something else than a linear takes: a tile each.
void GraphKernelWriter::writeWindows(graph::WindowsOp op) {
  if (op->use_empty())
    return op.erase();
  std::string name = getFreeKernelName(kernels, "windows");
  KernelFrame frame(kernel::createKernelFunction(kernels, name), 2);
  auto type = cast<RankedTensorType>(op.getType());
  int64_t bytes = type.getDimSize(1) * type.getElementTypeBitWidth() / 8;
  emitWindows(frame.builder(), op, frame.buffer(0), frame.lo(),
              frame.hi() - frame.lo(), frame.buffer(1).at(frame.lo() * bytes));
  replacePlaces(op, name);
}

void GraphKernelWriter::writePool(graph::PoolRowsOp op) {
  std::string name = getFreeKernelName(kernels, "pool_rows");
  KernelFrame frame(kernel::createKernelFunction(kernels, name), 2);
  emitPool(frame.builder(), op, frame.buffer(0), frame.lo(), frame.hi(),
           frame.buffer(1), target.lanes());
  replacePlaces(op, name);
}

/// Attentions of one kind, as the layers of a model have, share a kernel.
void GraphKernelWriter::writeAttention(graph::AttentionOp op) {
  std::string kind;
  llvm::raw_string_ostream(kind)
      << op->getAttrDictionary() << op->getOperandTypes() << op.getType();
  auto [entry, isNew] = attentions.try_emplace(kind);
  auto &[name, scratchBytes] = entry->second;
  if (isNew) {
    name = getFreeKernelName(kernels, "attention");
    scratchBytes = emitGraphAttention(
        kernel::createKernelFunction(kernels, name), op, target);
  }
  OpBuilder b(op);
  AttentionLaunch launch = makeAttentionLaunch(b, op);
  SmallVector<Value> inputs{op.getQuery(), op.getKey(), op.getValue()};
  for (Value optional : {op.getMask(), op.getLengths()})
    if (optional)
      inputs.push_back(optional);
  inputs.push_back(launch.sizes);
  Value output =
      tensor::EmptyOp::create(b, op.getLoc(), launch.result,
                              getRanked(op.getResult()).getElementType());
  output = b.createOrFold<tensor::CastOp>(op.getLoc(), op.getType(), output);
  auto made = graph::LaunchOp::create(
      b, op.getLoc(), op->getResultTypes(),
      FlatSymbolRefAttr::get(b.getContext(), name), launch.queries,
      launch.tiles, b.getI64IntegerAttr(scratchBytes), inputs, output);
  made->setAttr(kTilesApartAttr, b.getUnitAttr());
  op.replaceAllUsesWith(made.getResult(0));
  op.erase();
}

/// Makes \p op a launch with a tile for each window.
template <typename Op>
void GraphKernelWriter::replacePlaces(Op op, StringRef kernel) {
  OpBuilder b(op);
  Location loc = op.getLoc();
  auto constant = [&](int64_t value) -> Value {
    return arith::ConstantIndexOp::create(b, loc, value);
  };
  Value images = b.createOrFold<arith::DivUIOp>(
      loc, getRows(b, loc, op.getInput()),
      constant(op.getSize()[0] * op.getSize()[1]));
  Value rows = b.createOrFold<arith::MulIOp>(
      loc, images, constant(op.getPlaces()[0] * op.getPlaces()[1]));
  replace(op, kernel, rows, rows, /*scratchBytes=*/0);
}

LogicalResult GraphKernelWriter::writeRest(Operation *op) {
  return llvm::TypeSwitch<Operation *, LogicalResult>(op)
      .Case<DynamicQuantizeOp, StaticQuantizeOp>(
          [&](Operation *rows) { return writeRows(rows); })
      .Case([&](graph::WindowsOp windows) {
        writeWindows(windows);
        return success();
      })
      .Case([&](graph::PoolRowsOp pool) {
        writePool(pool);
        return success();
      })
      .Case([&](graph::AttentionOp attention) {
        writeAttention(attention);
        return success();
      })
      .Default([](Operation *) { return success(); });
}

static bool usesBFloat16(func::FuncOp graph) {
  auto isUsed = [](Type type) { return getElementTypeOrSelf(type).isBF16(); };
  WalkResult result = graph.walk([&](Operation *op) {
    return llvm::any_of(op->getResultTypes(), isUsed) ? WalkResult::interrupt()
                                                      : WalkResult::advance();
  });
  return result.wasInterrupted();
}

/// Whether the weights of \p linears are codes, and so few that code is a good
/// part of the package. bf16 would need a library: where code is to be small
/// LLVM calls a function to convert it.
static bool isSmallGraph(func::FuncOp graph, ArrayRef<PackedLinearOp> linears) {
  int64_t bytes = 0;
  for (PackedLinearOp op : linears) {
    if (!op.getScheme())
      return false;
    auto type = op.getWeight().getType();
    bytes += type.getNumElements() * type.getElementTypeBitWidth() / 8;
  }
  return !linears.empty() && !usesBFloat16(graph) && bytes < kSmallWeightBytes;
}

/// What \p kernels holds becomes the module's own, for it alone.
static void moveFunctions(ModuleOp kernels, ModuleOp module) {
  for (Operation &op : llvm::make_early_inc_range(*kernels.getBody())) {
    op.moveBefore(&module.getBody()->front());
    if (auto function = dyn_cast<LLVM::LLVMFuncOp>(op);
        function && !function.isExternal()) {
      function.setLinkage(LLVM::Linkage::Internal);
      // Kernels promise that nothing writes what they read: that holds for a
      // call, not for the loop over blocks around it.
      function.setNoInline(true);
    }
  }
  kernels.erase();
}

void EmitGraphKernelsPass::runOnOperation() {
  ModuleOp module = getOperation();
  llvm::Expected<cpu::Target> target = cpu::Target::get(targetCpu);
  if (!target) {
    module.emitError() << llvm::toString(target.takeError());
    return signalPassFailure();
  }
  auto graph = module.lookupSymbol<func::FuncOp>(graph::kGraphName);
  if (!graph) {
    module.emitError("module has no function @graph");
    return signalPassFailure();
  }
  OpBuilder builder(&getContext());
  builder.setInsertionPointToEnd(module.getBody());
  auto kernels =
      ModuleOp::create(builder, builder.getUnknownLoc(), kKernelsName);
  SmallVector<PackedLinearOp> linears;
  graph.walk([&](PackedLinearOp op) { linears.push_back(op); });
  bool isSmall = isSmallGraph(graph, linears);
  if (isSmall)
    module->setAttr(kSmallCodeAttr, builder.getUnitAttr());
  GraphKernelWriter writer(kernels, *target, isSmall);
  for (PackedLinearOp op : linears)
    if (failed(writer.writeLinear(op)))
      return signalPassFailure();
  SmallVector<Operation *> rest;
  graph.walk([&](Operation *op) { rest.push_back(op); });
  for (Operation *op : rest)
    if (failed(writer.writeRest(op)))
      return signalPassFailure();
  OpPassManager pm(ModuleOp::getOperationName());
  buildKernelsToLLVMPipeline(pm);
  if (failed(runPipeline(pm, kernels)))
    return signalPassFailure();
  moveFunctions(kernels, module);
}

//===- EmitGraphKernels.cpp - Kernels of a graph's linears ----------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A step of a decoder has few rows, a graph as many as it likes: rows are cut
// into blocks, so that a kernel's scratch is bounded and a block's activations
// stay in a core's cache while all weights pass. Tiles of such a launch are
//
//   tile = block of rows * (tiles of the kernel) + tile of the kernel
//
// and neighbouring ones of a block are computed by one call.
//
//===----------------------------------------------------------------------===//

#include "qlm/Dialect/MethodOps.h"
#include "qlm/Lower/Cpu/Kernels.h"
#include "qlm/Lower/GraphPasses.h"
#include "qlm/Lower/Kernel/Builder.h"
#include "qlm/Lower/LowerGraph.h"
#include "qlm/Package/Format.h"

#include "mlir/Pass/PassManager.h"
#include "llvm/ADT/TypeSwitch.h"
#include "llvm/Support/MathExtras.h"

namespace mlir::qlm {
#define GEN_PASS_DEF_EMITGRAPHKERNELS
#include "qlm/Lower/GraphPasses.h.inc"
} // namespace mlir::qlm

using namespace mlir;
using namespace mlir::qlm;
using kernel::KernelBuilder;
using kernel::KernelFrame;
using kernel::Ptr;
using kernel::Val;

/// Bytes of activations that a block of rows should have: half of a small
/// second-level cache.
static constexpr int64_t kBlockBytes = 512 * 1024;
/// Fewer rows would read the weights too often, more make scratch large.
static constexpr int64_t kFewestRows = 64, kMostRows = 512;

namespace {
/// Turns the operations of a graph to launches.
class GraphKernelWriter {
public:
  GraphKernelWriter(ModuleOp kernels, const cpu::Target &target)
      : kernels(kernels), target(target) {}

  LogicalResult write(Operation *op);

private:
  LogicalResult writeRows(Operation *op);
  LogicalResult writeLinear(PackedLinearOp op);
  std::string emitRowBlocks(PackedLinearOp op, const cpu::KernelInfo &inner,
                            int64_t blockRows);
  void replace(Operation *op, StringRef kernel, Value rows, Value tiles,
               int64_t scratchBytes);

  ModuleOp kernels;
  const cpu::Target &target;
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

static int64_t elementBytes(Value value) {
  return cast<RankedTensorType>(value.getType()).getElementTypeBitWidth() / 8;
}

/// Bytes that a buffer advances by from row to row; 0 of parameters.
static int64_t rowBytes(PackedLinearOp op, Value value) {
  if (value == op.getInput() || value == op.getOutliers())
    return op.getInFeatures() * elementBytes(value);
  if (value == op.getInputScales())
    return 4;
  if (value == op.getResidual() || value == op.getResult())
    return op.getOutFeatures() * elementBytes(value);
  return 0;
}

/// Tiles lo .. hi - 1 of the kernel `inner` on blocks of `blockRows` rows.
/// Buffers are those of `inner`, for all rows. Tested by
/// test/python/test_graph_linear.py.
std::string GraphKernelWriter::emitRowBlocks(PackedLinearOp op,
                                             const cpu::KernelInfo &inner,
                                             int64_t blockRows) {
  std::string name = inner.name + "_rows";
  if (kernels.lookupSymbol(name))
    return name;
  SmallVector<int64_t> advance;
  for (Value operand : op->getOperands())
    advance.push_back(rowBytes(op, operand));
  advance.push_back(rowBytes(op, op.getResult()));
  func::FuncOp function = kernel::createKernelFunction(kernels, name);
  KernelFrame frame(function, advance.size());
  KernelBuilder &b = frame.builder();
  Location loc = b.getLoc();
  auto allocate = [&](int64_t words) {
    Value count = b.index(words).get();
    return Ptr(LLVM::AllocaOp::create(b, loc, b.ptr(), b.i64(), count), &b);
  };
  Ptr list = allocate(advance.size()), sizes = allocate(4);
  Val rows = frame.size(SizeKind::Tokens);
  int64_t tiles = inner.tiles.getCount();
  auto callee = kernels.lookupSymbol<func::FuncOp>(inner.name);
  b.forRange(frame.lo() / tiles, (frame.hi() + (tiles - 1)) / tiles, 1,
             [&](Val block) {
               Val first = block * blockRows;
               for (auto [i, bytes] : llvm::enumerate(advance))
                 list.at(8 * static_cast<int64_t>(i))
                     .store(b.val(frame.buffer(i).at(first * bytes).get()), 8);
               Val count = b.min(rows - first, b.index(blockRows));
               sizes.at(8 * ::qlm::format::kSizeTokens).store(count, 8);
               Val from = b.max(frame.lo() - block * tiles, b.index(0));
               Val to = b.min(frame.hi() - block * tiles, b.index(tiles));
               func::CallOp::create(b, loc, callee,
                                    ValueRange{list.get(), sizes.get(),
                                               from.get(), to.get(),
                                               frame.scratch().get()});
             });
  return name;
}

void GraphKernelWriter::replace(Operation *op, StringRef kernel, Value rows,
                                Value tiles, int64_t scratchBytes) {
  OpBuilder b(op);
  SmallVector<Value> outputs;
  for (Type result : op->getResultTypes()) {
    auto type = cast<RankedTensorType>(result);
    SmallVector<Value> open;
    if (type.isDynamicDim(0))
      open.push_back(rows);
    outputs.push_back(tensor::EmptyOp::create(b, op->getLoc(), type.getShape(),
                                              type.getElementType(), open));
  }
  auto launch = graph::LaunchOp::create(
      b, op->getLoc(), op->getResultTypes(),
      FlatSymbolRefAttr::get(b.getContext(), kernel), rows, tiles,
      b.getI64IntegerAttr(scratchBytes), op->getOperands(), outputs);
  op->replaceAllUsesWith(launch);
  op->erase();
}

static Value getRows(Operation *op) {
  OpBuilder b(op);
  return b.createOrFold<tensor::DimOp>(op->getLoc(), op->getOperand(0), 0);
}

LogicalResult GraphKernelWriter::writeRows(Operation *op) {
  FailureOr<cpu::KernelInfo> info = cpu::emitKernel(
      kernels, op, target, SizeKind::Tokens, cpu::StepLimits{kMostRows, 1, 1});
  if (failed(info))
    return failure();
  Value rows = getRows(op);
  OpBuilder b(op);
  Value tiles = b.createOrFold<arith::MulIOp>(
      op->getLoc(), rows,
      arith::ConstantIndexOp::create(b, op->getLoc(), info->tiles.getCount()));
  replace(op, info->name, rows, tiles, info->scratchBytes);
  return success();
}

LogicalResult GraphKernelWriter::writeLinear(PackedLinearOp op) {
  int64_t bytes = op.getInFeatures() * elementBytes(op.getInput());
  int64_t blockRows =
      std::clamp(kBlockBytes / bytes, kFewestRows, kMostRows) / 16 * 16;
  FailureOr<cpu::KernelInfo> info = cpu::emitKernel(
      kernels, op, target, SizeKind::Tokens, cpu::StepLimits{blockRows, 1, 1});
  if (failed(info))
    return failure();
  std::string name = emitRowBlocks(op, *info, blockRows);
  Value rows = getRows(op);
  OpBuilder b(op);
  Location loc = op.getLoc();
  auto constant = [&](int64_t value) -> Value {
    return arith::ConstantIndexOp::create(b, loc, value);
  };
  Value blocks =
      b.createOrFold<arith::CeilDivUIOp>(loc, rows, constant(blockRows));
  Value tiles = b.createOrFold<arith::MulIOp>(loc, blocks,
                                              constant(info->tiles.getCount()));
  replace(op, name, rows, tiles, info->scratchBytes);
  return success();
}

LogicalResult GraphKernelWriter::write(Operation *op) {
  return llvm::TypeSwitch<Operation *, LogicalResult>(op)
      .Case([&](PackedLinearOp linear) { return writeLinear(linear); })
      .Case<DynamicQuantizeOp, StaticQuantizeOp>(
          [&](Operation *rows) { return writeRows(rows); })
      .Default([](Operation *) { return success(); });
}

/// What \p kernels holds becomes the module's own, for it alone.
static void moveFunctions(ModuleOp kernels, ModuleOp module) {
  for (Operation &op : llvm::make_early_inc_range(*kernels.getBody())) {
    op.moveBefore(&module.getBody()->front());
    if (auto function = dyn_cast<LLVM::LLVMFuncOp>(op);
        function && !function.isExternal())
      function.setLinkage(LLVM::Linkage::Internal);
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
  GraphKernelWriter writer(kernels, *target);
  SmallVector<Operation *> operations;
  graph.walk([&](Operation *op) { operations.push_back(op); });
  for (Operation *op : operations)
    if (failed(writer.write(op)))
      return signalPassFailure();
  OpPassManager pm(ModuleOp::getOperationName());
  buildKernelsToLLVMPipeline(pm);
  if (failed(runPipeline(pm, kernels)))
    return signalPassFailure();
  moveFunctions(kernels, module);
}

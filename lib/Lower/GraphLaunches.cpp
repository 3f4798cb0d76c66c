//===- GraphLaunches.cpp - Launches from tensors to calls -----------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "GraphLaunches.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Bufferization/IR/BufferizableOpInterface.h"
#include "mlir/Dialect/Bufferization/IR/DstBufferizableOpInterfaceImpl.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "qlm/Dialect/Graph.h"
#include "qlm/Package/GraphFormat.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::bufferization;

//===----------------------------------------------------------------------===//
// From tensors to memory
//===----------------------------------------------------------------------===//

/// Kernels take rows one after the other: memory with strides is copied.
static Value makeDense(RewriterBase &b, Location loc, Value buffer) {
  auto type = cast<MemRefType>(buffer.getType());
  if (type.getLayout().isIdentity())
    return buffer;
  auto dense = MemRefType::get(type.getShape(), type.getElementType());
  SmallVector<Value> open;
  for (int64_t axis = 0; axis < type.getRank(); ++axis)
    if (type.isDynamicDim(axis))
      open.push_back(memref::DimOp::create(b, loc, buffer, axis));
  Value copy =
      memref::AllocOp::create(b, loc, dense, open, b.getI64IntegerAttr(64));
  memref::CopyOp::create(b, loc, buffer, copy);
  return copy;
}

namespace {
struct LaunchBufferization
    : DstBufferizableOpInterfaceExternalModel<LaunchBufferization,
                                              graph::LaunchOp> {
  bool bufferizesToMemoryRead(Operation *op, OpOperand &operand,
                              const AnalysisState &) const {
    return !cast<graph::LaunchOp>(op).isDpsInit(&operand);
  }

  LogicalResult bufferize(Operation *op, RewriterBase &b,
                          const BufferizationOptions &options,
                          BufferizationState &state) const {
    auto launch = cast<graph::LaunchOp>(op);
    SmallVector<Value> inputs, outputs;
    for (auto [from, to, isInput] :
         {std::tuple(launch.getInputs(), &inputs, true),
          std::tuple(launch.getOutputs(), &outputs, false)})
      for (Value value : from) {
        FailureOr<Value> buffer = getBuffer(b, value, options, state);
        if (failed(buffer))
          return failure();
        to->push_back(isInput ? makeDense(b, op->getLoc(), *buffer) : *buffer);
      }
    auto made = graph::LaunchOp::create(
        b, op->getLoc(), TypeRange(), launch.getKernelAttr(), launch.getRows(),
        launch.getTiles(), launch.getScratchBytesAttr(), inputs, outputs);
    made->setDiscardableAttrs(op->getDiscardableAttrDictionary());
    replaceOpWithBufferizedValues(b, op, outputs);
    return success();
  }
};
} // namespace

void mlir::qlm::registerLaunchBufferization(DialectRegistry &registry) {
  registry.addExtension(+[](MLIRContext *context, graph::GraphDialect *) {
    graph::LaunchOp::attachInterface<LaunchBufferization>(*context);
  });
}

//===----------------------------------------------------------------------===//
// From memory to calls
//===----------------------------------------------------------------------===//

/// The variable that holds the runtime's function, made at its first use.
static LLVM::GlobalOp getLaunchVariable(ModuleOp module) {
  StringRef name = ::qlm::format::kGraphLaunch;
  if (auto global = module.lookupSymbol<LLVM::GlobalOp>(name))
    return global;
  OpBuilder b(module.getContext());
  b.setInsertionPointToStart(module.getBody());
  Location loc = module.getLoc();
  auto pointer = LLVM::LLVMPointerType::get(module.getContext());
  auto global =
      LLVM::GlobalOp::create(b, loc, pointer, /*isConstant=*/false,
                             LLVM::Linkage::External, name, Attribute());
  b.createBlock(&global.getInitializerRegion());
  LLVM::ReturnOp::create(b, loc,
                         ValueRange(LLVM::ZeroOp::create(b, loc, pointer)));
  return global;
}

static void lowerLaunch(graph::LaunchOp launch, LLVM::GlobalOp variable) {
  OpBuilder b(launch);
  Location loc = launch.getLoc();
  auto pointer = LLVM::LLVMPointerType::get(b.getContext());
  Type i64 = b.getI64Type();
  auto constant = [&](int64_t value) -> Value {
    return LLVM::ConstantOp::create(b, loc, i64, b.getI64IntegerAttr(value));
  };
  // Arrays on the stack are made at the entry: launches may be in loops.
  auto allocate = [&](int64_t words) -> Value {
    OpBuilder::InsertionGuard guard(b);
    auto function = launch->getParentOfType<func::FuncOp>();
    b.setInsertionPointToStart(&function.front());
    return LLVM::AllocaOp::create(b, loc, pointer, i64, constant(words));
  };
  auto put = [&](Value array, int64_t word, Value value) {
    Value slot =
        LLVM::GEPOp::create(b, loc, pointer, i64, array,
                            ArrayRef<LLVM::GEPArg>{static_cast<int32_t>(word)});
    LLVM::StoreOp::create(b, loc, value, slot);
  };
  auto toI64 = [&](Value index) -> Value {
    return arith::IndexCastOp::create(b, loc, i64, index);
  };
  int64_t count = launch.getInputs().size() + launch.getOutputs().size();
  int64_t tilesApart = launch->hasAttr(kTilesApartAttr);
  Value buffers = allocate(count), sizes = allocate(4);
  int64_t next = 0;
  for (ValueRange list : {launch.getInputs(), launch.getOutputs()})
    for (Value buffer : list) {
      Value address =
          toI64(memref::ExtractAlignedPointerAsIndexOp::create(b, loc, buffer));
      put(buffers, next++, address);
    }
  for (int64_t i = 0; i < 4; ++i)
    put(sizes, i,
        i == ::qlm::format::kSizeTokens       ? toI64(launch.getRows())
        : i == ::qlm::format::kSizeTilesApart ? constant(tilesApart)
                                              : constant(0));
  Value kernel =
      LLVM::AddressOfOp::create(b, loc, pointer, launch.getKernelAttr());
  Value slot = LLVM::AddressOfOp::create(b, loc, variable);
  Value function = LLVM::LoadOp::create(b, loc, pointer, slot);
  auto type =
      LLVM::LLVMFunctionType::get(LLVM::LLVMVoidType::get(b.getContext()),
                                  {pointer, pointer, pointer, i64, i64});
  LLVM::CallOp::create(b, loc, type,
                       ValueRange{function, kernel, buffers, sizes,
                                  toI64(launch.getTiles()),
                                  constant(launch.getScratchBytes())});
  launch.erase();
}

void mlir::qlm::lowerLaunches(ModuleOp module) {
  SmallVector<graph::LaunchOp> launches;
  module.walk([&](graph::LaunchOp op) { launches.push_back(op); });
  if (launches.empty())
    return;
  LLVM::GlobalOp variable = getLaunchVariable(module);
  for (graph::LaunchOp launch : launches)
    lowerLaunch(launch, variable);
}

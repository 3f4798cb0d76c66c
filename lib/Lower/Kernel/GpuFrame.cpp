//===- GpuFrame.cpp - The body of a GPU kernel ----------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Lower/Kernel/GpuFrame.h"

#include "mlir/Dialect/LLVMIR/NVVMDialect.h"
#include "qlm/Package/Format.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::kernel;

/// All lanes of a warp take part.
static constexpr int64_t kAllLanes = -1;

void kernel::registerGpuKernelDialects(DialectRegistry &registry) {
  registerKernelDialects(registry);
  registry.insert<gpu::GPUDialect, NVVM::NVVMDialect>();
}

//===----------------------------------------------------------------------===//
// The function
//===----------------------------------------------------------------------===//

LLVM::LLVMFuncOp kernel::createGpuKernel(gpu::GPUModuleOp kernels,
                                         StringRef name, int64_t buffers,
                                         int64_t threads) {
  MLIRContext *context = kernels.getContext();
  OpBuilder b(context);
  b.setInsertionPointToEnd(&kernels.getBodyRegion().front());
  Type pointer = LLVM::LLVMPointerType::get(context, kGlobalSpace);
  auto type =
      LLVM::LLVMFunctionType::get(LLVM::LLVMVoidType::get(context),
                                  SmallVector<Type>(buffers + 1, pointer));
  auto function = LLVM::LLVMFuncOp::create(b, kernels.getLoc(), name, type);
  function->setAttr(NVVM::NVVMDialect::getKernelFuncAttrName(),
                    b.getUnitAttr());
  function->setAttr(NVVM::NVVMDialect::getReqntidAttrName(),
                    b.getDenseI32ArrayAttr({static_cast<int32_t>(threads)}));
  b.setInsertionPointToStart(function.addEntryBlock(b));
  LLVM::ReturnOp::create(b, kernels.getLoc(), ValueRange());
  return function;
}

GpuKernelFrame::GpuKernelFrame(LLVM::LLVMFuncOp function)
    : function(function), b(function.getContext(), function.getLoc()) {
  auto threads = function->getAttrOfType<DenseI32ArrayAttr>(
      NVVM::NVVMDialect::getReqntidAttrName());
  blockThreads = threads[0];
  // "sm_80" and "sm_89" have no dependent launches, "sm_90a" has.
  auto kernels = function->getParentOfType<gpu::GPUModuleOp>();
  auto chip =
      kernels ? kernels->getAttrOfType<StringAttr>(kChipAttr) : StringAttr();
  isDependent = !chip || !chip.getValue().starts_with("sm_8");
  b.setNativeBFloat16(true);
  b.setInsertionPoint(function.getBody().front().getTerminator());
}

//===----------------------------------------------------------------------===//
// Arguments
//===----------------------------------------------------------------------===//

Ptr GpuKernelFrame::buffer(int64_t index) {
  return Ptr(function.getArgument(index), &b);
}

/// Sizes are below 2^31: their low halves are read.
static Val loadSize(LLVM::LLVMFuncOp function, KernelBuilder &b, int index) {
  Ptr sizes = Ptr(function.getArguments().back(), &b).readOnly();
  return sizes.at(8 * index).load(b.i32(), 8);
}

Val GpuKernelFrame::size(SizeKind kind) {
  switch (kind) {
  case SizeKind::One:
    return b.constant(b.i32(), int64_t(1));
  case SizeKind::Tokens:
    return loadSize(function, b, ::qlm::format::kSizeTokens);
  case SizeKind::Sequences:
    return loadSize(function, b, ::qlm::format::kSizeSequences);
  case SizeKind::LogitRows:
    return loadSize(function, b, ::qlm::format::kSizeLogitRows);
  }
  llvm_unreachable("all sizes are covered");
}

Val GpuKernelFrame::maxPagesPerSequence() {
  return loadSize(function, b, ::qlm::format::kSizeMaxPages);
}

//===----------------------------------------------------------------------===//
// Places
//===----------------------------------------------------------------------===//

/// Reads a special register whose values are 0 .. \p bound - 1.
template <typename SpecialRegister>
static Val readRegister(KernelBuilder &b, int64_t bound) {
  auto range = LLVM::ConstantRangeAttr::get(
      b.getContext(), APInt(32, 0), APInt(32, static_cast<uint64_t>(bound)));
  return b.val(SpecialRegister::create(b, b.getLoc(), b.i32(), range));
}

/// Blocks of a grid along x are below 2^31, along y below 2^16.
static constexpr int64_t kMostBlocks = (int64_t(1) << 31) - 1;
static constexpr int64_t kMostBlocksY = (1 << 16) - 1;

Val GpuKernelFrame::thread() {
  return readRegister<NVVM::ThreadIdXOp>(b, blockThreads);
}
Val GpuKernelFrame::warp() {
  Val number = thread() >> 5;
  return shuffle(number, b.constant(b.i32(), int64_t(0)));
}
Val GpuKernelFrame::block() {
  return readRegister<NVVM::BlockIdXOp>(b, kMostBlocks);
}
Val GpuKernelFrame::blockY() {
  return readRegister<NVVM::BlockIdYOp>(b, kMostBlocksY);
}
Val GpuKernelFrame::blocks() {
  return readRegister<NVVM::GridDimXOp>(b, kMostBlocks);
}
Val GpuKernelFrame::blocksY() {
  return readRegister<NVVM::GridDimYOp>(b, kMostBlocksY);
}

//===----------------------------------------------------------------------===//
// Shared memory
//===----------------------------------------------------------------------===//

/// Declares a global of shared memory before \p function and takes its address
/// where every use sees it.
static Ptr declareShared(LLVM::LLVMFuncOp function, KernelBuilder &b,
                         StringRef name, int64_t bytes, int64_t alignment,
                         LLVM::Linkage linkage) {
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPoint(function);
  auto type = LLVM::LLVMArrayType::get(b.i8(), bytes);
  auto global = LLVM::GlobalOp::create(
      b, b.getLoc(), type, /*isConstant=*/false, linkage, name, Attribute(),
      static_cast<uint64_t>(alignment), kSharedSpace);
  b.setInsertionPointToStart(&function.getBody().front());
  return Ptr(LLVM::AddressOfOp::create(b, b.getLoc(), global), &b);
}

Ptr GpuKernelFrame::shared(int64_t bytes, int64_t alignment) {
  staticBytes = llvm::alignTo(staticBytes, alignment) + bytes;
  std::string name =
      (function.getSymName() + "_shared" + Twine(sharedCount++)).str();
  return declareShared(function, b, name, bytes, alignment,
                       LLVM::Linkage::Internal);
}

Ptr GpuKernelFrame::dynamicShared() {
  if (!dynamic)
    dynamic =
        declareShared(function, b, (function.getSymName() + "_dynamic").str(),
                      /*bytes=*/0, /*alignment=*/1024, LLVM::Linkage::External);
  return dynamic;
}

Ptr GpuKernelFrame::constantTable(ArrayRef<float> values) {
  auto kernels = function->getParentOfType<gpu::GPUModuleOp>();
  auto attribute = DenseElementsAttr::get(
      RankedTensorType::get({static_cast<int64_t>(values.size())}, b.f32()),
      values);
  LLVM::GlobalOp global;
  for (auto other : kernels.getOps<LLVM::GlobalOp>())
    if (other.getValueOrNull() == attribute)
      global = other;
  if (!global) {
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(&kernels.getBodyRegion().front());
    std::string name = "table" + std::to_string(values.size());
    for (int64_t same = 1; kernels.lookupSymbol(name); ++same)
      name =
          "table" + std::to_string(values.size()) + "_" + std::to_string(same);
    auto type = LLVM::LLVMArrayType::get(b.f32(), values.size());
    global = LLVM::GlobalOp::create(b, b.getLoc(), type, /*isConstant=*/true,
                                    LLVM::Linkage::Internal, name, attribute,
                                    /*alignment=*/16, kConstantSpace);
  }
  return Ptr(LLVM::AddressOfOp::create(b, b.getLoc(), global), &b).readOnly();
}

//===----------------------------------------------------------------------===//
// Order
//===----------------------------------------------------------------------===//

void GpuKernelFrame::barrier() { NVVM::BarrierOp::create(b, b.getLoc()); }

void GpuKernelFrame::barrier(int64_t id, int64_t count) {
  NVVM::BarrierOp::create(b, b.getLoc(), TypeRange(),
                          b.constant(b.i32(), id).get(),
                          b.constant(b.i32(), count).get(),
                          /*reductionOp=*/nullptr,
                          /*reductionPredicate=*/Value());
}

void GpuKernelFrame::syncWarp() {
  NVVM::SyncWarpOp::create(b, b.getLoc(), b.constant(b.i32(), kAllLanes).get());
}

void GpuKernelFrame::waitForPrevious() {
  if (!isDependent)
    return;
  NVVM::GriddepcontrolOp::create(b, b.getLoc(), NVVM::GridDepActionKind::wait);
}

void GpuKernelFrame::launchDependents() {
  if (!isDependent)
    return;
  NVVM::GriddepcontrolOp::create(b, b.getLoc(),
                                 NVVM::GridDepActionKind::launch_dependents);
}

//===----------------------------------------------------------------------===//
// Warps
//===----------------------------------------------------------------------===//

/// One shuffle of 32 bits.
static Val shuffleWord(KernelBuilder &b, Val word, Val operand,
                       NVVM::ShflKind kind) {
  Val all = b.constant(b.i32(), kAllLanes);
  // Lanes beyond 31 clamp; segments of the whole warp.
  Val clamp = b.constant(b.i32(), int64_t(kWarpThreads - 1));
  return b.val(NVVM::ShflOp::create(b, b.getLoc(), word.type(), all.get(),
                                    word.get(), operand.get(), clamp.get(),
                                    kind,
                                    /*return_value_and_is_valid=*/UnitAttr()));
}

/// Shuffles any value of 32 or 64 bits, in words.
static Val shuffleValue(KernelBuilder &b, Val value, Val operand,
                        NVVM::ShflKind kind) {
  Type type = value.type();
  if (type.isInteger(32) || type.isF32())
    return shuffleWord(b, value, operand, kind);
  int64_t bits = value.lanes() * value.elementType().getIntOrFloatBitWidth();
  assert((bits == 32 || bits == 64) && "shuffles take 32 or 64 bits");
  if (bits == 32)
    return b.bitcast(shuffleWord(b, b.bitcast(value, b.i32()), operand, kind),
                     type);
  Val words = b.bitcast(value, b.vec(2, b.i32()));
  Val moved = words;
  for (int64_t i = 0; i < 2; ++i)
    moved = b.insert(moved, shuffleWord(b, words.lane(i), operand, kind), i);
  return b.bitcast(moved, type);
}

Val GpuKernelFrame::shuffleXor(Val value, int64_t mask) {
  return shuffleValue(b, value, b.constant(b.i32(), mask),
                      NVVM::ShflKind::bfly);
}
Val GpuKernelFrame::shuffleDown(Val value, int64_t distance) {
  return shuffleValue(b, value, b.constant(b.i32(), distance),
                      NVVM::ShflKind::down);
}
Val GpuKernelFrame::shuffle(Val value, Val from) {
  return shuffleValue(b, value, from, NVVM::ShflKind::idx);
}

Val GpuKernelFrame::warpFold(Val value, function_ref<Val(Val, Val)> fold,
                             int64_t width) {
  for (int64_t mask = width / 2; mask; mask /= 2)
    value = fold(value, shuffleXor(value, mask));
  return value;
}

static Val add(Val a, Val b) { return a + b; }

Val GpuKernelFrame::warpSum(Val value, int64_t width) {
  return warpFold(value, add, width);
}
Val GpuKernelFrame::warpMax(Val value, int64_t width) {
  return warpFold(value, [&](Val x, Val y) { return b.max(x, y); }, width);
}

//===----------------------------------------------------------------------===//
// Blocks
//===----------------------------------------------------------------------===//

Val GpuKernelFrame::blockFold(Val value, function_ref<Val(Val, Val)> fold) {
  value = warpFold(value, fold);
  if (warps() == 1)
    return value;
  Type type = value.type();
  if (!foldScratch)
    foldScratch = shared(kWarpThreads * 4);
  ifLane(0, [&] { foldScratch.element(type, thread() >> 5).store(value); });
  barrier();
  Val result = foldScratch.load(type);
  for (int64_t i = 1; i < warps(); ++i)
    result = fold(result, foldScratch.at(4 * i).load(type));
  // The next fold may write the same place.
  barrier();
  return result;
}

Val GpuKernelFrame::blockSum(Val value) { return blockFold(value, add); }
Val GpuKernelFrame::blockMax(Val value) {
  return blockFold(value, [&](Val x, Val y) { return b.max(x, y); });
}

//===----------------------------------------------------------------------===//
// Arithmetic
//===----------------------------------------------------------------------===//

/// Applies a scalar intrinsic to each lane.
static Val mapLanes(KernelBuilder &b, Val x, StringRef intrinsic) {
  if (!isa<VectorType>(x.type()))
    return b.intrinsic(intrinsic, x.type(), {x});
  Val result = x;
  for (int64_t i = 0; i < x.lanes(); ++i)
    result = b.insert(result,
                      b.intrinsic(intrinsic, x.elementType(), {x.lane(i)}), i);
  return result;
}

Val GpuKernelFrame::exp2Fast(Val x) {
  return mapLanes(b, x, "llvm.nvvm.ex2.approx");
}

Val GpuKernelFrame::reciprocalFast(Val x) {
  return mapLanes(b, x, "llvm.nvvm.rcp.approx.ftz.f");
}

Val GpuKernelFrame::expFast(Val x) {
  constexpr double kLog2E = 1.44269504088896341;
  return exp2Fast(x * kLog2E);
}

Val GpuKernelFrame::fromE4M3(Val codes) {
  // Sign, exponent and mantissa moved to f16's places; the biases differ by 8.
  Val bits = b.extendUnsigned(codes, b.i16());
  Val half = ((bits & 0x80) << 8) | ((bits & 0x7f) << 7);
  Type type = isa<VectorType>(codes.type())
                  ? Type(b.vec(codes.lanes(), b.f16()))
                  : b.f16();
  return b.toF32(b.bitcast(half, type)) * 256.0;
}

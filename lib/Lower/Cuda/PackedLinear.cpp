//===- PackedLinear.cpp - Which kernels serve a packed_linear -------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// sm_90a, up to 8 rows: Gemv.h. More: Gemm.h, with tiles that its cost model
// chooses for each bucket of rows. What they don't serve, and other chips:
// PlainLinear.cpp.
//
// With `batch-invariant` all rows take the tiles of Gemm.h, and split columns
// as few rows do: their sums have one order.
//
//===----------------------------------------------------------------------===//

#include "Emitters.h"
#include "Gemm.h"
#include "Gemv.h"
#include "LinearPairs.h"
#include "qlm/Lower/LaunchGroup.h"

#include "mlir/Dialect/LLVMIR/NVVMDialect.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cuda;
using namespace mlir::qlm::kernel;

/// Rows that a prologue normalizes. Every thread block reads all of x in f32:
/// with 8 rows of a 7B model that is 17 MB from the second-level cache, and a
/// step was slower than with launches of norms (1,710 against 1,834 tokens a
/// second, H200).
static constexpr int64_t kNormRows = 1;
/// Groups that the kernels know are powers of two of at least this.
static constexpr int64_t kSmallestGroup = 32;

static std::optional<InputFormat> getInputFormat(Type type) {
  if (type.isF16())
    return InputFormat::F16;
  if (type.isBF16())
    return InputFormat::BF16;
  if (type.isInteger(8))
    return InputFormat::Int8;
  if (isa<Float8E4M3FNType>(type))
    return InputFormat::Fp8;
  return std::nullopt;
}

/// The format of packed weights for an input, if kernels know it.
static std::optional<WeightFormat> getWeightFormat(PackedLinearOp op,
                                                   InputFormat input) {
  LayoutKind kind = op.getLayout().getKind();
  std::optional<SchemeAttr> scheme = op.getScheme();
  if (kind == LayoutKind::Fragment16) {
    Type type = getElementTypeOrSelf(op.getWeight().getType());
    if (type.isF16() && input == InputFormat::F16)
      return WeightFormat::F16;
    if (type.isBF16() && input == InputFormat::BF16)
      return WeightFormat::BF16;
    return std::nullopt;
  }
  if (!scheme || scheme->getGranularity() == Granularity::Tensor)
    return std::nullopt;
  Type storage = scheme->getStorage();
  if (kind == LayoutKind::Fragment4 && input == InputFormat::F16 &&
      storage.isInteger() && storage.getIntOrFloatBitWidth() == 4) {
    if (scheme->getCodebook() == Codebook::NF4)
      return WeightFormat::Nf4;
    return scheme->isUniform() ? std::optional(WeightFormat::Int4)
                               : std::nullopt;
  }
  LayoutKind ofFloat8 = input == InputFormat::Fp8 ? LayoutKind::Fragment8x8
                                                  : LayoutKind::Fragment8;
  if (scheme->getCodebook() == Codebook::Float8 && kind == ofFloat8 &&
      (input == InputFormat::Fp8 || input == InputFormat::F16))
    return WeightFormat::Fp8;
  bool bytes = storage.isInteger(8) && !scheme->getZeroPoints();
  if (bytes && kind == LayoutKind::Fragment8 && input == InputFormat::F16)
    return WeightFormat::Int8;
  if (bytes && kind == LayoutKind::Fragment8x8 && input == InputFormat::Int8)
    return WeightFormat::Int8;
  return std::nullopt;
}

std::optional<LinearShape> LinearShape::get(PackedLinearOp op) {
  LinearShape shape;
  shape.features = op.getOutFeatures();
  shape.columns = op.getInFeatures();
  auto input = getInputFormat(getElementTypeOrSelf(op.getInput().getType()));
  if (!input)
    return std::nullopt;
  shape.input = *input;
  auto weights = getWeightFormat(op, *input);
  if (!weights)
    return std::nullopt;
  shape.weights = *weights;
  Type result = getElementTypeOrSelf(op.getResult().getType());
  shape.output = result.isF32()   ? OutputFormat::F32
                 : result.isF16() ? OutputFormat::F16
                                  : OutputFormat::BF16;
  if (std::optional<SchemeAttr> scheme = op.getScheme()) {
    shape.scales = true;
    shape.halfScales = getElementTypeOrSelf(op.getScales().getType()).isF16();
    shape.doubleScales = static_cast<bool>(op.getSuperScales());
    shape.zeroPoints = static_cast<bool>(op.getZeroPoints());
    if (scheme->getGranularity() == Granularity::Group)
      shape.groupColumns = scheme->getGroupSize();
    bool knownGroup =
        !shape.groupColumns || (llvm::isPowerOf2_64(shape.groupColumns) &&
                                shape.groupColumns >= kSmallestGroup &&
                                shape.columns % shape.groupColumns == 0);
    if (!knownGroup || (shape.groupColumns && shape.inputBytes() == 1) ||
        (shape.zeroPoints && !shape.groupColumns) ||
        (shape.doubleScales && !shape.groupColumns))
      return std::nullopt;
    // Symmetric 4-bit codes have an offset of 8 in the package.
    if (shape.weights == WeightFormat::Int4 && !shape.zeroPoints &&
        scheme->getStorage().isUnsignedInteger())
      return std::nullopt;
  }
  shape.inputScales = static_cast<bool>(op.getInputScales());
  shape.outliers = static_cast<bool>(op.getOutliers());
  shape.bias = static_cast<bool>(op.getBias());
  shape.residual = static_cast<bool>(op.getResidual());
  return shape;
}

/// The addresses of the operation's operands and result.
static LinearBuffers getBuffers(PackedLinearOp op, GpuKernelFrame &frame,
                                SizeKind rows) {
  int64_t next = 0;
  auto take = [&](bool present) {
    return present ? frame.buffer(next++) : Ptr();
  };
  LinearBuffers buffers;
  buffers.input = take(true);
  buffers.inputScales = take(static_cast<bool>(op.getInputScales()));
  buffers.outliers = take(static_cast<bool>(op.getOutliers()));
  buffers.weights = take(true);
  buffers.scales = take(static_cast<bool>(op.getScales()));
  buffers.superScales = take(static_cast<bool>(op.getSuperScales()));
  buffers.zeroPoints = take(static_cast<bool>(op.getZeroPoints()));
  buffers.bias = take(static_cast<bool>(op.getBias()));
  buffers.residual = take(static_cast<bool>(op.getResidual()));
  buffers.result = take(true);
  buffers.rows = rows;
  return buffers;
}

namespace {
/// A linear of a few rows, and what it does for its neighbours.
struct FoldedLinear {
  LinearShape shape;
  RmsNormOp norm; ///< runs in the prologue, or null
  Operation *pairs =
      nullptr; ///< swiglu or rope_append in the epilogue, or null

  /// What a kernel for steps of up to \p rows rows folds.
  static FoldedLinear get(PackedLinearOp op, const LinearShape &shape,
                          int64_t rows);
  SmallVector<Operation *, 2> getFolded() const;
  /// Completes \p buffers, and makes what takes pairs of results.
  std::unique_ptr<LinearPairs> bind(PackedLinearOp op, GpuKernelFrame &frame,
                                    LinearBuffers &buffers) const;
};
} // namespace

/// Blocks between features that \p op takes together; 0 where a thread block
/// can't own both.
static int64_t getPairDistance(Operation *op, const LinearShape &shape) {
  int64_t features = 0;
  if (isa_and_nonnull<SwigluOp>(op))
    features = shape.features / 2;
  else if (auto append = dyn_cast_or_null<RopeAppendOp>(op))
    features = RotatedPairs::serves(append) ? append.getHeadDim() / 2 : 0;
  bool isWhole = features % kBlockRows == 0 && shape.features % 2 == 0;
  return isWhole ? features / kBlockRows : 0;
}

FoldedLinear FoldedLinear::get(PackedLinearOp op, const LinearShape &shape,
                               int64_t rows) {
  FoldedLinear folded;
  folded.shape = shape;
  std::optional<LaunchGroup> group = LaunchGroup::get(op);
  if (!group)
    return folded;
  auto norm = dyn_cast_or_null<RmsNormOp>(group->prologue);
  auto isF32 = [](Value value) { return getElementTypeOrSelf(value).isF32(); };
  if (norm && rows <= kNormRows && shape.inputBytes() == 2 &&
      isF32(norm.getInput()) && isF32(norm.getWeight())) {
    folded.norm = norm;
    folded.shape.norm = true;
    folded.shape.epsilon = norm.getEpsilon().convertToFloat();
  }
  if (int64_t distance = getPairDistance(group->epilogue, shape)) {
    folded.pairs = group->epilogue;
    folded.shape.pairDistance = distance;
  }
  return folded;
}

SmallVector<Operation *, 2> FoldedLinear::getFolded() const {
  SmallVector<Operation *, 2> operations;
  if (RmsNormOp op = norm)
    operations.push_back(op);
  if (pairs)
    operations.push_back(pairs);
  return operations;
}

std::unique_ptr<LinearPairs> FoldedLinear::bind(PackedLinearOp op,
                                                GpuKernelFrame &frame,
                                                LinearBuffers &buffers) const {
  auto next = static_cast<int64_t>(getOwnBuffers(op).size());
  // The operands of a prologue are there whether it is folded or not.
  std::optional<LaunchGroup> group = LaunchGroup::get(op);
  if (norm) {
    buffers.input = frame.buffer(next);
    buffers.normWeight = frame.buffer(next + 1);
  }
  if (group && group->prologue)
    next += group->prologue->getNumOperands();
  if (auto gate = dyn_cast_or_null<SwigluOp>(pairs))
    return std::make_unique<GatedPairs>(gate, frame.buffer(next));
  if (auto append = dyn_cast_or_null<RopeAppendOp>(pairs)) {
    SmallVector<Ptr> outer;
    for (int64_t i = 0; i < RotatedPairs::kBuffers; ++i)
      outer.push_back(frame.buffer(next + i));
    return std::make_unique<RotatedPairs>(append, outer);
  }
  return nullptr;
}

/// Thread blocks that a multiprocessor must have room for, in registers.
static void setResidentBlocks(LLVM::LLVMFuncOp function, int64_t blocks) {
  function->setAttr(NVVM::NVVMDialect::getMinctasmAttrName(),
                    Builder(function.getContext()).getI32IntegerAttr(blocks));
}

static FailureOr<CudaKernel> emitGemvLinear(PackedLinearOp op,
                                            const FoldedLinear &folded,
                                            int64_t rows,
                                            const CudaRequest &request) {
  // What the pairs keep doesn't change the number of threads.
  int64_t processors = request.target.processors;
  LLVM::LLVMFuncOp function = request.createKernel(
      GemvPlan::get(folded.shape, rows, processors).threads());
  GpuKernelFrame frame(function);
  LinearBuffers buffers = getBuffers(op, frame, request.rows);
  std::unique_ptr<LinearPairs> pairs = folded.bind(op, frame, buffers);
  GemvPlan plan = GemvPlan::get(folded.shape, rows, processors, pairs.get());
  setResidentBlocks(function, plan.residentBlocks());
  emitGemv(frame, folded.shape, plan, buffers, pairs.get());
  CudaKernel kernel;
  kernel.grid = request.blocksPerStep(plan.grid);
  kernel.blockThreads = plan.threads();
  kernel.sharedBytes = plan.sharedBytes;
  return kernel;
}

static FailureOr<CudaKernel> emitGemmLinear(PackedLinearOp op,
                                            const LinearShape &shape,
                                            const GemmPlan &plan,
                                            const CudaRequest &request) {
  LLVM::LLVMFuncOp function = request.createKernel(GemmPlan::kThreads);
  setResidentBlocks(function, plan.shareMultiprocessor ? 2 : 1);
  GpuKernelFrame frame(function);
  LinearBuffers buffers = getBuffers(op, frame, request.rows);
  if (plan.spans)
    buffers.workspace = frame.buffer(request.workspace);
  emitGemm(frame, shape, plan, buffers);
  CudaKernel kernel;
  kernel.grid =
      plan.spans ? request.blocksPerStep(plan.spans)
                 : request.blocksPerRow(plan.featureTiles(shape) * plan.split,
                                        plan.tokens);
  kernel.blockThreads = GemmPlan::kThreads;
  kernel.sharedBytes = plan.sharedBytes;
  kernel.cluster = plan.split;
  return kernel;
}

Choices mlir::qlm::cuda::choosePackedLinear(PackedLinearOp op,
                                            const CudaRequest &request) {
  Choices choices;
  auto shape = request.target.hasHopper() ? LinearShape::get(op) : std::nullopt;
  bool invariant = request.options.batchInvariant;
  if (shape && !invariant) {
    for (int64_t rows : {1, 4, 8}) {
      FoldedLinear folded = FoldedLinear::get(op, *shape, rows);
      if (!GemvPlan::serves(folded.shape, rows))
        continue;
      Choice choice = {"gemv" + std::to_string(rows),
                       [=](const CudaRequest &request) {
                         return emitGemvLinear(op, folded, rows, request);
                       },
                       rows};
      choice.folded = folded.getFolded();
      choices.push_back(choice);
    }
  }
  if (shape && GemmPlan::serves(*shape)) {
    auto getPlan = [&](int64_t rows, const GemmPlan::Wish &wish) {
      return GemmPlan::get(*shape, rows, request.target.processors, wish);
    };
    // A tile's rows don't change the order of sums, a split does, and with it
    // the length of a stage: all take those of few rows.
    GemmPlan::Wish wish;
    wish.mayShare = !invariant;
    if (invariant)
      wish.split = getPlan(/*rows=*/16, wish).split;
    for (int64_t rows : {16, 32, 64, 128, 256, 512, 1024, 2048, 0}) {
      int64_t most = rows ? rows : request.maxRows();
      wish.tokens = wish.split > 1 && most > 128 ? 128 : 0;
      GemmPlan plan = getPlan(most, wish);
      std::string suffix = "gemm" + std::to_string(plan.tokens) +
                           (plan.warpBlocks > 1 ? "_wide" : "") +
                           (plan.spans ? "_spans" : "");
      Choice choice = {suffix,
                       [=](const CudaRequest &request) {
                         return emitGemmLinear(op, *shape, plan, request);
                       },
                       rows};
      if (plan.spans)
        choice.scratchBytes = plan.scratchBytes();
      choices.push_back(choice);
    }
  }
  choices.push_back({"plain", [=](const CudaRequest &request) {
                       return emitPlainLinear(op, request);
                     }});
  return choices;
}

//===- Attention.cpp - Chooses kernels of qlm.paged_attention -------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// | step                       | kernel                                   |
// |----------------------------|------------------------------------------|
// | each sequence has one row  | decode: split over the context           |
// | others, f16 or bf16 cache, | wgmma                                    |
// | headDim 64, 128, 256,      |                                          |
// | sm_90a                     |                                          |
// | others                     | prefill: mma.sync                        |
// | f32 cache, odd headDim     | plain: one warp for a token's head       |
//
// In all of them a row's bits depend on its own keys alone. Decode and the
// others sum in different orders; with batch-invariant the decode kernel takes
// every step, a row at a time.
//
//===----------------------------------------------------------------------===//

#include "Attention.h"
#include "Emitters.h"

#include "mlir/Dialect/LLVMIR/NVVMDialect.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cuda;
using namespace mlir::qlm::kernel;

/// Features of a head that the kernels' registers hold.
static constexpr int64_t kMaxHeadDim = 256;
static constexpr int64_t kSliceKeys = 16;

static std::optional<KvType> getKvType(PagedAttentionOp op) {
  Type type = getElementTypeOrSelf(op.getCache().getType());
  if (std::optional<Type> codes = op.getCodes())
    type = *codes;
  if (type.isF16())
    return KvType::F16;
  if (type.isBF16())
    return KvType::BF16;
  if (type.isInteger(8))
    return KvType::I8;
  if (isa<Float8E4M3FNType>(type))
    return KvType::F8E4M3;
  return std::nullopt;
}

/// The shape that the fast kernels see, or none where they don't serve it.
static std::optional<AttentionShape> getShape(PagedAttentionOp op,
                                              const Target &target) {
  std::optional<KvType> kv = getKvType(op);
  if (!kv || !op.getKeysByToken())
    return std::nullopt;
  AttentionShape shape;
  shape.heads = op.getHeads();
  shape.kvHeads = op.getKvHeads();
  shape.pageTokens = op.getPageTokens();
  auto query = cast<RankedTensorType>(op.getQuery().getType());
  shape.headDim = query.getDimSize(1) / shape.heads;
  shape.kv = *kv;
  shape.query = query.getElementType();
  shape.result = getElementTypeOrSelf(op.getResult().getType());
  shape.scale = op.getScale().convertToDouble();
  shape.window = static_cast<int64_t>(op.getWindow().value_or(0));
  shape.chip = target.capability;
  // Rows are read in 16 bytes, pages in slices of 16 keys.
  bool isServed = shape.rowBytes() % 16 == 0 && shape.headDim % 8 == 0 &&
                  shape.headDim <= kMaxHeadDim &&
                  shape.pageTokens % kSliceKeys == 0;
  if (!isServed)
    return std::nullopt;
  return shape;
}

static AttentionBuffers getBuffers(GpuKernelFrame &frame,
                                   const CudaRequest &request) {
  AttentionBuffers buffers;
  buffers.query = frame.buffer(0);
  buffers.cache = frame.buffer(1);
  buffers.positions = frame.buffer(2);
  buffers.tokenSequences = frame.buffer(3);
  buffers.blockTables = frame.buffer(4);
  buffers.result = frame.buffer(5);
  if (request.workspace >= 0)
    buffers.workspace = frame.buffer(request.workspace);
  buffers.shared = frame.dynamicShared();
  buffers.tokens = frame.size(SizeKind::Tokens);
  buffers.sequences = frame.size(SizeKind::Sequences);
  buffers.maxPages = frame.maxPagesPerSequence();
  return buffers;
}

/// The kernel that was emitted by \p plan.
template <typename Plan>
static CudaKernel describe(const AttentionShape &shape, const Plan &plan,
                           TilesAttr grid) {
  CudaKernel kernel;
  kernel.grid = grid;
  kernel.blockThreads = plan.threads();
  kernel.sharedBytes = plan.sharedBytes(shape);
  return kernel;
}

static CudaKernel emitDecode(const AttentionShape &shape,
                             const DecodePlan &plan,
                             const CudaRequest &request) {
  GpuKernelFrame frame(request.createKernel(plan.threads()));
  emitDecodeAttention(frame.builder(), shape, plan, getBuffers(frame, request));
  return describe(shape, plan, request.blocksPerRow(plan.gridPerRow));
}

static CudaKernel emitPrefill(const AttentionShape &shape,
                              const PrefillPlan &plan,
                              const CudaRequest &request) {
  GpuKernelFrame frame(request.createKernel(plan.threads()));
  emitPrefillAttention(frame.builder(), shape, plan,
                       getBuffers(frame, request));
  return describe(shape, plan,
                  request.blocksPerRow(shape.heads, plan.blockRows()));
}

static CudaKernel emitWgmma(const AttentionShape &shape, const WgmmaPlan &plan,
                            const CudaRequest &request) {
  GpuKernelFrame frame(request.createKernel(plan.threads()));
  // Registers of so many blocks are given to warpgroups as they need them.
  frame.getFunction()->setAttr(
      NVVM::NVVMDialect::getMinctasmAttrName(),
      frame.builder().getI32IntegerAttr(plan.blocksPerProcessor));
  emitWgmmaAttention(frame.builder(), shape, plan, getBuffers(frame, request));
  return describe(shape, plan, request.blocksPerStep(plan.grid));
}

/// Tiles of two sizes, for few rows and for more.
static Choices chooseWgmma(const AttentionShape &shape,
                           const CudaRequest &request) {
  Choices choices;
  int64_t processors = request.target.processors;
  int64_t most = request.maxRows();
  int64_t few = WgmmaPlan::mostRowsOfShort(shape, processors);
  SmallVector<int64_t> limits = {most};
  if (few > 0 && few < most)
    limits.insert(limits.begin(), few);
  for (int64_t rows : limits) {
    WgmmaPlan plan = WgmmaPlan::get(shape, rows, processors);
    Choice choice{"wgmma", [=](const CudaRequest &request) {
                    return FailureOr<CudaKernel>(
                        emitWgmma(shape, plan, request));
                  }};
    choice.maxRows = rows;
    choice.scratchBytes = 0;
    choices.push_back(choice);
  }
  return choices;
}

Choices cuda::choosePagedAttention(PagedAttentionOp op,
                                   const CudaRequest &request) {
  std::optional<AttentionShape> shape = getShape(op, request.target);
  bool invariant = request.options.batchInvariant;
  int64_t mostRows = invariant ? request.maxRows() : request.limits.sequences;
  SmallVector<DecodePlan> plans;
  if (shape) {
    // One order of sums for all, or what is fastest for few rows and for more.
    if (!invariant && mostRows > DecodePlan::kFewRows)
      plans.push_back(DecodePlan::get(*shape, DecodePlan::kFewRows,
                                      DecodePlan::kSplitsOfFew));
    plans.push_back(DecodePlan::get(*shape, mostRows,
                                    plans.empty() ? DecodePlan::kSplitsOfFew
                                                  : DecodePlan::kSplitsOfMany));
    if (plans.front().splits == plans.back().splits &&
        plans.front().fewest == plans.back().fewest &&
        plans.front().isWatched == plans.back().isWatched)
      plans.erase(plans.begin(), plans.end() - 1);
  }
  for (DecodePlan &plan : plans) {
    plan.isEarly = !invariant;
    plan.spread(*shape, request.target.processors);
  }
  bool isServed =
      shape && plans.back().sharedBytes(*shape) <= request.target.sharedLimit;
  if (!isServed)
    return {{"plain", [=](const CudaRequest &request) {
               return emitPlainAttention(op, request);
             }}};
  Choices choices;
  for (const DecodePlan &plan : plans) {
    Choice decode{"decode", [=](const CudaRequest &request) {
                    return FailureOr<CudaKernel>(
                        emitDecode(*shape, plan, request));
                  }};
    decode.decodeOnly = !invariant;
    decode.maxRows = plan.maxRows < mostRows ? plan.maxRows : 0;
    if (plan.hasParts())
      decode.scratchBytes = plan.scratchBytes(*shape);
    choices.push_back(decode);
  }
  if (invariant)
    return choices;
  WgmmaPlan largest =
      WgmmaPlan::get(*shape, request.maxRows(), request.target.processors);
  if (WgmmaPlan::serves(*shape) &&
      largest.sharedBytes(*shape) <= request.target.sharedLimit) {
    choices.append(chooseWgmma(*shape, request));
    return choices;
  }
  PrefillPlan prefill = PrefillPlan::get(*shape);
  if (prefill.sharedBytes(*shape) <= request.target.sharedLimit)
    choices.push_back({"prefill", [=](const CudaRequest &request) {
                         return FailureOr<CudaKernel>(
                             emitPrefill(*shape, prefill, request));
                       }});
  else
    choices.push_back({"plain", [=](const CudaRequest &request) {
                         return emitPlainAttention(op, request);
                       }});
  return choices;
}

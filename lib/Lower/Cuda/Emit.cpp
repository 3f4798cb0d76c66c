//===- Emit.cpp - Finds or makes the kernels of an operation --------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Emitters.h"
#include "Sample.h"

#include "qlm/Lower/Cuda/Workspace.h"
#include "qlm/Lower/LaunchGroup.h"

#include "llvm/Support/raw_ostream.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cuda;

/// Everything of \p op that its kernels depend on, as text: name, own
/// attributes, types, those of its group, and what counts the rows. Locations
/// and discardable attributes (offsets in the arena) don't matter.
static std::string getKey(Operation *op, SizeKind rows, bool workspace) {
  std::string key;
  llvm::raw_string_ostream stream(key);
  auto write = [&](Operation *part) {
    stream << part->getName() << " ";
    if (Attribute attributes = part->getPropertiesAsAttribute())
      stream << attributes << " ";
    stream << "(" << part->getOperandTypes() << ") -> ("
           << part->getResultTypes() << ") ";
  };
  write(op);
  if (std::optional<LaunchGroup> group = LaunchGroup::get(op))
    for (Operation *member : group->getOperations()) {
      stream << "group ";
      write(member);
    }
  stream << stringifySizeKind(rows) << workspace;
  return key;
}

/// Most rows of a step in which the kernels of \p op's group leave \p op
/// nothing to do; 0 where it always runs by itself.
static int64_t getFoldedRows(Operation *op, const CudaRequest &request) {
  std::optional<LaunchGroup> group = LaunchGroup::get(op);
  if (!group || group->linear == op)
    return 0;
  int64_t rows = 0;
  for (const Choice &choice : chooseKernels(group->linear, request)) {
    if (!llvm::is_contained(choice.folded, op))
      break;
    rows = choice.maxRows ? choice.maxRows : request.maxRows();
  }
  return std::min(rows, request.maxRows());
}

/// A name that no kernel has yet.
static std::string getFreeName(gpu::GPUModuleOp kernels, Operation *op,
                               StringRef suffix) {
  std::string base = op->getName().stripDialect().str();
  if (!suffix.empty())
    base += "_" + suffix.str();
  std::string name = base;
  for (int64_t same = 1; kernels.lookupSymbol(name); ++same)
    name = base + "_" + std::to_string(same);
  return name;
}

int64_t KernelEmitter::getWorkspaceBytes(Operation *op, SizeKind rows) const {
  CudaRequest request{target, rows, limits, options, op->getContext()};
  int64_t bytes = 0;
  for (const Choice &choice : chooseKernels(op, request))
    if (choice.scratchBytes >= 0)
      bytes = std::max(bytes, kZeroBytes + choice.scratchBytes);
  return bytes;
}

VariantAttr KernelEmitter::makeVariant(const CudaRequest &request,
                                       const CudaKernel &kernel,
                                       int64_t maxRows, bool decodeOnly) {
  auto symbol =
      SymbolRefAttr::get(request.context, kernels.getName(),
                         FlatSymbolRefAttr::get(request.context, request.name));
  return VariantAttr::get(request.context, symbol, maxRows, kernel.grid,
                          kernel.gridY, kernel.blockThreads, kernel.sharedBytes,
                          kernel.cluster,
                          kernel.dependent && target.hasHopper(), decodeOnly);
}

VariantAttr KernelEmitter::emitSampling(int64_t vocabulary) {
  CudaRequest request{target, SizeKind::LogitRows, limits, options,
                      kernels->getContext()};
  request.kernels = kernels;
  request.name = "sample";
  request.buffers = 4;
  kernel::GpuKernelFrame frame(request.createKernel(kSampleThreads));
  emitSample(frame, vocabulary);
  CudaKernel sampling;
  sampling.grid = request.blocksPerRow(1);
  sampling.blockThreads = frame.threads();
  return makeVariant(request, sampling, request.maxRows(),
                     /*decodeOnly=*/false);
}

FailureOr<SmallVector<VariantAttr>>
KernelEmitter::emit(Operation *op, SizeKind rows, bool workspace) {
  auto [entry, isNew] = made.try_emplace(getKey(op, rows, workspace));
  if (!isNew)
    return entry->second;
  MLIRContext *context = op->getContext();
  CudaRequest request{target, rows, limits, options, context};
  request.kernels = kernels;
  request.buffers =
      static_cast<int64_t>(getLaunchBuffers(op).size()) + workspace;
  request.workspace = workspace ? request.buffers - 1 : -1;
  Choices choices = chooseKernels(op, request);
  if (choices.empty()) {
    InFlightDiagnostic diagnostic = op->emitOpError("has no kernel for ")
                                    << target.chip;
    diagnostic.attachNote()
        << "run the optimize and quantize pipelines before lowering";
    return diagnostic;
  }
  SmallVector<VariantAttr> variants;
  int64_t foldedRows = getFoldedRows(op, request);
  for (const Choice &choice : choices) {
    request.name = getFreeName(kernels, op, choice.suffix);
    FailureOr<CudaKernel> kernel = choice.emit(request);
    if (failed(kernel))
      return failure();
    // Steps that leave it out: no blocks.
    if (foldedRows && variants.empty()) {
      CudaKernel nothing;
      nothing.grid = request.blocksPerRow(0);
      nothing.blockThreads = kernel->blockThreads;
      nothing.dependent = false;
      variants.push_back(
          makeVariant(request, nothing, foldedRows, /*decodeOnly=*/false));
    }
    int64_t maxRows = request.maxRows();
    if (choice.maxRows)
      maxRows = std::min(maxRows, choice.maxRows);
    variants.push_back(
        makeVariant(request, *kernel, maxRows, choice.decodeOnly));
    // A choice that serves every step makes those after it useless.
    if (maxRows == request.maxRows() && !choice.decodeOnly)
      break;
  }
  entry->second = variants;
  return variants;
}

//===----------------------------------------------------------------------===//
// Costs
//===----------------------------------------------------------------------===//

static int64_t getBytes(Type type) {
  auto tensor = cast<RankedTensorType>(type);
  return tensor.getNumElements() * tensor.getElementTypeBitWidth() / 8;
}

LaunchCost LaunchCost::get(Operation *op) {
  LaunchCost cost;
  if (auto embedding = dyn_cast<EmbeddingOp>(op)) {
    auto table = cast<RankedTensorType>(embedding.getTable().getType());
    cost.bytes = getBytes(table) / table.getDimSize(0);
    return cost;
  }
  // The rope table is read at the rows' positions only.
  if (!isa<RopeAppendOp>(op))
    for (Value operand : op->getOperands())
      if (isParameterValue(operand))
        cost.bytes += getBytes(operand.getType());
  if (auto linear = dyn_cast<PackedLinearOp>(op))
    cost.flopsPerRow = 2 * static_cast<int64_t>(linear.getInFeatures()) *
                       static_cast<int64_t>(linear.getOutFeatures());
  else if (op->getNumResults())
    if (auto type = dyn_cast<RankedTensorType>(op->getResult(0).getType());
        type && type.getRank() == 2)
      cost.flopsPerRow = 4 * type.getDimSize(1);
  return cost;
}

//===- Emit.cpp - Finds or makes the kernel of an operation ---------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Emitters.h"
#include "LinearHooks.h"

#include "qlm/Dialect/GatedLinear.h"
#include "qlm/Lower/Kernel/Builder.h"

#include "llvm/ADT/TypeSwitch.h"
#include "llvm/Support/raw_ostream.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cpu;

/// Attribute of a kernel function: the KernelInfo and the key of the operation
/// it was made for, so that equal operations find it again.
static constexpr llvm::StringLiteral kKernelAttr = "qlm.kernel";

/// Everything of \p op that a kernel depends on, as text: name, own
/// attributes, tuning, types, and what counts the rows. Locations and
/// discardable attributes (offsets in the arena) don't matter.
static std::string getKernelKey(Operation *op, SizeKind rows) {
  std::string key;
  llvm::raw_string_ostream stream(key);
  stream << op->getName() << " ";
  if (Attribute attributes = op->getPropertiesAsAttribute())
    stream << attributes << " ";
  if (Attribute tuning = op->getAttr(kTuningAttr))
    stream << tuning << " ";
  if (op->hasAttr(kGatedAttr))
    stream << kGatedAttr << " ";
  stream << "(" << op->getOperandTypes() << ") -> (" << op->getResultTypes()
         << ") " << stringifySizeKind(rows);
  return key;
}

/// Whether \p op has what only GPUs have kernels for: 16-bit activations, or
/// keys by token.
static bool isForGpu(Operation *op) {
  if (auto append = dyn_cast<RopeAppendOp>(op);
      append && append.getKeysByToken())
    return true;
  if (auto attention = dyn_cast<PagedAttentionOp>(op);
      attention && attention.getKeysByToken())
    return true;
  // Linears and conversions know bf16, and refuse the rest themselves.
  if (isa<ConvertOp>(op))
    return false;
  auto isNarrow = [&](Value value) {
    auto type = dyn_cast<RankedTensorType>(value.getType());
    if (!type || !type.isDynamicDim(0) ||
        !isa<Float16Type, BFloat16Type>(type.getElementType()))
      return false;
    auto linear = dyn_cast<PackedLinearOp>(op);
    return !linear || !type.getElementType().isBF16() ||
           (value.getDefiningOp() == op && !isGated(linear));
  };
  return llvm::any_of(op->getOperands(), isNarrow) ||
         llvm::any_of(op->getResults(), isNarrow);
}

static FailureOr<KernelInfo> emitBody(Operation *op,
                                      const KernelRequest &request) {
  if (isForGpu(op))
    return op->emitOpError("has 16-bit activations or keys by token, which "
                           "only GPUs have kernels for");
  return llvm::TypeSwitch<Operation *, FailureOr<KernelInfo>>(op)
      .Case([&](EmbeddingOp op) { return emitEmbedding(op, request); })
      .Case([&](RmsNormOp op) { return emitRmsNorm(op, request); })
      .Case([&](RopeAppendOp op) { return emitRopeAppend(op, request); })
      .Case(
          [&](PagedAttentionOp op) { return emitPagedAttention(op, request); })
      .Case([&](SwigluOp op) { return emitSwiglu(op, request); })
      .Case([&](ConvertOp op) { return emitConvert(op, request); })
      .Case([&](DynamicQuantizeOp op) {
        return emitDynamicQuantize(op, request);
      })
      .Case(
          [&](StaticQuantizeOp op) { return emitStaticQuantize(op, request); })
      .Case([&](RmsNormQuantizeOp op) {
        return emitRmsNormQuantize(op, request);
      })
      .Case(
          [&](SwigluQuantizeOp op) { return emitSwigluQuantize(op, request); })
      .Case([&](SelectRowsOp op) { return emitSelectRows(op, request); })
      .Case([&](ObserveOp op) { return emitObserve(op, request); })
      .Case([&](PackedLinearOp op) { return emitPackedLinear(op, request); })
      .Default([](Operation *op) {
        InFlightDiagnostic diagnostic =
            op->emitOpError("has no kernel for this target");
        diagnostic.attachNote()
            << "run the optimize and quantize pipelines before lowering";
        return diagnostic;
      });
}

/// A name that no kernel has yet: the operation's, or that and a number.
static std::string getFreeName(ModuleOp kernels, Operation *op) {
  std::string base = op->getName().stripDialect().str();
  std::string name = base;
  for (int64_t same = 1; kernels.lookupSymbol(name); ++same)
    name = base + "_" + std::to_string(same);
  return name;
}

static DictionaryAttr toAttribute(const KernelInfo &info, StringRef key,
                                  Builder &builder) {
  return builder.getDictionaryAttr(
      {builder.getNamedAttr("key", builder.getStringAttr(key)),
       builder.getNamedAttr("tiles", info.tiles),
       builder.getNamedAttr("scratch_bytes",
                            builder.getI64IntegerAttr(info.scratchBytes)),
       builder.getNamedAttr("bytes", builder.getI64IntegerAttr(info.bytes)),
       builder.getNamedAttr("flops_per_row",
                            builder.getI64IntegerAttr(info.flopsPerRow))});
}

static KernelInfo fromAttribute(func::FuncOp function, DictionaryAttr kernel) {
  auto integer = [&](StringRef name) {
    return kernel.getAs<IntegerAttr>(name).getInt();
  };
  return {function.getSymName().str(), kernel.getAs<TilesAttr>("tiles"),
          integer("scratch_bytes"), integer("bytes"), integer("flops_per_row")};
}

FailureOr<KernelInfo>
mlir::qlm::cpu::emitHookedLinear(ModuleOp kernels, PackedLinearOp op,
                                 const Target &target, const StepLimits &limits,
                                 const LinearHooks &hooks) {
  func::FuncOp function =
      kernel::createKernelFunction(kernels, getFreeName(kernels, op));
  FailureOr<KernelInfo> info = emitPackedLinear(
      op, KernelRequest{function, target, SizeKind::Tokens, limits, &hooks});
  if (failed(info)) {
    function.erase();
    return failure();
  }
  info->name = function.getSymName().str();
  return info;
}

FailureOr<KernelInfo> mlir::qlm::cpu::emitKernel(ModuleOp kernels,
                                                 Operation *op,
                                                 const Target &target,
                                                 SizeKind rows,
                                                 const StepLimits &limits) {
  std::string key = getKernelKey(op, rows);
  for (auto function : kernels.getOps<func::FuncOp>()) {
    auto kernel = function->getAttrOfType<DictionaryAttr>(kKernelAttr);
    if (kernel && kernel.getAs<StringAttr>("key").getValue() == key)
      return fromAttribute(function, kernel);
  }
  func::FuncOp function =
      kernel::createKernelFunction(kernels, getFreeName(kernels, op));
  FailureOr<KernelInfo> info =
      emitBody(op, KernelRequest{function, target, rows, limits});
  if (failed(info)) {
    function.erase();
    return failure();
  }
  info->name = function.getSymName().str();
  Builder builder(op->getContext());
  function->setAttr(kKernelAttr, toAttribute(*info, key, builder));
  return info;
}

//===- Qlm.h - The qlm dialect ----------------------------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_DIALECT_QLM_H
#define QLM_DIALECT_QLM_H

#include "mlir/Bytecode/BytecodeOpInterface.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/BuiltinAttributes.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/BuiltinTypes.h"
#include "mlir/IR/Dialect.h"
#include "mlir/IR/OpImplementation.h"
#include "mlir/IR/SymbolTable.h"
#include "mlir/Interfaces/InferTypeOpInterface.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"

#include "qlm/Dialect/QlmDialect.h.inc"
#include "qlm/Dialect/QlmEnums.h.inc"
#include "qlm/Dialect/QlmInterfaces.h.inc"

#define GET_ATTRDEF_CLASSES
#include "qlm/Dialect/QlmAttrs.h.inc"

#define GET_OP_CLASSES
#include "qlm/Dialect/QlmOps.h.inc"

namespace mlir::qlm {

/// Module attribute that names the last stage completed ("import",
/// "optimize", "quantize", "lower").
inline constexpr llvm::StringLiteral kStageAttr = "qlm.stage";
/// Module attribute, a dictionary that describes the model: see
/// docs/design/ir-contracts.md.
inline constexpr llvm::StringLiteral kModelAttr = "qlm.model";
/// Module attribute: the folder that `qlm.parameter`'s files are relative to.
inline constexpr llvm::StringLiteral kSourceAttr = "qlm.source";
/// Module attribute, a dictionary: the KV and memory plan made by Lower.
inline constexpr llvm::StringLiteral kPlanAttr = "qlm.plan";
/// Module attribute: the safetensors file of statistics that parameters of the
/// file `kStatisticsFile` are in.
inline constexpr llvm::StringLiteral kStatisticsAttr = "qlm.statistics";
/// The `file` of a `qlm.parameter` that lies in the statistics.
inline constexpr llvm::StringLiteral kStatisticsFile = "statistics";
/// Attribute of a step function's arguments: a name in
/// `qlm::format::kStepArgumentNames`, or "cache".
inline constexpr llvm::StringLiteral kStepAttr = "qlm.step";

/// The function that Import writes: (tokens, positions) -> logits.
inline constexpr llvm::StringLiteral kForwardName = "forward";
/// The function that the KV plan writes.
inline constexpr llvm::StringLiteral kStepName = "step";

/// The type of \p input after `qlm.pack` with \p kind, or a null type when the
/// input doesn't fit the layout. Formulas: qlm/Package/Format.h.
RankedTensorType getPackedType(RankedTensorType input, LayoutKind kind);

/// The layout of a weight matrix with elements of \p elementType (a float
/// type, or a scheme's storage type).
LayoutKind getWeightLayout(Type elementType);
/// The layout of a weight matrix on a GPU, whose activations are 8-bit codes if
/// \p integer.
LayoutKind getGpuWeightLayout(Type elementType, bool integer);

/// Bytes of the scale that a cache with codes keeps for each token, head, and
/// key or value.
inline constexpr int64_t kCacheScaleBytes = 4;
/// The last dimension of a cache's type; \p hasCodes if keys and values are
/// quantized. Layout: QlmPlannedOps.td.
inline int64_t getCacheWidth(int64_t headDim, int64_t pageTokens,
                             bool hasCodes) {
  return (headDim + (hasCodes ? kCacheScaleBytes : 0)) * pageTokens;
}
/// The largest magnitude of a code: 127 of i8, 448 of f8E4M3FN.
double getCacheBound(Type codes);
/// Elements of `super` for \p count scales: the offset, and a scale for each
/// block of 256.
int64_t getSuperScaleCount(int64_t count);

/// Whether \p op belongs to a parameter program: pure, with operands that all
/// are parameters (and at least `qlm.load` or a constant at the leaves).
bool isParameterOp(Operation *op);
/// Whether \p value is the result of a parameter program.
bool isParameterValue(Value value);

} // namespace mlir::qlm

#endif // QLM_DIALECT_QLM_H

//===- ImportContract.cpp - What holds after Import -----------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Contract.h"

#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Math/IR/Math.h"

using namespace mlir;
using namespace mlir::qlm;

/// Elements of the largest constant in the IR: rope frequencies and the like.
/// Anything larger is a weight that belongs in a parameter.
static constexpr int64_t kLargestConstant = 4096;

/// `(tensor<?xi32>, tensor<?xi32>) -> tensor<?xVxf32>`.
static LogicalResult checkSignature(ModuleOp module, func::FuncOp forward,
                                    Stage stage) {
  MLIRContext *context = module.getContext();
  auto model = module->getAttrOfType<DictionaryAttr>(kModelAttr);
  auto vocabulary =
      model ? model.getAs<IntegerAttr>("vocabulary_size") : IntegerAttr();
  Type indices = RankedTensorType::get({ShapedType::kDynamic},
                                       IntegerType::get(context, 32));
  Type logits = RankedTensorType::get(
      {ShapedType::kDynamic, vocabulary ? vocabulary.getInt() : 0},
      Float32Type::get(context));
  auto expected = FunctionType::get(context, {indices, indices}, {logits});
  if (forward.getFunctionType() == expected)
    return success();
  return breakContract(forward, stage, "@forward must have the type ")
         << expected << ", got " << forward.getFunctionType();
}

static LogicalResult checkOperation(Operation *op, Stage stage) {
  if (!isa_and_nonnull<QlmDialect, func::FuncDialect, tensor::TensorDialect,
                       arith::ArithDialect, math::MathDialect,
                       linalg::LinalgDialect>(op->getDialect()))
    return breakContract(op, stage,
                         "operations must be of qlm, func, tensor, arith, "
                         "math or linalg, got ")
           << op->getName();
  for (Type type : op->getResultTypes())
    if (isa<UnrankedTensorType>(type))
      return breakContract(op, stage, "ranks must be known, got ") << type;
  if (auto constant = dyn_cast<arith::ConstantOp>(op))
    if (auto elements = dyn_cast<ElementsAttr>(constant.getValue()))
      if (elements.getNumElements() > kLargestConstant)
        return breakContract(op, stage,
                             "weights must be parameters outside the IR, got "
                             "a constant of type ")
               << constant.getType();
  if (isa<RopeAppendOp, PagedAttentionOp, SelectRowsOp, RmsNormQuantizeOp,
          SwigluQuantizeOp, LaunchOp>(op))
    return breakContract(op, stage, "nothing may be planned yet, got ")
           << op->getName();
  return success();
}

LogicalResult mlir::qlm::checkForward(ModuleOp module, Stage stage) {
  auto model = module->getAttrOfType<DictionaryAttr>(kModelAttr);
  if (!model)
    return breakContract(module, stage, "the module must have qlm.model");
  if (!module->getAttrOfType<StringAttr>(kSourceAttr))
    return breakContract(module, stage, "the module must have qlm.source");
  if (failed(checkIntegers(module, stage, kModelAttr, model,
                           {"vocabulary_size", "hidden_size", "layers", "heads",
                            "kv_heads", "head_dim", "intermediate_size",
                            "context_length", "parameters"})))
    return failure();
  func::FuncOp forward = findFunction(module, stage, kForwardName);
  if (!forward || failed(checkSignature(module, forward, stage)))
    return failure();
  WalkResult result = forward.walk(
      [&](Operation *op) { return WalkResult(checkOperation(op, stage)); });
  return failure(result.wasInterrupted());
}

// - the module has qlm.stage "import", qlm.source and qlm.model;
// - @forward takes tokens and positions and returns the logits;
// - operations are of qlm, func and upstream's tensor, arith, math, linalg;
// - ranks are known;
// - weights are parameters outside the IR;
// - nothing is planned or quantized.
LogicalResult mlir::qlm::verifyAfterImport(ModuleOp module) {
  constexpr Stage stage = Stage::Import;
  if (failed(checkStage(module, stage)) || failed(checkForward(module, stage)))
    return failure();
  WalkResult result = module.walk([&](Operation *op) -> WalkResult {
    if (isa<RtnOp, PackOp, QuantizeOp, DequantizeOp, DynamicQuantizeOp,
            QuantizedLinearOp, PackedLinearOp>(op))
      return breakContract(op, stage, "nothing may be quantized yet, got ")
             << op->getName();
    return WalkResult::advance();
  });
  return failure(result.wasInterrupted());
}

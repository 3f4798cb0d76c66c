#include "qlm/Dialect/Qlm.h"
using namespace mlir;
using namespace mlir::qlm;
FailureOr<SmallVector<Value>> ConvertOp::decompose(OpBuilder &) { return emitOpError("has no definition"); }
FailureOr<SmallVector<Value>> RopeTableOp::decompose(OpBuilder &) { return emitOpError("has no definition"); }
FailureOr<SmallVector<Value>> RtnOp::decompose(OpBuilder &) { return emitOpError("has no definition"); }
FailureOr<SmallVector<Value>> PackOp::decompose(OpBuilder &) { return emitOpError("has no definition"); }
FailureOr<SmallVector<Value>> EmbeddingOp::decompose(OpBuilder &) { return emitOpError("has no definition"); }
FailureOr<SmallVector<Value>> LinearOp::decompose(OpBuilder &) { return emitOpError("has no definition"); }
FailureOr<SmallVector<Value>> RmsNormOp::decompose(OpBuilder &) { return emitOpError("has no definition"); }
FailureOr<SmallVector<Value>> RopeOp::decompose(OpBuilder &) { return emitOpError("has no definition"); }
FailureOr<SmallVector<Value>> AttentionOp::decompose(OpBuilder &) { return emitOpError("has no definition"); }
FailureOr<SmallVector<Value>> SwigluOp::decompose(OpBuilder &) { return emitOpError("has no definition"); }
FailureOr<SmallVector<Value>> SiluOp::decompose(OpBuilder &) { return emitOpError("has no definition"); }
FailureOr<SmallVector<Value>> SplitOp::decompose(OpBuilder &) { return emitOpError("has no definition"); }
FailureOr<SmallVector<Value>> SplitHeadsOp::decompose(OpBuilder &) { return emitOpError("has no definition"); }
FailureOr<SmallVector<Value>> MergeHeadsOp::decompose(OpBuilder &) { return emitOpError("has no definition"); }
FailureOr<SmallVector<Value>> MatmulOp::decompose(OpBuilder &) { return emitOpError("has no definition"); }
FailureOr<SmallVector<Value>> ScaleOp::decompose(OpBuilder &) { return emitOpError("has no definition"); }
FailureOr<SmallVector<Value>> CausalMaskOp::decompose(OpBuilder &) { return emitOpError("has no definition"); }
FailureOr<SmallVector<Value>> SoftmaxOp::decompose(OpBuilder &) { return emitOpError("has no definition"); }
FailureOr<SmallVector<Value>> AddOp::decompose(OpBuilder &) { return emitOpError("has no definition"); }
FailureOr<SmallVector<Value>> MulOp::decompose(OpBuilder &) { return emitOpError("has no definition"); }
FailureOr<SmallVector<Value>> QuantizeOp::decompose(OpBuilder &) { return emitOpError("has no definition"); }
FailureOr<SmallVector<Value>> DequantizeOp::decompose(OpBuilder &) { return emitOpError("has no definition"); }
FailureOr<SmallVector<Value>> DynamicQuantizeOp::decompose(OpBuilder &) { return emitOpError("has no definition"); }
FailureOr<SmallVector<Value>> QuantizedLinearOp::decompose(OpBuilder &) { return emitOpError("has no definition"); }
FailureOr<SmallVector<Value>> PackedLinearOp::decompose(OpBuilder &) { return emitOpError("has no definition"); }
FailureOr<SmallVector<Value>> SelectRowsOp::decompose(OpBuilder &) { return emitOpError("has no definition"); }
FailureOr<SmallVector<Value>> RopeAppendOp::decompose(OpBuilder &) { return emitOpError("has no definition"); }
FailureOr<SmallVector<Value>> PagedAttentionOp::decompose(OpBuilder &) { return emitOpError("has no definition"); }

#include "qlm/Dialect/Qlm.h"
using namespace mlir;
using namespace mlir::qlm;
LogicalResult ParameterOp::verify() { return success(); }
LogicalResult ConvertOp::verify() { return success(); }
LogicalResult RopeTableOp::verify() { return success(); }
LogicalResult RtnOp::verify() { return success(); }
LogicalResult PackOp::verify() { return success(); }
LogicalResult EmbeddingOp::verify() { return success(); }
LogicalResult LinearOp::verify() { return success(); }
LogicalResult RmsNormOp::verify() { return success(); }
LogicalResult RopeOp::verify() { return success(); }
LogicalResult AttentionOp::verify() { return success(); }
LogicalResult SwigluOp::verify() { return success(); }
LogicalResult SiluOp::verify() { return success(); }
LogicalResult SplitOp::verify() { return success(); }
LogicalResult SplitHeadsOp::verify() { return success(); }
LogicalResult MergeHeadsOp::verify() { return success(); }
LogicalResult MatmulOp::verify() { return success(); }
LogicalResult ScaleOp::verify() { return success(); }
LogicalResult CausalMaskOp::verify() { return success(); }
LogicalResult SoftmaxOp::verify() { return success(); }
LogicalResult AddOp::verify() { return success(); }
LogicalResult MulOp::verify() { return success(); }
LogicalResult QuantizeOp::verify() { return success(); }
LogicalResult DequantizeOp::verify() { return success(); }
LogicalResult DynamicQuantizeOp::verify() { return success(); }
LogicalResult QuantizedLinearOp::verify() { return success(); }
LogicalResult PackedLinearOp::verify() { return success(); }
LogicalResult SelectRowsOp::verify() { return success(); }
LogicalResult RopeAppendOp::verify() { return success(); }
LogicalResult PagedAttentionOp::verify() { return success(); }
LogicalResult LaunchOp::verify() { return success(); }

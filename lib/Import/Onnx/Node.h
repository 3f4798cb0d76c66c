//===- Node.h - One node of an ONNX graph on its way to IR ------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_IMPORT_ONNX_NODE_H
#define QLM_LIB_IMPORT_ONNX_NODE_H

#include "TensorBuilder.h"

#include "onnx-ml.pb.h"
#include "qlm/Archive/OnnxFile.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/ADT/Twine.h"

#include <string>

namespace mlir::qlm::onnx_import {

/// Which node gave a value, and from what.
struct Produced {
  ::onnx::NodeProto proto;
  SmallVector<Tensor> inputs;
};

/// What an operator's emitter reads and writes. The first failure is kept.
class Node {
public:
  Node(const ::onnx::NodeProto &proto, TensorBuilder &builder, int64_t opset,
       SmallVector<Tensor> inputs)
      : b(builder), opset(opset), proto(proto), inputs(std::move(inputs)),
        outputs(proto.output_size()) {}

  TensorBuilder &b;
  /// Version of the operator's domain.
  const int64_t opset;

  const ::onnx::NodeProto &getProto() const { return proto; }
  StringRef op() const { return proto.op_type(); }
  /// "node 'name' (Op)".
  std::string describe() const;

  // Inputs. An absent optional one is a Tensor without value.
  int64_t inputCount() const { return inputs.size(); }
  bool has(int64_t i) const {
    return i < static_cast<int64_t>(inputs.size()) && inputs[i];
  }
  const Tensor &in(int64_t i) const { return inputs[i]; }
  ArrayRef<Tensor> ins() const { return inputs; }

  // Attributes.
  const ::onnx::AttributeProto *find(StringRef name) const;
  int64_t integer(StringRef name, int64_t missing) const;
  double number(StringRef name, double missing) const;
  StringRef text(StringRef name, StringRef missing) const;
  std::optional<SmallVector<int64_t>> integers(StringRef name) const;

  /// Whole numbers that must be known while importing: input \p i, or, when
  /// \p attribute is given and present, that attribute. Nothing, and a
  /// failure, when the input is there but not known.
  std::optional<SmallVector<int64_t>> knownInput(int64_t i,
                                                 StringRef attribute = "");
  /// An axis of \p rank dimensions, counted from the end when negative.
  std::optional<int64_t> axis(int64_t value, int64_t rank);
  std::optional<SmallVector<int64_t>> axes(ArrayRef<int64_t> values,
                                           int64_t rank);

  // Outputs.
  int64_t outputCount() const { return outputs.size(); }
  bool wants(int64_t i) const {
    return i < proto.output_size() && !proto.output(i).empty();
  }
  LogicalResult set(int64_t i, Value value, int32_t type,
                    std::optional<SmallVector<int64_t>> known = std::nullopt) {
    if (i < outputCount())
      outputs[i] = {value, type, std::move(known)};
    return success();
  }
  ArrayRef<Tensor> outs() const { return outputs; }

  /// Keeps \p message and fails.
  LogicalResult fail(const llvm::Twine &message) {
    if (error.empty())
      error = message.str();
    return failure();
  }
  const std::string &getError() const { return error; }
  bool failed() const { return !error.empty(); }

  /// What the graph says of the shape of output \p i; null when nothing.
  RankedTensorType declared(int64_t i) const {
    return i < static_cast<int64_t>(declarations.size()) ? declarations[i]
                                                         : RankedTensorType();
  }
  SmallVector<RankedTensorType> declarations;

  // Set by the importer.
  /// Bytes of a constant as the file holds them.
  llvm::function_ref<Tensor(const ::onnx::TensorProto &)> makeConstant;
  /// What the file holds under the name of a value; null where it is computed.
  llvm::function_ref<const ::onnx::TensorProto *(const std::string &)>
      findTensor;
  /// What a value was made by, of the operators that isPartOfAttention names;
  /// else null.
  llvm::function_ref<const Produced *(Value)> findProduced;
  OnnxFile *file = nullptr;
  /// Whether a Cast to f32 is all that is done with the result: sums may be
  /// given as f32.
  bool sumsBecomeFloats = false;

private:
  const ::onnx::NodeProto &proto;
  SmallVector<Tensor> inputs;
  SmallVector<Tensor> outputs;
  std::string error;
};

/// Writes one operator; fails with a message kept in the node.
using Emitter = LogicalResult (*)(Node &);

/// An operator that can be imported.
struct Operator {
  const char *domain; ///< "" for the standard's own
  const char *name;
  int minInputs, maxInputs; ///< maxInputs -1: any number
  Emitter emit;
};

// Operators by topic; each file has its list.
ArrayRef<Operator> elementwiseOperators();
ArrayRef<Operator> floatFunctionOperators();
ArrayRef<Operator> shapeOperators();
ArrayRef<Operator> indexingOperators();
ArrayRef<Operator> reductionOperators();
ArrayRef<Operator> productOperators();
ArrayRef<Operator> poolingOperators();
ArrayRef<Operator> normalizationOperators();
ArrayRef<Operator> quantizationOperators();
ArrayRef<Operator> attentionOperators();
ArrayRef<Operator> contributedOperators();
ArrayRef<Operator> conversionOperators();
ArrayRef<Operator> lossOperators();
ArrayRef<Operator> stateOperators();
ArrayRef<Operator> quantizedOperators();
ArrayRef<Operator> resizeOperators();
ArrayRef<Operator> einsumOperators();

/// Why a node needs its input \p i to be known.
std::string describeUnknownInput(const ::onnx::NodeProto &proto, int i);

/// Computes integer results from known inputs; nothing when the operator, or
/// an input, isn't of that kind.
std::optional<Tensor> foldKnown(Node &node);

/// A constant tensor of whole numbers.
Tensor makeIntegers(TensorBuilder &b, ArrayRef<int64_t> values,
                    ArrayRef<int64_t> shape, int32_t type);

/// e^(x - max) along \p axis, over its sum; or the logarithm of that.
Value softmax(TensorBuilder &b, const Tensor &x, int64_t axis, bool givesLog);

// Scalar arithmetic of ONNX's element types.

/// How numbers become powers of two (float8e8m0).
enum class ExponentRounding { Up, Down, Nearest };

/// Converts a stored element. Floats become integers towards zero and floats of
/// less than 16 bits as encodeSmallFloat says. Null where a type can't be
/// converted.
Value convertElement(TensorBuilder &b, Value value, int32_t from, int32_t to,
                     bool saturate = true,
                     ExponentRounding round = ExponentRounding::Up);
/// A value of the wider type \p wide as \p type would keep it.
Value roundElement(TensorBuilder &b, Value value, int32_t wide, int32_t type);
/// roundElement of a sum, but for what that would make infinite: the sum of
/// 65,520 ones is more than float16 has.
Value roundSum(TensorBuilder &b, Value sum, int32_t wide, int32_t type);
/// Sum, difference, product, quotient, minimum, maximum of two elements.
Value addElements(TensorBuilder &b, Value x, Value y);
Value subElements(TensorBuilder &b, Value x, Value y);
Value mulElements(TensorBuilder &b, Value x, Value y);
Value divElements(TensorBuilder &b, Value x, Value y, int32_t type);
Value minElements(TensorBuilder &b, Value x, Value y, int32_t type);
Value maxElements(TensorBuilder &b, Value x, Value y, int32_t type);
/// x < y.
Value lessElements(TensorBuilder &b, Value x, Value y, int32_t type);
/// The type sums are kept in: f32 for halves, else the type itself.
int32_t accumulatorType(int32_t type);
/// Lowest and highest value of a type, infinities for floats.
Value lowestElement(TensorBuilder &b, int32_t type);
Value highestElement(TensorBuilder &b, int32_t type);

} // namespace mlir::qlm::onnx_import

#endif // QLM_LIB_IMPORT_ONNX_NODE_H

//===- Standard.h - Operators by the standard's ones ------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_IMPORT_ONNX_STANDARD_H
#define QLM_LIB_IMPORT_ONNX_STANDARD_H

#include "Operators.h"

namespace mlir::qlm::onnx_import {

/// One of the standard's operators, to be emitted in the place of a node.
class Standard {
public:
  Standard(Node &node, StringRef kind, ArrayRef<Tensor> inputs)
      : node(node), inputs(inputs) {
    proto.set_op_type(kind.str());
    proto.set_name(node.getProto().name());
    // Messages name an input as the file does.
    for (const Tensor &input : inputs)
      proto.add_input(nameOf(input));
  }

  Standard &set(StringRef name, int64_t value) {
    add(name, ::onnx::AttributeProto::INT)->set_i(value);
    return *this;
  }
  Standard &set(StringRef name, double value) {
    add(name, ::onnx::AttributeProto::FLOAT)->set_f(static_cast<float>(value));
    return *this;
  }
  Standard &set(StringRef name, StringRef value) {
    add(name, ::onnx::AttributeProto::STRING)->set_s(value.str());
    return *this;
  }
  Standard &set(StringRef name, ArrayRef<int64_t> values) {
    ::onnx::AttributeProto *attribute = add(name, ::onnx::AttributeProto::INTS);
    for (int64_t value : values)
      attribute->add_ints(value);
    return *this;
  }

  /// The outputs; none, and a failure of the node, where it can't be emitted.
  SmallVector<Tensor> emit(int outputs = 1) {
    for (int i = 0; i < outputs; ++i)
      proto.add_output("");
    Node inner(proto, node.b, kOpset, inputs);
    inner.makeConstant = node.makeConstant;
    if (findOperator(proto)->emit(inner).succeeded())
      return SmallVector<Tensor>(inner.outs());
    (void)node.fail(inner.getError());
    return {};
  }
  /// The one output, or a Tensor without value.
  Tensor emitOne() {
    SmallVector<Tensor> outs = emit();
    return outs.empty() ? Tensor() : outs.front();
  }

private:
  /// Of the standard, that its operators are used in here.
  static constexpr int64_t kOpset = 24;

  ::onnx::AttributeProto *add(StringRef name,
                              ::onnx::AttributeProto::AttributeType type) {
    ::onnx::AttributeProto *attribute = proto.add_attribute();
    attribute->set_name(name.str());
    attribute->set_type(type);
    return attribute;
  }
  std::string nameOf(const Tensor &tensor) const {
    for (int64_t i = 0; i < node.inputCount(); ++i)
      if (tensor && node.in(i).value == tensor.value)
        return node.getProto().input(static_cast<int>(i));
    return "";
  }

  Node &node;
  SmallVector<Tensor> inputs;
  ::onnx::NodeProto proto;
};
} // namespace mlir::qlm::onnx_import

#endif // QLM_LIB_IMPORT_ONNX_STANDARD_H

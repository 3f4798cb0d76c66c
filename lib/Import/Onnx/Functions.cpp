//===- Functions.cpp - Calls of a model's own functions -------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Functions.h"

#include "qlm/Archive/Errors.h"
#include "qlm/Archive/Json.h"
#include "llvm/ADT/Twine.h"

using namespace mlir::qlm;
using namespace mlir::qlm::onnx_import;
using google::protobuf::RepeatedPtrField;
using onnx::AttributeProto;
using onnx::FunctionProto;
using onnx::GraphProto;
using onnx::NodeProto;

/// Functions that call one another; a chain of them is walked recursively.
static constexpr int kDeepestCalls = 100;
/// What all bodies may take when they are written out: a few functions that
/// call each other twice are exponentially many nodes.
static constexpr size_t kMostNodes = size_t(1) << 20;
static constexpr size_t kMostBytes = size_t(1) << 28;

llvm::StringRef
mlir::qlm::onnx_import::normalizeDomain(llvm::StringRef domain) {
  return domain == "ai.onnx" ? llvm::StringRef() : domain;
}

std::string mlir::qlm::onnx_import::describeNode(const NodeProto &proto) {
  std::string text = "node ";
  if (!proto.name().empty())
    text += quoteName(proto.name()) + " ";
  else if (proto.output_size() > 0)
    text += "of " + quoteName(proto.output(0)) + " ";
  text += "(";
  if (!proto.domain().empty())
    text += proto.domain() + ".";
  return text + proto.op_type() + ")";
}

/// Domain, name and overload as one key.
static std::string makeKey(llvm::StringRef domain, llvm::StringRef name,
                           llvm::StringRef overload) {
  std::string key = normalizeDomain(domain).str();
  key += '\0';
  key += name;
  key += '\0';
  key += overload;
  return key;
}

static OpsetVersions
readVersions(const RepeatedPtrField<onnx::OperatorSetIdProto> &imports) {
  OpsetVersions versions;
  for (const auto &import : imports)
    versions[normalizeDomain(import.domain())] = import.version();
  return versions;
}

llvm::Error FunctionInliner::initialize() {
  scopes.push_back({nullptr, nullptr, readVersions(model.opset_import())});
  for (const FunctionProto &function : model.functions())
    if (!functions
             .try_emplace(makeKey(function.domain(), function.name(),
                                  function.overload()),
                          &function)
             .second)
      return makeError("two functions have the name " +
                       quoteName(function.domain() + "." + function.name()));
  return llvm::Error::success();
}

const FunctionProto *FunctionInliner::find(const NodeProto &node) const {
  if (functions.empty())
    return nullptr;
  return functions.lookup(
      makeKey(node.domain(), node.op_type(), node.overload()));
}

llvm::Error FunctionInliner::spend(size_t more) {
  bytes += more;
  if (nodes > kMostNodes || bytes > kMostBytes)
    return makeError("the model's functions are too large to write out: over " +
                     llvm::Twine(nodes > kMostNodes ? kMostNodes : kMostBytes) +
                     (nodes > kMostNodes ? " nodes" : " bytes"));
  return llvm::Error::success();
}

/// What the names and attributes of a body stand for in one call.
struct FunctionInliner::Call {
  /// Values that the body shares with its caller.
  llvm::StringMap<std::string> values;
  llvm::StringMap<const AttributeProto *> attributes;
  /// What all other names begin with.
  std::string prefix;
  /// Bytes of names that were written.
  size_t spent = 0;

  void rename(std::string &name) {
    // An absent input or output stays absent.
    if (name.empty())
      return;
    auto found = values.find(name);
    name = found == values.end() ? prefix + name : found->second;
    spent += name.size();
  }
  void rename(NodeProto &node);
  void rename(GraphProto &graph);
};

void FunctionInliner::Call::rename(NodeProto &node) {
  if (!node.name().empty()) {
    node.set_name(prefix + node.name());
    spent += node.name().size();
  }
  for (std::string &name : *node.mutable_input())
    if (spent <= kMostBytes)
      rename(name);
  for (std::string &name : *node.mutable_output())
    if (spent <= kMostBytes)
      rename(name);
  RepeatedPtrField<AttributeProto> list;
  for (AttributeProto &attribute : *node.mutable_attribute()) {
    if (!attribute.ref_attr_name().empty()) {
      // Without a value in the call nor a default, the attribute is absent.
      const AttributeProto *value =
          attributes.lookup(attribute.ref_attr_name());
      if (!value || spent > kMostBytes)
        continue;
      std::string name = attribute.name();
      spent += value->ByteSizeLong();
      attribute = *value;
      attribute.set_name(name);
    } else {
      if (attribute.has_g())
        rename(*attribute.mutable_g());
      for (GraphProto &graph : *attribute.mutable_graphs())
        rename(graph);
    }
    list.Add()->Swap(&attribute);
  }
  node.mutable_attribute()->Swap(&list);
}

void FunctionInliner::Call::rename(GraphProto &graph) {
  for (NodeProto &node : *graph.mutable_node())
    rename(node);
  for (onnx::TensorProto &tensor : *graph.mutable_initializer())
    rename(*tensor.mutable_name());
  for (auto *list : {graph.mutable_input(), graph.mutable_output(),
                     graph.mutable_value_info()})
    for (onnx::ValueInfoProto &info : *list)
      rename(*info.mutable_name());
}

static NodeProto makeIdentity(const std::string &from, const std::string &to) {
  NodeProto node;
  node.set_op_type("Identity");
  node.add_input(from);
  node.add_output(to);
  return node;
}

llvm::Error FunctionInliner::inlineCall(const NodeProto &node,
                                        const FunctionProto &function,
                                        const NodeScope &scope,
                                        std::vector<InlinedNode> &result) {
  auto fail = [&](const llvm::Twine &what) {
    return makeError(describeNode(node) + ": " + what);
  };
  int depth = 0;
  for (const NodeScope *at = &scope; at; at = at->caller, ++depth)
    if (at->function == &function)
      return fail("the function calls itself");
  if (depth > kDeepestCalls)
    return fail("functions are nested over " + llvm::Twine(kDeepestCalls) +
                " deep");
  if (node.input_size() > function.input_size() ||
      node.output_size() > function.output_size())
    return fail("the function has " + llvm::Twine(function.input_size()) +
                " inputs and " + llvm::Twine(function.output_size()) +
                " outputs, got " + llvm::Twine(node.input_size()) + " and " +
                llvm::Twine(node.output_size()));
  Call call;
  std::string name = !node.name().empty() || !node.output_size()
                         ? node.name()
                         : node.output(0);
  call.prefix = name + "#" + std::to_string(++calls) + "/";
  for (const AttributeProto &attribute : function.attribute_proto())
    call.attributes[attribute.name()] = &attribute;
  for (const AttributeProto &attribute : node.attribute())
    call.attributes[attribute.name()] = &attribute;
  scopes.push_back({&scope, &function, readVersions(function.opset_import())});
  const NodeScope &body = scopes.back();
  for (const std::string &value : node.input())
    bytes += value.size();
  for (const std::string &value : node.output())
    bytes += value.size();
  if (llvm::Error error = spend(call.prefix.size()))
    return error;
  for (int i = 0; i < function.input_size(); ++i)
    if (!call.values
             .try_emplace(function.input(i),
                          i < node.input_size() ? node.input(i) : "")
             .second)
      return fail("two inputs of the function have the name " +
                  quoteName(function.input(i)));
  std::vector<NodeProto> copies;
  for (int i = 0; i < node.output_size(); ++i) {
    const std::string &wanted = node.output(i);
    if (wanted.empty() ||
        call.values.try_emplace(function.output(i), wanted).second)
      continue;
    // An input, or an output that stands twice, under another name.
    copies.push_back(makeIdentity(call.values[function.output(i)], wanted));
  }
  if (llvm::Error error = append(function.node(), body, &call, result))
    return error;
  for (NodeProto &copy : copies) {
    made.push_back(std::move(copy));
    result.push_back({&made.back(), &getMain()});
  }
  return llvm::Error::success();
}

llvm::Error FunctionInliner::append(const RepeatedPtrField<NodeProto> &list,
                                    const NodeScope &scope, Call *call,
                                    std::vector<InlinedNode> &result) {
  for (const NodeProto &original : list) {
    const NodeProto *node = &original;
    if (call) {
      ++nodes;
      if (llvm::Error error = spend(original.ByteSizeLong()))
        return error;
      made.push_back(original);
      call->spent = 0;
      call->rename(made.back());
      if (llvm::Error error = spend(call->spent))
        return error;
      node = &made.back();
    }
    const FunctionProto *function = find(*node);
    if (!function) {
      result.push_back({node, &scope});
      continue;
    }
    if (llvm::Error error = inlineCall(*node, *function, scope, result))
      return error;
  }
  return llvm::Error::success();
}

llvm::Expected<std::vector<InlinedNode>>
FunctionInliner::inlineCalls(const RepeatedPtrField<NodeProto> &list,
                             const NodeScope &scope) {
  std::vector<InlinedNode> result;
  if (llvm::Error error = append(list, scope, /*call=*/nullptr, result))
    return std::move(error);
  return result;
}

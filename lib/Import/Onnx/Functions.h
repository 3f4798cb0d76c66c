//===- Functions.h - Calls of a model's own functions -----------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A model may hold functions, and nodes that call them by domain and name. Both
// importers read nodes through FunctionInliner, which puts a function's body in
// the place of each call: they never see one.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_IMPORT_ONNX_FUNCTIONS_H
#define QLM_LIB_IMPORT_ONNX_FUNCTIONS_H

#include "onnx-ml.pb.h"
#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/StringMap.h"
#include "llvm/Support/Error.h"

#include <deque>
#include <vector>

namespace mlir::qlm::onnx_import {

/// Versions of operators by domain; the standard's own has the domain "".
using OpsetVersions = llvm::StringMap<int64_t>;

/// Where nodes come from: the model's graph, or the body of a function that was
/// called from \p caller.
struct NodeScope {
  const NodeScope *caller = nullptr;
  const ::onnx::FunctionProto *function = nullptr;
  OpsetVersions versions;
};

/// A node that calls no function of the model.
struct InlinedNode {
  const ::onnx::NodeProto *proto;
  const NodeScope *scope;
};

/// "" for the standard's own domain, however it is spelled.
llvm::StringRef normalizeDomain(llvm::StringRef domain);

/// "node 'name' (Op)", or "node of 'its first output' (Op)".
std::string describeNode(const ::onnx::NodeProto &proto);

/// Replaces calls. Values and nodes of a body are named after the call, so that
/// no two are alike. The nodes live as long as the inliner.
class FunctionInliner {
public:
  explicit FunctionInliner(const ::onnx::ModelProto &model) : model(model) {}

  /// Reads the model's functions. Errors: two of the same name.
  llvm::Error initialize();

  /// The scope of the model's graph.
  const NodeScope &getMain() const { return scopes.front(); }

  /// The nodes of a graph that stands in \p scope, in order, without calls.
  /// Errors, naming the node: functions that call themselves or are nested too
  /// deep, calls with more inputs or outputs than the function has, and bodies
  /// that together are too large to write out.
  llvm::Expected<std::vector<InlinedNode>>
  inlineCalls(const google::protobuf::RepeatedPtrField<::onnx::NodeProto> &list,
              const NodeScope &scope);

private:
  struct Call;
  llvm::Error
  append(const google::protobuf::RepeatedPtrField<::onnx::NodeProto> &list,
         const NodeScope &scope, Call *call, std::vector<InlinedNode> &result);
  llvm::Error inlineCall(const ::onnx::NodeProto &call,
                         const ::onnx::FunctionProto &function,
                         const NodeScope &scope,
                         std::vector<InlinedNode> &result);
  const ::onnx::FunctionProto *find(const ::onnx::NodeProto &node) const;
  llvm::Error spend(size_t bytes);

  const ::onnx::ModelProto &model;
  llvm::StringMap<const ::onnx::FunctionProto *> functions;
  std::deque<NodeScope> scopes;
  std::deque<::onnx::NodeProto> made;
  size_t calls = 0, nodes = 0, bytes = 0;
};

} // namespace mlir::qlm::onnx_import

#endif // QLM_LIB_IMPORT_ONNX_FUNCTIONS_H

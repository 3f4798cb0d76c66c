//===- ImportOnnx.cpp - ONNX graphs into IR -------------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Import/Onnx.h"

#include "KernelAttention.h"
#include "Operators.h"
#include "qlm/Archive/Errors.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/Verifier.h"
#include "qlm/Dialect/Graph.h"
#include "qlm/Dialect/Qlm.h"
#include "llvm/ADT/StringSet.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::onnx_import;
using onnx::TensorProto;

/// Initializers of more elements stay outside of the IR.
static constexpr int64_t kLargestConstant = 4096;
/// Whole numbers of more elements are data, not shapes.
static constexpr int64_t kMostKnown = 1024;

namespace {
/// One import. Values are looked up by name in the scopes of nested graphs.
class GraphImporter {
public:
  GraphImporter(OnnxFile &file, MLIRContext &context,
                const OnnxOptions &options)
      : file(file), options(options), functions(file.getModel()), b(&context) {}

  llvm::Expected<OwningOpRef<ModuleOp>> import();

private:
  using Nodes = std::vector<InlinedNode>;

  llvm::Error declareInputs();
  llvm::Error declareInitializers(const ::onnx::GraphProto &graph, bool isMain);
  llvm::Error declareTypes(const ::onnx::GraphProto &graph);
  llvm::Error importNodes(const Nodes &nodes);
  llvm::Error importNode(const InlinedNode &inlined);
  llvm::Error importIf(const InlinedNode &inlined);
  llvm::Error importBranch(const ::onnx::GraphProto &branch,
                           const InlinedNode &inlined);
  llvm::Expected<Tensor> lookUp(const ::onnx::NodeProto &proto,
                                const std::string &name);
  llvm::Error finish();

  llvm::Expected<Tensor> makeConstant(const TensorProto &proto);
  llvm::Expected<Tensor> makeFixed(const ::onnx::ValueInfoProto &info,
                                   const FixedInput &input);
  Tensor makeConstant(ArrayRef<char> bytes, int32_t type,
                      ArrayRef<int64_t> shape);
  llvm::Expected<RankedTensorType> getType(const ::onnx::ValueInfoProto &info,
                                           int32_t &elementType);
  Value addArgument(Type type, StringRef name, int32_t elementType,
                    bool isWeight);
  void nameSizes(Value argument, const ::onnx::ValueInfoProto &info);
  llvm::Error define(StringRef name, Tensor tensor);
  llvm::Error defineOutput(const ::onnx::NodeProto &node, StringRef name,
                           Tensor tensor);

  OnnxFile &file;
  const OnnxOptions &options;
  FunctionInliner functions;
  TensorBuilder b;
  OwningOpRef<ModuleOp> module;
  func::FuncOp function;
  llvm::StringMap<Tensor> values;
  /// What the file holds, by the names of values that still mean it.
  llvm::StringMap<const TensorProto *> tensors;
  /// Names that were defined since the innermost branch began.
  std::vector<std::string> defined;
  /// Shapes that the graph declares for values.
  llvm::StringMap<RankedTensorType> declared;
  /// Values that are used once, by a Cast to f32.
  llvm::StringSet<> castToFloat;
  /// Open dimensions of inputs by the names that they are given.
  llvm::StringMap<Value> namedSizes;
  llvm::DenseMap<Value, std::unique_ptr<Produced>> produced;
  SmallVector<Attribute> argumentAttributes;
};
} // namespace

//===----------------------------------------------------------------------===//
// Constants
//===----------------------------------------------------------------------===//

/// The elements as whole numbers, where the type has them.
static std::optional<SmallVector<int64_t>> readIntegers(ArrayRef<char> bytes,
                                                        int32_t type) {
  int64_t width = getOnnxElementBytes(type);
  if (isFloatType(type) || !width)
    return std::nullopt;
  bool isUnsigned = isUnsignedType(type);
  SmallVector<int64_t> values;
  for (size_t i = 0; i + width <= bytes.size(); i += width) {
    uint64_t bits = 0;
    std::memcpy(&bits, bytes.data() + i, width);
    unsigned shift = 64 - 8 * width;
    values.push_back(isUnsigned ? static_cast<int64_t>(bits)
                                : static_cast<int64_t>(bits << shift) >> shift);
  }
  return values;
}

Tensor GraphImporter::makeConstant(ArrayRef<char> bytes, int32_t type,
                                   ArrayRef<int64_t> shape) {
  auto tensorType =
      RankedTensorType::get(shape, getStoredType(b.getContext(), type));
  Tensor tensor;
  tensor.type = type;
  DenseElementsAttr elements;
  if (tensorType.getNumElements() == 0) {
    elements = DenseElementsAttr::get(tensorType, ArrayRef<Attribute>());
  } else if (isBoolType(type)) {
    SmallVector<bool> flags;
    for (char byte : bytes)
      flags.push_back(byte != 0);
    elements = DenseElementsAttr::get(tensorType, ArrayRef<bool>(flags));
  } else {
    elements = DenseElementsAttr::getFromRawBuffer(tensorType, bytes);
  }
  tensor.value = arith::ConstantOp::create(b, b.loc, elements);
  if (tensorType.getNumElements() <= kMostKnown)
    tensor.known = readIntegers(bytes, type);
  return tensor;
}

llvm::Expected<Tensor> GraphImporter::makeConstant(const TensorProto &proto) {
  if (!getStoredType(b.getContext(), proto.data_type()))
    return makeError("tensor '" + proto.name() + "' has elements of " +
                     getOnnxTypeName(proto.data_type()) +
                     ", which are not handled");
  auto data = file.getData(proto);
  if (!data)
    return data.takeError();
  SmallVector<int64_t> shape(proto.dims().begin(), proto.dims().end());
  return makeConstant(*data, proto.data_type(), shape);
}

llvm::Expected<Tensor>
GraphImporter::makeFixed(const ::onnx::ValueInfoProto &info,
                         const FixedInput &input) {
  auto fail = [&](const llvm::Twine &what) {
    return makeError("input '" + info.name() + "' is fixed to " + what);
  };
  int32_t type = 0;
  auto declaredType = getType(info, type);
  if (!declaredType)
    return makeError("input " + llvm::toString(declaredType.takeError()));
  std::string name = getOnnxTypeName(type);
  int64_t bytes = getOnnxElementBytes(type);
  bool isRaw = input.typeName == "void" + std::to_string(bytes);
  if (input.typeName != name && !isRaw)
    return fail("an array of " + input.typeName + ", it takes " + name);
  int64_t count = bytes;
  bool fits =
      declaredType->getRank() == static_cast<int64_t>(input.shape.size());
  for (size_t i = 0; fits && i < input.shape.size(); ++i)
    fits = input.shape[i] >= 0 &&
           (declaredType->isDynamicDim(i) ||
            declaredType->getDimSize(i) == input.shape[i]) &&
           !__builtin_mul_overflow(count, input.shape[i], &count);
  if (!fits || static_cast<int64_t>(input.bytes.size()) != count)
    return fail("an array of another shape than it takes");
  return makeConstant(input.bytes, type, input.shape);
}

//===----------------------------------------------------------------------===//
// Inputs
//===----------------------------------------------------------------------===//

llvm::Expected<RankedTensorType>
GraphImporter::getType(const ::onnx::ValueInfoProto &info,
                       int32_t &elementType) {
  auto fail = [&](const llvm::Twine &what) {
    return makeError("'" + info.name() + "' " + what);
  };
  if (!info.type().has_tensor_type())
    return fail("is no tensor: sequences, maps and optionals are not handled");
  const auto &tensor = info.type().tensor_type();
  elementType = tensor.elem_type();
  Type stored = getStoredType(b.getContext(), elementType);
  if (!stored)
    return fail("has elements of " + getOnnxTypeName(elementType) +
                ", which are not handled");
  if (!tensor.has_shape())
    return fail("has no shape: the number of dimensions must be known");
  SmallVector<int64_t> shape;
  for (const auto &dim : tensor.shape().dim()) {
    if (dim.has_dim_value() && dim.dim_value() < 0)
      return fail("has the dimension " + llvm::Twine(dim.dim_value()));
    shape.push_back(dim.has_dim_value() ? dim.dim_value()
                                        : ShapedType::kDynamic);
  }
  if (!isCountable(shape))
    return fail("has more than 2^48 elements");
  return RankedTensorType::get(shape, stored);
}

llvm::Error GraphImporter::define(StringRef name, Tensor tensor) {
  if (!values.try_emplace(name, std::move(tensor)).second)
    return makeError("two values have the name '" + name + "'");
  defined.push_back(name.str());
  return llvm::Error::success();
}

llvm::Error GraphImporter::defineOutput(const ::onnx::NodeProto &node,
                                        StringRef name, Tensor tensor) {
  if (llvm::Error error = define(name, std::move(tensor)))
    return makeError(describeNode(node) + ": " +
                     llvm::toString(std::move(error)));
  return llvm::Error::success();
}

Value GraphImporter::addArgument(Type type, StringRef name, int32_t elementType,
                                 bool isWeight) {
  Value argument = function.front().addArgument(type, b.loc);
  if (isWeight)
    b.weights.insert(argument);
  argumentAttributes.push_back(b.getDictionaryAttr(
      {b.getNamedAttr(isWeight ? "qlm.weight" : "qlm.name",
                      b.getStringAttr(name)),
       b.getNamedAttr("qlm.type",
                      b.getStringAttr(getOnnxTypeName(elementType)))}));
  return argument;
}

/// Whether exporters write \p name for a dimension of any size.
static bool isPlaceholder(StringRef name) {
  return name.empty() || name == "?" || name == "None" || name == "unk" ||
         name == "unknown" || name == "dynamic";
}

/// Dimensions of one name, in different inputs, are of one size.
void GraphImporter::nameSizes(Value argument,
                              const ::onnx::ValueInfoProto &info) {
  llvm::StringMap<Value> own;
  for (auto [i, dim] : llvm::enumerate(info.type().tensor_type().shape().dim()))
    if (!dim.has_dim_value() && !isPlaceholder(dim.dim_param())) {
      Value named = namedSizes.lookup(dim.dim_param());
      if (named)
        b.takeSize(argument, i, named);
      else
        own.try_emplace(dim.dim_param(), b.dim(argument, i));
    }
  for (const auto &entry : own)
    namedSizes.try_emplace(entry.getKey(), entry.getValue());
}

llvm::Error GraphImporter::declareInputs() {
  llvm::StringSet<> initialized;
  for (const auto &tensor : file.getModel().graph().initializer())
    initialized.insert(tensor.name());
  for (const auto &info : file.getModel().graph().input()) {
    // Before version 4 of the format, initializers were inputs too.
    if (initialized.contains(info.name()))
      continue;
    int32_t elementType = 0;
    if (auto fixed = options.fixed.find(info.name());
        fixed != options.fixed.end()) {
      auto tensor = makeFixed(info, fixed->second);
      if (!tensor)
        return tensor.takeError();
      if (llvm::Error error = define(info.name(), std::move(*tensor)))
        return error;
      continue;
    }
    auto type = getType(info, elementType);
    if (!type)
      return makeError("input " + llvm::toString(type.takeError()));
    Value argument = addArgument(*type, info.name(), elementType, false);
    nameSizes(argument, info);
    if (llvm::Error error = define(info.name(), {argument, elementType, {}}))
      return error;
  }
  return llvm::Error::success();
}

llvm::Error GraphImporter::declareInitializers(const ::onnx::GraphProto &graph,
                                               bool isMain) {
  if (graph.sparse_initializer_size())
    return makeError("sparse initializers are not handled");
  for (const TensorProto &proto : graph.initializer()) {
    int64_t count = 1;
    for (int64_t size : proto.dims())
      if (size < 0 || __builtin_mul_overflow(count, size, &count))
        return makeError("initializer '" + proto.name() +
                         "' has impossible dimensions");
    Tensor tensor;
    Type stored = getStoredType(b.getContext(), proto.data_type());
    // Packages look weights up in the model's graph.
    if (isMain && count > kLargestConstant && stored) {
      // Its bytes are checked now and read when the package is written.
      if (auto data = file.getData(proto); !data)
        return data.takeError();
      SmallVector<int64_t> shape(proto.dims().begin(), proto.dims().end());
      tensor = {addArgument(RankedTensorType::get(shape, stored), proto.name(),
                            proto.data_type(), /*isWeight=*/true),
                proto.data_type(),
                {}};
    } else {
      auto constant = makeConstant(proto);
      if (!constant)
        return constant.takeError();
      tensor = std::move(*constant);
    }
    if (llvm::Error error = define(proto.name(), std::move(tensor)))
      return error;
    tensors[proto.name()] = &proto;
  }
  return llvm::Error::success();
}

llvm::Error GraphImporter::declareTypes(const ::onnx::GraphProto &graph) {
  for (const auto *list : {&graph.value_info(), &graph.output()})
    for (const auto &info : *list) {
      int32_t elementType = 0;
      if (!info.type().has_tensor_type() ||
          !info.type().tensor_type().has_shape())
        continue;
      auto type = getType(info, elementType);
      if (!type)
        return type.takeError();
      declared[info.name()] = *type;
    }
  return llvm::Error::success();
}

//===----------------------------------------------------------------------===//
// Nodes
//===----------------------------------------------------------------------===//

llvm::Expected<Tensor> GraphImporter::lookUp(const ::onnx::NodeProto &proto,
                                             const std::string &name) {
  if (name.empty())
    return Tensor();
  auto found = values.find(name);
  if (found == values.end())
    return makeError(describeNode(proto) + ": no value is called '" + name +
                     "' (names must be defined before they are used)");
  return found->second;
}

/// The graph in attribute \p name; null where there is none.
static const ::onnx::GraphProto *findGraph(const ::onnx::NodeProto &proto,
                                           StringRef name) {
  for (const ::onnx::AttributeProto &attribute : proto.attribute())
    if (attribute.name() == name && attribute.has_g())
      return &attribute.g();
  return nullptr;
}

/// An If is the branch that its condition, which must be known, takes.
llvm::Error GraphImporter::importIf(const InlinedNode &inlined) {
  const ::onnx::NodeProto &proto = *inlined.proto;
  auto fail = [&](const llvm::Twine &what) {
    return makeError(describeNode(proto) + ": " + what);
  };
  if (proto.input_size() != 1)
    return fail("takes 1 input, got " + llvm::Twine(proto.input_size()));
  auto condition = lookUp(proto, proto.input(0));
  if (!condition)
    return condition.takeError();
  if (!*condition || !condition->known)
    return fail(describeUnknownInput(proto, 0));
  if (condition->known->size() != 1)
    return fail("the condition must be one element, got " +
                llvm::Twine(condition->known->size()));
  StringRef name = condition->known->front() ? "then_branch" : "else_branch";
  const ::onnx::GraphProto *branch = findGraph(proto, name);
  if (!branch)
    return fail("has no " + name);
  if (branch->output_size() != proto.output_size() || branch->input_size())
    return fail(name + " has " + llvm::Twine(branch->input_size()) +
                " inputs and " + llvm::Twine(branch->output_size()) +
                " outputs, it takes 0 and " + llvm::Twine(proto.output_size()));
  return importBranch(*branch, inlined);
}

llvm::Error GraphImporter::importBranch(const ::onnx::GraphProto &branch,
                                        const InlinedNode &inlined) {
  const ::onnx::NodeProto &proto = *inlined.proto;
  std::vector<std::string> outer = std::exchange(defined, {});
  auto nodes = functions.inlineCalls(branch.node(), *inlined.scope);
  if (!nodes)
    return nodes.takeError();
  if (llvm::Error error =
          checkNodes(*nodes, file.getModel().graph(), options.fixed))
    return error;
  if (llvm::Error error = declareInitializers(branch, /*isMain=*/false))
    return error;
  if (llvm::Error error = importNodes(*nodes))
    return error;
  std::vector<Tensor> results;
  for (const auto &info : branch.output()) {
    auto result = lookUp(proto, info.name());
    if (!result)
      return result.takeError();
    if (!*result)
      return makeError(describeNode(proto) + ": an output has no name");
    results.push_back(std::move(*result));
  }
  // Names of a branch mean nothing outside of it.
  for (const std::string &name : defined) {
    values.erase(name);
    tensors.erase(name);
  }
  defined = std::move(outer);
  for (auto [name, result] : llvm::zip_equal(proto.output(), results))
    if (!name.empty())
      if (llvm::Error error = defineOutput(proto, name, std::move(result)))
        return error;
  return llvm::Error::success();
}

llvm::Error GraphImporter::importNodes(const Nodes &nodes) {
  for (const InlinedNode &node : nodes)
    if (llvm::Error error =
            isIf(*node.proto) ? importIf(node) : importNode(node))
      return error;
  return llvm::Error::success();
}

llvm::Error GraphImporter::importNode(const InlinedNode &inlined) {
  const ::onnx::NodeProto &proto = *inlined.proto;
  SmallVector<Tensor> inputs;
  for (const std::string &name : proto.input()) {
    auto input = lookUp(proto, name);
    if (!input)
      return input.takeError();
    inputs.push_back(std::move(*input));
  }
  while (!inputs.empty() && !inputs.back())
    inputs.pop_back();
  Node node(proto, b,
            inlined.scope->versions.lookup(normalizeDomain(proto.domain())),
            std::move(inputs));
  const Operator &op = *findOperator(proto);
  auto fail = [&](const llvm::Twine &what) {
    return makeError(node.describe() + ": " + what);
  };
  if (node.inputCount() < op.minInputs ||
      (op.maxInputs >= 0 && node.inputCount() > op.maxInputs))
    return fail("takes " + llvm::Twine(op.minInputs) + " to " +
                llvm::Twine(op.maxInputs) + " inputs, got " +
                llvm::Twine(node.inputCount()));
  for (int i = 0; i < op.minInputs; ++i)
    if (!node.has(i))
      return fail("input " + llvm::Twine(i) + " is missing");
  std::string constantError;
  auto readConstant = [&](const TensorProto &tensor) -> Tensor {
    auto constant = makeConstant(tensor);
    if (constant)
      return std::move(*constant);
    constantError = llvm::toString(constant.takeError());
    return {};
  };
  node.makeConstant = readConstant;
  auto findTensor = [&](const std::string &name) {
    return tensors.lookup(name);
  };
  node.findTensor = findTensor;
  auto findProduced = [&](Value value) -> const Produced * {
    auto found = produced.find(value);
    return found == produced.end() ? nullptr : found->second.get();
  };
  node.findProduced = findProduced;
  node.file = &file;
  node.sumsBecomeFloats =
      proto.output_size() == 1 && castToFloat.contains(proto.output(0));
  for (const std::string &name : proto.output())
    node.declarations.push_back(declared.lookup(name));
  b.loc = NameLoc::get(
      b.getStringAttr(proto.name().empty() ? proto.op_type() : proto.name()));

  if (auto folded = foldKnown(node))
    return defineOutput(proto, proto.output(0), std::move(*folded));
  LogicalResult emitted = op.emit(node);
  if (std::string problem = b.takeProblem(); !problem.empty())
    return fail(problem);
  if (emitted.failed())
    return fail(!constantError.empty()    ? constantError
                : node.getError().empty() ? "is not handled"
                                          : node.getError());
  for (auto [i, name] : llvm::enumerate(proto.output())) {
    if (name.empty())
      continue;
    const Tensor &output = node.outs()[i];
    if (!output)
      return fail("output " + llvm::Twine(i) + " is not handled");
    if (llvm::Error error = defineOutput(proto, name, output))
      return error;
  }
  if (isPartOfAttention(proto))
    produced[node.outs()[0].value] = std::make_unique<Produced>(
        Produced{proto, SmallVector<Tensor>(node.ins())});
  return llvm::Error::success();
}

llvm::Error GraphImporter::finish() {
  SmallVector<Value> results;
  SmallVector<Type> types;
  SmallVector<Attribute> attributes;
  for (const auto &info : file.getModel().graph().output()) {
    auto found = values.find(info.name());
    if (found == values.end())
      return makeError("output '" + info.name() + "' is never computed");
    const Tensor &tensor = found->second;
    if (info.type().has_tensor_type() &&
        info.type().tensor_type().elem_type() != tensor.type)
      return makeError("output '" + info.name() + "' is declared " +
                       getOnnxTypeName(info.type().tensor_type().elem_type()) +
                       ", its node gives " + getOnnxTypeName(tensor.type));
    results.push_back(tensor.value);
    types.push_back(tensor.value.getType());
    attributes.push_back(b.getDictionaryAttr(
        {b.getNamedAttr("qlm.name", b.getStringAttr(info.name())),
         b.getNamedAttr("qlm.type",
                        b.getStringAttr(getOnnxTypeName(tensor.type)))}));
  }
  if (results.empty())
    return makeError("the graph has no outputs");
  func::ReturnOp::create(b, b.loc, results);
  function.setFunctionType(FunctionType::get(
      b.getContext(), function.front().getArgumentTypes(), types));
  function.setArgAttrsAttr(b.getArrayAttr(argumentAttributes));
  function.setResAttrsAttr(b.getArrayAttr(attributes));
  return llvm::Error::success();
}

llvm::Expected<OwningOpRef<ModuleOp>> GraphImporter::import() {
  const ::onnx::GraphProto &graph = file.getModel().graph();
  if (llvm::Error error = functions.initialize())
    return std::move(error);
  auto nodes = functions.inlineCalls(graph.node(), functions.getMain());
  if (!nodes)
    return nodes.takeError();
  if (llvm::Error error = checkNodes(*nodes, graph, options.fixed))
    return std::move(error);
  castToFloat = findCastToFloat(*nodes, graph);
  module = ModuleOp::create(b.getUnknownLoc());
  (*module)->setAttr("qlm.kind", b.getStringAttr("graph"));
  (*module)->setAttr("qlm.stage", b.getStringAttr("import"));
  b.setInsertionPointToEnd(module->getBody());
  function = func::FuncOp::create(b, b.loc, "graph", b.getFunctionType({}, {}));
  b.top = function.addEntryBlock();
  b.setInsertionPointToEnd(&function.front());
  if (llvm::Error error = declareInputs())
    return std::move(error);
  if (llvm::Error error = declareInitializers(graph, /*isMain=*/true))
    return std::move(error);
  if (llvm::Error error = declareTypes(graph))
    return std::move(error);
  if (llvm::Error error = importNodes(*nodes))
    return std::move(error);
  if (llvm::Error error = finish())
    return std::move(error);
  if (function.walk([](func::CallOp) { return WalkResult::interrupt(); })
          .wasInterrupted()) {
    b.setInsertionPointToStart(module->getBody());
    func::FuncOp::create(b, b.getUnknownLoc(), kCheckFunction,
                         b.getFunctionType({b.getI1Type()}, {}))
        .setPrivate();
  }
  if (failed(verify(*module)))
    return makeError("the imported graph is not valid IR");
  return std::move(module);
}

llvm::Expected<OwningOpRef<ModuleOp>>
mlir::qlm::importOnnx(OnnxFile &file, MLIRContext &context,
                      const OnnxOptions &options) {
  context
      .loadDialect<QlmDialect, graph::GraphDialect, func::FuncDialect,
                   arith::ArithDialect, linalg::LinalgDialect,
                   math::MathDialect, scf::SCFDialect, tensor::TensorDialect>();
  return GraphImporter(file, context, options).import();
}

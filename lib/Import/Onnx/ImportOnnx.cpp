//===- ImportOnnx.cpp - ONNX graphs into IR -------------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Import/Onnx.h"

#include "Node.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/Verifier.h"
#include "qlm/Dialect/Graph.h"
#include "qlm/Dialect/Qlm.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringSet.h"
#include "llvm/ADT/StringSwitch.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::onnx_import;
using onnx::TensorProto;

/// Versions of the standard's operators that are understood, but for those that
/// mean the same since an earlier one.
static constexpr int64_t kOldestOpset = 13;
/// Initializers of more elements stay outside of the IR.
static constexpr int64_t kLargestConstant = 4096;
/// Whole numbers of more elements are data, not shapes.
static constexpr int64_t kMostKnown = 1024;
/// Refused nodes that one message lists.
static constexpr size_t kMostListed = 20;

static llvm::Error makeError(const llvm::Twine &message) {
  return llvm::createStringError(llvm::inconvertibleErrorCode(), message);
}

/// All operators by "domain.Name".
static const llvm::StringMap<const Operator *> &getOperators() {
  static const auto *operators = [] {
    auto *map = new llvm::StringMap<const Operator *>;
    for (ArrayRef<Operator> list :
         {elementwiseOperators(), shapeOperators(), indexingOperators(),
          reductionOperators(), productOperators(), poolingOperators(),
          normalizationOperators(), quantizationOperators(),
          attentionOperators()})
      for (const Operator &op : list)
        map->try_emplace((llvm::Twine(op.domain) + "." + op.name).str(), &op);
    return map;
  }();
  return *operators;
}

std::vector<std::string> mlir::qlm::listOnnxOperators() {
  std::vector<std::string> names;
  for (const auto &entry : getOperators())
    names.push_back(entry.getKey().str());
  llvm::sort(names);
  return names;
}

namespace {
/// One import. Values are looked up by name in the scopes of nested graphs.
class GraphImporter {
public:
  GraphImporter(OnnxFile &file, MLIRContext &context,
                const OnnxOptions &options)
      : file(file), options(options), b(&context) {}

  llvm::Expected<OwningOpRef<ModuleOp>> import();

private:
  llvm::Error readVersions();
  llvm::Error checkOperators();
  llvm::Error declareInputs();
  llvm::Error declareInitializers();
  llvm::Error declareTypes();
  llvm::Error importNode(const ::onnx::NodeProto &proto);
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
  llvm::Error define(StringRef name, Tensor tensor);

  OnnxFile &file;
  const OnnxOptions &options;
  TensorBuilder b;
  OwningOpRef<ModuleOp> module;
  func::FuncOp function;
  llvm::StringMap<int64_t> versions;
  llvm::StringMap<Tensor> values;
  /// Shapes that the graph declares for values.
  llvm::StringMap<RankedTensorType> declared;
  SmallVector<Attribute> argumentAttributes;
};
} // namespace

/// The first version of the standard in which an operator has the meaning,
/// attributes and inputs that its emitter knows.
static int64_t oldestOpset(const ::onnx::NodeProto &node) {
  if (!node.domain().empty() && node.domain() != "ai.onnx")
    return 0;
  return llvm::StringSwitch<int64_t>(node.op_type())
      .Cases({"Constant", "Identity", "MatMul", "Not"}, 1)
      .Cases({"Shape", "Size", "Transpose"}, 1)
      .Case("Concat", 4)
      .Case("Reshape", 5)
      .Cases({"Abs", "Ceil", "Exp", "Floor", "Log", "Neg", "Reciprocal"}, 6)
      .Cases({"Cast", "Relu", "Sigmoid", "Sqrt", "Tanh", "Elu", "LeakyRelu"}, 6)
      .Cases({"Add", "And", "Div", "Mul", "Or", "Pow", "Sub", "Xor"}, 7)
      .Cases({"Equal", "Greater", "Less"}, 7)
      .Cases({"Acos", "Asin", "Atan", "Cos", "Sin", "Tan"}, 7)
      .Cases({"Expand", "Max", "Min"}, 8)
      .Cases({"Acosh", "Asinh", "Atanh", "Cosh", "Erf", "IsNaN"}, 9)
      .Cases({"Shrink", "Sign", "Sinh", "Where"}, 9)
      .Cases({"ConvInteger", "MatMulInteger", "QLinearConv"}, 10)
      .Cases({"DequantizeLinear", "QLinearMatMul", "QuantizeLinear"}, 10)
      .Cases({"Clip", "DynamicQuantizeLinear", "Round"}, 11)
      .Cases({"ReduceMax", "ReduceMin"}, 11)
      .Default(kOldestOpset);
}

llvm::Error GraphImporter::readVersions() {
  for (const auto &import : file.getModel().opset_import()) {
    StringRef domain =
        import.domain() == "ai.onnx" ? StringRef() : StringRef(import.domain());
    versions[domain] = import.version();
  }
  auto standard = versions.find("");
  if (standard == versions.end())
    return llvm::Error::success();
  for (const auto &node : file.getModel().graph().node()) {
    int64_t oldest = oldestOpset(node);
    if (standard->second < oldest)
      return makeError("the model uses opset " + llvm::Twine(standard->second) +
                       ", the oldest that " + Node(node, b, 0, {}).describe() +
                       " is understood in is " + llvm::Twine(oldest) +
                       "; convert it with onnx.version_converter");
  }
  return llvm::Error::success();
}

static std::string keyOf(const ::onnx::NodeProto &node) {
  StringRef domain = node.domain();
  if (domain == "ai.onnx")
    domain = "";
  return (domain + "." + node.op_type()).str();
}

llvm::Error GraphImporter::checkOperators() {
  std::vector<std::string> refused;
  for (const auto &proto : file.getModel().graph().node()) {
    if (getOperators().contains(keyOf(proto)))
      continue;
    refused.push_back(Node(proto, b, 0, {}).describe());
  }
  if (refused.empty())
    return llvm::Error::success();
  size_t more = refused.size() > kMostListed ? refused.size() - kMostListed : 0;
  refused.resize(refused.size() - more);
  return makeError(
      "operators that are not handled: " + llvm::join(refused, ", ") +
      (more ? " and " + std::to_string(more) + " more" : ""));
}

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
  return RankedTensorType::get(shape, stored);
}

llvm::Error GraphImporter::define(StringRef name, Tensor tensor) {
  if (!values.try_emplace(name, std::move(tensor)).second)
    return makeError("two values have the name '" + name + "'");
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
    if (llvm::Error error = define(info.name(), {argument, elementType, {}}))
      return error;
  }
  return llvm::Error::success();
}

llvm::Error GraphImporter::declareInitializers() {
  const auto &graph = file.getModel().graph();
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
    if (count > kLargestConstant && stored) {
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
  }
  return llvm::Error::success();
}

llvm::Error GraphImporter::declareTypes() {
  const auto &graph = file.getModel().graph();
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

llvm::Error GraphImporter::importNode(const ::onnx::NodeProto &proto) {
  SmallVector<Tensor> inputs;
  for (const std::string &name : proto.input()) {
    auto found = values.find(name);
    if (!name.empty() && found == values.end())
      return makeError(Node(proto, b, 0, {}).describe() +
                       ": no value is called '" + name +
                       "' (names must be defined before they are used)");
    inputs.push_back(name.empty() ? Tensor() : found->second);
  }
  while (!inputs.empty() && !inputs.back())
    inputs.pop_back();
  StringRef domain =
      proto.domain() == "ai.onnx" ? StringRef() : StringRef(proto.domain());
  Node node(proto, b, versions.lookup(domain), std::move(inputs));
  const Operator &op = *getOperators().at(keyOf(proto));
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
  for (const std::string &name : proto.output())
    node.declarations.push_back(declared.lookup(name));
  b.loc = NameLoc::get(
      b.getStringAttr(proto.name().empty() ? proto.op_type() : proto.name()));

  if (auto folded = foldKnown(node))
    return define(proto.output(0), std::move(*folded));
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
    if (llvm::Error error = define(name, output))
      return error;
  }
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
  if (file.getModel().functions_size())
    return makeError("functions inside the model are not handled");
  for (auto step :
       {&GraphImporter::readVersions, &GraphImporter::checkOperators})
    if (llvm::Error error = (this->*step)())
      return std::move(error);
  module = ModuleOp::create(b.getUnknownLoc());
  (*module)->setAttr("qlm.kind", b.getStringAttr("graph"));
  (*module)->setAttr("qlm.stage", b.getStringAttr("import"));
  b.setInsertionPointToEnd(module->getBody());
  function = func::FuncOp::create(b, b.loc, "graph", b.getFunctionType({}, {}));
  b.top = function.addEntryBlock();
  b.setInsertionPointToEnd(&function.front());
  for (auto step :
       {&GraphImporter::declareInputs, &GraphImporter::declareInitializers,
        &GraphImporter::declareTypes})
    if (llvm::Error error = (this->*step)())
      return std::move(error);
  for (const auto &node : file.getModel().graph().node())
    if (llvm::Error error = importNode(node))
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

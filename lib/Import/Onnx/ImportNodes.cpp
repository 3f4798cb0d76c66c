//===- ImportNodes.cpp - ONNX graphs into nodes as they stand -------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Import/Onnx.h"

#include "Functions.h"
#include "PackedWeights.h"
#include "qlm/Archive/Errors.h"

#include "qlm/Archive/Json.h"
#include "qlm/Dialect/Onnx.h"
#include "qlm/Dialect/Qlm.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/Verifier.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringMap.h"
#include "llvm/ADT/StringSet.h"
#include "llvm/Support/raw_ostream.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::onnx_import;
using ::onnx::AttributeProto;
using ::onnx::TensorProto;

/// Initializers of more elements stay in their file.
static constexpr int64_t kLargestConstant = 4096;
/// Tables of rotary embeddings, which raising looks into, may be larger.
static constexpr int64_t kLargestTable = int64_t(1) << 24;

/// The type of elements of \p type; null where it isn't handled.
static Type getElementType(Builder &b, int32_t type) {
  auto integer = [&](unsigned width, bool isUnsigned) -> Type {
    return isUnsigned ? b.getIntegerType(width, /*isSigned=*/false)
                      : b.getIntegerType(width);
  };
  switch (type) {
  case TensorProto::FLOAT:
    return b.getF32Type();
  case TensorProto::DOUBLE:
    return b.getF64Type();
  case TensorProto::FLOAT16:
    return b.getF16Type();
  case TensorProto::BFLOAT16:
    return b.getBF16Type();
  case TensorProto::BOOL:
    return b.getI1Type();
  case TensorProto::INT8:
    return integer(8, false);
  case TensorProto::INT16:
    return integer(16, false);
  case TensorProto::INT32:
    return integer(32, false);
  case TensorProto::INT64:
    return integer(64, false);
  case TensorProto::UINT8:
    return integer(8, true);
  case TensorProto::UINT16:
    return integer(16, true);
  case TensorProto::UINT32:
    return integer(32, true);
  case TensorProto::UINT64:
    return integer(64, true);
  default:
    return {};
  }
}

namespace {
/// One import.
class NodeImporter {
public:
  NodeImporter(OnnxFile &file, MLIRContext &context, StringRef packedPath)
      : file(file), graph(file.getModel().graph()), functions(file.getModel()),
        b(&context), location(UnknownLoc::get(&context)),
        packedPath(packedPath) {}

  llvm::Expected<OwningOpRef<ModuleOp>> import(StringRef folder);

private:
  llvm::Error importInputs();
  llvm::Error importInitializers();
  llvm::Error
  importNodes(const google::protobuf::RepeatedPtrField<::onnx::NodeProto> &list,
              const NodeScope &scope);
  llvm::Error importNode(const ::onnx::NodeProto &proto);
  llvm::Error importPackedProduct(const ::onnx::NodeProto &proto);
  llvm::Expected<Value> unpack(const ::onnx::NodeProto &proto);
  Value addNode(StringRef kind, ValueRange inputs, Type type,
                ArrayRef<NamedAttribute> attributes = {});
  llvm::Error importOutputs();
  llvm::Expected<Attribute> getAttribute(const AttributeProto &proto);
  llvm::Expected<ElementsAttr> getElements(const TensorProto &proto);
  llvm::Expected<Type> getType(const ::onnx::ValueInfoProto &info);
  llvm::Error define(const std::string &name, Value value);
  llvm::Error defineOutput(const ::onnx::NodeProto &node,
                           const std::string &name, Value value);

  OnnxFile &file;
  const ::onnx::GraphProto &graph;
  FunctionInliner functions;
  OpBuilder b;
  Location location;
  OwningOpRef<ModuleOp> module;
  func::FuncOp function;
  llvm::StringMap<Value> values;
  llvm::StringMap<Type> declared;
  SmallVector<Attribute> argumentNames;
  Value absent;
  llvm::StringMap<const TensorProto *> tensors;
  StringRef packedPath;
  std::unique_ptr<llvm::raw_fd_ostream> packed;
};
} // namespace

llvm::Error NodeImporter::define(const std::string &name, Value value) {
  if (!values.try_emplace(name, value).second)
    return makeError("two values have the name " + quoteName(name));
  return llvm::Error::success();
}

llvm::Error NodeImporter::defineOutput(const ::onnx::NodeProto &node,
                                       const std::string &name, Value value) {
  if (llvm::Error error = define(name, value))
    return makeError(describeNode(node) + ": " +
                     llvm::toString(std::move(error)));
  return llvm::Error::success();
}

llvm::Expected<Type> NodeImporter::getType(const ::onnx::ValueInfoProto &info) {
  const auto &tensor = info.type().tensor_type();
  Type element = getElementType(b, tensor.elem_type());
  if (!info.type().has_tensor_type() || !element || !tensor.has_shape())
    return b.getNoneType();
  SmallVector<int64_t> shape;
  for (const auto &dim : tensor.shape().dim()) {
    if (dim.has_dim_value() && dim.dim_value() < 0)
      return makeError(quoteName(info.name()) + " has the dimension " +
                       llvm::Twine(dim.dim_value()));
    shape.push_back(dim.has_dim_value() ? dim.dim_value()
                                        : ShapedType::kDynamic);
  }
  return RankedTensorType::get(shape, element);
}

llvm::Expected<ElementsAttr>
NodeImporter::getElements(const TensorProto &proto) {
  Type element = getElementType(b, proto.data_type());
  auto data = file.getData(proto);
  if (!data)
    return data.takeError();
  if (!element)
    return makeError("tensor " + quoteName(proto.name()) + " has elements of " +
                     getOnnxTypeName(proto.data_type()) +
                     ", which a decoder doesn't take");
  SmallVector<int64_t> shape(proto.dims().begin(), proto.dims().end());
  auto type = RankedTensorType::get(shape, element);
  if (type.getNumElements() == 0)
    return cast<ElementsAttr>(
        DenseElementsAttr::get(type, ArrayRef<Attribute>()));
  if (element.isInteger(1)) {
    SmallVector<bool> flags;
    for (char byte : *data)
      flags.push_back(byte != 0);
    return cast<ElementsAttr>(
        DenseElementsAttr::get(type, ArrayRef<bool>(flags)));
  }
  return cast<ElementsAttr>(DenseElementsAttr::getFromRawBuffer(type, *data));
}

llvm::Expected<Attribute>
NodeImporter::getAttribute(const AttributeProto &proto) {
  switch (proto.type()) {
  case AttributeProto::FLOAT:
    return b.getF32FloatAttr(proto.f());
  case AttributeProto::INT:
    return b.getI64IntegerAttr(proto.i());
  case AttributeProto::STRING:
    return b.getStringAttr(proto.s());
  case AttributeProto::TENSOR:
    return getElements(proto.t());
  case AttributeProto::FLOATS:
    return b.getDenseF32ArrayAttr(
        SmallVector<float>(proto.floats().begin(), proto.floats().end()));
  case AttributeProto::INTS:
    return b.getDenseI64ArrayAttr(
        SmallVector<int64_t>(proto.ints().begin(), proto.ints().end()));
  case AttributeProto::STRINGS: {
    SmallVector<StringRef> texts;
    for (const std::string &text : proto.strings())
      texts.push_back(text);
    return b.getStrArrayAttr(texts);
  }
  default:
    return makeError("attribute " + quoteName(proto.name()) +
                     " is of a kind that a decoder doesn't take");
  }
}

llvm::Error NodeImporter::importInputs() {
  llvm::StringSet<> initialized;
  for (const TensorProto &tensor : graph.initializer())
    initialized.insert(tensor.name());
  for (const auto &info : graph.input()) {
    if (initialized.contains(info.name()))
      continue;
    auto type = getType(info);
    if (!type)
      return makeError("input " + llvm::toString(type.takeError()));
    argumentNames.push_back(b.getDictionaryAttr(
        b.getNamedAttr(onnxir::kNameAttr, b.getStringAttr(info.name()))));
    if (llvm::Error error =
            define(info.name(), function.front().addArgument(*type, location)))
      return error;
  }
  for (const auto *list : {&graph.value_info(), &graph.output()})
    for (const auto &info : *list) {
      auto type = getType(info);
      if (!type)
        return type.takeError();
      declared[info.name()] = *type;
    }
  return llvm::Error::success();
}

/// Names of tensors that hold a rotary embedding's cosines and sines.
static llvm::StringSet<> findTables(const ::onnx::GraphProto &graph) {
  llvm::StringSet<> names;
  for (const auto &node : graph.node()) {
    int first = node.op_type() == "GroupQueryAttention" ? 7
                : node.op_type() == "RotaryEmbedding"
                    ? (node.domain() == "com.microsoft" ? 2 : 1)
                    : node.input_size();
    for (int i = first; i < std::min(first + 2, node.input_size()); ++i)
      names.insert(node.input(i));
  }
  return names;
}

llvm::Error NodeImporter::importInitializers() {
  llvm::StringSet<> tables = findTables(graph);
  for (const TensorProto &proto : graph.initializer()) {
    int64_t count = 1;
    for (int64_t size : proto.dims())
      if (size < 0 || __builtin_mul_overflow(count, size, &count))
        return makeError("initializer " + quoteName(proto.name()) +
                         " has impossible dimensions");
    Value value;
    Type element = getElementType(b, proto.data_type());
    if (count <= (tables.contains(proto.name()) ? kLargestTable
                                                : kLargestConstant) ||
        !element) {
      auto elements = getElements(proto);
      if (!elements)
        return elements.takeError();
      auto constant = onnxir::ConstantOp::create(
          b, location, elements->getType(), cast<TypedAttr>(*elements),
          b.getStringAttr(proto.name()), StringAttr(), IntegerAttr());
      if (auto place = file.getPlace(proto)) {
        constant.setFile(place->file);
        constant.setOffset(place->offset);
      } else {
        // Of no weight, then; one is refused where it is used as one.
        llvm::consumeError(place.takeError());
        constant.removeNameAttr();
      }
      value = constant;
    } else {
      auto place = file.getPlace(proto);
      if (!place)
        return place.takeError();
      SmallVector<int64_t> shape(proto.dims().begin(), proto.dims().end());
      value = onnxir::InitializerOp::create(
          b, location, RankedTensorType::get(shape, element), proto.name(),
          place->file, place->offset);
    }
    if (llvm::Error error = define(proto.name(), value))
      return error;
    tensors[proto.name()] = &proto;
  }
  return llvm::Error::success();
}

/// The weight of \p proto as float32 [N, K], a record in the file of such
/// weights.
llvm::Expected<Value> NodeImporter::unpack(const ::onnx::NodeProto &proto) {
  auto weight = PackedWeight::read(proto, file, [&](const std::string &name) {
    return tensors.lookup(name);
  });
  if (!weight)
    return weight.takeError();
  if (!packed) {
    std::error_code code;
    packed = std::make_unique<llvm::raw_fd_ostream>(packedPath, code);
    if (code)
      return makeError("cannot write '" + packedPath + "': " + code.message());
    (*module)->setAttr(kPackedAttr, b.getStringAttr(packedPath));
  }
  auto offset = static_cast<int64_t>(packed->tell());
  weight->write(*packed);
  auto type =
      RankedTensorType::get({weight->rows, weight->columns}, b.getF32Type());
  // Values' names are unique; those of codes may serve several weights.
  auto initializer = onnxir::InitializerOp::create(
      b, location, type, proto.output(0) + ".weight", kPackedFile, offset);
  initializer->setAttr(kPackedKeyAttr, b.getStringAttr(weight->getKey(offset)));
  if (SchemeAttr scheme = weight->getScheme(b.getContext()))
    initializer->setAttr(kKeptSchemeAttr, scheme);
  return initializer.getResult();
}

Value NodeImporter::addNode(StringRef kind, ValueRange inputs, Type type,
                            ArrayRef<NamedAttribute> attributes) {
  auto node = onnxir::NodeOp::create(b, location, TypeRange{type},
                                     b.getStringAttr(kind), inputs);
  node->setDiscardableAttrs(attributes);
  return node.getResult(0);
}

/// MatMulNBits as a product with the weight that its codes stand for.
llvm::Error NodeImporter::importPackedProduct(const ::onnx::NodeProto &proto) {
  auto fail = [&](const llvm::Twine &what) {
    return makeError(describeNode(proto) + ": " + what);
  };
  if (proto.output_size() != 1 || proto.input_size() < 3)
    return fail("takes 3 to 6 inputs and gives one output");
  Value x = values.lookup(proto.input(0));
  Value bias = proto.input_size() > 5 ? values.lookup(proto.input(5)) : Value();
  if (!x)
    return fail("no value is called " + quoteName(proto.input(0)));
  auto weight = unpack(proto);
  if (!weight)
    return fail(llvm::toString(weight.takeError()));
  auto type = cast<RankedTensorType>(weight->getType());
  Value turned =
      addNode("Transpose", *weight,
              RankedTensorType::get({type.getDimSize(1), type.getDimSize(0)},
                                    b.getF32Type()),
              b.getNamedAttr("perm", b.getDenseI64ArrayAttr({1, 0})));
  Type known = declared.lookup(proto.output(0));
  Type result = known ? known : b.getNoneType();
  Value product = addNode("MatMul", {x, turned}, result);
  if (bias)
    product = addNode("Add", {product, bias}, result);
  return defineOutput(proto, proto.output(0), product);
}

llvm::Error NodeImporter::importNode(const ::onnx::NodeProto &proto) {
  location = NameLoc::get(b.getStringAttr(
      proto.name().empty() && proto.output_size() ? proto.output(0)
                                                  : proto.name()));
  if (proto.domain() == "com.microsoft" && proto.op_type() == "MatMulNBits")
    return importPackedProduct(proto);
  SmallVector<Value> inputs;
  for (const std::string &name : proto.input()) {
    Value value = name.empty() ? absent : values.lookup(name);
    if (!value)
      return makeError(describeNode(proto) + ": no value is called " +
                       quoteName(name) +
                       " (names must be defined before they are used)");
    inputs.push_back(value);
  }
  SmallVector<NamedAttribute> attributes;
  for (const AttributeProto &attribute : proto.attribute()) {
    auto value = getAttribute(attribute);
    if (!value)
      return makeError(describeNode(proto) + ": " +
                       llvm::toString(value.takeError()));
    if (attribute.name() == "kind")
      return makeError(describeNode(proto) + ": no operator has an attribute "
                                             "'kind'");
    attributes.push_back(b.getNamedAttr(attribute.name(), *value));
  }
  if (proto.op_type() == "Constant" && attributes.size() == 1)
    if (auto value = dyn_cast<ElementsAttr>(attributes[0].getValue());
        value && attributes[0].getName() == "value" && proto.output_size() == 1)
      return defineOutput(
          proto, proto.output(0),
          onnxir::ConstantOp::create(b, location, value.getType(),
                                     cast<TypedAttr>(value), StringAttr(),
                                     StringAttr(), IntegerAttr()));
  SmallVector<Type> types;
  for (const std::string &name : proto.output()) {
    Type type = declared.lookup(name);
    types.push_back(type ? type : b.getNoneType());
  }
  StringRef domain = proto.domain();
  if (domain == "ai.onnx")
    domain = "";
  std::string kind =
      (domain.empty() ? "" : (domain + ".").str()) + proto.op_type();
  auto node =
      onnxir::NodeOp::create(b, location, types, b.getStringAttr(kind), inputs);
  node->setDiscardableAttrs(attributes);
  for (auto [name, result] : llvm::zip(proto.output(), node.getResults()))
    if (!name.empty())
      if (llvm::Error error = defineOutput(proto, name, result))
        return error;
  return llvm::Error::success();
}

llvm::Error NodeImporter::importNodes(
    const google::protobuf::RepeatedPtrField<::onnx::NodeProto> &list,
    const NodeScope &scope) {
  auto nodes = functions.inlineCalls(list, scope);
  if (!nodes)
    return nodes.takeError();
  for (const InlinedNode &node : *nodes) {
    // Nodes are raised by the model's version of the standard.
    int64_t own = node.scope->versions.lookup(""),
            wanted = functions.getMain().versions.lookup("");
    if (own != wanted)
      return makeError(describeNode(*node.proto) +
                       ": a function of a decoder must use the model's opset " +
                       llvm::Twine(wanted) + ", got " + llvm::Twine(own));
    if (llvm::Error error = importNode(*node.proto))
      return error;
  }
  return llvm::Error::success();
}

llvm::Error NodeImporter::importOutputs() {
  SmallVector<Value> results;
  SmallVector<Type> types;
  SmallVector<Attribute> names;
  for (const auto &info : graph.output()) {
    Value value = values.lookup(info.name());
    if (!value)
      return makeError("output " + quoteName(info.name()) +
                       " is never computed");
    results.push_back(value);
    types.push_back(value.getType());
    names.push_back(b.getDictionaryAttr(
        b.getNamedAttr(onnxir::kNameAttr, b.getStringAttr(info.name()))));
  }
  if (results.empty())
    return makeError("the graph has no outputs");
  func::ReturnOp::create(b, UnknownLoc::get(b.getContext()), results);
  function.setFunctionType(FunctionType::get(
      b.getContext(), function.front().getArgumentTypes(), types));
  function.setArgAttrsAttr(b.getArrayAttr(argumentNames));
  function.setResAttrsAttr(b.getArrayAttr(names));
  return llvm::Error::success();
}

llvm::Expected<OwningOpRef<ModuleOp>> NodeImporter::import(StringRef folder) {
  if (graph.sparse_initializer_size())
    return makeError("sparse initializers are not handled");
  module = ModuleOp::create(location);
  (*module)->setAttr(kStageAttr, b.getStringAttr("import"));
  (*module)->setAttr(kSourceAttr, b.getStringAttr(folder));
  SmallVector<NamedAttribute> opsets;
  for (const auto &set : file.getModel().opset_import())
    opsets.push_back(b.getNamedAttr(
        set.domain().empty() ? StringRef("ai.onnx") : StringRef(set.domain()),
        b.getI64IntegerAttr(set.version())));
  (*module)->setAttr("onnx.opsets", b.getDictionaryAttr(opsets));
  b.setInsertionPointToEnd(module->getBody());
  function = func::FuncOp::create(b, location, onnxir::kGraphName,
                                  b.getFunctionType({}, {}));
  b.setInsertionPointToEnd(function.addEntryBlock());
  absent = onnxir::AbsentOp::create(b, location, b.getNoneType());
  for (auto step :
       {&NodeImporter::importInputs, &NodeImporter::importInitializers})
    if (llvm::Error error = (this->*step)())
      return std::move(error);
  if (llvm::Error error = functions.initialize())
    return std::move(error);
  if (llvm::Error error = importNodes(graph.node(), functions.getMain()))
    return std::move(error);
  if (llvm::Error error = importOutputs())
    return std::move(error);
  if (packed) {
    packed->close();
    if (packed->has_error()) {
      std::string reason = packed->error().message();
      packed->clear_error();
      return makeError("cannot write '" + packedPath + "': " + reason);
    }
  }
  if (failed(verify(*module)))
    return makeError("the imported graph is not valid IR");
  return std::move(module);
}

llvm::Expected<OwningOpRef<ModuleOp>>
mlir::qlm::importOnnxNodes(OnnxFile &file, MLIRContext &context,
                           StringRef folder, StringRef packedPath) {
  context.loadDialect<QlmDialect, onnxir::OnnxDialect, func::FuncDialect>();
  return NodeImporter(file, context, packedPath).import(folder);
}

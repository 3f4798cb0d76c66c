//===- GraphParameters.cpp - Parameters of a graph's linears --------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "GraphPlan.h"
#include "PackageErrors.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/IRMapping.h"
#include "mlir/IR/Matchers.h"
#include "onnx-ml.pb.h"
#include "qlm/Archive/WriteSafetensors.h"
#include "qlm/Dialect/Graph.h"
#include "qlm/Dialect/MethodOps.h"
#include "qlm/Dialect/Qlm.h"
#include "llvm/ADT/StringSet.h"
#include "llvm/Support/FileSystem.h"

#include <cmath>

using namespace mlir;
using namespace mlir::qlm;
namespace fs = llvm::sys::fs;

/// What `qlm.parameter` calls the temporary file.
static constexpr llvm::StringLiteral kParametersFile = "parameters";

namespace {
/// A constant's elements as f32, in row-major order.
struct HostTensor {
  SmallVector<int64_t> shape;
  std::vector<float> values;
};

/// Evaluates what a parameter of a linear is made of.
class Evaluator {
public:
  Evaluator(func::FuncOp graph, OnnxFile &file) : graph(graph) {
    for (const auto &proto : file.getModel().graph().initializer())
      initializers[proto.name()] = &proto;
    this->file = &file;
  }

  llvm::Expected<HostTensor> evaluate(Value value);

private:
  llvm::Expected<HostTensor> read(BlockArgument argument);
  llvm::Expected<HostTensor> transpose(linalg::TransposeOp op);
  llvm::Expected<HostTensor> dequantize(graph::DequantizeOp op);
  llvm::Expected<HostTensor> shift(graph::ShiftedBiasOp op);
  llvm::Expected<std::vector<double>> getFactors(Value scale, Value variance,
                                                 const APFloat &epsilon);
  llvm::Expected<HostTensor> normalize(graph::NormalizedWeightOp op);
  llvm::Expected<HostTensor> normalize(graph::NormalizedBiasOp op);

  func::FuncOp graph;
  OnnxFile *file;
  llvm::StringMap<const ::onnx::TensorProto *> initializers;
};
} // namespace

/// Elements of \p type as f32; nothing for other types than are stored so.
static std::optional<std::vector<float>>
toFloats(ArrayRef<char> bytes, Type element, bool isUnsigned) {
  std::vector<float> values;
  auto read = [&](auto sample) {
    using T = decltype(sample);
    values.resize(bytes.size() / sizeof(T));
    for (size_t i = 0; i < values.size(); ++i) {
      T one;
      std::memcpy(&one, bytes.data() + i * sizeof(T), sizeof(T));
      values[i] = static_cast<float>(one);
    }
  };
  if (element.isF32())
    read(float());
  else if (element.isInteger(32))
    read(int32_t());
  else if (element.isInteger(8) && isUnsigned)
    read(uint8_t());
  else if (element.isInteger(8))
    read(int8_t());
  else
    return std::nullopt;
  return values;
}

llvm::Expected<HostTensor> Evaluator::read(BlockArgument argument) {
  auto name = graph.getArgAttrOfType<StringAttr>(argument.getArgNumber(),
                                                 graph::kWeightAttr);
  auto found = name ? initializers.find(name.getValue()) : initializers.end();
  if (found == initializers.end())
    return makeError("a weight of a linear is no initializer");
  auto bytes = file->getData(*found->second);
  if (!bytes)
    return bytes.takeError();
  auto type = cast<RankedTensorType>(argument.getType());
  auto values =
      toFloats(*bytes, type.getElementType(),
               found->second->data_type() == ::onnx::TensorProto::UINT8);
  if (!values)
    return makeError("a weight of a linear has unknown elements");
  return HostTensor{SmallVector<int64_t>(type.getShape()), std::move(*values)};
}

llvm::Expected<HostTensor> Evaluator::transpose(linalg::TransposeOp op) {
  auto from = evaluate(op.getInput());
  if (!from)
    return from.takeError();
  ArrayRef<int64_t> order = op.getPermutation();
  size_t rank = order.size();
  HostTensor to;
  SmallVector<int64_t> strides(rank, 1), steps(rank), at(rank, 0);
  for (size_t i = rank; i-- > 1;)
    strides[i - 1] = strides[i] * from->shape[i];
  for (size_t i = 0; i < rank; ++i) {
    to.shape.push_back(from->shape[order[i]]);
    steps[i] = strides[order[i]];
  }
  to.values.resize(from->values.size());
  int64_t offset = 0;
  for (float &value : to.values) {
    value = from->values[offset];
    for (size_t d = rank; d-- > 0;) {
      offset += steps[d];
      if (++at[d] < to.shape[d])
        break;
      offset -= steps[d] * to.shape[d];
      at[d] = 0;
    }
  }
  return to;
}

llvm::Expected<HostTensor> Evaluator::dequantize(graph::DequantizeOp op) {
  auto codes = evaluate(op.getInput());
  if (!codes)
    return codes.takeError();
  auto scales = evaluate(op.getScale());
  if (!scales)
    return scales.takeError();
  std::vector<float> zeros(scales->values.size(), 0);
  if (op.getZeroPoint()) {
    auto points = evaluate(op.getZeroPoint());
    if (!points)
      return points.takeError();
    zeros = std::move(points->values);
  }
  int64_t inner = 1, axis = op.getAxis();
  for (size_t d = axis + 1; d < codes->shape.size(); ++d)
    inner *= codes->shape[d];
  size_t count = scales->values.size();
  for (size_t i = 0; i < codes->values.size(); ++i) {
    size_t channel = count == 1 ? 0 : i / inner % count;
    codes->values[i] =
        (codes->values[i] - zeros[channel]) * scales->values[channel];
  }
  return codes;
}

llvm::Expected<HostTensor> Evaluator::shift(graph::ShiftedBiasOp op) {
  auto weight = evaluate(op.getWeight());
  if (!weight)
    return weight.takeError();
  int64_t rows = weight->shape[0], columns = weight->shape[1];
  HostTensor result{{rows}, std::vector<float>(rows, 0)};
  if (op.getBias()) {
    auto bias = evaluate(op.getBias());
    if (!bias)
      return bias.takeError();
    result.values = std::move(bias->values);
  }
  double shift = op.getShift().convertToFloat();
  for (int64_t row = 0; row < rows; ++row) {
    double sum = 0;
    for (int64_t column = 0; column < columns; ++column)
      sum += weight->values[row * columns + column];
    result.values[row] = static_cast<float>(result.values[row] - shift * sum);
  }
  return result;
}

/// What normalization multiplies each channel by.
llvm::Expected<std::vector<double>>
Evaluator::getFactors(Value scale, Value variance, const APFloat &epsilon) {
  auto scales = evaluate(scale), variances = evaluate(variance);
  if (!scales || !variances)
    return llvm::joinErrors(scales.takeError(), variances.takeError());
  std::vector<double> factors;
  for (auto [s, v] : llvm::zip_equal(scales->values, variances->values))
    factors.push_back(
        static_cast<double>(s) /
        std::sqrt(static_cast<double>(v) + epsilon.convertToFloat()));
  return factors;
}

llvm::Expected<HostTensor> Evaluator::normalize(graph::NormalizedWeightOp op) {
  auto factors = getFactors(op.getScale(), op.getVariance(), op.getEpsilon());
  if (!factors)
    return factors.takeError();
  auto weight = evaluate(op.getWeight());
  if (!weight)
    return weight.takeError();
  size_t inner = weight->values.size() / factors->size();
  for (size_t i = 0; i < weight->values.size(); ++i)
    weight->values[i] =
        static_cast<float>(weight->values[i] * (*factors)[i / inner]);
  return weight;
}

llvm::Expected<HostTensor> Evaluator::normalize(graph::NormalizedBiasOp op) {
  auto factors = getFactors(op.getScale(), op.getVariance(), op.getEpsilon());
  if (!factors)
    return factors.takeError();
  auto means = evaluate(op.getMean()), shifts = evaluate(op.getShift());
  if (!means || !shifts)
    return llvm::joinErrors(means.takeError(), shifts.takeError());
  std::vector<float> biases(factors->size(), 0);
  if (op.getBias()) {
    auto bias = evaluate(op.getBias());
    if (!bias)
      return bias.takeError();
    biases = std::move(bias->values);
  }
  for (size_t i = 0; i < factors->size(); ++i)
    means->values[i] = static_cast<float>(
        (static_cast<double>(biases[i]) - means->values[i]) * (*factors)[i] +
        shifts->values[i]);
  return means;
}

llvm::Expected<HostTensor> Evaluator::evaluate(Value value) {
  if (auto argument = dyn_cast<BlockArgument>(value))
    return read(argument);
  Operation *op = value.getDefiningOp();
  if (auto transposed = dyn_cast<linalg::TransposeOp>(op))
    return transpose(transposed);
  if (auto codes = dyn_cast<graph::DequantizeOp>(op))
    return dequantize(codes);
  if (auto shifted = dyn_cast<graph::ShiftedBiasOp>(op))
    return shift(shifted);
  if (auto normalized = dyn_cast<graph::NormalizedWeightOp>(op))
    return normalize(normalized);
  if (auto normalized = dyn_cast<graph::NormalizedBiasOp>(op))
    return normalize(normalized);
  if (isa<tensor::CollapseShapeOp, tensor::ExpandShapeOp>(op)) {
    auto from = evaluate(op->getOperand(0));
    if (from)
      from->shape.assign(
          cast<RankedTensorType>(value.getType()).getShape().begin(),
          cast<RankedTensorType>(value.getType()).getShape().end());
    return from;
  }
  DenseElementsAttr elements;
  if (!matchPattern(value, m_Constant(&elements)))
    return makeError("a weight of a linear is made by " +
                     op->getName().getStringRef());
  HostTensor tensor{SmallVector<int64_t>(elements.getType().getShape()), {}};
  bool isUnsigned = llvm::any_of(op->getUsers(), [](Operation *user) {
    auto codes = dyn_cast<graph::DequantizeOp>(user);
    return codes && codes.getUnsignedCodes();
  });
  Type element = elements.getElementType();
  if (element.isF32())
    for (float number : elements.getValues<float>())
      tensor.values.push_back(number);
  else
    for (const APInt &code : elements.getValues<APInt>())
      tensor.values.push_back(isUnsigned
                                  ? static_cast<float>(code.getZExtValue())
                                  : static_cast<float>(code.getSExtValue()));
  return tensor;
}

//===----------------------------------------------------------------------===//
// Extracting
//===----------------------------------------------------------------------===//

namespace {
/// A safetensors file of f32 tensors, written at once.
class TensorWriter {
public:
  /// Adds \p tensor under a name like \p wanted that none has yet.
  std::string add(StringRef wanted, HostTensor tensor) {
    std::string name = wanted.str();
    for (int64_t same = 1; !names.insert(name).second; ++same)
      name = (wanted + "." + Twine(same)).str();
    tensors.emplace_back(name, std::move(tensor));
    return name;
  }
  bool empty() const { return tensors.empty(); }
  llvm::Error write(StringRef path) const;

private:
  llvm::StringSet<> names;
  std::vector<std::pair<std::string, HostTensor>> tensors;
};
} // namespace

llvm::Error TensorWriter::write(StringRef path) const {
  std::vector<FloatTensor> written;
  for (const auto &[name, tensor] : tensors)
    written.push_back({name, tensor.shape, tensor.values});
  return writeSafetensors(path, written);
}

/// The name of the node that \p op came from.
static std::string getNodeName(Operation *op) {
  auto name = dyn_cast<NameLoc>(op->getLoc());
  return name ? name.getName().str() : op->getName().stripDialect().str();
}

/// Puts a parameter in the place of \p operand.
static llvm::Error replaceOperand(OpOperand &operand, StringRef part,
                                  Evaluator &evaluator, TensorWriter &writer) {
  auto tensor = evaluator.evaluate(operand.get());
  if (!tensor)
    return tensor.takeError();
  Operation *op = operand.getOwner();
  std::string name =
      writer.add(getNodeName(op) + "." + part.str(), std::move(*tensor));
  OpBuilder b(op->getParentOfType<ModuleOp>().getBodyRegion());
  auto type = cast<RankedTensorType>(operand.get().getType());
  ParameterOp::create(b, op->getLoc(), name, type, kParametersFile, name);
  b.setInsertionPoint(op);
  operand.set(LoadOp::create(b, op->getLoc(), type, name));
  return llvm::Error::success();
}

GraphParameters::GraphParameters() : plan(std::make_unique<Plan>()) {}

GraphParameters::~GraphParameters() {
  if (!path.empty())
    (void)fs::remove(path);
}

llvm::Expected<std::unique_ptr<GraphParameters>>
GraphParameters::extract(ModuleOp module, OnnxFile &file) {
  std::unique_ptr<GraphParameters> parameters(new GraphParameters());
  auto graph = module.lookupSymbol<func::FuncOp>(graph::kGraphName);
  if (!graph)
    return makeError("module has no function @graph");
  Evaluator evaluator(graph, file);
  TensorWriter writer;
  SmallVector<std::pair<OpOperand *, StringRef>> operands;
  auto add = [&](MutableOperandRange range, StringRef part) {
    for (OpOperand &operand : range)
      operands.push_back({&operand, part});
  };
  graph.walk([&](Operation *op) {
    if (auto linear = dyn_cast<LinearOp>(op)) {
      // Kept codes have a weight of their own.
      if (!linear.getWeight().getDefiningOp<DequantizeOp>())
        add(linear.getWeightMutable(), "weight");
      add(linear.getBiasMutable(), "bias");
    } else if (auto linear = dyn_cast<QuantizedLinearOp>(op)) {
      add(linear.getBiasMutable(), "bias");
    } else if (auto codes = dyn_cast<KeepCodesOp>(op)) {
      add(codes.getWeightMutable(), "weight");
      add(codes.getKnownScalesMutable(), "scales");
      add(codes.getKnownZeroPointsMutable(), "zero_points");
    }
  });
  for (auto [operand, part] : operands)
    if (llvm::Error error = replaceOperand(*operand, part, evaluator, writer))
      return std::move(error);
  if (writer.empty())
    return parameters;
  SmallString<128> path;
  if (std::error_code code =
          fs::createTemporaryFile("qlm-parameters", "safetensors", path))
    return makeError("cannot make a temporary file: " + code.message());
  parameters->path = path.str().str();
  if (llvm::Error error = writer.write(path))
    return std::move(error);
  parameters->plan->archive.setPath(kParametersFile, path);
  return parameters;
}

//===----------------------------------------------------------------------===//
// Binding
//===----------------------------------------------------------------------===//

/// NumPy's name of a packed tensor's elements.
static StringRef getTypeName(Type element) {
  if (element.isF16())
    return "float16";
  if (element.isBF16())
    return "bfloat16";
  return element.isF32() ? "float32" : "int8";
}

/// The key of \p value in the package.
static std::string getKey(Value value, Operation *user) {
  if (auto pack = value.getDefiningOp<PackOp>())
    return pack.getName().str();
  return getNodeName(user) + ".input_scale";
}

/// Erases programs that nothing uses any more, and weights that only they did.
static void eraseUnused(ModuleOp module, func::FuncOp graph) {
  for (Operation &op : llvm::make_early_inc_range(llvm::reverse(graph.front())))
    if (isOpTriviallyDead(&op))
      op.erase();
  for (auto parameter :
       llvm::make_early_inc_range(module.getOps<ParameterOp>()))
    parameter.erase();
  BitVector unused(graph.getNumArguments());
  for (BlockArgument argument : graph.getArguments())
    if (argument.use_empty() &&
        graph.getArgAttr(argument.getArgNumber(), graph::kWeightAttr))
      unused.set(argument.getArgNumber());
  (void)graph.eraseArguments(unused);
}

llvm::Error GraphParameters::bind(ModuleOp module) {
  auto graph = module.lookupSymbol<func::FuncOp>(graph::kGraphName);
  if (auto statistics = module->getAttrOfType<StringAttr>(kStatisticsAttr))
    plan->archive.setPath(kStatisticsFile, statistics.getValue());
  IRMapping copies;
  plan->module = cast<ModuleOp>(module->clone(copies));
  llvm::StringSet<> keys;
  DenseMap<Value, Value> arguments;
  SmallVector<std::pair<OpOperand *, std::string>> uses;
  graph.walk([&](Operation *op) {
    if (isParameterOp(op))
      return;
    for (OpOperand &operand : op->getOpOperands())
      if (isa_and_nonnull<PackOp, StaticScaleOp>(operand.get().getDefiningOp()))
        uses.push_back({&operand, getKey(operand.get(), op)});
  });
  Builder b(module.getContext());
  for (auto &[operand, key] : uses) {
    Value &argument = arguments[operand->get()];
    if (!argument) {
      if (!keys.insert(key).second)
        return makeError("two weights have the key '" + key + "'");
      if (llvm::Error error = plan->weights.add(copies.lookup(operand->get()),
                                                key, plan->context))
        return error;
      auto type = cast<RankedTensorType>(operand->get().getType());
      auto attributes = b.getDictionaryAttr(
          {b.getNamedAttr(graph::kWeightAttr, b.getStringAttr(key)),
           b.getNamedAttr(graph::kTypeAttr, b.getStringAttr(getTypeName(
                                                type.getElementType())))});
      unsigned index = graph.getNumArguments();
      if (failed(graph.insertArgument(index, type, attributes,
                                      operand->get().getLoc())))
        return makeError("cannot add an argument to @graph");
      argument = graph.getArgument(index);
    }
    operand->set(argument);
  }
  eraseUnused(module, graph);
  return llvm::Error::success();
}

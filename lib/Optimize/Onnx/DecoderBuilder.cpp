//===- DecoderBuilder.cpp - Writes a graph's nodes as a model -------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "DecoderBuilder.h"

#include "RotaryTables.h"
#include "qlm/Archive/PackedCodes.h"
#include "qlm/Dialect/MethodOps.h"

#include "llvm/ADT/StringSwitch.h"

#include <cmath>

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::onnxir;

static std::string describe(NodeOp node) {
  auto name = dyn_cast<NameLoc>(node.getLoc());
  return ("node '" + (name ? name.getName().getValue() : StringRef()) + "' (" +
          node.getKind() + ")")
      .str();
}

LogicalResult DecoderBuilder::fail(NodeOp node, const Twine &message) {
  return mlir::emitError(node.getLoc()) << describe(node) << ": " << message;
}

ArrayRef<int64_t> DecoderBuilder::getShape(Value value) {
  const Known *known = evaluator.get(value);
  return known ? ArrayRef<int64_t>(known->shape) : ArrayRef<int64_t>();
}

RankedTensorType DecoderBuilder::getMatrixType(int64_t features) {
  return RankedTensorType::get({ShapedType::kDynamic, features},
                               b.getF32Type());
}

DecoderBuilder::Raised *DecoderBuilder::get(Value value) {
  auto found = done.find(skipNoise(value));
  return found == done.end() ? nullptr : &found->second;
}

DictionaryAttr DecoderBuilder::getConfig() {
  auto config = module->getAttrOfType<DictionaryAttr>(kConfigAttr);
  return config ? config : b.getDictionaryAttr({});
}

//===----------------------------------------------------------------------===//
// Weights
//===----------------------------------------------------------------------===//

/// The letters of an element type in an archive's key.
static StringRef getArchiveName(Type element) {
  return element.isF32() ? "F32" : element.isF16() ? "F16" : "BF16";
}

Value DecoderBuilder::loadWeight(Value value) {
  Operation *op = value ? skipNoise(value).getDefiningOp() : nullptr;
  StringAttr name, file;
  IntegerAttr offset;
  if (auto initializer = dyn_cast_or_null<InitializerOp>(op)) {
    name = initializer.getNameAttr();
    file = initializer.getFileAttr();
    offset = initializer.getOffsetAttr();
  } else if (auto constant = dyn_cast_or_null<ConstantOp>(op)) {
    name = constant.getNameAttr();
    file = constant.getFileAttr();
    offset = constant.getOffsetAttr();
  }
  if (!name || !file)
    return {};
  auto type = cast<RankedTensorType>(op->getResult(0).getType());
  Type element = type.getElementType();
  if (!element.isF32() && !element.isF16() && !element.isBF16())
    return {};
  ParameterOp &parameter = parameters[op];
  if (!parameter) {
    std::string key;
    llvm::raw_string_ostream stream(key);
    stream << getArchiveName(element) << "[";
    llvm::interleaveComma(type.getShape(), stream);
    stream << "] at " << offset.getInt();
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPoint(forward);
    // A record of codes says itself how its values are found.
    if (auto packed = op->getAttrOfType<StringAttr>(kPackedKeyAttr))
      key = packed.getValue().str();
    parameter = ParameterOp::create(b, forward.getLoc(), name.getValue(), type,
                                    file.getValue(), key);
    if (Attribute scheme = op->getAttr(kKeptSchemeAttr))
      parameter->setAttr(kKeptSchemeAttr, scheme);
  }
  return LoadOp::create(b, op->getLoc(), type, parameter.getSymName());
}

//===----------------------------------------------------------------------===//
// Operators
//===----------------------------------------------------------------------===//

/// The input of the graph that \p value is, converted or not; null else.
static BlockArgument getInput(Value value) {
  while (auto node = value ? value.getDefiningOp<NodeOp>() : NodeOp()) {
    if (!node.is("Cast") && !node.is("Identity"))
      return {};
    value = node.getInputs()[0];
  }
  return dyn_cast_or_null<BlockArgument>(value);
}

FailureOr<DecoderBuilder::Raised>
DecoderBuilder::translateEmbedding(NodeOp node) {
  BlockArgument input = getInput(node.getInputs()[1]);
  auto name = input ? graph.getArgAttrOfType<StringAttr>(input.getArgNumber(),
                                                         kNameAttr)
                    : StringAttr();
  if (!name || getRole(name) != InputRole::Tokens || node.integer("axis", 0))
    return fail(node, "only rows of a table may be gathered, by 'input_ids'");
  Value table = loadWeight(node.getInputs()[0]);
  auto type =
      table ? cast<RankedTensorType>(table.getType()) : RankedTensorType();
  if (!type || type.getRank() != 2)
    return fail(node, "the table must be a matrix among the weights");
  return Raised{EmbeddingOp::create(b, node.getLoc(),
                                    getMatrixType(type.getDimSize(1)),
                                    forward.getArgument(0), table)};
}

FailureOr<DecoderBuilder::Raised> DecoderBuilder::translateNorm(NodeOp node) {
  Raised *input = get(node.getInputs()[0]);
  Value weight = loadWeight(node.input(1));
  if (input->form != Form::Matrix || !weight)
    return fail(node, "must normalize features, with a vector of weights");
  int64_t axis = node.integer("axis", -1);
  auto rank = static_cast<int64_t>(getShape(node.getInputs()[0]).size());
  if (axis != -1 && axis != rank - 1)
    return fail(node, "must normalize the last axis, got " + Twine(axis));
  auto epsilon = static_cast<float>(node.number("epsilon", 1e-5));
  return Raised{RmsNormOp::create(b, node.getLoc(), input->value.getType(),
                                  input->value, weight,
                                  b.getF32FloatAttr(epsilon))};
}

FailureOr<DecoderBuilder::Raised>
DecoderBuilder::translateProduct(NodeOp node) {
  Raised *input = get(node.getInputs()[0]);
  if (input->form != Form::Matrix)
    return fail(node, "a product must be of features");
  Value side = skipNoise(node.getInputs()[1]);
  bool transposed = node.is("Gemm") && node.integer("transB", 0);
  if (NodeOp transpose = find(side, "Transpose")) {
    side = transpose.getInputs()[0];
    transposed = !transposed;
  }
  if (node.is("Gemm") &&
      (node.integer("transA", 0) || node.number("alpha", 1) != 1 ||
       node.number("beta", 1) != 1))
    return fail(node, "alpha and beta must be 1, and the input as it is");
  Value weight = loadWeight(side);
  auto type =
      weight ? cast<RankedTensorType>(weight.getType()) : RankedTensorType();
  if (!type || type.getRank() != 2)
    return fail(node, "the right side must be a matrix among the weights");
  if (!transposed) {
    type = RankedTensorType::get({type.getDimSize(1), type.getDimSize(0)},
                                 type.getElementType());
    weight = TransposeOp::create(b, node.getLoc(), type, weight);
  }
  Value bias =
      node.is("Gemm") && node.input(2) ? loadWeight(node.input(2)) : Value();
  if (node.input(2) && !bias)
    return fail(node, "the bias must be a vector among the weights");
  auto features = cast<RankedTensorType>(input->value.getType()).getDimSize(1);
  if (features != type.getDimSize(1))
    return fail(node, "the weight takes " + Twine(type.getDimSize(1)) +
                          " features, the input has " + Twine(features));
  return Raised{LinearOp::create(b, node.getLoc(),
                                 getMatrixType(type.getDimSize(0)),
                                 input->value, weight, bias, Value())};
}

FailureOr<DecoderBuilder::Raised> DecoderBuilder::translateSum(NodeOp node) {
  for (unsigned i = 0; i < 2; ++i) {
    if (!node.is("Add") || !isWeightVector(node.getInputs()[i]))
      continue;
    Raised *input = get(node.getInputs()[1 - i]);
    auto linear = input->value.getDefiningOp<LinearOp>();
    Value bias = loadWeight(node.getInputs()[i]);
    if (!linear || linear.getBias() || !bias || input->form != Form::Matrix)
      return fail(node, "a vector may only be added to a product");
    return Raised{LinearOp::create(b, linear.getLoc(), linear.getType(),
                                   linear.getInput(), linear.getWeight(), bias,
                                   Value())};
  }
  Raised *x = get(node.getInputs()[0]), *y = get(node.getInputs()[1]);
  if (x->form != Form::Matrix || y->form != Form::Matrix ||
      x->value.getType() != y->value.getType())
    return fail(node, "both sides must have the same features");
  Type type = x->value.getType();
  if (node.is("Add"))
    return Raised{AddOp::create(b, node.getLoc(), type, x->value, y->value)};
  return Raised{MulOp::create(b, node.getLoc(), type, x->value, y->value)};
}

/// Reshape, Transpose and the like: other forms of the same matrix.
FailureOr<DecoderBuilder::Raised> DecoderBuilder::translateShape(NodeOp node,
                                                                 Value result) {
  Raised raised = *get(node.getInputs()[0]);
  ArrayRef<int64_t> to = getShape(result), from = getShape(node.getInputs()[0]);
  int64_t tokens = evaluator.getProbe().tokens;
  auto features = cast<RankedTensorType>(raised.value.getType()).getDimSize(1);
  if (node.is("Transpose")) {
    auto order = node->getAttrOfType<DenseI64ArrayAttr>("perm");
    bool swaps = order && order.asArrayRef() == ArrayRef<int64_t>{0, 2, 1, 3};
    if (!swaps || raised.form == Form::Matrix)
      return fail(node, "only heads and tokens may be swapped");
    raised.form = raised.form == Form::Split ? Form::Heads : Form::Split;
    return raised;
  }
  if (to == from)
    return raised;
  // Of rank 4, one head looks like features too.
  bool isMatrix = !to.empty() && to.size() < 4 && to.back() == features &&
                  ShapedType::getNumElements(to) == tokens * features;
  if (isMatrix && raised.form != Form::Heads) {
    raised.form = Form::Matrix;
    return raised;
  }
  bool isSplit = to.size() == 4 && to[0] == 1 && to[1] == tokens &&
                 to[2] * to[3] == features;
  if (isSplit && raised.form == Form::Matrix) {
    raised.form = Form::Split;
    raised.heads = to[2];
    return raised;
  }
  std::string text;
  llvm::raw_string_ostream stream(text);
  llvm::interleaveComma(to, stream);
  return fail(node, "features may only be split into heads and joined again, "
                    "got the shape [" +
                        text + "] for " + Twine(tokens) + " tokens");
}

FailureOr<DecoderBuilder::Raised> DecoderBuilder::translateSplit(NodeOp node,
                                                                 Value result) {
  Raised raised = *get(node.getInputs()[0]);
  auto rank = static_cast<int64_t>(getShape(node.getInputs()[0]).size());
  int64_t axis = node.integer("axis", 0);
  if (raised.form != Form::Matrix || (axis != -1 && axis != rank - 1))
    return fail(node, "only features may be split");
  SplitOp &split = splits[node];
  if (!split) {
    SmallVector<Type> types;
    for (Value part : node.getResults()) {
      if (getShape(part).empty())
        return fail(node, "the sizes of its parts must be known");
      types.push_back(getMatrixType(getShape(part).back()));
    }
    split = SplitOp::create(b, node.getLoc(), types, raised.value);
  }
  raised.value = split.getResult(cast<OpResult>(result).getResultNumber());
  return raised;
}

FailureOr<Value> DecoderBuilder::getFrequencies(NodeOp rotary) {
  // Layers share their angles or tables, if not the nodes made of them.
  NodeOp cos = rotary.input(1) ? find(rotary.input(1), "Cos") : NodeOp();
  Value source = cos ? cos.getInputs()[0] : rotary.getInputs()[1];
  Value &known =
      frequencies[{skipNoise(source),
                   rotary.input(3) ? skipNoise(rotary.input(3)) : Value()}];
  if (known)
    return known;
  Frequencies found = findFrequencies(graph, rotary);
  if (!found.problem.empty())
    return fail(rotary, found.problem);
  auto type = RankedTensorType::get({static_cast<int64_t>(found.values.size())},
                                    b.getF32Type());
  auto elements = DenseElementsAttr::get(type, ArrayRef<float>(found.values));
  for (auto constant : forward.getOps<arith::ConstantOp>())
    if (constant.getValue() == elements)
      return known = constant;
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(&forward.front());
  return known = arith::ConstantOp::create(b, rotary.getLoc(), elements);
}

FailureOr<DecoderBuilder::Raised> DecoderBuilder::translateRotary(NodeOp node) {
  Raised raised = *get(node.getInputs()[0]);
  auto features = cast<RankedTensorType>(raised.value.getType()).getDimSize(1);
  int64_t heads =
      raised.form == Form::Heads ? raised.heads : node.integer("num_heads", 0);
  FailureOr<Value> table = getFrequencies(node);
  if (failed(table))
    return failure();
  int64_t headDim = 2 * cast<RankedTensorType>(table->getType()).getDimSize(0);
  if (node.integer("interleaved", 0))
    return fail(node, "interleaved rotary embeddings are not handled");
  if (raised.form == Form::Split ||
      (heads > 0 && heads * headDim != features) || features % headDim != 0)
    return fail(node, "tables for " + Twine(headDim) +
                          " features don't turn whole heads of " +
                          Twine(features) + " features");
  raised.value = RopeOp::create(b, node.getLoc(), raised.value.getType(),
                                raised.value, positions, *table);
  return raised;
}

FailureOr<DecoderBuilder::Raised>
DecoderBuilder::translateAttention(NodeOp node) {
  Raised query = *get(node.getInputs()[0]), key = *get(node.getInputs()[1]),
         value = *get(node.getInputs()[2]);
  if (query.form != key.form || key.form != value.form ||
      query.form == Form::Split)
    return fail(node, "queries, keys and values must have one form");
  bool isMatrix = query.form == Form::Matrix;
  int64_t heads = isMatrix ? node.integer("q_num_heads", 0) : query.heads;
  int64_t kvHeads = isMatrix ? node.integer("kv_num_heads", 0) : key.heads;
  auto featuresOf = [](const Raised &x) {
    return cast<RankedTensorType>(x.value.getType()).getDimSize(1);
  };
  if (heads <= 0 || kvHeads <= 0 || heads % kvHeads ||
      featuresOf(query) % heads ||
      featuresOf(query) / heads * kvHeads != featuresOf(key) ||
      featuresOf(key) != featuresOf(value))
    return fail(node,
                "heads of queries, keys and values don't fit: " + Twine(heads) +
                    " of " + Twine(featuresOf(query)) + " features, " +
                    Twine(kvHeads) + " of " + Twine(featuresOf(key)) + " and " +
                    Twine(featuresOf(value)));
  if (auto difference = node->getAttrOfType<StringAttr>("qlm.mask"))
    return fail(node, "the mask must hide later tokens, and no others: " +
                          difference.getValue());
  if (!node.integer("is_causal", 0))
    return fail(node, "attention must be causal");
  if (node.number("softcap", 0) != 0)
    return fail(node, "capped scores are not handled");
  if (hasCache(graph)) {
    for (unsigned i : {4, 5}) {
      BlockArgument past = getInput(node.input(i));
      auto name = past ? graph.getArgAttrOfType<StringAttr>(past.getArgNumber(),
                                                            kNameAttr)
                       : StringAttr();
      if (!name || getRole(name) != InputRole::Past)
        return fail(node, "the graph has a cache that it doesn't use");
      if (!caches.insert(past).second)
        return fail(node, "the cache '" + name.getValue() + "' is used twice");
    }
  }
  int64_t headDim = featuresOf(query) / heads;
  auto given = node->getAttrOfType<FloatAttr>("scale");
  double scale = given && given.getValueAsDouble() != 0
                     ? given.getValueAsDouble()
                     : 1.0 / std::sqrt(static_cast<double>(headDim));
  query.value = AttentionOp::create(
      b, node.getLoc(), query.value.getType(), query.value, key.value,
      value.value, b.getI64IntegerAttr(heads), b.getI64IntegerAttr(kvHeads),
      b.getF32FloatAttr(static_cast<float>(scale)), b.getUnitAttr(),
      /*window=*/IntegerAttr());
  return query;
}

//===----------------------------------------------------------------------===//
// The graph
//===----------------------------------------------------------------------===//

SmallVector<Value> DecoderBuilder::getOperands(NodeOp node) {
  auto inputs = node.getInputs();
  auto first = [&](unsigned count) {
    SmallVector<Value> values;
    for (Value input : inputs.take_front(count))
      values.push_back(skipNoise(input));
    return values;
  };
  StringRef kind = node.getKind();
  if (kind == "Attention")
    return first(3);
  if (kind == "Add" || kind == "Mul") {
    SmallVector<Value> values;
    for (Value input : inputs)
      if (!isWeightVector(input))
        values.push_back(skipNoise(input));
    return values;
  }
  return llvm::StringSwitch<SmallVector<Value>>(kind)
      .Cases({"RMSNormalization", "MatMul", "Gemm", "Swish", "Reshape"},
             first(1))
      .Cases({"Transpose", "Unsqueeze", "Squeeze", "Flatten"}, first(1))
      .Case("Split", first(1))
      .Case("RotaryEmbedding", first(1))
      .Default({});
}

FailureOr<DecoderBuilder::Raised> DecoderBuilder::translateNode(NodeOp node,
                                                                Value result) {
  static const llvm::StringMap<unsigned> inputs = {{"Gather", 2},
                                                   {"RMSNormalization", 2},
                                                   {"MatMul", 2},
                                                   {"Gemm", 2},
                                                   {"Add", 2},
                                                   {"Mul", 2},
                                                   {"Swish", 1},
                                                   {"Reshape", 2},
                                                   {"Transpose", 1},
                                                   {"Unsqueeze", 1},
                                                   {"Squeeze", 1},
                                                   {"Flatten", 1},
                                                   {"RotaryEmbedding", 3},
                                                   {"Attention", 3},
                                                   {"Split", 1}};
  StringRef kind = node.getKind();
  auto known = inputs.find(kind);
  if (known == inputs.end())
    return fail(node, "a decoder's layers have no such operator; they are "
                      "made of embedding, RMS normalization, products with "
                      "weights, rotary embedding, causal attention, SiLU, sums "
                      "and products");
  if (node.getInputs().size() < known->second)
    return fail(node, "inputs are missing");
  if (kind == "Gather")
    return translateEmbedding(node);
  if (kind == "RMSNormalization")
    return translateNorm(node);
  if (kind == "MatMul" || kind == "Gemm")
    return translateProduct(node);
  if (kind == "Add" || kind == "Mul")
    return translateSum(node);
  if (kind == "RotaryEmbedding")
    return translateRotary(node);
  if (kind == "Attention")
    return translateAttention(node);
  if (kind == "Split")
    return translateSplit(node, result);
  if (kind == "Swish") {
    Raised raised = *get(node.getInputs()[0]);
    if (node.number("alpha", 1) != 1)
      return fail(node, "alpha must be 1");
    raised.value =
        SiluOp::create(b, node.getLoc(), raised.value.getType(), raised.value);
    return raised;
  }
  return translateShape(node, result);
}

LogicalResult DecoderBuilder::translate(Value value) {
  auto node = value.getDefiningOp<NodeOp>();
  if (!node) {
    auto argument = dyn_cast<BlockArgument>(value);
    auto name = argument ? graph.getArgAttrOfType<StringAttr>(
                               argument.getArgNumber(), kNameAttr)
                         : StringAttr();
    return graph.emitError("a decoder's features must come from 'input_ids', ")
           << (name ? ("got the input '" + name.getValue() + "'").str()
                    : std::string("got a constant"));
  }
  FailureOr<Raised> raised = translateNode(node, value);
  if (failed(raised))
    return failure();
  done[value] = *raised;
  return success();
}

/// Depth first without recursion: operands before what uses them.
LogicalResult DecoderBuilder::translateAll(Value last) {
  SmallVector<Value> pending = {last};
  while (!pending.empty()) {
    Value next = pending.back();
    if (done.contains(next)) {
      pending.pop_back();
      continue;
    }
    size_t before = pending.size();
    if (auto node = next.getDefiningOp<NodeOp>())
      for (Value operand : llvm::reverse(getOperands(node)))
        if (!done.contains(operand))
          pending.push_back(operand);
    if (pending.size() != before)
      continue;
    pending.pop_back();
    if (failed(translate(next)))
      return failure();
  }
  return success();
}

FailureOr<Value> DecoderBuilder::findLogits() {
  auto results = graph.front().getTerminator()->getOperands();
  for (unsigned i = 0; i < results.size(); ++i)
    if (auto name = graph.getResultAttrOfType<StringAttr>(i, kNameAttr);
        name && name.getValue() == "logits")
      return skipNoise(results[i]);
  // Exporters that don't name it put it first.
  if (!results.empty())
    return skipNoise(results[0]);
  return graph.emitError("the graph has no output 'logits'");
}

LogicalResult DecoderBuilder::build() {
  MLIRContext *context = module.getContext();
  auto indices = RankedTensorType::get({ShapedType::kDynamic},
                                       IntegerType::get(context, 32));
  b.setInsertionPoint(graph);
  forward = func::FuncOp::create(b, graph.getLoc(), kForwardName,
                                 b.getFunctionType({indices, indices}, {}));
  b.setInsertionPointToStart(forward.addEntryBlock());
  positions = forward.getArgument(1);
  FailureOr<Value> logits = findLogits();
  if (failed(logits) || failed(translateAll(*logits)))
    return failure();
  Raised &last = done[*logits];
  if (last.form != Form::Matrix || !last.value.getDefiningOp<LinearOp>())
    return graph.emitError("the logits must be a product with a weight");
  func::ReturnOp::create(b, forward.getLoc(), last.value);
  forward.setFunctionType(
      b.getFunctionType({indices, indices}, {last.value.getType()}));
  return success();
}

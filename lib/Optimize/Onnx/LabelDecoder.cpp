//===- LabelDecoder.cpp - Names a raised decoder's layers -----------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "DecoderBuilder.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::onnxir;

namespace {
/// One walk along the residual stream. Each step names operations; the first
/// that isn't what a LLaMA has there fails.
class Labeler {
public:
  Labeler(ModuleOp module, func::FuncOp forward)
      : module(module), forward(forward) {}

  LogicalResult run(DictionaryAttr config);

private:
  LogicalResult labelLayer(AttentionOp attention, int64_t layer);
  /// The products that queries, keys and values are; gives their input.
  FailureOr<Value> labelProjections(Value query, Value key, Value value);
  LogicalResult labelMlp();
  LogicalResult describe(DictionaryAttr config, int64_t layers);

  /// Names \p op and what it loads.
  void label(Operation *op, const Twine &part);
  LogicalResult fail(Operation *op, const Twine &expected);
  template <typename Op> FailureOr<Op> expect(Value value, const Twine &part);
  /// The one user of \p value that is an \p Op.
  template <typename Op>
  FailureOr<Op> expectUser(Value value, const Twine &part);

  ModuleOp module;
  func::FuncOp forward;
  std::string prefix;
  Value state; ///< of the residual stream
  AttentionOp first;
  int64_t intermediate = 0;
};
} // namespace

void Labeler::label(Operation *op, const Twine &part) {
  auto name = NameLoc::get(StringAttr::get(module.getContext(), prefix + part));
  op->setLoc(name);
  for (Value operand : op->getOperands()) {
    Operation *definition = operand.getDefiningOp();
    if (!definition || !isParameterOp(definition))
      continue;
    definition->setLoc(name);
    for (Value inner : definition->getOperands())
      if (Operation *load = inner.getDefiningOp())
        load->setLoc(name);
  }
}

LogicalResult Labeler::fail(Operation *op, const Twine &expected) {
  return mlir::emitError(op ? op->getLoc() : forward.getLoc())
         << "the graph is not arranged as a LLaMA: "
         << (prefix.empty() ? "" : prefix.substr(0, prefix.size() - 1) + " ")
         << "needs " << expected.str() << ", got "
         << (op ? op->getName().getStringRef() : StringRef("nothing"));
}

template <typename Op>
FailureOr<Op> Labeler::expect(Value value, const Twine &part) {
  auto op = value.getDefiningOp<Op>();
  if (!op)
    return fail(value.getDefiningOp(), Op::getOperationName() + " as " + part);
  label(op, part);
  return op;
}

template <typename Op>
FailureOr<Op> Labeler::expectUser(Value value, const Twine &part) {
  Op found;
  Operation *other = nullptr;
  for (Operation *user : value.getUsers()) {
    if (auto op = dyn_cast<Op>(user); op && !found)
      found = op;
    else
      other = user;
  }
  if (!found)
    return fail(other, Op::getOperationName() + " as " + part);
  label(found, part);
  return found;
}

FailureOr<Value> Labeler::labelProjections(Value query, Value key,
                                           Value value) {
  if (auto split = query.getDefiningOp<SplitOp>()) {
    auto joined = expect<LinearOp>(split.getInput(), "qkv");
    if (failed(joined))
      return failure();
    label(split, "qkv");
    if (split.getNumResults() != 3 || query != split.getResult(0) ||
        key != split.getResult(1) || value != split.getResult(2))
      return fail(split, "q, k and v as the parts of one product");
    return joined->getInput();
  }
  auto q = expect<LinearOp>(query, "q");
  auto k = failed(q) ? q : expect<LinearOp>(key, "k");
  auto v = failed(k) ? k : expect<LinearOp>(value, "v");
  if (failed(v))
    return failure();
  if (q->getInput() != k->getInput() || q->getInput() != v->getInput())
    return fail(*k, "one input of q, k and v");
  return q->getInput();
}

LogicalResult Labeler::labelLayer(AttentionOp attention, int64_t layer) {
  prefix = ("layers." + Twine(layer) + ".").str();
  label(attention, "attention");
  auto queryRope = expect<RopeOp>(attention.getQuery(), "rope");
  auto keyRope = failed(queryRope) ? FailureOr<RopeOp>(failure())
                                   : expect<RopeOp>(attention.getKey(), "rope");
  if (failed(keyRope))
    return failure();
  if (queryRope->getInverseFrequencies() != keyRope->getInverseFrequencies())
    return fail(*keyRope, "one table of frequencies");
  FailureOr<Value> input = labelProjections(
      queryRope->getInput(), keyRope->getInput(), attention.getValue());
  if (failed(input))
    return failure();
  auto norm = expect<RmsNormOp>(*input, "attention_norm");
  if (failed(norm))
    return failure();
  if (norm->getInput() != state)
    return fail(*norm, "the residual stream in attention_norm");
  auto output = expectUser<LinearOp>(attention.getResult(), "o");
  auto sum = failed(output) ? FailureOr<AddOp>(failure())
                            : expectUser<AddOp>(output->getResult(), "o");
  if (failed(sum))
    return failure();
  if (sum->getLhs() != state && sum->getRhs() != state)
    return fail(*sum, "the residual stream in the sum after attention");
  state = sum->getResult();
  return labelMlp();
}

LogicalResult Labeler::labelMlp() {
  auto norm = expectUser<RmsNormOp>(state, "mlp_norm");
  if (failed(norm))
    return failure();
  SiluOp silu;
  for (Operation *user : norm->getResult().getUsers())
    for (Operation *next : user->getUsers())
      if (auto found = dyn_cast<SiluOp>(next))
        silu = found;
  if (!silu)
    return fail(*norm, "qlm.silu of a product of mlp_norm");
  label(silu, "swiglu");
  auto gate = expect<LinearOp>(silu.getInput(), "gate");
  auto product = failed(gate) ? FailureOr<MulOp>(failure())
                              : expectUser<MulOp>(silu.getResult(), "swiglu");
  if (failed(product))
    return failure();
  Value other = product->getLhs() == silu.getResult() ? product->getRhs()
                                                      : product->getLhs();
  auto up = expect<LinearOp>(other, "up");
  auto down =
      failed(up) ? up : expectUser<LinearOp>(product->getResult(), "down");
  auto sum = failed(down) ? FailureOr<AddOp>(failure())
                          : expectUser<AddOp>(down->getResult(), "down");
  if (failed(sum))
    return failure();
  if (gate->getInput() != norm->getResult() ||
      up->getInput() != norm->getResult())
    return fail(*up, "mlp_norm as the input of gate and up");
  if (sum->getLhs() != state && sum->getRhs() != state)
    return fail(*sum, "the residual stream in the sum after down");
  intermediate = cast<RankedTensorType>(gate->getType()).getDimSize(1);
  state = sum->getResult();
  return success();
}

LogicalResult Labeler::describe(DictionaryAttr config, int64_t layers) {
  Builder b(module.getContext());
  NamedAttrList items;
  auto add = [&](StringRef key, int64_t value) {
    items.set(key, b.getI64IntegerAttr(value));
  };
  auto features = [](Value value) {
    return cast<RankedTensorType>(value.getType()).getDimSize(1);
  };
  int64_t parameters = 0;
  for (auto parameter : module.getOps<ParameterOp>())
    parameters += cast<RankedTensorType>(parameter.getType()).getNumElements();
  items.set("architecture", b.getStringAttr("llama"));
  auto logits = forward.front().getTerminator()->getOperand(0);
  add("vocabulary_size", features(logits));
  add("hidden_size", features(state));
  add("layers", layers);
  add("heads", first.getHeads());
  add("kv_heads", first.getKvHeads());
  add("head_dim", features(first.getQuery()) / first.getHeads());
  add("intermediate_size", intermediate);
  add("parameters", parameters);
  for (NamedAttribute item : config) {
    Attribute given = items.get(item.getName());
    if (given && given != item.getValue())
      return forward.emitError("the graph's ")
             << item.getName().getValue() << " is " << given
             << ", the folder's config.json says " << item.getValue();
    items.set(item.getName(), item.getValue());
  }
  for (StringRef key : {"name", "context_length", "eos_token_ids"})
    if (!items.get(key))
      return forward.emitError("the module's qlm.config lacks ") << key;
  module->setAttr(kModelAttr, items.getDictionary(module.getContext()));
  return success();
}

LogicalResult Labeler::run(DictionaryAttr config) {
  SmallVector<AttentionOp> attentions;
  for (auto attention : forward.getOps<AttentionOp>())
    attentions.push_back(attention);
  if (attentions.empty())
    return fail(nullptr, "attention");
  first = attentions.front();
  for (auto constant : forward.getOps<arith::ConstantOp>())
    label(constant, "rope");
  auto embeddings = forward.getOps<EmbeddingOp>();
  if (!llvm::hasSingleElement(embeddings))
    return fail(nullptr, "one embedding");
  label(*embeddings.begin(), "embedding");
  state = (*embeddings.begin()).getResult();
  for (auto [layer, attention] : llvm::enumerate(attentions)) {
    if (attention.getHeads() != first.getHeads() ||
        attention.getKvHeads() != first.getKvHeads())
      return fail(attention, "the same heads in each layer");
    if (failed(labelLayer(attention, layer)))
      return failure();
  }
  prefix.clear();
  Value logits = forward.front().getTerminator()->getOperand(0);
  auto head = expect<LinearOp>(logits, "lm_head");
  auto norm = failed(head) ? FailureOr<RmsNormOp>(failure())
                           : expect<RmsNormOp>(head->getInput(), "norm");
  if (failed(norm))
    return failure();
  if (norm->getInput() != state)
    return fail(*norm, "the last layer's output in norm");
  return describe(config, attentions.size());
}

LogicalResult mlir::qlm::onnxir::labelDecoder(ModuleOp module,
                                              DictionaryAttr config) {
  return Labeler(module, module.lookupSymbol<func::FuncOp>(kForwardName))
      .run(config);
}

//===- PlanKvCache.cpp - Turns forward into a step over a paged cache -----===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "StepRows.h"
#include "qlm/Dialect/MethodOps.h"
#include "qlm/Lower/Passes.h"
#include "qlm/Package/Format.h"

#include "llvm/ADT/MapVector.h"
#include "llvm/Support/MathExtras.h"

namespace mlir::qlm {
#define GEN_PASS_DEF_PLANKVCACHE
#include "qlm/Lower/Passes.h.inc"
} // namespace mlir::qlm

using namespace mlir;
using namespace mlir::qlm;
using ::qlm::format::StepArgument;

/// Attention reads keys in vectors of 16 tokens; a page holds whole vectors.
static constexpr int64_t kPageUnit = 16;

namespace {
/// What the options and the model's description amount to.
struct Limits {
  int64_t pageTokens, batch, context, stepTokens;
  /// The elements of the caches; what the bytes of an i8 cache are.
  Type kvElement, kvCodes;
  bool keysByToken;

  int64_t pages() const {
    return batch * llvm::divideCeil(context, pageTokens);
  }
};

/// An attention with what feeds it.
struct CachedAttention {
  AttentionOp attention;
  RopeOp queryRope, keyRope;
  SplitOp split;
};

struct PlanKvCachePass : mlir::qlm::impl::PlanKvCacheBase<PlanKvCachePass> {
  using Base::Base;
  void runOnOperation() override;

private:
  FailureOr<Limits> checkOptions();
};
} // namespace

//===----------------------------------------------------------------------===//
// Options
//===----------------------------------------------------------------------===//

FailureOr<Limits> PlanKvCachePass::checkOptions() {
  ModuleOp module = getOperation();
  auto model = module->getAttrOfType<DictionaryAttr>(kModelAttr);
  auto length = model ? model.getAs<IntegerAttr>("context_length") : nullptr;
  if (!length)
    return module.emitError("module has no attribute ")
           << kModelAttr << " with a context_length";
  // Plain integers: an Option streams as the first type it converts to.
  int64_t page = pageTokens, batch = maxBatch, step = maxStepTokens;
  int64_t context = maxContext;
  std::pair<StringRef, int64_t> positives[] = {
      {"page-tokens", page}, {"max-batch", batch}, {"max-step-tokens", step}};
  for (auto [name, value] : positives)
    if (value <= 0)
      return module.emitError() << name << " must be positive, got " << value;
  if (context < 0)
    return module.emitError()
           << "max-context must be positive, or 0 for the model's context "
              "length, got "
           << context;
  if (page % kPageUnit)
    return module.emitError() << "page-tokens must be a multiple of "
                              << kPageUnit << ", got " << page;
  if (context > length.getInt())
    return module.emitError()
           << "max-context must not exceed the model's context length, got "
           << context << " and " << length.getInt();
  if (step < batch)
    return module.emitError()
           << "max-step-tokens must be at least max-batch, one token for each "
              "sequence, got "
           << step << " and " << batch;
  Builder builder(&getContext());
  auto type = llvm::StringSwitch<Type>(kvType)
                  .Case("f32", builder.getF32Type())
                  .Case("f16", builder.getF16Type())
                  .Case("bf16", builder.getBF16Type())
                  .Case("int8", builder.getI8Type())
                  .Case("fp8", builder.getType<Float8E4M3FNType>())
                  .Default(nullptr);
  if (!type)
    return module.emitError()
           << "kv-type must be f32, f16, bf16, int8 or fp8, got '" << kvType
           << "'";
  bool isQuantized = type.getIntOrFloatBitWidth() == 8;
  return Limits{page,
                batch,
                context ? context : length.getInt(),
                step,
                isQuantized ? builder.getI8Type() : type,
                isQuantized ? type : Type(),
                keysByToken};
}

//===----------------------------------------------------------------------===//
// Attention
//===----------------------------------------------------------------------===//

static bool isSameConstant(Value a, Value b) {
  Attribute x, y;
  return a == b || (matchPattern(a, m_Constant(&x)) &&
                    matchPattern(b, m_Constant(&y)) && x == y);
}

/// Finds the rotations and the split before \p attention.
static FailureOr<CachedAttention> matchAttention(AttentionOp attention,
                                                 Value positions) {
  if (!attention.getCausal())
    return attention.emitOpError("must be causal to use a cache");
  auto queryRope = attention.getQuery().getDefiningOp<RopeOp>();
  auto keyRope = attention.getKey().getDefiningOp<RopeOp>();
  if (!queryRope || !keyRope)
    return attention.emitOpError("must have queries and keys made by qlm.rope");
  for (RopeOp rope : {queryRope, keyRope})
    if (rope.getPositions() != positions)
      return rope.emitOpError("must rotate by the function's positions");
  if (!isSameConstant(queryRope.getInverseFrequencies(),
                      keyRope.getInverseFrequencies()) ||
      !isParameterValue(queryRope.getInverseFrequencies()))
    return keyRope.emitOpError(
        "must have the constant frequencies of the queries");
  auto split = attention.getValue().getDefiningOp<SplitOp>();
  if (!split || split.getParts().size() != 3 ||
      queryRope.getInput() != split.getParts()[0] ||
      keyRope.getInput() != split.getParts()[1] ||
      attention.getValue() != split.getParts()[2]) {
    InFlightDiagnostic diagnostic = attention.emitOpError(
        "must have queries, keys and values split from one linear");
    diagnostic.attachNote() << "qlm-merge-linears joins the projections";
    return diagnostic;
  }
  return CachedAttention{attention, queryRope, keyRope, split};
}

static RankedTensorType getCacheType(CachedAttention match,
                                     const Limits &limits) {
  int64_t headDim = match.queryRope.getHeadDim();
  AttentionOp attention = match.attention;
  return RankedTensorType::get(
      {limits.pages(), 2, static_cast<int64_t>(attention.getKvHeads()),
       getCacheWidth(headDim, limits.pageTokens, bool(limits.kvCodes))},
      limits.kvElement);
}

/// Replaces one attention, its rotations and its split. \p table is
/// `[context, headDim / 2, 2]`.
static void cacheAttention(CachedAttention match, Block &body, Value table,
                           Value cache, const Limits &limits) {
  AttentionOp attention = match.attention;
  OpBuilder builder(attention);
  auto stepArgument = [&](StepArgument argument) -> Value {
    return body.getArgument(static_cast<unsigned>(argument));
  };
  Value positions = stepArgument(StepArgument::Positions);
  Value sequences = stepArgument(StepArgument::TokenSequences);
  Value blockTables = stepArgument(StepArgument::BlockTables);
  auto codes = limits.kvCodes ? TypeAttr::get(limits.kvCodes) : TypeAttr();
  auto append = RopeAppendOp::create(
      builder, match.queryRope.getLoc(),
      TypeRange{attention.getQuery().getType(), cache.getType()},
      match.split.getInput(), table, cache, positions, sequences, blockTables,
      attention.getHeads(), attention.getKvHeads(), limits.pageTokens, codes,
      limits.keysByToken);
  // Of a sequence that fits into the window all keys are seen.
  IntegerAttr window = attention.getWindowAttr();
  if (window && window.getInt() >= limits.context)
    window = {};
  auto paged = PagedAttentionOp::create(
      builder, attention.getLoc(), attention.getType(), append.getQuery(),
      append.getUpdatedCache(), positions, sequences, blockTables,
      attention.getHeads(), attention.getKvHeads(), limits.pageTokens,
      attention.getScale(), codes, limits.keysByToken, window);
  attention.replaceAllUsesWith(paged.getResult());
  attention.erase();
  for (Operation *op :
       {match.queryRope.getOperation(), match.keyRope.getOperation(),
        match.split.getOperation()})
    if (op->use_empty())
      op->erase();
}

/// Makes one rope table for each distinct value of frequencies.
static Value getRopeTable(Value frequencies, int64_t context,
                          llvm::MapVector<Value, Value> &tables) {
  Value &table = tables[frequencies];
  if (table)
    return table;
  OpBuilder builder(frequencies.getContext());
  builder.setInsertionPointAfterValue(frequencies);
  auto type = cast<RankedTensorType>(frequencies.getType());
  table = RopeTableOp::create(
      builder, NameLoc::get(builder.getStringAttr("rope_table")),
      RankedTensorType::get({context, type.getDimSize(0), 2},
                            type.getElementType()),
      frequencies);
  return table;
}

//===----------------------------------------------------------------------===//
// Wanted rows
//===----------------------------------------------------------------------===//

/// Lets only the wanted rows reach the last norm and the head: the row-wise
/// operations between the last norm and the return.
static LogicalResult selectRows(func::ReturnOp result, Value rows) {
  SetVector<Operation *> head;
  SmallVector<Operation *> worklist = {result};
  while (!worklist.empty()) {
    Operation *op = worklist.pop_back_val();
    if (!head.insert(op) || isa<RmsNormOp>(op))
      continue;
    for (Value operand : op->getOperands()) {
      Operation *maker = operand.getDefiningOp();
      if (maker && !isParameterOp(maker) &&
          isa<RmsNormOp, LinearOp, QuantizedLinearOp, PackedLinearOp,
              DynamicQuantizeOp, StaticQuantizeOp, QuantizeOp, DequantizeOp,
              ConvertOp>(maker))
        worklist.push_back(maker);
    }
  }
  for (Operation *op : head)
    for (Operation *user : op->getUsers())
      if (!head.contains(user) && !isa<ObserveOp>(user))
        return op->emitOpError("feeds the logits and ")
               << user->getName() << ", which needs every row";
  OpBuilder builder(rows.getContext());
  DenseMap<Value, Value> selected;
  for (Operation *op : head) {
    for (OpOperand &operand : op->getOpOperands()) {
      Value value = operand.get();
      if (isParameterValue(value) || head.contains(value.getDefiningOp()))
        continue;
      Value &wanted = selected[value];
      if (!wanted) {
        builder.setInsertionPointAfterValue(value);
        wanted = SelectRowsOp::create(
            builder, NameLoc::get(builder.getStringAttr("select_rows")),
            value.getType(), value, rows);
      }
      operand.set(wanted);
    }
  }
  return success();
}

//===----------------------------------------------------------------------===//
// Step function and plan
//===----------------------------------------------------------------------===//

/// Gives \p function the step's seven arguments and a cache for each layer.
static void addStepArguments(func::FuncOp function,
                             ArrayRef<RankedTensorType> caches) {
  Block &body = function.getBody().front();
  Builder builder(function.getContext());
  Type integer = builder.getI32Type();
  for (int i = body.getNumArguments(); i < ::qlm::format::kStepArgumentCount;
       ++i) {
    bool matrix = i == static_cast<int>(StepArgument::BlockTables);
    body.addArgument(
        RankedTensorType::get(
            SmallVector<int64_t>(matrix ? 2 : 1, ShapedType::kDynamic),
            integer),
        function.getLoc());
  }
  for (RankedTensorType cache : caches)
    body.addArgument(cache, function.getLoc());
  function.setFunctionType(builder.getFunctionType(
      body.getArgumentTypes(), function.getFunctionType().getResults()));
  for (unsigned i = 0; i < body.getNumArguments(); ++i) {
    StringRef name = i < ::qlm::format::kStepArgumentCount
                         ? ::qlm::format::kStepArgumentNames[i]
                         : "cache";
    function.setArgAttr(i, kStepAttr, builder.getStringAttr(name));
  }
  function.setSymName(kStepName);
}

static DictionaryAttr makePlan(ArrayRef<RankedTensorType> caches,
                               const Limits &limits, StringRef kvType,
                               Builder &builder) {
  int64_t pageBytes = 0;
  for (RankedTensorType cache : caches)
    pageBytes = cache.getNumElements() / cache.getDimSize(0) *
                (cache.getElementTypeBitWidth() / 8);
  int64_t layers = caches.size();
  auto integer = [&](StringRef name, int64_t value) {
    return builder.getNamedAttr(name, builder.getI64IntegerAttr(value));
  };
  NamedAttribute kv[] = {
      builder.getNamedAttr("type", builder.getStringAttr(kvType)),
      integer("page_tokens", limits.pageTokens),
      integer("layers", layers),
      integer("pages", limits.pages()),
      integer("page_bytes", pageBytes),
      integer("pool_bytes", layers * limits.pages() * pageBytes),
      integer("bytes_per_token", layers * pageBytes / limits.pageTokens)};
  NamedAttribute plan[] = {
      integer("max_batch", limits.batch),
      integer("max_context", limits.context),
      integer("max_step_tokens", limits.stepTokens),
      // Any row of a step may be asked for.
      integer("max_logit_rows", std::max(limits.batch, limits.stepTokens)),
      builder.getNamedAttr("kv", builder.getDictionaryAttr(kv))};
  return builder.getDictionaryAttr(plan);
}

void PlanKvCachePass::runOnOperation() {
  ModuleOp module = getOperation();
  FailureOr<Limits> limits = checkOptions();
  if (failed(limits))
    return signalPassFailure();
  auto function = module.lookupSymbol<func::FuncOp>(kForwardName);
  if (!function || function.isExternal() ||
      !llvm::hasSingleElement(function.getBody())) {
    module.emitError("module has no function @") << kForwardName;
    return signalPassFailure();
  }
  Block &body = function.getBody().front();
  auto indices = RankedTensorType::get({ShapedType::kDynamic},
                                       IntegerType::get(&getContext(), 32));
  auto result = cast<func::ReturnOp>(body.getTerminator());
  if (body.getArgumentTypes() != TypeRange{indices, indices} ||
      result.getNumOperands() != 1) {
    function.emitOpError("must take tokens and positions, both ")
        << indices << ", and return the logits, got "
        << function.getFunctionType();
    return signalPassFailure();
  }

  SmallVector<CachedAttention> matches;
  SmallVector<RankedTensorType> caches;
  for (auto attention : body.getOps<AttentionOp>()) {
    FailureOr<CachedAttention> match =
        matchAttention(attention, body.getArgument(1));
    if (failed(match))
      return signalPassFailure();
    matches.push_back(*match);
    caches.push_back(getCacheType(*match, *limits));
  }
  if (!llvm::all_equal(caches)) {
    function.emitOpError("has layers with different caches, e.g. ")
        << caches.front() << " and " << caches.back();
    return signalPassFailure();
  }
  addStepArguments(function, caches);
  llvm::MapVector<Value, Value> tables;
  for (auto [layer, match] : llvm::enumerate(matches)) {
    Value table = getRopeTable(match.queryRope.getInverseFrequencies(),
                               limits->context, tables);
    Value cache = body.getArgument(::qlm::format::kStepArgumentCount + layer);
    cacheAttention(match, body, table, cache, *limits);
  }
  Value rows = body.getArgument(static_cast<unsigned>(StepArgument::LogitRows));
  if (failed(selectRows(result, rows)))
    return signalPassFailure();
  Builder builder(&getContext());
  module->setAttr(kPlanAttr, makePlan(caches, *limits, kvType, builder));
}

//===- GraphAttention.cpp - Attention of a graph's tensors ----------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Tiles: n, a head of keys, 64 rows. A row is a query and one of the heads that
// the head of keys serves; rows go by queries, so that those of a tile see
// nearly the same keys.
//
//===----------------------------------------------------------------------===//

#include "GraphAttention.h"

#include "Cpu/Chunks.h"
#include "Cpu/PagedAttentionBlock.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"

#include <limits>

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::kernel;
using cpu::kBlockKeys;
using cpu::kBlockSlices;
using cpu::kSliceKeys;

static constexpr double kLog2E = 1.44269504088896341;
static constexpr double kInfinity = std::numeric_limits<double>::infinity();
static constexpr double kLowest =
    static_cast<double>(std::numeric_limits<float>::lowest());
/// Rows of a tile.
static constexpr int64_t kTileRows = kBlockKeys;

//===----------------------------------------------------------------------===//
// Launches
//===----------------------------------------------------------------------===//

namespace {
/// The numbers in the tensor of sizes. Strides are those of the mask, in
/// elements, 0 where it is the same for all; `covered` are its keys.
enum Size : int64_t {
  kQueries,
  kKeys,
  kFirst,
  kMaskBatch,
  kMaskHead,
  kMaskQuery,
  kCovered,
  kSizes
};
} // namespace

AttentionLaunch mlir::qlm::makeAttentionLaunch(OpBuilder &b,
                                               graph::AttentionOp op) {
  Location loc = op.getLoc();
  auto constant = [&](int64_t value) -> Value {
    return arith::ConstantIndexOp::create(b, loc, value);
  };
  auto dim = [&](Value tensor, int64_t axis) {
    return b.createOrFold<tensor::DimOp>(loc, tensor, axis);
  };
  auto mul = [&](Value x, Value y) {
    return b.createOrFold<arith::MulIOp>(loc, x, y);
  };
  Value query = op.getQuery();
  SmallVector<Value> sizes(kSizes, constant(0));
  sizes[kQueries] = dim(query, op.getTokensAxis(0));
  sizes[kKeys] = dim(op.getKey(), op.getTokensAxis(1));
  if (op.getFirst())
    sizes[kFirst] = op.getFirst();
  if (Value mask = op.getMask()) {
    int64_t rank = cast<RankedTensorType>(mask.getType()).getRank();
    sizes[kCovered] = dim(mask, rank - 1);
    Value stride = sizes[kCovered];
    for (int64_t axis = rank - 2, size = kMaskQuery; axis >= 0;
         --axis, --size) {
      Value count = dim(mask, axis);
      Value isOne = b.createOrFold<arith::CmpIOp>(loc, arith::CmpIPredicate::eq,
                                                  count, constant(1));
      sizes[size] =
          b.createOrFold<arith::SelectOp>(loc, isOne, constant(0), stride);
      stride = mul(stride, count);
    }
  }
  auto keyType = cast<RankedTensorType>(op.getKey().getType());
  auto queryType = cast<RankedTensorType>(query.getType());
  int64_t keyHeads = keyType.getDimSize(op.getHeadsAxis(1));
  int64_t group = queryType.getDimSize(op.getHeadsAxis(0)) / keyHeads;
  AttentionLaunch launch;
  launch.queries = sizes[kQueries];
  Value blocks = b.createOrFold<arith::CeilDivUIOp>(
      loc, mul(launch.queries, constant(group)), constant(kTileRows));
  launch.tiles = mul(mul(dim(query, 0), constant(keyHeads)), blocks);
  launch.result = tensor::getMixedSizes(b, loc, query);
  launch.result[3] = b.getIndexAttr(
      cast<RankedTensorType>(op.getResult().getType()).getDimSize(3));
  for (Value &size : sizes)
    size = b.createOrFold<arith::IndexCastOp>(loc, b.getI64Type(), size);
  launch.sizes = tensor::FromElementsOp::create(b, loc, sizes);
  return launch;
}

//===----------------------------------------------------------------------===//
// The kernel
//===----------------------------------------------------------------------===//

namespace {
/// Where the numbers of heads lie in a tensor.
struct HeadLayout {
  Type element;
  int64_t heads, size;
  bool tokensFirst;

  HeadLayout(Value tensor, graph::AttentionOp op, int64_t of)
      : tokensFirst(op.getTokensFirst()[of]) {
    auto type = cast<RankedTensorType>(tensor.getType());
    element = type.getElementType();
    heads = type.getDimSize(op.getHeadsAxis(of));
    size = type.getDimSize(3);
  }
  /// Elements from one to the next token.
  int64_t stride() const { return tokensFirst ? heads * size : size; }
  int64_t strideBytes() const {
    return stride() * (element.getIntOrFloatBitWidth() / 8);
  }
  /// A head's numbers of token \p token out of \p tokens.
  Ptr at(Ptr tensor, Val batch, Val head, Val tokens, Val token) const {
    Val row = tokensFirst ? (batch * tokens + token) * heads + head
                          : (batch * heads + head) * tokens + token;
    return tensor.element(element, row * size);
  }
};

/// The steps of a block of keys, apart.
struct AttentionSteps : cpu::AttentionBlock {
  using AttentionBlock::AttentionBlock;
  using AttentionBlock::emitScores;
  using AttentionBlock::emitSoftmax;
  using AttentionBlock::emitValues;
  using AttentionBlock::weights;
  using AttentionBlock::weightSlice;
};

/// The rows of a tile. All are i64.
struct Rows {
  Val batch, keyHead, first, count;
  Val queries, keys;
  /// The place of query 0, and how many keys may be seen.
  Val place, limit;
  /// The first tokens of the head.
  Ptr key, value;
  /// What all rows see are keys highestLow .. lowestHigh - 1, what any sees are
  /// lowestLow .. highestHigh - 1.
  Val lowestLow, highestLow, lowestHigh, highestHigh;
};

class GraphAttentionEmitter {
public:
  GraphAttentionEmitter(func::FuncOp function, graph::AttentionOp op,
                        const cpu::Target &target);

  void emit();
  int64_t scratchBytes() const { return bytes; }

private:
  Val size(Size which) {
    return sizes.element(b.i64(), b.index(which)).load(b.i64());
  }
  Rows findRows(Val tile);
  std::pair<Val, Val> findSeen(const Rows &rows, Val query);
  void emitRows(const Rows &rows, bool isSingle);
  void emitStart(const Rows &rows, bool isSingle);
  void emitBlock(const Rows &rows, Val base, bool isSingle);
  void packKeys(const Rows &rows, Val base);
  void emitOneRowScores(const Rows &rows, Val base, bool isWhole);
  void emitSeen(Val firstRow, int64_t count, Val base);
  Val addMask(Val scores, Val row, Val key);
  Val toPowersOfTwo(Val scores);
  void emitResult(const Rows &rows);

  Ptr at(int64_t offset) { return frame.scratch().at(offset); }
  Ptr low(Val row) { return at(lows).element(b.i64(), row); }
  Ptr maskRow(Val row) { return at(maskRows).element(b.ptr(), row); }
  Val getQuery(const Rows &rows, Val row) { return (rows.first + row) / group; }
  Val getHead(const Rows &rows, Val row) {
    return rows.keyHead * group + (rows.first + row) % group;
  }

  graph::AttentionOp op;
  KernelFrame frame;
  KernelBuilder &b;
  int64_t lanes;
  HeadLayout query, key, value, result;
  int64_t group;
  Type maskElement;
  /// Whether scores change before powers are taken: they stay in natural units
  /// until then.
  bool changes;
  /// Whether a single row asks for the next block: it meets each once, from
  /// memory. Worth 10 % of f16; f32 comes as fast alone, and pays for asking.
  bool fetchesNext;
  double scale, softcap;
  Ptr mask, lengths, sizes, output;
  /// Keys are f32 when they meet queries, values what the tensor has.
  cpu::AttentionShape keyShape, valueShape;
  cpu::AttentionScratch layout;
  AttentionSteps keySteps, valueSteps;
  /// In scratch, behind the layout: a block's keys, the first key that a row
  /// sees, the address of its mask.
  int64_t packed, lows, maskRows, bytes;
};
} // namespace

static cpu::AttentionShape getShape(const HeadLayout &key,
                                    const HeadLayout &value, Type element,
                                    int64_t lanes) {
  cpu::AttentionShape shape;
  shape.pages = {element, /*kvHeads=*/1, key.size, kSliceKeys,
                 /*codes=*/Type()};
  shape.lanes = lanes;
  shape.valueDim = value.size;
  shape.valueStride = value.stride();
  return shape;
}

GraphAttentionEmitter::GraphAttentionEmitter(func::FuncOp function,
                                             graph::AttentionOp op,
                                             const cpu::Target &target)
    : op(op), frame(function, op.getMask() && op.getLengths()   ? 7
                              : op.getMask() || op.getLengths() ? 6
                                                                : 5),
      b(frame.builder()), lanes(target.lanes()), query(op.getQuery(), op, 0),
      key(op.getKey(), op, 1), value(op.getValue(), op, 2),
      result(op.getResult(), op, 0), group(query.heads / key.heads),
      scale(op.getScale().convertToDouble()),
      softcap(op.getSoftcap().convertToDouble()),
      keyShape(getShape(key, value, b.f32(), lanes)),
      valueShape(getShape(key, value, value.element, lanes)), layout(keyShape),
      keySteps(frame, keyShape, layout), valueSteps(frame, valueShape, layout) {
  int64_t next = 3;
  if (op.getMask()) {
    mask = frame.buffer(next++);
    maskElement =
        cast<RankedTensorType>(op.getMask().getType()).getElementType();
  }
  if (op.getLengths())
    lengths = frame.buffer(next++);
  sizes = frame.buffer(next++).readOnly();
  output = frame.buffer(next);
  fetchesNext = !key.element.isF32();
  changes = softcap != 0 || (mask && isa<FloatType>(maskElement));
  packed = layout.bytes;
  lows = packed + key.size * kBlockKeys * 4;
  maskRows = lows + keyShape.maxRows() * 8;
  bytes = maskRows + keyShape.maxRows() * 8;
}

void GraphAttentionEmitter::emit() {
  b.forRange(frame.lo(), frame.hi(), 1, [&](Val tile) {
    Rows rows = findRows(tile);
    b.ifElse(
        rows.count == 1, [&] { emitRows(rows, /*isSingle=*/true); },
        [&] { emitRows(rows, /*isSingle=*/false); });
  });
}

//===----------------------------------------------------------------------===//
// What is seen
//===----------------------------------------------------------------------===//

Rows GraphAttentionEmitter::findRows(Val tile) {
  Rows rows;
  rows.queries = size(kQueries);
  rows.keys = size(kKeys);
  Val all = rows.queries * group;
  Val blocks = (all + (kTileRows - 1)) / kTileRows;
  rows.first = tile % blocks * kTileRows;
  rows.count = b.min(all - rows.first, b.index(kTileRows));
  Val head = tile / blocks, none = b.index(0);
  rows.keyHead = head % key.heads;
  rows.batch = head / key.heads;
  rows.place = size(kFirst);
  rows.limit = rows.keys;
  if (lengths) {
    Val length = lengths.element(b.i64(), rows.batch).load(b.i64());
    rows.limit = b.min(rows.limit, length);
    rows.place = length - rows.queries;
  }
  if (mask)
    rows.limit = b.min(rows.limit, size(kCovered));
  rows.key = key.at(frame.buffer(1), rows.batch, rows.keyHead, rows.keys, none);
  rows.value =
      value.at(frame.buffer(2), rows.batch, rows.keyHead, rows.keys, none);
  std::tie(rows.lowestLow, rows.lowestHigh) =
      findSeen(rows, getQuery(rows, none));
  std::tie(rows.highestLow, rows.highestHigh) =
      findSeen(rows, getQuery(rows, rows.count - 1));
  return rows;
}

/// The first key that a query sees, and the one after the last; both rise with
/// the query.
std::pair<Val, Val> GraphAttentionEmitter::findSeen(const Rows &rows,
                                                    Val query) {
  Val place = rows.place + query, none = b.index(0);
  Val low = none, high = rows.limit;
  auto left = static_cast<int64_t>(op.getLeft()),
       right = static_cast<int64_t>(op.getRight());
  if (op.getCausal())
    high = b.min(high, place + 1);
  if (right >= 0)
    high = b.min(high, place + (right + 1));
  if (left >= 0)
    low = b.max(place - left, none);
  return {low, b.max(high, none)};
}

/// Takes the keys that \p count rows don't see out of a block's scores, and
/// changes what else the operation says.
void GraphAttentionEmitter::emitSeen(Val firstRow, int64_t count, Val base) {
  VectorType type = b.vec(kSliceKeys, b.f32());
  Val hidden = b.constant(type, -kInfinity);
  b.forRange(b.index(0), b.index(count), 1, [&](Val i) {
    Val row = firstRow + i;
    Val last = keySteps.keys(row).load(b.i64()) - base;
    Val first = low(row).load(b.i64()) - base;
    for (int64_t slice = 0; slice < kBlockSlices; ++slice) {
      int64_t begin = slice * kSliceKeys;
      Ptr place = keySteps.weightSlice(i, slice);
      Val scores = place.load(type, /*alignment=*/64);
      if (softcap != 0) {
        // softcap * tanh(x / softcap)
        Val power = b.exp(scores * (2 / softcap));
        scores = softcap - (2 * softcap) / (power + 1.0);
      }
      if (mask)
        scores = addMask(scores, row, base + begin);
      scores = b.select(b.firstLanes(kSliceKeys, last - begin), scores, hidden);
      if (static_cast<int64_t>(op.getLeft()) >= 0)
        scores =
            b.select(b.firstLanes(kSliceKeys, first - begin), hidden, scores);
      place.store(changes ? toPowersOfTwo(scores) : scores, /*alignment=*/64);
    }
  });
}

/// The mask of 16 keys from \p key on. Those that it doesn't cover, which are
/// hidden in any case, are read from where it ends.
Val GraphAttentionEmitter::addMask(Val scores, Val row, Val key) {
  Val inside = b.min(key, size(kCovered) - 1);
  Ptr place = Ptr(maskRow(row).load(b.ptr()).get(), &b).readOnly();
  if (isa<FloatType>(maskElement))
    return scores + b.toF32(place.element(maskElement, inside)
                                .load(b.vec(kSliceKeys, maskElement)));
  Val shown = place.at(inside).load(b.vec(kSliceKeys, b.i8())) != 0;
  return b.select(shown, scores, b.constant(scores.type(), -kInfinity));
}

/// Natural units to those of powers of two. The lowest number, which hides keys
/// in many masks, stays finite: a row of nothing else is their mean.
Val GraphAttentionEmitter::toPowersOfTwo(Val scores) {
  Val scaled = scores * kLog2E;
  Val lowest = constantLike(scores, kLowest);
  Val overflows = (scaled < lowest) & (scores >= lowest);
  return b.select(overflows, lowest, scaled);
}

//===----------------------------------------------------------------------===//
// Scores
//===----------------------------------------------------------------------===//

/// Exchanges rows and columns of as many vectors as they have lanes.
static void transposeLanes(KernelBuilder &b, MutableArrayRef<Val> rows) {
  auto lanes = static_cast<int64_t>(rows.size());
  for (int64_t step = lanes / 2; step; step /= 2) {
    SmallVector<int64_t> low, high;
    for (int64_t i = 0; i < lanes; ++i) {
      low.push_back(i & step ? i - step + lanes : i);
      high.push_back(i & step ? i + lanes : i + step);
    }
    for (int64_t i = 0; i < lanes; ++i) {
      if (i & step)
        continue;
      Val first = rows[i], second = rows[i + step];
      rows[i] = b.shuffle(first, second, low);
      rows[i + step] = b.shuffle(first, second, high);
    }
  }
}

/// The sums of as many vectors' lanes as they have lanes, in one vector.
static Val sumLanes(KernelBuilder &b, SmallVector<Val> rows) {
  int64_t lanes = rows[0].lanes();
  // Vectors hold sums of `parts` lanes each; neighbours are joined.
  for (int64_t parts = lanes; parts > 1; parts /= 2) {
    SmallVector<int64_t> low, high;
    for (int64_t i = 0; i < lanes; ++i) {
      // Lane i sums lanes 2 i and 2 i + 1 of both vectors, but halves of each
      // sum's lanes are taken together, which are added in any order.
      int64_t half = parts / 2, sum = i / half, within = i % half;
      low.push_back(sum * parts + within);
      high.push_back(sum * parts + half + within);
    }
    SmallVector<Val> joined;
    for (size_t i = 0; i < rows.size(); i += 2)
      joined.push_back(b.shuffle(rows[i], rows[i + 1], low) +
                       b.shuffle(rows[i], rows[i + 1], high));
    rows = joined;
  }
  return rows[0];
}

/// A block's keys as slices of 16, feature by feature. Those past the last are
/// the last one.
void GraphAttentionEmitter::packKeys(const Rows &rows, Val base) {
  Val last = rows.keys - 1;
  b.forRange(b.index(0), b.index(kBlockKeys), lanes, [&](Val first) {
    SmallVector<Ptr> places;
    for (int64_t i = 0; i < lanes; ++i)
      places.push_back(
          rows.key.at(b.min(base + first + i, last) * key.strideBytes())
              .readOnly());
    Ptr to = at(packed)
                 .at(first / kSliceKeys * (key.size * kSliceKeys * 4))
                 .at(first % kSliceKeys * 4);
    cpu::forChunks(b, key.size, lanes, [&](const cpu::Chunk &chunk) {
      SmallVector<Val> numbers;
      for (Ptr place : places)
        numbers.push_back(chunk.load(b, place, key.element));
      transposeLanes(b, numbers);
      for (int64_t i = 0; i < chunk.count; ++i)
        to.at((chunk.first + i) * (kSliceKeys * 4)).store(numbers[i]);
    });
  });
}

/// Scores of one row with a block's keys where they lie; \p isWhole says that
/// there are 64.
void GraphAttentionEmitter::emitOneRowScores(const Rows &rows, Val base,
                                             bool isWhole) {
  Val last = rows.keys - 1;
  int64_t whole = key.size / lanes * lanes;
  b.forRange(b.index(0), b.index(kBlockKeys), lanes, [&](Val first) {
    SmallVector<Ptr> places;
    Ptr begin = rows.key.at((base + first) * key.strideBytes());
    for (int64_t i = 0; i < lanes; ++i)
      places.push_back((isWhole ? begin.at(i * key.strideBytes())
                                : rows.key.at(b.min(base + first + i, last) *
                                              key.strideBytes()))
                           .readOnly());
    auto add = [&](const cpu::Chunk &chunk, ArrayRef<Val> before) {
      SmallVector<Val> after;
      Val numbers = chunk.load(b, keySteps.query(b.index(0)), b.f32());
      for (auto [place, sum] : llvm::zip_equal(places, before)) {
        if (isWhole && fetchesNext)
          place.at(kBlockKeys * key.strideBytes())
              .element(key.element, chunk.first)
              .prefetch();
        Val other = chunk.fill(b, chunk.load(b, place, key.element), 0);
        after.push_back(b.fma(numbers, other, sum));
      }
      return after;
    };
    SmallVector<Val> sums =
        b.forRange(b.index(0), b.index(whole), lanes,
                   SmallVector<Val>(lanes, b.zero(b.vec(lanes, b.f32()))),
                   [&](Val feature, ArrayRef<Val> before) {
                     return add({feature, lanes, lanes}, before);
                   });
    if (whole < key.size)
      sums = add({b.index(whole), lanes, key.size - whole}, sums);
    keySteps.weights(b.index(0))
        .element(b.f32(), first)
        .store(sumLanes(b, sums));
  });
}

//===----------------------------------------------------------------------===//
// Rows
//===----------------------------------------------------------------------===//

/// Copies the queries, scaled, and clears what they sum. Rows that fill up the
/// last step stand for the last one.
void GraphAttentionEmitter::emitStart(const Rows &rows, bool isSingle) {
  int64_t atOnce = isSingle ? 1 : keyShape.rowsAtOnce();
  Val padded = (rows.count + (atOnce - 1)) / atOnce * atOnce;
  double factor = changes ? scale : scale * kLog2E;
  b.forRange(b.index(0), padded, 1, [&](Val i) {
    Val row = b.min(i, rows.count - 1);
    Val token = getQuery(rows, row), head = getHead(rows, row);
    auto [first, last] = findSeen(rows, token);
    low(i).store(first);
    keySteps.keys(i).store(last);
    if (mask) {
      Val begin = rows.batch * size(kMaskBatch) + head * size(kMaskHead) +
                  token * size(kMaskQuery);
      Type element = isa<FloatType>(maskElement) ? maskElement : b.i8();
      maskRow(i).store(b.val(mask.element(element, begin).get()));
    }
    keySteps.maximum(i).store(b.constant(b.f32(), kLowest));
    keySteps.sums(i).store(b.zero(b.vec(kSliceKeys, b.f32())));
    Ptr from = query.at(frame.buffer(0), rows.batch, head, rows.queries, token)
                   .readOnly();
    cpu::forChunks(b, query.size, lanes, [&](const cpu::Chunk &chunk) {
      Val numbers = chunk.load(b, from, query.element) * factor;
      keySteps.query(i)
          .element(b.f32(), chunk.first)
          .store(chunk.fill(b, numbers, 0));
    });
    cpu::forChunks(b, value.size, lanes, [&](const cpu::Chunk &chunk) {
      keySteps.output(i)
          .element(b.f32(), chunk.first)
          .store(b.zero(b.vec(lanes, b.f32())));
    });
  });
  for (int64_t i = 0; i < kBlockSlices; ++i)
    keySteps.keySlice(b.index(i))
        .store(b.val(at(packed).at(i * key.size * kSliceKeys * 4).get()));
}

void GraphAttentionEmitter::emitBlock(const Rows &rows, Val base,
                                      bool isSingle) {
  for (int64_t i = 0; i < kBlockSlices; ++i) {
    Ptr first = rows.value.at((base + i * kSliceKeys) * value.strideBytes());
    Ptr next = first.at(kBlockKeys * value.strideBytes());
    valueSteps.valueSlice(b.index(i)).store(b.val(first.get()));
    valueSteps.nextValueSlice(b.index(i)).store(b.val(next.get()));
  }
  if (isSingle)
    b.ifElse(
        base + kBlockKeys <= rows.keys,
        [&] { emitOneRowScores(rows, base, /*isWhole=*/true); },
        [&] { emitOneRowScores(rows, base, /*isWhole=*/false); });
  else
    packKeys(rows, base);
  Val count = b.min(rows.highestHigh - base, b.index(kBlockKeys));
  int64_t atOnce = isSingle ? 1 : keyShape.rowsAtOnce();
  int64_t slices = kBlockSlices;
  while (slices > 1 && atOnce * slices * (kSliceKeys / lanes) > keyShape.sums())
    slices /= 2;
  b.forRange(b.index(0), rows.count, atOnce, [&](Val first) {
    if (!isSingle)
      b.forRange(b.index(0), b.index(kBlockSlices), slices, [&](Val slice) {
        keySteps.emitScores(first, atOnce, slice, slices, /*fetchNext=*/false);
      });
    if (changes || mask)
      emitSeen(first, atOnce, base);
    else
      b.ifThen((base < rows.highestLow) | (base + kBlockKeys > rows.lowestHigh),
               [&] { emitSeen(first, atOnce, base); });
    valueSteps.emitSoftmax(first, atOnce, /*base=*/Val());
    valueSteps.emitValues(first, atOnce, count, count, isSingle && fetchesNext);
  });
}

void GraphAttentionEmitter::emitResult(const Rows &rows) {
  b.forRange(b.index(0), rows.count, 1, [&](Val row) {
    Ptr to = result.at(output, rows.batch, getHead(rows, row), rows.queries,
                       getQuery(rows, row));
    Val sum = b.reduceSum(keySteps.sums(row).load(b.vec(kSliceKeys, b.f32()),
                                                  /*alignment=*/64));
    Val inverse = 1.0 / sum;
    if (!op.getEmptyIsNan())
      inverse = b.select(sum == 0.0, sum, inverse);
    Val factor = b.broadcast(inverse, lanes);
    cpu::forChunks(b, result.size, lanes, [&](const cpu::Chunk &chunk) {
      Val numbers = chunk.load(b, keySteps.output(row), b.f32()) * factor;
      chunk.store(b, to,
                  result.element.isF32() ? numbers
                                         : b.fromF32(numbers, result.element));
    });
  });
}

void GraphAttentionEmitter::emitRows(const Rows &rows, bool isSingle) {
  emitStart(rows, isSingle);
  Val begin = rows.lowestLow / kBlockKeys;
  Val end = (rows.highestHigh + (kBlockKeys - 1)) / kBlockKeys;
  b.forRange(begin, end, 1, [&](Val number) {
    emitBlock(rows, number * kBlockKeys, isSingle);
  });
  emitResult(rows);
}

int64_t mlir::qlm::emitGraphAttention(func::FuncOp function,
                                      graph::AttentionOp op,
                                      const cpu::Target &target) {
  GraphAttentionEmitter emitter(function, op, target);
  emitter.emit();
  return emitter.scratchBytes();
}

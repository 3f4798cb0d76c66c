//===- ModelDefinitions.cpp - Definitions of the model operations ---------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The formulas of the operations' descriptions, element by element.
//
//===----------------------------------------------------------------------===//

#include "DefinitionBuilder.h"

#include <limits>

using namespace mlir;
using namespace mlir::qlm;

using Values = SmallVector<Value>;
using Indices = ArrayRef<Value>;

/// Generates a tensor of the type of \p result and the dynamic sizes of
/// \p like.
static Value generateLike(DefinitionBuilder &d, Value result, Value like,
                          DefinitionBuilder::ElementFn element) {
  auto type = cast<RankedTensorType>(result.getType());
  return d.generate(type, d.dynamicSizesLike(type, like), element);
}

static Value generateLike(DefinitionBuilder &d, Value like,
                          DefinitionBuilder::ElementFn element) {
  return generateLike(d, like, like, element);
}

static RankedTensorType f32Tensor(Value like, ArrayRef<int64_t> shape) {
  return RankedTensorType::get(shape, Float32Type::get(like.getContext()));
}

FailureOr<Values> EmbeddingOp::decompose(OpBuilder &builder) {
  DefinitionBuilder d(builder, getLoc());
  auto type = cast<RankedTensorType>(getType());
  Values sizes = d.rowSizes(type, getTokens());
  return Values{d.generate(type, sizes, [&](Indices i) {
    Value token = d.toIndex(d.at(getTokens(), i[0]));
    return d.at(getTable(), {token, i[1]});
  })};
}

FailureOr<Values> LinearOp::decompose(OpBuilder &builder) {
  DefinitionBuilder d(builder, getLoc());
  auto type = cast<RankedTensorType>(getType());
  Values sizes = d.rowSizes(type, getInput());
  return Values{d.generate(type, sizes, [&](Indices i) {
    Value sum = d.sum(d.index(0), d.dim(getInput(), 1), d.f32(0), [&](Value k) {
      return d.mul(d.at(getInput(), {i[0], k}), d.at(getWeight(), {i[1], k}));
    });
    if (getBias())
      sum = d.add(sum, d.at(getBias(), i[1]));
    if (getResidual())
      sum = d.add(sum, d.at(getResidual(), i));
    return sum;
  })};
}

FailureOr<Values> RmsNormOp::decompose(OpBuilder &builder) {
  DefinitionBuilder d(builder, getLoc());
  auto type = cast<RankedTensorType>(getInput().getType());
  Value count = d.dim(getInput(), 1);
  Values sizes = d.rowSizes(type, getInput());
  Value root = d.generate(
      f32Tensor(getInput(), {type.getDimSize(0)}), sizes, [&](Indices i) {
        Value squares = d.sum(d.index(0), count, d.f32(0), [&](Value k) {
          Value x = d.at(getInput(), {i[0], k});
          return d.mul(x, x);
        });
        Value mean = d.divide(squares, d.toF32(count));
        return math::SqrtOp::create(
                   builder, getLoc(),
                   d.add(mean, d.f32(getEpsilon().convertToFloat())))
            .getResult();
      });
  return Values{generateLike(d, getResult(), getInput(), [&](Indices i) {
    Value normal = d.divide(d.at(getInput(), i), d.at(root, i[0]));
    return d.mul(d.at(getWeight(), i[1]), normal);
  })};
}

FailureOr<Values> RopeOp::decompose(OpBuilder &builder) {
  DefinitionBuilder d(builder, getLoc());
  int64_t headDim = getHeadDim(), half = headDim / 2;
  return Values{generateLike(d, getInput(), [&](Indices i) {
    Value within = d.rem(i[1], headDim);
    Value pair = d.rem(within, half);
    Value angle = d.mul(d.toF32(d.at(getPositions(), i[0])),
                        d.at(getInverseFrequencies(), pair));
    Value first = d.less(within, d.index(half));
    Value partner =
        d.select(first, d.add(i[1], half), d.sub(i[1], d.index(half)));
    // The first half subtracts its partner's share, the second adds it.
    Value x = d.at(getInput(), i), y = d.at(getInput(), {i[0], partner});
    Value share = d.mul(y, d.sine(angle));
    Value kept = d.mul(x, d.cosine(angle));
    return d.select(first, d.sub(kept, share), d.add(kept, share));
  })};
}

FailureOr<Values> AttentionOp::decompose(OpBuilder &builder) {
  DefinitionBuilder d(builder, getLoc());
  auto type = cast<RankedTensorType>(getQuery().getType());
  int64_t heads = getHeads(), headDim = type.getDimSize(1) / heads;
  int64_t group = heads / getKvHeads();
  Value tokens = d.dim(getQuery(), 0);
  Value minusInfinity = d.f32(-std::numeric_limits<float>::infinity());
  auto end = [&](Value t) { return getCausal() ? d.add(t, 1) : tokens; };
  auto start = [&](Value t) { return d.windowStart(end(t), getWindow()); };
  auto score = [&](Value h, Value t, Value u) {
    Value j = d.div(h, group);
    Value dot = d.sum(d.index(0), d.index(headDim), d.f32(0), [&](Value k) {
      return d.mul(d.at(getQuery(), {t, d.add(d.mul(h, headDim), k)}),
                   d.at(getKey(), {u, d.add(d.mul(j, headDim), k)}));
    });
    return d.mul(dot, d.f32(getScale().convertToFloat()));
  };
  // Scores of hidden keys stay minus infinity, so their weight is 0.
  Values cube;
  if (type.isDynamicDim(0))
    cube = {tokens, tokens};
  Value scores = d.generate(
      f32Tensor(getQuery(), {heads, type.getDimSize(0), type.getDimSize(0)}),
      cube, [&](Indices i) {
        Value seen =
            d.both(d.lessEqual(start(i[1]), i[2]), d.less(i[2], end(i[1])));
        return d.guarded(
            seen, [&] { return score(i[0], i[1], i[2]); }, minusInfinity);
      });
  auto weight = [&](Value h, Value t, Value largest, Value u) {
    return d.exp(d.sub(d.at(scores, {h, t, u}), largest));
  };
  return Values{generateLike(d, getQuery(), [&](Indices i) {
    Value h = d.div(i[1], headDim), t = i[0];
    Value column = d.add(d.mul(d.div(h, group), headDim), d.rem(i[1], headDim));
    Value largest =
        d.loop(start(t), end(t), {minusInfinity},
               [&](Value u, ArrayRef<Value> carried) {
                 return Values{d.maximum(carried[0], d.at(scores, {h, t, u}))};
               })[0];
    Values sums =
        d.loop(start(t), end(t), {d.f32(0), d.f32(0)},
               [&](Value u, ArrayRef<Value> carried) {
                 Value w = weight(h, t, largest, u);
                 return Values{d.add(carried[0], w),
                               d.add(carried[1],
                                     d.mul(w, d.at(getValue(), {u, column})))};
               });
    return d.divide(sums[1], sums[0]);
  })};
}

FailureOr<Values> SwigluOp::decompose(OpBuilder &builder) {
  DefinitionBuilder d(builder, getLoc());
  auto type = cast<RankedTensorType>(getType());
  Values sizes = d.rowSizes(type, getInput());
  return Values{d.generate(type, sizes, [&](Indices i) {
    Value up = d.add(i[1], type.getDimSize(1));
    return d.mul(d.silu(d.at(getInput(), i)), d.at(getInput(), {i[0], up}));
  })};
}

FailureOr<Values> SiluOp::decompose(OpBuilder &builder) {
  DefinitionBuilder d(builder, getLoc());
  return Values{generateLike(
      d, getInput(), [&](Indices i) { return d.silu(d.at(getInput(), i)); })};
}

FailureOr<Values> AddOp::decompose(OpBuilder &builder) {
  DefinitionBuilder d(builder, getLoc());
  return Values{generateLike(d, getLhs(), [&](Indices i) {
    return d.add(d.at(getLhs(), i), d.at(getRhs(), i));
  })};
}

FailureOr<Values> MulOp::decompose(OpBuilder &builder) {
  DefinitionBuilder d(builder, getLoc());
  return Values{generateLike(d, getLhs(), [&](Indices i) {
    return d.mul(d.at(getLhs(), i), d.at(getRhs(), i));
  })};
}

FailureOr<Values> ScaleOp::decompose(OpBuilder &builder) {
  DefinitionBuilder d(builder, getLoc());
  Value factor = d.f32(getFactor().convertToFloat());
  return Values{generateLike(d, getInput(), [&](Indices i) {
    return d.mul(d.at(getInput(), i), factor);
  })};
}

FailureOr<Values> SplitOp::decompose(OpBuilder &builder) {
  DefinitionBuilder d(builder, getLoc());
  Values results;
  int64_t offset = 0;
  for (Value part : getParts()) {
    auto type = cast<RankedTensorType>(part.getType());
    Values sizes = d.rowSizes(type, getInput());
    results.push_back(d.generate(type, sizes, [&](Indices i) {
      return d.at(getInput(), {i[0], d.add(i[1], offset)});
    }));
    offset += type.getDimSize(1);
  }
  return results;
}

FailureOr<Values> SplitHeadsOp::decompose(OpBuilder &builder) {
  DefinitionBuilder d(builder, getLoc());
  auto type = cast<RankedTensorType>(getType());
  Values sizes;
  if (type.isDynamicDim(1))
    sizes.push_back(d.dim(getInput(), 0));
  return Values{d.generate(type, sizes, [&](Indices i) {
    Value head = d.div(i[0], getRepeat());
    Value column = d.add(d.mul(head, type.getDimSize(2)), i[2]);
    return d.at(getInput(), {i[1], column});
  })};
}

FailureOr<Values> MergeHeadsOp::decompose(OpBuilder &builder) {
  DefinitionBuilder d(builder, getLoc());
  auto type = cast<RankedTensorType>(getType());
  int64_t headDim = cast<RankedTensorType>(getInput().getType()).getDimSize(2);
  Values sizes = d.rowSizes(type, getInput(), 1);
  return Values{d.generate(type, sizes, [&](Indices i) {
    return d.at(getInput(), {d.div(i[1], headDim), i[0], d.rem(i[1], headDim)});
  })};
}

FailureOr<Values> MatmulOp::decompose(OpBuilder &builder) {
  DefinitionBuilder d(builder, getLoc());
  auto type = cast<RankedTensorType>(getType());
  Values sizes = d.rowSizes(type, getLhs());
  if (type.isDynamicDim(1))
    sizes.push_back(d.dim(getLhs(), 1));
  if (type.isDynamicDim(2))
    sizes.push_back(d.dim(getRhs(), getTransposeRhs() ? 1 : 2));
  return Values{d.generate(type, sizes, [&](Indices i) {
    return d.sum(d.index(0), d.dim(getLhs(), 2), d.f32(0), [&](Value k) {
      Value right = getTransposeRhs() ? d.at(getRhs(), {i[0], i[2], k})
                                      : d.at(getRhs(), {i[0], k, i[2]});
      return d.mul(d.at(getLhs(), {i[0], i[1], k}), right);
    });
  })};
}

FailureOr<Values> CausalMaskOp::decompose(OpBuilder &builder) {
  DefinitionBuilder d(builder, getLoc());
  Value hidden = d.f32(-std::numeric_limits<float>::infinity());
  return Values{generateLike(d, getInput(), [&](Indices i) {
    Value start = d.windowStart(d.add(i[1], 1), getWindow());
    Value seen = d.both(d.lessEqual(start, i[2]), d.lessEqual(i[2], i[1]));
    return d.select(seen, d.at(getInput(), i), hidden);
  })};
}

FailureOr<Values> SoftmaxOp::decompose(OpBuilder &builder) {
  DefinitionBuilder d(builder, getLoc());
  int64_t last = cast<RankedTensorType>(getInput().getType()).getRank() - 1;
  Value count = d.dim(getInput(), last);
  auto at = [&](Indices i, Value k) {
    Values indices(i);
    indices[last] = k;
    return d.at(getInput(), indices);
  };
  return Values{generateLike(d, getInput(), [&](Indices i) {
    Value largest = d.loop(d.index(0), count,
                           {d.f32(-std::numeric_limits<float>::infinity())},
                           [&](Value k, ArrayRef<Value> carried) {
                             return Values{d.maximum(carried[0], at(i, k))};
                           })[0];
    Value sum = d.sum(d.index(0), count, d.f32(0),
                      [&](Value k) { return d.exp(d.sub(at(i, k), largest)); });
    return d.divide(d.exp(d.sub(d.at(getInput(), i), largest)), sum);
  })};
}

//===- PagedAttentionTest.cpp - The kernel of qlm.paged_attention ---------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "PagedCase.h"

using namespace mlir::qlm::cpu::test;

static constexpr float kScale = 0.25f;

static std::string getText(const PagedCase &c) {
  std::string query = getTensor({-1, c.sizes.heads * c.sizes.headDim}, "f32");
  std::string cache = c.cacheType(), i = "tensor<?xi32>",
              tables = "tensor<?x?xi32>";
  return "func.func @f(%q: " + query + ", %c: " + cache + ", %p: " + i +
         ", %s: " + i + ", %b: " + tables + ") {\n" +
         "%y = qlm.paged_attention %q, %c at %p, %s, %b" +
         c.sizes.attributes() + " scale 2.5e-01 : (" + query + ", " + cache +
         ", " + i + ", " + i + ", " + tables + ") -> " + query + "\nreturn\n}";
}

namespace {
/// Keys and values at all positions up to the last token's, NaN elsewhere.
struct Inputs {
  Inputs(const PagedCase &c, float scale)
      : query(Random(9).floats(c.tokens() * c.sizes.heads * c.sizes.headDim,
                               scale)),
        cache(c.sizes.type, c.cacheCount()), positions(c.positions),
        sequences(c.sequences), tables(c.tables) {
    Random random(10);
    for (int64_t t = 0; t < c.tokens(); ++t)
      for (int64_t u = 0; u <= c.positions[t]; ++u)
        for (int64_t h = 0; h < c.sizes.kvHeads; ++h)
          for (bool isValue : {false, true}) {
            std::vector<float> row = random.floats(c.sizes.headDim);
            for (int64_t d = 0; d < c.sizes.headDim; ++d) {
              size_t i = c.cacheIndex(c.sequences[t], u, isValue, h, d);
              if (cache.isPoisoned(i))
                cache.set(i, row[d]);
            }
          }
  }

  Buffer<float> query;
  FloatBuffer cache;
  Buffer<int32_t> positions, sequences, tables;
};

class PagedAttentionTest : public testing::TestWithParam<std::string> {
protected:
  void check(const PagedCase &c, float queryScale, double tolerance);
};
} // namespace

/// Attention of token \p t and head \p h, in f64.
static std::vector<double> getExpected(const PagedCase &c, const Inputs &in,
                                       int64_t t, int64_t h) {
  const HeadSizes &s = c.sizes;
  int64_t kvHead = h / (s.heads / s.kvHeads), keys = c.positions[t] + 1;
  auto cached = [&](int64_t u, bool isValue, int64_t d) -> double {
    return in.cache.get(c.cacheIndex(c.sequences[t], u, isValue, kvHead, d));
  };
  std::vector<double> scores(keys), result(s.headDim);
  for (int64_t u = 0; u < keys; ++u) {
    for (int64_t d = 0; d < s.headDim; ++d)
      scores[u] +=
          in.query[(t * s.heads + h) * s.headDim + d] * cached(u, false, d);
    scores[u] *= kScale;
  }
  double largest = *std::max_element(scores.begin(), scores.end()), sum = 0;
  for (int64_t u = 0; u < keys; ++u) {
    double weight = std::exp(scores[u] - largest);
    sum += weight;
    for (int64_t d = 0; d < s.headDim; ++d)
      result[d] += weight * cached(u, true, d);
  }
  for (double &value : result)
    value /= sum;
  return result;
}

void PagedAttentionTest::check(const PagedCase &c, float queryScale,
                               double tolerance) {
  const HeadSizes &s = c.sizes;
  SCOPED_TRACE(s.toString());
  CompiledKernel kernel(GetParam(), getText(c),
                        {c.tokens(), c.sequenceCount, 1});
  Inputs in(c, queryScale);
  Buffer<float> y(c.tokens() * s.heads * s.headDim);
  kernel.run({in.query.data(), in.cache.data(), in.positions.data(),
              in.sequences.data(), in.tables.data(), y.data()},
             c.stepSizes(), 3);
  for (int64_t t = 0; t < c.tokens(); ++t)
    for (int64_t h = 0; h < s.heads; ++h)
      ASSERT_LT(getRelativeError(y.data() + (t * s.heads + h) * s.headDim,
                                 getExpected(c, in, t, h), s.headDim),
                tolerance)
          << "token " << t << ", head " << h;
  EXPECT_TRUE(y.isIntact());
}

TEST_P(PagedAttentionTest, EqualsFormula) {
  for (const HeadSizes &sizes : kHeadSizes)
    check(PagedCase(sizes, {{0, 3}, {14, 18}, {100, 101}, {47, 49}}), 1.0f,
          2e-6);
}

// Scores up to some hundreds: one key takes nearly all the weight, and the
// largest score grows from block to block.
TEST_P(PagedAttentionTest, LargeScores) {
  check(PagedCase({8, 2, 32, 16, FloatType::F32}, {{90, 91}}), 60.0f, 1e-4);
}

// A token alone gives the same bits as in a batch with others.
TEST_P(PagedAttentionTest, IsBatchInvariant) {
  HeadSizes sizes{8, 2, 24, 16, FloatType::F32};
  PagedCase batch(sizes, {{0, 4}, {70, 75}, {20, 21}});
  CompiledKernel kernel(GetParam(), getText(batch), {batch.tokens(), 3, 1});
  Inputs in(batch, 1.0f);
  int64_t row = sizes.heads * sizes.headDim;
  Buffer<float> y(batch.tokens() * row);
  kernel.run({in.query.data(), in.cache.data(), in.positions.data(),
              in.sequences.data(), in.tables.data(), y.data()},
             batch.stepSizes(), 5);
  for (int64_t t = 0; t < batch.tokens(); ++t) {
    Buffer<float> query(std::vector<float>(in.query.data() + t * row,
                                           in.query.data() + (t + 1) * row));
    Buffer<int32_t> position(std::vector<int32_t>{batch.positions[t]});
    Buffer<int32_t> sequence(std::vector<int32_t>{batch.sequences[t]});
    Buffer<float> z(row);
    kernel.run({query.data(), in.cache.data(), position.data(), sequence.data(),
                in.tables.data(), z.data()},
               {1, 3, 1, batch.maxPages}, 1);
    for (int64_t i = 0; i < row; ++i)
      ASSERT_EQ(y[t * row + i], z[i]);
  }
}

// Code for other machines is made here too, though it can't run.
TEST(PagedAttentionTargets, EveryNamedTargetCompiles) {
  PagedCase c({8, 2, 24, 16, FloatType::BF16}, {{0, 1}});
  for (const char *target : {"x86-64-v3", "x86-64-v4", "sapphirerapids"})
    EXPECT_TRUE(CompiledKernel(target, getText(c), {1, 1, 1})) << target;
}

INSTANTIATE_TEST_SUITE_P(Targets, PagedAttentionTest,
                         testing::ValuesIn(getRunnableTargets()));

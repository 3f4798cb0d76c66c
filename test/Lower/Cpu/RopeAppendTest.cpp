//===- RopeAppendTest.cpp - The kernel of qlm.rope_append -----------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "PagedCase.h"

using namespace mlir::qlm::cpu::test;

static constexpr int64_t kContext = 64;

static std::string getText(const PagedCase &c) {
  const HeadSizes &s = c.sizes;
  std::string qkv =
      getTensor({-1, (s.heads + 2 * s.kvHeads) * s.headDim}, "f32");
  std::string table = getTensor({kContext, s.headDim / 2, 2}, "f32");
  std::string query = getTensor({-1, s.heads * s.headDim}, "f32");
  std::string cache = c.cacheType(), i = "tensor<?xi32>",
              tables = "tensor<?x?xi32>";
  return "func.func @f(%x: " + qkv + ", %t: " + table + ", %c: " + cache +
         ", %p: " + i + ", %s: " + i + ", %b: " + tables + ") {\n" +
         "%q, %u = qlm.rope_append %x, %t, %c at %p, %s, %b" + s.attributes() +
         " : (" + qkv + ", " + table + ", " + cache + ", " + i + ", " + i +
         ", " + tables + ") -> (" + query + ", " + cache + ")\nreturn\n}";
}

namespace {
class RopeAppendTest : public testing::TestWithParam<std::string> {
protected:
  void check(const PagedCase &c, float factor = 1.0f);
};
} // namespace

/// Checks every element of the queries and every byte of the cache, exactly:
/// the kernel rounds each product and each sum, as this loop does.
void RopeAppendTest::check(const PagedCase &c, float factor) {
  const HeadSizes &s = c.sizes;
  SCOPED_TRACE(s.toString());
  CompiledKernel kernel(GetParam(), getText(c),
                        {c.tokens(), c.sequenceCount, 1});
  int64_t half = s.headDim / 2;
  int64_t width = (s.heads + 2 * s.kvHeads) * s.headDim;
  Random random(s.headDim);
  Buffer<float> qkv(random.floats(c.tokens() * width, factor));
  Buffer<float> table(random.floats(kContext * s.headDim));
  Buffer<int32_t> positions(c.positions), sequences(c.sequences),
      tables(c.tables);
  CacheBuffer cache(c), expected(c);
  Buffer<float> query(c.tokens() * s.heads * s.headDim);
  kernel.run({qkv.data(), table.data(), cache.data(), positions.data(),
              sequences.data(), tables.data(), query.data()},
             c.stepSizes(), 3);

  for (int64_t t = 0; t < c.tokens(); ++t) {
    const float *angles = table.data() + c.positions[t] * s.headDim;
    auto rotated = [&](int64_t head, int64_t d) {
      const float *x = qkv.data() + t * width + head * s.headDim;
      float cosine = angles[2 * (d % half)], sine = angles[2 * (d % half) + 1];
      return d < half ? x[d] * cosine - x[d + half] * sine
                      : x[d] * cosine + x[d - half] * sine;
    };
    for (int64_t h = 0; h < s.heads; ++h)
      for (int64_t d = 0; d < s.headDim; ++d)
        ASSERT_EQ(query[(t * s.heads + h) * s.headDim + d], rotated(h, d))
            << "token " << t << ", head " << h << ", feature " << d;
    for (int64_t h = 0; h < s.kvHeads; ++h) {
      std::vector<float> key, value;
      for (int64_t d = 0; d < s.headDim; ++d) {
        key.push_back(rotated(s.heads + h, d));
        value.push_back(
            qkv[t * width + (s.heads + s.kvHeads + h) * s.headDim + d]);
      }
      expected.set(c.sequences[t], c.positions[t], false, h, key);
      expected.set(c.sequences[t], c.positions[t], true, h, value);
    }
  }
  // The other bytes keep their poison.
  for (size_t i = 0; i < cache.size(); ++i)
    ASSERT_EQ(cache[i], expected[i]) << "byte " << i;
  EXPECT_TRUE(cache.isIntact() && query.isIntact());
}

TEST_P(RopeAppendTest, EqualsFormula) {
  for (const HeadSizes &sizes : kHeadSizes)
    check(PagedCase(sizes, {{0, 5}, {15, 18}, {63, 64}, {31, 32}}));
}

// Rows of zeros have scale 0 and codes 0, whatever they are divided by; the
// scales of large and of small rows are exact quotients.
TEST_P(RopeAppendTest, ExtremeRows) {
  for (Codes codes : {Codes::Int8, Codes::Fp8})
    for (float factor : {0.0f, 1e-30f, 1e30f})
      check(PagedCase({4, 2, 20, 16, codes}, {{3, 6}}), factor);
}

INSTANTIATE_TEST_SUITE_P(Targets, RopeAppendTest,
                         testing::ValuesIn(getRunnableTargets()));

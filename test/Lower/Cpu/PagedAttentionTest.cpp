//===- PagedAttentionTest.cpp - The kernel of qlm.paged_attention ---------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "PagedCase.h"

using namespace mlir::qlm::cpu::test;

static constexpr float kScale = 0.25f;
/// Bound of the relative error of results in matrix registers. A query there
/// is off by 2^-17 of itself, so a weight is by 2^-17 times the magnitude of
/// its score; those of these tests come to about 10. One bf16 for a query, not
/// two, would be off by 256 times as much.
static constexpr double kTileTolerance = 1e-4;

static std::string getText(const PagedCase &c) {
  std::string query = getTensor({-1, c.sizes.heads * c.sizes.headDim}, "f32");
  std::string cache = c.cacheType(), i = "tensor<?xi32>",
              tables = "tensor<?x?xi32>";
  return "func.func @f(%q: " + query + ", %c: " + cache + ", %p: " + i +
         ", %s: " + i + ", %b: " + tables + ") {\n" +
         "%y = qlm.paged_attention %q, %c at %p, %s, %b" +
         c.sizes.attributes() + " scale 2.5e-01" +
         (c.window ? " window " + std::to_string(c.window) : "") + " : (" +
         query + ", " + cache + ", " + i + ", " + i + ", " + tables + ") -> " +
         query + "\nreturn\n}";
}

namespace {
/// Keys and values at all positions up to the last token's, NaN elsewhere.
struct Inputs {
  Inputs(const PagedCase &c, float scale)
      : query(Random(9).floats(c.tokens() * c.sizes.heads * c.sizes.headDim,
                               scale)),
        cache(c), positions(c.positions), sequences(c.sequences),
        tables(c.tables) {
    Random random(10);
    for (int64_t t = 0; t < c.tokens(); ++t)
      for (int64_t u = 0; u <= c.positions[t]; ++u)
        for (int64_t h = 0; h < c.sizes.kvHeads; ++h)
          for (bool isValue : {false, true}) {
            std::vector<float> row = random.floats(c.sizes.headDim);
            if (cache.isPoisoned(c.sequences[t], u, isValue, h))
              cache.set(c.sequences[t], u, isValue, h, row);
          }
  }

  Buffer<float> query;
  CacheBuffer cache;
  Buffer<int32_t> positions, sequences, tables;
};

class PagedAttentionTest : public testing::TestWithParam<std::string> {
protected:
  void check(const PagedCase &c, float queryScale, double tolerance);
  void checkBits(const HeadSizes &sizes, int64_t window);
  void checkLaterTokens(const HeadSizes &sizes);
  void checkEarlierTokens(const HeadSizes &sizes);

  /// Whether the target is there for its matrix registers alone.
  bool isForTiles() const {
    return llvm::StringRef(GetParam()).ends_with("+tiles");
  }
  /// Whether a cache of these sizes meets queries in matrix registers.
  bool takesTiles(const HeadSizes &sizes) const {
    llvm::Expected<mlir::qlm::cpu::Target> target =
        mlir::qlm::cpu::Target::get(GetParam());
    bool hasTiles = isForTiles() || (target && target->amxBf16);
    if (!target)
      llvm::consumeError(target.takeError());
    return hasTiles &&
           (sizes.codes != Codes::None || sizes.type == FloatType::BF16);
  }
};
} // namespace

/// Attention of token \p t and head \p h, in f64.
static std::vector<double> getExpected(const PagedCase &c, const Inputs &in,
                                       int64_t t, int64_t h) {
  const HeadSizes &s = c.sizes;
  int64_t kvHead = h / (s.heads / s.kvHeads), keys = c.positions[t] + 1;
  int64_t first = c.firstKey(t);
  std::vector<double> scores(keys), result(s.headDim);
  for (int64_t u = first; u < keys; ++u) {
    std::vector<float> key = in.cache.get(c.sequences[t], u, false, kvHead);
    for (int64_t d = 0; d < s.headDim; ++d)
      scores[u] +=
          static_cast<double>(in.query[(t * s.heads + h) * s.headDim + d]) *
          key[d];
    scores[u] *= kScale;
  }
  double largest = *std::max_element(scores.begin() + first, scores.end());
  double sum = 0;
  for (int64_t u = first; u < keys; ++u) {
    std::vector<float> value = in.cache.get(c.sequences[t], u, true, kvHead);
    double weight = std::exp(scores[u] - largest);
    sum += weight;
    for (int64_t d = 0; d < s.headDim; ++d)
      result[d] += weight * value[d];
  }
  for (double &value : result)
    value /= sum;
  return result;
}

void PagedAttentionTest::check(const PagedCase &c, float queryScale,
                               double tolerance) {
  const HeadSizes &s = c.sizes;
  SCOPED_TRACE(s.toString());
  // Other types take the same kernels as without matrix registers.
  if (isForTiles() && !takesTiles(s))
    return;
  // Queries and weights are sums of two bf16 in them.
  if (takesTiles(s))
    tolerance = std::max(tolerance, kTileTolerance);
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

// The least and the largest heads and groups, blocks of keys that end with a
// page or not, runs of rows that end at any border.
TEST_P(PagedAttentionTest, ExtremeShapes) {
  const std::vector<std::pair<int32_t, int32_t>> ranges = {
      {0, 1}, {15, 17}, {63, 66}, {127, 128}, {0, 70}, {128, 129}};
  for (const HeadSizes &sizes : {HeadSizes{32, 1, 256, 16, FloatType::BF16},
                                 HeadSizes{2, 1, 256, 16, FloatType::F32},
                                 HeadSizes{65, 1, 4, 16, FloatType::F16},
                                 HeadSizes{7, 7, 2, 80, FloatType::BF16},
                                 HeadSizes{14, 2, 66, 32, FloatType::F32},
                                 HeadSizes{16, 1, 18, 64, FloatType::F16},
                                 HeadSizes{5, 1, 130, 48, FloatType::F32},
                                 HeadSizes{65, 1, 4, 16, Codes::Int8},
                                 HeadSizes{7, 7, 2, 80, Codes::Fp8},
                                 HeadSizes{3, 1, 130, 48, Codes::Int8},
                                 HeadSizes{2, 1, 256, 16, Codes::Fp8}})
    // Scores of the order of 1, as in a model; their rounding errors grow with
    // the number of features.
    check(PagedCase(sizes, ranges),
          std::min(1.0f, 4.0f / std::sqrt(float(sizes.headDim))), 4e-6);
}

// Windows of one key, odd ones, of a block and beside it, as long as the
// sequence and longer; of short and long runs.
TEST_P(PagedAttentionTest, WindowsEqualFormula) {
  const std::pair<int64_t, HeadSizes> windows[] = {
      {1, {8, 1, 16, 32, FloatType::BF16}},
      {3, {9, 3, 34, 16, FloatType::F32}},
      {16, {4, 4, 6, 16, FloatType::F32}},
      {37, {6, 2, 8, 16, FloatType::F16}},
      {37, {8, 2, 64, 16, Codes::Int8}},
      {63, {10, 5, 80, 48, Codes::Fp8}},
      {64, {8, 4, 64, 16, FloatType::BF16}},
      {65, {3, 1, 20, 16, Codes::Int8}},
      {65, {9, 3, 34, 16, FloatType::F32}},
      {140, {6, 2, 8, 16, FloatType::F16}},
      {201, {4, 2, 32, 16, Codes::Fp8}},
      {999, {4, 4, 6, 16, FloatType::F32}}};
  for (const auto &[window, sizes] : windows) {
    SCOPED_TRACE("window " + std::to_string(window));
    PagedCase c(sizes,
                {{0, 3}, {14, 18}, {200, 201}, {47, 49}, {0, 140}, {126, 132}});
    c.window = window;
    check(c, std::min(1.0f, 4.0f / std::sqrt(float(sizes.headDim))), 4e-6);
  }
}

/// Runs the step that holds only the given rows of a case, in their order;
/// gives their results.
static std::vector<float> attend(const CompiledKernel &kernel,
                                 const PagedCase &c, Inputs &in,
                                 const std::vector<int64_t> &rows,
                                 int64_t parts) {
  int64_t width = c.sizes.heads * c.sizes.headDim;
  Buffer<float> query(rows.size() * width), y(rows.size() * width);
  Buffer<int32_t> positions(rows.size()), sequences(rows.size());
  for (auto [i, row] : llvm::enumerate(rows)) {
    std::copy_n(in.query.data() + row * width, width, &query[i * width]);
    positions[i] = c.positions[row];
    sequences[i] = c.sequences[row];
  }
  kernel.run(
      {query.data(), in.cache.data(), positions.data(), sequences.data(),
       in.tables.data(), y.data()},
      {static_cast<int64_t>(rows.size()), c.sequenceCount, 1, c.maxPages},
      parts);
  EXPECT_TRUE(y.isIntact());
  return y.toVector();
}

/// Row \p row of \p actual has the bits of row \p expectedRow of \p expected.
static bool haveSameBits(const std::vector<float> &actual, int64_t row,
                         const std::vector<float> &expected,
                         int64_t expectedRow, int64_t width) {
  return memcmp(&actual[row * width], &expected[expectedRow * width],
                width * sizeof(float)) == 0;
}

// A row gives the same bits alone, in any chunk of its prompt, beside rows of
// other sequences, in any order of the rows, and on any number of threads.
TEST_P(PagedAttentionTest, BitsDontDependOnTheStep) {
  for (const HeadSizes &sizes : {HeadSizes{8, 2, 24, 16, FloatType::F32},
                                 HeadSizes{2, 2, 64, 16, FloatType::F16},
                                 HeadSizes{9, 1, 40, 48, FloatType::BF16},
                                 HeadSizes{3, 1, 130, 32, FloatType::F32},
                                 HeadSizes{8, 2, 24, 16, Codes::Int8},
                                 HeadSizes{9, 1, 40, 48, Codes::Fp8}})
    checkBits(sizes, /*window=*/0);
}

TEST_P(PagedAttentionTest, BitsOfWindowsDontDependOnTheStep) {
  checkBits({8, 2, 24, 16, FloatType::F32}, 41);
  checkBits({9, 1, 40, 48, FloatType::BF16}, 70);
  checkBits({8, 2, 24, 16, Codes::Int8}, 7);
}

void PagedAttentionTest::checkBits(const HeadSizes &sizes, int64_t window) {
  SCOPED_TRACE(sizes.toString());
  if (isForTiles() && !takesTiles(sizes))
    return;
  PagedCase c(sizes, {{0, 150}, {70, 75}, {20, 21}, {62, 67}});
  c.window = window;
  CompiledKernel kernel(GetParam(), getText(c), {c.tokens(), 4, 1});
  Inputs in(c, 1.0f);
  int64_t width = sizes.heads * sizes.headDim;
  std::vector<int64_t> all(c.tokens());
  std::iota(all.begin(), all.end(), 0);
  std::vector<float> expected = attend(kernel, c, in, all, 1);

  auto compare = [&](const std::vector<int64_t> &rows, int64_t parts) {
    std::vector<float> actual = attend(kernel, c, in, rows, parts);
    for (auto [i, row] : llvm::enumerate(rows))
      ASSERT_TRUE(haveSameBits(actual, i, expected, row, width))
          << "row " << row << " of a step of " << rows.size() << ", " << parts
          << " threads";
  };
  for (int64_t parts : {2, 3, 7, 64, 161 * 2})
    compare(all, parts);
  for (int64_t size : {1, 5, 16, 64, 100})
    for (int64_t first = 0; first < c.tokens(); first += size)
      compare({all.begin() + first,
               all.begin() + std::min(first + size, c.tokens())},
              2);
  std::vector<int64_t> shuffled = all;
  std::shuffle(shuffled.begin(), shuffled.end(), std::mt19937(3));
  compare(shuffled, 3);
  // Runs of two and three rows between single ones.
  std::vector<int64_t> gaps;
  for (int64_t row : all)
    if (row % 7 != 2 && row % 5 != 1)
      gaps.push_back(row);
  compare(gaps, 2);
}

// What follows a row's position in its own run is not used, whatever it is.
TEST_P(PagedAttentionTest, LaterTokensAreNotUsed) {
  for (const HeadSizes &sizes : {HeadSizes{4, 2, 40, 16, FloatType::F32},
                                 HeadSizes{4, 2, 40, 16, FloatType::BF16},
                                 HeadSizes{4, 2, 40, 16, Codes::Int8},
                                 HeadSizes{4, 2, 40, 16, Codes::Fp8}})
    checkLaterTokens(sizes);
}

namespace {
/// One sequence whose tokens [first, last) no row may use that doesn't see
/// them.
class SpoiltCase {
public:
  SpoiltCase(const std::string &target, const HeadSizes &sizes, int64_t tokens,
             int64_t window, int64_t first, int64_t last)
      : c(makeCase(sizes, tokens, window)),
        kernel(target, getText(c), {c.tokens(), 1, 1}), in(c, 1.0f),
        all(c.tokens()) {
    std::iota(all.begin(), all.end(), 0);
    expected = attend(kernel, c, in, all, 1);
    for (int64_t u = first; u < last; ++u)
      for (int64_t h = 0; h < sizes.kvHeads; ++h)
        for (bool isValue : {false, true})
          in.cache.set(0, u, isValue, h,
                       std::vector<float>(
                           sizes.headDim,
                           u % 2 ? std::numeric_limits<float>::infinity()
                                 : std::numeric_limits<float>::quiet_NaN()));
  }

  std::vector<float> run(const std::vector<int64_t> &rows) {
    return attend(kernel, c, in, rows, 1);
  }
  /// Row \p t, place \p i of \p actual, has the bits of before, or NaN where
  /// it sees a spoilt token.
  void compare(const std::vector<float> &actual, int64_t i, int64_t t,
               bool seesSpoilt) const {
    int64_t width = c.sizes.heads * c.sizes.headDim;
    if (seesSpoilt)
      EXPECT_TRUE(std::isnan(actual[i * width])) << "token " << t;
    else
      EXPECT_TRUE(haveSameBits(actual, i, expected, t, width)) << "token " << t;
  }

  PagedCase c;
  CompiledKernel kernel;
  Inputs in;
  std::vector<int64_t> all;
  std::vector<float> expected;

private:
  static PagedCase makeCase(const HeadSizes &sizes, int64_t tokens,
                            int64_t window) {
    PagedCase c(sizes, {{0, tokens}});
    c.window = window;
    return c;
  }
};
} // namespace

void PagedAttentionTest::checkLaterTokens(const HeadSizes &sizes) {
  SCOPED_TRACE(sizes.toString());
  if (isForTiles() && !takesTiles(sizes))
    return;
  constexpr int64_t kTokens = 90, kFirstBad = 37;
  SpoiltCase spoilt(GetParam(), sizes, kTokens, /*window=*/0, kFirstBad,
                    kTokens);
  std::vector<float> actual = spoilt.run(spoilt.all);
  for (int64_t t : spoilt.all)
    spoilt.compare(actual, t, t, t >= kFirstBad);
}

// What stands before a row's window is not used either: the pages may be
// another sequence's by then.
TEST_P(PagedAttentionTest, TokensBeforeTheWindowAreNotUsed) {
  for (const HeadSizes &sizes : {HeadSizes{4, 2, 40, 16, FloatType::F32},
                                 HeadSizes{4, 2, 40, 16, FloatType::BF16},
                                 HeadSizes{4, 2, 40, 16, Codes::Int8},
                                 HeadSizes{4, 2, 40, 16, Codes::Fp8}})
    checkEarlierTokens(sizes);
}

void PagedAttentionTest::checkEarlierTokens(const HeadSizes &sizes) {
  SCOPED_TRACE(sizes.toString());
  if (isForTiles() && !takesTiles(sizes))
    return;
  constexpr int64_t kWindow = 50, kLastBad = 70;
  SpoiltCase spoilt(GetParam(), sizes, /*tokens=*/190, kWindow, /*first=*/0,
                    kLastBad + 1);
  // Together with rows that see bad keys, and alone.
  std::vector<float> actual = spoilt.run(spoilt.all);
  for (int64_t t : spoilt.all)
    spoilt.compare(actual, t, t, t - kWindow + 1 <= kLastBad);
  for (int64_t t : {120, 127, 128, 189})
    spoilt.compare(spoilt.run({t}), 0, t, t - kWindow + 1 <= kLastBad);
}

// Code for other machines is made here too, though it can't run.
TEST(PagedAttentionTargets, EveryNamedTargetCompiles) {
  PagedCase c({8, 2, 24, 16, FloatType::BF16}, {{0, 1}});
  for (const char *target : {"x86-64-v3", "x86-64-v4", "sapphirerapids"})
    EXPECT_TRUE(CompiledKernel(target, getText(c), {1, 1, 1})) << target;
}

static std::vector<std::string> getTargets() {
  std::vector<std::string> targets = getRunnableTargets();
  targets.push_back("x86-64-v3+tiles");
  return targets;
}

INSTANTIATE_TEST_SUITE_P(Targets, PagedAttentionTest,
                         testing::ValuesIn(getTargets()));

//===- EngineTest.cpp - Requests that run side by side --------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "EngineFixture.h"

#include <algorithm>
#include <cmath>

using namespace qlm;
using namespace qlm::test;

namespace {
class EngineTest : public EngineFixture {};
} // namespace

TEST_F(EngineTest, ContinuesTheAlphabetToTheEnd) {
  open();
  GenerationResult result = run(ask("wxy", 100));
  EXPECT_EQ(result.tokens, (std::vector<int32_t>{25, 26, 27, 28, fakeEos}));
  EXPECT_EQ(result.text, "z .\n");
  EXPECT_EQ(result.reason, FinishReason::Stop);
  EXPECT_EQ(result.promptTokens, 3);
  EXPECT_GT(result.firstTokenSeconds, 0);
}

TEST_F(EngineTest, EndsAtTheLengthAskedFor) {
  open();
  GenerationResult result = run(ask("a", 4));
  EXPECT_EQ(result.text, "bcde");
  EXPECT_EQ(result.reason, FinishReason::Length);
  result = run(ask("a", 0));
  EXPECT_TRUE(result.tokens.empty());
  EXPECT_EQ(result.reason, FinishReason::Length);
}

TEST_F(EngineTest, EndsAtTheContext) {
  open({/*maxBatch=*/1, /*maxContext=*/10, /*maxStepTokens=*/4});
  GenerationResult result = run(ask("abcdefg", INT64_MAX));
  EXPECT_EQ(result.text, "hij");
  EXPECT_EQ(result.reason, FinishReason::Length);
  EXPECT_EQ(run(ask("abcdefghij", 5)).tokens.size(), 0u);
  EXPECT_EQ(refusal(ask("abcdefghijk", 5)),
            "prompt has 11 tokens, the package's context holds 10");
}

TEST_F(EngineTest, StopsBeforeAStopStringThatSpansTokens) {
  open();
  Request request = ask("a", 20);
  request.stops = {"xyz", "ghi", "hij"};
  std::string streamed;
  request.onToken = [&](int32_t, std::string_view text) {
    streamed += text;
    return true;
  };
  GenerationResult result = run(request);
  EXPECT_EQ(result.text, "bcdef");
  EXPECT_EQ(streamed, "bcdef");
  EXPECT_EQ(result.reason, FinishReason::Stop);
  EXPECT_EQ(result.tokens.back(), 8) << "the token that completed it";
}

TEST_F(EngineTest, ShowsHeldTextWhenAStopStringStaysUnfinished) {
  open();
  Request request = ask("a", 3);
  request.stops = {"cdef"};
  EXPECT_EQ(run(request).text, "bcd");
}

TEST_F(EngineTest, GoesPastTheEndWhenAsked) {
  open();
  Request request = ask("z", 5);
  request.ignoreEos = true;
  EXPECT_EQ(run(request).tokens, (std::vector<int32_t>{26, 27, 28, 29, 30}));
}

TEST_F(EngineTest, TakesTheEndFromTheGenerationConfig) {
  open({}, {}, [](const FakePackage &package) {
    package.write("generation_config.json", R"({"eos_token_id": [3, 9]})");
  });
  EXPECT_EQ(run(ask("a", 20)).tokens, (std::vector<int32_t>{1, 2, 3}));
}

TEST_F(EngineTest, CallbackCanCancel) {
  open();
  Request request = ask("a", 20);
  request.onToken = [](int32_t token, std::string_view) { return token < 4; };
  GenerationResult result = run(request);
  EXPECT_EQ(result.reason, FinishReason::Cancelled);
  EXPECT_EQ(result.text, "bcde");
}

TEST_F(EngineTest, TextDoesNotDependOnWhatRunsBeside) {
  open({/*maxBatch=*/3, /*maxContext=*/64, /*maxStepTokens=*/5});
  // More requests than places, prompts longer than a step, all ends at once.
  std::vector<Request> requests;
  for (int i = 0; i < 9; ++i) {
    Request request =
        ask(std::string("abcdefghijklmnopqrst").substr(0, 1 + 2 * i),
            3 + 5 * i % 17);
    request.sampling.temperature = i % 2 ? 3.0f : 0.0f;
    request.sampling.seed = static_cast<uint64_t>(i);
    request.logProbabilities = true;
    requests.push_back(request);
  }
  std::vector<GenerationResult> together = *model->generate(requests);
  ASSERT_EQ(together.size(), requests.size());
  for (size_t i = 0; i < requests.size(); ++i) {
    GenerationResult alone = run(requests[i]);
    EXPECT_EQ(together[i].tokens, alone.tokens) << i;
    EXPECT_EQ(together[i].text, alone.text) << i;
    EXPECT_EQ(together[i].logProbabilities, alone.logProbabilities) << i;
    EXPECT_EQ(together[i].reason, alone.reason) << i;
  }
}

TEST_F(EngineTest, EverySequenceAdvancesWhenAStepHoldsFewer) {
  open({/*maxBatch=*/4, /*maxContext=*/32, /*maxStepTokens=*/2});
  std::vector<Request> requests(4, ask("abc", 10));
  std::vector<std::vector<int32_t>> order;
  std::vector<int> seen;
  for (size_t i = 0; i < requests.size(); ++i)
    requests[i].onToken = [&seen, i](int32_t, std::string_view) {
      seen.push_back(static_cast<int>(i));
      return true;
    };
  std::vector<GenerationResult> results = *model->generate(requests);
  for (const GenerationResult &result : results)
    EXPECT_EQ(result.text, "defghijklm");
  // None waits until another is done.
  auto last = std::find(seen.rbegin(), seen.rend(), 0).base() - seen.begin();
  auto firstOfLast = std::find(seen.begin(), seen.end(), 3) - seen.begin();
  EXPECT_LT(firstOfLast, last);
}

TEST_F(EngineTest, AFailingRequestLeavesItsNeighboursAlone) {
  open();
  Request poisoned = ask("a", 5);
  poisoned.prompt.push_back(fakePoison);
  std::vector<GenerationResult> results =
      *model->generate({ask("ab", 5), poisoned, ask("fg", 5)});
  EXPECT_EQ(results[0].text, "cdefg");
  EXPECT_EQ(results[2].text, "hijkl");
  EXPECT_EQ(results[1].reason, FinishReason::Error);
  EXPECT_EQ(results[1].status.message(),
            "the model's logits are not finite numbers");
  // Its pages are free again, and clean for who gets them next.
  EXPECT_EQ(run(ask("abcdefgh", 3)).text, "ijk");
}

TEST_F(EngineTest, RefusesRequestsThatBreakARule) {
  open();
  Request empty;
  EXPECT_EQ(refusal(empty), "prompt has no tokens");
  Request outside = ask("a", 3);
  outside.prompt.push_back(32);
  EXPECT_EQ(refusal(outside), "token id must be from 0 to 31, got 32");
  EXPECT_EQ(refusal(ask("a", -1)),
            "max_new_tokens must not be negative, got -1");
  Request stop = ask("a", 1);
  stop.stops = {""};
  EXPECT_EQ(refusal(stop), "stop string is empty");
  Request hot = ask("a", 1);
  hot.sampling.temperature = -1;
  EXPECT_EQ(refusal(hot), "temperature must be from 0 to 100, got -1.000000");
  EXPECT_EQ(model->generate({ask("a", 1), empty}).status().message(),
            "prompt 2: prompt has no tokens");
  EXPECT_EQ(run(ask("a", 2)).text, "bc") << "the model still works";
}

TEST_F(EngineTest, WorksOnTokensWithoutATokenizer) {
  open({}, {}, [](const FakePackage &package) {
    Json manifest = package.readManifest();
    manifest["files"] = Json::object();
    package.writeManifest(manifest);
    ASSERT_EQ(std::remove(package.file("tokenizer.json").c_str()), 0);
  });
  Request request;
  request.prompt = {4};
  request.maxNewTokens = 2;
  EXPECT_EQ(run(request).tokens, (std::vector<int32_t>{5, 6}));
  EXPECT_NE(model->encode("a").status().message().find("has no tokenizer.json"),
            std::string::npos);
  request.stops = {"x"};
  EXPECT_EQ(refusal(request),
            "stop strings need a tokenizer, the package has none");
}

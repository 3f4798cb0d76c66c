//===- ServingTest.cpp - Many requests, short of pages and of luck --------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "EngineFixture.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <thread>

using namespace qlm;
using namespace qlm::test;

namespace {
class ServingTest : public EngineFixture {
protected:
  Engine &engine() { return model->getEngine(); }

  int64_t add(Request request) {
    int64_t number = engine().newNumber();
    Status status = engine().add(number, std::move(request));
    EXPECT_TRUE(status.ok()) << status.message();
    return number;
  }
  void runAll() {
    while (engine().step())
      ASSERT_EQ(engine().checkInvariants().message(), "");
  }
  GenerationResult takeOne(int64_t number) {
    auto results = engine().take(number);
    EXPECT_TRUE(results.has_value()) << number;
    return results ? std::move(results->front()) : GenerationResult();
  }

  /// Requests of many kinds, the same ones each time.
  std::vector<Request> mixed(int count) {
    std::vector<Request> requests;
    for (int i = 0; i < count; ++i) {
      Request request = ask(
          std::string("abcdefghijklmnopqrstuvwxyz").substr(i % 5, 1 + i % 13),
          1 + 7 * i % 23);
      request.sampling.temperature = i % 3 ? 4.0f : 0.0f;
      request.sampling.topP = i % 4 ? 1.0f : 0.9f;
      request.sampling.frequencyPenalty = i % 6 ? 0.0f : 0.5f;
      request.sampling.seed = static_cast<uint64_t>(i);
      request.logProbabilities = true;
      request.ignoreEos = true;
      // NaN follows the poison, which is a token like any other.
      request.sampling.logitBias = {{fakePoison, -1000.0f}};
      requests.push_back(request);
    }
    return requests;
  }
  static void expectSame(const GenerationResult &a, const GenerationResult &b,
                         size_t which) {
    EXPECT_EQ(a.tokens, b.tokens) << which;
    EXPECT_EQ(a.text, b.text) << which;
    EXPECT_EQ(a.logProbabilities, b.logProbabilities) << which;
    EXPECT_EQ(a.reason, b.reason) << which;
  }
  /// The results of each request in a model of its own time.
  std::vector<GenerationResult> alone(const std::vector<Request> &requests) {
    std::vector<GenerationResult> results;
    for (const Request &request : requests)
      results.push_back(run(request));
    return results;
  }
};

/// Allows the tokens after the last one's letter by \p step.
class StepMask final : public TokenMask {
public:
  explicit StepMask(int32_t step) : step(step) {}
  Status allow(int64_t, const std::vector<int32_t> &generated,
               uint32_t *words) override {
    if (generated.size() == 4)
      return Status(StatusCode::InvalidArgument, "the grammar is at its end");
    int32_t next = generated.empty() ? 0 : generated.back() + step;
    if (next < 26)
      words[0] |= 1u << next;
    return Status();
  }

private:
  int32_t step;
};
} // namespace

TEST_F(ServingTest, OvercommittedLoadFinishesLateAndNeverFails) {
  EngineOptions options;
  options.pages = 9; // three texts of 64 tokens would take 48
  open({/*maxBatch=*/3, /*maxContext=*/64, /*maxStepTokens=*/8}, options);
  EXPECT_EQ(engine().maxContext(), 36);
  std::vector<Request> requests = mixed(40);
  std::vector<GenerationResult> expected = alone(requests);
  std::vector<int64_t> numbers;
  for (const Request &request : requests)
    numbers.push_back(add(request));
  runAll();
  for (size_t i = 0; i < numbers.size(); ++i) {
    GenerationResult result = takeOne(numbers[i]);
    EXPECT_TRUE(result.status.ok()) << result.status.message();
    expectSame(result, expected[i], i);
  }
  EXPECT_GT(engine().getStats().preemptions, 0);
  EXPECT_EQ(engine().getStats().usedPages, 0);
}

TEST_F(ServingTest, APromptThatFillsTheCacheStillRuns) {
  EngineOptions options;
  options.pages = 4;
  open({3, 64, 8}, options);
  std::vector<int64_t> numbers;
  for (int i = 0; i < 3; ++i)
    numbers.push_back(add(ask("abcdefghijklmno", 10)));
  runAll();
  for (int64_t number : numbers)
    EXPECT_EQ(takeOne(number).text, "p") << "16 tokens fit";
  EXPECT_EQ(refusal(ask("abcdefghijklmnopq", 1)),
            "prompt has 17 tokens, the package's context holds 16");
}

TEST_F(ServingTest, KnownBeginningsAreNotComputedAgain) {
  open();
  GenerationResult first = run(ask("abcdefghijklmnop", 6));
  EXPECT_EQ(first.cachedTokens, 0);
  int64_t computed = engine().getStats().promptTokens;
  GenerationResult second = run(ask("abcdefghijklmnop", 6));
  expectSame(first, second, 0);
  EXPECT_EQ(second.cachedTokens, 12);
  EXPECT_EQ(engine().getStats().promptTokens - computed, 4);
  // What was generated is known too: the next turn of a conversation.
  EXPECT_EQ(run(ask("abcdefghijklmnopqrstuv", 2)).cachedTokens, 20);
  // A text of one token leaves its prompt as well.
  run(ask("zyxwvutsrq", 1));
  EXPECT_EQ(run(ask("zyxwvutsrq", 1)).cachedTokens, 8);
  Request scoped = ask("abcdefghijklmnop", 6);
  scoped.cacheScope = 7;
  GenerationResult other = run(scoped);
  EXPECT_EQ(other.cachedTokens, 0);
  expectSame(first, other, 1);
}

TEST_F(ServingTest, ChoicesShareThePromptAndDrawOnTheirOwn) {
  open({/*maxBatch=*/4, /*maxContext=*/64, /*maxStepTokens=*/8});
  Request request = ask("abcdefghijkl", 12);
  request.sampling.temperature = 6;
  request.sampling.seed = 3;
  request.choices = 5;
  int64_t number = add(request);
  runAll();
  std::vector<GenerationResult> results = *engine().take(number);
  ASSERT_EQ(results.size(), 5u);
  for (int64_t i = 0; i < 5; ++i) {
    EXPECT_EQ(results[i].choice, i);
    EXPECT_EQ(results[i].cachedTokens, i ? 8 : 0);
    Request one = request;
    one.choices = 1;
    one.sampling.seed = choiceSeed(3, i);
    EXPECT_EQ(results[i].tokens, run(one).tokens) << i;
  }
  EXPECT_NE(results[0].tokens, results[1].tokens);
  EXPECT_EQ(model->generate({request})->size(), 5u);
}

TEST_F(ServingTest, HigherPriorityTakesAPlace) {
  open({/*maxBatch=*/2, /*maxContext=*/64, /*maxStepTokens=*/8});
  std::vector<char> ends;
  auto watched = [&](const char *prompt, char name, int32_t priority) {
    Request request = ask(prompt, 12);
    request.priority = priority;
    request.onToken = [&ends, name, left = 12](int32_t,
                                               std::string_view) mutable {
      if (--left == 0)
        ends.push_back(name);
      return true;
    };
    return request;
  };
  int64_t low = add(watched("a", 'l', 0)), also = add(watched("b", 'm', 0));
  engine().step();
  engine().step();
  int64_t high = add(watched("c", 'h', 1));
  runAll();
  EXPECT_EQ(ends, (std::vector<char>{'l', 'h', 'm'}))
      << "the younger of the low ones gave way";
  EXPECT_EQ(takeOne(low).text, "bcdefghijklm");
  EXPECT_EQ(takeOne(also).text, "cdefghijklmn");
  EXPECT_EQ(takeOne(high).text, "defghijklmno");
  EXPECT_EQ(engine().getStats().preemptions, 1);
}

TEST_F(ServingTest, ClientsThatWaitGetEqualShares) {
  open({/*maxBatch=*/1, /*maxContext=*/64, /*maxStepTokens=*/8});
  std::string order;
  auto watched = [&](char name, uint64_t client) {
    Request request = ask("a", 4);
    request.client = client;
    request.onToken = [&order, name, first = true](int32_t,
                                                   std::string_view) mutable {
      if (std::exchange(first, false))
        order.push_back(name);
      return true;
    };
    add(request);
  };
  for (int i = 0; i < 6; ++i)
    watched('A', 1);
  watched('B', 2);
  watched('B', 2);
  runAll();
  EXPECT_EQ(order, "ABABAAAA") << "a flood of one client holds up nobody else";
}

TEST_F(ServingTest, AClientMayWaitAtSeveralPriorities) {
  open({/*maxBatch=*/1, /*maxContext=*/64, /*maxStepTokens=*/8});
  auto wait = [&](uint64_t client, int priority) {
    Request request = ask("a", 4);
    request.client = client;
    request.priority = priority;
    return add(request);
  };
  std::vector<int64_t> numbers = {wait(2, 1), wait(2, 1), wait(1, 0),
                                  wait(3, 0)};
  // Client 2's work raises what others begin with, client 1's too, which waits
  // at the lower priority already.
  engine().step();
  engine().step();
  numbers.push_back(wait(1, 1));
  EXPECT_EQ(engine().checkInvariants().message(), "");
  runAll();
  for (int64_t number : numbers)
    EXPECT_EQ(takeOne(number).text, "bcde");
}

TEST_F(ServingTest, DeadlinesEndWhatWaitsAndWhatRuns) {
  open({/*maxBatch=*/1, /*maxContext=*/64, /*maxStepTokens=*/8});
  Request running = ask("a", 20), queued = ask("b", 20);
  running.deadline = std::chrono::steady_clock::now() + std::chrono::hours(1);
  int64_t kept = add(running);
  queued.deadline = std::chrono::steady_clock::now();
  int64_t late = add(queued);
  running.deadline = std::chrono::steady_clock::now();
  engine().step();
  runAll();
  GenerationResult ended = takeOne(late);
  EXPECT_EQ(ended.reason, FinishReason::Deadline);
  EXPECT_TRUE(ended.tokens.empty());
  EXPECT_EQ(takeOne(kept).reason, FinishReason::Length);
  Request slow = ask("a", 40);
  slow.deadline =
      std::chrono::steady_clock::now() + std::chrono::milliseconds(30);
  slow.ignoreEos = true;
  slow.onToken = [&](int32_t, std::string_view) {
    while (std::chrono::steady_clock::now() < *slow.deadline)
      ;
    return true;
  };
  int64_t number = add(slow);
  runAll();
  ended = takeOne(number);
  EXPECT_EQ(ended.reason, FinishReason::Deadline);
  EXPECT_EQ(ended.tokens.size(), 1u) << "what was there by then";
}

TEST_F(ServingTest, CancelsAtAnyMoment) {
  open({/*maxBatch=*/2, /*maxContext=*/64, /*maxStepTokens=*/8});
  std::vector<Request> requests = mixed(30);
  std::vector<GenerationResult> expected = alone(requests);
  for (int moment = 0; moment < 12; ++moment) {
    std::vector<int64_t> numbers;
    for (const Request &request : requests)
      numbers.push_back(add(request));
    for (int i = 0; i < moment; ++i)
      engine().step();
    for (size_t i = 0; i < numbers.size(); i += 3)
      engine().cancel(numbers[i]);
    ASSERT_EQ(engine().checkInvariants().message(), "");
    runAll();
    for (size_t i = 0; i < numbers.size(); ++i) {
      GenerationResult result = takeOne(numbers[i]);
      if (i % 3)
        expectSame(result, expected[i], i);
      else if (result.reason == FinishReason::Cancelled)
        EXPECT_LE(result.tokens.size(), expected[i].tokens.size());
    }
    EXPECT_FALSE(engine().cancel(numbers[0]));
  }
  EXPECT_FALSE(engine().cancel(1234567));
}

TEST_F(ServingTest, ACallbackMayCancelAnother) {
  open();
  Request victim = ask("abc", 20);
  int64_t number = add(victim);
  Request killer = ask("x", 2);
  killer.onToken = [&](int32_t, std::string_view) {
    engine().cancel(number);
    return true;
  };
  add(killer);
  runAll();
  EXPECT_EQ(takeOne(number).reason, FinishReason::Cancelled);
}

TEST_F(ServingTest, AKernelFailureHitsTheOneAtFault) {
  int64_t guilty = -1;
  int left = 0;
  EngineOptions options;
  options.injectFault = [&](const std::vector<int64_t> &numbers) {
    bool there =
        std::find(numbers.begin(), numbers.end(), guilty) != numbers.end();
    if (!there || left-- > 0)
      return Status();
    return Status(StatusCode::Internal, "kernel failed: illegal address");
  };
  open({/*maxBatch=*/3, /*maxContext=*/64, /*maxStepTokens=*/8}, options);
  std::vector<Request> requests = mixed(9);
  std::vector<GenerationResult> expected = alone(requests);
  // The fault comes after 0, 1, 2... good steps of the guilty one.
  for (int good = 0; good < 6; ++good) {
    std::vector<int64_t> numbers;
    for (const Request &request : requests)
      numbers.push_back(add(request));
    guilty = numbers[4];
    left = good;
    runAll();
    for (size_t i = 0; i < numbers.size(); ++i) {
      GenerationResult result = takeOne(numbers[i]);
      if (i != 4) {
        expectSame(result, expected[i], i);
        continue;
      }
      EXPECT_EQ(result.reason, FinishReason::Error);
      EXPECT_EQ(result.status.message(), "kernel failed: illegal address");
      EXPECT_TRUE(std::equal(result.tokens.begin(), result.tokens.end(),
                             expected[i].tokens.begin()));
    }
  }
  EXPECT_GT(engine().getStats().failedSteps, 6);
  EXPECT_EQ(engine().getStats().usedPages, 0);
}

TEST_F(ServingTest, AFaultThatPassesHurtsNobody) {
  int steps = 0;
  EngineOptions options;
  options.injectFault = [&](const std::vector<int64_t> &numbers) {
    return ++steps % 5 == 0 && numbers.size() > 1
               ? Status(StatusCode::Internal, "a hiccup")
               : Status();
  };
  open({3, 64, 8}, options);
  std::vector<Request> requests = mixed(12);
  std::vector<GenerationResult> expected = alone(requests);
  std::vector<GenerationResult> together = *model->generate(requests);
  for (size_t i = 0; i < requests.size(); ++i)
    expectSame(together[i], expected[i], i);
}

TEST_F(ServingTest, MasksConstrainTokens) {
  open();
  Request request = ask("q", 3);
  request.mask = std::make_shared<StepMask>(5);
  EXPECT_EQ(run(request).text, "afk");
  request.maxNewTokens = 10;
  GenerationResult ended = run(request);
  EXPECT_EQ(ended.text, "afkp");
  EXPECT_EQ(ended.reason, FinishReason::Error);
  EXPECT_EQ(ended.status.message(), "the grammar is at its end");
  request.mask = std::make_shared<StepMask>(30);
  EXPECT_EQ(run(request).status.message(), "the token mask allows no token");
}

TEST_F(ServingTest, ListsTheMostLikelyTokens) {
  open();
  Request request = ask("abc", 2);
  request.topLogProbabilities = 4;
  request.logProbabilities = true;
  GenerationResult result = run(request);
  ASSERT_EQ(result.topLogProbabilities.size(), 2u);
  std::vector<float> logits = fakeLogits({0, 1, 2});
  const float *row = &logits[2 * fakeVocabulary];
  double sum = 0;
  for (int i = 0; i < fakeVocabulary; ++i)
    sum += std::exp(static_cast<double>(row[i]));
  ASSERT_EQ(result.topLogProbabilities[0].size(), 4u);
  EXPECT_EQ(result.topLogProbabilities[0][0].token, result.tokens[0]);
  for (const TokenProbability &entry : result.topLogProbabilities[0])
    EXPECT_NEAR(entry.logProbability, row[entry.token] - std::log(sum), 1e-5);
  EXPECT_FLOAT_EQ(result.logProbabilities[0],
                  result.topLogProbabilities[0][0].logProbability);
}

TEST_F(ServingTest, RefusesOptionsOutOfRange) {
  open();
  auto message = [&](auto change) {
    Request request = ask("a", 1);
    change(request);
    return refusal(request);
  };
  EXPECT_EQ(message([](Request &r) { r.choices = 0; }),
            "n must be from 1 to 128, got 0");
  EXPECT_EQ(message([](Request &r) { r.topLogProbabilities = 21; }),
            "top_logprobs must be from 0 to 20, got 21");
  EXPECT_EQ(message([](Request &r) { r.cacheScope = -1; }),
            "cache_scope must be from 0 to 4611686018427387904, got -1");
  EXPECT_EQ(message([](Request &r) { r.sampling.logitBias = {{32, 1.0f}}; }),
            "token id of a logit bias must be from 0 to 31, got 32");
  EXPECT_EQ(message([](Request &r) { r.sampling.logitBias = {{3, NAN}}; }),
            "logit bias must be from -1000 to 1000, got nan");
  EngineOptions options;
  options.pages = 1000;
  EXPECT_EQ(model->configure(options).message(),
            "pages must be from 1 to 48, got 1000");
  options.pages = 0;
  options.maxStepTokens = 9;
  EXPECT_EQ(model->configure(options).message(),
            "max_step_tokens must be from 1 to 8, got 9");
  add(ask("a", 2));
  EXPECT_EQ(model->configure({}).message(),
            "the engine can't change while 1 texts are on their way");
}

TEST_F(ServingTest, TenThousandQueuedRequestsAreCheap) {
  open({/*maxBatch=*/3, /*maxContext=*/512, /*maxStepTokens=*/8});
  Request request;
  for (int i = 0; i < 256; ++i)
    request.prompt.push_back(i % 26);
  request.maxNewTokens = 1;
  auto residentBytes = [] {
    long pages = 0, resident = 0;
    FILE *file = std::fopen("/proc/self/statm", "r");
    int read = std::fscanf(file, "%ld %ld", &pages, &resident);
    std::fclose(file);
    return read == 2 ? resident * 4096 : 0;
  };
  int64_t before = residentBytes();
  std::vector<int64_t> numbers;
  for (int i = 0; i < 10000; ++i) {
    request.client = static_cast<uint64_t>(i % 100);
    request.priority = i % 3;
    request.deadline =
        std::chrono::steady_clock::now() + std::chrono::hours(1 + i % 7);
    numbers.push_back(add(request));
  }
#if !defined(__SANITIZE_ADDRESS__) && !__has_feature(address_sanitizer) &&     \
    !__has_feature(thread_sanitizer)
  EXPECT_LT(residentBytes() - before, 100 << 20);
#endif
  EXPECT_EQ(engine().getStats().waiting, 10000);
  for (int i = 0; i < 50; ++i)
    engine().step();
  EXPECT_EQ(engine().checkInvariants().message(), "");
  for (int64_t number : numbers)
    engine().cancel(number);
  EXPECT_EQ(engine().getStats().waiting + engine().getStats().running, 0);
  EXPECT_EQ(engine().checkInvariants().message(), "");
}

TEST_F(ServingTest, CallersOfSeveralThreadsShareSteps) {
  open({/*maxBatch=*/3, /*maxContext=*/64, /*maxStepTokens=*/8});
  std::vector<Request> requests = mixed(8);
  std::vector<GenerationResult> expected = alone(requests);
  std::vector<std::thread> threads;
  std::vector<std::vector<GenerationResult>> results(4);
  for (std::vector<GenerationResult> &result : results)
    threads.emplace_back([&] { result = *model->generate(requests); });
  for (std::thread &thread : threads)
    thread.join();
  for (const std::vector<GenerationResult> &result : results)
    for (size_t i = 0; i < requests.size(); ++i)
      expectSame(result[i], expected[i], i);
}

//===- EngineThreadTest.cpp - Requests from many threads ------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/EngineThread.h"

#include "EngineFixture.h"

#include <atomic>
#include <map>
#include <thread>

using namespace qlm;
using namespace qlm::test;

namespace {
class EngineThreadTest : public EngineFixture {
protected:
  void start(const FakeLimits &limits = {}, int64_t maxQueue = 100000,
             EngineOptions options = {}) {
    thread.reset();
    open(limits);
    options.checkInvariants = true;
    auto started = EngineThread::start(*model, options, {maxQueue});
    ASSERT_TRUE(started.ok()) << started.status().message();
    thread = started.take();
  }
  void TearDown() override { thread.reset(); }

  struct Answer {
    std::string text;
    std::vector<int32_t> tokens;
    GenerationResult end;
    int ends = 0;
  };
  /// Reads events until \p count texts have ended.
  std::map<std::pair<int64_t, int64_t>, Answer> read(size_t count) {
    std::map<std::pair<int64_t, int64_t>, Answer> answers;
    for (size_t ended = 0; ended < count;)
      for (EngineThread::Event &event : thread->wait(10)) {
        Answer &answer = answers[{event.request, event.choice}];
        EXPECT_EQ(answer.ends, 0) << "nothing follows the last event";
        if (event.isLast) {
          answer.end = std::move(event.result);
          ++answer.ends;
          ++ended;
        } else {
          answer.text += event.text;
          answer.tokens.push_back(event.token);
          EXPECT_EQ(event.generatedTokens,
                    static_cast<int64_t>(answer.tokens.size()));
        }
      }
    return answers;
  }

  std::unique_ptr<EngineThread> thread;
};
} // namespace

TEST_F(EngineThreadTest, StreamsTokensAndEnds) {
  start();
  Request request = ask("abc", 4);
  request.choices = 2;
  Result<int64_t> number = thread->submit(request);
  ASSERT_TRUE(number.ok());
  auto answers = read(2);
  ASSERT_EQ(answers.size(), 2u);
  EXPECT_EQ((answers[{*number, 1}].text), "defg");
  EXPECT_EQ((answers[{*number, 0}].end.reason), FinishReason::Length);
  EXPECT_EQ(thread->open(), 0);
  EXPECT_EQ(thread->getStats().generatedTokens, 8);
}

TEST_F(EngineThreadTest, ServesManyThreadsAtOnce) {
  start({/*maxBatch=*/4, /*maxContext=*/64, /*maxStepTokens=*/16});
  constexpr int submitters = 4, each = 60;
  std::vector<std::thread> threads;
  std::atomic<int> cancels{0};
  for (int i = 0; i < submitters; ++i)
    threads.emplace_back([&, i] {
      for (int k = 0; k < each; ++k) {
        Request request = ask(std::string(1, static_cast<char>('a' + i)),
                              1 + (i * 7 + k) % 13);
        request.client = static_cast<uint64_t>(i);
        request.priority = k % 2;
        Result<int64_t> number = thread->submit(std::move(request));
        ASSERT_TRUE(number.ok());
        if (k % 5 == 0) {
          thread->cancel(*number);
          ++cancels;
        }
        thread->getStats();
      }
    });
  auto answers = read(submitters * each);
  for (std::thread &each_ : threads)
    each_.join();
  EXPECT_EQ(answers.size(), static_cast<size_t>(submitters * each));
  int cancelled = 0;
  for (auto &[key, answer] : answers) {
    cancelled += answer.end.reason == FinishReason::Cancelled;
    for (size_t i = 1; i < answer.tokens.size(); ++i)
      EXPECT_EQ(answer.tokens[i], answer.tokens[i - 1] + 1);
  }
  EXPECT_LE(cancelled, cancels);
}

TEST_F(EngineThreadTest, RefusesWhatTheQueueDoesNotHold) {
  start({/*maxBatch=*/1, /*maxContext=*/64, /*maxStepTokens=*/8}, 2);
  std::atomic<bool> goesOn{false};
  Request slow = ask("a", 5);
  slow.onToken = [&](int32_t, std::string_view) {
    while (!goesOn)
      std::this_thread::yield();
    return true;
  };
  for (int i = 0; i < 3; ++i)
    EXPECT_TRUE(thread->submit(slow).ok());
  Result<int64_t> refused = thread->submit(slow);
  EXPECT_EQ(refused.status().getCode(), StatusCode::ResourceExhausted);
  EXPECT_EQ(refused.status().message(),
            "the queue is full, 3 requests are on their way");
  goesOn = true;
  read(3);
  EXPECT_TRUE(thread->submit(ask("a", 1)).ok());
  read(1);
}

TEST_F(EngineThreadTest, DrainsWhatWasAccepted) {
  start();
  for (int i = 0; i < 5; ++i)
    ASSERT_TRUE(thread->submit(ask("ab", 10)).ok());
  thread->drain();
  EXPECT_EQ(thread->submit(ask("a", 1)).status().message(),
            "the engine takes no more requests, it is shutting down");
  for (auto &[key, answer] : read(5))
    EXPECT_EQ(answer.text, "cdefghijkl");
}

TEST_F(EngineThreadTest, EndsWithRequestsOnTheirWay) {
  start();
  std::atomic<int> tokens{0};
  Request request = ask("a", 60);
  request.ignoreEos = true;
  request.onToken = [&](int32_t, std::string_view) {
    ++tokens;
    return true;
  };
  for (int i = 0; i < 50; ++i)
    ASSERT_TRUE(thread->submit(request).ok());
  while (tokens < 3)
    std::this_thread::yield();
  thread.reset();
  EXPECT_EQ(model->getEngine().getStats().running, 0);
  EXPECT_EQ(run(ask("a", 3)).text, "bcd") << "the model still works";
}

TEST_F(EngineThreadTest, AModelHasOneAtATime) {
  start();
  EXPECT_EQ(EngineThread::start(*model, {}, {}).status().message(),
            "the model has an engine already");
  thread.reset();
  EXPECT_EQ(EngineThread::start(*model, {}, {-1}).status().message(),
            "max_queue must not be negative, got -1");
  EXPECT_TRUE(EngineThread::start(*model, {}, {}).ok());
}

TEST_F(EngineThreadTest, SharesStepsWithCallsOfGenerate) {
  start();
  ASSERT_TRUE(thread->submit(ask("ab", 10)).ok());
  EXPECT_EQ(run(ask("a", 10)).text, "bcdefghijk");
  EXPECT_EQ(read(1).begin()->second.text, "cdefghijkl");
}

//===- CApiEngine.cpp - The C interface's engine --------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "CApi.h"
#include "qlm/Runtime/EngineThread.h"

#include <algorithm>
#include <cstring>

using namespace qlm;
using namespace qlm::capi;

struct qlm_engine {
  std::shared_ptr<Model> model;
  std::unique_ptr<EngineThread> thread;
};

struct qlm_events {
  std::vector<EngineThread::Event> events;
  std::vector<qlm_event> views;
  std::vector<std::vector<int32_t>> topTokens;
  std::vector<std::vector<float>> topLogProbabilities;
};

namespace {
class CallbackMask final : public TokenMask {
public:
  CallbackMask(qlm_mask_callback callback, void *user)
      : callback(callback), user(user) {}
  Status allow(int64_t choice, const std::vector<int32_t> &generated,
               uint32_t *words) override {
    if (callback(user, choice, generated.data(), generated.size(), words))
      return Status();
    return Status(StatusCode::InvalidArgument,
                  "the token mask's callback failed");
  }

private:
  qlm_mask_callback callback;
  void *user;
};
} // namespace

/// What the caller's version of a struct says, defaults for what it lacks.
template <typename T> static T readSized(const T *given, void (*init)(T *)) {
  T options;
  init(&options);
  if (given) {
    size_t size = std::min(given->struct_size, sizeof(T));
    std::memcpy(&options, given, size);
  }
  return options;
}

static void apply(const qlm_request_options &options, Request &request) {
  request.choices = options.choices;
  request.logProbabilities = options.logprobs != 0;
  request.topLogProbabilities = options.top_logprobs;
  request.priority = options.priority;
  request.client = options.client;
  request.cacheScope = options.cache_scope;
  if (options.deadline_seconds > 0)
    // Beyond a century there is none: the clock's numbers end.
    request.deadline =
        std::chrono::steady_clock::now() +
        std::chrono::duration_cast<std::chrono::steady_clock::duration>(
            std::chrono::duration<double>(
                std::min(options.deadline_seconds, 3e9)));
  request.sampling.frequencyPenalty = options.frequency_penalty;
  request.sampling.presencePenalty = options.presence_penalty;
  for (size_t i = 0; i < options.bias_count; ++i)
    request.sampling.logitBias.emplace_back(options.bias_tokens[i],
                                            options.bias_values[i]);
  request.speculate = options.speculate != 0;
  if (options.mask)
    request.mask =
        std::make_shared<CallbackMask>(options.mask, options.mask_user);
}

extern "C" {

void qlm_engine_options_init(qlm_engine_options *options) {
  *options = qlm_engine_options();
  options->struct_size = sizeof(*options);
  options->max_queue = 1024;
  options->share_prefixes = 1;
  options->adaptive = 1;
}

void qlm_request_options_init(qlm_request_options *options) {
  *options = qlm_request_options();
  options->struct_size = sizeof(*options);
  options->choices = 1;
  options->speculate = 1;
}

qlm_status qlm_engine_start(qlm_model *model, const qlm_engine_options *options,
                            qlm_engine **engine, char **error) {
  qlm_engine_options settings = readSized(options, qlm_engine_options_init);
  EngineOptions engineOptions;
  engineOptions.pages = settings.kv_pages;
  engineOptions.maxStepTokens = settings.max_step_tokens;
  engineOptions.sharePrefixes = settings.share_prefixes != 0;
  engineOptions.speculation.maxTokens = settings.speculate;
  engineOptions.speculation.adaptive = settings.adaptive != 0;
  if (settings.draft)
    engineOptions.speculation.draft = settings.draft->model;
  Result<std::unique_ptr<EngineThread>> thread =
      EngineThread::start(*model->model, engineOptions, {settings.max_queue});
  if (!thread.ok())
    return report(thread.status(), error);
  *engine = new qlm_engine{model->model, thread.take()};
  return QLM_OK;
}

void qlm_engine_free(qlm_engine *engine) { delete engine; }

qlm_status qlm_submit(qlm_engine *engine, const qlm_request *request,
                      const qlm_request_options *options, int64_t *number,
                      char **error) {
  Result<Request> made = makeRequest(*engine->model, *request);
  if (!made.ok())
    return report(made.status(), error);
  apply(readSized(options, qlm_request_options_init), *made);
  Result<int64_t> submitted = engine->thread->submit(made.take());
  if (!submitted.ok())
    return report(submitted.status(), error);
  *number = *submitted;
  return QLM_OK;
}

void qlm_cancel(qlm_engine *engine, int64_t number) {
  engine->thread->cancel(number);
}

qlm_events *qlm_engine_wait(qlm_engine *engine, double seconds) {
  auto *result = new qlm_events{engine->thread->wait(seconds), {}, {}, {}};
  for (const EngineThread::Event &event : result->events) {
    std::vector<int32_t> &tokens = result->topTokens.emplace_back();
    std::vector<float> &values = result->topLogProbabilities.emplace_back();
    for (const TokenProbability &entry : event.top) {
      tokens.push_back(entry.token);
      values.push_back(entry.logProbability);
    }
    qlm_event view = {};
    view.request = event.request;
    view.choice = event.choice;
    view.is_last = event.isLast;
    view.token = event.token;
    view.text = event.text.c_str();
    view.text_length = event.text.size();
    view.logprob = event.logProbability;
    view.top_tokens = tokens.data();
    view.top_logprobs = values.data();
    view.top_count = tokens.size();
    view.generated_tokens = event.generatedTokens;
    view.seconds = event.seconds;
    view.finish_reason = toReason(event.result.reason);
    view.error = event.result.status.message().c_str();
    view.prompt_tokens = event.result.promptTokens;
    view.cached_tokens = event.result.cachedTokens;
    view.proposed_tokens = event.result.proposedTokens;
    view.accepted_tokens = event.result.acceptedTokens;
    result->views.push_back(view);
  }
  return result;
}

size_t qlm_events_count(const qlm_events *events) {
  return events->views.size();
}

const qlm_event *qlm_events_get(const qlm_events *events, size_t index) {
  return &events->views[index];
}

void qlm_events_free(qlm_events *events) { delete events; }

void qlm_engine_drain(qlm_engine *engine) { engine->thread->drain(); }

int64_t qlm_engine_open(const qlm_engine *engine) {
  return engine->thread->open();
}

void qlm_engine_stats(qlm_engine *engine, qlm_stats *stats) {
  EngineStats now = engine->thread->getStats();
  qlm_stats full = {};
  size_t size = std::min(stats->struct_size, sizeof(full));
  full.struct_size = stats->struct_size;
  full.waiting = now.waiting;
  full.running = now.running;
  full.total_pages = now.totalPages;
  full.used_pages = now.usedPages;
  full.idle_pages = now.idlePages;
  full.steps = now.steps;
  full.failed_steps = now.failedSteps;
  full.prompt_tokens = now.promptTokens;
  full.cached_tokens = now.cachedTokens;
  full.generated_tokens = now.generatedTokens;
  full.proposed_tokens = now.proposedTokens;
  full.accepted_tokens = now.acceptedTokens;
  full.preemptions = now.preemptions;
  full.evictions = now.evictions;
  std::copy_n(now.finished, kFinishReasons, full.finished);
  full.kernel_seconds = now.kernelSeconds;
  full.proposal_seconds = now.proposalSeconds;
  full.step_seconds = now.stepSeconds;
  std::memcpy(stats, &full, size);
}
}

//===- EngineBinding.cpp - The Python binding of the engine ---------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The engine's thread never takes the interpreter's lock, but for a request
// with a token mask in Python. Events are taken by a thread of Python's that
// waits without the lock.
//
//===----------------------------------------------------------------------===//

#include "Binding.h"
#include "qlm/Runtime/EngineThread.h"

#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

namespace nb = nanobind;
using namespace nb::literals;
using namespace qlm;
using Event = EngineThread::Event;

namespace {
/// Asks a callable of Python's: mask(choice, generated) gives the token ids
/// that are allowed.
class PythonMask final : public TokenMask {
public:
  PythonMask(nb::object callable, int64_t vocabularySize)
      : callable(std::move(callable)), vocabularySize(vocabularySize) {}
  ~PythonMask() override {
    nb::gil_scoped_acquire acquire;
    callable.reset();
  }

  Status allow(int64_t choice, const std::vector<int32_t> &generated,
               uint32_t *words) override {
    nb::gil_scoped_acquire acquire;
    try {
      for (nb::handle item : callable(choice, generated)) {
        int64_t token = nb::cast<int64_t>(item);
        if (token < 0 || token >= vocabularySize)
          return Status(StatusCode::InvalidArgument,
                        "the token mask allows token " + std::to_string(token) +
                            ", which the vocabulary lacks");
        words[token / 32] |= 1u << (token % 32);
      }
    } catch (nb::python_error &error) {
      return failed(nb::cast<std::string>(error.type().attr("__name__")) +
                    ": " + nb::cast<std::string>(nb::str(error.value())));
    } catch (std::exception &error) {
      return failed("it must give whole numbers");
    }
    return Status();
  }

private:
  static Status failed(const std::string &what) {
    return Status(StatusCode::InvalidArgument,
                  "the token mask failed: " + what);
  }

  nb::object callable;
  int64_t vocabularySize;
};

/// Keeps the model alive as long as its engine.
struct PythonEngine {
  ~PythonEngine() {
    // The engine's thread may be in a mask, which wants the lock.
    nb::gil_scoped_release release;
    thread.reset();
  }
  std::shared_ptr<Model> model;
  std::unique_ptr<EngineThread> thread;
};
} // namespace

static std::unique_ptr<PythonEngine>
startEngine(std::shared_ptr<Model> model, int64_t maxQueue, int64_t pages,
            int64_t maxStepTokens, bool sharePrefixes, int64_t speculate,
            bool adaptive, std::shared_ptr<Model> draft) {
  EngineOptions options;
  options.pages = pages;
  options.maxStepTokens = maxStepTokens;
  options.sharePrefixes = sharePrefixes;
  options.speculation.maxTokens = speculate;
  options.speculation.adaptive = adaptive;
  options.speculation.draft = std::move(draft);
  Result<std::unique_ptr<EngineThread>> thread = [&] {
    nb::gil_scoped_release release;
    return EngineThread::start(*model, options, {maxQueue});
  }();
  if (!thread.ok())
    throw Failure(thread.status());
  auto engine = std::make_unique<PythonEngine>();
  engine->model = std::move(model);
  engine->thread = thread.take();
  return engine;
}

static int64_t submit(PythonEngine &engine, const Request &request) {
  Result<int64_t> number = engine.thread->submit(request);
  if (number.ok())
    return *number;
  if (number.status().getCode() == StatusCode::ResourceExhausted)
    throw Busy(number.status());
  throw Failure(number.status());
}

static std::vector<Event> wait(PythonEngine &engine, double seconds) {
  nb::gil_scoped_release release;
  return engine.thread->wait(seconds);
}

static nb::dict stats(PythonEngine &engine) {
  EngineStats now = engine.thread->getStats();
  nb::dict values;
  values["waiting"] = now.waiting;
  values["running"] = now.running;
  values["open"] = engine.thread->open();
  values["total_pages"] = now.totalPages;
  values["used_pages"] = now.usedPages;
  values["idle_pages"] = now.idlePages;
  values["steps"] = now.steps;
  values["failed_steps"] = now.failedSteps;
  values["prompt_tokens"] = now.promptTokens;
  values["cached_tokens"] = now.cachedTokens;
  values["generated_tokens"] = now.generatedTokens;
  values["proposed_tokens"] = now.proposedTokens;
  values["accepted_tokens"] = now.acceptedTokens;
  values["preemptions"] = now.preemptions;
  values["evictions"] = now.evictions;
  for (int i = 0; i < kFinishReasons; ++i) {
    std::string name = std::string("finished_") +
                       finishReasonName(static_cast<FinishReason>(i));
    values[name.c_str()] = now.finished[i];
  }
  values["kernel_seconds"] = now.kernelSeconds;
  values["proposal_seconds"] = now.proposalSeconds;
  values["step_seconds"] = now.stepSeconds;
  return values;
}

static std::vector<std::pair<int32_t, float>> topOf(const Event &event) {
  std::vector<std::pair<int32_t, float>> list;
  for (const TokenProbability &entry : event.top)
    list.emplace_back(entry.token, entry.logProbability);
  return list;
}

void bindEngine(nb::module_ &module) {
  nb::class_<Event>(module, "Event")
      .def_ro("request", &Event::request)
      .def_ro("choice", &Event::choice)
      .def_ro("is_last", &Event::isLast)
      .def_ro("token", &Event::token)
      .def_ro("text", &Event::text)
      .def_ro("logprob", &Event::logProbability)
      .def_prop_ro("top", &topOf)
      .def_ro("generated_tokens", &Event::generatedTokens)
      .def_ro("seconds", &Event::seconds)
      .def_prop_ro("finish_reason",
                   [](const Event &event) {
                     return finishReasonName(event.result.reason);
                   })
      .def_prop_ro(
          "error",
          [](const Event &event) { return event.result.status.message(); })
      .def_prop_ro("prompt_tokens",
                   [](const Event &event) { return event.result.promptTokens; })
      .def_prop_ro("cached_tokens",
                   [](const Event &event) { return event.result.cachedTokens; })
      .def_prop_ro(
          "proposed_tokens",
          [](const Event &event) { return event.result.proposedTokens; })
      .def_prop_ro("accepted_tokens", [](const Event &event) {
        return event.result.acceptedTokens;
      });

  nb::class_<PythonEngine>(module, "Engine")
      .def("submit", &submit, "request"_a)
      .def("cancel", [](PythonEngine &engine,
                        int64_t number) { engine.thread->cancel(number); })
      .def("wait", &wait, "seconds"_a)
      .def("wake", [](PythonEngine &engine) { engine.thread->wake(); })
      .def("drain", [](PythonEngine &engine) { engine.thread->drain(); })
      .def("stop",
           [](PythonEngine &engine) {
             nb::gil_scoped_release release;
             engine.thread.reset();
           })
      .def_prop_ro("open",
                   [](PythonEngine &engine) { return engine.thread->open(); })
      .def("stats", &stats);

  module.def("start_engine", &startEngine, "model"_a, "max_queue"_a, "pages"_a,
             "max_step_tokens"_a, "share_prefixes"_a, "speculate"_a,
             "adaptive"_a, "draft"_a.none());
  module.def("set_mask", [](Request &request, nb::object callable,
                            int64_t vocabularySize) {
    request.mask = std::make_shared<PythonMask>(callable, vocabularySize);
  });
  module.def("set_deadline", [](Request &request, double seconds) {
    request.deadline =
        std::chrono::steady_clock::now() +
        std::chrono::duration_cast<std::chrono::steady_clock::duration>(
            std::chrono::duration<double>(std::min(seconds, 3e9)));
  });
}

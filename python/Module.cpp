//===- Module.cpp - The Python binding of the runtime ---------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Thin: types and checks of arguments are here, documentation and defaults in
// python/qlm/__init__.py. Computing functions release the interpreter's lock;
// callbacks take it back.
//
//===----------------------------------------------------------------------===//

#include "Binding.h"
#include "qlm/Runtime/Model.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

namespace nb = nanobind;
using namespace nb::literals;
using namespace qlm;

static std::shared_ptr<Model> load(const std::string &path, int threads,
                                   bool verify) {
  Model::Options options;
  options.threads = threads;
  options.verifyWeights = verify;
  Result<std::unique_ptr<Model>> model = [&] {
    nb::gil_scoped_release release;
    return Model::load(path, options);
  }();
  if (!model.ok())
    throw Failure(model.status());
  return model.take();
}

static std::vector<int32_t> encode(const Model &model, const std::string &text,
                                   bool addSpecialTokens) {
  if (!model.getTokenizer())
    throw Failure(
        Status(StatusCode::Unsupported, "the package has no tokenizer"));
  Result<std::vector<int32_t>> tokens = [&] {
    nb::gil_scoped_release release;
    return model.getTokenizer()->encode(text, addSpecialTokens);
  }();
  if (!tokens.ok())
    throw Failure(tokens.status());
  return tokens.take();
}

static std::string decode(const Model &model,
                          const std::vector<int32_t> &tokens) {
  if (!model.getTokenizer())
    throw Failure(
        Status(StatusCode::Unsupported, "the package has no tokenizer"));
  return model.getTokenizer()->decode(tokens.data(), tokens.size());
}

/// A token callback that takes the interpreter's lock. An exception of
/// Python's ends the request and is kept to be raised after the step. Holds no
/// reference: copies of it die while the lock is released.
static std::function<bool(int32_t, std::string_view)>
wrap(nb::handle callback, int64_t index,
     std::optional<nb::python_error> &error) {
  return [callback, index, &error](int32_t token, std::string_view text) {
    nb::gil_scoped_acquire acquire;
    if (error)
      return false;
    try {
      nb::object goesOn =
          callback(index, token, nb::str(text.data(), text.size()));
      return goesOn.is_none() || nb::cast<bool>(goesOn);
    } catch (nb::python_error &raised) {
      error.emplace(raised);
      return false;
    } catch (nb::cast_error &) {
      return true;
    }
  };
}

static std::vector<GenerationResult>
generate(Model &model, const std::vector<Request> &requests,
         nb::object onToken) {
  std::optional<nb::python_error> error;
  std::vector<Request> list = requests;
  if (!onToken.is_none())
    for (size_t i = 0; i < list.size(); ++i)
      list[i].onToken = wrap(onToken, static_cast<int64_t>(i), error);
  Result<std::vector<GenerationResult>> results = [&] {
    nb::gil_scoped_release release;
    return model.generate(list);
  }();
  if (error)
    throw nb::python_error(*error);
  if (!results.ok())
    throw Failure(results.status());
  for (const GenerationResult &result : *results)
    if (!result.status.ok())
      throw Failure(result.status);
  return results.take();
}

static void check(Model &model, const Request &request) {
  Status status = model.getEngine().check(request);
  if (!status.ok())
    throw Failure(status);
}

static int64_t add(Model &model, const Request &request) {
  nb::gil_scoped_release release;
  auto guard = model.lock();
  int64_t number = model.getEngine().newNumber();
  Status status = model.getEngine().add(number, request);
  if (!status.ok())
    throw Failure(status);
  return number;
}

static bool step(Model &model) {
  nb::gil_scoped_release release;
  auto guard = model.lock();
  return model.getEngine().step();
}

static std::optional<std::vector<GenerationResult>> take(Model &model,
                                                         int64_t number) {
  nb::gil_scoped_release release;
  auto guard = model.lock();
  return model.getEngine().take(number);
}

static void configure(Model &model, int64_t pages, int64_t maxStepTokens,
                      bool sharePrefixes, int64_t speculate, bool adaptive,
                      std::shared_ptr<Model> draft) {
  EngineOptions options;
  options.pages = pages;
  options.maxStepTokens = maxStepTokens;
  options.sharePrefixes = sharePrefixes;
  options.speculation.maxTokens = speculate;
  options.speculation.adaptive = adaptive;
  options.speculation.draft = std::move(draft);
  Status status = model.configure(options);
  if (!status.ok())
    throw Failure(status);
}

static nb::ndarray<nb::numpy, float, nb::ndim<2>>
logits(Model &model, const std::vector<int32_t> &tokens, int64_t chunk) {
  int64_t vocabulary = model.getManifest().model.vocabularySize;
  auto values = std::make_unique<std::vector<float>>();
  Status status;
  {
    nb::gil_scoped_release release;
    values->reserve(tokens.size() * static_cast<size_t>(vocabulary));
    status = model.logits(tokens, chunk, [&](int64_t, float *row) {
      values->insert(values->end(), row, row + vocabulary);
    });
  }
  if (!status.ok())
    throw Failure(status);
  std::vector<float> *owned = values.release();
  nb::capsule owner(owned, [](void *data) noexcept {
    delete static_cast<std::vector<float> *>(data);
  });
  return {
      owned->data(), {tokens.size(), static_cast<size_t>(vocabulary)}, owner};
}

NB_MODULE(_runtime, module) {
  nb::exception<Failure> error(module, "Error", PyExc_RuntimeError);
  nb::exception<Busy>(module, "Busy", error);

  nb::class_<Request>(module, "Request")
      .def(nb::init<>())
      .def_rw("prompt", &Request::prompt)
      .def_rw("max_new_tokens", &Request::maxNewTokens)
      .def_rw("stops", &Request::stops)
      .def_rw("ignore_eos", &Request::ignoreEos)
      .def_rw("logprobs", &Request::logProbabilities)
      .def_rw("top_logprobs", &Request::topLogProbabilities)
      .def_rw("choices", &Request::choices)
      .def_rw("priority", &Request::priority)
      .def_rw("client", &Request::client)
      .def_rw("cache_scope", &Request::cacheScope)
      .def_rw("speculate", &Request::speculate)
      .def("sample",
           [](Request &request, float temperature, int64_t topK, float topP,
              float minP, float repetitionPenalty, uint64_t seed) {
             SamplingOptions &sampling = request.sampling;
             sampling.temperature = temperature;
             sampling.topK = topK;
             sampling.topP = topP;
             sampling.minP = minP;
             sampling.repetitionPenalty = repetitionPenalty;
             sampling.seed = seed;
           })
      .def("adjust",
           [](Request &request, float frequencyPenalty, float presencePenalty,
              const std::vector<std::pair<int32_t, float>> &logitBias) {
             request.sampling.frequencyPenalty = frequencyPenalty;
             request.sampling.presencePenalty = presencePenalty;
             request.sampling.logitBias = logitBias;
           });

  nb::class_<GenerationResult>(module, "Result")
      .def_ro("text", &GenerationResult::text)
      .def_ro("tokens", &GenerationResult::tokens)
      .def_ro("logprobs", &GenerationResult::logProbabilities)
      .def_ro("prompt_tokens", &GenerationResult::promptTokens)
      .def_ro("first_token_seconds", &GenerationResult::firstTokenSeconds)
      .def_ro("cached_tokens", &GenerationResult::cachedTokens)
      .def_ro("proposed_tokens", &GenerationResult::proposedTokens)
      .def_ro("accepted_tokens", &GenerationResult::acceptedTokens)
      .def_prop_ro("finish_reason", [](const GenerationResult &result) {
        return finishReasonName(result.reason);
      });

  nb::class_<Model>(module, "Model")
      .def("encode", &encode, "text"_a, "add_special_tokens"_a)
      .def("decode", &decode, "tokens"_a)
      .def("generate", &generate, "requests"_a, "on_token"_a.none())
      .def("logits", &logits, "tokens"_a, "chunk"_a)
      .def("check", &check, "request"_a)
      .def("add", &add, "request"_a)
      .def("step", &step)
      .def("take", &take, "number"_a)
      .def("configure", &configure, "pages"_a, "max_step_tokens"_a,
           "share_prefixes"_a, "speculate"_a, "adaptive"_a, "draft"_a.none())
      .def_prop_ro("threads", &Model::threads)
      .def_prop_ro("note", &Model::note)
      .def_prop_ro("vocabulary_size",
                   [](const Model &model) {
                     return model.getManifest().model.vocabularySize;
                   })
      .def_prop_ro("max_context",
                   [](const Model &model) {
                     return model.getManifest().plan.maxContext;
                   })
      .def_prop_ro(
          "max_batch",
          [](const Model &model) { return model.getManifest().plan.maxBatch; })
      .def_prop_ro("peak_bytes", [](const Model &model) {
        return model.getManifest().plan.peakBytes;
      });

  bindEngine(module);
  module.def("load", &load, "path"_a, "threads"_a, "verify"_a);
}

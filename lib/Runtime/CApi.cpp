//===- CApi.cpp - The runtime's C interface -------------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "CApi.h"

#include <cstdlib>
#include <cstring>

using namespace qlm;
using namespace qlm::capi;

struct qlm_results {
  std::vector<GenerationResult> results;
};

char *capi::copyString(const std::string &text) {
  char *copy = static_cast<char *>(std::malloc(text.size() + 1));
  if (copy)
    std::memcpy(copy, text.c_str(), text.size() + 1);
  return copy;
}

static qlm_status toStatus(StatusCode code) {
  switch (code) {
  case StatusCode::Ok:
    return QLM_OK;
  case StatusCode::InvalidArgument:
    return QLM_INVALID_ARGUMENT;
  case StatusCode::NotFound:
    return QLM_NOT_FOUND;
  case StatusCode::Corrupt:
    return QLM_CORRUPT;
  case StatusCode::Unsupported:
    return QLM_UNSUPPORTED;
  case StatusCode::ResourceExhausted:
    return QLM_RESOURCE_EXHAUSTED;
  case StatusCode::Io:
    return QLM_IO;
  case StatusCode::Internal:
    return QLM_INTERNAL;
  }
  return QLM_INTERNAL;
}

qlm_status capi::report(const Status &status, char **error) {
  if (error)
    *error = copyString(status.message());
  return toStatus(status.getCode());
}

static Status noTokenizer() {
  return Status(StatusCode::Unsupported, "the package has no tokenizer");
}

qlm_finish_reason capi::toReason(FinishReason reason) {
  switch (reason) {
  case FinishReason::Stop:
    return QLM_FINISH_STOP;
  case FinishReason::Length:
    return QLM_FINISH_LENGTH;
  case FinishReason::Cancelled:
    return QLM_FINISH_CANCELLED;
  case FinishReason::Error:
    return QLM_FINISH_ERROR;
  case FinishReason::Deadline:
    return QLM_FINISH_DEADLINE;
  }
  return QLM_FINISH_ERROR;
}

Result<Request> capi::makeRequest(const Model &model,
                                  const qlm_request &source) {
  Request request;
  if (source.text) {
    Result<std::vector<int32_t>> tokens = model.encode(source.text);
    if (!tokens.ok())
      return tokens.status();
    request.prompt = tokens.take();
  } else if (source.tokens) {
    request.prompt.assign(source.tokens, source.tokens + source.token_count);
  }
  request.maxNewTokens = source.max_new_tokens;
  request.sampling = {
      source.temperature,        source.top_k, source.top_p, source.min_p,
      source.repetition_penalty, source.seed};
  for (size_t i = 0; i < source.stop_count; ++i)
    request.stops.emplace_back(source.stops[i]);
  request.ignoreEos = source.ignore_eos != 0;
  if (source.callback)
    request.onToken = [callback = source.callback, user = source.user](
                          int32_t token, std::string_view text) {
      return callback(user, token, text.data(), text.size()) != 0;
    };
  return request;
}

extern "C" {

const char *qlm_version(void) { return "0.1.0"; }

void qlm_string_free(char *string) { std::free(string); }

void qlm_tokens_free(int32_t *tokens) { std::free(tokens); }

void qlm_load_options_init(qlm_load_options *options) {
  options->threads = 0;
  options->verify_weights = 1;
}

void qlm_request_init(qlm_request *request) {
  *request = qlm_request();
  request->max_new_tokens = 128;
  request->top_p = 1;
  request->repetition_penalty = 1;
}

qlm_status qlm_load(const char *path, const qlm_load_options *options,
                    qlm_model **model, char **error) {
  Model::Options settings;
  if (options) {
    settings.threads = options->threads;
    settings.verifyWeights = options->verify_weights != 0;
  }
  Result<std::unique_ptr<Model>> loaded = Model::load(path, settings);
  if (!loaded.ok())
    return report(loaded.status(), error);
  *model = new qlm_model{loaded.take()};
  return QLM_OK;
}

void qlm_model_free(qlm_model *model) { delete model; }

int64_t qlm_vocabulary_size(const qlm_model *model) {
  return model->model->getManifest().model.vocabularySize;
}

int64_t qlm_max_context(const qlm_model *model) {
  return model->model->getManifest().plan.maxContext;
}

int64_t qlm_max_batch(const qlm_model *model) {
  return model->model->getManifest().plan.maxBatch;
}

int64_t qlm_peak_bytes(const qlm_model *model) {
  return model->model->getManifest().plan.peakBytes;
}

int32_t qlm_threads(const qlm_model *model) { return model->model->threads(); }

qlm_status qlm_encode(const qlm_model *model, const char *text, size_t length,
                      int32_t add_special, int32_t **tokens, size_t *count,
                      char **error) {
  const Tokenizer *tokenizer = model->model->getTokenizer();
  if (!tokenizer)
    return report(noTokenizer(), error);
  Result<std::vector<int32_t>> ids =
      tokenizer->encode(std::string_view(text, length), add_special != 0);
  if (!ids.ok())
    return report(ids.status(), error);
  size_t bytes = ids->size() * sizeof(int32_t);
  *tokens = static_cast<int32_t *>(std::malloc(bytes ? bytes : 1));
  if (!*tokens)
    return report(Status(StatusCode::ResourceExhausted, "out of memory"),
                  error);
  if (bytes)
    std::memcpy(*tokens, ids->data(), bytes);
  *count = ids->size();
  return QLM_OK;
}

qlm_status qlm_decode(const qlm_model *model, const int32_t *tokens,
                      size_t count, char **text, char **error) {
  const Tokenizer *tokenizer = model->model->getTokenizer();
  if (!tokenizer)
    return report(noTokenizer(), error);
  *text = copyString(tokenizer->decode(tokens, count));
  return QLM_OK;
}

qlm_status qlm_generate(qlm_model *model, const qlm_request *requests,
                        size_t count, qlm_results **results, char **error) {
  std::vector<Request> list;
  for (size_t i = 0; i < count; ++i) {
    Result<Request> request = makeRequest(*model->model, requests[i]);
    if (!request.ok())
      return report(request.status(), error);
    list.push_back(request.take());
  }
  Result<std::vector<GenerationResult>> done = model->model->generate(list);
  if (!done.ok())
    return report(done.status(), error);
  *results = new qlm_results{done.take()};
  return QLM_OK;
}

void qlm_results_free(qlm_results *results) { delete results; }

const char *qlm_result_text(const qlm_results *results, size_t index) {
  return results->results[index].text.c_str();
}

const int32_t *qlm_result_tokens(const qlm_results *results, size_t index,
                                 size_t *count) {
  *count = results->results[index].tokens.size();
  return results->results[index].tokens.data();
}

qlm_finish_reason qlm_result_finish_reason(const qlm_results *results,
                                           size_t index) {
  return toReason(results->results[index].reason);
}

const char *qlm_result_error(const qlm_results *results, size_t index) {
  return results->results[index].status.message().c_str();
}

qlm_status qlm_logits(qlm_model *model, const int32_t *tokens, size_t count,
                      int64_t chunk, float *logits, char **error) {
  std::vector<int32_t> list(tokens, tokens + count);
  int64_t vocabulary = qlm_vocabulary_size(model);
  Status status =
      model->model->logits(list, chunk, [&](int64_t row, float *values) {
        std::memcpy(logits + row * vocabulary, values,
                    static_cast<size_t>(vocabulary) * sizeof(float));
      });
  return status.ok() ? QLM_OK : report(status, error);
}
}

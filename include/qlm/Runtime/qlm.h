//===- qlm.h - The runtime's C interface --------------------------*- C -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

//
// Loads packages that quantc wrote and generates text with them. All of it is
// in the shared library libqlm.
//
// Conventions. Functions that can fail return a qlm_status and, when it is not
// QLM_OK and `error` is not null, set *error to a one-line message that the
// caller frees with qlm_string_free. Outputs are set only on QLM_OK. Strings
// are UTF-8. Functions never print and never abort. A model may be used from
// several threads: calls that compute are served one after the other.
//
// Example (error handling left out):
//
//   qlm_model *model;
//   qlm_load("tiny.qlm", NULL, &model, NULL);
//   qlm_request request;
//   qlm_request_init(&request);
//   request.text = "def main():";
//   qlm_results *results;
//   qlm_generate(model, &request, 1, &results, NULL);
//   puts(qlm_result_text(results, 0));
//   qlm_results_free(results);
//   qlm_model_free(model);
//
//===----------------------------------------------------------------------===//

#ifndef QLM_RUNTIME_QLM_H
#define QLM_RUNTIME_QLM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define QLM_API __attribute__((visibility("default")))

/// What kind of failure a function reports.
typedef enum qlm_status {
  QLM_OK = 0,
  QLM_INVALID_ARGUMENT = 1,   ///< a request or option breaks a rule
  QLM_NOT_FOUND = 2,          ///< a file, tensor or name does not exist
  QLM_CORRUPT = 3,            ///< a file contradicts itself or its checksum
  QLM_UNSUPPORTED = 4,        ///< a version or kind that is not handled
  QLM_RESOURCE_EXHAUSTED = 5, ///< does not fit in what was planned
  QLM_IO = 6,                 ///< the operating system refused
  QLM_INTERNAL = 7            ///< a bug in the runtime
} qlm_status;

/// Why a text ended.
typedef enum qlm_finish_reason {
  QLM_FINISH_STOP = 0,      ///< a stop string or an end-of-sequence token
  QLM_FINISH_LENGTH = 1,    ///< max_new_tokens or the context's end
  QLM_FINISH_CANCELLED = 2, ///< the callback returned 0
  QLM_FINISH_ERROR = 3      ///< see qlm_result_error
} qlm_finish_reason;

/// A loaded package with its memory and threads.
typedef struct qlm_model qlm_model;
/// The results of one call to qlm_generate.
typedef struct qlm_results qlm_results;

/// How a package is loaded; fill it with qlm_load_options_init first.
typedef struct qlm_load_options {
  int32_t threads;        ///< that compute; 0 (default): every core
  int32_t verify_weights; ///< compare their checksum; default 1
} qlm_load_options;

/// Called on the thread that computes, after each generated token, with the
/// text that is settled now: \p text of \p length bytes, maybe none. Returns 0
/// to end the request.
typedef int32_t (*qlm_token_callback)(void *user, int32_t token,
                                      const char *text, size_t length);

/// A text to continue; fill it with qlm_request_init first. What it points to
/// must live until qlm_generate returns.
typedef struct qlm_request {
  const char *text;      ///< the prompt, zero-terminated; or null, and
  const int32_t *tokens; ///< the prompt as token ids [token_count]
  size_t token_count;
  int64_t max_new_tokens; ///< default 128
  float temperature;      ///< 0 (default): the most likely token
  int64_t top_k;          ///< keep the k most likely; 0 (default): all
  float top_p; ///< keep the fewest that reach this probability; default 1
  float min_p; ///< drop those below this part of the best; default 0
  float repetition_penalty; ///< above 1: tokens seen become less likely
  uint64_t seed;            ///< of the draws; default 0
  const char *const *stops; ///< strings before which the text ends
  size_t stop_count;
  int32_t ignore_eos;          ///< go on past end-of-sequence; default 0
  qlm_token_callback callback; ///< or null (default)
  void *user;                  ///< given to the callback
} qlm_request;

/// The runtime's version, "0.1.0".
QLM_API const char *qlm_version(void);

/// Frees a string that a function gave; null is allowed.
QLM_API void qlm_string_free(char *string);
/// Frees token ids that a function gave; null is allowed.
QLM_API void qlm_tokens_free(int32_t *tokens);

/// Sets the defaults.
QLM_API void qlm_load_options_init(qlm_load_options *options);
/// Sets the defaults, and no prompt.
QLM_API void qlm_request_init(qlm_request *request);

/// Loads the package folder at \p path; \p options may be null.
/// Errors: QLM_NOT_FOUND, QLM_CORRUPT, QLM_UNSUPPORTED (another version, or a
/// processor without the features), QLM_RESOURCE_EXHAUSTED, QLM_IO.
QLM_API qlm_status qlm_load(const char *path, const qlm_load_options *options,
                            qlm_model **model, char **error);
/// Stops the model's threads and frees its memory; null is allowed.
QLM_API void qlm_model_free(qlm_model *model);

/// Number of entries of the model's vocabulary.
QLM_API int64_t qlm_vocabulary_size(const qlm_model *model);
/// Most tokens of a prompt and its continuation together.
QLM_API int64_t qlm_max_context(const qlm_model *model);
/// Most requests that are computed at once; more wait their turn.
QLM_API int64_t qlm_max_batch(const qlm_model *model);
/// Resident memory in bytes that the model takes at most.
QLM_API int64_t qlm_peak_bytes(const qlm_model *model);
/// Threads that compute.
QLM_API int32_t qlm_threads(const qlm_model *model);

/// Token ids of \p text (\p length bytes), with what the tokenizer adds to a
/// prompt when \p add_special; freed with qlm_tokens_free.
/// Errors: QLM_UNSUPPORTED (the package has no tokenizer),
/// QLM_INVALID_ARGUMENT (not UTF-8).
QLM_API qlm_status qlm_encode(const qlm_model *model, const char *text,
                              size_t length, int32_t add_special,
                              int32_t **tokens, size_t *count, char **error);
/// Text of \p count token ids without special tokens, zero-terminated; freed
/// with qlm_string_free. Errors: QLM_UNSUPPORTED (no tokenizer).
QLM_API qlm_status qlm_decode(const qlm_model *model, const int32_t *tokens,
                              size_t count, char **text, char **error);

/// Continues \p count prompts, batched, and returns when all are done. Results
/// don't depend on what else is in the batch. A request that fails while it
/// runs has QLM_FINISH_ERROR in its result; the others are not touched.
/// Errors: QLM_INVALID_ARGUMENT (a prompt is empty or longer than the context,
/// an option is out of range); nothing is generated then.
QLM_API qlm_status qlm_generate(qlm_model *model, const qlm_request *requests,
                                size_t count, qlm_results **results,
                                char **error);
/// Frees results and all that was got from them; null is allowed.
QLM_API void qlm_results_free(qlm_results *results);
/// Text of result \p index, zero-terminated, without stop strings.
QLM_API const char *qlm_result_text(const qlm_results *results, size_t index);
/// Generated token ids of result \p index, an end-of-sequence token among
/// them; their number goes to \p count.
QLM_API const int32_t *qlm_result_tokens(const qlm_results *results,
                                         size_t index, size_t *count);
/// Why result \p index ended.
QLM_API qlm_finish_reason qlm_result_finish_reason(const qlm_results *results,
                                                   size_t index);
/// What went wrong with result \p index; empty when nothing did.
QLM_API const char *qlm_result_error(const qlm_results *results, size_t index);

/// Writes the logits after each of \p count tokens to \p logits, float32
/// [count, vocabulary size]; \p chunk tokens a step, 0 for the largest.
/// Errors: QLM_INVALID_ARGUMENT (no tokens, more than the context, or one
/// outside the vocabulary).
QLM_API qlm_status qlm_logits(qlm_model *model, const int32_t *tokens,
                              size_t count, int64_t chunk, float *logits,
                              char **error);

#ifdef __cplusplus
}
#endif

#endif // QLM_RUNTIME_QLM_H

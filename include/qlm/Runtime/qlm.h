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
  QLM_FINISH_CANCELLED = 2, ///< the callback returned 0, or qlm_cancel
  QLM_FINISH_ERROR = 3,     ///< see qlm_result_error
  QLM_FINISH_DEADLINE = 4   ///< the request's deadline passed
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

//===----------------------------------------------------------------------===//
// Serving: requests that come and go while others run
//===----------------------------------------------------------------------===//
//
//   qlm_engine *engine;
//   qlm_engine_start(model, NULL, &engine, NULL);
//   int64_t number;
//   qlm_submit(engine, &request, NULL, &number, NULL);
//   for (int done = 0; !done;) {
//     qlm_events *events = qlm_engine_wait(engine, 1.0);
//     for (size_t i = 0; i < qlm_events_count(events); ++i) {
//       const qlm_event *event = qlm_events_get(events, i);
//       fwrite(event->text, 1, event->text_length, stdout);
//       done |= event->is_last;
//     }
//     qlm_events_free(events);
//   }
//   qlm_engine_free(engine);
//
// Structs that begin with struct_size may grow: their init function sets it,
// and a newer library reads what the caller's version knows.

/// A model's engine on a thread of its own. Its functions may be called from
/// any thread.
typedef struct qlm_engine qlm_engine;
/// What happened to requests; see qlm_engine_wait.
typedef struct qlm_events qlm_events;

/// How a package's plan is used; fill it with qlm_engine_options_init first.
typedef struct qlm_engine_options {
  size_t struct_size;
  int64_t max_queue;       ///< requests that may wait; default 1024
  int64_t kv_pages;        ///< of the KV cache; 0 (default): the plan's
  int64_t max_step_tokens; ///< 0 (default): the plan's
  int32_t share_prefixes;  ///< keep prompts' pages for others; default 1
  int64_t speculate;       ///< tokens proposed in a step; 0 (default): none
  int32_t adaptive;        ///< propose fewer where it doesn't pay; default 1
  qlm_model *draft;        ///< proposes; null (default): prompt lookup
} qlm_engine_options;

/// Says which tokens may follow \p generated [\p count]: sets bit `t % 32` of
/// `words[t / 32]` for each, all bits are clear before. Called on the engine's
/// thread. Returns 0 to end the text with an error.
typedef int32_t (*qlm_mask_callback)(void *user, int64_t choice,
                                     const int32_t *generated, size_t count,
                                     uint32_t *words);

/// What a request may ask beside qlm_request; fill it with
/// qlm_request_options_init first.
typedef struct qlm_request_options {
  size_t struct_size;
  int64_t choices;         ///< continuations of the prompt; default 1
  int32_t logprobs;        ///< tell tokens' log probabilities; default 0
  int64_t top_logprobs;    ///< and those of that many likely ones; at most 20
  int32_t priority;        ///< higher goes first; default 0
  uint64_t client;         ///< clients that wait get equal shares; default 0
  int64_t cache_scope;     ///< prefixes are shared inside it; default 0
  double deadline_seconds; ///< from now; 0 (default): none
  float frequency_penalty, presence_penalty; ///< default 0
  const int32_t *bias_tokens; ///< [bias_count], or null (default)
  const float *bias_values;   ///< [bias_count], added to the tokens' logits
  size_t bias_count;
  int32_t speculate;      ///< allow proposals; default 1
  qlm_mask_callback mask; ///< or null (default)
  void *mask_user;        ///< given to it
} qlm_request_options;

/// A token of a text, or the end of one.
typedef struct qlm_event {
  int64_t request; ///< number that qlm_submit gave
  int64_t choice;
  int32_t is_last; ///< the choice ended; the fields of the end are set
  int32_t token;
  const char *text; ///< settled now, of text_length bytes; may be empty
  size_t text_length;
  float logprob;
  const int32_t *top_tokens; ///< [top_count], the most likely first
  const float *top_logprobs; ///< [top_count]
  size_t top_count;
  int64_t generated_tokens; ///< of the choice, so far
  double seconds;           ///< since qlm_submit
  // The end's.
  qlm_finish_reason finish_reason;
  const char *error; ///< zero-terminated; empty when nothing went wrong
  int64_t prompt_tokens;
  int64_t cached_tokens;   ///< of the prompt, not computed again
  int64_t proposed_tokens; ///< checked ahead of the text, and of these
  int64_t accepted_tokens; ///< those that came true
} qlm_event;

/// What an engine holds now, and did since it began; set struct_size first.
typedef struct qlm_stats {
  size_t struct_size;
  int64_t waiting, running;
  int64_t total_pages, used_pages, idle_pages; ///< idle: kept for others
  int64_t steps, failed_steps;
  int64_t prompt_tokens; ///< computed
  int64_t cached_tokens; ///< of prompts, not computed
  int64_t generated_tokens;
  int64_t proposed_tokens, accepted_tokens;
  int64_t preemptions, evictions;
  int64_t finished[5]; ///< by qlm_finish_reason
  double kernel_seconds, proposal_seconds, step_seconds;
} qlm_stats;

/// Sets the defaults.
QLM_API void qlm_engine_options_init(qlm_engine_options *options);
/// Sets the defaults.
QLM_API void qlm_request_options_init(qlm_request_options *options);

/// Starts an engine for \p model, which must outlive it; \p options may be
/// null. A model has one engine at a time; qlm_generate shares its steps.
/// Errors: QLM_INVALID_ARGUMENT (an option out of range, a draft of another
/// vocabulary, an engine or a call of qlm_generate is on its way).
QLM_API qlm_status qlm_engine_start(qlm_model *model,
                                    const qlm_engine_options *options,
                                    qlm_engine **engine, char **error);
/// Cancels what is left and stops the thread; null is allowed.
QLM_API void qlm_engine_free(qlm_engine *engine);

/// Hands over a request; nothing it points to is kept, but callbacks and what
/// they are given. The request's callback runs on the engine's thread.
/// Errors: as qlm_generate; QLM_RESOURCE_EXHAUSTED when too many wait or the
/// engine drains.
QLM_API qlm_status qlm_submit(qlm_engine *engine, const qlm_request *request,
                              const qlm_request_options *options,
                              int64_t *number, char **error);
/// Ends a request soon, if it hasn't ended. Its last events come in any case.
QLM_API void qlm_cancel(qlm_engine *engine, int64_t number);
/// Returns what happened since the last call; waits up to \p seconds for
/// something to happen. Freed with qlm_events_free.
QLM_API qlm_events *qlm_engine_wait(qlm_engine *engine, double seconds);
/// Number of events.
QLM_API size_t qlm_events_count(const qlm_events *events);
/// Event \p index, valid until qlm_events_free.
QLM_API const qlm_event *qlm_events_get(const qlm_events *events, size_t index);
/// Frees events and all that they point to; null is allowed.
QLM_API void qlm_events_free(qlm_events *events);
/// Refuses requests from now on; those accepted go on.
QLM_API void qlm_engine_drain(qlm_engine *engine);
/// Requests accepted and not finished.
QLM_API int64_t qlm_engine_open(const qlm_engine *engine);
/// Fills \p stats as far as its struct_size says.
QLM_API void qlm_engine_stats(qlm_engine *engine, qlm_stats *stats);

#ifdef __cplusplus
}
#endif

#endif // QLM_RUNTIME_QLM_H

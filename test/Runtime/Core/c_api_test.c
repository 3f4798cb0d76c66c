/* Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
 * SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
 *
 * The C interface from C: the header must be plain C, and each function do
 * what it says. Takes a package of the fake model (FakeModel.h), in which
 * letters follow one another; prints what failed and returns 1. */

#include "qlm/Runtime/qlm.h"

#include <stdio.h>
#include <string.h>

static int failures = 0;

static void expect(int holds, const char *what) {
  if (!holds) {
    fprintf(stderr, "failed: %s\n", what);
    ++failures;
  }
}
#define EXPECT(condition) expect((condition), #condition)

static int32_t collect(void *user, int32_t token, const char *text,
                       size_t length) {
  strncat((char *)user, text, length);
  return token < 5;
}

static void checkErrors(qlm_model *model) {
  char *error = NULL;
  qlm_model *none = NULL;
  EXPECT(qlm_load("/nonexistent", NULL, &none, &error) == QLM_NOT_FOUND);
  EXPECT(none == NULL);
  EXPECT(error && !strcmp(error, "/nonexistent: No such file or directory"));
  qlm_string_free(error);
  EXPECT(qlm_load("/nonexistent", NULL, &none, NULL) == QLM_NOT_FOUND);

  qlm_request request;
  qlm_request_init(&request);
  qlm_results *results = NULL;
  EXPECT(qlm_generate(model, &request, 1, &results, &error) ==
         QLM_INVALID_ARGUMENT);
  EXPECT(!strcmp(error, "prompt has no tokens"));
  qlm_string_free(error);
  int32_t outside = 1000;
  float logits[1];
  EXPECT(qlm_logits(model, &outside, 1, 0, logits, NULL) ==
         QLM_INVALID_ARGUMENT);
}

static void checkGenerate(qlm_model *model) {
  char streamed[64] = "";
  const char *stops[] = {"gh"};
  int32_t prompt[] = {25};
  qlm_request requests[3];
  for (int i = 0; i < 3; ++i)
    qlm_request_init(&requests[i]);
  requests[0].text = "abc";
  requests[0].stops = stops;
  requests[0].stop_count = 1;
  requests[1].tokens = prompt;
  requests[1].token_count = 1;
  requests[2].text = "a";
  requests[2].callback = collect;
  requests[2].user = streamed;
  qlm_results *results = NULL;
  EXPECT(qlm_generate(model, requests, 3, &results, NULL) == QLM_OK);
  EXPECT(!strcmp(qlm_result_text(results, 0), "def"));
  EXPECT(qlm_result_finish_reason(results, 0) == QLM_FINISH_STOP);
  size_t count = 0;
  const int32_t *tokens = qlm_result_tokens(results, 1, &count);
  EXPECT(count == 4 && tokens[0] == 26 && tokens[3] == 29);
  EXPECT(!strcmp(qlm_result_text(results, 2), "bcdef"));
  EXPECT(!strcmp(streamed, "bcdef"));
  EXPECT(qlm_result_finish_reason(results, 2) == QLM_FINISH_CANCELLED);
  EXPECT(!strcmp(qlm_result_error(results, 2), ""));
  qlm_results_free(results);
}

static void checkTokens(qlm_model *model) {
  int32_t *tokens = NULL;
  size_t count = 0;
  char *text = NULL;
  EXPECT(qlm_encode(model, "ab z", 4, 1, &tokens, &count, NULL) == QLM_OK);
  EXPECT(count == 4 && tokens[2] == 26 && tokens[3] == 25);
  EXPECT(qlm_decode(model, tokens, count, &text, NULL) == QLM_OK);
  EXPECT(!strcmp(text, "ab z"));
  float logits[4 * 32] = {0};
  EXPECT(qlm_logits(model, tokens, count, 2, logits, NULL) == QLM_OK);
  EXPECT(logits[3 * 32 + 26] > 8);
  qlm_string_free(text);
  qlm_tokens_free(tokens);
}

static int32_t allowEven(void *user, int64_t choice, const int32_t *generated,
                         size_t count, uint32_t *words) {
  (void)user, (void)choice;
  if (count == 3)
    return 0;
  words[0] = count == 0 ? 1u << 4 : 1u << (generated[count - 1] + 2);
  return 1;
}

/* Reads events until `choices` have ended; the first request's text. */
static void readEvents(qlm_engine *engine, int choices, char *text,
                       qlm_event *last) {
  while (choices > 0) {
    qlm_events *events = qlm_engine_wait(engine, 10);
    for (size_t i = 0; i < qlm_events_count(events); ++i) {
      const qlm_event *event = qlm_events_get(events, i);
      if (!event->is_last)
        strncat(text, event->text, event->text_length);
      if (event->is_last) {
        *last = *event;
        /* The event's own text ends with the events. */
        last->error = strstr(event->error, "callback") ? "callback" : "";
        --choices;
      }
    }
    qlm_events_free(events);
  }
}

static void checkEngine(qlm_model *model) {
  char *error = NULL, text[64] = "";
  qlm_engine *engine = NULL, *second = NULL;
  qlm_engine_options options;
  qlm_engine_options_init(&options);
  EXPECT(options.struct_size == sizeof(options) && options.max_queue == 1024);
  options.kv_pages = 1000;
  EXPECT(qlm_engine_start(model, &options, &engine, &error) ==
         QLM_INVALID_ARGUMENT);
  EXPECT(!strcmp(error, "pages must be from 1 to 48, got 1000"));
  qlm_string_free(error);
  EXPECT(qlm_engine_start(model, NULL, &engine, NULL) == QLM_OK);
  EXPECT(qlm_engine_start(model, NULL, &second, NULL) == QLM_INVALID_ARGUMENT);

  qlm_request request;
  qlm_request_init(&request);
  request.text = "abc";
  request.max_new_tokens = 3;
  int64_t number = -1;
  qlm_event last;
  EXPECT(qlm_submit(engine, &request, NULL, &number, NULL) == QLM_OK);
  readEvents(engine, 1, text, &last);
  EXPECT(!strcmp(text, "def") && last.request == number);
  EXPECT(last.finish_reason == QLM_FINISH_LENGTH && last.prompt_tokens == 3);

  qlm_request_options more;
  qlm_request_options_init(&more);
  more.mask = allowEven;
  request.max_new_tokens = 9;
  text[0] = 0;
  EXPECT(qlm_submit(engine, &request, &more, &number, NULL) == QLM_OK);
  readEvents(engine, 1, text, &last);
  EXPECT(!strcmp(text, "egi") && last.finish_reason == QLM_FINISH_ERROR);
  EXPECT(!strcmp(last.error, "callback"));

  qlm_stats stats;
  stats.struct_size = sizeof(stats);
  qlm_engine_stats(engine, &stats);
  EXPECT(stats.generated_tokens == 6 && stats.total_pages == 48);
  EXPECT(stats.finished[QLM_FINISH_ERROR] == 1 && stats.used_pages == 0);
  qlm_engine_drain(engine);
  EXPECT(qlm_submit(engine, &request, NULL, &number, &error) ==
         QLM_RESOURCE_EXHAUSTED);
  qlm_string_free(error);
  EXPECT(qlm_engine_open(engine) == 0);
  qlm_engine_free(engine);
}

int main(int argc, char **argv) {
  if (argc != 2)
    return 2;
  qlm_load_options options;
  qlm_load_options_init(&options);
  options.threads = 1;
  qlm_model *model = NULL;
  char *error = NULL;
  if (qlm_load(argv[1], &options, &model, &error) != QLM_OK) {
    fprintf(stderr, "%s\n", error);
    return 1;
  }
  EXPECT(!strcmp(qlm_version(), "0.1.0"));
  EXPECT(qlm_vocabulary_size(model) == 32 && qlm_max_context(model) == 64);
  EXPECT(qlm_max_batch(model) == 3 && qlm_threads(model) == 1);
  EXPECT(qlm_peak_bytes(model) == 1 << 20);
  checkErrors(model);
  checkGenerate(model);
  checkTokens(model);
  checkEngine(model);
  qlm_model_free(model);
  return failures != 0;
}

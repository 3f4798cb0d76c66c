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
  qlm_model_free(model);
  return failures != 0;
}

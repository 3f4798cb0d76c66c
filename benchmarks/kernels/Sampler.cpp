//===- Sampler.cpp - How long a token's choice takes ----------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Draws tokens from logits of a Gaussian, flat ones (deviation 1, as random
// weights give) and peaked ones (4, as trained models'). Prints the median and
// the least microseconds a token; the floor is two passes over the logits.
//
//   qlm-bench-sampler [vocabulary] [rounds]
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/Sampler.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

using namespace qlm;

static void measure(const char *name, const SamplingOptions &options,
                    bool logProbability, float deviation, int64_t size,
                    int rounds) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, deviation);
  // As many rows as a batch has, so that they are not all in the first cache.
  std::vector<std::vector<float>> rows(8);
  for (auto &row : rows)
    for (int64_t i = 0; i < size; ++i)
      row.push_back(normal(random));
  Sampler sampler(options);
  Sampler::Ask ask;
  ask.logProbability = logProbability;
  std::vector<double> times;
  for (int round = 0; round < rounds; ++round)
    for (auto &row : rows) {
      auto begin = std::chrono::steady_clock::now();
      Result<SampledToken> token = sampler.sample(row.data(), size, ask);
      times.push_back(std::chrono::duration<double, std::micro>(
                          std::chrono::steady_clock::now() - begin)
                          .count());
      if (!token.ok())
        std::exit(1);
    }
  std::sort(times.begin(), times.end());
  std::printf("%-24s deviation %g: %8.1f us, least %8.1f\n", name, deviation,
              times[times.size() / 2], times.front());
}

int main(int argc, char **argv) {
  int64_t size = argc > 1 ? std::atoll(argv[1]) : 32000;
  int rounds = argc > 2 ? std::atoi(argv[2]) : 50;
  auto with = [](auto change) {
    SamplingOptions options;
    options.temperature = 1;
    change(options);
    return options;
  };
  for (float deviation : {1.0f, 4.0f}) {
    measure("greedy", {}, false, deviation, size, rounds);
    measure("drawn", with([](auto &) {}), false, deviation, size, rounds);
    measure("drawn, log probability", with([](auto &) {}), true, deviation,
            size, rounds);
    measure("top_k 40", with([](auto &o) { o.topK = 40; }), false, deviation,
            size, rounds);
    measure("top_p 0.95", with([](auto &o) { o.topP = 0.95f; }), false,
            deviation, size, rounds);
    measure("top_k 40, top_p 0.95", with([](auto &o) {
              o.topK = 40;
              o.topP = 0.95f;
            }),
            false, deviation, size, rounds);
    measure("min_p 0.05", with([](auto &o) { o.minP = 0.05f; }), false,
            deviation, size, rounds);
  }
}

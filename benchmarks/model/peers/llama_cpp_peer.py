#!/usr/bin/env python3
# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Measures llama.cpp (PyPI's llama-cpp-python) on a GGUF file.

    llama_cpp_peer.py MODEL.gguf [--threads 2] [--prompt-tokens 512]
                      [--new-tokens 32] [--batch 1]

Prints one JSON object: pp_tps, tg_tps (all sequences together), load_s. Decoding
follows the prompt, as in `quant-run bench`.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import time

import llama_cpp as L


def decode(context, tokens, positions, sequences, wanted) -> None:
    batch = L.llama_batch_init(len(tokens), 0, 1)
    batch.n_tokens = len(tokens)
    for i, token in enumerate(tokens):
        batch.token[i], batch.pos[i] = token, positions[i]
        batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequences[i]
        batch.logits[i] = wanted[i]
    if L.llama_decode(context, batch):
        raise SystemExit("llama_decode failed")
    L.llama_synchronize(context)
    L.llama_batch_free(batch)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--batch", type=int, default=1)
    a = parser.parse_args()
    quiet = L.llama_log_callback(lambda *_: None)  # the library calls it later
    L.llama_log_set(quiet, ctypes.c_void_p(0))
    L.llama_backend_init()
    begin = time.perf_counter()
    model = L.llama_model_load_from_file(a.model.encode(),
                                         L.llama_model_default_params())
    p = L.llama_context_default_params()
    p.n_ctx = a.batch * (a.prompt_tokens + a.new_tokens + 32)
    p.n_batch, p.n_ubatch, p.n_seq_max = 2048, 512, a.batch
    p.n_threads = p.n_threads_batch = a.threads
    context = L.llama_init_from_model(model, p)
    load = time.perf_counter() - begin

    # A first step warms up; the cache is cleared after it.
    decode(context, [1, 2], [0, 1], [0, 0], [False, True])
    L.llama_memory_clear(L.llama_get_memory(context), True)
    n = a.prompt_tokens
    begin = time.perf_counter()
    for sequence in range(a.batch):
        decode(context, [7 * i % 1000 + 3 for i in range(n)], range(n),
               [sequence] * n, [False] * (n - 1) + [True])
    prefill = time.perf_counter() - begin
    begin = time.perf_counter()
    for i in range(a.new_tokens):
        decode(context, [11 * i % 1000 + 3] * a.batch, [n + i] * a.batch,
               range(a.batch), [True] * a.batch)
    seconds = time.perf_counter() - begin
    print(json.dumps({"pp_tps": a.batch * n / prefill,
                      "tg_tps": a.batch * a.new_tokens / seconds,
                      "load_s": load}))


if __name__ == "__main__":
    main()

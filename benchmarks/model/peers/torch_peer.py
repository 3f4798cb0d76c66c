#!/usr/bin/env python3
# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Measures PyTorch on a LLaMA of random weights, or its attention alone.

    torch_peer.py model CONFIG.json [--threads 2] [--prompt-tokens 512]
                  [--new-tokens 8] [--dtype bfloat16]
    torch_peer.py attention [--threads 2]

`model` prints pp_tps and tg_tps; `attention` the milliseconds of causal
scaled_dot_product_attention (2, 8, 1024, 64) in f32 and bf16, medians of 15.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F


def measure_attention() -> dict:
    result = {}
    for name, dtype in (("f32", torch.float32), ("bf16", torch.bfloat16)):
        q, k, v = (torch.randn(2, 8, 1024, 64).to(dtype) for _ in range(3))
        times = []
        for _ in range(18):
            begin = time.perf_counter()
            F.scaled_dot_product_attention(q, k, v, is_causal=True)
            times.append(time.perf_counter() - begin)
        result[f"attention_{name}_ms"] = statistics.median(times[3:]) * 1e3
    return result


def measure_model(a) -> dict:
    from transformers import LlamaConfig, LlamaForCausalLM
    config = LlamaConfig.from_json_file(a.config)
    dtype = getattr(torch, a.dtype)
    with torch.device("meta"):
        model = LlamaForCausalLM(config).to(dtype)
    model = model.to_empty(device="cpu").eval()
    # Speed depends on no value, but on the absence of denormals and NaN.
    block = (0.02 * torch.randn(1 << 22)).to(dtype)
    for name, parameter in model.named_parameters():
        flat = parameter.data.view(-1)
        if "norm" in name:
            flat.fill_(1)
            continue
        for first in range(0, flat.numel(), block.numel()):
            part = flat[first:first + block.numel()]
            part.copy_(block[:part.numel()])
    rotary = model.model.rotary_emb
    size = config.hidden_size // config.num_attention_heads
    rotary.inv_freq = 10000.0 ** (-torch.arange(0, size, 2) / size)
    rotary.original_inv_freq = rotary.inv_freq
    prompt = torch.randint(3, config.vocab_size, (1, a.prompt_tokens))
    with torch.inference_mode():
        model(prompt[:, :8])
        begin = time.perf_counter()
        out = model(prompt, use_cache=True, logits_to_keep=1)
        prefill = time.perf_counter() - begin
        token = out.logits[:, -1:].argmax(-1)
        begin = time.perf_counter()
        for _ in range(a.new_tokens):
            out = model(token, past_key_values=out.past_key_values,
                        use_cache=True)
            token = out.logits[:, -1:].argmax(-1)
        decode = time.perf_counter() - begin
    return {"pp_tps": a.prompt_tokens / prefill,
            "tg_tps": a.new_tokens / decode}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["model", "attention"])
    parser.add_argument("config", nargs="?")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--new-tokens", type=int, default=8)
    parser.add_argument("--dtype", default="bfloat16")
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    result = measure_attention() if a.what == "attention" else measure_model(a)
    print(json.dumps(result))


if __name__ == "__main__":
    main()

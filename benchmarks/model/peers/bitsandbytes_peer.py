#!/usr/bin/env python3
# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Measures bitsandbytes on a LLaMA of random weights, on a GPU.

    bitsandbytes_peer.py nf4|llm.int8 CONFIG.json [--prompt-tokens 512]
                         [--new-tokens 64] [--repeat 3]

The model is transformers' LlamaForCausalLM in f16 with all linears but the
head replaced by bitsandbytes' layers, as `load_in_4bit` (NF4 with double
quantization) and `load_in_8bit` (threshold 6) do. Prints, as JSON:

- `tg_tps`: tokens a second of a greedy loop over the cache, each repetition;
- `linears_ms`: the layers' linears of one token alone, one after the other in
  a CUDA graph: what the GPU needs without Python's time between its kernels.
  null where a layer can't be captured (LLM.int8 looks for outliers on the
  host).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import bitsandbytes as bnb
import torch
from transformers import LlamaConfig, LlamaForCausalLM


def quantize(linear: torch.nn.Linear, kind: str) -> torch.nn.Module:
    shape = (linear.in_features, linear.out_features)
    weight = linear.weight.data
    if kind == "nf4":
        layer = bnb.nn.Linear4bit(
            *shape, bias=False, compute_dtype=torch.float16,
            compress_statistics=True, quant_type="nf4", device="meta")
        layer.weight = bnb.nn.Params4bit(
            weight, requires_grad=False, compress_statistics=True,
            quant_type="nf4", module=layer).to("cuda")
        layer.quant_state = layer.weight.quant_state
        return layer
    layer = bnb.nn.Linear8bitLt(*shape, bias=False, has_fp16_weights=False,
                                threshold=6.0, device="meta")
    layer.weight = bnb.nn.Int8Params(
        weight, requires_grad=False, has_fp16_weights=False).to("cuda")
    return layer


def make_model(config: LlamaConfig, kind: str):
    torch.set_default_dtype(torch.float16)
    with torch.device("cuda"):
        model = LlamaForCausalLM(config).eval()
    for name, module in list(model.named_modules()):
        if not isinstance(module, torch.nn.Linear) or name == "lm_head":
            continue
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, quantize(module, kind))
    return model


def decode(model, prompt: torch.Tensor, count: int) -> float:
    """Tokens a second."""
    output = model(prompt, use_cache=True, logits_to_keep=1)
    cache = output.past_key_values
    token = output.logits[:, -1:].argmax(-1)
    for step in range(count + 4):
        if step == 4:  # the first ones warm up
            torch.cuda.synchronize()
            begin = time.perf_counter()
        output = model(token, past_key_values=cache, use_cache=True)
        token = output.logits[:, -1:].argmax(-1)
    torch.cuda.synchronize()
    return count / (time.perf_counter() - begin)


def time_linears(model) -> float | None:
    """Milliseconds of all quantized linears for one row, in a graph."""
    layers = [m for m in model.modules()
              if isinstance(m, (bnb.nn.Linear4bit, bnb.nn.Linear8bitLt))]
    inputs = {n: torch.randn(1, 1, n, device="cuda")
              for n in {m.in_features for m in layers}}
    try:
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for layer in layers:
                layer(inputs[layer.in_features])
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream):
                for layer in layers:
                    layer(inputs[layer.in_features])
    except RuntimeError:
        return None
    times = []
    for _ in range(20):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=("nf4", "llm.int8"))
    parser.add_argument("config")
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    config = LlamaConfig.from_json_file(options.config)
    with torch.inference_mode():
        model = make_model(config, options.kind)
        prompt = torch.randint(3, config.vocab_size,
                               (1, options.prompt_tokens), device="cuda")
        rates = [decode(model, prompt, options.new_tokens)
                 for _ in range(options.repeat)]
        print(json.dumps({
            "peer": f"bitsandbytes {bnb.__version__}", "kind": options.kind,
            "torch": torch.__version__, "tg_tps": rates}), flush=True)
        print(json.dumps({"linears_ms": time_linears(model)}), flush=True)


if __name__ == "__main__":
    main()

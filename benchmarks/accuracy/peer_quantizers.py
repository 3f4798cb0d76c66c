# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Quantizes a model by another tool, on the calibration tokens that ours sees.

    peer_quantizers.py TOOL MODEL -o FOLDER --calibration FILE [--zero-points]
        [--act-order] [--tokens 32768] [--window 512] [--damping 0.01] [--cuda]

TOOL is gptqmodel, autoawq, llmcompressor-gptq or llmcompressor-awq: int4 by
groups of 128, the head as it is. FOLDER is the tool's own checkpoint, which
``python -m qlm.checkpoints`` restores bit for bit and compare_peers.py
measures. Windows are those of quantc: the text's first tokens, cut where no
token is shared. All run on the processor,
or with --cuda on a GPU.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

if "--cuda" not in sys.argv:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")

import torch  # noqa: E402
from transformers import (  # noqa: E402
    AutoModelForCausalLM, PreTrainedTokenizerFast)

GROUP = 128


def windows(tokenizer, args) -> list[list[int]]:
    """The token windows that quantc --calibration sees."""
    text = args.calibration.read_text()
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    tokens = tokens[: args.tokens]
    return [tokens[first : first + args.window]
            for first in range(0, len(tokens) - args.window + 1, args.window)]


def gptqmodel(tokenizer, data, args) -> None:
    from gptqmodel import BACKEND, GPTQModel, QuantizeConfig

    config = QuantizeConfig(
        bits=4, group_size=GROUP, sym=not args.zero_points,
        desc_act=args.act_order, damp_percent=args.damping)
    model = GPTQModel.load(str(args.model), config, device="cpu",
                           backend=BACKEND.TORCH)
    model.quantize([{"input_ids": ids, "attention_mask": [1] * len(ids)}
                    for ids in data], batch_size=4, tokenizer=tokenizer)
    model.save(str(args.output))


def autoawq(tokenizer, data, args) -> None:
    from awq import AutoAWQForCausalLM

    model = AutoAWQForCausalLM.from_pretrained(
        str(args.model), torch_dtype=torch.float32, device_map="cpu")
    model.quantize(
        tokenizer, calib_data=data, max_calib_samples=len(data),
        max_calib_seq_len=args.window,
        quant_config={"zero_point": True, "q_group_size": GROUP, "w_bit": 4,
                      "version": "GEMM"})
    model.save_quantized(str(args.output))


def llmcompressor(tokenizer, data, args) -> None:
    from datasets import Dataset
    from llmcompressor import oneshot

    if args.tool.endswith("gptq"):
        from llmcompressor.modifiers.quantization import GPTQModifier as Modifier
        extra = {"dampening_frac": args.damping}
        if args.act_order:
            extra["actorder"] = "static"
    else:
        try:
            from llmcompressor.modifiers.awq import AWQModifier as Modifier
        except ImportError:
            from llmcompressor.modifiers.transform.awq import (
                AWQModifier as Modifier)
        extra = {}
    scheme = "W4A16_ASYM" if args.zero_points else "W4A16"
    model = AutoModelForCausalLM.from_pretrained(args.model,
                                                 dtype=torch.float32)
    rows = Dataset.from_dict({"input_ids": data,
                              "attention_mask": [[1] * len(x) for x in data]})
    oneshot(model=model, dataset=rows, max_seq_length=args.window,
            num_calibration_samples=len(data),
            recipe=Modifier(targets=["Linear"], scheme=scheme,
                            ignore=["lm_head"], **extra))
    model.save_pretrained(args.output, save_compressed=True)


TOOLS = {"gptqmodel": gptqmodel, "autoawq": autoawq,
         "llmcompressor-gptq": llmcompressor,
         "llmcompressor-awq": llmcompressor}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("tool", choices=TOOLS)
    parser.add_argument("model", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--zero-points", action="store_true")
    parser.add_argument("--act-order", action="store_true")
    parser.add_argument("--tokens", type=int, default=32768)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--damping", type=float, default=0.01)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cuda", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(args.model / "tokenizer.json"),
        eos_token="<|end_of_text|>", pad_token="<|end_of_text|>")
    start = time.time()
    TOOLS[args.tool](tokenizer, windows(tokenizer, args), args)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (args.output / name).write_bytes((args.model / name).read_bytes())
    print(f"{args.tool}: {time.time() - start:.1f} s")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Makes a model folder that has shapes and no weights.

    shapes_model.py llama-2-7b FOLDER
    quantc FOLDER -o PACKAGE --target cuda --weights int4
    fill_package.py strip PACKAGE SKELETON, fill SKELETON

Speed depends on shapes and formats alone. The weights' file is sparse: zeros
that take no room. Fill the package before it is measured.
"""

from __future__ import annotations

import argparse
import json
import struct
from pathlib import Path

MODELS = {
    "llama-2-7b": {
        "hidden_size": 4096, "intermediate_size": 11008,
        "num_attention_heads": 32, "num_key_value_heads": 32, "head_dim": 128,
        "num_hidden_layers": 32},
    "tinyllama-1.1b": {
        "hidden_size": 2048, "intermediate_size": 5632,
        "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 64,
        "num_hidden_layers": 22},
}
COMMON = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama",
    "attention_bias": False, "mlp_bias": False, "hidden_act": "silu",
    "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "vocab_size": 32000,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16"}


def tensors(config: dict) -> dict[str, list[int]]:
    """Names and shapes, as Hugging Face's LLaMA has them."""
    hidden, features = config["hidden_size"], config["intermediate_size"]
    queries = config["num_attention_heads"] * config["head_dim"]
    keys = config["num_key_value_heads"] * config["head_dim"]
    vocabulary = config["vocab_size"]
    result = {"model.embed_tokens.weight": [vocabulary, hidden],
              "lm_head.weight": [vocabulary, hidden],
              "model.norm.weight": [hidden]}
    for layer in range(config["num_hidden_layers"]):
        stem = f"model.layers.{layer}."
        for name, shape in {
                "self_attn.q_proj": [queries, hidden],
                "self_attn.k_proj": [keys, hidden],
                "self_attn.v_proj": [keys, hidden],
                "self_attn.o_proj": [hidden, queries],
                "mlp.gate_proj": [features, hidden],
                "mlp.up_proj": [features, hidden],
                "mlp.down_proj": [hidden, features],
                "input_layernorm": [hidden],
                "post_attention_layernorm": [hidden]}.items():
            result[f"{stem}{name}.weight"] = shape
    return result


def write(name: str, folder: Path) -> None:
    config = {**COMMON, **MODELS[name]}
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    table, end = {}, 0
    for key, shape in tensors(config).items():
        begin = end
        end += 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        table[key] = {"dtype": "BF16", "shape": shape,
                      "data_offsets": [begin, end]}
    header = json.dumps(table).encode()
    header += b" " * (-len(header) % 8)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + end)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", choices=sorted(MODELS))
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    write(options.model, options.folder)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Writes a LLaMA of random weights as GGUF, in the blocks that speed depends on.

    make_gguf.py CONFIG.json OUT.gguf Q4_0|Q8_0|BF16

Shapes are those of the Hugging Face configuration. Codes are random bits,
scales are such that activations keep their size. As llama.cpp's own quantizer
does, Q4_0 keeps the head in Q6_K. Needs NumPy and PyPI's gguf.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import gguf
import numpy as np

BLOCK = 1 << 22  # values that are made once and repeated
DEVIATION = 0.02
random = np.random.Generator(np.random.PCG64(1))


def half(value: float, count: int) -> np.ndarray:
    return np.full((count, 1), value, np.float16).view(np.uint8)


def codes(count: int, size: int) -> np.ndarray:
    return random.integers(0, 256, (count, size), np.uint8)


def make_blocks(kind: str) -> tuple[np.ndarray, int]:
    """Blocks as bytes `[blocks, block bytes]`, and the values of a block."""
    if kind == "Q4_0":  # d f16, 16 bytes of nibbles; d * (n - 8)
        n = BLOCK // 32
        return np.hstack([half(DEVIATION / 4.6, n), codes(n, 16)]), 32
    if kind == "Q8_0":  # d f16, 32 int8
        n = BLOCK // 32
        return np.hstack([half(DEVIATION / 74, n), codes(n, 32)]), 32
    if kind == "Q6_K":  # 128 + 64 bytes of codes, 16 int8 scales, d f16
        n = BLOCK // 256
        scales = np.ones((n, 16), np.uint8)
        return np.hstack([codes(n, 192), scales, half(DEVIATION / 18.5, n)]), 256
    values = DEVIATION * random.standard_normal(BLOCK, np.float32)
    return (values.view(np.uint32) >> 16).astype(np.uint16).view(
        np.uint8).reshape(-1, 2), 1


class Writer:
    def __init__(self, path: Path, config: dict, kind: str):
        self.kind = kind
        self.blocks: dict[str, tuple[np.ndarray, int]] = {}
        self.out = gguf.GGUFWriter(str(path), "llama")
        self.write_header(config)

    def write_header(self, config: dict) -> None:
        out, vocabulary = self.out, config["vocab_size"]
        heads = config["num_attention_heads"]
        out.add_context_length(config["max_position_embeddings"])
        out.add_embedding_length(config["hidden_size"])
        out.add_block_count(config["num_hidden_layers"])
        out.add_feed_forward_length(config["intermediate_size"])
        out.add_head_count(heads)
        out.add_head_count_kv(config["num_key_value_heads"])
        out.add_layer_norm_rms_eps(config["rms_norm_eps"])
        out.add_rope_dimension_count(config["hidden_size"] // heads)
        out.add_rope_freq_base(float(config.get("rope_theta", 10000.0)))
        out.add_vocab_size(vocabulary)
        kinds = gguf.TokenType
        out.add_tokenizer_model("llama")
        out.add_token_list([b"<unk>", b"<s>", b"</s>"] + [
            f"<0x{i:02X}>".encode() if i < 256 else f"w{i}".encode()
            for i in range(vocabulary - 3)])
        out.add_token_scores([-float(i) for i in range(vocabulary)])
        out.add_token_types([kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL] + [
            kinds.BYTE if i < 256 else kinds.NORMAL
            for i in range(vocabulary - 3)])
        out.add_bos_token_id(1)
        out.add_eos_token_id(2)
        out.add_unk_token_id(0)

    def matrix(self, name: str, rows: int, columns: int, kind: str = "") -> None:
        kind = kind or self.kind
        if kind not in self.blocks:
            self.blocks[kind] = make_blocks(kind)
        blocks, values = self.blocks[kind]
        count = rows * columns // values
        data = np.resize(blocks, (count, blocks.shape[1]))
        self.out.add_tensor(name, data.reshape(rows, -1),
                            raw_dtype=gguf.GGMLQuantizationType[kind])

    def norm(self, name: str, features: int) -> None:
        self.out.add_tensor(name, np.ones(features, np.float32))

    def finish(self) -> None:
        self.out.write_header_to_file()
        self.out.write_kv_data_to_file()
        self.out.write_tensors_to_file()
        self.out.close()


def main() -> None:
    if len(sys.argv) != 4 or sys.argv[3] not in ("Q4_0", "Q8_0", "BF16"):
        sys.exit(__doc__)
    config = json.loads(Path(sys.argv[1]).read_text())
    kind = sys.argv[3]
    hidden, ffn = config["hidden_size"], config["intermediate_size"]
    kv = (hidden // config["num_attention_heads"]
          * config["num_key_value_heads"])
    writer = Writer(Path(sys.argv[2]), config, kind)
    writer.matrix("token_embd.weight", config["vocab_size"], hidden)
    writer.norm("output_norm.weight", hidden)
    if not config.get("tie_word_embeddings"):
        writer.matrix("output.weight", config["vocab_size"], hidden,
                      "Q6_K" if kind == "Q4_0" else kind)
    for layer in range(config["num_hidden_layers"]):
        block = f"blk.{layer}."
        writer.norm(block + "attn_norm.weight", hidden)
        writer.norm(block + "ffn_norm.weight", hidden)
        for name, rows, columns in (
                ("attn_q", hidden, hidden), ("attn_k", kv, hidden),
                ("attn_v", kv, hidden), ("attn_output", hidden, hidden),
                ("ffn_gate", ffn, hidden), ("ffn_up", ffn, hidden),
                ("ffn_down", hidden, ffn)):
            writer.matrix(f"{block}{name}.weight", rows, columns)
    writer.finish()


if __name__ == "__main__":
    main()

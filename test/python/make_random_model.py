# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Writes a LLaMA folder of random bfloat16 weights for benchmarks.

    python make_random_model.py tinyllama-1.1b DIR

Speed and memory depend on shapes, not values, so the weights are one block of
normal numbers, read from another place for each tensor. The model is streamed:
memory stays under 200 MB whatever its size. Needs NumPy alone.
"""

from __future__ import annotations

import argparse
import json
import shutil
import struct
from pathlib import Path

import numpy as np
from random_llama import Spec, bf16_bits, config_of, shapes_of

TINY = Path(__file__).resolve().parents[2] / "models" / "tiny-llama"

PRESETS = {
    "tiny28m": Spec("tiny28m", 1, hidden=512, layers=8, heads=8, kv_heads=8,
                    ffn=1376, vocab=8192, tied=True, dtype="BF16"),
    "tinyllama-1.1b": Spec("tinyllama-1.1b", 1, hidden=2048, layers=22,
                           heads=32, kv_heads=4, ffn=5632, vocab=32000,
                           dtype="BF16"),
    "llama-2-7b": Spec("llama-2-7b", 1, hidden=4096, layers=32, heads=32,
                       kv_heads=32, ffn=11008, vocab=32000, dtype="BF16"),
}  # fmt: skip

# Values in the block that tensors are read from. The odd step between the
# places keeps rows of equal tensors from lining up.
BLOCK = 1 << 24
STEP = 1_000_003
DEVIATION = 0.02


def random_block(seed: int) -> np.ndarray:
    """Returns `BLOCK` normal numbers as bfloat16 bits."""
    generator = np.random.Generator(np.random.PCG64(seed))
    block = np.empty(BLOCK, np.uint16)
    for part in np.split(block, 16):
        values = generator.standard_normal(part.size, np.float32)
        part[:] = bf16_bits(values * np.float32(DEVIATION))
    return block


def stream(out, block: np.ndarray, start: int, count: int) -> None:
    """Writes `count` values of the block from `start` on, around its end."""
    while count:
        part = block[start : start + count]
        out.write(part.data)
        count -= part.size
        start = 0


def plan_shards(shapes: dict, limit: int) -> list[dict]:
    """Groups tensors in order into shards of at most `limit` bytes each."""
    shards: list[dict] = [{}]
    used = 0
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        if shards[-1] and used + size > limit:
            shards.append({})
            used = 0
        shards[-1][name] = shape
        used += size
    return shards


def write_shard(path: Path, shapes: dict, block: np.ndarray, first: int):
    """Writes one safetensors file; `first` numbers its first tensor."""
    header: dict = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        end = offset + 2 * int(np.prod(shape))
        header[name] = {
            "dtype": "BF16",
            "shape": list(shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for index, (name, shape) in enumerate(shapes.items(), first):
            if "norm" in name:
                out.write(bf16_bits(np.ones(shape, np.float32)).data)
            else:
                start = index * STEP % BLOCK
                stream(out, block, start, int(np.prod(shape)))


def write_model(spec: Spec, folder: Path, shard_bytes: int) -> None:
    """Writes config, weights and a tokenizer of `spec` into `folder`.

    The tokenizer is the tiny model's: valid, though it knows only the first
    4096 ids of a larger vocabulary.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = config_of(spec) | {"max_position_embeddings": 4096}
    text = json.dumps(config, indent=2) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(TINY / name, folder / name)

    shapes = shapes_of(spec)
    shards = plan_shards(shapes, shard_bytes)
    block, where, done = random_block(spec.seed), {}, 0
    for number, part in enumerate(shards, 1):
        name = "model.safetensors"
        if len(shards) > 1:
            name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        where.update(dict.fromkeys(part, name))
        write_shard(folder / name, part, block, done)
        done += len(part)
    if len(shards) > 1:
        total = sum(2 * int(np.prod(shape)) for shape in shapes.values())
        index = {"metadata": {"total_size": total}, "weight_map": where}
        path = folder / "model.safetensors.index.json"
        path.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("preset", choices=sorted(PRESETS))
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--shard-bytes",
        type=int,
        default=5_000_000_000,
        help="most bytes of weights in one file (default: %(default)s)",
    )
    args = parser.parse_args()
    write_model(PRESETS[args.preset], args.folder, args.shard_bytes)


if __name__ == "__main__":
    main()

# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Makes small LLaMA folders of random weights, the same on every machine.

    python random_llama.py DIR          all of `SPECS`, one folder each
    python random_llama.py DIR NAME...  only these

Needs NumPy alone. Weights come from PCG64's raw bits by integer arithmetic:
NumPy keeps that stream fixed over its versions, but not its normal numbers.
`references/NAME.npz` holds what transformers computes with a folder;
`make_references.py` writes those.
"""

from __future__ import annotations

import argparse
import json
import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Spec:
    """Shape, options and seed of one random model.

    ``head_dim`` and ``kv_heads`` of None leave the key out of ``config.json``,
    so that the reader derives it. ``rope_style`` says where the rotary
    options stand: ``old`` at top level (``rope_theta``, ``rope_scaling``),
    ``new`` inside ``rope_parameters``, ``none`` nowhere. ``architecture`` is
    Llama, Mistral or Qwen2; the last two have ``sliding_window`` (null where
    ``window`` is None) and the keys of ``sliding`` beside it. Qwen2 has biases
    of queries, keys and values, which ``config.json`` doesn't tell.
    """

    name: str
    seed: int
    hidden: int = 64
    layers: int = 2
    heads: int = 4
    kv_heads: int | None = 4
    head_dim: int | None = None
    ffn: int = 128
    vocab: int = 97
    tied: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    rope_theta: float = 10000.0
    rope_scaling: dict = field(default_factory=dict)
    rope_style: str = "old"
    eps: float | None = 1e-5
    dtype: str = "F32"
    shards: int = 1
    architecture: str = "Llama"
    window: int | None = None
    sliding: dict = field(default_factory=dict)

    @property
    def key_heads(self) -> int:
        """Key and value heads, derived when not given."""
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def has_query_bias(self) -> bool:
        """Whether queries, keys and values have biases."""
        return self.attention_bias or self.architecture == "Qwen2"

    @property
    def head_size(self) -> int:
        """Channels of a head, derived when not given."""
        return self.head_dim or self.hidden // self.heads


def llama3(factor: float) -> dict:
    """Scaling whose three bands all lie inside the references' 56 tokens."""
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }


SPECS = (
    Spec("mha-f32", 1),
    Spec("gqa-bf16", 2, heads=8, kv_heads=2, layers=3, ffn=176, vocab=257,
         dtype="BF16", rope_style="new"),
    Spec("mqa-f16", 3, kv_heads=1, vocab=211, dtype="F16", rope_theta=5e5),
    Spec("head-dim-given", 4, kv_heads=2, head_dim=32, ffn=96, dtype="BF16"),
    Spec("tied", 5, kv_heads=2, ffn=160, vocab=257, tied=True, dtype="BF16"),
    Spec("attention-bias", 106, kv_heads=2, vocab=131, attention_bias=True),
    Spec("mlp-bias", 7, kv_heads=2, attention_bias=True, mlp_bias=True,
         dtype="F16", rope_style="new"),
    Spec("rope-linear-old", 8, kv_heads=2, vocab=127,
         rope_scaling={"type": "linear", "factor": 2.0}),
    Spec("rope-linear-new", 9, kv_heads=2, vocab=127, rope_style="new",
         rope_scaling={"rope_type": "linear", "factor": 4.0}, dtype="BF16"),
    Spec("rope-llama3-old", 10, heads=2, kv_heads=1, vocab=193,
         rope_scaling=llama3(8.0)),
    Spec("rope-llama3-new", 11, heads=2, kv_heads=2, vocab=193, eps=1e-6,
         rope_theta=5e5, rope_style="new", rope_scaling=llama3(32.0),
         dtype="BF16"),
    Spec("head-dim-12", 12, hidden=48, kv_heads=2, ffn=100, vocab=131,
         eps=1e-6, dtype="F16"),
    Spec("head-dim-20", 13, hidden=48, heads=3, kv_heads=1, head_dim=20,
         ffn=100, vocab=101, rope_theta=1e6, eps=1e-3, tied=True),
    Spec("three-shards", 14, hidden=96, heads=6, kv_heads=3, ffn=224,
         vocab=257, dtype="BF16", shards=3, rope_style="new"),
    Spec("group-128", 15, hidden=256, heads=4, kv_heads=2, ffn=384, vocab=512,
         layers=1, dtype="BF16", shards=2),
    Spec("defaults", 16, kv_heads=None, eps=None, rope_style="none", layers=1),
    # Prompts of 24 tokens are longer than these windows.
    Spec("mistral-window", 17, heads=8, kv_heads=2, ffn=176, vocab=193,
         dtype="BF16", architecture="Mistral", window=9),
    Spec("mistral-two", 118, kv_heads=1, vocab=131, layers=3,
         architecture="Mistral", window=2, rope_style="new"),
    Spec("mistral-long", 19, kv_heads=4, head_dim=20, vocab=127,
         architecture="Mistral", window=4096),
    Spec("mistral-no-window", 20, kv_heads=2, vocab=127, dtype="F16",
         architecture="Mistral"),
    Spec("qwen2-window", 21, kv_heads=2, vocab=193, layers=4, dtype="BF16",
         architecture="Qwen2", window=17,
         sliding={"use_sliding_window": True, "max_window_layers": 1}),
    Spec("qwen2-layer-types", 22, kv_heads=2, vocab=193, layers=3, tied=True,
         architecture="Qwen2", window=5,
         sliding={"use_sliding_window": True,
                  "layer_types": ["sliding_attention", "full_attention",
                                  "sliding_attention"]}),
    Spec("qwen2-unused-window", 23, kv_heads=4, vocab=127, layers=1,
         architecture="Qwen2", window=5,
         sliding={"use_sliding_window": False}),
)  # fmt: skip


def config_of(spec: Spec) -> dict:
    """Returns ``config.json``, without the keys that the spec leaves out."""
    config = {
        "architectures": [spec.architecture + "ForCausalLM"],
        "bos_token_id": None,
        "eos_token_id": None,
        "hidden_act": "silu",
        "hidden_size": spec.hidden,
        "intermediate_size": spec.ffn,
        "max_position_embeddings": 128,
        "model_type": spec.architecture.lower(),
        "num_attention_heads": spec.heads,
        "num_hidden_layers": spec.layers,
        "tie_word_embeddings": spec.tied,
        "vocab_size": spec.vocab,
    }
    if spec.kv_heads is not None:
        config["num_key_value_heads"] = spec.kv_heads
    if spec.head_dim is not None:
        config["head_dim"] = spec.head_dim
    if spec.eps is not None:
        config["rms_norm_eps"] = spec.eps
    if spec.attention_bias:
        config["attention_bias"] = True
    if spec.mlp_bias:
        config["mlp_bias"] = True
    if spec.architecture != "Llama":
        config["sliding_window"] = spec.window
        config.update(spec.sliding)
    if spec.rope_style == "old":
        config["rope_theta"] = spec.rope_theta
        config["rope_scaling"] = spec.rope_scaling or None
    elif spec.rope_style == "new":
        rope = spec.rope_scaling or {"rope_type": "default"}
        config["rope_parameters"] = {**rope, "rope_theta": spec.rope_theta}
    names = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    key = "dtype" if spec.rope_style == "new" else "torch_dtype"
    config[key] = names[spec.dtype]
    return config


def shapes_of(spec: Spec) -> dict[str, tuple[int, ...]]:
    """Returns name and shape of each stored tensor, in file order.

    A linear's weight is [outputs, inputs], its bias [outputs].
    """
    query, key = spec.heads * spec.head_size, spec.key_heads * spec.head_size
    shapes = {"model.embed_tokens.weight": (spec.vocab, spec.hidden)}

    def linear(name: str, rows: int, columns: int, bias: bool) -> None:
        shapes[name + ".weight"] = (rows, columns)
        if bias:
            shapes[name + ".bias"] = (rows,)

    for index in range(spec.layers):
        layer = f"model.layers.{index}."
        shapes[layer + "input_layernorm.weight"] = (spec.hidden,)
        shapes[layer + "post_attention_layernorm.weight"] = (spec.hidden,)
        for name, rows, columns in (
            ("q_proj", query, spec.hidden),
            ("k_proj", key, spec.hidden),
            ("v_proj", key, spec.hidden),
            ("o_proj", spec.hidden, query),
        ):
            bias = spec.attention_bias
            if name != "o_proj":
                bias = spec.has_query_bias
            linear(layer + "self_attn." + name, rows, columns, bias)
        for name, rows, columns in (
            ("gate_proj", spec.ffn, spec.hidden),
            ("up_proj", spec.ffn, spec.hidden),
            ("down_proj", spec.hidden, spec.ffn),
        ):
            linear(layer + "mlp." + name, rows, columns, spec.mlp_bias)
    shapes["model.norm.weight"] = (spec.hidden,)
    if not spec.tied:
        shapes["lm_head.weight"] = (spec.vocab, spec.hidden)
    return shapes


def bell(bits: np.random.PCG64, count: int) -> np.ndarray:
    """Draws `count` float32 of mean 0 and deviation 1, near normal.

    Each is the centred sum of the four 16-bit fields of one raw draw.
    """
    raw = bits.random_raw(count)
    total = sum(
        (raw >> np.uint64(shift)) & np.uint64(0xFFFF)
        for shift in (0, 16, 32, 48)
    )
    centred = total.astype(np.float64) - 2 * 0xFFFF
    return (centred / np.sqrt((2.0**32 - 1) / 3)).astype(np.float32)


def draw(name: str, shape: tuple, bits: np.random.PCG64) -> np.ndarray:
    """Draws one tensor, scaled so that logits spread and attention is sharp."""
    values = bell(bits, int(np.prod(shape))).reshape(shape)
    if "norm" in name:
        return 1 + values / 8
    if name.endswith("bias"):
        return values / 16
    if name in ("lm_head.weight", "model.embed_tokens.weight"):
        return values * np.float32(2 / np.sqrt(shape[1]))
    return values * np.float32(1.2 / np.sqrt(shape[1]))


def bf16_bits(values: np.ndarray) -> np.ndarray:
    """Rounds finite float32 to bfloat16, ties to even, as uint16 bits.

    Examples
    --------
    >>> bf16_bits(np.float32([1.0, 1.00390625, 1.01171875])).tolist()
    [16256, 16256, 16258]
    """
    bits = values.astype(np.float32).view(np.uint32)
    half = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return ((bits + half) >> np.uint32(16)).astype(np.uint16)


def encode(values: np.ndarray, dtype: str) -> bytes:
    """Returns float32 `values` as little-endian bytes of `dtype`."""
    if dtype == "BF16":
        return bf16_bits(values).astype("<u2").tobytes()
    return values.astype({"F32": "<f4", "F16": "<f2"}[dtype]).tobytes()


def write_safetensors(path: Path, tensors: dict, dtype: str) -> int:
    """Writes float32 arrays as `dtype` and returns the bytes of data."""
    header, blobs, offset = {"__metadata__": {"format": "pt"}}, [], 0
    for name, values in tensors.items():
        blobs.append(encode(values, dtype))
        end = offset + len(blobs[-1])
        header[name] = {
            "dtype": dtype,
            "shape": list(values.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        out.writelines(blobs)
    return offset


def write_model(spec: Spec, folder: Path) -> None:
    """Writes ``config.json`` and the weights of `spec` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(config_of(spec), indent=2) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")
    bits = np.random.PCG64(spec.seed)
    tensors = {n: draw(n, s, bits) for n, s in shapes_of(spec).items()}
    if spec.shards == 1:
        write_safetensors(folder / "model.safetensors", tensors, spec.dtype)
        return
    names, total, where = list(tensors), 0, {}
    for shard in range(spec.shards):
        file = f"model-{shard + 1:05d}-of-{spec.shards:05d}.safetensors"
        part = {n: tensors[n] for n in names[shard :: spec.shards]}
        where.update(dict.fromkeys(part, file))
        total += write_safetensors(folder / file, part, spec.dtype)
    index = {"metadata": {"total_size": total}, "weight_map": where}
    text = json.dumps(index, indent=2) + "\n"
    path = folder / "model.safetensors.index.json"
    path.write_text(text, encoding="utf-8")


def find(name: str) -> Spec:
    """Returns the spec called `name`."""
    for spec in SPECS:
        if spec.name == name:
            return spec
    raise KeyError(f"no spec has this name, got {name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME")
    args = parser.parse_args()
    specs = [find(name) for name in args.names] or SPECS
    for spec in specs:
        write_model(spec, args.folder / spec.name)


if __name__ == "__main__":
    main()

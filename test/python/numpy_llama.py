# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""A LLaMA in float64 NumPy, with the quantization of a package.

Written from the operations' descriptions and Llama's formulas alone, to be
obviously right and not fast; quantization is `numpy_reference`'s. Shapes in
comments: T tokens, H heads, G heads of keys, D channels of a head.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import numpy_reference
import toolchain
from numpy_reference import Scheme


def inverse_frequencies(config: dict, head_dim: int) -> np.ndarray:
    """Angles per position [D/2] of rotary embeddings, scaling applied."""
    rope = dict(config.get("rope_scaling") or {})
    rope.update(config.get("rope_parameters") or {})
    theta = rope.get("rope_theta", config.get("rope_theta", 10000.0))
    values = theta ** (-np.arange(0, head_dim, 2) / head_dim)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "linear":
        return values / rope["factor"]
    if kind == "llama3":
        context = rope["original_max_position_embeddings"]
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        turns = context * values / (2 * math.pi)
        kept = np.clip((turns - low) / (high - low), 0, 1)
        return values * (kept + (1 - kept) / rope["factor"])
    assert kind == "default", kind
    return values


def softmax(scores: np.ndarray) -> np.ndarray:
    """Probabilities along the last axis."""
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


class Llama:
    """A model's folder, ready to compute logits.

    Parameters
    ----------
    folder : Path
        A Hugging Face folder, as `random_llama` writes them.
    scheme : Scheme, optional
        Rounds the weights of linears; none leaves them as stored.
    dynamic_activations : bool
        Whether the inputs of rounded linears become int8 for each token.
    keep_lm_head : bool
        Whether the last linear stays as stored.
    outlier_threshold : float
        The magnitude from which inputs stay wide, as LLM.int8 does it on each
        row; none by default.
    float8_activations : bool
        Whether the inputs of rounded linears become f8E4M3FN.
    """

    def __init__(
        self,
        folder: Path,
        scheme: Scheme | None = None,
        dynamic_activations: bool = False,
        keep_lm_head: bool = False,
        outlier_threshold: float = math.inf,
        float8_activations: bool = False,
    ) -> None:
        text = (folder / "config.json").read_text(encoding="utf-8")
        self.config = json.loads(text)
        self.tensors: dict[str, np.ndarray] = {}
        for path in sorted(folder.glob("*.safetensors")):
            self.tensors.update(toolchain.read_safetensors(path))
        self.scheme = scheme
        self.dynamic_activations = dynamic_activations
        self.keep_lm_head = keep_lm_head
        self.float8_activations = float8_activations
        self.outlier_threshold = outlier_threshold
        self.heads = self.config["num_attention_heads"]
        self.kv_heads = self.config.get("num_key_value_heads") or self.heads
        hidden = self.config["hidden_size"]
        self.head_dim = self.config.get("head_dim") or hidden // self.heads
        self.epsilon = self.config.get("rms_norm_eps", 1e-6)

    def weight(self, name: str) -> np.ndarray:
        """The stored weight of a linear, [rows, columns] float32."""
        if name == "lm_head" and self.config["tie_word_embeddings"]:
            name = "model.embed_tokens"
        return self.tensors[name + ".weight"].astype(np.float32)

    def linear(self, x: np.ndarray, name: str) -> np.ndarray:
        """``x W^T + b``, with W and x as the scheme rounds them."""
        weight = self.weight(name)
        rounded = self.scheme and not (self.keep_lm_head and name == "lm_head")
        if rounded:
            stored = numpy_reference.rtn(weight, self.scheme)
            weight = numpy_reference.dequantize(*stored, self.scheme)
            if self.float8_activations:
                codes, scales = numpy_reference.dynamic_quantize_float8(
                    x.astype(np.float32))
                x = (numpy_reference.from_float8(codes).astype(np.float64)
                     * scales[:, None].astype(np.float64))
            elif self.dynamic_activations:
                values = x.astype(np.float32)
                wide = np.abs(values) >= self.outlier_threshold
                rest = np.where(wide, np.float32(0), values)
                codes, scales = numpy_reference.dynamic_quantize(rest)
                rounded = codes * scales[:, None].astype(np.float64)
                x = np.where(wide, x, rounded)
        y = x @ weight.T.astype(np.float64)
        bias = self.tensors.get(name + ".bias")
        return y if bias is None else y + bias.astype(np.float64)

    def norm(self, x: np.ndarray, name: str) -> np.ndarray:
        """RMS norm with a weight for each channel."""
        mean = (x * x).mean(axis=-1, keepdims=True)
        weight = self.tensors[name + ".weight"].astype(np.float64)
        return x / np.sqrt(mean + self.epsilon) * weight

    def rotate(self, x: np.ndarray) -> np.ndarray:
        """Rotary embedding of [T, heads, D]; row t is at position t."""
        values = inverse_frequencies(self.config, self.head_dim)
        angles = np.arange(len(x))[:, None] * values
        cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
        first, second = np.split(x, 2, axis=-1)
        return np.concatenate(
            [first * cos - second * sin, second * cos + first * sin], axis=-1
        )

    def window(self, index: int) -> int | None:
        """The last keys that tokens see in a layer; None for all."""
        if self.config["model_type"] == "mistral":
            return self.config["sliding_window"]
        if not self.config.get("use_sliding_window"):
            return None
        layers = self.config["num_hidden_layers"]
        first = self.config.get("max_window_layers", 28)
        types = self.config.get("layer_types") or [
            "full_attention" if layer < first else "sliding_attention"
            for layer in range(layers)]
        return (self.config["sliding_window"]
                if types[index] == "sliding_attention" else None)

    def attention(self, x: np.ndarray, layer: str,
                  window: int | None) -> np.ndarray:
        """Causal attention of one sequence, [T, hidden] to [T, H * D]."""
        count = len(x)
        shape = (count, -1, self.head_dim)
        query = self.rotate(self.linear(x, layer + "q_proj").reshape(shape))
        key = self.rotate(self.linear(x, layer + "k_proj").reshape(shape))
        value = self.linear(x, layer + "v_proj").reshape(shape)
        shared = self.heads // self.kv_heads
        key, value = (np.repeat(kv, shared, axis=1) for kv in (key, value))
        scores = np.einsum("thd,shd->hts", query, key)
        scores /= math.sqrt(self.head_dim)
        scores[:, np.triu(np.ones((count, count), bool), 1)] = -np.inf
        if window:
            scores[:, np.tril(np.ones((count, count), bool), -window)] = -np.inf
        mixed = np.einsum("hts,shd->thd", softmax(scores), value)
        return self.linear(mixed.reshape(count, -1), layer + "o_proj")

    def mlp(self, x: np.ndarray, layer: str) -> np.ndarray:
        """``down(silu(gate(x)) * up(x))``."""
        gate = self.linear(x, layer + "gate_proj")
        up = self.linear(x, layer + "up_proj")
        return self.linear(gate / (1 + np.exp(-gate)) * up, layer + "down_proj")

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        """Logits float64 [T, vocabulary]; row t follows tokens 0 to t."""
        x = self.tensors["model.embed_tokens.weight"][tokens]
        x = x.astype(np.float64)
        for index in range(self.config["num_hidden_layers"]):
            layer = f"model.layers.{index}."
            normal = self.norm(x, layer + "input_layernorm")
            x = x + self.attention(normal, layer + "self_attn.",
                                   self.window(index))
            normal = self.norm(x, layer + "post_attention_layernorm")
            x = x + self.mlp(normal, layer + "mlp.")
        return self.linear(self.norm(x, "model.norm"), "lm_head")

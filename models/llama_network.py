# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The network and the optimizer that train the tiny LLaMA.

Parameters carry the names of Hugging Face's ``LlamaForCausalLM`` and mean the
same, so that a training's weights are stored as they are. Only what the tiny
model needs is here: tied embeddings, no biases, no rotary scaling.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class RMSNorm(nn.Module):
    """Scales vectors [..., hidden] to unit mean square, in float32."""

    def __init__(self, config: dict):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(config["hidden_size"]))
        self.eps = config["rms_norm_eps"]

    def forward(self, x):
        return F.rms_norm(x.float(), self.weight.shape, self.weight, self.eps)


class Attention(nn.Module):
    """Causal attention with rotary positions and shared key heads."""

    def __init__(self, config: dict):
        super().__init__()
        hidden, self.head_dim = config["hidden_size"], config["head_dim"]
        query = config["num_attention_heads"] * self.head_dim
        key = config["num_key_value_heads"] * self.head_dim
        self.q_proj = nn.Linear(hidden, query, bias=False)
        self.k_proj = nn.Linear(hidden, key, bias=False)
        self.v_proj = nn.Linear(hidden, key, bias=False)
        self.o_proj = nn.Linear(query, hidden, bias=False)

    def heads(self, x):
        """Maps [batch, tokens, n*headDim] to [batch, n, tokens, headDim]."""
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def forward(self, x, cos, sin):
        value = self.heads(self.v_proj(x))

        def rotate(y):
            low, high = y.chunk(2, -1)
            turned = torch.cat((-high, low), -1)
            return (y * cos + turned * sin).to(value.dtype)

        query = rotate(self.heads(self.q_proj(x)))
        key = rotate(self.heads(self.k_proj(x)))
        y = F.scaled_dot_product_attention(
            query, key, value, is_causal=True, enable_gqa=True
        )
        return self.o_proj(y.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, config: dict):
        super().__init__()
        hidden, inner = config["hidden_size"], config["intermediate_size"]
        self.gate_proj = nn.Linear(hidden, inner, bias=False)
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """One decoder layer; `dropout` acts on what each half adds."""

    def __init__(self, config: dict, dropout: float):
        super().__init__()
        self.input_layernorm = RMSNorm(config)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config)
        self.mlp = MLP(config)
        self.dropout = dropout

    def forward(self, x, cos, sin):
        y = self.self_attn(self.input_layernorm(x), cos, sin)
        x = x + F.dropout(y, self.dropout, self.training)
        y = self.mlp(self.post_attention_layernorm(x))
        return x + F.dropout(y, self.dropout, self.training)


class Body(nn.Module):
    """What ``model.`` stands for in the names of the weights."""

    def __init__(self, config: dict, dropout: float):
        super().__init__()
        self.embed_tokens = nn.Embedding(
            config["vocab_size"], config["hidden_size"]
        )
        self.layers = nn.ModuleList(
            Layer(config, dropout) for _ in range(config["num_hidden_layers"])
        )
        self.norm = RMSNorm(config)


class Llama(nn.Module):
    """Maps token ids [batch, tokens] to logits [batch, tokens, vocab].

    Parameters
    ----------
    config
        Keys of ``config.json``.
    dropout
        Share of the residual stream's additions that training drops.
    """

    def __init__(self, config: dict, dropout: float = 0.0):
        super().__init__()
        self.config, self.dropout = config, dropout
        self.model = Body(config, dropout)
        half = torch.arange(0, config["head_dim"], 2) / config["head_dim"]
        positions = torch.arange(config["max_position_embeddings"])
        angles = torch.outer(positions, config["rope_theta"] ** -half)
        angles = torch.cat((angles, angles), -1)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        self.initialize()

    def initialize(self) -> None:
        """Draws the weights; those that add to the stream start smaller."""
        depth = (2 * self.config["num_hidden_layers"]) ** -0.5
        for name, p in self.named_parameters():
            if p.ndim > 1:
                nn.init.normal_(p, std=self.config["initializer_range"])
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                p.data *= depth

    def forward(self, ids):
        x = self.model.embed_tokens(ids)
        x = F.dropout(x, self.dropout, self.training)
        cos, sin = self.cos[: ids.shape[1]], self.sin[: ids.shape[1]]
        for layer in self.model.layers:
            x = layer(x, cos, sin)
        return F.linear(self.model.norm(x), self.model.embed_tokens.weight)


class Muon:
    """Momentum whose matrix updates are made orthogonal.

    Five Newton-Schulz steps push the singular values of each update near one
    (K. Jordan et al., "Muon: an optimizer for hidden layers", 2024).
    """

    def __init__(self, params: list, weight_decay: float):
        self.groups: dict = {}
        for p in params:
            self.groups.setdefault(tuple(p.shape), []).append(p)
        self.momentum = {shape: 0 for shape in self.groups}
        self.weight_decay = weight_decay

    @staticmethod
    def orthogonalize(gradient):
        """Maps matrices [n, rows, columns] near their polar factors."""
        a, b, c = 3.4445, -4.7750, 2.0315
        x = gradient.bfloat16()
        tall = x.shape[1] > x.shape[2]
        x = x.mT if tall else x
        x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
        for _ in range(5):
            gram = x @ x.mT
            x = a * x + (b * gram + c * gram @ gram) @ x
        return (x.mT if tall else x).float()

    @torch.no_grad()
    def step(self, lr: float, beta: float = 0.95) -> None:
        """Applies one update at rate `lr` and drops the gradients."""
        for shape, params in self.groups.items():
            gradient = torch.stack([p.grad for p in params])
            momentum = beta * self.momentum[shape] + (1 - beta) * gradient
            self.momentum[shape] = momentum
            update = (1 - beta) * gradient + beta * momentum
            update = self.orthogonalize(update)
            # Matches the size of an AdamW update whatever the shape.
            update *= 0.2 * max(shape) ** 0.5
            for p, u in zip(params, update):
                p.mul_(1 - lr * self.weight_decay).sub_(lr * u)
                p.grad = None

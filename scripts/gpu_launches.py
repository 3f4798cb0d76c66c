#!/usr/bin/env python3
# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Compares each launch of a package's steps with its operation's definition.

    gpu_launches.py PACKAGE...       needs an NVIDIA GPU, its driver and NumPy

Runs steps launch by launch through the driver: a prompt of several ragged
sequences, decoding, both mixed, and a single row. All memory but weights is
filled with 0xFF (NaN) first, pages of the cache lie in random order. What a
launch wrote is compared with the operation computed in float64 from what the
launch read; an operation that a neighbour's kernel does is computed with it.
Codes must be the nearest ones of what is rounded, with the scale that was
stored; near a tie and near the threshold of outliers both answers count.
Tokens are chosen by random options; what counts is how far the draw lies
outside of the chosen token's part of what may be drawn.
Prints a table: for each kind of launch and rows of the step, the largest
difference over the largest value. Exits with 1 when one is over its bound.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parent))
from gpu_driver import Gpu  # noqa: E402
from gpu_weights import (CACHE_BYTES, Weights, cache_page,  # noqa: E402
                         code_step, from_bf16, from_e4m3)

STEP = ("tokens", "positions", "token_sequences", "sequence_offsets",
        "context_lengths", "block_tables", "logit_rows")
# Of what is compared, by the type that it is rounded to; products of weights
# and scales are rounded to f16 in some kernels. Attention is computed from the
# keys and values that the cache holds.
BOUNDS = {"f32": 1e-3, "f16": 2e-3, "bf16": 1e-2}


def to_type(values: np.ndarray, kind: str) -> np.ndarray:
    """`values` rounded to f16 or bf16, as float64."""
    single = values.astype(np.float32)
    if kind == "bf16":
        bits = single.view(np.uint32).astype(np.uint64)
        bits = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
        return from_bf16(bits.astype(np.uint16)).astype(np.float64)
    return single.astype(np.float16).astype(np.float64)


class Steps:
    """A package on the GPU, its steps run and compared launch by launch."""

    def __init__(self, gpu: Gpu, package: Path) -> None:
        self.gpu = gpu
        self.manifest = json.loads((package / "manifest.json").read_text())
        self.model, self.plan = self.manifest["model"], self.manifest["plan"]
        config = json.loads((package / "config.json").read_text())
        self.epsilon = config["rms_norm_eps"]
        quantization = self.manifest["quantization"]
        self.weights = Weights(package / "weights.safetensors", quantization)
        # What qlm-narrow-activations makes of activations.
        types = {entry["dtype"] for key, (entry, _) in self.weights.raw.items()
                 if key.endswith("qkv.weight")}
        self.narrow = "bf16" if "BF16" in types else "f16"
        chip = self.manifest["target"]["chips"][0]
        self.chip = chip["chip"]
        self.module = gpu.load((package / chip["file"]).read_bytes())
        self.device = {}
        for key, (_, raw) in self.weights.raw.items():
            self.device[key] = gpu.allocate(raw.size)
            gpu.write(self.device[key], np.array(raw))
        self.arena = gpu.allocate(self.plan["arena_bytes"])
        self.cache = gpu.allocate(self.plan["kv"]["pool_bytes"])
        self.workspace = gpu.allocate(self.plan["workspace_bytes"], 0)
        self.logits = gpu.allocate(self.plan["logits_bytes"])
        self.requests = self.sampled = 0
        self.errors: dict[tuple[str, str], tuple[float, str]] = {}
        # The threshold of outliers is between these.
        self.most_inside, self.least_outside = 0.0, float("inf")
        self.outlier_count = 0
        # Rotated keys and values by layer, sequence and position.
        self.keys: dict[tuple[int, int, int], np.ndarray] = {}
        self.values: dict[tuple[int, int, int], np.ndarray] = {}
        pages = np.random.default_rng(3).permutation(self.plan["kv"]["pages"])
        self.most = -(-self.plan["max_context"] // self.plan["kv"]["page_tokens"])
        count = self.plan["max_batch"]
        self.tables = pages[: count * self.most].reshape(count, self.most)

    # Buffers.

    def pointer(self, kind: str, value) -> int:
        if kind == "weight":
            return self.device[value]
        if kind == "cache":
            kv = self.plan["kv"]
            return self.cache + value * kv["pages"] * kv["page_bytes"]
        base = {"arena": self.arena, "workspace": self.workspace,
                "logits": self.logits, "sampling": self.requests,
                "sampled": self.sampled}
        return self.step[value] if kind == "step" else base[kind] + value

    def read(self, argument, shape, kind: str) -> np.ndarray:
        raw = {"f32": np.float32, "f16": np.float16, "bf16": np.uint16,
               "i8": np.int8}[kind]
        values = self.gpu.read(self.pointer(*argument), shape, raw)
        return (from_bf16(values) if kind == "bf16"
                else values).astype(np.float64)

    def write_step(self, parts: list[tuple[int, int, int]]) -> None:
        """Arguments of a step: sequence, first position and rows of each."""
        tokens = sum(rows for _, _, rows in parts)
        random = np.random.default_rng(tokens)
        columns: dict[str, list] = {name: [] for name in STEP}
        columns["sequence_offsets"] = [0]
        for index, (sequence, first, rows) in enumerate(parts):
            columns["tokens"] += random.integers(
                0, self.model["vocabulary_size"], rows).tolist()
            columns["positions"] += range(first, first + rows)
            columns["token_sequences"] += [index] * rows
            columns["sequence_offsets"].append(len(columns["tokens"]))
            columns["context_lengths"].append(first + rows)
            columns["block_tables"] += self.tables[sequence].tolist()
            columns["logit_rows"].append(len(columns["tokens"]) - 1)
        self.columns = {name: np.array(column, np.int32)
                        for name, column in columns.items()}
        self.parts = parts
        self.tokens = tokens
        self.step = []
        for name in STEP:
            self.step.append(self.gpu.allocate(4 * len(columns[name])))
            self.gpu.write(self.step[-1], self.columns[name])
        self.sizes = self.gpu.allocate(32)
        self.gpu.write(self.sizes, np.array(
            [tokens, len(parts), len(parts), self.most], np.int64))

    # Operations, in float64.

    def rows(self, launch: dict) -> int:
        return {"tokens": self.tokens, "sequences": len(self.parts),
                "logit_rows": len(self.parts)}[launch["rows"]]

    def compute(self, name: str, launch: dict, x: dict) -> dict:
        """Outputs by argument; `x` holds inputs that no launch has written."""
        args = [tuple(argument) for argument in launch["args"]]
        own = self.own_arguments(name, args)
        rows, model = self.rows(launch), self.model

        def value(argument, columns: int, kind: str) -> np.ndarray:
            if argument in x:
                return x[argument]
            return self.read(argument, (rows, columns), kind)

        hidden = model["hidden_size"]
        kernel = launch["variants"][0]["kernel"]
        if name == "embedding":
            table = self.weights.plain(own[1][1]).astype(np.float64)
            return {own[2]: (table[self.columns["tokens"]], "f32")}
        if kernel.startswith("rms_norm"):
            source = self.tokens if args[2][0] == "step" else rows
            v = (value(own[0], hidden, "f32") if source == rows
                 else self.read(own[0], (source, hidden), "f32"))
            if args[2][0] == "step":
                v = v[self.columns["logit_rows"]]
            scale = 1 / np.sqrt((v * v).mean(1, keepdims=True) + self.epsilon)
            weight = self.weights.plain(own[1][1]).astype(np.float64)
            v = v * scale * weight
            if kernel.startswith("rms_norm_quantize"):
                return self.rounded(v, args[3 if args[2][0] == "step" else 2 :])
            return {own[2]: (v, self.narrow)}
        if kernel.startswith("dynamic_quantize"):
            columns = self.linears()[name][1]
            return self.rounded(self.read(args[0], (rows, columns), "f32"),
                                args[1:])
        if name == "select_rows":
            v = self.read(own[0], (self.tokens, hidden), "f32")
            return {own[2]: (v[self.columns["logit_rows"]], "f32")}
        if name == "swiglu":
            v = value(own[0], 2 * model["intermediate_size"], self.narrow)
            gate, up = np.split(v, 2, axis=1)
            v = gate / (1 + np.exp(-gate)) * up
            if kernel.startswith("swiglu_quantize"):
                return self.rounded(v, args[1:])
            return {own[1]: (v, self.narrow)}
        if name == "rope":
            return self.rope(launch, own, value)
        if name == "attention":
            return self.attention(launch, own, value)
        return self.linear(name, own, value)

    def own_arguments(self, name: str, args: list) -> list:
        """Without those that a linear's kernel needs for its neighbours, and
        without the workspace."""
        args = [argument for argument in args if argument[0] != "workspace"]
        weights = [i for i, argument in enumerate(args)
                   if argument[0] == "weight" and argument[1].endswith(".weight")]
        if name not in self.linears() or not weights:
            return args
        end = next(i for i, argument in enumerate(args)
                   if i > weights[0] and argument[0] != "weight")
        return args[: end + (2 if name in ("o", "down") else 1)]

    def linears(self) -> dict[str, tuple[int, int, str]]:
        m = self.model
        heads, features = m["heads"] * m["head_dim"], m["intermediate_size"]
        both = heads + 2 * m["kv_heads"] * m["head_dim"]
        hidden = m["hidden_size"]
        return {"qkv": (both, hidden, self.narrow),
                "o": (hidden, heads, "f32"),
                "gate_up": (2 * features, hidden, self.narrow),
                "down": (hidden, features, "f32"),
                "lm_head": (m["vocabulary_size"], hidden, "f32")}

    def linear(self, name: str, own: list, value) -> dict:
        outputs, inputs, kind = self.linears()[name]
        first = next(i for i, argument in enumerate(own)
                     if argument[0] == "weight")
        if first == 1:
            v = value(own[0], inputs, self.narrow)
        else:
            v = self.rounded_input(own[:first], inputs, name)
        result = v @ self.weights.matrix(own[first][1], outputs, inputs).T
        for argument in own[first + 1 : -1]:
            if argument[0] == "weight" and argument[1].endswith(".bias"):
                result += self.weights.plain(argument[1]).ravel()[:outputs]
            elif argument[0] == "arena":
                result += value(argument, outputs, "f32")
        return {own[-1]: (result, kind)}

    # Activations rounded to codes.

    def rounded(self, values: np.ndarray, places: list) -> dict:
        """What codes, scales and lists of outliers at `places` must be of."""
        return {places[0]: (values, ("rounded", places))}

    def rounded_input(self, places: list, inputs: int, name: str) -> np.ndarray:
        """What codes, scales and outliers stand for."""
        rows = (len(self.parts) if name == "lm_head" else self.tokens)
        codes = self.read_codes(places[0], (rows, inputs))
        values = codes * self.read(places[1], (rows, 1), "f32")
        if len(places) > 2:
            for row, columns, wide in self.outliers(places[2], rows, inputs):
                values[row, columns] = wide
        return values

    def read_codes(self, place, shape: tuple) -> np.ndarray:
        """What codes of activations stand for, without scale."""
        codes = self.read(place, shape, "i8")
        return from_e4m3(codes) if self.weights.is_fp8 else codes

    def outliers(self, place, rows: int, features: int):
        """Row, columns and values of each row's list."""
        lists = self.read(place, (rows, 1 + 2 * features), "f32")
        for row, numbers in enumerate(lists):
            count = int(numbers[0])
            yield (row, numbers[1 : 1 + count].astype(np.int64),
                   numbers[1 + features : 1 + features + count])

    def rounding_error(self, want: np.ndarray, places: list) -> float:
        """By how much codes are off beyond half a step, scales and outliers
        relatively; infinity for a list that can't be."""
        rows, features = want.shape
        near = 1e-5 * np.abs(want).max(1, keepdims=True)
        codes = self.read_codes(places[0], want.shape)
        scales = self.read(places[1], (rows, 1), "f32")
        if not (np.isfinite(want).all() and np.isfinite(scales).all()):
            return float("inf")
        inner, worst = want.copy(), 0.0
        if len(places) > 2:
            for row, columns, wide in self.outliers(places[2], rows, features):
                listed = np.zeros(features, bool)
                listed[columns] = True
                size = np.abs(want[row])
                self.most_inside = max(self.most_inside,
                                       (size[~listed] - near[row]).max())
                self.least_outside = min([self.least_outside,
                                          *(size[listed] + near[row])])
                if ((np.diff(columns) <= 0).any() or codes[row, columns].any()
                        or self.most_inside >= self.least_outside):
                    return float("inf")
                if len(columns):
                    worst = max(worst, float(np.abs(
                        wide - want[row, columns]).max() / size.max()))
                self.outlier_count += len(columns)
                inner[row, columns] = 0
        largest = np.abs(inner).max(1, keepdims=True)
        kind, bound = ("fp8", 448) if self.weights.is_fp8 else ("int8", 127)
        worst = max(worst, float((np.abs(scales * bound - largest)
                                  / np.maximum(largest, 1e-30)).max()))
        scaled = inner / np.maximum(scales, 1e-30)
        steps = np.abs(codes - scaled) - code_step(kind, scaled)
        return max(worst, float(steps.max()) / bound)

    def rope(self, launch: dict, own: list, value) -> dict:
        m = self.model
        heads, kv, dim = m["heads"], m["kv_heads"], m["head_dim"]
        v = value(own[0], (heads + 2 * kv) * dim, self.narrow)
        v = v.reshape(len(v), heads + 2 * kv, dim)
        table = self.weights.plain(own[1][1]).astype(np.float64)
        angle = table[self.columns["positions"]][:, None]
        low, high = np.split(v[:, : heads + kv], 2, axis=2)
        turned = np.concatenate(
            [low * angle[..., 0] - high * angle[..., 1],
             high * angle[..., 0] + low * angle[..., 1]], axis=2)
        layer = int(launch["label"].split(".")[1])
        cache = self.plan["kv"]["type"]
        for row, position in enumerate(self.columns["positions"]):
            part = self.parts[self.columns["token_sequences"][row]]
            place = (layer, part[0], int(position))
            narrow = cache if cache in BOUNDS else "f16"
            self.keys[place] = to_type(turned[row, heads:], narrow)
            self.values[place] = to_type(v[row, heads + kv :], narrow)
        return {own[-1]: (turned[:, :heads].reshape(len(v), -1), self.narrow)}

    def attention(self, launch: dict, own: list, value) -> dict:
        m = self.model
        heads, kv, dim = m["heads"], m["kv_heads"], m["head_dim"]
        q = value(own[0], heads * dim, self.narrow).reshape(-1, heads, dim)
        layer = int(launch["label"].split(".")[1])
        windows = m.get("windows")
        window = windows[layer] if windows else 0
        result = np.empty_like(q)
        for row, position in enumerate(self.columns["positions"]):
            sequence = self.parts[self.columns["token_sequences"][row]][0]
            places = [(layer, sequence, p) for p in range(position + 1)]
            k, v = self.cached(places)
            hidden = max(0, position + 1 - window) if window else 0
            for head in range(heads):
                group = head // (heads // kv)
                score = k[:, group] @ q[row, head] / np.sqrt(dim)
                score[:hidden] = -np.inf
                weight = np.exp(score - score.max())
                result[row, head] = weight @ v[:, group] / weight.sum()
        # What is rounded to 8 bits next stays f32 until then.
        kind = "f32" if self.weights.is_signed else self.narrow
        return {own[-1]: (result.reshape(len(q), -1), kind)}

    def cached(self, places: list) -> tuple[np.ndarray, np.ndarray]:
        """Keys and values at `places` of one sequence, [places, heads, dim], as
        the cache has them; NaN where they are not those computed here, within
        twice the bound of their type, and half a step of codes."""
        kv, m = self.plan["kv"], self.model
        heads, dim, tokens = m["kv_heads"], m["head_dim"], kv["page_tokens"]
        layer, sequence, _ = places[0]
        result = []
        pages = []
        for index in range(-(-len(places) // tokens)):
            page = int(self.tables[sequence][index])
            pointer = self.pointer("cache", layer) + page * kv["page_bytes"]
            pages.append(self.gpu.read(
                pointer, (2, heads, kv["page_bytes"] // (2 * heads)), np.uint8))
        codes, scales = cache_page(np.stack(pages), kv["type"], dim, tokens)
        # [pages, 2, heads, tokens, dim] to [2, positions, heads, dim]
        codes = codes.transpose(1, 0, 3, 2, 4).reshape(2, -1, heads, dim)
        scales = scales.transpose(1, 0, 3, 2).reshape(2, -1, heads, 1)
        for part, known in enumerate((self.keys, self.values)):
            scale = scales[part][: len(places)]
            got = codes[part][: len(places)] * scale
            want = np.stack([known[p] for p in places])
            allowed = 2 * BOUNDS.get(kv["type"], 2e-3) * np.abs(want).max()
            if kv["type"] not in BOUNDS:
                allowed = allowed + scale * code_step(
                    kv["type"], want / np.maximum(scale, 1e-30))
            near = np.abs(got - want) <= allowed
            result.append(np.where(near, got, np.nan))
        return result[0], result[1]

    # Steps.

    def variant(self, launch: dict) -> dict:
        decode = self.tokens == len(self.parts)
        return next(v for v in launch["variants"]
                    if v.get("chip", self.chip) == self.chip
                    and v["max_rows"] >= self.rows(launch)
                    and (decode or not v["decode_only"]))

    def tiles(self, tiles: dict | None) -> int:
        if tiles is None:
            return 1
        size = {"one": 1, "tokens": self.tokens, "sequences": len(self.parts),
                "logit_rows": len(self.parts)}[tiles["size"]]
        return tiles["count"] * -(-size // tiles["block"])

    def run(self, launch: dict) -> bool:
        """Starts a launch; false when it has no blocks in this step."""
        variant = self.variant(launch)
        grid = self.tiles(variant["grid"]), self.tiles(variant.get("grid_y"))
        if not grid[0] or not grid[1]:
            return False
        function = self.gpu.function(self.module, variant["kernel"],
                                     variant["shared_bytes"])
        pointers = [self.pointer(*argument) for argument in launch["args"]]
        self.gpu.launch(function, variant, grid, pointers + [self.sizes])
        return True

    def check(self, name: str, kernel: str, outputs: dict,
              bound: str = "") -> None:
        """Compares what a launch wrote; `bound`: the type whose rounding it may
        show, where that isn't the type it stores."""
        for argument, (want, kind) in outputs.items():
            if kind[0] == "rounded":
                self.note(name, kernel, self.rounding_error(want, kind[1]),
                          "f32")
                continue
            got = self.read(argument, want.shape, kind)
            error = (float(np.abs(got - want).max() / np.abs(want).max())
                     if np.isfinite(got).all() else float("inf"))
            self.note(name, kernel, error, bound or kind)

    def note(self, name: str, kernel: str, error: float, kind: str) -> None:
        if error >= self.errors.get((name, kernel), (-1.0, ""))[0]:
            self.errors[name, kernel] = (error, kind)

    def run_step(self, parts: list[tuple[int, int, int]]) -> None:
        self.write_step(parts)
        self.gpu.fill(self.arena, self.plan["arena_bytes"], 0xFF)
        self.gpu.fill(self.logits, self.plan["logits_bytes"], 0xFF)
        self.waiting: dict = {}  # results of operations without a launch here
        pending: tuple | None = None  # a linear whose result nobody stored
        launches = self.manifest["launches"]
        for index, launch in enumerate(launches):
            name = launch["label"].rsplit(".", 1)[-1]
            follower = launches[index + 1] if index + 1 < len(launches) else None
            takes_next = (name in self.linears() and follower is not None
                          and self.tiles(self.variant(follower)["grid"]) == 0
                          and not follower["label"].endswith("norm"))
            outputs = self.compute(name, launch, self.waiting)
            kernel = self.variant(launch)["kernel"]
            if not self.run(launch):
                if pending:  # the linear before it did this
                    self.check(f"{pending[0]}+{name}", pending[1], outputs)
                    pending, self.waiting = None, {}
                else:  # the linear behind it will
                    self.waiting = {a: v for a, (v, _) in outputs.items()}
            elif takes_next:
                pending = (("norm+" if self.waiting else "") + name, kernel)
                self.waiting = {a: v for a, (v, _) in outputs.items()}
            elif self.waiting:
                # The kernel rounds the norm that nobody stored.
                self.check(f"norm+{name}", kernel, outputs, bound=self.narrow)
                self.waiting = {}
            else:
                self.check(name, kernel, outputs)
        for launch in self.manifest.get("sampling", []):
            self.sample(launch)

    # Choosing tokens.

    def sample(self, launch: dict) -> None:
        rows, vocabulary = len(self.parts), self.model["vocabulary_size"]
        random = np.random.default_rng(self.tokens + rows)
        asked = np.zeros(rows, np.dtype(
            [("temperature", "f4"), ("top_p", "f4"), ("min_p", "f4"),
             ("top_k", "i4"), ("uniform", "f8"), ("unused", "u8")]))
        logits = self.read(("logits", 0), (rows, vocabulary), "f32")
        worst = 0.0
        # Greedy, then each of the options alone, then all of them.
        for temperature, k, p, m in ((0, 0, 1, 0), (1, 0, 1, 0), (2, 7, 1, 0),
                                     (1, 0, 0.6, 0), (1, 0, 1, 0.2),
                                     (0.7, 40, 0.9, 0.01)):
            asked["temperature"], asked["top_k"] = temperature, k
            asked["top_p"], asked["min_p"] = p, m
            asked["uniform"] = random.random(rows)
            self.choose(launch, asked)
            got = self.gpu.read(self.sampled, rows, np.dtype("i4,f4"))
            fed = self.gpu.read(self.step[0], rows, np.int32)
            for row in range(rows):
                token = int(got["f0"][row])
                worst = max(worst, miss(logits[row], asked[row], token))
                shifted = logits[row] - logits[row].max()
                want = shifted[token] - np.log(np.exp(shifted).sum())
                worst = max(worst, abs(float(got["f1"][row]) - want),
                            float(token != fed[row]))
        self.errors["sample", self.variant(launch)["kernel"]] = (worst, "f32")
        # A row without a most likely token says so.
        self.gpu.fill(self.logits, 4 * vocabulary, 0xFF)
        self.choose(launch, asked)
        got = self.gpu.read(self.sampled, rows, np.dtype("i4,f4"))
        if not np.isnan(got["f1"][0]) or not 0 <= got["f0"][0] < vocabulary:
            self.errors["sample of NaN", "sample"] = (float("inf"), "f32")

    def choose(self, launch: dict, asked: np.ndarray) -> None:
        self.requests = self.gpu.allocate(asked.nbytes)
        self.sampled = self.gpu.allocate(8 * len(asked))
        self.gpu.write(self.requests, asked.view(np.uint8))
        self.run(launch)


def miss(logits: np.ndarray, asked, token: int) -> float:
    """How far the draw is outside of the token's part of all that is kept, by
    the rules of qlm/Runtime/Sampler.h; infinity for a token that isn't kept."""
    if not asked["temperature"]:
        return 0.0 if token == int(logits.argmax()) else float("inf")
    weights = np.exp((logits - logits.max()) / float(asked["temperature"]))
    order = np.argsort(-logits, kind="stable")
    if asked["top_k"]:
        order = order[: asked["top_k"]]
    if asked["top_p"] < 1:
        sums = np.cumsum(weights[order])
        # Where the sum comes close to the limit, one more token may be kept.
        most = float(asked["top_p"]) * sums[-1] * (1 + 1e-6)
        order = order[: int(np.searchsorted(sums, most)) + 1]
    order = order[weights[order] >= float(asked["min_p"]) * (1 - 1e-6)]
    kept = np.sort(order)
    if token not in kept:
        return float("inf")
    sums = np.cumsum(weights[kept]) / weights[kept].sum()
    place = int(np.searchsorted(kept, token))
    low = sums[place - 1] if place else 0.0
    return max(low - asked["uniform"], asked["uniform"] - sums[place], 0.0)


def left_out(manifest: dict) -> str:
    """Why a package can't be compared, or nothing."""
    formats = manifest["quantization"]
    weights = formats["weights"].split("-")[0]
    # f32: what a package says whose weights are floats of any width.
    if weights not in ("int4", "int8", "f32", "f16", "bf16", "nf4", "fp8"):
        return f"weights are {weights}"
    if formats["activations"] not in ("none", "int8-dynamic", "fp8-dynamic"):
        return f"activations are {formats['activations']}"
    if manifest["plan"]["kv"]["type"] not in CACHE_BYTES:
        return f"the cache is {manifest['plan']['kv']['type']}"
    return ""


def steps_of(plan: dict) -> list[list[tuple[int, int, int]]]:
    """Ragged prompts, one row, decoding, prompts beside decoding."""
    most = plan["max_step_tokens"]
    lengths = [n for n in (65, 1, 17, 3) if n < plan["max_context"] - 4]
    lengths = lengths[: plan["max_batch"]]
    while sum(lengths) > most:
        lengths.pop(0)
    prompt = [(i, 0, n) for i, n in enumerate(lengths)]
    decode = [(i, n, 1) for i, n in enumerate(lengths)]
    mixed = [(i, n + 1, 1 + 2 * (i == 0)) for i, n in enumerate(lengths)]
    return [prompt, decode, mixed, [(0, lengths[0] + 4, 1)]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("packages", type=Path, nargs="+")
    options = parser.parse_args()
    gpu = Gpu()
    good = True
    print(f"{'package':10} {'launch':24} {'kernel':36} {'error':>9} {'bound':>8}")
    for package in options.packages:
        reason = left_out(json.loads((package / "manifest.json").read_text()))
        if reason:
            print(f"{package.name:10} left out: {reason}")
            continue
        steps = Steps(gpu, package)
        for parts in steps_of(steps.plan):
            steps.run_step(parts)
        if steps.outlier_count:
            print(f"{package.name:10} {steps.outlier_count} outliers from "
                  f"{steps.least_outside:.3f} on, none above "
                  f"{steps.most_inside:.3f}")
        for (name, kernel), (error, kind) in sorted(steps.errors.items()):
            bound = BOUNDS[kind]
            fits = error < bound
            good &= fits
            print(f"{package.name:10} {name:24} {kernel:36} {error:9.2e} "
                  f"{bound:8.0e}{'' if fits else '  DIFFERS'}")
        sys.stdout.flush()
        gpu.release()
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""A LLaMA's folder as the ONNX graphs that exporters make of it."""

from __future__ import annotations

import math

import numpy as np
import numpy_llama
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 21
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


class Decoder:
    """Writes one graph, node by node.

    Parameters
    ----------
    folder : Path
        The model's folder.
    cached : bool
        Inputs ``attention_mask``, ``position_ids`` and
        ``past_key_values.N.key`` and ``.value``, as Optimum names them, and
        outputs ``present.N.*``; else ``input_ids`` alone.
    contributed : bool
        The operators of ONNX Runtime, as its generator's builder uses them.
    window : int
        Tokens that a token sees, for a graph that is no LLaMA's; 0 for all.
    packed : int
        Columns of a weight that share a scale, for linears of 4-bit codes
        (MatMulNBits); 0 for none. The model's own weights become what the codes
        stand for.
    wide : tuple[str, ...]
        Ends of the names of packed linears that have codes of 8 bits.
    """

    def __init__(self, folder, cached=False, contributed=False, window=0, packed=0,
                 wide=()):  # fmt: skip
        self.llama = numpy_llama.Llama(folder)
        self.cached, self.contributed = cached or contributed, contributed
        self.window, self.packed, self.wide = window, packed, wide
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.outputs = ["logits"]
        self.made: set[str] = set()

    def node(self, kind: str, *inputs: str, outputs: int = 1, **attributes) -> str:
        """Adds a node; returns its first result."""
        name = f"{kind}_{len(self.nodes)}"
        results = [f"{name}.{i}" for i in range(outputs)]
        self.nodes.append(
            helper.make_node(kind, inputs, results, name=name, **attributes)
        )
        return results[0]

    def constant(self, values, dtype=np.int64) -> str:
        array = np.asarray(values, dtype)
        name = f"constant_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def weight(self, name: str, array: np.ndarray) -> str:
        if name not in self.made:
            self.made.add(name)
            array = np.ascontiguousarray(array, np.float32)
            self.weights.append(numpy_helper.from_array(array, name))
        return name

    def linear(self, x: str, name: str) -> str:
        # Constant folding of exporters leaves the transposed weight.
        if self.packed and name != "lm_head":
            y = self.packed_linear(x, name)
        else:
            weight = self.weight("onnx::MatMul_" + name, self.llama.weight(name).T)
            y = self.node("MatMul", x, weight)
        bias = self.llama.tensors.get(name + ".bias")
        if bias is None:
            return y
        return self.node("Add", self.weight(name + ".bias", bias), y)

    def packed_linear(self, x: str, name: str) -> str:
        """Codes of 4 bits, two a byte, or of 8, with a zero point a group."""
        weight = self.llama.weight(name)
        rows, columns = weight.shape
        bits = 8 if name.endswith(self.wide or ("-",)) else 4
        most = (1 << bits) - 1
        groups = weight.reshape(rows, -1, self.packed)
        low = np.minimum(groups.min(axis=2), 0)
        scales = (np.maximum(groups.max(axis=2), 0) - low).astype(np.float32) / most
        zeros = np.rint(-low / scales)
        codes = np.rint(groups / scales[:, :, None]) + zeros[:, :, None]
        codes = codes.clip(0, most).astype(np.uint8)
        values = (codes - zeros[:, :, None]) * scales[:, :, None].astype(np.float64)
        self.llama.tensors[name + ".weight"] = values.reshape(rows, columns)
        inputs = {
            "codes": codes,
            "scales": scales,
            "zero_points": zeros.astype(np.uint8),
        }
        if bits == 4:
            points = np.pad(inputs["zero_points"], ((0, 0), (0, zeros.shape[1] % 2)))
            inputs["codes"] = codes[:, :, ::2] | codes[:, :, 1::2] << 4
            inputs["zero_points"] = points[:, ::2] | points[:, 1::2] << 4
        names = []
        for part, array in inputs.items():
            names.append(f"{name}.{part}")
            self.weights.append(numpy_helper.from_array(array, names[-1]))
        result = f"{name}.product"
        self.nodes.append(helper.make_node(
            "MatMulNBits", [x, *names], [result], name=name, domain="com.microsoft",
            K=columns, N=rows, bits=bits, block_size=self.packed,
        ))  # fmt: skip
        return result

    def norm(self, x: str, name: str) -> str:
        weight = self.weight(name, self.llama.tensors[name + ".weight"])
        if self.contributed:
            return self.node(
                "SimplifiedLayerNormalization", x, weight,
                axis=-1, epsilon=self.llama.epsilon,
            )  # fmt: skip
        square = self.node("Pow", x, self.constant(2, np.float32))
        mean = self.node("ReduceMean", square, self.constant([-1]))
        epsilon = self.constant(self.llama.epsilon, np.float32)
        root = self.node("Sqrt", self.node("Add", mean, epsilon))
        one = self.constant(1, np.float32)
        scaled = self.node("Mul", x, self.node("Div", one, root))
        return self.node("Mul", weight, scaled)

    def size(self, x: str, axis: int) -> str:
        shape = self.node("Shape", x)
        return self.node("Gather", shape, self.constant(axis), axis=0)

    def one_dimension(self, x: str) -> str:
        return self.node("Unsqueeze", x, self.constant([0]))

    def prepare(self) -> None:
        """Sizes, cosines and sines, and the mask, which all layers share."""
        self.batch, self.tokens = (self.size("input_ids", axis) for axis in (0, 1))
        self.all = self.tokens
        zero, one = self.constant(0), self.constant(1)
        steps = self.node("Range", zero, self.tokens, one)
        if self.cached:
            past = self.size("past_key_values.0.key", 2)
            self.all = self.node("Add", past, self.tokens)
            steps = self.node("Add", steps, past)
        positions = "position_ids" if self.cached else self.one_dimension(steps)
        values = numpy_llama.inverse_frequencies(
            self.llama.config, self.llama.head_dim
        ).astype(np.float32)
        if self.contributed:
            angles = np.arange(128)[:, None].astype(np.float32) * values
            self.tables = [
                self.weight("cos_cache", np.cos(angles)),
                self.weight("sin_cache", np.sin(angles)),
            ]
            return
        wide = self.node("Unsqueeze", positions, self.constant([2]))
        angles = self.node(
            "Mul", self.node("Cast", wide, to=FLOAT), self.weight("inv_freq", values)
        )
        both = self.node("Concat", angles, angles, axis=-1)
        self.tables = [
            self.node("Unsqueeze", self.node(kind, both), self.constant([1]))
            for kind in ("Cos", "Sin")
        ]
        columns = self.node("Range", zero, self.all, one)
        rows = self.node("Unsqueeze", steps, self.constant([1]))
        seen = self.node("LessOrEqual", columns, rows)
        if self.window:
            near = self.node(
                "Less", self.node("Sub", rows, columns), self.constant(self.window)
            )
            seen = self.node("And", seen, near)
        if self.cached:
            shown = self.node("Cast", "attention_mask", to=TensorProto.BOOL)
            shown = self.node("Unsqueeze", shown, self.constant([1, 2]))
            seen = self.node("And", seen, shown)
        low = self.constant(np.finfo(np.float32).min, np.float32)
        self.mask = self.node("Where", seen, self.constant(0, np.float32), low)

    def heads(self, x: str) -> str:
        shape = self.node(
            "Concat", self.one_dimension(self.batch), self.one_dimension(self.tokens),
            self.constant([-1, self.llama.head_dim]), axis=0,
        )  # fmt: skip
        return self.node("Transpose", self.node("Reshape", x, shape), perm=[0, 2, 1, 3])

    def rotate(self, x: str) -> str:
        half = self.node("Div", self.size(x, 3), self.constant(2))
        half, axis = self.one_dimension(half), self.constant([3])
        end = self.constant([np.iinfo(np.int64).max])
        first = self.node("Slice", x, self.constant([0]), half, axis)
        second = self.node("Slice", x, half, end, axis)
        turned = self.node("Concat", self.node("Neg", second), first, axis=-1)
        return self.node(
            "Add", self.node("Mul", x, self.tables[0]),
            self.node("Mul", turned, self.tables[1]),
        )  # fmt: skip

    def append(self, x: str, layer: int, kind: str) -> str:
        """What the cache holds and what is new."""
        if not self.cached:
            return x
        past = f"past_key_values.{layer}.{kind}"
        both = self.node("Concat", past, x, axis=-2)
        self.outputs.append(f"present.{layer}.{kind}")
        self.nodes.append(helper.make_node("Identity", [both], [self.outputs[-1]]))
        return both

    def repeat(self, x: str) -> str:
        kv_heads, head_dim = self.llama.kv_heads, self.llama.head_dim
        shared = self.llama.heads // kv_heads
        if shared == 1:
            return x
        batch, count = self.one_dimension(self.batch), self.one_dimension(self.all)
        wide = self.node(
            "Expand", self.node("Unsqueeze", x, self.constant([2])),
            self.node("Concat", batch, self.constant([kv_heads, shared]), count,
                      self.constant([head_dim]), axis=0),
        )  # fmt: skip
        shape = self.node(
            "Concat", batch, self.constant([kv_heads * shared]), count,
            self.constant([head_dim]), axis=0,
        )  # fmt: skip
        return self.node("Reshape", wide, shape)

    def attention(self, x: str, layer: int) -> str:
        prefix = f"model.layers.{layer}.self_attn."
        parts = [self.linear(x, prefix + name) for name in ("q_proj", "k_proj", "v_proj")]
        if self.contributed:
            return self.linear(self.grouped(parts, layer), prefix + "o_proj")
        query, key, value = (self.heads(part) for part in parts)
        key = self.append(self.rotate(key), layer, "key")
        value = self.append(value, layer, "value")
        keys = self.node("Transpose", self.repeat(key), perm=[0, 1, 3, 2])
        # As scaled_dot_product_attention is spelled: half the scale each.
        root = self.constant(self.llama.head_dim**-0.25, np.float32)
        scores = self.node(
            "MatMul", self.node("Mul", self.rotate(query), root),
            self.node("Mul", keys, root),
        )  # fmt: skip
        sums = self.node("Softmax", self.node("Add", scores, self.mask), axis=-1)
        sums = self.node(
            "Where", self.node("IsNaN", sums), self.constant(0, np.float32), sums
        )
        mixed = self.node("MatMul", sums, self.repeat(value))
        mixed = self.node("Transpose", mixed, perm=[0, 2, 1, 3])
        shape = self.node(
            "Concat", self.one_dimension(self.batch), self.one_dimension(self.tokens),
            self.constant([-1]), axis=0,
        )  # fmt: skip
        return self.linear(self.node("Reshape", mixed, shape), prefix + "o_proj")

    def grouped(self, parts: list[str], layer: int) -> str:
        lengths = self.node("ReduceSum", "attention_mask", self.constant([1]))
        lengths = self.node("Sub", lengths, self.constant([1]))
        lengths = self.node("Cast", lengths, to=TensorProto.INT32)
        total = self.node("Cast", self.size("attention_mask", 1), to=TensorProto.INT32)
        past = [f"past_key_values.{layer}.{kind}" for kind in ("key", "value")]
        present = [f"present.{layer}.{kind}" for kind in ("key", "value")]
        name = f"attention_{layer}"
        self.nodes.append(
            helper.make_node(
                "GroupQueryAttention",
                [*parts, *past, lengths, total, *self.tables],
                [name, *present], name=name, domain="com.microsoft",
                num_heads=self.llama.heads, kv_num_heads=self.llama.kv_heads,
                scale=1 / math.sqrt(self.llama.head_dim), do_rotary=1,
            )  # fmt: skip
        )
        self.outputs += present
        return name

    def mlp(self, x: str, layer: int) -> str:
        prefix = f"model.layers.{layer}.mlp."
        gate = self.linear(x, prefix + "gate_proj")
        active = self.node("Mul", gate, self.node("Sigmoid", gate))
        up = self.linear(x, prefix + "up_proj")
        return self.linear(self.node("Mul", active, up), prefix + "down_proj")

    def add(self, state: str, change: str, name: str) -> tuple[str, str]:
        """The sum, and its norm; one operator where there is one for both."""
        if not self.contributed:
            state = self.node("Add", state, change)
            return state, self.norm(state, name)
        weight = self.weight(name, self.llama.tensors[name + ".weight"])
        results = [f"{name}.sum", f"{name}.norm"]
        self.nodes.append(
            helper.make_node(
                "SkipSimplifiedLayerNormalization", [state, change, weight],
                [results[1], "", "", results[0]], name=name,
                domain="com.microsoft", epsilon=self.llama.epsilon,
            )  # fmt: skip
        )
        return results[0], results[1]

    def build(self) -> onnx.ModelProto:
        self.prepare()
        table = self.llama.tensors["model.embed_tokens.weight"]
        state = self.node("Gather", self.weight("embedding", table), "input_ids")
        normal = self.norm(state, "model.layers.0.input_layernorm")
        layers = self.llama.config["num_hidden_layers"]
        for layer in range(layers):
            name = f"model.layers.{layer}."
            change = self.attention(normal, layer)
            state, normal = self.add(
                state, change, name + "post_attention_layernorm"
            )
            following = (
                "model.norm" if layer + 1 == layers
                else f"model.layers.{layer + 1}.input_layernorm"
            )  # fmt: skip
            state, normal = self.add(state, self.mlp(normal, layer), following)
        logits = self.linear(normal, "lm_head")
        self.nodes.append(helper.make_node("Identity", [logits], ["logits"]))
        return self.finish()

    def finish(self) -> onnx.ModelProto:
        def describe(name, element, *shape):
            return helper.make_tensor_value_info(name, element, shape)

        llama = self.llama
        cache = (FLOAT, "batch", llama.kv_heads, "past", llama.head_dim)
        inputs = [describe("input_ids", INT64, "batch", "tokens")]
        if self.cached:
            inputs.append(describe("attention_mask", INT64, "batch", "all"))
        if self.cached and not self.contributed:
            inputs.append(describe("position_ids", INT64, "batch", "tokens"))
        if self.cached:
            inputs += [
                describe(f"past_key_values.{layer}.{kind}", *cache)
                for layer in range(llama.config["num_hidden_layers"])
                for kind in ("key", "value")
            ]
        graph = helper.make_graph(
            self.nodes, "decoder", inputs,
            [describe("logits", FLOAT, "batch", "tokens", llama.config["vocab_size"])]
            + [describe(name, *cache) for name in self.outputs[1:]],
            self.weights,
        )  # fmt: skip
        opsets = [helper.make_opsetid("", OPSET)]
        if self.contributed or self.packed:
            opsets.append(helper.make_opsetid("com.microsoft", 1))
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Small ONNX models for the tests, and how those compile and run them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import toolchain
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator


def make_model(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple],
    outputs: dict[str, tuple],
    weights: dict[str, np.ndarray],
    opset: int = 21,
    types: dict[str, int] | None = None,
) -> onnx.ModelProto:
    """A float32 graph, but for values in types; sizes that are words are open."""
    types = types or {}

    def describe(values: dict[str, tuple]) -> list[onnx.ValueInfoProto]:
        return [
            helper.make_tensor_value_info(
                name, types.get(name, TensorProto.FLOAT), shape
            )
            for name, shape in values.items()
        ]

    graph = helper.make_graph(
        nodes,
        "graph",
        describe(inputs),
        describe(outputs),
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10
    )
    onnx.checker.check_model(model)
    return model


def random(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def make_mlp(rng: np.random.Generator) -> onnx.ModelProto:
    """784-256-10 with any batch: the tutorial's."""
    weights = {
        "w1": random(rng, 784, 256) / 28, "b1": random(rng, 256),
        "w2": random(rng, 10, 256) / 16, "b2": random(rng, 10),
    }  # fmt: skip
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h0"], name="first"),
        helper.make_node("Add", ["h0", "b1"], ["h1"], name="bias"),
        helper.make_node("Relu", ["h1"], ["h2"], name="relu"),
        helper.make_node(
            "Gemm", ["h2", "w2", "b2"], ["logits"], name="second", transB=1
        ),
        helper.make_node("Softmax", ["logits"], ["y"], name="softmax", axis=-1),
    ]
    return make_model(
        nodes,
        {"x": ("batch", 784)},
        {"logits": ("batch", 10), "y": ("batch", 10)},
        weights,
    )


def make_cnn(rng: np.random.Generator) -> onnx.ModelProto:
    """Convolution, normalization, residual, pools and a flattened linear."""
    weights = {
        "k1": random(rng, 8, 3, 3, 3) / 5, "c1": random(rng, 8),
        "k2": random(rng, 8, 8, 3, 3) / 8,
        "scale": 1 + random(rng, 8) / 8, "shift": random(rng, 8),
        "mean": random(rng, 8), "variance": np.abs(random(rng, 8)) + 0.5,
        "w": random(rng, 72, 5) / 8,
        "shape": np.array([0, -1], np.int64),
    }  # fmt: skip
    nodes = [
        helper.make_node(
            "Conv", ["x", "k1", "c1"], ["a"], name="conv1",
            strides=[2, 2], pads=[1, 1, 1, 1],
        ),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "k2"], ["c"], name="conv2", pads=[1, 1, 1, 1]),
        helper.make_node(
            "BatchNormalization", ["c", "scale", "shift", "mean", "variance"], ["d"]
        ),
        helper.make_node("Add", ["d", "b"], ["e"]),
        helper.make_node(
            "MaxPool", ["e"], ["f"], name="pool", kernel_shape=[3, 3], strides=[2, 2]
        ),
        helper.make_node("Reshape", ["f", "shape"], ["g"], name="flatten"),
        helper.make_node("MatMul", ["g", "w"], ["y"], name="classify"),
    ]  # fmt: skip
    return make_model(nodes, {"x": ("batch", 3, 14, 14)}, {"y": ("batch", 5)}, weights)


def make_graph(nodes, inputs=(("x", [2, 3]),), outputs=(("y", [2, 3]),), weights=()):
    """A model that no checker has seen."""

    def describe(values):
        return [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in values
        ]

    graph = helper.make_graph(
        nodes, "g", describe(inputs), describe(outputs), list(weights)
    )
    return helper.make_model(
        graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)]
    )


def compile_model(folder: Path, model: onnx.ModelProto, *options: object) -> Path:
    path, package = folder / "model.onnx", folder / "model.qlm"
    path.write_bytes(model.SerializeToString())
    toolchain.succeed("quantc", path, "-o", package, "--quiet", *options)
    return package


def run_package(package: Path, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    source, results = package.parent / "inputs.npz", package.parent / "outputs.npz"
    np.savez(source, **inputs)
    toolchain.succeed("quant-run", "run", package, "--input", source, "-o", results)
    with np.load(results) as arrays:
        return dict(arrays)


def compare(folder: Path, model: onnx.ModelProto, *sets: dict[str, np.ndarray]) -> None:
    """Compile once, run each set of inputs, against onnx's own evaluator."""
    package = compile_model(folder, model)
    for inputs in sets:
        expected = ReferenceEvaluator(model).run(None, inputs)
        got = run_package(package, **inputs)
        for info, want in zip(model.graph.output, expected, strict=True):
            assert got[info.name].shape == want.shape
            np.testing.assert_allclose(got[info.name], want, rtol=1e-5, atol=1e-5)


def refuse(folder: Path, model: onnx.ModelProto | bytes, *options: object) -> str:
    """The one line that quantc refuses a model with."""
    path, package = folder / "bad.onnx", folder / "bad.qlm"
    path.write_bytes(
        model if isinstance(model, bytes) else model.SerializeToString()
    )
    done = toolchain.run("quantc", path, "-o", package, "--quiet", *options)
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert not package.exists() and not list(folder.glob("bad.qlm*"))
    return done.stderr.strip()


def make_encoder(
    rng: np.random.Generator, layers: int = 2, hidden: int = 64, heads: int = 4
) -> onnx.ModelProto:
    """A small BERT: embeddings, layers normalized after each sum, a classifier.

    Takes ``input_ids`` and ``mask`` [batch, tokens] of int64, any sizes; gives
    ``y`` [batch, 5].
    """
    weights: dict[str, np.ndarray] = {
        "words": random(rng, 100, hidden), "places": random(rng, 64, hidden) / 4,
        "split": np.array([0, 0, heads, hidden // heads], np.int64),
        "join": np.array([0, 0, hidden], np.int64),
        "scale": np.float32((hidden // heads) ** -0.5),
        "zero": np.int64(0), "one": np.int64(1), "first": np.array([1, 2], np.int64),
        "none": np.float32(0), "hidden_score": np.float32(-1e9),
    }  # fmt: skip
    nodes: list[onnx.NodeProto] = []

    def node(kind: str, *inputs: str, **attributes: object) -> str:
        name = f"{kind}_{len(nodes)}"
        nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def linear(x: str, name: str, rows: int, columns: int) -> str:
        weights[f"{name}.w"] = random(rng, rows, columns) / np.float32(rows) ** 0.5
        weights[f"{name}.b"] = random(rng, columns) / 8
        return node("Add", node("MatMul", x, f"{name}.w"), f"{name}.b")

    def norm(x: str, name: str) -> str:
        weights[f"{name}.g"] = 1 + random(rng, hidden) / 8
        weights[f"{name}.s"] = random(rng, hidden) / 8
        return node("LayerNormalization", x, f"{name}.g", f"{name}.s", axis=-1)

    def split(x: str) -> str:
        return node("Transpose", node("Reshape", x, "split"), perm=[0, 2, 1, 3])

    shape = node("Shape", "input_ids")
    tokens = node("Gather", shape, "one")
    places = node("Gather", "places", node("Range", "zero", tokens, "one"))
    x = norm(node("Add", node("Gather", "words", "input_ids"), places), "embedding")
    shown = node("Unsqueeze", node("Cast", "mask", to=TensorProto.BOOL), "first")
    bias = node("Where", shown, "none", "hidden_score")
    for i in range(layers):
        q, k, v = (split(linear(x, f"{i}.{part}", hidden, hidden)) for part in "qkv")
        scores = node("MatMul", q, node("Transpose", k, perm=[0, 1, 3, 2]))
        scores = node("Add", node("Mul", scores, "scale"), bias)
        mixed = node("MatMul", node("Softmax", scores, axis=-1), v)
        mixed = node("Reshape", node("Transpose", mixed, perm=[0, 2, 1, 3]), "join")
        x = norm(node("Add", x, linear(mixed, f"{i}.o", hidden, hidden)), f"{i}.a")
        inner = node("Gelu", linear(x, f"{i}.up", hidden, 4 * hidden))
        down = linear(inner, f"{i}.down", 4 * hidden, hidden)
        x = norm(node("Add", x, down), f"{i}.m")
    pooled = node("Tanh", linear(node("Gather", x, "zero", axis=1), "pool", hidden, hidden))
    logits = linear(pooled, "classify", hidden, 5)
    nodes.append(helper.make_node("Identity", [logits], ["y"], name="y"))
    graph = helper.make_graph(
        nodes, "encoder",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"])
         for name in ("input_ids", "mask")],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 5])],
        [numpy_helper.from_array(np.asarray(value), name)
         for name, value in weights.items()],
    )  # fmt: skip
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10
    )
    onnx.checker.check_model(model)
    return model

# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Attention, as one node and as exporters spell it, beside ONNX Runtime.

    python benchmarks/graph/attention.py make FOLDER
    python benchmarks/graph/attention.py compile FOLDER --quantc quantc [--target-cpu X]
    python benchmarks/graph/attention.py time FOLDER --quant-run quant-run

Eight heads of 64 features: one query to 8,000 and to 70,000 keys, 128 queries to
2,048. Contestants take turns, as in mlp.py; the table has microseconds.
"""

from __future__ import annotations

import os
import statistics
import subprocess
from pathlib import Path

import mlp
import numpy as np

HEADS, SIZE = 8, 64
SHAPES = ((1, 8_000), (128, 2_048), (1, 70_000))
TYPES = {"f32": np.float32, "f16": np.float16}
FORMS = ("node", "nodes")


def list_cases() -> list[tuple[str, int, int, str, str]]:
    return [
        (f"{form}-{kind}-{queries}x{keys}", queries, keys, kind, form)
        for queries, keys in SHAPES for kind in TYPES for form in FORMS
    ]  # fmt: skip


def make_model(queries: int, keys: int, kind: str, form: str):
    from onnx import TensorProto, helper, numpy_helper

    dtype = TYPES[kind]
    element = TensorProto.FLOAT if kind == "f32" else TensorProto.FLOAT16

    def describe(name, *shape):
        return helper.make_tensor_value_info(name, element, shape)

    weights = []
    if form == "node":
        nodes = [helper.make_node("Attention", ["q", "k", "v"], ["y"])]
    else:
        weights = [numpy_helper.from_array(np.array(SIZE**-0.5, dtype), "scale")]
        nodes = [
            helper.make_node("Transpose", ["k"], ["t"], perm=[0, 1, 3, 2]),
            helper.make_node("MatMul", ["q", "t"], ["s"]),
            helper.make_node("Mul", ["s", "scale"], ["m"]),
            helper.make_node("Softmax", ["m"], ["p"], axis=-1),
            helper.make_node("MatMul", ["p", "v"], ["y"]),
        ]
    inputs = [
        describe("q", 1, HEADS, queries, SIZE),
        describe("k", 1, HEADS, keys, SIZE),
        describe("v", 1, HEADS, keys, SIZE),
    ]
    graph = helper.make_graph(
        nodes, "attention", inputs, [describe("y", 1, HEADS, queries, SIZE)], weights
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10
    )


def make(folder: Path) -> None:
    import onnx

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for name, queries, keys, kind, form in list_cases():
        onnx.save(make_model(queries, keys, kind, form), folder / f"{name}.onnx")
        values = {
            key: rng.standard_normal((1, HEADS, count, SIZE)).astype(TYPES[kind])
            for key, count in (("q", queries), ("k", keys), ("v", keys))
        }
        np.savez(folder / f"{name}.npz", **values)


def compile_all(folder: Path, quantc: str, cpu: str) -> None:
    for name, *_ in list_cases():
        subprocess.run([quantc, folder / f"{name}.onnx", "-o", folder / f"{name}.qlm",
                        "--target-cpu", cpu, "--quiet"], check=True)  # fmt: skip


def compute(folder: Path, name: str) -> np.ndarray:
    """The formula in float64."""
    values = {k: v.astype(np.float64) for k, v in np.load(folder / f"{name}.npz").items()}
    scores = values["q"] @ values["k"].swapaxes(-1, -2) * SIZE**-0.5
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers @ values["v"] / powers.sum(-1, keepdims=True)


def measure(folder: Path, tool: str, rounds: int, out: Path | None) -> None:
    everything = os.sched_getaffinity(0)
    lines = [
        "| case | threads | ours: least, median [spread] | onnxruntime: least, median "
        "[spread] | ratio of medians | error |",
        "|---|---|---|---|---|---|",
    ]
    result = folder / "y.npz"
    for threads in (1, 2):
        os.sched_setaffinity(0, everything)
        os.sched_setaffinity(0, mlp.fastest_cores(threads))
        for name, *_ in list_cases():
            model, inputs = folder / name, folder / f"{name}.npz"
            arrays, ours, theirs = dict(np.load(inputs)), [], []
            for _ in range(rounds):
                ours.append(
                    mlp.time_package(tool, f"{model}.qlm", inputs, threads, result)
                )
                theirs.append(mlp.time_session(f"{model}.onnx", arrays, threads))
            error = np.abs(np.load(result)["y"] - compute(folder, name)).max()
            ratio = statistics.median(t[1] / o[1] for o, t in zip(ours, theirs))
            lines.append(f"| {name} | {threads} | {mlp.tell(ours, 0)} | "
                         f"{mlp.tell(theirs, 0)} | {ratio:.2f} | {error:.1e} |")  # fmt: skip
    text = "\n".join(lines)
    print(text)
    if out:
        out.write_text(text + "\n")


if __name__ == "__main__":
    mlp.run(__doc__, 5, make, compile_all, measure)

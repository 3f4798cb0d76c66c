# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Graphs whose linears round their rows and map their results inside of AMX's
kernels give the bits of those for AVX2, where each step is on its own."""

from __future__ import annotations

import amx_emulation
import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

import graph_emulation  # noqa: E402
import onnx_models  # noqa: E402
from onnx import TensorProto, helper  # noqa: E402

pytestmark = pytest.mark.skipif(
    not all(amx_emulation.TOOLS.values()),
    reason="needs LLVM's mlir-translate, llc and clang",
)

ROWS = (1, 15, 33, 70)
OPTIONS = {
    "dynamic": ("--weights", "int8", "--activations", "int8-dynamic"),
    "static": ("--weights", "int8", "--activations", "int8-static"),
    "qdq": (),
}


def make_layers(rng, sizes: list[int], coded: bool) -> onnx.ModelProto:
    """Linears with ReLU between them; `coded`: with codes of activations."""
    nodes, weights, types = [], {}, {}

    def add(op: str, inputs: list[str], output: str) -> str:
        nodes.append(helper.make_node(op, inputs, [output], name=output))
        return output

    def pass_codes(value: str, i: int) -> str:
        weights[f"s{i}"] = np.float32(0.03 + 0.01 * i)
        weights[f"z{i}"] = np.uint8([0, 120, 7][i % 3])
        codes = add("QuantizeLinear", [value, f"s{i}", f"z{i}"], f"{value}_codes")
        return add("DequantizeLinear", [codes, f"s{i}", f"z{i}"], f"{value}_again")

    value = "x"
    for i, (inner, outer) in enumerate(zip(sizes[:-1], sizes[1:])):
        if coded:
            value = pass_codes(value, i)
            weights[f"w{i}"] = rng.integers(-127, 128, (inner, outer)).astype(np.int8)
            weights[f"ws{i}"] = rng.uniform(1e-3, 4e-3, outer).astype(np.float32)
            weights[f"wz{i}"] = np.zeros(outer, np.int8)
            nodes.append(helper.make_node(
                "DequantizeLinear", [f"w{i}", f"ws{i}", f"wz{i}"], [f"v{i}"],
                name=f"v{i}", axis=1))  # fmt: skip
        else:
            weights[f"v{i}"] = onnx_models.random(rng, inner, outer) / 8
        weights[f"b{i}"] = onnx_models.random(rng, outer)
        value = add("Gemm", [value, f"v{i}", f"b{i}"], f"h{i}")
        if i + 2 < len(sizes):
            value = add("Relu", [value], f"r{i}")
    return onnx_models.make_model(
        nodes, {"x": ("rows", sizes[0])}, {value: ("rows", sizes[-1])}, weights,
        types={"x": TensorProto.FLOAT},
    )  # fmt: skip


def make_rows(rng, columns: int) -> np.ndarray:
    """Rows of different sizes; some have numbers that no code reaches, zeros,
    and what a quotient rounds to a half."""
    x = onnx_models.random(rng, max(ROWS), columns)
    x *= rng.uniform(0.1, 5, (max(ROWS), 1)).astype(np.float32)
    x[1] = 0
    x[2, : min(columns, 4)] = [3e38, -3e38, 1e-40, 50][: min(columns, 4)]
    halves = (np.arange(columns) - columns // 2 + np.float32(0.5)) * np.float32(0.03)
    x[3] = np.nextafter(halves, np.float32(np.inf))
    x[4] = np.nextafter(halves, np.float32(-np.inf))
    return x.astype(np.float32)


@pytest.mark.parametrize("kind", OPTIONS)
# A last step that begins early, half a step, and columns that are no words.
@pytest.mark.parametrize("sizes", [[784, 64, 10], [147, 33, 64, 17], [32, 96, 5]],
                         ids=str)
def test_bits_are_those_of_avx2(tmp_path, kind, sizes):
    rng = np.random.default_rng(sizes[0])
    model = make_layers(rng, sizes, kind == "qdq")
    x = make_rows(rng, sizes[0])
    options = OPTIONS[kind]
    if kind == "static":
        np.savez(tmp_path / "calibration.npz", x=x[5:])
        options += ("--calibration", tmp_path / "calibration.npz")
    package = onnx_models.compile_model(
        tmp_path, model, "--target-cpu", "x86-64-v3", *options)  # fmt: skip
    graph = graph_emulation.Graph(tmp_path / "model.onnx", tmp_path, *options)
    for rows in ROWS:
        [expected] = onnx_models.run_package(package, x=x[:rows]).values()
        got = graph(x[:rows], sizes[-1])
        assert got.tobytes() == expected.tobytes(), rows
    # Roundings and maps are parts of the linears' launches.
    assert graph.launches == len(ROWS) * (len(sizes) - 1)

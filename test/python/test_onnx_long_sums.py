# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Sums of more terms than float16 can count."""

from __future__ import annotations

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper  # noqa: E402
from onnx_models import compile_model, run_package  # noqa: E402

KEYS = 70_000  # Above 65,504, the largest float16.


def make_model(node, inputs, output):
    def describe(name, shape):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT16, shape)

    graph = helper.make_graph(
        [node], "g", [describe(*item) for item in inputs.items()], [describe("y", output)]
    )
    return helper.make_model(
        graph, ir_version=10, opset_imports=[helper.make_opsetid("", 23)]
    )


def test_softmax_over_more_than_65504_elements(tmp_path):
    x = np.zeros((1, KEYS), np.float16)
    model = make_model(helper.make_node("Softmax", ["x"], ["y"]), {"x": x.shape}, x.shape)
    got = run_package(compile_model(tmp_path, model), x=x)["y"]
    np.testing.assert_array_equal(got, np.full(x.shape, 1 / KEYS, np.float16))

# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Shapes that ONNX graphs compute, as exporters spell them, with open sizes."""

from __future__ import annotations

import numpy as np
import pytest
import toolchain

onnx = pytest.importorskip("onnx")

import onnx_models  # noqa: E402
from onnx import TensorProto, helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402
from onnx_models import compare, compile_model, refuse, run_package  # noqa: E402

node = helper.make_node


def show(tmp_path, model, stage: str) -> str:
    path = tmp_path / "shown.onnx"
    path.write_bytes(model.SerializeToString())
    return toolchain.succeed("quantc", path, "--to", stage)


def take(name: str, axis: int) -> list[onnx.NodeProto]:
    """Dimension `axis` of x, as `name`, of one dimension."""
    return [
        node("Shape", ["x"], [f"{name}_shape"]),
        node("Gather", [f"{name}_shape", f"at{axis}"], [f"{name}_scalar"]),
        node("Unsqueeze", [f"{name}_scalar", "at0v"], [name]),
    ]


PLACES = {f"at{i}": np.array(i, np.int64) for i in range(3)}
PLACES["at0v"] = np.array([0], np.int64)


def test_heads_of_open_batches_and_lengths_keep_their_sizes(tmp_path):
    """[n, t, 24] into [n, 4, t, 6] and back, by sizes that the graph takes."""
    rng = np.random.default_rng(1)
    weights = PLACES | {
        "four": np.array([4], np.int64), "w": onnx_models.random(rng, 24, 24),
    }  # fmt: skip
    nodes = [
        *take("n", 0), *take("t", 1), *take("f", 2),
        node("Div", ["f_scalar", "heads"], ["d_scalar"]),
        node("Unsqueeze", ["d_scalar", "at0v"], ["d"]),
        node("Concat", ["n", "t", "four", "d"], ["split"], axis=0),
        node("Concat", ["n", "t", "f"], ["joined"], axis=0),
        node("MatMul", ["x", "w"], ["p"]),
        node("Reshape", ["p", "split"], ["h"]),
        node("Transpose", ["h"], ["q"], perm=[0, 2, 1, 3]),
        node("Transpose", ["q"], ["b"], perm=[0, 2, 1, 3]),
        node("Reshape", ["b", "joined"], ["m"]),
        node("Add", ["x", "m"], ["y"]),
    ]  # fmt: skip
    weights["heads"] = np.array(4, np.int64)
    model = onnx_models.make_model(
        nodes, {"x": ("n", "t", 24)}, {"y": ("n", "t", 24)}, weights
    )
    text = show(tmp_path, model, "import")
    assert "tensor<?x4x?x6xf32>" in text
    # The sum needs no choice between sizes that may be 1 and others.
    assert "arith.select" not in text
    compare(
        tmp_path, model,
        *({"x": onnx_models.random(rng, n, t, 24)} for n, t in ((1, 1), (3, 5))),
    )  # fmt: skip


def test_rows_of_all_sequences(tmp_path):
    """[t, n, 6] as [t * n, 6], a linear, and back to [t, n, 5]."""
    rng = np.random.default_rng(2)
    nodes = [
        *take("t", 0), *take("n", 1),
        node("Mul", ["t", "n"], ["rows"]),
        node("Concat", ["rows", "six"], ["flat"], axis=0),
        node("Reshape", ["x", "flat"], ["r"]),
        node("MatMul", ["r", "w"], ["p"]),
        node("Concat", ["t", "n", "five"], ["back"], axis=0),
        node("Reshape", ["p", "back"], ["y"]),
    ]  # fmt: skip
    weights = PLACES | {
        "six": np.array([6], np.int64), "five": np.array([5], np.int64),
        "w": onnx_models.random(rng, 6, 5),
    }  # fmt: skip
    model = onnx_models.make_model(
        nodes, {"x": ("t", "n", 6)}, {"y": ("t", "n", 5)}, weights
    )
    assert "arith.select" not in show(tmp_path, model, "import")
    compare(
        tmp_path, model,
        *({"x": onnx_models.random(rng, t, n, 6)} for t, n in ((1, 1), (4, 3))),
    )  # fmt: skip
    # By the standard a 0 in a shape keeps the dimension, 5 here.
    np.savez(tmp_path / "in.npz", x=np.zeros((3, 0, 6), np.float32))
    done = toolchain.run(
        "quant-run", "run", tmp_path / "model.qlm", "--input", tmp_path / "in.npz",
        "-o", tmp_path / "out.npz",
    )  # fmt: skip
    assert done.returncode == 1
    assert "the sizes of the inputs contradict each other" in done.stderr


def test_pads_as_torchscript_spells_them(tmp_path):
    nodes = [
        node("ConstantOfShape", ["count"], ["zeros"],
             value=helper.make_tensor("", TensorProto.INT64, [1], [0])),
        node("Concat", ["given", "zeros"], ["all"], axis=0),
        node("Reshape", ["all", "pairs"], ["p"]),
        node("Slice", ["p", "last", "least", "first", "last"], ["s"]),
        node("Transpose", ["s"], ["t"], perm=[1, 0]),
        node("Reshape", ["t", "last"], ["u"]),
        node("Cast", ["u"], ["pads"], to=TensorProto.INT64),
        node("Pad", ["x", "pads"], ["y"]),
    ]  # fmt: skip
    weights = {
        "count": [3], "given": [1, 2, 0, 3, 4], "pairs": [-1, 2], "last": [-1],
        "least": [-(2**63)], "first": [0],
    }  # fmt: skip
    weights = {name: np.array(value, np.int64) for name, value in weights.items()}
    model = onnx_models.make_model(
        nodes, {"x": (2, 3, 4, 5)}, {"y": ("a", "b", "c", "d")}, weights
    )
    rng = np.random.default_rng(3)
    compare(tmp_path, model, {"x": onnx_models.random(rng, 2, 3, 4, 5)})


def make_move(op: str, data: list, *params: list, **attributes) -> onnx.ModelProto:
    """x expanded to the shape that `op` makes of `data`, beside open sizes."""
    weights = {"data": np.array(data, np.int64), "flat": np.array([-1], np.int64)}
    names = ["data"]
    for i, values in enumerate(params):
        weights[f"p{i}"] = np.array(values, np.int64)
        names.append(f"p{i}")
    nodes = [
        node(op, names, ["moved"], **attributes),
        node("Reshape", ["moved", "flat"], ["shape"]),
        node("Expand", ["x", "shape"], ["y"]),
    ]
    rank = ReferenceEvaluator(
        onnx_models.make_model(
            nodes[:2], {"x": (1,)}, {"shape": ("k",)}, weights,
            types={"shape": TensorProto.INT64},
        )  # fmt: skip
    ).run(None, {"x": np.zeros(1, np.float32)})[0].size
    return onnx_models.make_model(
        nodes, {"x": (1,)}, {"y": tuple("abcdefgh"[:rank])}, weights
    )


@pytest.mark.parametrize("op, arguments, attributes", [
    ("Concat", ([1, 2], [3]), {"axis": 0}),
    ("Concat", ([[1, 2], [3, 4]], [[5], [2]]), {"axis": -1}),
    ("Expand", ([[2], [3]], [2, 2]), {}),
    ("Expand", ([2], [1]), {}),
    ("Gather", ([[1, 2, 3], [4, 2, 1]], [-1, 0]), {"axis": 1}),
    ("Gather", ([[1, 2, 3], [4, 2, 1]], 1), {"axis": 0}),
    ("Gather", ([[1, 2, 3], [4, 2, 1]], [[0, -2], [1, 1]]), {"axis": -2}),
    ("Slice", ([1, 2, 3, 4, 5], [-2], [-(2**63)], [0], [-2]), {}),
    ("Slice", ([[1, 2, 3], [4, 2, 1]], [0, 1], [2**63 - 1, 2], [1, 0], [2, 1]), {}),
    ("Squeeze", ([[[1, 2, 3]]], [0, -2]), {}),
    ("Squeeze", ([[[1, 2, 3]]],), {}),
    ("Transpose", ([[1, 2, 3], [4, 2, 1]],), {}),
    ("Unsqueeze", ([2, 3], [-1, 0]), {}),
])  # fmt: skip
def test_shapes_that_are_moved_are_known(tmp_path, op, arguments, attributes):
    model = make_move(op, *arguments, **attributes)
    # Reduced to the shape itself: nothing is left to be computed.
    assert "?" not in show(tmp_path, model, "import").split("func.func", 1)[1]
    compare(tmp_path, model, {"x": np.ones(1, np.float32)})


def test_an_expansion_to_open_sizes(tmp_path):
    """torch.Tensor.expand: -1 keeps a size, and Where chooses it."""
    nodes = [
        node("Shape", ["x"], ["s"]),
        *take("n", 0),
        node("Add", ["n", "two"], ["more"]),
        node("Concat", ["more", "minus", "five"], ["wanted"], axis=0),
        node("Equal", ["wanted", "minus"], ["keeps"]),
        node("Where", ["keeps", "ones", "wanted"], ["shape"]),
        node("Slice", ["x", "at0v", "one"], ["first"]),
        node("Expand", ["first", "shape"], ["y"]),
    ]  # fmt: skip
    weights = PLACES | {
        "two": np.array([2], np.int64), "minus": np.array([-1], np.int64),
        "five": np.array([5], np.int64), "one": np.array([1], np.int64),
        "ones": np.ones(3, np.int64),
    }  # fmt: skip
    model = onnx_models.make_model(
        nodes, {"x": ("n", "t", 1)}, {"y": ("m", "t", 5)}, weights
    )
    assert "tensor<?x?x5xf32>" in show(tmp_path, model, "import")
    rng = np.random.default_rng(4)
    compare(
        tmp_path, model,
        *({"x": onnx_models.random(rng, n, t, 1)} for n, t in ((1, 1), (2, 3))),
    )  # fmt: skip


def make_deep(sizes: tuple, mask: tuple, layers: int) -> onnx.ModelProto:
    nodes, x = [], "x"
    for i in range(layers):
        nodes += [
            node("Add", [x, "mask"], [f"a{i}"]),
            node("LayerNormalization", [f"a{i}", "scale"], [f"n{i}"]),
            node("Tanh", [f"n{i}"], [f"t{i}"]),
            node("Add", [f"n{i}", f"t{i}"], [f"x{i}"]),
        ]
        x = f"x{i}"
    return onnx_models.make_model(
        nodes + [node("Identity", [x], ["y"])], {"x": sizes, "mask": mask},
        {"y": sizes}, {"scale": np.ones(8, np.float32)},
    )  # fmt: skip


@pytest.mark.parametrize("mask", [("n", "t", 8), ("m", "u", 8)])
def test_deep_graphs_compute_each_value_once(tmp_path, mask):
    """Twelve normalizations and residuals, each of whose sizes might be 1."""
    model = make_deep(("n", "t", 8), mask, 12)
    rng = np.random.default_rng(5)
    compare(
        tmp_path, model,
        {n: onnx_models.random(rng, 2, 3, 8) for n in ("x", "mask")},
    )  # fmt: skip


def test_dimensions_of_one_name_are_one_size(tmp_path):
    rng = np.random.default_rng(6)
    x, y = onnx_models.random(rng, 3, 4), onnx_models.random(rng, 1, 4)
    add = [node("Add", ["x", "y"], ["z"])]
    for name, runs in (("n", False), ("?", True)):
        model = onnx_models.make_model(
            add, {"x": (name, 4), "y": (name, 4)}, {"z": (name, 4)}, {}
        )
        package = compile_model(tmp_path, model)
        np.testing.assert_allclose(run_package(package, x=x, y=x)["z"], x + x)
        np.savez(tmp_path / "in.npz", x=x, y=y)
        done = toolchain.run(
            "quant-run", "run", package, "--input", tmp_path / "in.npz", "-o",
            tmp_path / "out.npz",
        )  # fmt: skip
        assert (done.returncode == 0) == runs
        if not runs:
            assert "the sizes of the inputs contradict each other" in done.stderr


def test_bad_moves_are_refused_by_their_node(tmp_path):
    """What is not folded reaches the operator's own checks."""
    for op, arguments, attributes, message in (
        ("Gather", ([1, 2], [2]), {"axis": 1}, "axis must be from -1 to 0, got 1"),
        ("Transpose", ([[1, 2]],), {"perm": [0, 0]}, "axis 0 stands twice"),
        ("Squeeze", ([[1, 2]], [1]), {}, "only dimensions of 1 can be squeezed"),
        ("Slice", ([1, 2], [0], [1], [0], [0]), {}, "step must not be 0"),
        ("Reshape", ([1, 2], [3]), {}, "cannot reshape 2 elements"),
    ):
        weights = {f"p{i}": np.array(a, np.int64) for i, a in enumerate(arguments)}
        nodes = [
            node(op, list(weights), ["s"], name="odd", **attributes),
            node("Expand", ["x", "s"], ["y"]),
        ]
        model = helper.make_model(
            helper.make_graph(
                nodes, "g",
                [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
                [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
                [onnx.numpy_helper.from_array(v, n) for n, v in weights.items()],
            ),
            opset_imports=[helper.make_opsetid("", 21)], ir_version=10,
        )  # fmt: skip
        text = refuse(tmp_path, model)
        assert f"node 'odd' ({op}): {message}" in text

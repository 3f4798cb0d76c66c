# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""ONNX files through quantc and quant-run, against onnx's own evaluator."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import toolchain

onnx = pytest.importorskip("onnx")

import onnx_models  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402
from onnx_models import compile_model, make_graph, refuse, run_package  # noqa: E402


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_mlp_equals_numpy_in_float64(tmp_path, batch):
    rng = np.random.default_rng(batch)
    model = onnx_models.make_mlp(rng)
    w = {t.name: numpy_helper.to_array(t).astype(np.float64)
         for t in model.graph.initializer}  # fmt: skip
    x = onnx_models.random(rng, batch, 784)
    hidden = np.maximum(x.astype(np.float64) @ w["w1"] + w["b1"], 0)
    logits = hidden @ w["w2"].T + w["b2"]
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    got = run_package(compile_model(tmp_path, model), x=x)
    assert got["y"].dtype == np.float32
    # A sum of K products in float32: K roundings of at most 2^-24.
    np.testing.assert_allclose(got["logits"], logits, atol=784 * 2**-24, rtol=1e-5)
    np.testing.assert_allclose(
        got["y"], exponents / exponents.sum(axis=1, keepdims=True), atol=2e-5
    )


@pytest.mark.parametrize("batch", [1, 2])
def test_cnn_equals_the_reference_evaluator(tmp_path, batch):
    rng = np.random.default_rng(7)
    model = onnx_models.make_cnn(rng)
    x = onnx_models.random(rng, batch, 3, 14, 14)
    [expected] = ReferenceEvaluator(model).run(None, {"x": x})
    got = run_package(compile_model(tmp_path, model), x=x)
    np.testing.assert_allclose(got["y"], expected, atol=1e-4, rtol=1e-4)


def test_one_unnamed_array_is_the_one_input(tmp_path):
    rng = np.random.default_rng(3)
    package = compile_model(tmp_path, onnx_models.make_mlp(rng))
    x = onnx_models.random(rng, 2, 784)
    expected = run_package(package, x=x)["y"]
    np.save(tmp_path / "x.npy", x)
    for text in (tmp_path / "x.npy", f"x={tmp_path / 'x.npy'}"):
        toolchain.succeed(
            "quant-run", "run", package, "--input", text, "--output",
            tmp_path / "y.npz",
        )  # fmt: skip
        with np.load(tmp_path / "y.npz") as arrays:
            np.testing.assert_array_equal(arrays["y"], expected)


def test_every_unsupported_node_is_listed_in_one_message(tmp_path):
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="fine"),
        helper.make_node("Frobnicate", ["a"], ["b"], name="odd"),
        helper.make_node("Sew", ["b"], ["y"], domain="com.example"),
    ]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
    )  # fmt: skip
    text = refuse(tmp_path, helper.make_model(graph))
    assert "node 'odd' (Frobnicate), node of 'y' (com.example.Sew)" in text
    assert "fine" not in text


def test_what_a_reshape_leaves_is_known_beside_an_open_size(tmp_path):
    """[batch, 4, 3] as [0, -1]: a row of 12, and so the input of a linear."""
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["r"]),
        helper.make_node("MatMul", ["r", "w"], ["y"]),
    ]
    rng = np.random.default_rng(2)
    w = onnx_models.random(rng, 12, 5)
    shape = np.array([0, -1], np.int64)
    model = onnx_models.make_model(
        nodes, {"x": ("batch", 4, 3)}, {"y": ("batch", 5)}, {"w": w, "shape": shape}
    )
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    assert "qlm.linear" in toolchain.succeed("quantc", path, "--to", "import")
    for batch in (0, 1, 7):
        x = onnx_models.random(rng, batch, 4, 3)
        got = run_package(compile_model(tmp_path, model), x=x)["y"]
        np.testing.assert_allclose(got, x.reshape(batch, 12) @ w, rtol=1e-5, atol=1e-5)


def test_a_package_replaces_a_package_and_nothing_else(tmp_path):
    model = onnx_models.make_mlp(np.random.default_rng(0))
    package = compile_model(tmp_path, model)
    compile_model(tmp_path, model)
    for path in (tmp_path / "file", tmp_path / "folder"):
        if path.name == "file":
            path.write_text("mine")
        else:
            path.mkdir()
            (path / "mine").write_text("mine")
        done = toolchain.run("quantc", tmp_path / "model.onnx", "-o", path)
        assert done.returncode == 1
        assert "exists and is not a package" in done.stderr
    assert (tmp_path / "file").read_text() == "mine"
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["mine"]
    assert package.is_dir()


def test_names_in_errors_are_escaped(tmp_path):
    model = make_graph([helper.make_node("Frob", ["x"], ["y"], name="a\nb\x1b")])
    assert r"node 'a\0Ab\1B' (Frob)" in refuse(tmp_path, model)


def test_errors_name_the_node(tmp_path):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="wide")]
    model = onnx_models.make_model(
        nodes, {"x": (2, 3)}, {"y": (2, 4)}, {"w": np.zeros((3, 4), np.float32)}
    )
    model.graph.initializer[0].dims[0] = 4
    model.graph.initializer[0].raw_data = bytes(64)
    text = refuse(tmp_path, model)
    assert "node 'wide' (MatMul): inner dimensions must agree, got 3 and 4" in text


def test_old_opsets_are_refused_where_an_operator_changed(tmp_path):
    same = make_graph([helper.make_node("Neg", ["x"], ["y"])])
    same.opset_import[0].version = 7
    shape = [d.dim_value for d in same.graph.input[0].type.tensor_type.shape.dim]
    x = np.linspace(-2, 2, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    got = run_package(compile_model(tmp_path, same), x=x)
    np.testing.assert_array_equal(got["y"], -x)
    # Before 13, Softmax flattened its input to two dimensions.
    changed = make_graph([helper.make_node("Softmax", ["x"], ["y"], name="old")])
    changed.opset_import[0].version = 11
    text = refuse(tmp_path, changed)
    assert (
        "the model uses opset 11, the oldest that node 'old' (Softmax) is "
        "understood in is 13" in text
    )


def test_shifts_take_integers(tmp_path):
    shift = make_graph(
        [helper.make_node("BitShift", ["x", "x"], ["y"], direction="LEFT")]
    )
    assert "shifts take integers" in refuse(tmp_path, shift)


def test_run_names_what_is_wrong_with_an_input(tmp_path):
    package = compile_model(tmp_path, onnx_models.make_mlp(np.random.default_rng(0)))

    def fail(message: str, **inputs: np.ndarray) -> None:
        np.savez(tmp_path / "in.npz", **inputs)
        done = toolchain.run(
            "quant-run", "run", package, "--input", tmp_path / "in.npz",
            "-o", tmp_path / "out.npz",
        )  # fmt: skip
        assert done.returncode == 1 and message in done.stderr, done.stderr
        assert not (tmp_path / "out.npz").exists()

    fail("input 'x' is missing", z=np.zeros(3, np.float32))
    fail("input 'x' takes float32, got float64", x=np.zeros((1, 784)))
    fail("input 'x' takes the shape [?, 784], got [1, 783]",
         x=np.zeros((1, 783), np.float32))  # fmt: skip
    fail("the graph has no input 'z'",
         x=np.zeros((1, 784), np.float32), z=np.zeros(1))  # fmt: skip


def test_open_sizes_that_contradict_each_other_are_refused_when_run(tmp_path):
    nodes = [
        helper.make_node("Add", ["x", "y"], ["s"]),
        helper.make_node("MatMul", ["s", "z"], ["p"]),
    ]
    model = onnx_models.make_model(
        nodes, {"x": ("a", "b"), "y": ("c", "d"), "z": ("e", 2)},
        {"p": ("f", 2)}, {},
    )  # fmt: skip
    package = compile_model(tmp_path, model)
    rng = np.random.default_rng(1)
    x, y, z = (onnx_models.random(rng, *s) for s in ((3, 5), (1, 5), (5, 2)))
    got = run_package(package, x=x, y=y, z=z)["p"]
    np.testing.assert_allclose(got, (x + y) @ z, rtol=1e-5, atol=1e-5)
    for bad in ({"y": y[:, :4]}, {"z": z[:4]}, {"y": np.repeat(y, 2, axis=0)}):
        np.savez(tmp_path / "in.npz", **({"x": x, "y": y, "z": z} | bad))
        done = toolchain.run(
            "quant-run", "run", package, "--input", tmp_path / "in.npz",
            "-o", tmp_path / "out.npz",
        )  # fmt: skip
        assert done.returncode == 1
        assert "the sizes of the inputs contradict each other" in done.stderr


# Bad input: each is refused in one line that names the node or tensor.


def test_cycles_and_undefined_names_are_refused(tmp_path):
    cycle = make_graph([
        helper.make_node("Add", ["x", "b"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["b"], name="second"),
        helper.make_node("Relu", ["b"], ["y"], name="third"),
    ])  # fmt: skip
    text = refuse(tmp_path, cycle)
    assert "node 'first' (Add): no value is called 'b'" in text
    lost = make_graph([helper.make_node("Relu", ["x"], ["z"])])
    assert "output 'y' is never computed" in refuse(tmp_path, lost)


def test_duplicate_names_are_refused(tmp_path):
    model = make_graph([
        helper.make_node("Relu", ["x"], ["y"], name="one"),
        helper.make_node("Neg", ["x"], ["y"], name="two"),
    ])  # fmt: skip
    text = refuse(tmp_path, model)
    assert "node 'two' (Neg): two values have the name 'y'" in text


@pytest.mark.parametrize(
    "dims, message",
    [([-1, 3], "has the dimension -1"), ([2**62, 4], "overflow")],
)
def test_impossible_dimensions_are_refused(tmp_path, dims, message):
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims)
    model = make_graph([helper.make_node("Add", ["x", "w"], ["y"])], weights=[weight])
    text = refuse(tmp_path, model)
    assert "'w'" in text and (message in text or "impossible dimensions" in text)


def test_a_negative_input_dimension_is_refused(tmp_path):
    model = make_graph([helper.make_node("Relu", ["x"], ["y"])], [("x", [-5])])
    assert "input 'x' has the dimension -5" in refuse(tmp_path, model)


def test_sizes_that_cannot_be_counted_are_refused(tmp_path):
    model = make_graph([helper.make_node("Relu", ["x"], ["y"])], [("x", [2**62, 24])])
    assert "input 'x' has more than 2^48 elements" in refuse(tmp_path, model)
    shape = numpy_helper.from_array(np.array([2**30, 2**20], np.int64), "s")
    model = make_graph(
        [helper.make_node("Expand", ["x", "s"], ["y"], name="wide")],
        [("x", [1, 1])], weights=[shape],
    )  # fmt: skip
    text = refuse(tmp_path, model)
    assert "node 'wide' (Expand): a tensor must have at most 2^48 elements" in text


def test_shapes_that_contradict_each_other_are_refused(tmp_path):
    def scale(channels: int) -> list[TensorProto]:
        ones = np.ones(channels, np.float32)
        return [numpy_helper.from_array(ones, name) for name in "smv"]

    node = helper.make_node(
        "BatchNormalization", ["x", "s", "s", "m", "v"], ["y"], name="short"
    )
    model = make_graph([node], weights=scale(2))
    text = refuse(tmp_path, model)
    assert "node 'short' (BatchNormalization)" in text and "contradict" in text
    wrong = make_graph([helper.make_node("Add", ["x", "z"], ["y"], name="sum")],
                       [("x", [2, 3]), ("z", [2, 4])])  # fmt: skip
    assert "node 'sum' (Add): dimensions of 3 and 4" in refuse(tmp_path, wrong).replace(
        "dimensions of 4 and 3", "dimensions of 3 and 4"
    )


def test_types_that_contradict_each_other_are_refused(tmp_path):
    whole = numpy_helper.from_array(np.ones((2, 3), np.int32), "w")
    mixed = make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"], name="mix")], weights=[whole]
    )
    text = refuse(tmp_path, mixed)
    assert "node 'mix' (Add): inputs must have the same element type" in text
    other = make_graph([helper.make_node("Cast", ["x"], ["y"], to=TensorProto.INT64)])
    text = refuse(tmp_path, other)
    assert "output 'y' is declared float32, its node gives int64" in text
    none = make_graph([helper.make_node("Cast", ["x"], ["y"], name="c", to=99)])
    assert "node 'c' (Cast): cannot convert float32 to type 99" in refuse(tmp_path, none)


@pytest.mark.parametrize("length", [0, 1, 7, 40, 100])
def test_truncated_files_are_refused(tmp_path, length):
    whole = onnx_models.make_mlp(np.random.default_rng(0)).SerializeToString()
    assert "not an ONNX model" in refuse(tmp_path, whole[:length])


def test_nesting_bombs_are_refused(tmp_path):
    # Graphs in attributes of nodes in graphs, 200 deep: wire format by hand,
    # since protobuf's Python side has limits of its own.
    def field(number: int, payload: bytes) -> bytes:
        size, length = b"", len(payload)
        while length > 127:
            size += bytes([length & 127 | 128])
            length >>= 7
        return bytes([number << 3 | 2]) + size + bytes([length]) + payload

    graph = b""
    for _ in range(200):
        graph = field(1, field(5, field(6, graph)))  # node, attribute, g
    text = refuse(tmp_path, field(7, graph))
    assert "not an ONNX model" in text and "nested" in text


class TestExternalData:
    """External data lies in the model's own folder, or is refused."""

    def make(self, location: str, offset: str = "0", length: str = "24"):
        tensor = TensorProto(
            name="w", data_type=TensorProto.FLOAT, dims=[2, 3],
            data_location=TensorProto.EXTERNAL,
        )  # fmt: skip
        for key, value in (
            ("location", location), ("offset", offset), ("length", length),
        ):  # fmt: skip
            tensor.external_data.add(key=key, value=value)
        return make_graph([helper.make_node("Add", ["x", "w"], ["y"])],
                          weights=[tensor])  # fmt: skip

    def test_inside_the_folder_it_is_read(self, tmp_path):
        w = np.arange(6, dtype=np.float32).reshape(2, 3)
        (tmp_path / "w.bin").write_bytes(bytes(8) + w.tobytes())
        package = compile_model(tmp_path, self.make("w.bin", "8"))
        x = np.ones((2, 3), np.float32)
        np.testing.assert_array_equal(run_package(package, x=x)["y"], x + w)

    def test_paths_that_lead_out_are_refused(self, tmp_path):
        folder = tmp_path / "model"
        folder.mkdir()
        secret = tmp_path / "secret"
        secret.write_bytes(bytes(24))
        (folder / "symbolic").symlink_to(secret)
        (folder / "hard").hardlink_to(secret)
        (folder / "folder").symlink_to(tmp_path)
        for location in ("../secret", str(secret), "symbolic", "hard",
                         "folder/secret", ""):  # fmt: skip
            text = refuse(folder, self.make(location))
            assert "tensor 'w'" in text and "folder" in text, (location, text)

    @pytest.mark.parametrize(
        "offset, length, message",
        [("0", "25", "reaches past"), ("8", "24", "reaches past"),
         ("18446744073709551615", "24", "reaches past"), ("0", "20", "needs 24"),
         ("-1", "24", "whole number"), ("0", "x", "whole number")],
    )  # fmt: skip
    def test_offsets_and_lengths_are_checked(self, tmp_path, offset, length, message):
        (tmp_path / "w.bin").write_bytes(bytes(24))
        text = refuse(tmp_path, self.make("w.bin", offset, length))
        assert "tensor 'w'" in text and message in text


def test_damaged_models_never_crash_the_compiler(tmp_path):
    rng = np.random.default_rng(11)
    corpus = Path(__file__).resolve().parents[1] / "fuzz" / "corpus" / "onnx"
    # A network, and small models of what the importer looks into.
    names = ("functions", "branch", "packed", "shapes", "states", "codes")
    whole = [onnx_models.make_cnn(rng).SerializeToString()]
    whole += [(corpus / name).read_bytes() for name in names]
    lines = []
    for i in range(150):
        damaged = bytearray(whole[0 if i < 50 else 1 + i % len(names)])
        # The head holds the nodes; weights' bytes can't be wrong.
        for place in rng.integers(0, min(900, len(damaged)), rng.integers(1, 4)):
            damaged[place] = rng.integers(0, 256)
        path = tmp_path / f"{i}.onnx"
        path.write_bytes(bytes(damaged))
        lines.append(f"{path}\t{tmp_path / str(i)}.qlm")
    (tmp_path / "batch.txt").write_text("\n".join(lines))
    done = subprocess.run(
        [toolchain.BIN / "quantc", "--batch", tmp_path / "batch.txt"],
        capture_output=True, timeout=toolchain.TIMEOUT,
    )  # fmt: skip
    # Names in messages are the damaged file's, not always UTF-8.
    assert done.returncode == 0, done.stderr
    seen = re.findall(rb"^(?:ok|error)\t\S*/(\d+)\.onnx", done.stdout, re.MULTILINE)
    assert sorted(map(int, seen)) == list(range(150))

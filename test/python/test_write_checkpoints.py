# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Checkpoints that we write hold the codes of the package, for other tools.

bitsandbytes and compressed-tensors dequantize them here themselves, where they
are installed; autoawq's and gptqmodel's kernels need a GPU, so those formats
are unpacked by loops written from their descriptions.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy_reference as reference
import pytest
import toolchain
from numpy_reference import Scheme

checkpoints = pytest.importorskip("qlm.checkpoints")
from qlm import packed  # noqa: E402
from qlm import quantize as writer  # noqa: E402

HELDOUT = toolchain.make_references.TINY.parent / "heldout.txt"
PROJECTIONS = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
               "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj",
               "mlp.down_proj"]
INT4 = Scheme(4, "group", 128, False, -8, 7, 7.5, "f16")
ZERO_POINTS = Scheme(4, "group", 128, True, 0, 15, 0, "f16")
INT8 = Scheme(8, "channel", 0, False, -127, 127, 127, "f32")


@pytest.fixture(scope="module")
def model(packages) -> Path:
    return packages.model("tiny-llama")


@pytest.fixture(scope="module")
def written(model, tmp_path_factory):
    """The folder of a format and its options, written once."""
    folder = tmp_path_factory.mktemp("written")
    made = {}

    def write(form: str, weights: str, *options: str) -> Path:
        key = (form, weights, *options)
        if key not in made:
            made[key] = writer.quantize(model, folder / str(len(made)), form,
                                        weights, list(options))
        return made[key]

    return write


def source(model: Path, name: str) -> np.ndarray:
    tensors = toolchain.read_safetensors(model / "model.safetensors")
    return tensors[name].astype(np.float32)


def torch_of(tensor):
    """A torch tensor of a stored one."""
    import torch

    kinds = {"BF16": torch.bfloat16, "F8_E4M3": torch.float8_e4m3fn}
    array = np.ascontiguousarray(tensor.array)
    if tensor.kind in kinds:
        width = np.int16 if tensor.kind == "BF16" else np.uint8
        return torch.from_numpy(array.view(width).copy()).view(
            kinds[tensor.kind])
    return torch.from_numpy(array.copy())


#
# Ours
#


@pytest.mark.parametrize("form, weights, options, scheme", [
    ("gptq", "int4", [], INT4),
    ("gptq", "int4", ["--zero-points"], ZERO_POINTS),
    ("awq", "int4", [], ZERO_POINTS),
    ("compressed-tensors", "int4", [], INT4),
    ("compressed-tensors", "int4", ["--zero-points"], ZERO_POINTS),
    ("compressed-tensors", "int8", [], INT8),
    ("bitsandbytes", "int8", [], INT8),
])
def test_read_again(model, written, form, weights, options, scheme):
    """What we read of it is what rounding to nearest gives."""
    folder = written(form, weights, *options)
    values = checkpoints.read_weights(folder)
    for layer in (0, 5):
        for projection in PROJECTIONS:
            name = f"model.layers.{layer}.{projection}.weight"
            expected = reference.dequantize(
                *reference.rtn(source(model, name), scheme), scheme)
            actual, kind = values[name]
            if kind == "F16":
                expected = expected.astype(np.float16).astype(np.float32)
            tolerance = 2e-7 if form == "bitsandbytes" else 0
            assert np.allclose(actual, expected, rtol=tolerance, atol=0), name
    table, _ = values["model.embed_tokens.weight"]
    assert np.array_equal(table, source(model, "model.embed_tokens.weight"))
    config = json.loads((folder / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == form
    assert (folder / "tokenizer.json").exists()


def test_gptq_by_its_format(model, written):
    """Loops over bits, and both versions of zero points."""
    for options, symmetric in (([], True), (["--zero-points"], False)):
        folder = written("gptq", "int4", *options)
        config = json.loads((folder / "config.json").read_text())
        section = config["quantization_config"]
        tensors = checkpoints.read_folder(folder)
        name = "model.layers.1.mlp.up_proj"
        words = tensors[name + ".qweight"].array.view(np.uint32)
        zeros = tensors[name + ".qzeros"].array.view(np.uint32)
        scales = tensors[name + ".scales"].array
        columns, rows = words.shape[0] * 8, words.shape[1]
        more = 1 if section["checkpoint_format"] == "gptq" else 0
        assert section["sym"] is symmetric
        weight = np.zeros((rows, columns), np.float32)
        for k in range(columns):
            group = tensors[name + ".g_idx"].array[k]
            code = words[k // 8] >> np.uint32(4 * (k % 8)) & np.uint32(15)
            zero = np.array([zeros[group, n // 8] >> np.uint32(4 * (n % 8)) & 15
                             for n in range(rows)]).astype(np.int64) + more
            weight[:, k] = (code.astype(np.int64) - zero) * scales[
                group].astype(np.float32)
        scheme = INT4 if symmetric else ZERO_POINTS
        given = source(model, name + ".weight")
        assert np.array_equal(weight, reference.dequantize(
            *reference.rtn(given, scheme), scheme))


def test_awq_folds_scales(model, written, tmp_path):
    """With AWQ's method norms change, and what the layer computes hardly."""
    text = tmp_path / "text.txt"
    text.write_text(HELDOUT.read_text()[:40_000])
    folder = written("awq", "int4", "--method", "awq", "--calibration",
                     str(text), "--calibration-tokens", "4096")
    values = checkpoints.read_weights(folder)
    norm = "model.layers.0.input_layernorm.weight"
    given, changed = source(model, norm), values[norm][0]
    assert not np.array_equal(given, changed)
    ratio = given / changed
    assert ratio.min() < 0.95 and ratio.max() > 1.05
    for projection in PROJECTIONS[:2]:
        name = f"model.layers.0.{projection}.weight"
        weight, restored = source(model, name), values[name][0] / ratio
        error = np.linalg.norm(restored - weight) / np.linalg.norm(weight)
        assert error < 0.15
    # The pair of up and down: down's columns took what up's rows gave.
    up, down = (f"model.layers.0.mlp.{name}_proj.weight"
                for name in ("up", "down"))
    given, changed = source(model, up), values[up][0]
    ratio = (given * changed).sum(1) / (changed * changed).sum(1)
    assert ratio.min() < 0.95 and ratio.max() > 1.05
    weight, restored = source(model, down), values[down][0] / ratio
    error = np.linalg.norm(restored - weight) / np.linalg.norm(weight)
    assert error < 0.15


#
# Other tools
#


@pytest.mark.parametrize("options", [[], ["--double-quant"]])
def test_bitsandbytes_reads_nf4(model, written, options):
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("bitsandbytes.functional")
    tensors = checkpoints.read_folder(written("bitsandbytes", "nf4", *options))
    values = checkpoints.read_weights(written("bitsandbytes", "nf4", *options))
    for projection in PROJECTIONS:
        name = f"model.layers.2.{projection}"
        parts = {key[len(name) + 1:]: torch_of(each) for key, each in
                 tensors.items() if key.startswith(name + ".")}
        state = functional.QuantState.from_dict(
            {key: value for key, value in parts.items() if key != "weight"},
            device="cpu")
        restored = functional.dequantize_4bit(parts["weight"], state)
        assert restored.dtype == torch.bfloat16
        assert np.array_equal(restored.float().numpy(), values[name + ".weight"][0])
        # Its own codes of the same weight are ours, bit for bit.
        weight = torch.from_numpy(source(model, name + ".weight"))
        codes, own = functional.quantize_nf4(
            weight, blocksize=64, compress_statistics=bool(options))
        assert torch.equal(codes.ravel(), parts["weight"].ravel())
        if not options:
            assert torch.equal(own.absmax, parts["weight.absmax"])


def test_bitsandbytes_reads_int8(written):
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("bitsandbytes.functional")
    folder = written("bitsandbytes", "int8")
    tensors = checkpoints.read_folder(folder)
    values = checkpoints.read_weights(folder)
    for projection in PROJECTIONS:
        name = f"model.layers.2.{projection}"
        codes = torch_of(tensors[name + ".weight"])
        absmax = torch_of(tensors[name + ".SCB"])
        restored = functional.int8_vectorwise_dequant(codes, absmax)
        assert np.array_equal(restored.float().numpy(),
                              values[name + ".weight"][0])


@pytest.mark.parametrize("weights, options", [
    ("int4", []), ("int4", ["--zero-points"]), ("int8", []), ("fp8", [])])
def test_compressed_tensors_reads(written, weights, options):
    pytest.importorskip("torch")
    compressors = pytest.importorskip("compressed_tensors.compressors")
    from compressed_tensors.quantization import (
        QuantizationArgs, QuantizationScheme)

    folder = written("compressed-tensors", weights, *options)
    config = json.loads((folder / "config.json").read_text())
    section = config["quantization_config"]
    arguments = section["config_groups"]["group_0"]["weights"]
    scheme = QuantizationScheme(targets=["Linear"],
                                weights=QuantizationArgs(**arguments))
    compressor = {"int4": compressors.PackedQuantizationCompressor,
                  "int8": compressors.IntQuantizationCompressor,
                  "fp8": compressors.FloatQuantizationCompressor}[weights]
    tensors = checkpoints.read_folder(folder)
    values = checkpoints.read_weights(folder)
    for projection in PROJECTIONS:
        name = f"model.layers.2.{projection}"
        parts = {key[len(name) + 1:]: torch_of(each) for key, each in
                 tensors.items() if key.startswith(name + ".")}
        restored = compressor.decompress(parts, scheme)["weight"]
        assert np.array_equal(restored.float().numpy(),
                              values[name + ".weight"][0]), name


#
# Refusals
#


@pytest.mark.parametrize("form, weights, options, message", [
    ("onnx", None, [], "format must be gptq, awq"),
    ("gptq", "nf4", [], "gptq stores int4, got 'nf4'"),
    ("gptq", "int4", ["--group-size", "100"], "group size must divide"),
    ("awq", "int4", ["--method", "awq"], "needs statistics of a calibration"),
    ("gptq", "int4", ["--activations", "int8-dynamic"],
     "gptq with weights int4 can't say activations int8-dynamic"),
    ("compressed-tensors", "fp8", ["--activations", "bf16"],
     "with weights fp8 can't say activations bf16"),
])
def test_refused(model, tmp_path, form, weights, options, message):
    with pytest.raises(checkpoints.CheckpointError, match=message):
        writer.quantize(model, tmp_path / "out", form, weights, options)
    assert not list(tmp_path.iterdir())


# The python3 that has what these tests have.
PYTHON = str(Path(sys.executable).parent)


def quantize_by_command(*words, PATH=PYTHON + ":" + os.environ["PATH"]):
    return subprocess.run(
        [toolchain.BIN / "quantc", "quantize", *map(str, words)],
        capture_output=True, text=True, check=False,
        env={**os.environ, "PATH": PATH})  # fmt: skip


def test_the_command_writes_the_same(model, written, tmp_path):
    done = quantize_by_command(model, "-o", tmp_path / "out", "--format",
                               "awq", "--group-size", 64)
    assert done.returncode == 0
    # The compiler's line is of the package that codes are read from.
    assert done.stderr.splitlines()[-1] == (
        f"quantc quantize: wrote {tmp_path / 'out'}")
    folder = written("awq", "int4", "--group-size", "64")
    for path in folder.iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


def test_the_command_fails_as_quantc_does(model, tmp_path):
    """Its own message once, and its code."""
    words = [model, "-o", tmp_path / "out", "--format", "gptq"]
    done = quantize_by_command(*words, "--method", "none")
    assert done.returncode == 2
    assert done.stderr.startswith("quantc: error: --method has no value 'none'")
    assert done.stderr.count("\n") == 1
    done = quantize_by_command(*words, "--weights", "nf4")
    assert (done.returncode, done.stderr) == (
        1, "quantc quantize: error: gptq stores int4, got 'nf4'\n")
    done = quantize_by_command(*words, PATH=str(tmp_path))
    assert (done.returncode, done.stderr) == (
        1, "quantc quantize: error: needs python3 on PATH\n")
    assert not list(tmp_path.iterdir())


def test_the_command_needs_the_package(model, tmp_path):
    """A python3 that can't import it is told so."""
    python = tmp_path / "python3"
    python.write_text(f"#!/bin/sh\nexec {sys.executable} -S -I \"$@\"\n")
    python.chmod(0o755)
    done = quantize_by_command(model, "-o", tmp_path / "out", "--format",
                               "gptq", PATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith(
        "quantc quantize: error: needs a python3 with NumPy and the package "
        "qlm, got: No module named 'numpy'")


def test_a_folder_that_exists_is_kept(model, tmp_path):
    with pytest.raises(checkpoints.CheckpointError, match="exists"):
        writer.quantize(model, tmp_path, "gptq")


def test_rows_that_share_blocks_of_scales_are_refused():
    codes = np.zeros((8, 64), np.int16)
    doubled = (np.zeros((8, 1), np.uint8), np.float32(0),
               np.ones(1, np.float32))
    linear = packed.Linear(codes, np.zeros((8, 1), np.uint8), None, doubled)
    with pytest.raises(checkpoints.CheckpointError,
                       match="rows must begin with a block of 256 scales"):
        linear.cut(4, 8)

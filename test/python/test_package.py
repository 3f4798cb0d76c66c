# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""quantc's packages as other tools read them, and what it refuses."""

from __future__ import annotations

import json
import os
import pathlib
import re
import signal
import struct
import subprocess
import time

import numpy as np
import pytest

import random_llama

BUILD = pathlib.Path(os.environ.get("QLM_BUILD", "build/release")).resolve()
QUANTC = BUILD / "bin" / "quantc"
WEIGHT_TYPES = ("f32", "bf16", "f16", "int8", "int4")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with the random models that these tests compile."""
    folder = tmp_path_factory.mktemp("models")
    for spec in random_llama.SPECS:
        if spec.name in ("mha-f32", "tied", "three-shards", "group-128"):
            random_llama.write_model(spec, folder / spec.name)
    return folder


@pytest.fixture(scope="module")
def large_model(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder of 256 MB of zeros, which take no room on the disk."""
    folder = tmp_path_factory.mktemp("large")
    spec = random_llama.Spec("large", 0, hidden=1024, layers=8, heads=8,
                             kv_heads=8, ffn=4096, vocab=64, dtype="BF16")
    header, end = {}, 0
    for name, shape in random_llama.shapes_of(spec).items():
        begin, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape,
                        "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    (folder / "config.json").write_text(
        json.dumps(random_llama.config_of(spec)))
    return folder


def quantc(*arguments: object) -> subprocess.CompletedProcess:
    """Runs quantc without a terminal."""
    return subprocess.run([QUANTC, *map(str, arguments)], text=True,
                          stdin=subprocess.DEVNULL, capture_output=True,
                          timeout=120)


def refused(code: int, *arguments: object) -> str:
    """The one line that quantc refuses with."""
    done = quantc(*arguments)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("quantc: error: ")
    return lines[0][len("quantc: error: "):]


def checksum(data: bytes) -> str:
    """FNV-1a in four lanes, as qlm/Package/Format.h writes it."""
    mask = 2**64 - 1

    def mix(value: int) -> int:
        value = value * 0x100000001B3 & mask
        return value ^ (value >> 29)

    offset = 0xCBF29CE484222325
    lanes = [offset + i for i in range(4)]
    padded = data + bytes(-len(data) % 32)
    for index, (word,) in enumerate(struct.iter_unpack("<Q", padded)):
        lanes[index % 4] = mix(lanes[index % 4] ^ word)
    result = offset ^ len(data)
    for lane in lanes:
        result = mix(result ^ lane)
    return f"{result:016x}"


@pytest.mark.parametrize("weights", WEIGHT_TYPES)
def test_safetensors_reads_the_weights(models, tmp_path, weights):
    safetensors = pytest.importorskip("safetensors")
    done = quantc(models / "tied", "-o", tmp_path / "pkg", "--weights",
                  weights, "--group-size", 32)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "pkg/manifest.json").read_text())
    path = tmp_path / "pkg" / manifest["weights"]["file"]
    keys = {argument[1] for launch in manifest["launches"]
            for argument in launch["args"] if argument[0] == "weight"}
    with safetensors.safe_open(path, framework="numpy") as file:
        stored = set(file.keys())
    pads = {key for key in stored if key.startswith("__pad.")}
    assert stored - pads == keys
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + size])
    for key in keys:
        assert (8 + size + header[key]["data_offsets"][0]) % 64 == 0


def test_the_table_is_stored_as_it_was(models, tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    assert quantc(models / "mha-f32", "-o", tmp_path / "pkg").returncode == 0
    source = safetensors.load_file(models / "mha-f32/model.safetensors")
    packed = safetensors.load_file(tmp_path / "pkg/weights.safetensors")
    table = source["model.embed_tokens.weight"]
    np.testing.assert_array_equal(packed["embedding.weight"], table)
    # f32x16: value(16 b + r, k) at [b][k][r].
    head = packed["lm_head.weight"]
    rows = head.transpose(0, 2, 1).reshape(-1, head.shape[1])
    expected = source["lm_head.weight"]
    np.testing.assert_array_equal(rows[:len(expected)], expected)
    assert not rows[len(expected):].any()


def test_manifest(models, tmp_path):
    (models / "tied" / "tokenizer.json").write_text('{"a": 1}')
    done = quantc(models / "tied", "-o", tmp_path / "pkg", "--weights", "int4",
                  "--group-size", 32, "--zero-points", "--activations",
                  "int8-dynamic", "--target-cpu", "x86-64-v3", "--max-batch",
                  2, "--max-context", 48, "--max-step-tokens", 16,
                  "--kv-cache", "bf16", "--keep-lm-head")
    (models / "tied" / "tokenizer.json").unlink()
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"quantc: wrote \S+: weights [\d.]+ \wB, code [\d.]+ "
                        r"\wB, memory when running [\d.]+ \wB, [\d.]+ s\n",
                        done.stderr)
    package = tmp_path / "pkg"
    manifest = json.loads((package / "manifest.json").read_text())
    assert manifest["producer"].startswith("quantc ")
    assert manifest["quantization"]["weights"] == "int4-g32-zp"
    assert manifest["quantization"]["activations"] == "int8-dynamic"
    assert manifest["quantization"]["method"] == "rtn"
    assert manifest["model"]["parameters"] == 102784
    plan = manifest["plan"]
    assert (plan["max_batch"], plan["max_context"]) == (2, 48)
    assert plan["max_step_tokens"] == 16
    assert plan["kv"]["type"] == "bf16"
    assert "avx2" in manifest["target"]["features"]
    assert "avx512f" not in manifest["target"]["features"]
    weights = (package / "weights.safetensors").read_bytes()
    module = (package / "module.cpu.so").read_bytes()
    assert manifest["weights"]["bytes"] == len(weights)
    assert manifest["weights"]["checksum"] == checksum(weights)
    assert manifest["target"]["module_checksum"] == checksum(module)
    assert manifest["files"]["tokenizer.json"] == checksum(b'{"a": 1}')
    assert plan["peak_bytes"] == (
        len(weights) + len(module) + plan["arena_bytes"] +
        2 * plan["scratch_bytes"] + plan["kv"]["pool_bytes"] +
        plan["logits_bytes"])
    assert sorted(os.listdir(package)) == [
        "config.json", "manifest.json", "module.cpu.so", "tokenizer.json",
        "weights.safetensors"]


def test_threads_change_nothing(models, tmp_path):
    for threads in (1, 2):
        done = quantc(models / "group-128", "-o", tmp_path / f"pkg{threads}",
                      "--weights", "int4", "--threads", threads)
        assert done.returncode == 0, done.stderr
    for name in ("weights.safetensors", "module.cpu.so", "manifest.json"):
        assert ((tmp_path / "pkg1" / name).read_bytes() ==
                (tmp_path / "pkg2" / name).read_bytes())


def test_stages(models, tmp_path):
    dumps = tmp_path / "dumps"
    done = quantc(models / "three-shards", "-o", tmp_path / "pkg", "--quiet",
                  "--plain-ops", "--dump-stages", dumps)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(os.listdir(dumps)) == ["1-import.mlir", "2-optimize.mlir",
                                         "3-quantize.mlir", "4-lower.mlir"]
    # The same IR, on standard output and in a file.
    done = quantc(models / "three-shards", "--to", "import", "--plain-ops")
    assert done.returncode == 0, done.stderr
    assert done.stdout == (dumps / "1-import.mlir").read_text()
    assert "qlm.softmax" in done.stdout
    done = quantc(models / "three-shards", "--to", "optimize", "-o",
                  tmp_path / "o.mlir")
    assert done.returncode == 0, done.stderr
    assert "qlm.attention" in (tmp_path / "o.mlir").read_text()
    # quant-opt goes on from a dump and arrives at the same place.
    opt = subprocess.run(
        [BUILD / "bin/quant-opt", dumps / "1-import.mlir",
         "--qlm-pipeline=lower={max-step-tokens=512}",
         "--mlir-print-debuginfo"],
        text=True, capture_output=True, timeout=60)
    assert opt.returncode == 0, opt.stderr
    assert opt.stdout.strip() == (dumps / "4-lower.mlir").read_text().strip()


def compile_and_get_peak(model: pathlib.Path, package: pathlib.Path) -> int:
    """Compiles a model to int4; returns its peak of resident bytes."""
    with subprocess.Popen([QUANTC, model, "-o", package, "--weights", "int4",
                           "--group-size", "32", "--quiet"]) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss * 1024


def test_memory_does_not_grow_with_the_model(models, large_model, tmp_path):
    # How much of the compiler's own libraries is resident is the system's
    # affair: a small model's peak holds as much of them.
    small = compile_and_get_peak(models / "three-shards", tmp_path / "small")
    large = compile_and_get_peak(large_model, tmp_path / "large")
    assert large - small < 100e6


def test_interrupt_leaves_nothing(large_model, tmp_path):
    with subprocess.Popen([QUANTC, large_model, "-o", tmp_path / "pkg"],
                          stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not os.listdir(tmp_path):
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, messages = process.communicate(timeout=60)
    assert messages == "quantc: error: interrupted\n"
    assert process.returncode == 1
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("arguments, message", [
    (["--weights", "int4", "--method", "gptq"],
     "method=gptq needs statistics of a calibration"),
    (["--weights", "int8", "--activations", "int8-dynamic", "--granularity",
      "group", "--group-size", "32", "--outlier-threshold", "6"],
     "outlier-threshold needs weights of 8-bit codes by channel or tensor, "
     "got int8-g32"),
    (["--weights", "int8", "--outlier-threshold", "6"],
     "outlier-threshold needs activations=int8-dynamic, got none"),
    (["--weights", "int8", "--activations", "fp8-dynamic"],
     "activations=fp8-dynamic needs weights of f8E4M3FN, got int8"),
    (["--weights", "int4", "--group-size", "48"],
     "group size must divide the columns, got 48 and 64 in layers.0.qkv"),
    (["--max-context", "4096"],
     "max-context must not exceed the model's context length, got 4096 and "
     "128"),
    (["--page-tokens", "5"], "page-tokens must be a multiple of 16, got 5"),
    (["--activations", "int8-dynamic"],
     "activations=int8-dynamic needs weights of integer codes, got f32"),
])
def test_bad_input(models, tmp_path, arguments, message):
    line = refused(1, models / "tied", "-o", tmp_path / "pkg", *arguments)
    assert message in line
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("arguments, message", [
    (["--frobnicate"], "Unknown command line argument '--frobnicate'"),
    (["--weights", "int5"], "--weights has no value 'int5'"),
    (["--activations", "fp8"],
     "--activations has no value 'fp8' (supported: none, bf16, int8-dynamic, "
     "int8-static, fp8-dynamic)"),
    (["--to", "train"],
     "--to has no value 'train' (supported: import, optimize, quantize, "
     "lower, package)"),
    (["m", "-o", "p", "--group-size", "many"],
     "--group-size must be a positive number, got 'many'"),
    (["m", "-o", "p", "--max-batch", "0"],
     "--max-batch must be a positive number, got '0'"),
    (["m", "-o", "p", "--method", "llm.int8", "--weights", "int4"],
     "--method llm.int8 needs --weights int8, got int4"),
    (["m", "-o", "p", "--method", "llm.int8", "--activations", "bf16"],
     "--method llm.int8 needs --activations int8-dynamic, got bf16"),
    (["m", "-o", "p", "--method", "llm.int8", "--outlier-threshold", "0"],
     "--outlier-threshold must be a positive number, got '0'"),
    (["a", "b"], "Too many positional arguments"),
    (["a"], "an output is needed: quantc MODEL -o PKG"),
    ([], "a model's folder is needed: quantc MODEL -o PKG"),
])
def test_wrong_usage(arguments, message):
    assert message in refused(2, *arguments)


def test_output_paths(models, tmp_path):
    assert refused(1, models / "tied", "-o", tmp_path / "no/pkg") == (
        f"cannot write '{tmp_path}/no/pkg': No such file or directory")
    assert refused(1, models / "tied", "-o", models / "tied") == (
        f"'{models}/tied' exists and is not a package")
    assert refused(1, tmp_path / "none", "-o", tmp_path / "pkg")
    assert os.listdir(tmp_path) == []
    assert refused(1, models / "tied", "--to", "import", "-o",
                   tmp_path / "no/a.mlir").startswith(
                       f"cannot write '{tmp_path}/no/a.mlir': ")


def test_a_weight_that_is_not_finite(models, tmp_path):
    source = models / "mha-f32" / "model.safetensors"
    good = source.read_bytes()
    size = int.from_bytes(good[:8], "little")
    begin = json.loads(good[8:8 + size])[
        "model.layers.1.mlp.up_proj.weight"]["data_offsets"][0]
    at = 8 + size + begin + 4 * (3 * 64 + 5)
    source.write_bytes(good[:at] + struct.pack("<f", np.nan) + good[at + 4:])
    try:
        line = refused(1, models / "mha-f32", "-o", tmp_path / "pkg")
    finally:
        source.write_bytes(good)
    assert line == ("weight 'model.layers.1.mlp.up_proj.weight' must be "
                    "finite, got nan at [3, 5]")
    assert os.listdir(tmp_path) == []

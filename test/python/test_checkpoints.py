# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Other tools' checkpoints are restored bit for bit.

bitsandbytes and compressed-tensors write and dequantize here themselves, where
they are installed. GPTQ and AWQ files are packed by loops written from their
formats, since their tools need a GPU.
"""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest

checkpoints = pytest.importorskip("qlm.checkpoints")

KINDS = {"float32": "F32", "float16": "F16", "int32": "I32", "int64": "I64",
         "int8": "I8", "uint8": "U8"}


def save(folder, tensors: dict, quantization: dict) -> None:
    """Writes a checkpoint; values are arrays, or (type's name, array)."""
    folder.mkdir(exist_ok=True)
    header, blobs, offset = {}, [], 0
    for name, value in tensors.items():
        kind, array = value if isinstance(value, tuple) else (
            KINDS[str(value.dtype)], value)
        blob = np.ascontiguousarray(array).tobytes()
        header[name] = {"dtype": kind, "shape": list(array.shape),
                        "data_offsets": [offset, offset + len(blob)]}
        offset += len(blob)
        blobs.append(blob)
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(
        struct.pack("<Q", len(text)) + text + b"".join(blobs))
    (folder / "config.json").write_text(
        json.dumps({"model_type": "llama", "quantization_config": quantization}))


def from_torch(tensor):
    """A tensor as `save` takes it."""
    import torch

    kinds = {torch.bfloat16: "BF16", torch.float8_e4m3fn: "F8_E4M3"}
    if tensor.dtype in kinds:
        width = torch.int16 if tensor.dtype == torch.bfloat16 else torch.uint8
        return kinds[tensor.dtype], tensor.contiguous().view(width).numpy()
    return tensor.contiguous().numpy()


def pack_words(codes: np.ndarray, order=range(8)) -> np.ndarray:
    """Eight 4-bit codes of a row in a word, nibble i from column order[i]."""
    words = np.zeros((codes.shape[0], codes.shape[1] // 8), np.uint32)
    for column in range(words.shape[1]):
        for i, source in enumerate(order):
            words[:, column] |= codes[:, 8 * column + source].astype(
                np.uint32) << np.uint32(4 * i)
    return words.view(np.int32)


def gptq_case(version: str, act_order: bool):
    rng = np.random.default_rng(3)
    rows, columns, group = 24, 64, 16
    codes = rng.integers(0, 16, (columns, rows))
    zeros = rng.integers(1, 16, (columns // group, rows))
    scales = rng.uniform(0.001, 0.02, zeros.shape).astype(np.float16)
    index = np.arange(columns) // group
    if act_order:
        index = rng.permutation(index)
    stored = zeros - 1 if version == "gptq" else zeros
    tensors = {
        "a.qweight": pack_words(codes.T).T.copy(),
        "a.qzeros": pack_words(stored), "a.scales": scales,
        "a.g_idx": index.astype(np.int32),
        "norm.weight": np.ones(4, np.float16),
    }
    config = {"quant_method": "gptq", "bits": 4, "group_size": group,
              "checkpoint_format": version, "desc_act": act_order}
    # As the tool does it, in float16.
    expected = (scales[index] * (codes - zeros[index]).astype(np.float16)).T
    return tensors, config, expected


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("version", ["gptq", "gptq_v2"])
def test_gptq(tmp_path, version, act_order):
    tensors, config, expected = gptq_case(version, act_order)
    save(tmp_path / "in", tensors, config)
    weights = checkpoints.read_weights(tmp_path / "in")
    values, kind = weights["a.weight"]
    assert kind == "F16"
    assert np.array_equal(values, expected.astype(np.float32))
    assert weights["norm.weight"][0].tolist() == [1, 1, 1, 1]


def test_awq(tmp_path):
    rng = np.random.default_rng(4)
    rows, columns, group = 16, 96, 32
    codes = rng.integers(0, 16, (columns, rows))
    zeros = rng.integers(0, 16, (columns // group, rows))
    scales = rng.uniform(0.001, 0.02, zeros.shape).astype(np.float16)
    order = (0, 2, 4, 6, 1, 3, 5, 7)
    save(tmp_path / "in",
         {"a.qweight": pack_words(codes, order),
          "a.qzeros": pack_words(zeros, order), "a.scales": scales},
         {"quant_method": "awq", "bits": 4, "group_size": group,
          "version": "gemm", "zero_point": True})
    values, _ = checkpoints.read_weights(tmp_path / "in")["a.weight"]
    index = np.arange(columns) // group
    expected = ((codes - zeros[index]).astype(np.float16) * scales[index]).T
    assert np.array_equal(values, expected.astype(np.float32))


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_bitsandbytes_nf4(tmp_path, nested, dtype):
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("bitsandbytes.functional")
    torch.manual_seed(5)
    weight = torch.randn(48, 320).mul(0.02).to(getattr(torch, dtype))
    packed, state = functional.quantize_nf4(
        weight, blocksize=64, compress_statistics=nested)
    tensors = {"a.weight": packed.numpy()}
    for name, value in state.as_dict(packed=True).items():
        tensors[f"a.weight.{name}"] = from_torch(value)
    save(tmp_path / "in", tensors, {"quant_method": "bitsandbytes",
                                    "load_in_4bit": True})
    values, kind = checkpoints.read_weights(tmp_path / "in")["a.weight"]
    expected = functional.dequantize_4bit(packed, state)
    assert kind == {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}[dtype]
    assert np.array_equal(values, expected.float().numpy())


def test_bitsandbytes_int8(tmp_path):
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("bitsandbytes.functional")
    torch.manual_seed(6)
    codes, scales, _ = functional.int8_vectorwise_quant(torch.randn(24, 64).half())
    save(tmp_path / "in",
         {"a.weight": codes.numpy(), "a.SCB": scales.numpy()},
         {"quant_method": "bitsandbytes", "load_in_8bit": True})
    values, _ = checkpoints.read_weights(tmp_path / "in")["a.weight"]
    expected = functional.int8_vectorwise_dequant(codes, scales)
    assert np.array_equal(values, expected.float().numpy())


@pytest.mark.parametrize("kind, options", [
    ("pack", {"num_bits": 4, "strategy": "group", "group_size": 32}),
    ("pack", {"num_bits": 4, "strategy": "channel"}),
    ("pack", {"num_bits": 4, "strategy": "group", "group_size": 32,
              "symmetric": False}),
    ("pack", {"num_bits": 8, "strategy": "channel"}),
    ("int", {"num_bits": 8, "strategy": "channel"}),
    ("float", {"num_bits": 8, "strategy": "channel", "type": "float"}),
])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_compressed_tensors(tmp_path, kind, options, dtype):
    torch = pytest.importorskip("torch")
    compressors = pytest.importorskip("compressed_tensors.compressors")
    from compressed_tensors.quantization import (
        QuantizationArgs, QuantizationScheme)

    torch.manual_seed(7)
    weight = torch.randn(24, 96).mul(0.02).to(getattr(torch, dtype))
    arguments = QuantizationArgs(**options)
    scheme = QuantizationScheme(targets=["Linear"], weights=arguments)
    groups = 96 // options.get("group_size", 96)
    absmax = weight.reshape(24, groups, -1).abs().amax(-1).float()
    top = {"pack": 2 ** (options["num_bits"] - 1) - 0.5, "int": 127,
           "float": 448}[kind]
    state = {"weight": weight, "weight_scale": (absmax / top).to(weight.dtype)}
    if options.get("symmetric") is False:
        state["weight_zero_point"] = torch.randint(-3, 4, (24, groups)).to(
            torch.int8)
    compressor = {"pack": compressors.PackedQuantizationCompressor,
                  "int": compressors.IntQuantizationCompressor,
                  "float": compressors.FloatQuantizationCompressor}[kind]
    stored = compressor.compress(state, scheme)
    expected = compressor.decompress(stored, scheme)["weight"]
    save(tmp_path / "in",
         {f"a.{name}": from_torch(value) for name, value in stored.items()},
         {"quant_method": "compressed-tensors", "config_groups": {
             "group_0": {"weights": {"num_bits": options["num_bits"]}}}})
    values, _ = checkpoints.read_weights(tmp_path / "in")["a.weight"]
    assert np.array_equal(values, expected.float().numpy())


def test_restored_folder_has_the_values(tmp_path):
    tensors, config, expected = gptq_case("gptq", True)
    save(tmp_path / "in", tensors, config)
    (tmp_path / "in" / "tokenizer.json").write_text("{}")
    assert checkpoints.main([str(tmp_path / "in"), str(tmp_path / "out")]) == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["config.json", "model.safetensors", "tokenizer.json"]
    assert "quantization_config" not in (tmp_path / "out/config.json").read_text()
    read = checkpoints.read_folder(tmp_path / "out")
    assert read["a.weight"].kind == "F16"
    assert np.array_equal(read["a.weight"].array, expected)


def broken(change):
    tensors, config, _ = gptq_case("gptq", False)
    change(tensors, config)
    return tensors, config


@pytest.mark.parametrize("change, message", [
    (lambda t, c: c.update(bits=3), "a: bits must be 2, 4 or 8, got 3"),
    (lambda t, c: c.update(quant_method="x"), "quant_method must be gptq, awq"),
    (lambda t, c: t.pop("a.scales"), "a lacks 'scales'"),
    (lambda t, c: t.update({"a.g_idx": np.full(64, 9, np.int32)}),
     "a: groups must be from 0 to 3, got 9 to 9"),
    (lambda t, c: t.update({"a.g_idx": np.zeros(3, np.int32)}),
     r"a: g_idx must be \(64,\), got \(3,\)"),
    (lambda t, c: t.update({"a.scales": np.ones((4, 23), np.float16)}),
     r"a: codes must be \(64, 23\), got \(64, 24\)"),
])
def test_contradictions_are_refused(tmp_path, change, message):
    save(tmp_path / "in", *broken(change))
    with pytest.raises(checkpoints.CheckpointError, match=message):
        checkpoints.restore(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damaged_files_are_refused(tmp_path):
    save(tmp_path / "in", *broken(lambda t, c: None))
    path = tmp_path / "in" / "model.safetensors"
    data = path.read_bytes()
    for damaged, message in [
        (data[:4], "too short"),
        (struct.pack("<Q", 1 << 60) + data[8:], "header's size"),
        (data[:-300], "bytes in the file"),
    ]:
        path.write_bytes(damaged)
        with pytest.raises(checkpoints.CheckpointError, match=message):
            checkpoints.read_weights(tmp_path / "in")


#
# Codes that are kept
#


def llama_case(packages, tmp_path, form: str, weights: str, *options: str):
    """A checkpoint of the tiny LLaMA, restored, and a package of its codes."""
    import toolchain
    from qlm import kept
    from qlm import quantize as writer

    model = packages.model("tiny-llama")
    folder = writer.quantize(model, tmp_path / "in", form, weights,
                             list(options))
    assert checkpoints.main([str(folder), str(tmp_path / "out")]) == 0
    _, words = kept.find_known_scales(folder)
    toolchain.succeed("quantc", tmp_path / "out", "-o", tmp_path / "pkg",
                      *words, "--statistics", tmp_path / "out" / kept.KEPT_FILE)
    return folder, tmp_path / "pkg"


@pytest.mark.parametrize("form, weights, options", [
    ("gptq", "int4", []), ("gptq", "int4", ["--zero-points"]),
    ("awq", "int4", ["--group-size", "64"]),
    ("compressed-tensors", "int4", ["--zero-points"]),
    ("compressed-tensors", "int8", []), ("compressed-tensors", "fp8", []),
    ("bitsandbytes", "int8", []),
])
def test_codes_are_kept(packages, tmp_path, form, weights, options):
    from qlm import packed

    folder, package = llama_case(packages, tmp_path, form, weights, *options)
    linears, _, _ = packed.read_linears(package)
    manifest = json.loads((package / "manifest.json").read_text())
    assert manifest["quantization"]["method"] == "keep"
    values = checkpoints.read_weights(folder)
    for name, linear in linears.items():
        codes, scales = linear.codes.astype(np.float32), linear.scales
        if weights == "fp8":
            codes = checkpoints.Tensor(
                "F8_E4M3", linear.codes.astype(np.uint8)).floats()
        if linear.zero_points is not None:
            codes = codes - np.repeat(
                linear.zero_points,
                codes.shape[1] // scales.shape[1], axis=1)
        wide = np.repeat(scales.astype(np.float32),
                         codes.shape[1] // scales.shape[1], axis=1)
        expected, kind = values[name + ".weight"]
        actual = codes * wide
        if kind == "F16":
            actual = actual.astype(np.float16).astype(np.float32)
        # bitsandbytes multiplies in another order.
        tolerance = 2e-7 if form == "bitsandbytes" else 0
        assert np.allclose(actual, expected, rtol=tolerance, atol=0), name


def damage(path, change) -> None:
    tensors = checkpoints.read_tensors(path)
    change(tensors)
    checkpoints.write_tensors(path, tensors)


def set_scale(tensors, value) -> None:
    name = "layers.0.qkv.scales"
    array = tensors[name].array.copy()
    array[3, 1] = value
    tensors[name] = checkpoints.Tensor("F32", array)


@pytest.mark.parametrize("change, message", [
    (lambda t: set_scale(t, 0.0),
     r"scale must not be 0 for weights that are not at \[3, 128\]"),
    (lambda t: set_scale(t, 1e-3 + 1e-9),
     r"scale must be a value of f16 at \[3, 128\]"),
    (lambda t: set_scale(t, 1.0),
     r"weight must be a multiple of its scale at \[3, 128\]"),
    (lambda t: t.pop("layers.0.qkv.scales"), "layers.0.qkv.scales"),
])
def test_scales_that_are_not_the_weights(packages, tmp_path, change, message):
    import re

    import toolchain
    from qlm import kept
    from qlm import quantize as writer

    folder = writer.quantize(packages.model("tiny-llama"), tmp_path / "in",
                             "gptq", "int4")
    out = checkpoints.restore(folder, tmp_path / "out")
    damage(out / kept.KEPT_FILE, change)
    _, words = kept.find_known_scales(folder)
    done = toolchain.run("quantc", out, "-o", tmp_path / "pkg", *words,
                         "--statistics", out / kept.KEPT_FILE)
    assert done.returncode == 1
    assert re.search(message, done.stderr)
    assert not (tmp_path / "pkg").exists()


def test_act_order_is_not_kept(tmp_path):
    from qlm import kept

    tensors, config, _ = gptq_case("gptq", True)
    tensors = {key.replace("a.", "model.layers.0.mlp.down_proj."): value
               for key, value in tensors.items()}
    save(tmp_path / "in", tensors, config)
    with pytest.raises(kept.NotOurs, match="not columns side by side"):
        kept.find_known_scales(tmp_path / "in")
    checkpoints.restore(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out" / kept.KEPT_FILE).exists()

# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Calibration sees what the model computes, and GPTQ is the paper's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy_reference as reference
import pytest
import toolchain
from numpy_reference import Scheme

HELDOUT = toolchain.make_references.TINY.parent / "heldout.txt"
GROUP = 32
OPTIONS = ["--weights", "int4", "--group-size", GROUP, "--max-context", 128,
           "--max-step-tokens", 128]
INT4 = Scheme(4, "group", GROUP, False, -8, 7, 7.5, "f16")


@pytest.fixture(scope="module")
def calibration(tmp_path_factory) -> Path:
    """Text to calibrate on; what is measured comes from elsewhere in it."""
    path = tmp_path_factory.mktemp("text") / "calibration.txt"
    path.write_text(HELDOUT.read_text()[-80_000:])
    return path


@pytest.fixture(scope="module")
def gptq(packages, calibration, tmp_path_factory):
    """A package rounded by GPTQ, and its statistics."""
    folder = tmp_path_factory.mktemp("gptq")
    toolchain.succeed(
        "quantc", packages.model("tiny-llama"), "-o", folder / "pkg", *OPTIONS,
        "--method", "gptq", "--calibration", calibration, "--statistics",
        folder / "statistics.safetensors", "--calibration-tokens", 16_384,
    )  # fmt: skip
    assert sorted(path.name for path in folder.iterdir()) == [
        "pkg", "statistics.safetensors"]
    statistics = toolchain.read_safetensors(folder / "statistics.safetensors")
    return folder / "pkg", statistics


def first_inputs(packages, calibration) -> np.ndarray:
    """What the first layer's qkv sees, in float64."""
    package = packages.compile("tiny-llama", *map(str, OPTIONS))
    text = calibration.read_text()
    import tokenizers

    model = packages.model("tiny-llama")
    encoder = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
    ids = encoder.encode(text).ids[:16_384]
    ids = ids[: len(ids) // 128 * 128]
    weights = toolchain.read_safetensors(model / "model.safetensors")
    x = weights["model.embed_tokens.weight"][ids].astype(np.float64)
    norm = weights["model.layers.0.input_layernorm.weight"].astype(np.float64)
    assert package.exists()
    return x / np.sqrt((x**2).mean(1, keepdims=True) + 1e-5) * norm


def test_statistics_equal_float64(packages, calibration, gptq):
    _, statistics = gptq
    x = first_inputs(packages, calibration)
    moments = statistics["layers.0.qkv.second_moments"]
    expected = x.T @ x / len(x)
    assert np.array_equal(moments, moments.T)
    assert toolchain.relative_error(moments, expected) < 1e-5
    absmax = np.abs(x).max(0)
    assert np.allclose(statistics["layers.0.qkv.absmax"], absmax, rtol=1e-5)
    assert np.allclose(statistics["layers.0.qkv.mean_magnitude"],
                       np.abs(x).mean(0), rtol=1e-5)
    low, high = statistics["layers.0.qkv.range"]
    assert np.isclose(low, x.min(), rtol=1e-5)
    assert np.isclose(high, x.max(), rtol=1e-5)
    assert statistics["layers.0.qkv.histogram"].sum() == x.size
    p999, p9999, entropy = statistics["layers.0.qkv.thresholds"]
    top = absmax.max()
    assert 0 < p999 <= p9999 <= top * 1.001
    part = (np.abs(x) <= p999).mean()
    assert abs(part - 0.999) < 0.002
    assert 0 < entropy <= top * 1.001
    labels = {key.rsplit(".", 1)[0] for key in statistics}
    assert labels == {"lm_head"} | {
        f"layers.{layer}.{part}" for layer in range(6)
        for part in ("qkv", "o", "gate_up", "down")}


def reference_gptq(weights: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """Algorithm 1 of arXiv 2210.17323 in float64; the rounded weights."""
    w, h = weights.astype(np.float64), moments.astype(np.float64)
    h = h + 0.01 * np.mean(np.diag(h)) * np.eye(len(h))
    upper = np.linalg.cholesky(np.linalg.inv(h)).T
    result = np.zeros_like(w)
    for k in range(w.shape[1]):
        if k % GROUP == 0:
            largest = np.abs(w[:, k : k + GROUP]).max(1).astype(np.float32)
            scale = np.float16(largest / np.float32(7.5)).astype(np.float64)
        codes = np.clip(np.rint(w[:, k] / scale), -8, 7)
        result[:, k] = codes * scale
        error = (w[:, k] - result[:, k]) / upper[k, k]
        w[:, k:] -= error[:, None] * upper[k, k:]
    return result


def unpack(tensors: dict, label: str, rows: int, columns: int) -> np.ndarray:
    """Dequantizes a packed int4 weight (layout i4x16x8)."""
    packed = tensors[label + ".weight"].reshape(-1, columns // 8, 16, 4)
    halves = np.stack([packed & 15, packed >> 4], axis=-2)
    codes = halves.transpose(0, 2, 1, 3, 4).reshape(-1, columns)[:rows]
    scales = tensors[label + ".scales"].reshape(-1, columns // GROUP, 16)
    scales = scales.transpose(0, 2, 1).reshape(-1, columns // GROUP)[:rows]
    return (codes.astype(np.float64) - 8) * np.repeat(
        scales.astype(np.float64), GROUP, axis=1)


def test_codes_equal_the_paper(packages, gptq):
    package, statistics = gptq
    source = toolchain.read_safetensors(
        packages.model("tiny-llama") / "model.safetensors")
    tensors = toolchain.read_safetensors(package / "weights.safetensors")
    w = source["model.layers.2.self_attn.o_proj.weight"]
    h = statistics["layers.2.o.second_moments"]
    expected = reference_gptq(w, h)
    actual = unpack(tensors, "layers.2.o", *w.shape)
    # A value between two codes may fall the other way in f32, and then moves
    # those after it in its row.
    rows = (np.abs(actual - expected) > 1e-6).any(1)
    assert rows.mean() < 0.1

    def loss(values):
        return np.trace((values - w) @ h @ (values - w).T)

    rounded = reference.dequantize(*reference.rtn(w, INT4), INT4)
    assert abs(loss(actual) / loss(expected) - 1) < 0.01
    assert loss(actual) < 0.8 * loss(rounded)
    manifest = json.loads((package / "manifest.json").read_text())
    assert manifest["quantization"]["method"] == "gptq"


def test_refinement_lowers_the_loss(packages, gptq, tmp_path):
    """Each code that is left is the nearest to the best, given all others,
    at the last column; and the loss is that of the same steps in float64."""
    package, statistics = gptq
    again = tmp_path / "again"
    saved = package.parent / "statistics.safetensors"
    toolchain.succeed("quantc", packages.model("tiny-llama"), "-o", again,
                      *OPTIONS, "--method", "gptq", "--statistics", saved,
                      "--refine", 2)
    source = toolchain.read_safetensors(
        packages.model("tiny-llama") / "model.safetensors")
    w = source["model.layers.2.self_attn.o_proj.weight"].astype(np.float64)
    h = statistics["layers.2.o.second_moments"].astype(np.float64)
    h = h + 0.01 * np.diag(h).mean() * np.eye(len(h))

    def loss(values):
        return np.einsum("nj,jk,nk->n", values - w, h, values - w)

    def stored(folder):
        tensors = toolchain.read_safetensors(folder / "weights.safetensors")
        return unpack(tensors, "layers.2.o", *w.shape)

    before, after = stored(package), stored(again)
    assert (loss(after) <= loss(before) * 1.0001).all()
    assert loss(after).sum() < 0.99 * loss(before).sum()
    expected = refined(w, h, before, GROUP)
    assert abs(loss(after).sum() / loss(expected).sum() - 1) < 0.01
    # No single code is better one step up or down, in the last column.
    scales = group_scales(after, GROUP)[:, -1]
    for step in (-1, 1):
        moved = after.copy()
        moved[:, -1] += step * scales
        assert (loss(moved) >= loss(after) * 0.9999).mean() > 0.99


def group_scales(values: np.ndarray, group: int) -> np.ndarray:
    """The least distance between values of each group: its scale, as long as
    two neighbouring codes are in use."""
    cells = np.sort(values.reshape(len(values), -1, group), axis=-1)
    gaps = np.diff(cells, axis=-1)
    return np.where(gaps > 1e-9, gaps, np.inf).min(-1)


def refined(w, h, values, group, times=2):
    """`--refine` in float64: scales by least squares, then codes in turn."""
    rows, columns = w.shape
    scales = group_scales(values, group)
    digits = np.rint(values.reshape(rows, -1, group) / scales[..., None])
    for _ in range(times):
        for row in range(rows):
            spread = np.zeros((columns, scales.shape[1]))
            for g in range(scales.shape[1]):
                spread[g * group:(g + 1) * group, g] = digits[row, g]
            system = spread.T @ h @ spread
            found = np.linalg.lstsq(system, spread.T @ h @ w[row], rcond=None)[0]
            found = found.astype(np.float16).astype(np.float64)
            good = np.where(found > 0, found, scales[row])
            old, new = (spread @ s - w[row] for s in (scales[row], good))
            if new @ h @ new < old @ h @ old:
                scales[row] = good
        wide = np.repeat(scales, group, axis=1)
        errors = digits.reshape(rows, columns) * wide - w
        gradient = errors @ h
        for k in range(columns):
            wanted = w[:, k] + errors[:, k] - gradient[:, k] / h[k, k]
            code = np.clip(np.rint(wanted / wide[:, k]), -8, 7)
            change = code * wide[:, k] - w[:, k] - errors[:, k]
            digits[:, k // group, k % group] = code
            errors[:, k] += change
            gradient += change[:, None] * h[k]
    return w + errors


def divergence(packages, package, tmp_path) -> float:
    text = tmp_path / "measured.txt"
    text.write_text(HELDOUT.read_text()[:12_000])
    exact = packages.compile("tiny-llama", "--max-context", "128")
    out = toolchain.succeed("quant-run", "eval", package, "--text", text,
                            "--reference", exact, "--window", 127, "--json")
    return json.loads(out)["kl"]


def test_gptq_is_nearer_than_rounding(packages, gptq, tmp_path):
    package, _ = gptq
    rounded = packages.compile("tiny-llama", *map(str, OPTIONS))
    assert (divergence(packages, package, tmp_path)
            < 0.92 * divergence(packages, rounded, tmp_path))


def test_passes_under_a_memory_limit_give_the_same(
        packages, calibration, gptq, tmp_path):
    whole = tmp_path / "a.safetensors"
    toolchain.succeed(
        "quantc", packages.model("tiny-llama"), "-o", tmp_path / "pkg",
        *OPTIONS, "--method", "gptq", "--calibration", calibration,
        "--statistics", whole, "--calibration-tokens", 16_384,
        "--memory-limit", 8,
    )  # fmt: skip
    parts = toolchain.read_safetensors(whole)
    for key, value in gptq[1].items():
        assert np.array_equal(parts[key], value), key
    # Statistics serve again without a calibration, with the same codes.
    toolchain.succeed("quantc", packages.model("tiny-llama"), "-o",
                      tmp_path / "again", *OPTIONS, "--method", "gptq",
                      "--statistics", whole)
    assert (tmp_path / "again/weights.safetensors").read_bytes() == (
        gptq[0] / "weights.safetensors").read_bytes()


@pytest.mark.parametrize("name, content, message", [
    ("a.txt", "too short",
     "calibration text must have at least one window of 128 tokens, got 5"),
    ("a.jsonl", '{"text": "x"}\n{"txt": 1}\n', "line 2 is not"),
])
def test_bad_text_writes_nothing(packages, tmp_path, name, content, message):
    text = tmp_path / name
    text.write_text(content)
    done = toolchain.run("quantc", packages.model("tiny-llama"), "-o",
                         tmp_path / "pkg", *OPTIONS, "--method", "gptq",
                         "--calibration", text)
    assert done.returncode == 1
    assert message in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_statistics_of_another_model_are_refused(packages, gptq, tmp_path):
    statistics = gptq[0].parent / "statistics.safetensors"
    done = toolchain.run("quantc", packages.model("group-128"), "-o",
                         tmp_path / "pkg", "--weights", "int4", "--method",
                         "gptq", "--statistics", statistics)
    assert done.returncode == 1
    assert "weight 'statistics.layers.0.down.second_moments' is" in done.stderr
    assert not (tmp_path / "pkg").exists()


def test_wide_inputs_are_told(packages, gptq, tmp_path):
    from qlm.checkpoints import Tensor, write_tensors

    statistics = dict(gptq[1])

    def ratio(label):
        return (statistics[label + ".absmax"].max()
                / statistics[label + ".mean_magnitude"].mean())

    labels = [name.removesuffix(".absmax") for name in statistics
              if name.endswith(".absmax")]
    assert ratio("layers.1.qkv") < 127
    # One column of the second layer's inputs is far larger than the others.
    statistics["layers.1.qkv.absmax"] = statistics["layers.1.qkv.absmax"].copy()
    statistics["layers.1.qkv.absmax"][7] = (
        600 * statistics["layers.1.qkv.mean_magnitude"].mean())
    path = tmp_path / "statistics"
    write_tensors(path, {n: Tensor("F32", a) for n, a in statistics.items()})
    wide = [label for label in labels if ratio(label) > 127]
    options = ["--weights", "int8", "--activations", "int8-static",
               "--statistics", path]
    model, out = packages.model("tiny-llama"), tmp_path / "out"
    told = toolchain.run("quantc", model, "-o", out, *options)
    assert told.returncode == 0, told.stderr
    others = len(wide) - 1
    words = (f" and {others} other linears reach 600 times (the first)"
             if others else " reach 600 times")
    assert f"warning: inputs of layers.1.qkv{words} their mean" in told.stderr
    assert "--smooth 0.8" in told.stderr
    for more in (["--smooth", "0.5"], ["--range", "percentile"]):
        quiet = toolchain.run("quantc", model, "-o", out, *options, *more)
        assert quiet.returncode == 0, quiet.stderr
        assert "warning" not in quiet.stderr


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="there is a GPU")
def test_a_missing_gpu_is_told(packages, calibration, tmp_path):
    told = toolchain.run(
        "quantc", packages.model("tiny-llama"), "-o", tmp_path / "out", *OPTIONS,
        "--method", "gptq", "--calibration", calibration, "--calibrate-on",
        "cuda",
    )  # fmt: skip
    assert told.returncode == 1
    assert "error: no CUDA driver: " in told.stderr
    assert not list(tmp_path.iterdir())

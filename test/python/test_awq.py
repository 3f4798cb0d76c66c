# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""AWQ, SmoothQuant and static activations against their papers' formulas.

The references are written out in float64 NumPy on inputs themselves, not on
their second moments.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import numpy_reference as reference
import pytest
import random_llama
import toolchain
from numpy_reference import Scheme

GROUP = 32
SYMMETRIC = Scheme(4, "group", GROUP, False, -8, 7, 7.5, "f16")
ZERO_POINTS = Scheme(4, "group", GROUP, True, 0, 15, 0, "f16")
HELDOUT = toolchain.make_references.TINY.parent / "heldout.txt"
INT4 = ["--weights", "int4", "--group-size", GROUP, "--max-context", 128,
        "--max-step-tokens", 128]
INT8 = ["--weights", "int8", "--max-context", 128, "--max-step-tokens", 128]


def rounded(weights: np.ndarray, scheme: Scheme) -> np.ndarray:
    return reference.dequantize(
        *reference.rtn(weights.astype(np.float32), scheme), scheme)


def numerics(mode: str, folder: Path, files: dict, *words) -> dict:
    """Run qlm-numerics; the names in `words` that `files` has become paths."""
    for name, array in files.items():
        np.ascontiguousarray(array, np.float32).tofile(folder / name)
    spelled = [str(folder / word) if word in files else str(word)
               for word in words]
    subprocess.run([toolchain.BIN / "qlm-numerics", mode, *spelled,
                    folder / "out"], check=True)
    return {path.suffix[1:]: path for path in folder.glob("out.*")}


def outlying(rng, tokens: int, columns: int) -> np.ndarray:
    """Inputs with a few columns far larger than the others."""
    x = rng.standard_normal((tokens, columns))
    x[:, rng.choice(columns, 4, replace=False)] *= 30
    return x


#
# The searches
#


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("rows, columns, shared, head", [
    (1, 32, 1, 1), (24, 96, 1, 1), (17, 128, 2, 16)])
def test_awq_search(tmp_path, zero, rows, columns, shared, head):
    rng = np.random.default_rng(7)
    scheme = ZERO_POINTS if zero else SYMMETRIC
    x = outlying(rng, 300, columns)
    w = rng.standard_normal((rows, columns)).astype(np.float32)
    moments, mean = x.T @ x / len(x), np.abs(x).mean(0)
    out = numerics("awq", tmp_path, {"w": w, "m": mean, "h": moments},
                   "w", rows, columns, "m", "h", GROUP, int(zero), shared, head)
    # Columns whose scales are shared have the mean of their magnitudes.
    grouped = mean.reshape(-1, shared, head).mean(1)
    parts = np.abs(w).reshape(rows, -1, GROUP)
    parts = parts / (parts.max(2, keepdims=True) + 1e-6)
    relative = parts.reshape(w.shape).astype(np.float64).mean(0)
    relative = relative.reshape(-1, shared, head).mean(1)
    losses, scales = [], []
    for step in range(40):
        a = step % 20 / 20
        s = grouped**a
        if step >= 20:
            s = s / (relative ** (1 - a) + 1e-4)
        s = np.maximum(s, 1e-4)
        s /= np.sqrt(s.max() * s.min())
        wide = np.repeat(s[:, None], shared, axis=1).ravel()
        restored = rounded(w * wide.astype(np.float32), scheme) / wide
        losses.append((((restored - w) @ x.T) ** 2).mean(1).sum())
        scales.append(s.ravel())
    found = np.fromfile(out["losses"], np.float64)
    assert np.allclose(found, losses, rtol=2e-3)
    best = int(np.argmin(found))
    assert np.allclose(np.fromfile(out["scales"], np.float32), scales[best],
                       rtol=1e-5)
    if rows > 1:
        assert losses[best] < 0.6 * losses[0]


@pytest.mark.parametrize("zero", [False, True])
def test_awq_clipping(tmp_path, zero):
    rng = np.random.default_rng(9)
    scheme = ZERO_POINTS if zero else SYMMETRIC
    x = outlying(rng, 300, 64)
    w = rng.standard_t(2, (12, 64)).astype(np.float32)
    w[3, :32] = 0
    out = numerics("awq", tmp_path, {"w": w, "m": np.abs(x).mean(0),
                                     "h": x.T @ x / len(x)},
                   "w", 12, 64, "m", "h", GROUP, int(zero), 1, 1)
    clipped = np.fromfile(out["clipped"], np.float32).reshape(w.shape)
    shrunk = 0
    for row in range(12):
        for first in (0, 32):
            part, seen = w[row, first:first + 32], x[:, first:first + 32]
            top = np.abs(part).max()
            losses = []
            for step in range(10):
                limit = top * np.float32(1 - step / 20)
                tried = rounded(np.clip(part, -limit, limit)[None], scheme)[0]
                losses.append((((tried - part) @ seen.T) ** 2).mean())
            kept = np.abs(clipped[row, first:first + 32]).max()
            chosen = 0 if top == 0 else round((1 - kept / top) * 20)
            assert losses[chosen] <= min(losses) * 1.001
            assert np.allclose(clipped[row, first:first + 32],
                               np.clip(part, -kept, kept), rtol=1e-6)
            shrunk += chosen > 0
    assert shrunk > 4


@pytest.mark.parametrize("alpha", [0, 0.5, 0.8, 1])
@pytest.mark.parametrize("shared, head", [(1, 1), (2, 4)])
def test_smooth_scales(tmp_path, alpha, shared, head):
    rng = np.random.default_rng(3)
    a = np.abs(rng.standard_normal(16)).astype(np.float32)
    w = np.abs(rng.standard_normal(16)).astype(np.float32)
    a[5], w[2] = 0, 0
    out = numerics("smooth", tmp_path, {"a": a, "w": w}, "a", "w", 16, alpha,
                   shared, head)
    inputs = a.reshape(-1, shared, head).max(1).ravel().astype(np.float64)
    weights = w.reshape(-1, shared, head).max(1).ravel().astype(np.float64)
    s = inputs**alpha / np.maximum(weights, 1e-5) ** (1 - alpha)
    expected = np.where(inputs == 0, 1, np.maximum(s, 1e-5))
    assert np.allclose(np.fromfile(out["scales"], np.float32), expected,
                       rtol=1e-6)


#
# Whole models
#


@pytest.fixture(scope="module")
def statistics(packages, tmp_path_factory) -> Path:
    """Statistics of a text; what is measured comes from elsewhere in it."""
    folder = tmp_path_factory.mktemp("awq")
    text = folder / "calibration.txt"
    text.write_text(HELDOUT.read_text()[-80_000:])
    toolchain.succeed(
        "quantc", packages.model("tiny-llama"), "-o", folder / "pkg", *INT4,
        "--method", "awq", "--calibration", text, "--statistics",
        folder / "s.safetensors", "--calibration-tokens", 16_384)  # fmt: skip
    return folder / "s.safetensors"


@pytest.fixture(scope="module")
def divergence(packages, statistics, tmp_path_factory):
    """KL of a package with some options, against float32."""
    folder = tmp_path_factory.mktemp("kl")
    text = folder / "measured.txt"
    text.write_text(HELDOUT.read_text()[:12_000])
    exact = packages.compile("tiny-llama", "--max-context", "128")

    def measure(*options) -> float:
        package = folder / "pkg"
        toolchain.succeed("quantc", packages.model("tiny-llama"), "-o", package,
                          "--statistics", statistics, *options)
        out = toolchain.succeed(
            "quant-run", "eval", package, "--text", text, "--reference", exact,
            "--window", 127, "--json")  # fmt: skip
        return json.loads(out)["kl"]

    return measure


def test_migration_alone_changes_nothing(divergence):
    """Scales fold into norms, up and value projections: f32 stays f32."""
    base = ["--max-context", 128, "--max-step-tokens", 128]
    assert divergence(*base, "--smooth", 0.5) < 1e-7


def test_awq_is_nearer_than_rounding(packages, statistics, divergence):
    plain = divergence(*INT4)
    awq = divergence(*INT4, "--method", "awq")
    both = divergence(*INT4, "--method", "awq-gptq", "--search-scales")
    assert awq < 0.93 * plain
    assert both < 0.9 * awq
    manifest = statistics.parent / "pkg" / "manifest.json"
    assert json.loads(manifest.read_text())["quantization"]["method"] == "awq"


def test_static_activations(divergence):
    dynamic = divergence(*INT8, "--activations", "int8-dynamic")
    static = divergence(*INT8, "--activations", "int8-static")
    assert dynamic < static < 0.05


@pytest.fixture(scope="module")
def spread_model(tmp_path_factory):
    """The tiny model, computing the same with outliers in normed channels."""
    tiny = toolchain.make_references.TINY
    folder = tmp_path_factory.mktemp("spread") / "model"
    shutil.copytree(tiny, folder)
    tensors = toolchain.read_safetensors(tiny / "model.safetensors")
    readers = {"input_layernorm": [f"self_attn.{p}_proj" for p in "qkv"],
               "post_attention_layernorm": ["mlp.gate_proj", "mlp.up_proj"]}
    channels = [3, 77, 200]
    for name in [key for key in tensors if key.split(".")[-2] in readers]:
        prefix, norm = name.split(".")[:-2], name.split(".")[-2]
        tensors[name] = tensors[name].copy()
        tensors[name][channels] *= 64
        for reader in readers[norm]:
            key = ".".join([*prefix, reader, "weight"])
            tensors[key] = tensors[key].copy()
            tensors[key][:, channels] /= 64
    random_llama.write_safetensors(folder / "model.safetensors", tensors,
                                   "BF16")
    return folder


def test_smoothing_bears_outliers(spread_model, packages, tmp_path):
    """Outliers ruin one static scale of all channels; migration helps."""
    text, measured = tmp_path / "text.txt", tmp_path / "measured.txt"
    text.write_text(HELDOUT.read_text()[-40_000:])
    measured.write_text(HELDOUT.read_text()[:6_000])
    exact = packages.compile("tiny-llama", "--max-context", "128")
    statistics = ["--statistics", tmp_path / "s.safetensors"]

    def measure(name: str, *options) -> float:
        toolchain.succeed(
            "quantc", spread_model, "-o", tmp_path / name, *INT8, *statistics,
            "--activations", "int8-static", *options)  # fmt: skip
        return json.loads(toolchain.succeed(
            "quant-run", "eval", tmp_path / name, "--text", measured,
            "--reference", exact, "--window", 127, "--json"))["kl"]  # fmt: skip

    plain = measure("plain", "--calibration", text, "--calibration-tokens",
                    8192)
    assert measure("smooth", "--smooth", 0.5) < 0.2 * plain


@pytest.mark.parametrize("range", ["average", "percentile", "entropy"])
def test_static_ranges(packages, statistics, tmp_path, range):
    """The package's scale is the statistic's."""
    toolchain.succeed(
        "quantc", packages.model("tiny-llama"), "-o", tmp_path / "pkg", *INT8,
        "--statistics", statistics, "--activations", "int8-static", "--range",
        range)  # fmt: skip
    seen = toolchain.read_safetensors(statistics)
    tensors = toolchain.read_safetensors(tmp_path / "pkg/weights.safetensors")
    for label in ("layers.0.qkv", "layers.5.down"):
        expected = {"average": np.abs(seen[label + ".average_range"]).max(),
                    "percentile": seen[label + ".thresholds"][1],
                    "entropy": seen[label + ".thresholds"][2]}[range]
        scale = tensors[label + ".input_scale"]
        assert scale.shape == (1,)
        assert np.isclose(scale[0], expected / 127, rtol=1e-6)


@pytest.mark.parametrize("options, code, message", [
    (["--method", "awq"], 1, "needs statistics of a calibration"),
    (["--smooth", "2"], 2, "--smooth must be a number from 0 to 1, got '2'"),
    (["--smooth", "0.5", "--method", "awq"], 2,
     "--smooth does not go with --method awq"),
    (["--activations", "int8-static"], 1, "needs statistics of a calibration"),
    (["--range", "best"], 2, "--range has no value 'best'"),
])
def test_refused_options(packages, tmp_path, options, code, message):
    done = toolchain.run("quantc", packages.model("tiny-llama"), "-o",
                         tmp_path / "pkg", *INT4, *options)
    assert done.returncode == code
    assert message in done.stderr
    assert not list(tmp_path.iterdir())


def test_ranges_of_migrated_inputs_are_refused(packages, statistics, tmp_path):
    done = toolchain.run(
        "quantc", packages.model("tiny-llama"), "-o", tmp_path / "pkg", *INT8,
        "--statistics", statistics, "--activations", "int8-static", "--smooth",
        "0.5", "--range", "entropy")  # fmt: skip
    assert done.returncode == 1
    assert "range=entropy needs inputs as calibration saw them" in done.stderr
    assert not list(tmp_path.iterdir())


#
# AutoAWQ itself
#


@pytest.fixture(scope="module")
def autoawq():
    """AutoAWQ's quantizer, whose searches run on the CPU.

    Its package imports every model it knows; the quantizer alone is loaded.
    """
    import importlib
    import importlib.util
    import sys
    import types

    torch = pytest.importorskip("torch")
    found = importlib.util.find_spec("awq")
    if found is None or not found.submodule_search_locations:
        pytest.skip("autoawq is not installed")
    package = types.ModuleType("awq")
    package.__path__ = list(found.submodule_search_locations)
    sys.modules["awq"] = package
    if importlib.util.find_spec("datasets") is None:
        sys.modules["datasets"] = types.ModuleType("datasets")
        sys.modules["datasets"].load_dataset = None
    try:
        quantizer = importlib.import_module("awq.quantize.quantizer")
    except ImportError as error:
        pytest.skip(f"autoawq does not load: {error}")
    return torch, quantizer.AwqQuantizer


@pytest.mark.parametrize("duo", [False, True])
def test_awq_equals_autoawq(autoawq, tmp_path, duo):
    """The scales and limits that AutoAWQ finds lose no less than ours."""
    torch, quantizer = autoawq
    rng = np.random.default_rng(21)
    rows, columns = 64, 128
    x = outlying(rng, 500, columns).astype(np.float32)
    w = rng.standard_t(3, (rows, columns)).astype(np.float32)
    linear = torch.nn.Linear(columns, rows, bias=False)
    linear.weight.data = torch.from_numpy(w.copy())

    theirs = object.__new__(quantizer)
    theirs.group_size, theirs.w_bit, theirs.zero_point = GROUP, 4, True
    theirs.duo_scaling, theirs.max_chunk_memory = duo, 1 << 30
    inputs = torch.from_numpy(x)
    scale = torch.from_numpy(w).abs().view(-1, GROUP)
    scale = (scale / (scale.amax(1, keepdim=True) + 1e-6)).view(w.shape)
    with torch.no_grad():
        best = theirs._compute_best_scale(
            inputs, scale.mean(0), inputs.abs().mean(0), linear, [linear],
            inputs @ torch.from_numpy(w).T).numpy()
        scaled = torch.from_numpy(w * best)
        limit = theirs._compute_best_clip(
            scaled, inputs / torch.from_numpy(best), n_sample_token=500)
    limits = np.repeat(limit.numpy()[:, :, 0], GROUP, axis=1)
    reference_weight = rounded(np.clip(w * best, -limits, limits),
                               ZERO_POINTS) / best

    moments = x.T.astype(np.float64) @ x / len(x)
    out = numerics("awq", tmp_path, {"w": w, "m": np.abs(x).mean(0),
                                     "h": moments},
                   "w", rows, columns, "m", "h", GROUP, 1, 1, 1)
    ours = np.fromfile(out["scales"], np.float32)
    if not duo:
        plain = np.fromfile(out["losses"], np.float64)[:20]
        assert np.argmin(plain) == np.argmin([
            ((rounded(w * s, ZERO_POINTS) / s - w) @ x.T).__pow__(2).sum()
            for s in candidates(x)])
    h = moments / np.outer(ours, ours)
    clipped = np.fromfile(numerics(
        "awq", tmp_path, {"w": w * ours, "m": np.abs(x).mean(0), "h": h},
        "w", rows, columns, "m", "h", GROUP, 1, 1, 1)["clipped"], np.float32)
    weight = rounded(clipped.reshape(w.shape), ZERO_POINTS) / ours

    def loss(values):
        return (((values - w) @ x.T) ** 2).mean()

    assert loss(weight) < 1.01 * loss(reference_weight)
    assert loss(weight) < 0.7 * loss(rounded(w, ZERO_POINTS))


def candidates(x):
    """The scales of the paper's equation 5, in the order tried."""
    for step in range(20):
        s = np.maximum(np.abs(x).mean(0) ** (step / 20), 1e-4)
        yield (s / np.sqrt(s.max() * s.min())).astype(np.float32)

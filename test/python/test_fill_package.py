# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""A package that left its weights behind runs on random ones."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import toolchain

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "model" / "fill_package.py"


def run(*arguments):
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments], text=True, capture_output=True
    )


@pytest.mark.parametrize(
    "options",
    [
        ["--weights=int4", "--group-size=32", "--zero-points"],
        ["--weights=bf16", "--kv-cache=bf16"],
        ["--weights=nf4", "--group-size=32", "--double-quant"],
        ["--weights=fp8", "--activations=fp8-dynamic"],
    ],
    ids=["int4", "bf16", "nf4-double", "fp8"],
)
def test_stripped_package_is_filled_and_runs(packages, tmp_path, options):
    package = packages.compile("mlp-bias", *options)
    skeleton = tmp_path / "skeleton"
    assert run("strip", package, skeleton).returncode == 0
    assert not (skeleton / "weights.safetensors").exists()
    assert run("fill", skeleton).returncode == 0
    true, random = (
        toolchain.read_safetensors(folder / "weights.safetensors")
        for folder in (package, skeleton)
    )
    assert true.keys() == random.keys()
    for key, values in true.items():
        assert values.shape == random[key].shape
        assert values.dtype == random[key].dtype
        assert np.isfinite(random[key].astype(np.float64)).all(), key
        if "norm" in key:
            assert (random[key] == 1).all()
        if key.endswith("zero_points"):
            assert random[key].max() < 16
    result = json.loads(
        toolchain.succeed(
            "quant-run", "bench", skeleton, "--no-verify", "--json",
            "--prompt-tokens=4", "--new-tokens=2",
        )  # fmt: skip
    )
    assert result["tg_tps"] > 0


def test_a_table_of_another_package_is_refused(packages, tmp_path):
    skeletons = []
    for options in (["--weights=bf16"], ["--weights=f32"]):
        package = packages.compile("mlp-bias", *options)
        skeletons.append(tmp_path / options[0])
        assert run("strip", package, skeletons[-1]).returncode == 0
    table = (skeletons[1] / "weights.table").read_bytes()
    (skeletons[0] / "weights.table").write_bytes(table)
    result = run("fill", skeletons[0])
    assert result.returncode == 1
    assert "the manifest wants" in result.stderr


def test_what_is_no_package_is_refused(tmp_path):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "weights.safetensors").write_bytes(b"\xff" * 9)
    result = run("strip", tmp_path / "package", tmp_path / "skeleton")
    assert result.returncode == 1
    assert "is shorter than its header" in result.stderr

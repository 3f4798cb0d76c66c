# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""What `make gpu-test` compares kernels with, as far as no GPU is needed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import toolchain
from test_cuda_package import has_ptxas

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "scripts"), str(ROOT / "benchmarks" / "model")]
import gpu_launches  # noqa: E402
import shapes_model  # noqa: E402

ASKED = np.dtype([("temperature", "f4"), ("top_p", "f4"), ("min_p", "f4"),
                  ("top_k", "i4"), ("uniform", "f8"), ("unused", "u8")])


@pytest.mark.skipif(not has_ptxas(), reason="there is no ptxas")
@pytest.mark.parametrize("options, columns, bound", [
    (("cuda:sm_80,sm_89,sm_90a", "--weights", "int4", "--group-size", "32",
      "--kv-cache", "fp8"), 32, 1 / 15),
    (("cuda", "--weights", "bf16", "--kv-cache", "bf16"), 32, 0),
    # The widest gap of the table is 0.3 of a group's largest value; scales
    # are codes.
    (("cuda", "--weights", "nf4", "--group-size", "32", "--double-quant"), 32,
     0.18),
    (("cuda", "--weights", "fp8"), 256, 16 / 448),
    (("cuda", "--weights", "int8", "--activations", "int8-dynamic"), 256,
     1 / 254),
    (("cuda", "--weights", "fp8", "--activations", "fp8-dynamic"), 256,
     16 / 448),
])
def test_unpacks_what_quantc_packed(packages: toolchain.Packages, options,
                                    columns: int, bound: float) -> None:
    package = packages.compile("tiny-llama", "--target", *options)
    manifest = json.loads((package / "manifest.json").read_text())
    weights = gpu_launches.Weights(package / "weights.safetensors",
                                   manifest["quantization"])
    table = gpu_launches.Weights(
        ROOT / "models" / "tiny-llama" / "model.safetensors",
        {"scheme": "", "weights": "bf16", "activations": "none"})
    stem = "model.layers.3.self_attn."
    want = np.concatenate([table.plain(f"{stem}{part}_proj.weight")
                           for part in "qkv"])
    got = weights.matrix("layers.3.qkv.weight", *want.shape)
    # A code is at most half a step from its value; a step is `bound` of the
    # range of what shares a scale, which is an f16.
    span = 2 * np.abs(want.reshape(len(want), -1, columns)).max(2)
    most = np.repeat(span * bound * 0.51, columns, axis=1)
    assert (np.abs(got - want) <= most).all()


def asked(**options):
    request = np.zeros(1, ASKED)[0]
    request["top_p"] = 1
    for key, value in options.items():
        request[key] = value
    return request


def test_draws_walk_the_kept_tokens_by_id() -> None:
    logits = np.log(np.array([0.1, 0.4, 0.2, 0.3]))
    miss = gpu_launches.miss
    assert miss(logits, asked(), 1) == 0 and miss(logits, asked(), 3) > 1
    assert miss(logits, asked(temperature=1, uniform=0.05), 0) == 0
    assert miss(logits, asked(temperature=1, uniform=0.15), 0) == (
        pytest.approx(0.05))
    # 1 and 3 are kept: 4/7 and 3/7.
    assert miss(logits, asked(temperature=1, top_k=2, uniform=0.6), 3) == 0
    assert miss(logits, asked(temperature=1, top_k=2, uniform=0.6), 2) > 1
    assert miss(logits, asked(temperature=1, top_p=0.65, uniform=0.5), 1) == 0
    assert miss(logits, asked(temperature=1, min_p=0.7, uniform=0.9), 2) > 1


def test_steps_fit_the_plan() -> None:
    plan = {"max_step_tokens": 20, "max_context": 64, "max_batch": 3}
    for parts in gpu_launches.steps_of(plan):
        assert sum(rows for _, _, rows in parts) <= 20
        assert all(first + rows <= 64 for _, first, rows in parts)


def test_makes_a_model_of_shapes_alone(tmp_path: Path) -> None:
    shapes_model.write("tinyllama-1.1b", tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    with open(file, "rb") as stream:
        table = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    numbers = sum(int(np.prod(entry["shape"])) for entry in table.values())
    assert numbers == 1_100_048_384  # what TinyLlama's card says: 1.1B
    assert file.stat().st_size > 2 * numbers
    assert file.stat().st_blocks * 512 < 1 << 20

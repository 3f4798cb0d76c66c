# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Imported and optimized models, run through their operations' definitions.

No kernel takes part: what differs from transformers here is a mistake of
Import or of an Optimize pass.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import random_llama
import toolchain

TOLERANCE = 1e-5
"""Relative error (norm) of logits in float32, as the packages promise."""

NAMES = [spec.name for spec in random_llama.SPECS]
FORMS = {
    "fused": ["--to=import"],
    "plain": ["--to=import", "--plain-ops"],
    "optimized": ["--to=optimize", "--plain-ops"],
}


def import_model(model: Path, ir: Path, *options: str) -> str:
    """Writes the IR of a folder to `ir`; returns its text."""
    toolchain.succeed("quantc", "--quiet", *options, model, "-o", ir)
    return ir.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "name,form",
    [(name, form) for name in NAMES for form in ("fused", "optimized")]
    + [(name, "plain") for name in ("mqa-f16", "rope-llama3-new", "head-dim-20")],
)
def test_definitions_equal_transformers(
    name: str, form: str, tmp_path: Path
) -> None:
    """The definitions of the IR compute transformers' logits."""
    random_llama.write_model(random_llama.find(name), tmp_path / "model")
    ir = tmp_path / "model.mlir"
    import_model(tmp_path / "model", ir, *FORMS[form])
    reference = toolchain.reference(name)
    tokens = reference["tokens"].astype("<i4")
    (tmp_path / "tokens").write_bytes(tokens.tobytes())
    positions = np.arange(len(tokens), dtype="<i4")
    (tmp_path / "positions").write_bytes(positions.tobytes())
    toolchain.succeed(
        "qlm-referee", ir, "--entry=forward", f"--tokens={len(tokens)}",
        "--input", tmp_path / "tokens", "--input", tmp_path / "positions",
        "--output", tmp_path / "logits",
    )  # fmt: skip
    logits = np.fromfile(tmp_path / "logits", "<f4")
    expected = reference["logits"]
    error = toolchain.relative_error(logits.reshape(expected.shape), expected)
    assert error < TOLERANCE


def test_optimize_leaves_no_plain_operation(tmp_path: Path) -> None:
    """Both spellings of attention give the same optimized IR."""
    spec = random_llama.find("attention-bias")
    random_llama.write_model(spec, tmp_path / "model")
    fused = import_model(
        tmp_path / "model", tmp_path / "fused.mlir", "--to=optimize"
    )
    plain = import_model(
        tmp_path / "model", tmp_path / "plain.mlir", "--to=optimize",
        "--plain-ops",
    )  # fmt: skip
    assert fused == plain
    left = re.findall(r"qlm\.(add|mul|silu|matmul|softmax|split_heads)\b", plain)
    assert not left
    # qkv, o, gate_up and down of each layer, and the head.
    assert len(re.findall(r"qlm\.linear\b", plain)) == 4 * spec.layers + 1


@pytest.mark.parametrize(
    "head_dim,theta,scaling",
    [
        (16, 10000.0, {}),
        (64, 10000.0, {}),
        (128, 1e6, {}),
        (96, 1234.5, {"type": "linear", "factor": 3.0}),
        (64, 5e5, random_llama.llama3(32.0)),
        (128, 5e5, {**random_llama.llama3(8.0),
                    "original_max_position_embeddings": 8192}),
    ],
)  # fmt: skip
def test_frequencies_equal_transformers(
    head_dim: int, theta: float, scaling: dict, tmp_path: Path
) -> None:
    """Live comparison, where transformers is installed; to the last bit but one."""
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from transformers.models.llama import modeling_llama

    spec = random_llama.Spec(
        "frequencies", 1, hidden=32, layers=1, heads=2, kv_heads=2, ffn=32,
        head_dim=head_dim, rope_theta=theta, rope_scaling=scaling,
    )  # fmt: skip
    random_llama.write_model(spec, tmp_path / "model")
    text = import_model(
        tmp_path / "model", tmp_path / "model.mlir", "--to=import"
    )
    values = re.search(r"dense<\[(.*?)\]> : tensor<\d+xf32>", text).group(1)
    actual = np.array([float(v) for v in values.split(", ")], np.float32)
    config = transformers.LlamaConfig.from_pretrained(tmp_path / "model")
    rotary = modeling_llama.LlamaRotaryEmbedding(config)
    expected = rotary.inv_freq.numpy()
    assert actual.shape == expected.shape
    np.testing.assert_array_max_ulp(actual, expected, maxulp=1)

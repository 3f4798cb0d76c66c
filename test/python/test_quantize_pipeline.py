# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Folding scales and packing keep what a quantized model computes."""

from __future__ import annotations

import pathlib
import subprocess

import numpy as np
import pytest

import referee

QUANT_OPT = referee.REFEREE.parent / "quant-opt"
TOKENS, HIDDEN, INNER = 5, 48, 34
# Sums run in another order: a few units in the last place of f32.
TOLERANCE = 2e-6


def dense(array: np.ndarray) -> str:
    """A constant with the bits of an f32 array."""
    shape = "x".join(map(str, array.shape))
    return f'dense<"0x{array.tobytes().hex().upper()}"> : tensor<{shape}xf32>'


def make_model(rng: np.random.Generator) -> str:
    """A norm, two linears with bias and residual, on constants."""
    def draw(*shape: int) -> str:
        return dense(rng.normal(0, 0.3, shape).astype(np.float32))

    x, y = f"tensor<{TOKENS}x{HIDDEN}xf32>", f"tensor<{TOKENS}x{INNER * 2}xf32>"
    z = f"tensor<{TOKENS}x{INNER}xf32>"
    return f"""
func.func @main(%x: {x}) -> {x} {{
  %norm = arith.constant {draw(HIDDEN)}
  %up = arith.constant {draw(INNER * 2, HIDDEN)}
  %upBias = arith.constant {draw(INNER * 2)}
  %down = arith.constant {draw(HIDDEN, INNER)}
  %n = qlm.rms_norm %x, %norm {{epsilon = 1.0e-5 : f32}} : {x}, tensor<{HIDDEN}xf32>
  %g = qlm.linear %n, %up bias %upBias : tensor<{INNER * 2}xf32> : {x}, tensor<{INNER * 2}x{HIDDEN}xf32> -> {y}
  %s = qlm.swiglu %g : {y} -> {z}
  %d = qlm.linear %s, %down residual %x : {x} : {z}, tensor<{HIDDEN}x{INNER}xf32> -> {x}
  %r = qlm.scale %d by 1.0 : {x}
  return %r : {x}
}}
"""


def transform(text: str, *arguments: str) -> str:
    """Runs quant-opt."""
    done = subprocess.run([QUANT_OPT, *arguments], input=text, text=True,
                          capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def evaluate(folder: pathlib.Path, text: str, x: np.ndarray) -> np.ndarray:
    """Runs `@main` by the operations' definitions."""
    (folder / "main.mlir").write_text(text)
    x.tofile(folder / "x")
    done = subprocess.run(
        [referee.REFEREE, folder / "main.mlir", f"--input={folder / 'x'}",
         f"--output={folder / 'y'}"], text=True, capture_output=True,
        timeout=60)
    assert done.returncode == 0, done.stderr
    return np.fromfile(folder / "y", np.float32).reshape(x.shape)


@pytest.mark.parametrize("activations", ["none", "int8-dynamic"])
@pytest.mark.parametrize("weights", ["weights=int8", "weights=int8 zero-points",
                                     "weights=int4 group-size=2",
                                     "weights=int4 group-size=2 zero-points"])
def test_folding_and_packing_keep_results(weights: str, activations: str,
                                          tmp_path: pathlib.Path) -> None:
    if not referee.REFEREE.exists() or not QUANT_OPT.exists():
        pytest.skip("qlm-referee or quant-opt is not built")
    rng = np.random.default_rng(3)
    model = make_model(rng)
    x = rng.normal(size=(TOKENS, HIDDEN)).astype(np.float32)
    rounded = transform(
        model, f"--qlm-quantize-weights={weights}",
        f"--qlm-quantize-activations=activations={activations}")
    packed = transform(
        model, f"--qlm-quantize-pipeline={weights} activations={activations}")
    assert "qlm.dequantize" in rounded and "qlm.dequantize" not in packed
    exact = evaluate(tmp_path, model, x)
    before = evaluate(tmp_path, rounded, x)
    after = evaluate(tmp_path, packed, x)
    # A code of the second linear's input may round the other way.
    steps = 0.02 if activations == "int8-dynamic" else TOLERANCE
    assert referee.relative_error(after, before) < steps
    bound = 0.2 if "int4" in weights else 0.02
    assert TOLERANCE < referee.relative_error(before, exact) < bound


@pytest.mark.parametrize("weights, bound", [("f32", TOLERANCE), ("f16", 1e-3),
                                            ("bf16", 8e-3)])
def test_float_weights_keep_results(weights: str, bound: float,
                                    tmp_path: pathlib.Path) -> None:
    if not referee.REFEREE.exists() or not QUANT_OPT.exists():
        pytest.skip("qlm-referee or quant-opt is not built")
    rng = np.random.default_rng(4)
    model = make_model(rng)
    x = rng.normal(size=(TOKENS, HIDDEN)).astype(np.float32)
    packed = transform(model, f"--qlm-quantize-pipeline=weights={weights}")
    assert "qlm.packed_linear" in packed
    error = referee.relative_error(evaluate(tmp_path, packed, x),
                                   evaluate(tmp_path, model, x))
    assert error < bound

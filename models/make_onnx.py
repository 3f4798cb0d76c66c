# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Writes small float models as ONNX files, with inputs, and compares results.

python models/make_onnx.py
python models/make_onnx.py --compare MODEL.onnx INPUTS.npz OUTPUTS.npz

The first writes mlp, cnn, encoder and decoder .onnx into the working folder;
of the first three MODEL.npz, inputs to run, and MODEL-seen.npz, more of them to
calibrate with. The decoder is models/tiny-llama as Optimum exports it, with its
cache as inputs. The second prints how far OUTPUTS are from what ONNX's own
evaluator computes in float32, as a part of the largest value.
"""

from __future__ import annotations

import argparse
import pathlib
import sys

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "test" / "python"))

import onnx_models  # noqa: E402
from onnx_decoders import Decoder  # noqa: E402


def make_inputs(name: str, rng: np.random.Generator, batch: int) -> dict:
    """Inputs of the model *name* by their names."""
    if name == "mlp":
        return {"x": onnx_models.random(rng, batch, 784)}
    if name == "cnn":
        return {"x": onnx_models.random(rng, batch, 3, 14, 14)}
    tokens = 12
    mask = np.arange(tokens) < rng.integers(4, tokens + 1, (batch, 1))
    return {"input_ids": rng.integers(0, 100, (batch, tokens)),
            "mask": mask.astype(np.int64)}  # fmt: skip


def write() -> None:
    makers = {
        "mlp": onnx_models.make_mlp,
        "cnn": onnx_models.make_cnn,
        "encoder": onnx_models.make_encoder,
    }
    for name, make in makers.items():
        rng = np.random.default_rng(0)
        onnx.save(make(rng), f"{name}.onnx")
        np.savez(f"{name}.npz", **make_inputs(name, rng, 3))
        np.savez(f"{name}-seen.npz", **make_inputs(name, rng, 100))
    decoder = Decoder(ROOT / "models" / "tiny-llama", cached=True)
    onnx.save(decoder.build(), "decoder.onnx")


def compare(model: str, inputs: str, outputs: str) -> None:
    with np.load(inputs) as given, np.load(outputs) as got:
        evaluator = ReferenceEvaluator(model)
        expected = dict(zip(evaluator.output_names, evaluator.run(None, dict(given))))
        for name, array in got.items():
            error = np.abs(array - expected[name]).max() / np.abs(expected[name]).max()
            print(f"{name}: {error:.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compare", nargs=3, metavar=("MODEL", "INPUTS", "OUTPUTS"))
    arguments = parser.parse_args()
    if arguments.compare:
        compare(*arguments.compare)
    else:
        write()


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Times the import of a 1.1B decoder in an ONNX file, and what memory it takes.

The graph is spelled as exporters do, with its cache as inputs; its weights are
4.4 GB of external data, a sparse file, for no import may read them. Prints a
line for each stage: seconds and the largest resident memory, of some runs.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "test" / "python"))

import onnx  # noqa: E402
from onnx_decoders import Decoder  # noqa: E402

# TinyLlama 1.1B's sizes.
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "bos_token_id": 1, "eos_token_id": 2,
    "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 5632,
    "max_position_embeddings": 2048, "model_type": "llama",
    "num_attention_heads": 32, "num_hidden_layers": 22, "num_key_value_heads": 4,
    "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False,
    "vocab_size": 32000,
}  # fmt: skip


class Shapes(dict):
    """Weights by name of which only the shape is there."""

    def __missing__(self, name: str) -> np.ndarray:
        if not name.endswith(".weight"):
            raise KeyError(name)
        hidden, ffn = CONFIG["hidden_size"], CONFIG["intermediate_size"]
        heads = hidden // CONFIG["num_attention_heads"]
        sizes = {
            "q_proj": (hidden, hidden), "o_proj": (hidden, hidden),
            "k_proj": (heads * CONFIG["num_key_value_heads"], hidden),
            "v_proj": (heads * CONFIG["num_key_value_heads"], hidden),
            "gate_proj": (ffn, hidden), "up_proj": (ffn, hidden),
            "down_proj": (hidden, ffn),
            "embed_tokens": (CONFIG["vocab_size"], hidden),
            "lm_head": (CONFIG["vocab_size"], hidden),
        }  # fmt: skip
        shape = sizes.get(name.split(".")[-2], (hidden,))
        return np.broadcast_to(np.float32(0), shape)

    def get(self, name, default=None):
        return default if name.endswith(".bias") else self[name]


class SparseDecoder(Decoder):
    """A decoder whose weights are a hole in a file."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, cached=True)
        self.llama.tensors = Shapes()
        self.bytes = 0

    def weight(self, name: str, array: np.ndarray) -> str:
        if array.size < 64:
            return super().weight(name, array)
        if name in self.made:
            return name
        self.made.add(name)
        tensor = onnx.TensorProto(name=name, data_type=onnx.TensorProto.FLOAT)
        tensor.dims.extend(array.shape)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        size = 4 * array.size
        for key, value in (("location", "model.onnx.data"), ("offset", self.bytes),
                           ("length", size)):  # fmt: skip
            tensor.external_data.add(key=key, value=str(value))
        self.bytes += size
        self.weights.append(tensor)
        return name


def make_model(folder: Path) -> Path:
    (folder / "config.json").write_text(json.dumps(CONFIG))
    decoder = SparseDecoder(folder)
    path = folder / "model.onnx"
    path.write_bytes(decoder.build().SerializeToString())
    with open(folder / "model.onnx.data", "wb") as data:
        data.truncate(decoder.bytes)
    print(f"{len(decoder.nodes)} nodes, {decoder.bytes / 1e9:.2f} GB of weights")
    return path


def measure(quantc: Path, model: Path, stage: str) -> tuple[float, float]:
    """Seconds and megabytes of one run."""
    done = subprocess.run(
        ["/usr/bin/time", "-v", quantc, model, "-o", os.devnull, "--to", stage,
         "--tokenizer", model.parent],
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        sys.exit(done.stderr)
    [kilobytes] = re.findall(r"Maximum resident set size \(kbytes\): (\d+)", done.stderr)
    [(minutes, seconds)] = re.findall(r"Elapsed .*: (\d+):([\d.]+)\n", done.stderr)
    return 60 * int(minutes) + float(seconds), int(kilobytes) / 1e3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quantc", type=Path, default=ROOT / "build/release/bin/quantc")
    parser.add_argument("--runs", type=int, default=7)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(Path(folder))
        for stage in ("import", "optimize"):
            runs = [measure(arguments.quantc, model, stage) for _ in range(arguments.runs)]
            times = sorted(seconds for seconds, _ in runs)
            print(
                f"{stage}: {statistics.median(times):.2f} s "
                f"({times[0]:.2f} to {times[-1]:.2f}), "
                f"{max(megabytes for _, megabytes in runs):.0f} MB"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Times a decoder that came from an ONNX file beside the one of its folder.

    onnx_speed.py                                random weights, 80 M
    onnx_speed.py --folder FOLDER --onnx FILE …  what an exporter wrote of FOLDER

Both are compiled with the same options and measured in turns by `quant-run
bench`. Prints, for each ONNX file, tokens a second of both and the ratio of each
round's pair: median, least, most.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
BIN = ROOT / "build/release/bin"
sys.path.insert(0, str(ROOT / "test" / "python"))
sys.path.insert(0, str(ROOT / "benchmarks" / "model"))

import onnx  # noqa: E402
import shapes_model  # noqa: E402
from onnx_decoders import Decoder  # noqa: E402

SIZES = {
    "hidden_size": 768, "intermediate_size": 2048, "num_attention_heads": 12,
    "num_key_value_heads": 4, "head_dim": 64, "num_hidden_layers": 12,
    "max_position_embeddings": 1024, "torch_dtype": "float16",
}  # fmt: skip
TINY = ROOT / "models" / "tiny-llama"


def make_folder(folder: Path) -> None:
    """A LLaMA of random weights, in float16, with the tiny model's tokenizer."""
    shutil.copytree(TINY, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    given = json.loads((TINY / "config.json").read_text())
    tokens = {key: given[key] for key in ("vocab_size", "bos_token_id", "eos_token_id")}
    config = shapes_model.COMMON | SIZES | tokens
    (folder / "config.json").write_text(json.dumps(config))
    shapes = shapes_model.tensors(config)
    header, place = {}, 0
    for name, shape in shapes.items():
        end = place + 2 * int(np.prod(shape))
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [place, end]}
        place = end
    text = json.dumps(header).encode()
    rng = np.random.default_rng(0)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape in shapes.values():
            values = rng.standard_normal(shape, np.float32)
            values = 1 + values / 10 if len(shape) == 1 else values / shape[-1] ** 0.5
            file.write(values.astype(np.float16).tobytes())


def export(folder: Path, path: Path) -> None:
    """The graph as exporters spell it, with its cache as inputs."""
    onnx.save(Decoder(folder, cached=True).build(), path, save_as_external_data=True,
              location=path.name + ".data")  # fmt: skip


def compile_package(model: Path, package: Path, *options: str) -> Path:
    subprocess.run([BIN / "quantc", model, "-o", package, "--quiet", *options], check=True)
    return package


def measure(package: Path, options: list[str]) -> tuple[float, float]:
    """Tokens a second of a prompt and of what follows."""
    done = subprocess.run(
        [BIN / "quant-run", "bench", package, "--json", "--no-verify", *options],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    [result] = json.loads(done.stdout)["results"]
    return result["pp_tps"], result["tg_tps"]


def compare(name: str, packages: list[Path], rounds: int, options: list[str]) -> None:
    seen = []
    for i in range(rounds):
        order = packages if i % 2 == 0 else packages[::-1]
        pair = {package: measure(package, options) for package in order}
        seen.append([pair[package] for package in packages])
    for part, kind in enumerate(("prompt", "decode")):
        ours, theirs = ([row[i][part] for row in seen] for i in (0, 1))
        ratios = sorted(a / b for a, b in zip(ours, theirs))
        print(
            f"| {name} | {kind} | {statistics.median(ours):.0f} | "
            f"{statistics.median(theirs):.0f} | {statistics.median(ratios):.3f} "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f}) |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--onnx", type=Path, nargs="*", default=[])
    parser.add_argument("--weights", default="int8")
    parser.add_argument("--activations", default="int8-dynamic")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", default="1")
    arguments = parser.parse_args()
    bench = ["--prompt-tokens", "128", "--new-tokens", "64", "--threads", arguments.threads]
    options = ["--weights", arguments.weights, "--activations", arguments.activations]
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        folder, graphs = arguments.folder, arguments.onnx
        if not folder:
            folder = work / "model"
            make_folder(folder)
        if not graphs:
            graphs = [work / "model.onnx"]
            export(folder, graphs[0])
        theirs = compile_package(folder, work / "folder.qlm", *options)
        print("| graph | part | ONNX tokens/s | folder tokens/s | ratio |")
        print("|---|---|---|---|---|")
        for i, graph in enumerate(graphs):
            ours = compile_package(graph, work / f"{i}.qlm", *options,
                                   "--tokenizer", str(folder))  # fmt: skip
            compare(graph.stem, [ours, theirs], arguments.rounds, bench)


if __name__ == "__main__":
    main()

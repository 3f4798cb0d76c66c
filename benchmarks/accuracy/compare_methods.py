# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Prints one table of every method's accuracy on one model and text.

    compare_methods.py MODEL --text FILE --calibration FILE [--group-size G]
        [--qat FOLDER] [--max-tokens N] [--only NAME ...] [--bin DIR]

Each row is a package made by quantc and measured by quant-run against the
float32 one: bits a weight of the quantized linears, bytes of all weights,
perplexity, KL, top-1 agreement, and the seconds and peak memory that making
it took. QAT's row is a folder that train_qat.py wrote. Where bitsandbytes,
gguf (llama.cpp's formats) and torchao are installed, weights that they round
are dequantized by themselves into a folder and measured in float32 the same
way.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "test" / "python"))


def methods(group: int, calibration: Path) -> dict[str, list[str]]:
    """quantc's options of each row; each calibrates by itself, so that its
    seconds and memory are those of a user's call."""
    g = ["--group-size", str(group)]
    text = ["--calibration", str(calibration)]
    gptq = ["--method", "gptq", *text]
    awq = ["--method", "awq", *text]
    both = ["--method", "awq-gptq", "--search-scales", "--act-order", *text]
    refined = ["--refine", "3", "--damping", "0.1"]
    static = ["--weights", "int8", "--activations", "int8-static", *text]
    return {
        "bf16": ["--weights", "bf16"],
        "int8 channel": ["--weights", "int8"],
        "int8 tensor": ["--weights", "int8", "--granularity", "tensor"],
        "int8 tensor, zero points": [
            "--weights", "int8", "--granularity", "tensor", "--zero-points"],
        "W8A8 dynamic": ["--weights", "int8", "--activations", "int8-dynamic"],
        "LLM.int8": ["--method", "llm.int8"],
        "fp8 channel": ["--weights", "fp8"],
        "int4 RTN": ["--weights", "int4", *g],
        "int4 RTN, zero points": ["--weights", "int4", *g, "--zero-points"],
        "nf4 g64": ["--weights", "nf4"],
        "nf4 g64, double": ["--weights", "nf4", "--double-quant"],
        "int4 GPTQ": ["--weights", "int4", *g, *gptq],
        "int4 GPTQ, act order": ["--weights", "int4", *g, *gptq, "--act-order"],
        "int4 GPTQ, zero points": [
            "--weights", "int4", *g, *gptq, "--zero-points"],
        "int4 GPTQ, act order, zero points": [
            "--weights", "int4", *g, *gptq, "--act-order", "--zero-points"],
        "int4 GPTQ, searched scales, act order, zero points": [
            "--weights", "int4", *g, *gptq, "--search-scales", "--act-order",
            "--zero-points"],
        "int4 AWQ": ["--weights", "int4", *g, *awq],
        "int4 AWQ, zero points": [
            "--weights", "int4", *g, *awq, "--zero-points"],
        "int4 AWQ + GPTQ": ["--weights", "int4", *g, *both],
        "int4 AWQ + GPTQ, zero points": [
            "--weights", "int4", *g, *both, "--zero-points"],
        "int4 GPTQ, searched scales, act order, zero points, refined": [
            "--weights", "int4", *g, *gptq, "--search-scales", "--act-order",
            "--zero-points", *refined],
        "int4 AWQ + GPTQ, refined": ["--weights", "int4", *g, *both, *refined],
        "int4 AWQ + GPTQ, zero points, refined": [
            "--weights", "int4", *g, *both, "--zero-points", *refined],
        "int4 GPTQ, searched scales, act order, zero points, head kept": [
            "--weights", "int4", *g, *gptq, "--search-scales", "--act-order",
            "--zero-points", "--keep-lm-head"],
        "int4 AWQ + GPTQ, zero points, head kept": [
            "--weights", "int4", *g, *both, "--zero-points", "--keep-lm-head"],
        "int4 AWQ, zero points, head kept": [
            "--weights", "int4", *g, *awq, "--zero-points", "--keep-lm-head"],
        "int4 RTN, zero points, head kept": [
            "--weights", "int4", *g, "--zero-points", "--keep-lm-head"],
        "W8A8 static": static,
        "W8A8 static, percentile": [*static, "--range", "percentile"],
        "W8A8 static, entropy": [*static, "--range", "entropy"],
        "W8A8 static, smooth 0.5": [*static, "--smooth", "0.5"],
        "W8A8 static, smooth 0.8": [*static, "--smooth", "0.8"],
        "W8A8 dynamic, smooth 0.5": [
            "--weights", "int8", "--activations", "int8-dynamic", *text,
            "--smooth", "0.5"],
        "nf4 g64, head kept": ["--weights", "nf4", "--keep-lm-head"],
        "nf4 g64, double, head kept": [
            "--weights", "nf4", "--double-quant", "--keep-lm-head"],
        "int8 channel, head kept": ["--weights", "int8", "--keep-lm-head"],
        "nf4 g64 GPTQ": ["--weights", "nf4", *gptq],
        "int4 W4A8 dynamic": [
            "--weights", "int4", *g, "--activations", "int8-dynamic"],
        "int4 RTN, head kept": ["--weights", "int4", *g, "--keep-lm-head"],
        "int4 GPTQ, head kept": [
            "--weights", "int4", *g, *gptq, "--keep-lm-head"],
    }  # fmt: skip


class Bench:
    """Makes and measures packages in a folder of their own."""

    def __init__(self, args, folder: Path):
        self.args, self.folder = args, folder
        self.reference = folder / "reference"
        self.make(args.model, self.reference, [])

    def make(self, model, package, options) -> tuple[float, float]:
        """Compiles; returns seconds and peak MB."""
        command = [self.args.bin / "quantc", model, "-o", package, "--quiet",
                   *options]
        start = time.time()
        process = subprocess.Popen([str(word) for word in command])
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"quantc failed on {options}")
        return time.time() - start, usage.ru_maxrss / 1000

    def measure(self, package) -> dict:
        command = [self.args.bin / "quant-run", "eval", package, "--text",
                   self.args.text, "--reference", self.reference, "--json"]
        if self.args.max_tokens:
            command += ["--max-tokens", self.args.max_tokens]
        done = subprocess.run([str(word) for word in command], check=True,
                              capture_output=True, text=True)
        return json.loads(done.stdout)

    def row(self, name: str, model, options) -> str:
        package = self.folder / "package"
        seconds, memory = self.make(model, package, options)
        measured = self.measure(package)
        size = (package / "weights.safetensors").stat().st_size
        shutil.rmtree(package)
        return (f"| {name} | {size / 1e6:.2f} | {measured['perplexity']:.3f} | "
                f"{measured['kl']:.5f} | {measured['top1_agreement']:.4f} | "
                f"{seconds:.1f} | {memory:.0f} |")


def bitsandbytes_folders(model: Path, folder: Path):
    """Folders of the model as bitsandbytes rounds and restores it."""
    import bitsandbytes.functional as bnb
    import toolchain
    import torch

    tensors = toolchain.read_safetensors(model / "model.safetensors")
    config = json.loads((model / "config.json").read_text())
    config["torch_dtype"] = "float32"

    def nf4(double):
        def restore(weight):
            packed, state = bnb.quantize_nf4(
                weight, blocksize=64, compress_statistics=double)
            return bnb.dequantize_4bit(packed, state)
        return restore

    def int8(weight):
        codes, scales, _ = bnb.int8_vectorwise_quant(weight.half())
        return codes.float() * (scales[:, None] / 127)

    makers = {"bitsandbytes NF4": nf4(False),
              "bitsandbytes NF4, double": nf4(True),
              "bitsandbytes int8": int8}
    for name, restore in makers.items():
        target = folder / name.replace(" ", "-")
        shutil.copytree(model, target)
        values = {}
        for key, array in tensors.items():
            values[key] = np.array(array, np.float32)
            if key.endswith("_proj.weight"):
                values[key] = restore(torch.tensor(values[key])).float().numpy()
        # bitsandbytes leaves the head alone; so does an f32 package.
        write_safetensors(target / "model.safetensors", values)
        (target / "config.json").write_text(json.dumps(config))
        yield name, target


def block_folders(model: Path, folder: Path):
    """Folders of the model as llama.cpp and torchao round and restore it."""
    makers = {}
    try:
        from gguf import GGMLQuantizationType as Kind
        from gguf import quants

        def ggml(kind):
            return lambda w: quants.dequantize(quants.quantize(w, kind), kind)
        makers |= {"llama.cpp Q4_0": ggml(Kind.Q4_0),
                   "llama.cpp Q4_1": ggml(Kind.Q4_1),
                   "llama.cpp Q8_0": ggml(Kind.Q8_0)}
    except ImportError:
        pass
    try:
        import torch
        from torchao.quantization.quant_primitives import (
            MappingType, choose_qparams_affine, dequantize_affine,
            quantize_affine)

        def affine(symmetric, group, low, high):
            mapping = (MappingType.SYMMETRIC if symmetric
                       else MappingType.ASYMMETRIC)

            def restore(w):
                block = (1, group or w.shape[1])
                x = torch.from_numpy(w)
                scale, zero = choose_qparams_affine(
                    x, mapping, block, torch.int8, low, high,
                    eps=torch.finfo(torch.float32).eps)
                codes = quantize_affine(x, block, scale, zero, torch.int8, low,
                                        high)
                return dequantize_affine(codes, block, scale, zero, torch.int8,
                                         low, high).numpy()
            return restore
        makers |= {"torchao int8 channel": affine(True, 0, -128, 127),
                   "torchao int4 g128": affine(False, 128, 0, 15)}
    except ImportError:
        pass
    import toolchain

    tensors = toolchain.read_safetensors(model / "model.safetensors")
    config = json.loads((model / "config.json").read_text())
    config["torch_dtype"] = "float32"
    for name, restore in makers.items():
        target = folder / name.replace(" ", "-")
        shutil.copytree(model, target)
        values = {key: np.array(array, np.float32)
                  for key, array in tensors.items()}
        for key, array in values.items():
            if key.endswith("_proj.weight"):
                values[key] = np.asarray(restore(array), np.float32)
        write_safetensors(target / "model.safetensors", values)
        (target / "config.json").write_text(json.dumps(config))
        yield name, target


def write_safetensors(path: Path, tensors: dict) -> None:
    header, offset = {}, 0
    for name, array in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(array.shape),
                        "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in tensors.values():
            file.write(np.ascontiguousarray(array).tobytes())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--group-size", type=int, default=128)
    parser.add_argument("--qat", type=Path)
    parser.add_argument("--max-tokens", type=int, default=0)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--bin", type=Path, default=ROOT / "build/release/bin")
    args = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, "
          f"{os.cpu_count()} cores; {args.model.name}, group size "
          f"{args.group_size}\n")
    print("| method | MB | perplexity | KL | top-1 | s to make | peak MB |\n"
          "|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(args, Path(scratch))
        print(bench.row("f32", args.model, []), flush=True)
        for name, options in methods(args.group_size, args.calibration).items():
            if not args.only or name in args.only:
                print(bench.row(name, args.model, options), flush=True)
        if args.qat:
            options = ["--weights", "int4", "--group-size",
                       str(args.group_size), "--keep-lm-head"]
            scales = args.qat / "kept-scales.safetensors"
            if scales.exists():
                options += ["--method", "keep", "--statistics", str(scales)]
            print(bench.row("int4 QAT, head kept", args.qat, options),
                  flush=True)
        for name, folder in block_folders(args.model, Path(scratch)):
            if not args.only or name in args.only:
                print(bench.row(name + " (peer)", folder, []), flush=True)
        try:
            import bitsandbytes  # noqa: F401
        except ImportError:
            return
        for name, folder in bitsandbytes_folders(args.model, Path(scratch)):
            if not args.only or name in args.only:
                print(bench.row(name + " (peer)", folder, []), flush=True)


if __name__ == "__main__":
    main()

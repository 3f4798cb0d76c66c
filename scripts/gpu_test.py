#!/usr/bin/env python3
# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Tests packages on an NVIDIA GPU against the processor.

    gpu_test.py bundle --build build/release -o FOLDER [--models]   needs no GPU
    gpu_test.py run FOLDER                                          needs one

`bundle` compiles the tiny model for the processor and for GPUs in several
formats, and writes what the processor answers: logits of one text, and its
greedy continuation. It compiles random models of awkward shapes, and with
--models large ones without weights, whose speed is of interest (minutes each).
The folder is all that `run` needs besides NumPy.

`run` compares each launch with its operation in float64 (gpu_launches.py),
then logits (in one step, and in chunks of one token, which replays captured
steps) and the greedy text with the processor's, runs NVIDIA's
compute-sanitizer over a generation where it is installed, and prints tables:
errors of kernels, errors of packages, speed. It exits with 1 when something
differs by more than its bound, or a tool finds fault.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ("scripts/gpu_test.py", "scripts/gpu_launches.py",
           "benchmarks/model/fill_package.py", "benchmarks/model/shapes_model.py")
sys.path.append(str(ROOT / "benchmarks/model"))  # in a bundle they lie beside
import fill_package  # noqa: E402
import shapes_model  # noqa: E402

NEW_TOKENS = 32
LIMITS = ["--max-batch", "8", "--max-context", "512",
          "--max-step-tokens", "256"]
# Weights, KV cache: what must agree to 2e-2 of the largest logit.
FORMATS = {
    "f16": ["--weights", "f16", "--kv-cache", "f16"],
    "bf16": ["--weights", "bf16", "--kv-cache", "bf16"],
    "int8": ["--weights", "int8", "--kv-cache", "f16"],
    "int4": ["--weights", "int4", "--group-size", "32", "--kv-cache", "f16"],
    "nf4": ["--weights", "nf4", "--double-quant", "--kv-cache", "f16"],
    "w8a8": ["--weights", "int8", "--activations", "int8-dynamic",
             "--kv-cache", "f16"],
    "llm-int8": ["--method", "llm.int8", "--kv-cache", "f16"],
}
# Random models whose sizes fill no tile: hidden size, heads, KV heads, features
# of a head, intermediate size, vocabulary; and their formats.
SHAPES = {
    "gqa40": (200, 5, 1, 40, 328, 1003, ["--weights", "int8"]),
    "gqa64": (384, 8, 2, 64, 544, 509, ["--weights", "int4", "--group-size",
                                        "32", "--zero-points"]),
    "mha128": (256, 3, 3, 128, 431, 997, ["--weights", "bf16", "--kv-cache",
                                          "bf16"]),
    "mqa80": (320, 4, 1, 80, 256, 251, ["--weights", "f16"]),
}
# Large models, by the name that shapes_model.py knows them by.
MODELS = {
    "7b-int4": ("llama-2-7b", ["--weights", "int4"]),
    "7b-w8a8": ("llama-2-7b", ["--weights", "int8", "--activations",
                               "int8-dynamic"]),
    "1b-int4": ("tinyllama-1.1b", ["--weights", "int4"]),
    "7b-nf4": ("llama-2-7b", ["--weights", "nf4", "--double-quant"]),
    "7b-llm": ("llama-2-7b", ["--method", "llm.int8"]),
}
MODEL_LIMITS = ["--max-batch", "32", "--max-context", "2176",
                "--max-step-tokens", "2048"]
BOUND = 2e-2
TOOLS = ("memcheck", "racecheck", "synccheck")
SECONDS = 60  # for one run of quant-run
COMPILE_SECONDS = 1800


def call(command: list, timeout: float = SECONDS,
         **options) -> subprocess.CompletedProcess:
    return subprocess.run([str(part) for part in command], text=True,
                          capture_output=True, timeout=timeout, check=False,
                          **options)


def must(command: list, **options) -> str:
    """Standard output of a command that must succeed."""
    result = call(command, **options)
    if result.returncode:
        raise RuntimeError(f"{command[0]} {command[1]}: "
                           f"{result.stderr.strip()[-500:]}")
    return result.stdout


class Runner:
    """quant-run, with the libraries that lie beside it."""

    def __init__(self, folder: Path) -> None:
        self.program = folder / "quant-run"
        self.folder = folder
        self.environment = dict(os.environ,
                                LD_LIBRARY_PATH=str(folder / "lib"))

    def json(self, *arguments) -> dict:
        return json.loads(must([self.program, *arguments, "--json"],
                               env=self.environment))

    def logits(self, package: Path, tokens: list[int], chunk: int):
        output = self.folder / "logits.npy"
        must([self.program, "logits", package, "--tokens",
              ",".join(map(str, tokens)), "--chunk", chunk, "-o", output],
             env=self.environment)
        return np.load(output)

    def continuation(self, package: Path, tokens: list[int]) -> list[int]:
        results = self.json("generate", package, "--tokens",
                            ",".join(map(str, tokens)), "--max-new-tokens",
                            NEW_TOKENS, "--ignore-eos")
        return results["results"][0]["tokens"]


def copy_libraries(program: Path, folder: Path) -> None:
    """Copies what a bare machine may lack."""
    folder.mkdir()
    for line in must(["ldd", program]).splitlines():
        parts = line.split()
        if len(parts) > 2 and ("pcre2" in parts[0] or "utf8proc" in parts[0]):
            shutil.copy(parts[2], folder / parts[0])


def write_random_model(folder: Path, shape: tuple) -> None:
    """A LLaMA of two layers with weights that keep activations' size."""
    hidden, heads, keys, dim, features, vocabulary = shape
    shapes_model.MODELS["random"] = {
        "hidden_size": hidden, "intermediate_size": features,
        "num_attention_heads": heads, "num_key_value_heads": keys,
        "head_dim": dim, "num_hidden_layers": 2, "vocab_size": vocabulary}
    shapes_model.write("random", folder)
    random = np.random.default_rng(hidden)
    with open(folder / "model.safetensors", "r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        table = json.loads(file.read(size))
        for entry in table.values():
            columns = entry["shape"][-1]
            values = random.standard_normal(entry["shape"]) / np.sqrt(columns)
            if len(entry["shape"]) == 1:
                values = 1 + values
            file.seek(8 + size + entry["data_offsets"][0])
            file.write(fill_package.bf16(values).tobytes())


def compile_shapes(build: Path, folder: Path) -> None:
    for name, (*shape, options) in SHAPES.items():
        source = folder / f"{name}-model"
        write_random_model(source, tuple(shape))
        must([build / "bin/quantc", source, "-o", folder / "launches" / name,
              "--target", "cuda", *options, *LIMITS], timeout=COMPILE_SECONDS)
        shutil.rmtree(source)


def compile_models(build: Path, folder: Path) -> None:
    for name, (shapes, options) in MODELS.items():
        source, package = folder / shapes, folder / "package"
        shapes_model.write(shapes, source)
        must([build / "bin/quantc", source, "-o", package, "--target", "cuda",
              *options, *MODEL_LIMITS], timeout=COMPILE_SECONDS)
        fill_package.strip(package, folder / "models" / name)
        shutil.rmtree(package)
        shutil.rmtree(source)


def bundle(build: Path, folder: Path, models: bool) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copy(build / "bin/quant-run", folder)
    for script in SCRIPTS:
        shutil.copy(ROOT / script, folder)
    (folder / "launches").mkdir()
    (folder / "models").mkdir()
    compile_shapes(build, folder)
    if models:
        compile_models(build, folder)
    copy_libraries(folder / "quant-run", folder / "lib")
    runner = Runner(folder)
    model = ROOT / "models/tiny-llama"
    generator = np.random.default_rng(7)
    tokens = generator.integers(5, 4000, 48).tolist()
    (folder / "tokens.json").write_text(json.dumps(tokens))
    for name, options in FORMATS.items():
        reference = folder / "reference"
        for package, target in ((reference, "cpu"), (folder / name, "cuda")):
            must([build / "bin/quantc", model, "-o", package, "--target",
                  target, *options, *LIMITS], timeout=COMPILE_SECONDS)
        np.save(folder / f"{name}.npy", runner.logits(reference, tokens, 0))
        (folder / f"{name}.json").write_text(
            json.dumps(runner.continuation(reference, tokens)))
        shutil.rmtree(reference)


def relative_error(got, want) -> float:
    if got.shape != want.shape or not np.isfinite(got).all():
        return float("inf")
    return float(np.abs(got - want).max() / np.abs(want).max())


def compare(runner: Runner, name: str, tokens: list[int]) -> bool:
    """Prints a line of the table of errors; whether all is well."""
    folder = runner.folder
    want = np.load(folder / f"{name}.npy")
    text = json.loads((folder / f"{name}.json").read_text())
    try:
        step, single = (relative_error(
            runner.logits(folder / name, tokens, chunk), want)
            for chunk in (0, 1))
        got = runner.continuation(folder / name, tokens)
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        print(f"{name:8} FAILED: {error}", flush=True)
        return False
    same = next((i for i, (a, b) in enumerate(zip(got, text)) if a != b),
                len(text))
    good = step < BOUND and single < BOUND and same == len(text)
    print(f"{name:8} {step:10.2e} {single:12.2e} {same:6} of {len(text)} "
          f"{'ok' if good else 'DIFFERS'}", flush=True)
    return good


def sanitize(runner: Runner, name: str, tool: str) -> bool:
    """Runs a generation under a tool of compute-sanitizer."""
    program = shutil.which("compute-sanitizer")
    if not program:
        print(f"{tool}: compute-sanitizer is not installed, not run")
        return True
    try:
        result = call([program, "--tool", tool, "--error-exitcode", "9",
                       runner.program, "generate", runner.folder / name,
                       "--tokens", "1,2,3,4,5", "--max-new-tokens", "3",
                       "--temperature", "0.8", "--top-k", "40", "--top-p",
                       "0.9", "--ignore-eos"], env=runner.environment)
    except subprocess.TimeoutExpired:
        print(f"{tool:10} {name}: did not end in {SECONDS} s")
        return False
    lines = [line for line in result.stdout.splitlines() if "=====" in line]
    print(f"{tool:10} {name}: {lines[-1] if lines else result.stderr[-200:]}",
          flush=True)
    return result.returncode == 0


def speed(runner: Runner, name: str) -> None:
    plan = runner.json("inspect", runner.folder / name)["plan"]
    context = plan["max_context"]
    result = runner.json("bench", runner.folder / name, "--batch",
                         f"1,{plan['max_batch']}", "--prompt-tokens",
                         context // 2, "--new-tokens", context // 4)
    for row in result["results"]:
        print(f"{name:8} {row['batch']:5} {row['pp_tps']:12.0f} "
              f"{row['tg_tps']:12.0f} {result['load_s']:8.3f} "
              f"{row['peak_memory_bytes'] * 1e-6:9.1f}", flush=True)


def check_launches(folder: Path, names: list[str]) -> bool:
    """Each launch of the packages with its operation in float64."""
    packages = [*sorted((folder / "launches").iterdir()),
                *(folder / name for name in names)]
    # A program of its own: a kernel's fault ends its context.
    result = call([sys.executable, folder / "gpu_launches.py", *packages],
                  timeout=10 * SECONDS)
    print(result.stdout + result.stderr[-500:], flush=True)
    return result.returncode == 0


def model_speed(runner: Runner, package: Path) -> None:
    """Speed of a model with random weights, and what its bytes allow."""
    fill_package.fill(package)
    limits = runner.json("inspect", package)["plan"]
    for batches, prompt, new in (("1,1,1,8,32", 512, 64), ("1,1,1", 2048, 2)):
        batches = ",".join(b for b in batches.split(",")
                           if int(b) <= limits["max_batch"])
        result = runner.json("bench", package, "--batch", batches, "--no-verify",
                             "--prompt-tokens", prompt, "--new-tokens", new)
        for row in result["results"]:
            print(f"{package.name:8} {row['batch']:5} {prompt:6} "
                  f"{row['pp_tps']:12.0f} {row['tg_tps']:12.1f} "
                  f"{row['bandwidth_gbps']:10.0f} {result['load_s']:8.2f}",
                  flush=True)
    begin = time.perf_counter()
    must([runner.program, "generate", package, "--tokens", "1,2,3",
          "--max-new-tokens", "1", "--ignore-eos", "--no-verify"],
         env=runner.environment)
    print(f"{package.name:8} cold start to the first token: "
          f"{time.perf_counter() - begin:.2f} s", flush=True)
    (package / fill_package.WEIGHTS).unlink()


def run(folder: Path) -> bool:
    runner = Runner(folder.resolve())
    tokens = json.loads((folder / "tokens.json").read_text())
    names = sorted(path.stem for path in folder.glob("*.npy")
                   if (folder / path.stem).is_dir())
    good = bool(names) and check_launches(runner.folder, names)
    print(f"{'package':8} {'one step':>10} {'token by token':>12} greedy")
    for name in names:
        good &= compare(runner, name, tokens)
    print(f"\n{'package':8} {'batch':>5} {'prefill t/s':>12} "
          f"{'decode t/s':>12} {'load s':>8} {'GPU MB':>9}")
    for name in names:
        try:
            speed(runner, name)
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            print(f"{name:8} FAILED: {error}")
            good = False
    models = sorted((runner.folder / "models").iterdir())
    if models:
        print(f"\n{'model':8} {'batch':>5} {'prompt':>6} {'prefill t/s':>12} "
              f"{'decode t/s':>12} {'weights GB/s':>10} {'load s':>8}")
    for package in models:
        model_speed(runner, package)
    print(flush=True)
    for name in names:
        for tool in TOOLS:
            good &= sanitize(runner, name, tool)
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    maker = commands.add_parser("bundle")
    maker.add_argument("--build", type=Path, required=True)
    maker.add_argument("-o", "--output", type=Path, required=True)
    maker.add_argument("--models", action="store_true")
    tester = commands.add_parser("run")
    tester.add_argument("folder", type=Path)
    options = parser.parse_args()
    if options.command == "bundle":
        bundle(options.build, options.output, options.models)
        return 0
    return 0 if run(options.folder) else 1


if __name__ == "__main__":
    sys.exit(main())

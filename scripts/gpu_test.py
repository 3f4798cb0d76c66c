#!/usr/bin/env python3
# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Tests packages on an NVIDIA GPU against the processor.

    gpu_test.py bundle --build build/release -o FOLDER   needs no GPU
    gpu_test.py run FOLDER                               needs one

`bundle` compiles the tiny model for the processor and for GPUs in several
formats, and writes what the processor answers: logits of one text, and its
greedy continuation. The folder is all that `run` needs besides NumPy.

`run` compares logits (in one step, and in chunks of one token, which replays
captured steps), compares the greedy text, runs NVIDIA's compute-sanitizer over
a generation where it is installed, and prints two tables: errors, and speed.
It exits with 1 when a package differs by more than its bound, or a tool finds
fault.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
NEW_TOKENS = 32
LIMITS = ["--max-batch", "8", "--max-context", "512",
          "--max-step-tokens", "256"]
# Weights, KV cache: what must agree to 2e-2 of the largest logit.
FORMATS = {
    "f16": ["--weights", "f16", "--kv-cache", "f16"],
    "bf16": ["--weights", "bf16", "--kv-cache", "bf16"],
    "int8": ["--weights", "int8", "--kv-cache", "f16"],
    "int4": ["--weights", "int4", "--group-size", "32", "--kv-cache", "f16"],
}
BOUND = 2e-2
TOOLS = ("memcheck", "racecheck", "synccheck")
SECONDS = 60  # for one run of quant-run
COMPILE_SECONDS = 600


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


def bundle(build: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copy(build / "bin/quant-run", folder)
    shutil.copy(__file__, folder / "gpu_test.py")
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
                       "--ignore-eos"], env=runner.environment)
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


def run(folder: Path) -> bool:
    runner = Runner(folder.resolve())
    tokens = json.loads((folder / "tokens.json").read_text())
    names = sorted(path.stem for path in folder.glob("*.npy")
                   if (folder / path.stem).is_dir())
    good = bool(names)
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
    print(flush=True)
    for name in names[:2]:
        for tool in TOOLS:
            good &= sanitize(runner, name, tool)
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    maker = commands.add_parser("bundle")
    maker.add_argument("--build", type=Path, required=True)
    maker.add_argument("-o", "--output", type=Path, required=True)
    tester = commands.add_parser("run")
    tester.add_argument("folder", type=Path)
    options = parser.parse_args()
    if options.command == "bundle":
        bundle(options.build, options.output)
        return 0
    return 0 if run(options.folder) else 1


if __name__ == "__main__":
    sys.exit(main())

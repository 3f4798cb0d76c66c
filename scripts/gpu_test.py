#!/usr/bin/env python3
# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Tests packages on an NVIDIA GPU against the processor.

    gpu_test.py bundle --build build/release -o FOLDER [--models]   needs no GPU
    gpu_test.py run FOLDER                                          needs one

`bundle` compiles the tiny model and random ones of awkward shapes for the
processor and for GPUs in every format, and writes what the processor answers:
logits of one text, and its greedy continuation; with --models single kernels
and large models without weights too, whose speed is of interest (minutes
each). The folder is all that `run` needs besides NumPy, and 25 GB beside it for
the large models' weights.

`run` compares logits (in one step, and in chunks, which replay captured steps)
and the greedy text with the processor's (a batch-invariant package's logits
must not depend on the chunks at all), each launch with its operation in
float64 (gpu_launches.py), a calibration's statistics with those found on the
processor (gpu_statistics.py), runs NVIDIA's compute-sanitizer over generations
where it is installed, and prints tables: errors of packages and of kernels,
speed beside what the GPU target was made to reach (gpu_numbers.py), and which
parts passed. Texts may differ from a place on where the next
token leads by less than the logits differ. It exits with 1 when something
differs by more than its bound, or a tool finds fault.
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
SCRIPTS = ("scripts/gpu_test.py", "scripts/gpu_launches.py",
           "scripts/gpu_driver.py", "scripts/gpu_weights.py",
           "scripts/gpu_numbers.py", "scripts/gpu_statistics.py",
           "benchmarks/model/fill_package.py", "benchmarks/model/shapes_model.py")
sys.path.append(str(ROOT / "benchmarks/model"))  # in a bundle they lie beside
import fill_package  # noqa: E402
import gpu_numbers  # noqa: E402
import gpu_statistics  # noqa: E402
import shapes_model  # noqa: E402

NEW_TOKENS = 32
LIMITS = ["--max-batch", "8", "--max-context", "512",
          "--max-step-tokens", "256"]
GROUPS = ["--group-size", "32"]
# The tiny model, whose text is English; and random models whose sizes fill no
# tile: hidden size, heads, KV heads, features of a head, intermediate size,
# vocabulary. 416 columns are 6.5 lines of 64.
TINY = ROOT / "models/tiny-llama"
SHAPES = {
    "wide": (256, 2, 1, 128, 416, 509),
    "gqa40": (200, 5, 1, 40, 328, 1003),
    "gqa64": (384, 8, 2, 64, 544, 509),
    "mha128": (256, 3, 3, 128, 431, 997),
    "mqa80": (320, 4, 1, 80, 256, 251),
    "window": (256, 4, 2, 64, 384, 509),
}
# Keys that the tokens of a model see; prompts are longer.
WINDOWS = {"window": 21}
# Model, weights and KV cache (f16 unless said): what must agree to 2e-2 of the
# largest logit with the processor, and launch by launch with float64.
FORMATS = {
    "tiny-int4": ("tiny", ["--weights", "int4", *GROUPS]),
    "f16": ("wide", ["--weights", "f16"]),
    "bf16": ("mha128", ["--weights", "bf16", "--kv-cache", "bf16"]),
    "int8": ("gqa40", ["--weights", "int8"]),
    "int4-zeros": ("gqa64", ["--weights", "int4", *GROUPS, "--zero-points"]),
    "nf4": ("mqa80", ["--weights", "nf4", "--group-size", "64"]),
    "nf4-double": ("wide", ["--weights", "nf4", *GROUPS, "--double-quant"]),
    "fp8": ("wide", ["--weights", "fp8"]),
    "w8a8": ("wide", ["--weights", "int8", "--activations", "int8-dynamic"]),
    "fp8a8": ("wide", ["--weights", "fp8", "--activations", "fp8-dynamic"]),
    "window": ("window", ["--weights", "f16"]),
    "window-int8": ("window", ["--weights", "fp8", "--activations",
                               "fp8-dynamic", "--kv-cache", "int8"]),
    # A threshold that some inputs of each linear reach.
    "llm-int8": ("wide", ["--method", "llm.int8", "--outlier-threshold",
                          "2.5"]),
    "kv-int8": ("wide", ["--weights", "int4", *GROUPS, "--kv-cache", "int8"]),
    "kv-fp8": ("wide", ["--weights", "int4", *GROUPS, "--kv-cache", "fp8"]),
    "invariant": ("wide", ["--weights", "int4", *GROUPS,
                           "--batch-invariant"]),
}
# Inputs of linears are of 8 bits, or keys and values codes; and what to compile
# to see what that costs.
ROUNDED = {"w8a8": ["--weights", "f32"], "llm-int8": ["--weights", "f32"],
           "fp8a8": ["--weights", "f32"], "window-int8": ["--weights", "f32"],
           "kv-int8": ["--weights", "int4", *GROUPS],
           "kv-fp8": ["--weights", "int4", *GROUPS]}
BOUND = 2e-2
CHUNKS = (0, 1, 3, 8)  # rows of a step; 0: all tokens in one
TOOLS = {"memcheck": ("tiny-int4", "nf4-double", "llm-int8", "kv-fp8"),
         "racecheck": ("tiny-int4", "nf4-double", "llm-int8"),
         "synccheck": ("tiny-int4",)}
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

    def run(self, *arguments) -> str:
        return must([self.program, *arguments], env=self.environment)

    def json(self, *arguments) -> dict:
        return json.loads(self.run(*arguments, "--json"))

    def logits(self, package: Path, tokens: list[int], chunk: int):
        output = self.folder / "logits.npy"
        self.run("logits", package, "--tokens", ",".join(map(str, tokens)),
                 "--chunk", chunk, "-o", output)
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


def write_random_model(folder: Path, shape: tuple, window: int = 0) -> None:
    """A LLaMA of two layers with weights that keep activations' size."""
    hidden, heads, keys, dim, features, vocabulary = shape
    shapes_model.MODELS["random"] = {
        "hidden_size": hidden, "intermediate_size": features,
        "num_attention_heads": heads, "num_key_value_heads": keys,
        "head_dim": dim, "num_hidden_layers": 2, "vocab_size": vocabulary}
    if window:
        shapes_model.MODELS["random"] |= {
            "architectures": ["MistralForCausalLM"], "model_type": "mistral",
            "sliding_window": window}
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


def compile_format(build: Path, runner: Runner, name: str) -> None:
    """A package for GPUs, and what the processor's package of it answers."""
    folder, (shape, options) = runner.folder, FORMATS[name]
    model = TINY if shape == "tiny" else folder / "models" / shape
    if not model.exists():
        write_random_model(model, SHAPES[shape], WINDOWS.get(shape, 0))
    reference = folder / "reference"
    options = options if "--kv-cache" in options else [*options, "--kv-cache",
                                                       "f16"]
    for package, target in ((reference, "cpu"), (folder / name, "cuda")):
        own = [o for o in options
               if target == "cuda" or o != "--batch-invariant"]
        must([build / "bin/quantc", model, "-o", package, "--target", target,
              "--quiet", *own, *LIMITS], timeout=COMPILE_SECONDS)
    vocabulary = json.loads((model / "config.json").read_text())["vocab_size"]
    tokens = np.random.default_rng(7).integers(5, vocabulary - 5, 48).tolist()
    text = runner.continuation(reference, tokens)
    logits = runner.logits(reference, tokens + text[:-1], 0)
    np.save(folder / f"{name}.npy", logits[: len(tokens)])
    # How much the chosen token's logit leads, of the largest one.
    ranked = np.sort(logits[len(tokens) - 1 :], axis=1)
    leads = (ranked[:, -1] - ranked[:, -2]) / np.abs(ranked).max(1)
    bound = allowed(build, runner, name, model, tokens, logits[: len(tokens)])
    (folder / f"{name}.json").write_text(json.dumps(
        {"tokens": tokens, "text": text, "leads": leads.tolist(),
         "bound": bound}))
    shutil.rmtree(reference)


def allowed(build: Path, runner: Runner, name: str, model: Path,
            tokens: list[int], logits) -> float:
    """How much logits may differ. Values rounded to 8 bits turn a difference in
    an f16's last place into one of a whole step, so packages of both targets
    differ by about as much as each from the model it was made of
    (docs/performance.md); each of their launches still has to be right."""
    if name not in ROUNDED:
        return BOUND
    plain = runner.folder / "plain"
    must([build / "bin/quantc", model, "-o", plain, "--quiet", *ROUNDED[name],
          *LIMITS], timeout=COMPILE_SECONDS)
    cost = relative_error(logits, runner.logits(plain, tokens, 0))
    shutil.rmtree(plain)
    return max(BOUND, 1.5 * cost)


def bundle(build: Path, folder: Path, models: bool) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copy(build / "bin/quant-run", folder)
    for script in SCRIPTS:
        shutil.copy(ROOT / script, folder)
    copy_libraries(folder / "quant-run", folder / "lib")
    (folder / "models").mkdir()
    for name in FORMATS:
        compile_format(build, Runner(folder), name)
    shutil.rmtree(folder / "models")
    gpu_statistics.bundle(build, folder, must)
    (folder / "models").mkdir()
    if models:
        gpu_numbers.compile_kernels(build, folder, must)
        gpu_numbers.compile_models(build, folder, must)


def relative_error(got, want) -> float:
    if got.shape != want.shape or not np.isfinite(got).all():
        return float("inf")
    return float(np.abs(got - want).max() / np.abs(want).max())


def compare(runner: Runner, name: str) -> bool:
    """Prints a line of the table of errors; whether all is well."""
    folder = runner.folder
    want = np.load(folder / f"{name}.npy")
    asked = json.loads((folder / f"{name}.json").read_text())
    tokens, text = asked["tokens"], asked["text"]
    try:
        logits = [runner.logits(folder / name, tokens, chunk)
                  for chunk in CHUNKS]
        got = runner.continuation(folder / name, tokens)
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        print(f"{name:11} FAILED: {error}", flush=True)
        return False
    errors = [relative_error(each, want) for each in logits]
    same = next((i for i, (a, b) in enumerate(zip(got, text)) if a != b),
                len(text))
    if name == "invariant" and not all(np.array_equal(each, logits[0])
                                       for each in logits):
        print(f"{name:11} FAILED: logits depend on the rows of a step")
        return False
    # Texts may part where two tokens are as likely, within the error.
    is_same = same == len(text) or asked["leads"][same] <= 2 * max(errors)
    good = max(errors) < asked["bound"] and is_same
    print(f"{name:11}", *[f"{error:9.2e}" for error in errors],
          f"{asked['bound']:7.0e} {same:4} of {len(text)} "
          f"{'ok' if good else 'DIFFERS'}"
          + (f" (lead {asked['leads'][same]:.1e})" if same < len(text) else ""),
          flush=True)
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
    print(f"{tool:10} {name:11} {lines[-1] if lines else result.stderr[-200:]}",
          flush=True)
    return result.returncode == 0


def speed(runner: Runner, name: str) -> None:
    plan = runner.json("inspect", runner.folder / name)["plan"]
    context = plan["max_context"]
    result = runner.json("bench", runner.folder / name, "--batch",
                         f"1,{plan['max_batch']}", "--prompt-tokens",
                         context // 2, "--new-tokens", context // 4)
    for row in result["results"]:
        print(f"{name:11} {row['batch']:5} {row['pp_tps']:12.0f} "
              f"{row['tg_tps']:12.0f} {result['load_s']:8.3f} "
              f"{row['peak_memory_bytes'] * 1e-6:9.1f}", flush=True)


def check_launches(folder: Path, names: list[str]) -> bool:
    """Each launch of the packages with its operation in float64."""
    # A program of its own: a kernel's fault ends its context.
    try:
        result = call([sys.executable, folder / "gpu_launches.py",
                       *(folder / name for name in names)],
                      timeout=3 * SECONDS)
    except subprocess.TimeoutExpired as error:
        print(f"launches did not end: {(error.stdout or b'')[-2000:]}")
        return False
    print(result.stdout + result.stderr[-500:], flush=True)
    return result.returncode == 0


def run(folder: Path) -> bool:
    runner = Runner(folder.resolve())
    names = [name for name in FORMATS if (folder / name).is_dir()]
    models = sorted((runner.folder / "models").glob("*"))
    filling = gpu_numbers.Filling(models)
    passed = {"packages": bool(names)}
    print(f"{'package':11}", *[f"{f'by {c}' if c else 'one step':>9}"
                              for c in CHUNKS], "  bound greedy")
    for name in names:
        passed["packages"] &= compare(runner, name)
    print(flush=True)
    passed["launches"] = check_launches(runner.folder, names)
    passed["statistics"] = gpu_statistics.run(runner.folder)
    for tool, packages in TOOLS.items():
        passed[tool] = all([sanitize(runner, name, tool) for name in packages
                            if name in names])
    print(f"\n{'package':11} {'batch':>5} {'prefill t/s':>12} "
          f"{'decode t/s':>12} {'load s':>8} {'GPU MB':>9}")
    for name in names[:1]:
        try:
            speed(runner, name)
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            print(f"{name:11} FAILED: {error}")
            passed["packages"] = False
    if models:
        measured: dict[str, float] = {}
        passed["kernels"] = gpu_numbers.run_kernels(runner.folder, measured)
        passed["models"] = gpu_numbers.run_models(runner, models, filling,
                                                  measured)
        gpu_numbers.print_goals(measured)
    print()
    for part, good in passed.items():
        print(f"{part:10} {'passed' if good else 'FAILED'}", flush=True)
    return all(passed.values())


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

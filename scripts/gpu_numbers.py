# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Speed of large models and of single kernels on a GPU, for gpu_test.py.

Models have random weights: speed depends on shapes and formats. What was
measured stands beside what the CUDA target was made to reach, which are figures
for an H100 (reads 3,130 GB/s), as are those of the best peers there.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "benchmarks/model"))  # in a bundle they lie beside
import fill_package  # noqa: E402
import shapes_model  # noqa: E402

# Large models, by the name that shapes_model.py knows them by.
MODELS = {
    "7b-int4": ("llama-2-7b", ["--weights", "int4"]),
    "7b-w8a8": ("llama-2-7b", ["--weights", "int8", "--activations",
                               "int8-dynamic"]),
    "1b-int4": ("tinyllama-1.1b", ["--weights", "int4"]),
    "7b-nf4": ("llama-2-7b", ["--weights", "nf4", "--double-quant"]),
    "7b-llm": ("llama-2-7b", ["--method", "llm.int8"]),
}
LIMITS = ["--max-batch", "64", "--max-context", "2176",
          "--max-step-tokens", "2048", "--kv-cache", "f16"]
BATCHES = {"7b-int4": "1,1,1,8,8,8,32,64", "7b-w8a8": "1,1,1,8,8,8,32,64"}
PREFILLED = ("7b-int4", "7b-w8a8")
# What times kernels: program, folder of its cases.
KERNELS = {"qlm-run-cuda-linears": "linears",
           "qlm-run-cuda-attention": "attention"}
# What is asked for: name, key of what was measured (the best of several),
# unit, best peer and goal, both on an H100. Microseconds and seconds are better
# the fewer they are.
GOALS = [
    ("7B int4 g128, batch 1", ("7b-int4 1",), "tok/s", 330, 650),
    ("7B int8, batch 1", ("7b-w8a8 1",), "tok/s", 251, 390),
    ("7B batch 8", ("7b-int4 8", "7b-w8a8 8"), "tok/s", 1303, 3000),
    ("7B batch 32", ("7b-int4 32", "7b-w8a8 32"), "tok/s", 3360, 5500),
    ("7B batch 64", ("7b-int4 64", "7b-w8a8 64"), "tok/s", 4894, 7500),
    ("7B prefill of 2,048, W8A8", ("7b-w8a8 prefill",), "tok/s", 44141, 66000),
    ("7B prefill of 2,048, W4A16", ("7b-int4 prefill",), "tok/s", 44141,
     44000),
    ("7B NF4, double quantization", ("7b-nf4 1",), "tok/s", 28.6, 500),
    ("7B LLM.int8, batch 1", ("7b-llm 1",), "tok/s", 9.8, 300),
    ("1.1B int4, batch 1", ("1b-int4 1",), "tok/s", 858, 2200),
    *[(f"W4A16 4096x11008, m = {rows}", (f"w4a16-m{rows} us",), "us", peer, goal)
      for rows, peer, goal in ((1, 14.6, 9), (16, 14.5, 9.5), (64, 24.3, 12),
                               (256, 40.3, 40), (2048, 251, 260))],
    *[(f"attention forward {shape}", (f"forward-{shape} tflops",), "TFLOP/s",
       peer, goal)
      for shape, peer, goal in (("4,32,2048,128", 527, 550),
                                ("2,32,8192,128", 563, 600),
                                ("2,8,1024,64", 151, 200))],
    *[(f"attention, 4,096 context, batch {batch}", (f"decode-{batch} gbps",),
       "GB/s", peer, goal) for batch, peer, goal in ((1, 1282, 2200),
                                                     (32, 3002, 2900))],
    ("7B int4, loaded", ("7b-int4 load",), "s", None, 3),
    ("7B int4, start to first token", ("7b-int4 start",), "s", None, 4),
]
SHORTER = ("us", "s")
COMPILE_SECONDS = 1800
RUN_SECONDS = 120


def compile_models(build: Path, folder: Path, must) -> None:
    """Packages of MODELS without their weights."""
    for name, (shapes, options) in MODELS.items():
        source, package = folder / shapes, folder / "package"
        if not source.exists():
            shapes_model.write(shapes, source)
        must([build / "bin/quantc", source, "-o", package, "--target", "cuda",
              "--quiet", *options, *LIMITS], timeout=COMPILE_SECONDS)
        fill_package.strip(package, folder / "models" / name)
        shutil.rmtree(package)
    for shapes, _ in MODELS.values():
        shutil.rmtree(folder / shapes, ignore_errors=True)


def compile_kernels(build: Path, folder: Path, must) -> None:
    """Single kernels and the programs that check and time them."""
    for program, cases in KERNELS.items():
        shutil.copy(build / "bin" / program, folder)
        (folder / cases).mkdir()
        listed = (ROOT / "benchmarks/kernels/cuda" / f"{cases}.txt").read_text()
        must([build / "bin" / program.replace("run", "emit"), folder / cases],
             timeout=COMPILE_SECONDS, input=listed)


def run_kernels(folder: Path, measured: dict) -> bool:
    """Checks single kernels against float64, and times some."""
    good = True
    for program, cases in KERNELS.items():
        if not (folder / program).exists():
            continue
        try:
            result = subprocess.run([folder / program, folder / cases],
                                    text=True, capture_output=True,
                                    timeout=RUN_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            print(f"{program} did not end in {RUN_SECONDS} s")
            good = False
            continue
        print(result.stdout + result.stderr[-500:], flush=True)
        good &= result.returncode == 0
        times = folder / cases / "times.json"
        if times.exists():
            for label, values in json.loads(times.read_text()).items():
                measured.update({f"{label} {unit}": value
                                 for unit, value in values.items()})
    return good


class Filling:
    """Fills packages with random weights, some at once, while others run."""

    def __init__(self, packages: list[Path]) -> None:
        self.pool = ThreadPoolExecutor(max_workers=4)
        script = Path(fill_package.__file__)
        self.jobs = {package: self.pool.submit(
            subprocess.run, [sys.executable, script, "fill", package],
            check=True, capture_output=True) for package in packages}

    def wait(self, package: Path) -> None:
        self.jobs[package].result()


def model_speed(runner, package: Path, measured: dict) -> None:
    """Speed of a model with random weights, and what its bytes allow."""
    name = package.name
    runs = [(BATCHES.get(name, "1,1,1"), 512, 64)]
    if name in PREFILLED:
        runs.append(("1,1,1", 2048, 2))
    for batches, prompt, new in runs:
        result = runner.json("bench", package, "--batch", batches,
                             "--no-verify", "--prompt-tokens", prompt,
                             "--new-tokens", new)
        rows: dict[int, list[dict]] = {}
        for row in result["results"]:
            rows.setdefault(row["batch"], []).append(row)
            print(f"{name:8} {row['batch']:5} {prompt:6} "
                  f"{row['pp_tps']:12.0f} {row['tg_tps']:12.1f} "
                  f"{row['bandwidth_gbps']:10.0f} {result['load_s']:8.2f}",
                  flush=True)
        for batch, values in rows.items():
            key, kind = (("prefill", "pp_tps") if new == 2
                         else (batch, "tg_tps"))
            measured[f"{name} {key}"] = statistics.median(
                value[kind] for value in values)
        measured[f"{name} load"] = result["load_s"]
    begin = time.perf_counter()
    runner.run("generate", package, "--tokens", "1,2,3", "--max-new-tokens",
               "1", "--ignore-eos", "--no-verify")
    measured[f"{name} start"] = time.perf_counter() - begin
    (package / fill_package.WEIGHTS).unlink()


def run_models(runner, packages: list[Path], filling: Filling,
               measured: dict) -> bool:
    print(f"\n{'model':8} {'batch':>5} {'prompt':>6} {'prefill t/s':>12} "
          f"{'decode t/s':>12} {'weights GB/s':>10} {'load s':>8}")
    good = True
    for package in packages:
        try:
            filling.wait(package)
            model_speed(runner, package, measured)
        except (RuntimeError, subprocess.SubprocessError) as error:
            print(f"{package.name}: FAILED: {error}", flush=True)
            good = False
    return good


def print_goals(measured: dict) -> None:
    """The table of what is asked for; what was not measured has no figure."""
    print(f"\n{'work':42} {'peer H100':>9} {'goal H100':>9} {'here':>9}")
    for work, keys, unit, peer, goal in GOALS:
        values = [measured[key] for key in keys if key in measured]
        fewer = unit in SHORTER
        here = (min if fewer else max)(values) if values else None
        reached = here is not None and (here <= goal if fewer else here >= goal)
        print(f"{work:42} {peer or '':>9} {goal:9} "
              f"{'' if here is None else f'{here:.4g}':>9} {unit:7} "
              f"{'' if here is None else 'reached' if reached else 'below'}")
    print(flush=True)

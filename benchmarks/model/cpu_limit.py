#!/usr/bin/env python3
# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Measures packages beside the machine's limits and peers, on two cores.

    cpu_limit.py --quant-run PATH --packages FOLDER --out FOLDER
                 [--rounds 3] [--threads 2] [--peers llama.cpp,torch]
                 [--seconds 600] [--only REGEX] [--fast-cores PATH]
                 [--new-tokens 32]

FOLDER holds skeletons that `fill_package.py strip` made, each with its job in
its name: int4a8, int8a8, int4, bf16 (TinyLlama-1.1B's shapes), small (28 M,
int4 with int8 activations), attention-f32 and attention-bf16 (one layer of 8
heads of 64, for batches of 2 prompts of 1024). They are filled here, and models
of the same shapes and random weights are written for the peers. Jobs run one
after the other, in rounds, pinned to cores of their own by taskset; with
--fast-cores (the program qlm-fast-cores) to those that are fastest before the
job, ours or a peer's, since other guests slow cores down by turns. After
--seconds no further job begins, so the last round may lack some. Prints a table
of medians with the least and the largest value, and writes it with all values
to --out.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROMPT = 512
"""Tokens of a prompt."""
SHORT_PROMPT = 64
"""Tokens of each of eight prompts."""
START_PROMPT = "1,2,3,4,5,6,7,8"


def choose_cores(count: int) -> str:
    """Cores that are no threads of one another, as taskset takes them."""
    chosen, taken = [], set()
    for core in sorted(os.sched_getaffinity(0)):
        path = Path(f"/sys/devices/system/cpu/cpu{core}/topology/"
                    "thread_siblings_list")
        siblings = path.read_text().strip() if path.exists() else str(core)
        if siblings not in taken:
            taken.add(siblings)
            chosen.append(core)
    return ",".join(map(str, chosen[:count]))


def last_json(text: str) -> dict:
    lines = [line for line in text.splitlines() if line.startswith("{")]
    return json.loads(lines[-1])


class Bench:
    def __init__(self, a):
        self.a = a
        self.cores = a.cores or choose_cores(a.threads)
        self.values: dict[tuple[str, str], list[float]] = {}
        self.failures: list[str] = []
        self.log = open(a.out / "runs.jsonl", "w", encoding="utf-8")

    def run(self, name: str, command: list) -> tuple[dict, float]:
        """The JSON object that a command prints, and its seconds."""
        environment = dict(os.environ, OMP_NUM_THREADS=str(self.a.threads))
        if self.a.fast_cores:
            self.cores = subprocess.run(
                [self.a.fast_cores, str(self.a.threads)], text=True,
                capture_output=True, check=True).stdout.strip()
        begin = time.perf_counter()
        try:
            done = subprocess.run(
                ["taskset", "-c", self.cores, *map(str, command)], text=True,
                capture_output=True, timeout=90, env=environment)
        except subprocess.TimeoutExpired:
            self.failures.append(f"{name}: longer than 90 s")
            return {}, 0
        seconds = time.perf_counter() - begin
        if done.returncode:
            self.failures.append(f"{name}: {done.stderr.strip()[-300:]}")
            return {}, 0
        result = last_json(done.stdout)
        self.log.write(json.dumps({"name": name, "cores": self.cores, **result})
                       + "\n")
        self.log.flush()
        return result, seconds

    def add(self, name: str, metric: str, value) -> None:
        if value:
            self.values.setdefault((name, metric), []).append(value)

    def ours(self, package: Path) -> None:
        """A package of a whole model."""
        name = f"ours {package.name}"
        # The first prompt warms up, as the peers do.
        result, _ = self.run(name, [
            self.a.quant_run, "bench", package, "--no-verify", "--threads",
            self.a.threads, "--prompt-tokens", PROMPT, "--new-tokens",
            self.a.new_tokens, "--batch", "1,1", "--reserve", "--profile",
            "--json"])
        rows = result.get("results", [])[1:]
        if package.name in ("int4a8", "int8a8"):
            many, _ = self.run(f"{name} x 8", [
                self.a.quant_run, "bench", package, "--no-verify", "--threads",
                self.a.threads, "--prompt-tokens", SHORT_PROMPT,
                "--new-tokens", self.a.new_tokens, "--batch", 8, "--reserve",
                "--profile", "--json"])
            rows += many.get("results", [])
        for row in rows:
            batch = row["batch"]
            self.add(name, f"prefill, batch {batch}, tok/s", row["pp_tps"])
            self.add(name, f"decode, batch {batch}, tok/s", row["tg_tps"])
            if batch == 1:
                self.add(name, "decode, GB/s", row["bandwidth_gbps"])
                self.add(name, "prefill, TOP/s", row["prefill_tops"])
        if ceilings := result.get("ceilings"):
            self.add(name, "limit: reading, GB/s", ceilings["read_gbps"])
            self.add(name, f"limit: {ceilings['unit']}, TOP/s",
                     ceilings["arithmetic_tops"])

    def start(self, package: Path) -> None:
        """Process start to first token."""
        for memory in ("auto", "huge", "mapped"):
            name = f"ours {package.name}, weights {memory}"
            _, seconds = self.run(name, [
                self.a.quant_run, "generate", package, "--no-verify",
                "--threads", self.a.threads, "--tokens", START_PROMPT,
                "--max-new-tokens", 1, "--weights-memory", memory, "--json"])
            self.add(name, "process start to first token, s", seconds)

    def attention(self, package: Path) -> None:
        """Means of two prefills, in memory that was touched before."""
        name = f"ours {package.name}"
        result, _ = self.run(name, [
            self.a.quant_run, "bench", package, "--no-verify", "--threads",
            self.a.threads, "--prompt-tokens", 1024, "--new-tokens", 8,
            "--batch", "2,2", "--reserve", "--profile", "--json"])
        for entry in result.get("profile", {}).get("prefill", []):
            if entry["label"].endswith("attention"):
                self.add(name, "attention (2,8,1024,64) causal, ms",
                         entry["seconds"] / entry["launches"] * 1e3)

    def llama(self, file: Path, batch: int) -> None:
        name = f"llama.cpp {file.stem}"
        result, _ = self.run(name, [
            sys.executable, HERE / "peers/llama_cpp_peer.py", file,
            "--threads", self.a.threads, "--prompt-tokens",
            PROMPT if batch == 1 else SHORT_PROMPT, "--new-tokens",
            self.a.new_tokens, "--batch", batch])
        if batch == 1:
            self.add(name, "prefill, batch 1, tok/s", result.get("pp_tps"))
        self.add(name, f"decode, batch {batch}, tok/s", result.get("tg_tps"))

    def torch(self, what: list, name: str) -> None:
        result, _ = self.run(name, [sys.executable,
                                    HERE / "peers/torch_peer.py", *what,
                                    "--threads", self.a.threads])
        self.add(name, "prefill, batch 1, tok/s", result.get("pp_tps"))
        self.add(name, "decode, batch 1, tok/s", result.get("tg_tps"))
        for kind in ("f32", "bf16"):
            self.add(f"{name} {kind}", "attention (2,8,1024,64) causal, ms",
                     result.get(f"attention_{kind}_ms"))

    def jobs(self) -> list[tuple[str, object]]:
        """Names and functions, in the order of a round."""
        packages = {p.name: p for p in sorted(self.a.packages.iterdir())
                    if (p / "manifest.json").exists()}
        jobs: list[tuple[str, object]] = []
        for name, package in packages.items():
            if name.startswith("attention"):
                jobs.append((name, lambda p=package: self.attention(p)))
                continue
            jobs.append((name, lambda p=package: self.ours(p)))
            if name == "int4a8":
                jobs.append(("start", lambda p=package: self.start(p)))
        if "llama.cpp" in self.a.peers:
            for file in sorted(self.a.packages.glob("*.gguf")):
                for batch in (1, 8) if "Q" in file.stem else (1,):
                    jobs.append((f"llama {file.stem} {batch}",
                                 lambda f=file, b=batch: self.llama(f, b)))
        if "torch" in self.a.peers:
            config = next(iter(packages.values())) / "config.json"
            for package in packages.values():
                if not package.name.startswith(("attention", "small")):
                    config = package / "config.json"
            jobs.append(("torch attention", lambda: self.torch(
                ["attention"], "torch")))
            jobs.append(("torch model", lambda: self.torch(
                ["model", config], "torch bf16")))
        return [(n, f) for n, f in jobs
                if not self.a.only or re.search(self.a.only, n)]

    def table(self) -> str:
        lines = ["| metric | what | median | least | largest | runs |",
                 "|---|---|---|---|---|---|"]
        for (name, metric), values in sorted(
                self.values.items(), key=lambda item: item[0][::-1]):
            digits = 3 if statistics.median(values) < 10 else 1
            lines.append(
                f"| {metric} | {name} | {statistics.median(values):.{digits}f}"
                f" | {min(values):.{digits}f} | {max(values):.{digits}f} |"
                f" {len(values)} |")
        return "\n".join(lines)


def prepare(a) -> None:
    """Fills the skeletons and writes the peers' models, all at once."""
    begun = []
    for package in sorted(a.packages.iterdir()):
        if (package / "weights.table").exists() and not (
                package / "weights.safetensors").exists():
            begun.append(subprocess.Popen(
                [sys.executable, HERE / "fill_package.py", "fill", package]))
    if "llama.cpp" in a.peers:
        for source, name, kinds in (("int4a8", "1.1b", ("Q4_0", "Q8_0", "BF16")),
                                    ("small", "small", ("Q4_0",))):
            config = a.packages / source / "config.json"
            for kind in kinds if config.exists() else ():
                begun.append(subprocess.Popen(
                    [sys.executable, HERE / "peers/make_gguf.py", config,
                     a.packages / f"{name}-{kind}.gguf", kind]))
    for process in begun:
        if process.wait():
            sys.exit("a model could not be written")


def machine() -> str:
    info = Path("/proc/cpuinfo").read_text()
    flags = [flag for flag in ("avx2", "avx512_vnni", "avx512_bf16",
                               "amx_int8", "amx_bf16") if flag in info]
    model = re.search(r"model name\s*: (.*)", info)
    pages = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return (f"{model.group(1) if model else 'unknown'}, "
            f"{os.cpu_count()} cores, {' '.join(flags)}; huge pages "
            f"{pages.read_text().strip() if pages.exists() else 'unknown'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quant-run", type=Path, required=True)
    parser.add_argument("--packages", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peers", type=lambda text: text.split(","),
                        default=["llama.cpp", "torch"])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--only", default="")
    parser.add_argument("--cores", default="",
                        help="as taskset takes them; default: chosen")
    parser.add_argument("--fast-cores", type=Path,
                        help="the program that chooses cores before each job")
    a = parser.parse_args()
    if a.fast_cores:
        a.fast_cores = a.fast_cores.resolve()
    if not shutil.which("taskset"):
        sys.exit("taskset is needed (package util-linux)")
    # taskset searches names without a slash in PATH.
    a.quant_run = a.quant_run.resolve()
    a.out.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    prepare(a)
    print(f"prepared in {time.perf_counter() - begin:.0f} s", flush=True)
    bench = Bench(a)
    rounds = 0
    for _ in range(a.rounds):
        jobs = bench.jobs()
        for _, job in jobs:
            if time.perf_counter() - begin > a.seconds:
                break
            job()
            rounds += 1 / len(jobs)
    text = (f"{machine()}; cores "
            f"{'the fastest before each job' if a.fast_cores else bench.cores}"
            f", {rounds:.1f} rounds, "
            f"{time.strftime('%F %T')}\n\n{bench.table()}\n")
    for failure in bench.failures:
        text += f"\nfailed: {failure}\n"
    (a.out / "table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()

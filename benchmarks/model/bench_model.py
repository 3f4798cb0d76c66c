#!/usr/bin/env python3
"""Measures packages of random weights beside plain reading and peers.

Makes a model of the preset's shapes, compiles it with each set of options,
and then measures in interleaved rounds: the read bandwidth, each package's
prefill and decode, its load and its peak memory, and any peer given as a
command that prints one JSON object with `pp_tps` and `tg_tps`. Prints a
Markdown table of medians with the spread.

    bench_model.py --bin build/release/bin --cache /tmp/qlm-bench
        [--preset tinyllama-1.1b] [--rounds 5] [--schemes int4,int8]
        [--peer NAME=COMMAND ...] [--out benchmarks/results/FILE.md]
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCHEMES = {
    "f32": ["--weights", "f32"],
    "bf16": ["--weights", "bf16"],
    "int8": ["--weights", "int8"],
    "int8-dynamic": ["--weights", "int8", "--activations", "int8-dynamic"],
    "int4-g128": ["--weights", "int4", "--group-size", "128"],
    "int4-g32": ["--weights", "int4", "--group-size", "32"],
    "int4-g128-dynamic": ["--weights", "int4", "--group-size", "128",
                          "--activations", "int8-dynamic"],
}


def output_of(command: list) -> str:
    result = subprocess.run([str(part) for part in command], text=True,
                            stdout=subprocess.PIPE)
    if result.returncode:
        sys.exit(f"failed: {' '.join(map(str, command))}")
    return result.stdout


def last_json(text: str) -> dict:
    lines = [line for line in text.splitlines() if line.startswith("{")]
    return json.loads(lines[-1])


def machine() -> str:
    """The processor and its cores, for the head of the table."""
    info = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*: (.*)", info).group(1)
    cores = info.count("processor\t")
    family = re.search(r"cpu family\s*: (.*)", info).group(1)
    flags = [flag for flag in ("avx2", "avx512_vnni", "avx512_bf16",
                               "amx_int8") if flag in info]
    return (f"{model} (family {family}), {cores} cores, "
            f"{', '.join(flags)}; Linux {platform.release().split('-')[0]}")


def read_bandwidth(program: Path) -> float:
    """GB/s of the fastest way to read memory with two threads."""
    text = output_of([program, 2])
    return max(float(rate) for rate in re.findall(
        r"([0-9.]+) GB/s", text))


def compile_model(binaries: Path, model: Path, package: Path,
                  options: list[str]) -> dict:
    """Seconds and peak bytes of quantc; keeps a package that is there."""
    if package.exists():
        subprocess.run(["rm", "-r", str(package)], check=True)
    begin = time.monotonic()
    result = subprocess.run(
        ["/usr/bin/env", "python3", "-c",
         "import resource, subprocess, sys;"
         "code = subprocess.call(sys.argv[1:]);"
         "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss);"
         "sys.exit(code)",
         str(binaries / "quantc"), str(model), "-o", str(package),
         "--max-batch", "8", "--max-context", "1024", *options],
        text=True, stdout=subprocess.PIPE)
    if result.returncode:
        sys.exit(f"quantc failed on {package.name}")
    return {"compile_s": time.monotonic() - begin,
            "compile_peak_mb": int(result.stdout.split()[-1]) / 1024}


def measure(binaries: Path, package: Path, batches: str) -> dict:
    bench = last_json(output_of(
        [binaries / "quant-run", "bench", package, "--batch", batches,
         "--prompt-tokens", 512, "--new-tokens", 64, "--threads", 2,
         "--reserve", "--json"]).replace("\n", ""))
    row = {"load_s": bench.get("load_s")}
    for result in bench["results"]:
        batch = result["batch"]
        row[f"decode b{batch}"] = result["tg_tps"]
        if batch == 1:
            row["prefill"] = result["pp_tps"]
            row["decode GB/s"] = result["bandwidth_gbps"]
        row["peak_mb"] = result["peak_memory_bytes"] / 1e6
    plan = json.loads((package / "manifest.json").read_text())["plan"]
    row["predicted_mb"] = plan["peak_bytes"] / 1e6
    return row


def median_and_spread(values: list[float]) -> str:
    values = [value for value in values if value is not None]
    if not values:
        return ""
    middle = statistics.median(values)
    digits = 0 if middle >= 100 else 1 if middle >= 10 else 2
    return (f"{middle:.{digits}f} ({min(values):.{digits}f}–"
            f"{max(values):.{digits}f})")


def table(rows: dict[str, list[dict]]) -> str:
    columns = []
    for samples in rows.values():
        for sample in samples:
            columns += [name for name in sample if name not in columns]
    lines = ["| | " + " | ".join(columns) + " |",
             "|---" * (len(columns) + 1) + "|"]
    for name, samples in rows.items():
        cells = [median_and_spread([sample.get(column) for sample in samples])
                 for column in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--bin", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--preset", default="tinyllama-1.1b")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--schemes", default="int4-g128,int4-g128-dynamic,"
                        "int8,int8-dynamic,bf16")
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--peer", action="append", default=[])
    parser.add_argument("--target-cpu", default="native")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    binaries = arguments.bin.resolve()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    model = arguments.cache / arguments.preset
    if not (model / "config.json").exists():
        output_of([sys.executable, ROOT / "test/python/make_random_model.py",
                   arguments.preset, model])
    rows: dict[str, list[dict]] = {"plain reading": []}
    packages = {}
    compiled = {}
    for scheme in arguments.schemes.split(","):
        packages[scheme] = arguments.cache / f"{arguments.preset}-{scheme}"
        compiled[scheme] = compile_model(
            binaries, model, packages[scheme],
            SCHEMES[scheme] + ["--target-cpu", arguments.target_cpu])
    peers = dict(peer.split("=", 1) for peer in arguments.peer)
    for _ in range(arguments.rounds):
        memory = binaries / "qlm-bench-memory"
        if memory.exists():
            rows["plain reading"].append(
                {"decode GB/s": read_bandwidth(memory)})
        for scheme, package in packages.items():
            sample = measure(binaries, package, arguments.batches)
            sample.update(compiled[scheme])
            rows.setdefault(f"qlm {scheme}", []).append(sample)
        for name, command in peers.items():
            sample = last_json(output_of(["sh", "-c", command]))
            rows.setdefault(name, []).append(
                {"decode b1": sample["tg_tps"], "prefill": sample["pp_tps"]})
    text = (f"Machine: {machine()}. Model: {arguments.preset}, random "
            f"weights, two threads, {arguments.rounds} interleaved rounds, "
            "median (min–max); prefill of 512 tokens and decode of 64, "
            "tokens a second of all sequences.\n\n"
            f"Command: `{' '.join(['bench_model.py', *sys.argv[1:]])}`\n\n"
            + table(rows) + "\n")
    print(text)
    if arguments.out:
        arguments.out.write_text(text)


if __name__ == "__main__":
    main()

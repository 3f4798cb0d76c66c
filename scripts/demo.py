#!/usr/bin/env python3
"""Compiles the tiny LLaMA to f32, int8 and int4, and compares the packages.

Prints a table (size, peak memory, perplexity on held-out text, KL against
f32, tokens a second) and a batch of completions of each package.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "models" / "tiny-llama"
HELD_OUT = ROOT / "models" / "heldout.txt"
PACKAGES = {
    "f32": ["--weights", "f32"],
    "int8": ["--weights", "int8", "--activations", "int8-dynamic"],
    "int4": ["--weights", "int4", "--group-size", "128"],
}
PROMPTS = [
    'def read_lines(path, encoding="utf-8"):\n    """',
    'class Queue:\n    """',
    "import unittest\n\nclass ",
    ".. function:: ",
]
# The model's own generation_config.json suggests these.
SAMPLING = ["--temperature", "0.8", "--top-p", "0.95",
            "--repetition-penalty", "1.1", "--seed", "3",
            "--max-new-tokens", "64"]
SHOWN_LINES = 7


def run(command: list) -> str:
    """Standard output of a command; ends the demo with its error."""
    result = subprocess.run([str(part) for part in command], text=True,
                            stdout=subprocess.PIPE)
    if result.returncode:
        sys.exit(f"demo: {Path(str(command[0])).name} failed")
    return result.stdout


def folder_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", type=Path, required=True,
                        help="folder of quantc and quant-run")
    parser.add_argument("--keep", type=Path,
                        help="write the packages here and keep them")
    arguments = parser.parse_args()
    binaries = arguments.bin.resolve()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        compile_and_compare(binaries, folder)


def compile_and_compare(binaries: Path, folder: Path) -> None:
    rows, texts = [], {}
    for name, options in PACKAGES.items():
        package = folder / f"tiny-{name}"
        run([binaries / "quantc", MODEL, "-o", package, "--quiet", *options])
        measured, texts[name] = measure(binaries / "quant-run", package,
                                        None if name == "f32"
                                        else folder / "tiny-f32")
        rows.append([name, *measured])
    print(f"{MODEL.name} on {processor()}\n")
    print_table(["package", "weights", "activations", "size", "peak memory",
                 "perplexity", "KL to f32", "tokens/s"], rows)
    for name, completions in texts.items():
        print(f"\n{name} continues {len(PROMPTS)} prompts in one batch:")
        for prompt, text in zip(PROMPTS, completions):
            print_completion(prompt, text)


def measure(quant_run: Path, package: Path, reference: Path | None
            ) -> tuple[list[str], list[str]]:
    """Cells of the package's row, and the continuations of PROMPTS."""
    command = [quant_run, "eval", package, "--text", HELD_OUT, "--json"]
    if reference:
        command += ["--reference", reference]
    evaluation = json.loads(run(command))
    bench = json.loads(run([quant_run, "bench", package, "--batch", "1",
                            "--prompt-tokens", "128", "--new-tokens", "128",
                            "--json"]))
    prompts = [part for prompt in PROMPTS for part in ("--prompt", prompt)]
    generated = json.loads(run([quant_run, "generate", package, *prompts,
                                *SAMPLING, "--json"]))
    manifest = json.loads((package / "manifest.json").read_text())
    cells = [manifest["quantization"]["weights"],
             manifest["quantization"]["activations"],
             f"{folder_bytes(package) / 1e6:.1f} MB",
             f"{generated['peak_memory_bytes'] / 1e6:.0f} MB",
             f"{evaluation['perplexity']:.2f}",
             f"{evaluation['kl']:.4f}" if reference else "-",
             f"{bench['tg_tps']:,.0f}"]
    return cells, [result["text"] for result in generated["results"]]


def processor() -> str:
    """The processor's name and how many threads this process may run."""
    names = [line.split(":", 1)[1].strip()
             for line in Path("/proc/cpuinfo").read_text().splitlines()
             if line.startswith("model name")]
    threads = len(os.sched_getaffinity(0))
    return f"{names[0] if names else 'this processor'}, {threads} threads"


def print_table(header: list[str], rows: list[list[str]]) -> None:
    """Columns of text to the left, columns of numbers to the right."""
    widths = [max(len(row[i]) for row in [header, *rows])
              for i in range(len(header))]
    for row in [header, *rows]:
        print("  ".join(cell.ljust(width) if i < 3 else cell.rjust(width)
                        for i, (cell, width) in enumerate(zip(row, widths))))


def print_completion(prompt: str, text: str) -> None:
    """Prompt and continuation behind a bar; what the model wrote is bold on
    a terminal. Whole lines only, since the last one may end in mid-word."""
    lines = text.splitlines()
    if len(lines) > 2:
        lines = lines[:-1][:SHOWN_LINES]
    text = "\n".join(lines).rstrip()
    if sys.stdout.isatty():
        text = "\n".join(f"\033[1m{line}\033[0m"
                         for line in text.split("\n"))
    print()
    for line in (prompt + text).splitlines():
        print(f"  | {line}".rstrip())


if __name__ == "__main__":
    main()

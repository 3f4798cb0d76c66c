#!/usr/bin/env python3
# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Compares the statistics of a calibration on a GPU with the processor's.

    gpu_statistics.py FOLDER      of a bundle of gpu_test.py

The bundle holds the tiny model with observers for GPUs, a text, and what the
processor's float32 calibration found. The package is calibrated twice: with
statistics found on the GPU, and with its rows brought to the processor and
those statistics found there. Both see the same rows, so what is counted or a
maximum must be equal, and sums may differ by the order of additions.
The float32 calibration saw rows that differ by the rounding of weights and
inputs to bf16.
"""

from __future__ import annotations

import glob
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
TINY = ROOT / "models/tiny-llama"
TEXT_CHARACTERS = 4000
SECONDS = 60
# Largest differences between two orders of f32 additions of a thousand
# products, and of means in f64; the others are equal.
SUMMED = {"second_moments": 1e-5, "mean_magnitude": 1e-6}
# Of rows in bf16 from those in f32; single maxima differ most. Bins and the
# threshold that is the best of many may jump.
ROUNDED = {"second_moments": 2e-2, "mean_magnitude": 2e-2, "absmax": 6e-2,
           "range": 6e-2, "average_range": 6e-2}


def read(path: Path) -> dict[str, np.ndarray]:
    """Tensors of a safetensors file of f32."""
    data = path.read_bytes()
    first = 8 + int.from_bytes(data[:8], "little")
    tensors = {}
    for name, entry in json.loads(data[8:first]).items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            values = np.frombuffer(data[first + begin : first + end], "<f4")
            tensors[name] = values.reshape(entry["shape"])
    return tensors


def difference(name: str, got: np.ndarray, want: np.ndarray) -> float:
    """The largest, as a part of what bounds the values: for moments of two
    columns the root of their own moments, else the largest value."""
    if not np.isfinite(got).all():
        return float("inf")
    bound = np.abs(want).max()
    if name.endswith(".second_moments"):
        root = np.sqrt(np.diag(want)).astype(np.float64)
        bound = np.maximum(np.outer(root, root), 1e-30)
    return float((np.abs(got - want) / bound).max())


def bundle(build: Path, folder: Path, must) -> None:
    """Writes what `run` needs beside a bundle's other parts."""
    place = folder / "statistics"
    place.mkdir()
    shutil.copy(build / "bin/CalibratePackage", place)
    text = (ROOT / "models/heldout.txt").read_text()[:TEXT_CHARACTERS]
    (place / "text.txt").write_text(text)
    limits = ["--max-batch", "1", "--max-step-tokens", "256", "--observe",
              "--quiet"]
    for name, options in (
            ("processor", ["--weights", "f32"]),
            ("package", ["--target", "cuda", "--weights", "bf16",
                         "--activations", "bf16"])):
        must([build / "bin/quantc", TINY, "-o", place / name, *options,
              *limits], timeout=1800)
    must([place / "CalibratePackage", place / "processor", place / "text.txt",
          place / "float32.safetensors", "cpu"], timeout=SECONDS)
    shutil.rmtree(place / "processor")


def calibrate(place: Path, device: str) -> Path | str:
    """The statistics' file, or what went wrong."""
    libraries = [str(place.parent / "lib")]
    for pattern in ("/usr/local/cuda*/lib64", "/usr/local/cuda*/targets/*/lib"):
        libraries += sorted(glob.glob(pattern))
    known = os.environ.get("LD_LIBRARY_PATH")
    environment = dict(os.environ, LD_LIBRARY_PATH=":".join(
        libraries + ([known] if known else [])))
    output = place / f"{device}.safetensors"
    output.unlink(missing_ok=True)
    try:
        result = subprocess.run(
            [place / "CalibratePackage", place / "package", place / "text.txt",
             output, device], capture_output=True, text=True, timeout=SECONDS,
            check=False, env=environment)
    except subprocess.TimeoutExpired:
        return f"did not end in {SECONDS} s"
    return output if result.returncode == 0 else result.stderr.strip()[-500:]


def compare(title: str, got: dict, want: dict, bounds: dict) -> bool:
    """Prints a line for each kind of statistic; whether all are near."""
    worst: dict[str, float] = {}
    for name, values in want.items():
        kind = name.rsplit(".", 1)[1]
        if kind in bounds:
            found = difference(name, got[name], values)
            worst[kind] = max(worst.get(kind, 0), found)
    for kind, found in worst.items():
        good = found <= bounds[kind]
        print(f"{title:22} {kind:15} {found:9.2e} {bounds[kind]:9.0e} "
              f"{'ok' if good else 'DIFFERS'}")
    return bool(worst) and all(worst[kind] <= bounds[kind] for kind in worst)


def run(folder: Path) -> bool:
    place = folder / "statistics"
    files = {}
    for device in ("cuda", "cpu"):
        made = calibrate(place, device)
        if isinstance(made, str):
            print(f"statistics on {device}: {made}")
            # The library comes with the CUDA toolkit, not with the driver.
            return made.startswith("cannot open cuBLAS")
        files[device] = read(made)
    kinds = {name.rsplit(".", 1)[1] for name in files["cpu"]}
    exact = {kind: SUMMED.get(kind, 0.0) for kind in sorted(kinds)}
    print(f"{'statistics on a GPU':22} {'of inputs':15} {'differ':>9} "
          f"{'bound':>9}")
    same = compare("from rows on the host", files["cuda"], files["cpu"], exact)
    float32 = read(place / "float32.safetensors")
    return compare("from float32", files["cuda"], float32, ROUNDED) and same


if __name__ == "__main__":
    sys.exit(0 if run(Path(sys.argv[1]).resolve()) else 1)

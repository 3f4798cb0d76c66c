# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Draws what each scheme rounds numbers to, with qlm.functional.

    PYTHONPATH=build/release/python draw_schemes.py docs

One strip a scheme: the real line from the smallest to the largest number, a
tick for each value that a code stands for, and the norm of the error as a part
of the numbers' own. `quantization.svg` has 4,096 normal weights that share a
scale; `quantization-inputs.svg` a token's 4,096 inputs, three of which are
outliers; `quantization-scales.svg` the scales of 512 groups of 64 weights.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from qlm import functional as f

WIDTH, LEFT, STRIP = 720, 150, 34


def strips(x: np.ndarray) -> list[tuple[str, np.ndarray, float]]:
    """Name, values and relative error of each scheme, for a row of weights."""
    group = x.shape[1]
    made = [
        ("int8", f.quantize_symmetric(x)),
        ("int8, zero point", f.quantize_asymmetric(x)),
        ("int4", f.quantize_per_group(x, group)),
        ("int4, zero point", f.quantize_per_group(x, group, zero_points=True)),
        ("nf4", f.quantize_nf4(x, group)),
        ("fp8 E4M3", f.quantize_fp8(x)),
    ]
    rows = []
    for name, q in made:
        values = f.dequantize(q)
        error = float(np.linalg.norm(values - x) / np.linalg.norm(x))
        rows.append((name, np.unique(values), error))
    return rows


def input_strips(x: np.ndarray, seen: float) -> list[tuple]:
    """A token rounded by its own scale, LLM.int8's, and a static scale of a
    calibration that saw magnitudes up to `seen`."""
    wide = np.abs(x) >= 6
    rest = np.where(wide, np.float32(0), x)
    dynamic = f.dequantize(f.quantize_symmetric(x))
    parted = f.dequantize(f.quantize_symmetric(rest))
    scale = np.float32(seen / 127)
    static = np.clip(np.rint(x / scale), -127, 127) * scale
    return [
        (name, np.unique(values),
         float(np.linalg.norm(values - x) / np.linalg.norm(x)))
        for name, values in (("int8-dynamic", dynamic),
                             ("LLM.int8", np.where(wide, x, parted)),
                             ("int8-static", static))
    ]


def scale_strips(x: np.ndarray) -> tuple[np.ndarray, list[tuple]]:
    """The scales of nf4, and what 8 bits say of them."""
    plain = f.quantize_nf4(x, 64).scales.ravel()
    doubled = f.quantize_nf4(x, 64, double_quant=True).scales.ravel()
    error = float(np.linalg.norm(doubled - plain) / np.linalg.norm(plain))
    return plain[None], [("nf4's f32 scales", np.unique(plain), 0.0),
                         ("double quantized", np.unique(doubled), error)]


def draw(x: np.ndarray, rows: list[tuple]) -> str:
    """The picture as SVG."""
    height = STRIP * len(rows) + 30
    low, high = float(x.min()), float(x.max())

    def place(value: float) -> float:
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - 110)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" '
        f'height="{height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{WIDTH - 100}" y="16" fill="#555">error</text>',
    ]
    for i, (name, values, error) in enumerate(rows):
        y = 26 + i * STRIP
        parts.append(f'<text x="8" y="{y + 14}">{name}</text>')
        ticks = " ".join(
            f"M{place(v):.1f} {y}v18"
            for v in values
            if low <= v <= high
        )
        thin = 0.4 if len(values) > 40 else 1.5
        parts.append(
            f'<path d="{ticks}" stroke="#1f5fa8" stroke-width="{thin}"/>'
        )
        parts.append(
            f'<text x="{WIDTH - 100}" y="{y + 14}">{100 * error:.2f} %</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("output", type=Path, metavar="FOLDER")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    weights = rng.normal(0, 0.02, (1, 4096)).astype(np.float32)
    inputs = rng.normal(0, 1, (1, 4096)).astype(np.float32)
    inputs[0, [100, 1000, 2000]] = 18, -25, 31
    scales, of_scales = scale_strips(
        rng.normal(0, 0.02, (8, 4096)).astype(np.float32))
    pictures = {
        "quantization.svg": (weights, strips(weights)),
        "quantization-inputs.svg": (inputs, input_strips(inputs, 40)),
        "quantization-scales.svg": (scales, of_scales),
    }
    for file, (x, rows) in pictures.items():
        (args.output / file).write_text(draw(x, rows))
        for name, values, error in rows:
            print(f"{name:18} {len(values):4} values, "
                  f"error {100 * error:.2f} %")


if __name__ == "__main__":
    main()

# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Draws latency against load as SVG, of one server or of several.

    python plot.py OUT.svg OURS=ours.json PEER=peer.json

The files are what `load.py --json` printed. Left the time to the first token,
right the time between tokens; the thicker a line, the lower its percentile.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

COLORS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd")
PARTS = ((50, 3.0), (95, 1.8), (99, 0.9))
PANELS = (("ttft", "first token"), ("itl", "between tokens"))
WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 360, 300, 58, 44, 46


class Panel:
    """One pair of axes, both logarithmic.

    Parameters
    ----------
    left : float
        Where it begins.
    rates, seconds : list of float
        What must fit in.
    """

    def __init__(
        self, left: float, rates: list[float], seconds: list[float]
    ) -> None:
        self.left = left
        self.rates = sorted(set(rates))
        self.low = math.floor(math.log10(min(seconds)))
        self.high = max(math.ceil(math.log10(max(seconds))), self.low + 1)

    def place(self, rate: float, seconds: float) -> tuple[float, float]:
        """Where a point lies."""
        first, last = self.rates[0], self.rates[-1]
        part = math.log(rate / first) / (math.log(last / first) or 1)
        down = (self.high - math.log10(seconds)) / (self.high - self.low)
        return (
            self.left + LEFT + part * (WIDTH - LEFT - 20),
            TOP + down * (HEIGHT - TOP - BOTTOM),
        )

    def axes(self, title: str) -> list[str]:
        """The grid and its numbers."""
        right = self.left + WIDTH - 20
        lines = [
            f'<text x="{self.left + LEFT}" y="{TOP - 8}">{title}</text>',
            f'<text x="{self.left + WIDTH / 2}" y="{HEIGHT - 8}">'
            "requests/s</text>",
        ]
        for power in range(self.low, self.high + 1):
            _, y = self.place(self.rates[0], 10.0**power)
            lines.append(
                f'<line x1="{self.left + LEFT}" x2="{right}" y1="{y:.1f}" '
                f'y2="{y:.1f}" stroke="#ddd"/><text x="{self.left + 4}" '
                f'y="{y + 4:.1f}">{10.0**power:g} s</text>'
            )
        for rate in self.rates:
            x, _ = self.place(rate, 10.0**self.low)
            lines.append(
                f'<text x="{x - 6:.1f}" y="{HEIGHT - 26}">{rate:g}</text>'
            )
        return lines

    def line(self, rows: list[dict], key: str, color: str, width: float) -> str:
        """One percentile of one server."""
        points = " ".join(
            "{:.1f},{:.1f}".format(*self.place(row["rate"], row[key]))
            for row in rows
            if row[key] == row[key] and row[key] > 0
        )
        return (
            f'<polyline points="{points}" fill="none" stroke="{color}" '
            f'stroke-width="{width}"/>'
        )


def draw(servers: dict[str, list[dict]], path: Path, title: str) -> None:
    """Write the plot.

    Parameters
    ----------
    servers : dict
        Names and rows of `load.py`.
    path : Path
    title : str
    """
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * WIDTH}" '
        f'height="{HEIGHT}" font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="8" y="16">{title}; lines: p50 (thick), p95, p99 (thin)'
        "</text>",
    ]
    for index, name in enumerate(servers):
        lines.append(
            f'<text x="{WIDTH + 120 * index}" y="16" '
            f'fill="{COLORS[index % len(COLORS)]}">{name}</text>'
        )
    for number, (measure, words) in enumerate(PANELS):
        rows = [row for each in servers.values() for row in each]
        seconds = [
            row[f"{measure}_p{part}"] for row in rows for part, _ in PARTS
        ]
        seconds = [value for value in seconds if value > 0]
        panel = Panel(
            number * WIDTH, [row["rate"] for row in rows], seconds or [1.0]
        )
        lines += panel.axes(words)
        for index, each in enumerate(servers.values()):
            for part, width in PARTS:
                lines.append(
                    panel.line(each, f"{measure}_p{part}",
                               COLORS[index % len(COLORS)], width)
                )  # fmt: skip
    path.write_text("\n".join([*lines, "</svg>", ""]), encoding="utf-8")


def main() -> None:
    """Run the command."""
    servers = {}
    for argument in sys.argv[2:]:
        name, _, file = argument.partition("=")
        servers[name] = json.loads(Path(file).read_text())
    draw(servers, Path(sys.argv[1]), "latency against load")


if __name__ == "__main__":
    main()

# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The table of what the GPU target is to reach (scripts/gpu_numbers.py)."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "scripts"))
import gpu_numbers  # noqa: E402


def rows(capsys, measured):
    gpu_numbers.print_goals(measured)
    lines = capsys.readouterr().out.splitlines()
    return {work: next(line for line in lines if line.startswith(f"{work:42}"))
            for work, *_ in gpu_numbers.GOALS}


def test_says_what_is_reached(capsys):
    found = rows(capsys, {"7b-int4 1": 649.0, "7b-nf4 1": 500.0,
                          "7b-int4 8": 2999.0, "7b-w8a8 8": 3001.0,
                          "w4a16-m1 us": 9.1, "w4a16-m16 us": 9.5})
    assert found["7B int4 g128, batch 1"].endswith("below")
    assert found["7B NF4, double quantization"].endswith("reached")
    # The best of several formats counts.
    assert "3001" in found["7B batch 8"]
    assert found["7B batch 8"].endswith("reached")
    # Microseconds are better the fewer they are.
    assert found["W4A16 4096x11008, m = 1"].endswith("below")
    assert found["W4A16 4096x11008, m = 16"].endswith("reached")


def test_has_no_verdict_without_a_figure(capsys):
    for row in rows(capsys, {}).values():
        assert not row.rstrip().endswith(("reached", "below"))


def test_everything_asked_for_is_measured():
    """Labels of the kernels' lists and names of models, as GOALS has them."""
    labels = set()
    for cases in gpu_numbers.KERNELS.values():
        text = (ROOT / f"benchmarks/kernels/cuda/{cases}.txt").read_text()
        labels |= {word.partition("=")[2] for word in text.split()
                   if word.startswith("label=")}
    for _, keys, unit, *_ in gpu_numbers.GOALS:
        for key in keys:
            name, _, what = key.rpartition(" ")
            if what in ("us", "gbps", "tflops"):
                assert name in labels
                continue
            assert name in gpu_numbers.MODELS
            batches = gpu_numbers.BATCHES.get(name, "1").split(",")
            assert (what in batches or what in ("load", "start")
                    or what == "prefill" and name in gpu_numbers.PREFILLED)

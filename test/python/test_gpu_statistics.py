# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Tests of the comparison of a GPU's statistics (scripts/gpu_statistics.py)."""

import json
import sys
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[2] / "scripts"))
import gpu_statistics  # noqa: E402


def moments(seed: int) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((64, 8)) * np.arange(1, 9)
    return (x.T @ x / 64).astype(np.float32)


def test_reads_safetensors(tmp_path):
    want = {"layers.0.qkv.range": np.array([-1, 2], np.float32),
            "layers.0.qkv.second_moments": moments(0)}
    header, data = {"__metadata__": {"tokens": "3"}}, b""
    for name, values in want.items():
        begin = len(data)
        data += values.tobytes()
        header[name] = {"dtype": "F32", "shape": list(values.shape),
                        "data_offsets": [begin, len(data)]}
    text = json.dumps(header).encode()
    path = tmp_path / "statistics"
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    got = gpu_statistics.read(path)
    assert got.keys() == want.keys()
    for name, values in want.items():
        np.testing.assert_array_equal(got[name], values)


def test_moments_are_compared_by_their_columns():
    want = moments(0)
    got = want.copy()
    # Small columns must not hide behind large ones.
    got[0, 0] *= 1.5
    assert abs(gpu_statistics.difference("x.second_moments", got, want)
               - 0.5) < 1e-6
    assert gpu_statistics.difference("x.absmax", got, want) < 0.01


def test_tells_what_differs(capsys):
    want = {"a.absmax": np.ones(3, np.float32),
            "b.absmax": np.ones(3, np.float32)}
    assert gpu_statistics.compare("same", dict(want), want, {"absmax": 0.0})
    for bad in (1.001, np.nan, np.inf):
        got = want | {"b.absmax": np.array([1, bad, 1], np.float32)}
        assert not gpu_statistics.compare("other", got, want, {"absmax": 0.0})
    assert "DIFFERS" in capsys.readouterr().out
    # Nothing compared is nothing shown.
    assert not gpu_statistics.compare("none", want, want, {"range": 0.0})

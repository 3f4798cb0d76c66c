"""Runs definitions of operations, for comparisons with float64 NumPy formulas."""

import subprocess

import numpy as np
import pytest
from toolchain import BIN

REFEREE = BIN / "qlm-referee"

NUMPY = {"f32": np.float32, "f16": np.float16, "i32": np.int32,
         "i8": np.int8, "i4": np.int8, "ui8": np.uint8, "ui4": np.uint8,
         "f8E4M3FN": np.uint8}

SYMMETRIC = "#qlm.scheme<i4, group, 8, range [-8, 7], bound 7.5, scales f16>"
ZERO_POINTS = "#qlm.scheme<ui4, group, 8, zero_points, range [0, 15], scales f16>"
ROW = "#qlm.scheme<i8, row, range [-127, 127], bound 127.0, scales f32>"
CHANNEL = "#qlm.scheme<i8, channel, range [-127, 127], bound 127.0, scales f32>"


def tensor(array, element="f32"):
    return f"tensor<{'x'.join(map(str, array.shape))}x{element}>"


def run(folder, body, inputs, results):
    """Runs `body`, whose values are named as the inputs and the results.

    inputs: {name: (array, element)}; results: {name: (shape, element)}.
    """
    arguments = ", ".join(f"%{name}: {tensor(array, element)}"
                          for name, (array, element) in inputs.items())
    types = ", ".join(f"tensor<{'x'.join(map(str, shape))}x{element}>"
                      for shape, element in results.values())
    names = ", ".join(f"%{name}" for name in results)
    text = (f"func.func @main({arguments}) -> ({types}) {{\n{body}\n"
            f"  return {names} : {types}\n}}\n")
    path = folder / "main.mlir"
    path.write_text(text)
    command = [REFEREE, path]
    for name, (array, element) in inputs.items():
        file = folder / f"{name}.in"
        array = np.ascontiguousarray(array, NUMPY[element])
        if element == "i4":
            array = array & 15
        array.tofile(file)
        command.append(f"--input={file}")
    for name in results:
        command.append(f"--output={folder / name}.out")
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    outputs = []
    for name, (shape, element) in results.items():
        array = np.fromfile(folder / f"{name}.out", NUMPY[element])
        if element == "i4":
            array = ((array & 15) ^ 8) - 8
        if element == "ui4":
            array = array & 15
        outputs.append(array.reshape(shape))
    return outputs


def relative_error(actual, expected):
    expected = np.asarray(expected, np.float64)
    difference = np.linalg.norm(actual.astype(np.float64) - expected)
    return difference / max(np.linalg.norm(expected), 1e-30)


@pytest.fixture
def rng():
    return np.random.default_rng(20261123)


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def rotate(x, positions, frequencies):
    """x: [tokens, heads, headDim] float64."""
    half = x.shape[-1] // 2
    angle = (positions[:, None].astype(np.float32)
             * frequencies[None, :].astype(np.float32)).astype(np.float64)
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    first, second = x[..., :half], x[..., half:]
    return np.concatenate([first * cos - second * sin,
                           second * cos + first * sin], axis=-1)


def attend(q, k, v, scale, causal=True):
    """q: [tokens, heads, d]; k, v: [tokens, kvHeads, d]; float64."""
    group = q.shape[1] // k.shape[1]
    k, v = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)
    scores = np.einsum("thd,uhd->htu", q, k) * scale
    if causal:
        hidden = np.triu(np.ones(scores.shape[1:], bool), 1)
        scores = np.where(hidden, -np.inf, scores)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return np.einsum("htu,uhd->thd", weights, v)

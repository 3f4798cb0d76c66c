# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The compiler's numerics equal the NumPy reference, bit for bit."""

from __future__ import annotations

import pathlib
import subprocess
import zlib

import numpy as np
import pytest

import numpy_reference as reference
import referee
from numpy_reference import Scheme
from toolchain import BIN

ROOT = pathlib.Path(__file__).resolve().parents[2]

INT8 = Scheme(8, "channel")
INT8_F16 = Scheme(8, "channel", scale_type="f16")
INT8_TENSOR = Scheme(8, "tensor")
INT8_ZP = Scheme(8, "channel", zero_points=True, lo=0, hi=255)


def int4(group: int, scale_type: str = "f16") -> Scheme:
    """The compiler's symmetric int4 scheme."""
    return Scheme(4, "group", group, False, -8, 7, 7.5, scale_type)


def int4_zp(group: int, scale_type: str = "f16") -> Scheme:
    """The compiler's int4 scheme with zero points."""
    return Scheme(4, "group", group, True, 0, 15, 0.0, scale_type)


NF4 = Scheme(4, "group", 64, codebook="nf4")
FP8 = Scheme(8, "channel", codebook="fp8")

SCHEMES = [NF4, Scheme(4, "group", 5, codebook="nf4", scale_type="f16"), FP8,
           Scheme(8, "tensor", codebook="fp8"),
           Scheme(8, "tensor", zero_points=True, lo=0, hi=255), INT8, INT8_F16, INT8_TENSOR, INT8_ZP, int4(1), int4(8), int4(32),
           int4(128), int4(43, "f32"), int4_zp(8), int4_zp(32), int4_zp(128),
           int4_zp(13, "f32")]
AWKWARD_SIZES = [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 47]


def run_tool(*arguments: object) -> subprocess.CompletedProcess:
    """Runs qlm-numerics."""
    return subprocess.run([BIN / "qlm-numerics", *map(str, arguments)], text=True,
                          capture_output=True, timeout=60)


def run_rtn(folder: pathlib.Path, weights: np.ndarray,
            scheme: Scheme) -> subprocess.CompletedProcess:
    """Quantizes weights into the folder's files `out.*`."""
    weights.astype(np.float32).tofile(folder / "weights")
    return run_tool("rtn", folder / "weights", *weights.shape,
                    scheme.bits if scheme.codebook == "uniform"
                    else scheme.codebook, scheme.granularity, scheme.group_size,
                    int(scheme.zero_points), scheme.lo, scheme.hi,
                    448.0 if scheme.codebook == "fp8" else scheme.bound,
                    scheme.scale_type, folder / "out")


def make_weights(rng: np.random.Generator, rows: int, columns: int,
                 kind: str) -> np.ndarray:
    """Random weights of a kind that strains one rule."""
    weights = rng.normal(0, 0.02, (rows, columns)).astype(np.float32)
    if kind == "zeros":
        weights[rng.random(rows) < 0.5] = 0
        weights[:, :columns // 2] *= rng.random() < 0.5
    elif kind == "ties":
        weights = rng.integers(-15, 16, (rows, columns)).astype(np.float32) / 2
    elif kind == "tiny":
        weights *= np.float32(2.0) ** rng.integers(-140, -10, (rows, 1))
    elif kind == "positive":
        weights = np.abs(weights) + np.float32(0.1)
    elif kind == "outliers":
        weights[rng.random((rows, columns)) < 0.02] *= 1000
    return weights


@pytest.mark.parametrize("kind", ["normal", "zeros", "ties", "tiny",
                                  "positive", "outliers"])
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_rtn_equals_reference(scheme: Scheme, kind: str,
                              tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(zlib.crc32(f"{scheme} {kind}".encode()))
    for _ in range(3):
        rows = int(rng.choice(AWKWARD_SIZES))
        unit = scheme.group_size or 1
        columns = unit * int(rng.choice([1, 2, 3, 5]))
        if unit == 1:
            columns = int(rng.choice(AWKWARD_SIZES))
        weights = make_weights(rng, rows, columns, kind)
        codes, scales, zero_points = reference.rtn(weights, scheme)
        if not np.isfinite(scales).all():
            continue
        done = run_rtn(tmp_path, weights, scheme)
        assert done.returncode == 0, done.stderr
        stored = scales.astype(
            np.float16 if scheme.scale_type == "f16" else np.float32)
        expected = {
            "codes": codes.tobytes(),
            "scales": stored.tobytes(),
            "zero_points": zero_points.tobytes(),
            "values": reference.dequantize(codes, scales, zero_points,
                                           scheme).tobytes(),
            "again": codes.tobytes(),
            "packed_codes": reference.pack(scheme.layout, codes,
                                           scheme.offset),
            "packed_scales": reference.pack("scale16", stored),
            "packed_zero_points": reference.pack(
                "zero16", zero_points.astype(scheme.code_type), scheme.offset),
        }
        for name, content in expected.items():
            actual = (tmp_path / f"out.{name}").read_bytes()
            assert actual == content, (name, rows, columns)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("scheme", [INT8, int4(8), int4_zp(8)], ids=str)
def test_rtn_refuses_infinite_weights(scheme: Scheme, value: float,
                                      tmp_path: pathlib.Path) -> None:
    weights = np.ones((3, 24), np.float32)
    weights[2, 17] = value
    done = run_rtn(tmp_path, weights, scheme)
    assert done.returncode == 1
    text = "nan" if np.isnan(value) else str(value)
    assert f"weight must be finite, got {text} at [2, 17]" in done.stderr


@pytest.mark.parametrize("scheme", [int4(8), int4_zp(8)], ids=str)
def test_rtn_refuses_overflowing_scales(scheme: Scheme,
                                        tmp_path: pathlib.Path) -> None:
    weights = np.ones((3, 24), np.float32)
    weights[1, 9] = 1.2e6
    done = run_rtn(tmp_path, weights, scheme)
    assert done.returncode == 1
    assert "scale must fit its type" in done.stderr
    assert "from [1, 8]" in done.stderr


@pytest.mark.parametrize("scale", [1e-43, 1e-38, 1e-37, 1e-3, 1.0, 3e38])
@pytest.mark.parametrize("columns", [1, 5, 16, 17, 333])
def test_dynamic_quantize_equals_reference(columns: int, scale: float,
                                           tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(columns)
    values = rng.uniform(-1, 1, (6, columns)).astype(np.float32)
    values = (values * np.float32(scale)).astype(np.float32)
    values[0] = 0
    values[:, -1] = 0
    values.tofile(tmp_path / "in")
    done = run_tool("dynamic", tmp_path / "in", *values.shape,
                    tmp_path / "out")
    assert done.returncode == 0, done.stderr
    codes, scales = reference.dynamic_quantize(values)
    assert (tmp_path / "out.codes").read_bytes() == codes.tobytes()
    assert (tmp_path / "out.scales").read_bytes() == scales.tobytes()


def all_floats16() -> np.ndarray:
    """Every finite binary16 and the infinities."""
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    return halves[~np.isnan(halves)]


def awkward_floats() -> np.ndarray:
    """f32 of all exponents, and neighbours of each tie between halves."""
    rng = np.random.default_rng(7)
    bits = rng.integers(0, 2**32, 100_000, np.uint64).astype(np.uint32)
    ties = all_floats16().astype(np.float32).view(np.uint32) + (1 << 12)
    coarse = (rng.integers(0, 2**16, 5000).astype(np.uint32) << 16) + (1 << 15)
    values = np.concatenate([bits, ties, ties - 1, ties + 1, coarse,
                             coarse - 1, coarse + 1]).view(np.float32)
    return values[~np.isnan(values)]


def convert(folder: pathlib.Path, values: np.ndarray, source: str,
            target: str) -> np.ndarray:
    """Runs `qlm.convert`; the result as bits."""
    values.tofile(folder / "in")
    done = run_tool("convert", folder / "in", source, target, folder / "out")
    assert done.returncode == 0, done.stderr
    return np.fromfile(folder / "out",
                       np.uint32 if target == "f32" else np.uint16)


def test_convert_rounds_f32_to_f16(tmp_path: pathlib.Path) -> None:
    values = awkward_floats()
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16).view(np.uint16)
    assert np.array_equal(convert(tmp_path, values, "f32", "f16"), expected)


def test_convert_rounds_f32_to_bf16(tmp_path: pathlib.Path) -> None:
    values = awkward_floats()
    expected = reference.to_bfloat16(values)
    assert np.array_equal(convert(tmp_path, values, "f32", "bf16"), expected)


def test_convert_extends_exactly(tmp_path: pathlib.Path) -> None:
    halves = all_floats16()
    expected = halves.astype(np.float32)
    assert np.array_equal(convert(tmp_path, halves, "f16", "f32"),
                          expected.view(np.uint32))
    assert np.array_equal(convert(tmp_path, halves, "f16", "bf16"),
                          reference.to_bfloat16(expected))
    brains = np.arange(2**16, dtype=np.uint32) << 16
    brains = brains[~np.isnan(brains.view(np.float32))]
    shorts = (brains >> 16).astype(np.uint16)
    assert np.array_equal(convert(tmp_path, shorts, "bf16", "f32"), brains)
    with np.errstate(over="ignore"):
        rounded = brains.view(np.float32).astype(np.float16)
    assert np.array_equal(convert(tmp_path, shorts, "bf16", "f16"),
                          rounded.view(np.uint16))


@pytest.mark.parametrize("target", ["f16", "bf16"])
def test_convert_keeps_nan(target: str, tmp_path: pathlib.Path) -> None:
    # Payloads in the low bits alone must not round to infinity.
    bits = np.uint32([0x7f800001, 0xff800001, 0x7fc00000, 0x7fffffff])
    short = convert(tmp_path, bits, "f32", target)
    back = convert(tmp_path, short, target, "f32").view(np.float32)
    assert np.isnan(back).all()


PACKINGS = [("f32x16", np.float32, 0), ("f16x16", np.float16, 0),
            ("bf16x16x2", np.uint16, 0), ("i8x16x4", np.int8, 128),
            ("i8x16x4", np.uint8, 0), ("i4x16x8", np.int8, 8),
            ("i4x16x8", np.uint8, 0), ("scale16", np.float32, 0),
            ("scale16", np.float16, 0), ("zero16", np.uint8, 0),
            ("f8x16x4", np.uint8, 0), ("scale8", np.uint8, 0),
            ("bias", np.float32, 0), ("frag16", np.uint16, 0),
            ("frag8", np.int8, 128), ("frag8", np.uint8, 0),
            ("frag8x8", np.int8, 0), ("frag4", np.int8, 8),
            ("frag4", np.uint8, 0)]


@pytest.mark.parametrize("layout, element, offset", PACKINGS)
def test_pack_equals_reference_and_unpacks(layout: str, element: type,
                                           offset: int,
                                           tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(11)
    sizes = [(1, 1), (15, 7), (16, 8), (17, 9), (33, 255), (32, 513),
             (5, 1030)]
    for rows, columns in sizes:
        columns = 1 if layout == "bias" else columns
        if layout in ("i4x16x8", "frag4"):
            low, high = (-8, 8) if offset else (0, 16)
            matrix = rng.integers(low, high, (rows, columns)).astype(element)
        elif np.issubdtype(element, np.integer):
            info = np.iinfo(element)
            matrix = rng.integers(info.min, info.max + 1,
                                  (rows, columns)).astype(element)
        else:
            matrix = rng.normal(size=(rows, columns)).astype(element)
        matrix.tofile(tmp_path / "in")
        done = run_tool("pack", layout, tmp_path / "in", rows, columns,
                        matrix.itemsize, offset, tmp_path / "out")
        assert done.returncode == 0, done.stderr
        packed = (tmp_path / "out.packed").read_bytes()
        assert packed == reference.pack(layout, matrix, offset), (rows, columns)
        assert (tmp_path / "out.unpacked").read_bytes() == matrix.tobytes()


def storage_of(scheme: Scheme) -> str:
    """The element type of a scheme's codes."""
    if scheme.codebook == "fp8":
        return "f8E4M3FN"
    return f"{'i' if scheme.offset else 'ui'}{scheme.bits}"


def scheme_text(scheme: Scheme) -> str:
    """The scheme as the dialect spells it."""
    storage = storage_of(scheme)
    group = f" {scheme.group_size}," if scheme.granularity == "group" else ""
    if scheme.codebook != "uniform":
        rest = "nf4" if scheme.codebook == "nf4" else "bound 448.0"
        return (f"#qlm.scheme<{storage}, {scheme.granularity},{group} {rest}, "
                f"scales {scheme.scale_type}>")
    asymmetric = " zero_points," if scheme.zero_points else ""
    bound = "" if scheme.zero_points else f" bound {scheme.bound},"
    return (f"#qlm.scheme<{storage}, {scheme.granularity},{group}{asymmetric} "
            f"range [{scheme.lo}, {scheme.hi}],{bound} scales "
            f"{scheme.scale_type}>")


@pytest.mark.parametrize("scheme", [Scheme(4, "group", 24, codebook="nf4"),
                                    FP8, INT8, INT8_ZP, INT8_TENSOR, int4(8),
                                    int4(24, "f32"), int4_zp(8),
                                    int4_zp(24)], ids=str)
def test_rtn_and_pack_equal_definitions(scheme: Scheme,
                                        tmp_path: pathlib.Path) -> None:
    if not referee.REFEREE.exists():
        pytest.skip("qlm-referee is not built")
    rng = np.random.default_rng(zlib.crc32(str(scheme).encode()))
    rows, columns = 19, 48
    weights = make_weights(rng, rows, columns, "ties") * np.float32(0.37)
    weights[3] = 0
    done = run_rtn(tmp_path, weights, scheme)
    assert done.returncode == 0, done.stderr

    storage = storage_of(scheme)
    scale_shape = {"channel": (rows,), "tensor": (1,)}.get(
        scheme.granularity, (rows, columns // (scheme.group_size or 1)))
    layout, cell = scheme.layout, 8 if scheme.bits == 4 else 4
    codes = ((rows, columns), storage)
    scales = (scale_shape, scheme.scale_type)
    results = {"c": codes, "s": scales}
    if scheme.zero_points:
        results["z"] = (scale_shape, storage)
    values = "dequantize %c scales %s"
    values += " zero_points %z" if scheme.zero_points else ""
    types = [f"tensor<{'x'.join(map(str, shape))}x{element}>"
             for shape, element in results.values()]
    attribute = f"{{scheme = {scheme_text(scheme)}}}"
    body = f"""
      {', '.join(f'%{name}' for name in results)} = qlm.rtn %w {attribute}
          : tensor<{rows}x{columns}xf32> to {', '.join(types)}
      %d = qlm.{values} {attribute}
          : {', '.join(types)} -> tensor<{rows}x{columns}xf32>
      %p = qlm.pack %c {{layout = #qlm.layout<{layout}>, name = "p"}}
          : {types[0]} to tensor<2x{columns // cell}x64xi8>"""
    results["d"] = ((rows, columns), "f32")
    results["p"] = ((2, columns // cell, 64), "i8")
    outputs = dict(zip(results, referee.run(
        tmp_path, body, {"w": (weights, "f32")}, results)))
    files = {"c": "codes", "s": "scales", "z": "zero_points", "d": "values",
             "p": "packed_codes"}
    for name, output in outputs.items():
        actual = (tmp_path / f"out.{files[name]}").read_bytes()
        assert actual == output.tobytes(), files[name]


@pytest.mark.parametrize("scale", [1e-36, 1e-3, 1.0, 3e38])
def test_dynamic_quantize_equals_definition(scale: float,
                                            tmp_path: pathlib.Path) -> None:
    if not referee.REFEREE.exists():
        pytest.skip("qlm-referee is not built")
    rng = np.random.default_rng(5)
    values = (rng.uniform(-1, 1, (5, 37)) * scale).astype(np.float32)
    values[2] = 0
    values.tofile(tmp_path / "in")
    done = run_tool("dynamic", tmp_path / "in", *values.shape,
                    tmp_path / "out")
    assert done.returncode == 0, done.stderr
    row = "#qlm.scheme<i8, row, range [-127, 127], bound 127.0, scales f32>"
    codes, scales = referee.run(
        tmp_path, f"""
      %c, %s = qlm.dynamic_quantize %x {{scheme = {row}}}
          : tensor<5x37xf32> -> tensor<5x37xi8>, tensor<5xf32>""",
        {"x": (values, "f32")}, {"c": ((5, 37), "i8"), "s": ((5,), "f32")})
    assert (tmp_path / "out.codes").read_bytes() == codes.tobytes()
    assert (tmp_path / "out.scales").read_bytes() == scales.tobytes()


def all_float8(rng: np.random.Generator) -> np.ndarray:
    """f32 around every f8E4M3FN, and around the middles between them."""
    table = reference.FLOAT8
    ties = (table[:-1] + table[1:]) / np.float32(2)
    near = np.concatenate([table, ties])
    near = np.concatenate([near, np.nextafter(near, np.float32(0)),
                           np.nextafter(near, np.float32(np.inf))])
    wild = rng.integers(0, 2**32, 50_000, np.uint64).astype(np.uint32)
    wild = wild.view(np.float32)
    return np.concatenate([near, -near, wild[~np.isnan(wild)]])


def test_float8_equals_reference(tmp_path: pathlib.Path) -> None:
    values = all_float8(np.random.default_rng(3))
    values.tofile(tmp_path / "in")
    done = run_tool("float8", tmp_path / "in", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    bits = reference.to_float8(values)
    assert (tmp_path / "out.bits").read_bytes() == bits.tobytes()
    assert (tmp_path / "out.values").read_bytes() == \
        reference.from_float8(bits).tobytes()


def test_float8_equals_ml_dtypes() -> None:
    float8 = pytest.importorskip("ml_dtypes").float8_e4m3fn
    values = all_float8(np.random.default_rng(4))
    values = values[np.abs(values) <= 448]
    assert np.array_equal(values.astype(float8).view(np.uint8),
                          reference.to_float8(values))
    everything = np.arange(256, dtype=np.uint8)
    everything = everything[everything & 127 != 127]
    assert np.array_equal(everything.view(float8).astype(np.float32),
                          reference.from_float8(everything))


@pytest.mark.parametrize("rows, groups", [(1, 1), (3, 5), (16, 16), (17, 31),
                                          (40, 33)])
def test_double_quantization_equals_reference_and_definition(
        rows: int, groups: int, tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(rows)
    scales = np.abs(rng.normal(0.1, 0.03, (rows, groups))).astype(np.float32)
    scales.ravel()[::7] = 0
    if rows == 3:
        scales[:] = 0.25  # all equal: every block's scale is 0
    scales.tofile(tmp_path / "in")
    done = run_tool("double", tmp_path / "in", scales.size, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    codes, superscales = reference.quantize_scales(scales)
    again = reference.dequantize_scales(codes, superscales)
    if rows == 3:
        assert np.array_equal(again, scales)
    expected = {"codes": codes, "super": superscales, "scales": again}
    for name, array in expected.items():
        actual = (tmp_path / f"out.{name}").read_bytes()
        assert actual == array.tobytes(), name
    if not referee.REFEREE.exists():
        pytest.skip("qlm-referee is not built")
    matrix = f"tensor<{rows}x{groups}x"
    outputs = referee.run(
        tmp_path, f"""
      %c, %t = qlm.quantize_scales %s
          : {matrix}f32> to {matrix}ui8>, tensor<{superscales.size}xf32>
      %d = qlm.dequantize_scales %c, %t
          : {matrix}ui8>, tensor<{superscales.size}xf32> to {matrix}f32>""",
        {"s": (scales, "f32")},
        {"c": (scales.shape, "ui8"), "t": (superscales.shape, "f32"),
         "d": (scales.shape, "f32")})
    for output, array in zip(outputs, expected.values()):
        assert output.tobytes() == array.tobytes()


def test_codes_equal_bitsandbytes() -> None:
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("bitsandbytes.functional")
    rng = np.random.default_rng(8)
    weights = rng.normal(0, 0.02, (48, 320)).astype(np.float32)
    weights[3, 64:192] = 0
    packed, state = functional.quantize_4bit(
        torch.tensor(weights), blocksize=64, quant_type="nf4")
    codes, scales, zero_points = reference.rtn(weights, NF4)
    assert np.array_equal(scales.ravel(), state.absmax.numpy())
    both = packed.numpy().ravel()
    assert np.array_equal(codes.ravel()[::2], both >> 4)
    assert np.array_equal(codes.ravel()[1::2], both & 15)
    values = functional.dequantize_4bit(packed, state).numpy()
    assert np.array_equal(reference.dequantize(codes, scales, zero_points, NF4),
                          values)
    # Of the scales: bitsandbytes sums their mean in f32.
    assert np.array_equal(functional.create_dynamic_map().numpy(),
                          reference.dynamic_map())
    offset = np.float32(scales.mean())
    stored, blocks = functional.quantize_blockwise(
        torch.tensor(scales - offset), blocksize=256)
    centred = np.pad((scales - offset).ravel(),
                     (0, -scales.size % 256)).reshape(-1, 256)
    absmax = np.abs(centred).max(axis=1)
    mine = reference.index_in(reference.dynamic_map(), centred,
                              absmax[:, None]).ravel()[:scales.size]
    assert np.array_equal(blocks.absmax.numpy(), absmax)
    assert np.array_equal(stored.numpy().ravel(), mine)

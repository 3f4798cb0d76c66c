# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Quantized packages compute what the operations' definitions say.

Three references: the definitions, run by ``qlm-referee`` on the IR before
packing and after it; the packed tensors made again with `numpy_reference`;
and the float64 model of `numpy_llama`.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy_llama
import numpy_reference
import pytest
import random_llama
import toolchain
from numpy_reference import Scheme

BOUND = 1e-5
"""Relative error against a definition: another order of sums."""
MODEL_BOUND = 1e-4
"""Relative error against float64: f32's rounding and the order of sums."""
FLIPPED_ROWS = 2
"""Rows of 24 where a dynamic code that lies between two whole numbers may
fall the other way."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A model, and how its weights are stored."""

    model: str
    weights: str
    group: int = 0
    zero_points: bool = False
    dynamic: bool = False
    float8: bool = False
    keep_lm_head: bool = False
    cpu: str = "native"
    granularity: str = ""
    double: bool = False
    outliers: float = 0
    """Magnitude of inputs from which they stay wide."""

    def __str__(self) -> str:
        words = [self.model, self.weights]
        words += [f"g{self.group}"] if self.group else []
        words += ["zero"] if self.zero_points else []
        words += ["dynamic"] if self.dynamic else []
        words += ["float8"] if self.float8 else []
        words += ["keep"] if self.keep_lm_head else []
        words += [self.granularity] if self.granularity else []
        words += ["double"] if self.double else []
        words += [f"outliers{self.outliers}"] if self.outliers else []
        return "-".join([*words, self.cpu])

    @property
    def rounds_inputs(self) -> bool:
        """Whether a small difference of inputs may become a step of codes."""
        return self.dynamic or self.float8

    @property
    def options(self) -> list[str]:
        """What quantc is told, but for the processor."""
        options = ["--weights", self.weights]
        options += ["--group-size", str(self.group)] if self.group else []
        options += ["--zero-points"] if self.zero_points else []
        options += ["--activations=int8-dynamic"] if self.dynamic else []
        options += ["--activations=fp8-dynamic"] if self.float8 else []
        options += ["--keep-lm-head"] if self.keep_lm_head else []
        if self.granularity:
            options += ["--granularity", self.granularity]
        options += ["--double-quant"] if self.double else []
        if self.outliers:
            options += [f"--outlier-threshold={self.outliers}"]
        return options

    @property
    def passes(self) -> list[str]:
        """The passes of the quantizer that come before folding."""
        weights = f"weights={self.weights}"
        weights += f" group-size={self.group}" if self.group else ""
        weights += " zero-points" if self.zero_points else ""
        weights += " keep-lm-head" if self.keep_lm_head else ""
        weights += f" granularity={self.granularity}" if self.granularity else ""
        weights += " double-quant" if self.double else ""
        passes = [f"--qlm-quantize-weights={weights}"]
        if self.dynamic:
            passes += ["--qlm-quantize-activations=activations=int8-dynamic"
                       f" outlier-threshold={self.outliers}"]
        if self.float8:
            passes += ["--qlm-quantize-activations=activations=fp8-dynamic"]
        return passes

    @property
    def scheme(self) -> Scheme:
        """The scheme of the design for these options."""
        shared = self.granularity or "channel"
        if self.weights == "nf4":
            return Scheme(4, "group", self.group or 64, codebook="nf4",
                          double=self.double)
        if self.weights == "fp8":
            return Scheme(8, shared, codebook="fp8")
        if self.weights == "int8" and self.zero_points:
            return Scheme(8, shared, 0, True, 0, 255)
        if self.weights == "int8":
            return Scheme(8, shared, self.group)
        low, high = (0, 15) if self.zero_points else (-8, 7)
        return Scheme(
            4, "group", self.group, self.zero_points, low, high, 7.5, "f16"
        )

    def package(self, packages: toolchain.Packages):
        """The compiled package."""
        options = [*self.options, f"--target-cpu={self.cpu}"]
        return packages.compile(self.model, *options)


OLD = "x86-64-v3"
"""Processors of AVX2 only, which multiply codes by other instructions."""

CASES = [
    Case("mha-f32", "int8"),
    Case("head-dim-12", "int8", cpu=OLD),
    Case("three-shards", "int8", zero_points=True),
    Case("mha-f32", "int4", 32),
    Case("tied", "int4", 32, cpu=OLD),
    Case("mlp-bias", "int4", 64, zero_points=True),
    Case("group-128", "int4", 128),
    Case("group-128", "int4", 128, zero_points=True, cpu=OLD),
    Case("attention-bias", "int8", dynamic=True),
    Case("mqa-f16", "int8", zero_points=True, dynamic=True, cpu=OLD),
    Case("mha-f32", "int4", 32, dynamic=True),
    Case("head-dim-given", "int4", 32, True, dynamic=True, cpu=OLD),
    Case("group-128", "int4", 128, True, dynamic=True),
    Case("mha-f32", "nf4", 32),
    Case("mlp-bias", "nf4", 32, double=True),
    Case("group-128", "nf4", double=True, cpu=OLD),
    Case("head-dim-12", "fp8"),
    Case("three-shards", "fp8", granularity="tensor", cpu=OLD),
    Case("mha-f32", "fp8", float8=True),
    Case("mistral-window", "fp8", float8=True, cpu=OLD),
    Case("attention-bias", "fp8", float8=True, granularity="tensor"),
    Case("mistral-window", "int4", 16),
    Case("mha-f32", "int8", granularity="tensor"),
    Case("tied", "int8", granularity="tensor", zero_points=True, dynamic=True),
    Case("mha-f32", "int8", 32, granularity="group", dynamic=True),
    Case("mha-f32", "int8", dynamic=True, outliers=1.5),
    Case("attention-bias", "int8", zero_points=True, dynamic=True,
         outliers=1.5, cpu=OLD),
    Case("tied", "int8", granularity="tensor", dynamic=True, outliers=2),
    Case("defaults", "int4", 64, keep_lm_head=True),
    Case("mqa-f16", "int8", dynamic=True, keep_lm_head=True),
]


def define(folder, ir, tokens):
    """Runs ``@forward`` of a file by the definitions of its operations."""
    count = len(tokens)
    np.asarray(tokens, np.int32).tofile(folder / "tokens")
    np.arange(count, dtype=np.int32).tofile(folder / "positions")
    toolchain.succeed(
        "qlm-referee", ir, "--entry=forward", f"--tokens={count}",
        f"--input={folder / 'tokens'}", f"--input={folder / 'positions'}",
        f"--output={folder / 'logits'}",
    )  # fmt: skip
    return np.fromfile(folder / "logits", np.float32).reshape(count, -1)


def check(actual, expected, bound, dynamic):
    """Asserts equal logits, but for a few flipped codes if `dynamic`."""
    assert actual.shape == expected.shape
    differ = [
        toolchain.relative_error(*rows) > bound
        for rows in zip(actual, expected, strict=True)
    ]
    assert sum(differ) <= (FLIPPED_ROWS if dynamic else 0)
    agree = ~np.array(differ)
    assert toolchain.relative_error(actual[agree], expected[agree]) < bound
    assert toolchain.relative_error(actual, expected) < 1e-2


@pytest.fixture
def referee():
    if not (toolchain.BIN / "qlm-referee").exists():
        pytest.skip("qlm-referee is not built")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_logits_equal_definitions_before_folding(
    packages, referee, tmp_path, case
):
    folder, ir = packages.model(case.model), tmp_path / "model.mlir"
    toolchain.succeed("quantc", folder, "--to", "optimize", "-o", ir)
    toolchain.succeed("quant-opt", ir, *case.passes, "-o", ir)
    assert "qlm.dequantize" in ir.read_text()
    stored = toolchain.reference(case.model)
    expected = define(tmp_path, ir, stored["tokens"])
    actual = toolchain.logits(case.package(packages), stored["tokens"])
    check(actual, expected, BOUND, case.rounds_inputs)
    error = toolchain.relative_error(actual, stored["logits"])
    # On random weights: of 4 bits, of three bits of mantissa or one scale a
    # tensor, and of int8.
    coarse = {"int4": 0.6, "nf4": 0.6, "fp8": 0.3}.get(case.weights, 0.1)
    assert 1e-3 < error < (0.3 if case.granularity == "tensor" else coarse)


@pytest.mark.parametrize("case", CASES[::3], ids=str)
def test_logits_equal_definitions_after_packing(
    packages, referee, tmp_path, case
):
    folder, ir = packages.model(case.model), tmp_path / "model.mlir"
    options = ["--to", "quantize", "-o", ir, *case.options]
    toolchain.succeed("quantc", folder, *options)
    assert "qlm.packed_linear" in ir.read_text()
    tokens = toolchain.reference(case.model)["tokens"]
    expected = define(tmp_path, ir, tokens)
    actual = toolchain.logits(case.package(packages), tokens)
    check(actual, expected, BOUND, case.rounds_inputs)


@pytest.mark.parametrize("cpu", ["native", OLD])
def test_bf16_activations_equal_definitions(packages, referee, tmp_path, cpu):
    """Values between two bf16 numbers may fall the other way: 2**-9 of one."""
    name, ir = "mlp-bias", tmp_path / "model.mlir"
    options = ["--weights", "bf16", "--activations", "bf16"]
    folder = packages.model(name)
    toolchain.succeed("quantc", folder, "--to", "quantize", "-o", ir, *options)
    assert "qlm.convert" in ir.read_text()
    stored = toolchain.reference(name)
    expected = define(tmp_path, ir, stored["tokens"])
    package = packages.compile(name, *options, f"--target-cpu={cpu}")
    actual = toolchain.logits(package, stored["tokens"])
    assert toolchain.relative_error(actual, expected) < 5e-4
    assert 1e-3 < toolchain.relative_error(actual, stored["logits"]) < 0.05


# The NumPy model doesn't merge weights, which a scale of a whole tensor and a
# mean of scales would see.
@pytest.mark.parametrize(
    "case",
    [c for c in CASES if c.granularity != "tensor" and not c.double],
    ids=str,
)
def test_logits_equal_float64(packages, case):
    model = numpy_llama.Llama(
        packages.model(case.model), case.scheme, case.dynamic,
        case.keep_lm_head, case.outliers or np.inf, case.float8,
    )  # fmt: skip
    tokens = toolchain.reference(case.model)["tokens"]
    actual = toolchain.logits(case.package(packages), tokens)
    check(actual, model.logits(tokens), MODEL_BOUND, case.rounds_inputs)


def test_llm_int8_is_short_for_its_options(packages):
    """And the more stays wide, the nearer are the logits."""
    name, stored = "mha-f32", toolchain.reference("mha-f32")
    tokens = stored["tokens"]
    short = packages.compile(name, "--method", "llm.int8")
    spelled = packages.compile(
        name, "--weights=int8", "--activations=int8-dynamic",
        "--outlier-threshold=6",
    )  # fmt: skip
    logits = toolchain.logits(short, tokens)
    assert logits.tobytes() == toolchain.logits(spelled, tokens).tobytes()
    wide = packages.compile(
        name, "--method", "llm.int8", "--outlier-threshold=0.001"
    )
    plain = packages.compile(name, "--weights=int8")
    expected = toolchain.logits(plain, tokens)
    error = toolchain.relative_error(toolchain.logits(wide, tokens), expected)
    assert error < 1e-4 < toolchain.relative_error(logits, expected)


@pytest.mark.parametrize("name", [spec.name for spec in random_llama.SPECS])
def test_float64_model_equals_transformers(packages, name):
    stored = toolchain.reference(name)
    actual = numpy_llama.Llama(packages.model(name)).logits(stored["tokens"])
    assert toolchain.relative_error(actual, stored["logits"]) < 2e-6


def merged(model, label, kind):
    """A linear's stored tensor: qkv and gate_up stack their parts' rows."""
    if label == "lm_head":
        return model.weight(label)
    _, index, part = label.split(".")
    block = "self_attn" if part in ("qkv", "o") else "mlp"
    parts = {"qkv": ["q", "k", "v"], "gate_up": ["gate", "up"]}
    names = [
        f"model.layers.{index}.{block}.{name}_proj.{kind}"
        for name in parts.get(part, [part])
    ]
    if names[0] not in model.tensors:
        return None
    return np.concatenate([model.tensors[name] for name in names]).astype(
        np.float32
    )


def linears(model):
    """Labels of a package's linears."""
    count = model.config["num_hidden_layers"]
    for index in range(count):
        for part in ("qkv", "o", "gate_up", "down"):
            yield f"layers.{index}.{part}"
    yield "lm_head"


def expected_tensors(case, model):
    """Bytes of each tensor of the linears in a package, by key."""
    scheme, expected = case.scheme, {}
    for label in linears(model):
        weight = merged(model, label, "weight")
        bias = None if label == "lm_head" else merged(model, label, "bias")
        if bias is not None:
            column = bias[:, None]
            expected[label + ".bias"] = numpy_reference.pack("bias", column)
        if case.keep_lm_head and label == "lm_head":
            continue
        codes, scales, zero_points = numpy_reference.rtn(weight, scheme)
        pack = numpy_reference.pack
        expected[label + ".weight"] = pack(scheme.layout, codes, scheme.offset)
        stored = np.float16 if scheme.scale_type == "f16" else np.float32
        if scheme.granularity == "tensor":
            # Repeated for every row, those of the last block too.
            rows = -(-len(weight) // 16) * 16
            scales = np.repeat(scales, rows, axis=0)
            zero_points = np.repeat(zero_points, rows, axis=0)
        expected[label + ".scales"] = pack("scale16", scales.astype(stored))
        if scheme.double:
            scale_codes, supers = numpy_reference.quantize_scales(scales)
            expected[label + ".scales"] = pack("scale8", scale_codes)
            expected[label + ".super_scales"] = supers.tobytes()
        if scheme.zero_points:
            expected[label + ".zero_points"] = pack(
                "zero16", zero_points, scheme.offset
            )
    return expected


@pytest.mark.parametrize(
    "case", [case for case in CASES if not case.dynamic], ids=str
)
def test_packed_tensors_are_bit_equal(packages, case):
    model = numpy_llama.Llama(packages.model(case.model))
    package = case.package(packages)
    tensors = toolchain.read_safetensors(package / "weights.safetensors")
    expected = expected_tensors(case, model)
    assert len(expected) >= 2 * 4
    for key, packed in expected.items():
        assert tensors[key].tobytes() == packed, key
    others = {key for key in tensors if not key.startswith("__pad.")}
    others -= expected.keys()
    norms = {"embedding.weight", "rope_table", "norm.weight"} | {
        f"layers.{index}.{norm}_norm.weight"
        for index in range(model.config["num_hidden_layers"])
        for norm in ("attention", "mlp")
    }
    assert others == norms | ({"lm_head.weight"} & others)
    assert ("lm_head.weight" in others) == case.keep_lm_head


def test_float_tensors_are_bit_equal(packages):
    model = numpy_llama.Llama(packages.model("mlp-bias"))
    for weights, layout, store in (
        ("f32", "f32x16", lambda values: values),
        ("f16", "f16x16", lambda values: values.astype(np.float16)),
        ("bf16", "bf16x16x2", numpy_reference.to_bfloat16),
    ):
        package = packages.compile("mlp-bias", "--weights", weights)
        tensors = toolchain.read_safetensors(package / "weights.safetensors")
        for label in linears(model):
            values = store(merged(model, label, "weight"))
            packed = numpy_reference.pack(layout, values)
            actual = tensors[label + ".weight"]
            if weights == "bf16":
                actual = (actual.view(np.uint32) >> 16).astype(np.uint16)
            assert actual.tobytes() == packed, label


def test_weights_do_not_depend_on_the_processor(packages):
    options = ["--weights", "int4", "--group-size", "32"]
    files = [
        packages.compile("mha-f32", *options, f"--target-cpu={cpu}")
        / "weights.safetensors"
        for cpu in ("x86-64-v3", "x86-64-v4")
    ]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_quantization_costs_little_on_the_tiny_model(packages):
    stored = toolchain.reference("tiny-llama")
    tokens = stored["logits_tokens.0"]
    expected = stored["logits.0"]
    bounds = {
        ("--weights=int8",): 0.02,
        ("--weights=int4", "--group-size=64"): 0.2,
        ("--weights=int4", "--group-size=64", "--zero-points"): 0.15,
        ("--weights=int8", "--granularity=tensor"): 0.06,
        ("--weights=nf4", "--double-quant"): 0.2,
        ("--weights=fp8",): 0.06,
    }
    for options, bound in bounds.items():
        package = packages.compile("tiny-llama", *options)
        actual = toolchain.logits(package, tokens)[-len(expected) :]
        error = toolchain.relative_error(actual, expected)
        assert 1e-4 < error < bound, options

# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""AMX's kernels compute their formula, on any processor.

Each case has awkward sizes: blocks that are odd in number or unfinished, more
rows than a patch, columns in several chunks. All numbers of rows must give the
same bits, whichever instructions took them.
"""

from __future__ import annotations

import dataclasses

import amx_emulation
import numpy as np
import numpy_reference
import pytest

ROWS = (1, 2, 7, 15, 16, 17, 31, 32, 33, 48, 65, 70)
BYTES_BOUND = 1e-6
"""Of the sum of magnitudes of scaled groups: sums of codes are exact."""
BF16_BOUND = 2e-6
"""Of the sum of magnitudes of products, rounded in f32 in another order."""

pytestmark = pytest.mark.skipif(
    not all(amx_emulation.TOOLS.values()),
    reason="needs LLVM's mlir-translate, llc and clang",
)


@dataclasses.dataclass(frozen=True)
class Case:
    """A product, and how its weight is stored; 0 bits are bf16."""

    bits: int
    features: int
    columns: int
    group: int = 0
    zero_points: bool = False
    bias: bool = False
    residual: bool = False
    tuning: str = ""
    outliers: bool = False
    gated: bool = False
    """Then of bf16 weights in bf16, and of others in f32."""

    def __str__(self) -> str:
        words = [f"int{self.bits}" if self.bits else "bf16",
                 f"{self.features}x{self.columns}"]
        words += [f"g{self.group}"] if self.group else []
        words += ["zero"] if self.zero_points else []
        words += ["tuned"] if self.tuning else []
        words += ["outliers"] if self.outliers else []
        words += ["gated"] if self.gated else []
        return "-".join(words)

    @property
    def groups(self) -> int:
        return self.columns // self.group if self.group else 1

    @property
    def result_features(self) -> int:
        return self.features // 2 if self.gated else self.features

    @property
    def is_short(self) -> bool:
        return self.gated and not self.bits

    @property
    def blocks(self) -> int:
        return -(-self.features // 16)


CASES = [
    Case(4, 1040, 1536, 128, residual=True),
    Case(4, 529, 768, 32, zero_points=True, residual=True),
    Case(4, 40, 2048, bias=True, residual=True),
    Case(8, 1034, 1600, zero_points=True, bias=True, residual=True),
    Case(8, 250, 832, bias=True, residual=True),
    Case(8, 528, 384, 64, zero_points=True),
    Case(8, 1034, 400, zero_points=True, bias=True, outliers=True),
    Case(8, 250, 832, residual=True, outliers=True),
    # The last step begins before the end of the one before.
    Case(8, 250, 784, bias=True, residual=True),
    Case(8, 40, 147, zero_points=True, bias=True),
    Case(0, 1034, 1600, bias=True, residual=True),
    Case(0, 40, 144, residual=True),
    Case(4, 520, 1024, 128, residual=True,
         tuning="amx_rows = 1 : i64, tile_blocks = 16 : i64, "
                "chunk_columns = 256 : i64"),
    # One way for all numbers of rows.
    Case(8, 250, 784, bias=True, tuning="amx_rows = 1 : i64, one_patch = 1 : i64"),
    Case(8, 10, 256, zero_points=True, bias=True,
         tuning="amx_rows = 1 : i64, one_patch = 1 : i64"),
    Case(4, 544, 512, 128, zero_points=True, gated=True),
    Case(8, 1056, 320, bias=True, gated=True),
    Case(8, 96, 256, outliers=True, gated=True),
    Case(0, 96, 272, bias=True, gated=True),
    # No whole steps: vectors multiply pairs.
    Case(0, 1034, 129, bias=True, residual=True),
    Case(0, 160, 40, gated=True),
]  # fmt: skip


def step_text(case: Case) -> str:
    """A step whose one linear is the case's."""
    k, n = case.columns, case.features
    element = "bf16" if case.is_short else "f32"
    result = f"tensor<?x{case.result_features}x{element}>"
    wide = f"tensor<?x{k}xf32>"
    row = ("#qlm.scheme<i8, row, range [-127, 127], bound 127.0, scales f32>")
    words = {4: -(-k // 8), 8: -(-k // 4), 0: -(-k // 2)}[case.bits]
    weight = f"tensor<{case.blocks}x{words}x" + (
        "64xi8>" if case.bits else "32xbf16>")
    short = f"tensor<?x{k}x" + ("i8>" if case.bits else "bf16>")
    lines, uses, types = [], "%x", [short]

    def parameter(use: str, name: str, kind: str) -> None:
        value = "0.5" if "f" in kind.rsplit("x", 1)[-1] else "3"
        lines.append(f"{name} = arith.constant dense<{value}> : {kind}")
        nonlocal uses
        uses += f"{use} {name}"
        types.append(kind)

    if case.bits:
        uses += " input_scales %xs"
        types.append("tensor<?xf32>")
        names, results = "%x, %xs", f"{short}, tensor<?xf32>"
        threshold = ""
        if case.outliers:
            uses += " outliers %xo"
            names += ", %xo"
            types.append(f"tensor<?x{1 + 2 * k}xf32>")
            results += ", " + types[-1]
            threshold = ", threshold = 6.0 : f32"
        lines.append(f"{names} = qlm.dynamic_quantize %e {{scheme = {row}"
                     f"{threshold}}} : {wide} -> {results}")
    else:
        lines.append(f"%x = qlm.convert %e : {wide} to {short}")
    parameter(",", "%w", weight)
    packed = f"tensor<{case.blocks}x{case.groups}x16x"
    if case.bits:
        parameter(" scales", "%s", packed + "f32>")
    if case.zero_points:
        parameter(" zero_points", "%z", packed + "i8>")
    if case.bias:
        parameter(" bias", "%b", f"tensor<{case.blocks * 16}xf32>")
    if case.residual:
        lines.append(f"%u = arith.constant dense<0.5> : tensor<4x{n}xf32>")
        lines.append("%r = qlm.embedding %tokens, %u : tensor<?xi32>, "
                     f"tensor<4x{n}xf32> -> {result}")
        uses += " residual %r"
        types.append(result)
    layout = {4: "i4x16x8", 8: "i8x16x4", 0: "bf16x16x2"}[case.bits]
    scheme = ""
    if case.bits:
        kind = f"group, {case.group}" if case.group else "channel"
        top = 2**case.bits - 1
        limits = f"zero_points, range [0, {top}]"
        if not case.zero_points:
            limits = ("range [-8, 7], bound 7.5" if case.bits == 4
                      else "range [-127, 127], bound 127.0")
        storage = f"{'u' if case.zero_points else ''}i{case.bits}"
        scheme = (f", scheme = #qlm.scheme<{storage}, {kind}, {limits}, "
                  "scales f32>")
    tuning = f", qlm.tuning = {{{case.tuning}}}" if case.tuning else ""
    tuning += ", qlm.gated" if case.gated else ""
    body = "\n".join(lines)
    rows = max(ROWS)
    return f"""
module attributes {{qlm.plan = {{max_step_tokens = {rows} : i64,
    max_logit_rows = {rows} : i64, max_batch = 2 : i64}}}} {{
func.func @step(%tokens: tensor<?xi32>, %p: tensor<?xi32>, %q: tensor<?xi32>,
    %o: tensor<?xi32>, %c: tensor<?xi32>, %t: tensor<?x?xi32>,
    %rows: tensor<?xi32>) -> {result} {{
  %v = arith.constant dense<0.5> : tensor<4x{k}xf32>
  %e = qlm.embedding %tokens, %v : tensor<?xi32>, tensor<4x{k}xf32> -> {wide}
  {body}
  %y = qlm.packed_linear {uses} {{inFeatures = {k} : i64,
    outFeatures = {n} : i64, layout = #qlm.layout<{layout}>{scheme}{tuning}}}
    : ({", ".join(types)}) -> {result}
  return %y : {result}
}} }}"""


class Product:
    """Random operands of a case, and its formula in float64."""

    def __init__(self, case: Case, rng):
        n, k, rows = case.features, case.columns, max(ROWS)
        pack = numpy_reference.pack
        self.case = case
        self.bias = rng.standard_normal((n, 1)).astype(np.float32)
        self.residual = rng.standard_normal((rows, n)).astype(np.float32)
        if case.bits:
            self.make_codes(rng)
        else:
            x, w = (rng.standard_normal(shape).astype(np.float32)
                    for shape in ((rows, k), (n, k)))
            short = [numpy_reference.to_bfloat16(v) for v in (x, w)]
            self.inputs = [short[0]]
            self.weights = [pack("bf16x16x2", short[1])]
            x, w = ((v.astype(np.uint32) << 16).view(np.float32)
                    .astype(np.float64) for v in short)
            self.result, self.magnitude = x @ w.T, abs(x) @ abs(w).T
        if case.bias:
            self.weights.append(pack("bias", self.bias))
        for term, used in ((self.bias[:, 0], case.bias),
                           (self.residual, case.residual)):
            if used:
                self.result = self.result + term
                self.magnitude = self.magnitude + abs(term)
        if case.gated:
            self.gate()

    def make_codes(self, rng) -> None:
        case, pack = self.case, numpy_reference.pack
        n, k, groups = case.features, case.columns, case.groups
        top = 2**case.bits
        # A symmetric code never has the lowest int8.
        lowest = 0 if case.zero_points or case.bits == 4 else 1
        codes = rng.integers(lowest, top, (n, k))
        zeros = np.full((n, groups), top // 2)
        if case.zero_points:
            zeros = rng.integers(0, top, (n, groups))
        scales = rng.uniform(0.01, 0.1, (n, groups)).astype(np.float32)
        x = rng.integers(-127, 128, (max(ROWS), k)).astype(np.int8)
        row_scales = rng.uniform(0.1, 1, max(ROWS)).astype(np.float32)
        layout = "i4x16x8" if case.bits == 4 else "i8x16x4"
        lists, wide = self.make_outliers(x, rng)
        self.inputs = [x, row_scales] + ([lists] if case.outliers else [])
        self.weights = [pack(layout, codes), pack("scale16", scales)]
        if case.zero_points:
            self.weights.append(pack("zero16", zeros))
        split = x.reshape(-1, groups, k // groups).astype(np.float64)
        values = (codes.reshape(n, groups, -1) - zeros[..., None])
        terms = np.einsum("tgk,ngk->tng", split, values.astype(np.float64))
        terms *= scales * row_scales.astype(np.float64)[:, None, None]
        self.result, self.magnitude = terms.sum(2), abs(terms).sum(2)
        if case.outliers:
            weight = (values[:, 0] * scales).T
            self.result = self.result + wide @ weight
            self.magnitude = self.magnitude + abs(wide) @ abs(weight)

    def make_outliers(self, x, rng):
        """Lists of outliers of each row, whose codes become 0, and the same
        as a matrix; every fourth row has none, and some have many."""
        rows, k = x.shape
        lists = np.full((rows, 1 + 2 * k), np.nan, np.float32)
        wide = np.zeros((rows, k))
        for row in range(rows if self.case.outliers else 0):
            count = [0, 1, 7, k // 2][row % 4]
            columns = np.sort(rng.choice(k, count, replace=False))
            values = (20 * rng.standard_normal(count)).astype(np.float32)
            x[row, columns] = 0
            wide[row, columns] = values
            lists[row, 0] = count
            lists[row, 1:1 + count] = columns
            lists[row, 1 + k:1 + k + count] = values
        return lists, wide

    def gate(self) -> None:
        gate, up = np.split(self.result, 2, axis=1)
        gates, ups = np.split(self.magnitude, 2, axis=1)
        with np.errstate(over="ignore"):
            silu = gate / (1 + np.exp(-gate))
        self.result = silu * up
        # The slope of silu is at most 1.1.
        self.magnitude = (1.1 * gates * abs(up) + abs(silu) * ups
                          + abs(self.result))

    def run(self, kernel: amx_emulation.Kernel, rows: int) -> np.ndarray:
        inputs = [array[:rows] for array in self.inputs]
        inputs += [np.frombuffer(w, np.uint8) for w in self.weights]
        start = self.residual[:rows]
        if not self.case.residual:
            shape = rows, self.case.result_features
            start = np.full(shape, np.nan, np.float32)
        if self.case.is_short:
            start = np.full(start.shape, 0xFFFF, np.uint16)
        return kernel(inputs, start, self.case.residual)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_any_rows_equal_the_formula_bit_for_bit(tmp_path, case):
    rng = np.random.default_rng(20261128)
    kernel = amx_emulation.Kernel(step_text(case), tmp_path)
    product = Product(case, rng)
    bound = BYTES_BOUND if case.bits else BF16_BOUND
    every = product.run(kernel, max(ROWS))
    values = every
    if case.is_short:
        values = (every.astype(np.uint32) << 16).view(np.float32)
    error = abs(values - product.result)
    allowed = bound * product.magnitude
    if case.is_short:
        allowed += 2.0**-8 * abs(product.result)
    assert (error < allowed).all()
    for rows in ROWS:
        some = product.run(kernel, rows)
        assert some.tobytes() == every[:rows].tobytes(), rows

# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Runs kernels for AMX on processors that have none.

A kernel's LLVM IR for `sapphirerapids` holds generic vector code and a few
intrinsics. AMX's become calls of `amx_emulation.c`, with addresses for its
registers; AVX512's are written out as generic vector code; the rest LLVM
legalizes for AVX2. So what is tested is the kernel's own addressing, order and
arithmetic, not its register allocation.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import toolchain

HERE = Path(__file__).resolve().parent
LLVM = Path("/usr/lib/llvm-22/bin")
FEATURES = "+avx2,+fma,+f16c,+bmi2"
TILE_INTRINSICS = ("tileloadd64", "tilezero", "tilestored64", "tdpbssd",
                   "tdpbsud", "tdpbf16ps")
ALIGNMENT = 64
POISON = 0xFF
PARTS = 3


def find_tool(name: str) -> str | None:
    """Path of one of LLVM's tools."""
    return shutil.which(name, path=str(LLVM)) or shutil.which(f"{name}-22")


TOOLS = {name: find_tool(name) for name in ("mlir-translate", "llc", "clang")}


def run(*command) -> None:
    done = subprocess.run([str(part) for part in command], text=True,
                          capture_output=True)
    assert done.returncode == 0, done.stderr[:2000]


def find_block(text: str, start: int) -> int:
    """Index past the brace that closes the first one at or after `start`."""
    depth = 0
    for index in range(text.index("{\n", start), len(text)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if text[index] == "}" and depth == 0:
            return index + 1
    raise ValueError("no closing brace")


def dot(name: str, element: str, lanes: int, extend: tuple[str, str],
        accumulates: bool) -> str:
    """A function that adds products of neighbouring lanes to 16 sums."""
    wide, narrow = f"<{lanes} x i32>", f"<{lanes} x {element}>"
    sums = "<16 x i32>"
    lines = [f"define internal {sums} @{name}("
             + (f"{sums} %sum0, " if accumulates else "")
             + f"{narrow} %a, {narrow} %b) {{"]
    for value, kind in zip("ab", extend, strict=True):
        lines.append(f"  %w{value} = {kind} {narrow} %{value} to {wide}")
    lines.append(f"  %p = mul {wide} %wa, %wb")
    last, width = "%sum0" if accumulates else "zeroinitializer", lanes // 16
    for part in range(width):
        mask = ", ".join(f"i32 {width * lane + part}" for lane in range(16))
        lines += [f"  %q{part} = shufflevector {wide} %p, {wide} poison, "
                  f"<16 x i32> <{mask}>",
                  f"  %s{part} = add {sums} {last}, %q{part}"]
        last = f"%s{part}"
    return "\n".join([*lines, f"  ret {sums} {last}", "}", ""])


def scale() -> str:
    """A function that multiplies lanes by powers of two, lane by lane."""
    lines = ["declare float @emulated_scale(float, float)",
             "define internal <16 x float> @emulated_scalef(<16 x float> %a, "
             "<16 x float> %b, <16 x float> %kept, i16 %mask, i32 %mode) {"]
    last = "poison"
    for i in range(16):
        lines += [f"  %a{i} = extractelement <16 x float> %a, i32 {i}",
                  f"  %b{i} = extractelement <16 x float> %b, i32 {i}",
                  f"  %c{i} = call float @emulated_scale(float %a{i}, "
                  f"float %b{i})",
                  f"  %r{i} = insertelement <16 x float> {last}, "
                  f"float %c{i}, i32 {i}"]
        last = f"%r{i}"
    return "\n".join([*lines, f"  ret <16 x float> {last}", "}", ""])


def dot_of_pairs() -> str:
    """A function that adds products of pairs of bf16 to 16 sums in f32."""
    lines = ["declare <16 x float> @llvm.fma.v16f32(<16 x float>, "
             "<16 x float>, <16 x float>)",
             "define internal <16 x float> @emulated_dpbf16ps("
             "<16 x float> %sum, <32 x bfloat> %a, <32 x bfloat> %b) {"]
    for v in "ab":
        lines += [f"  %w{v} = bitcast <32 x bfloat> %{v} to <16 x i32>",
                  f"  %o{v} = and <16 x i32> %w{v}, splat (i32 -65536)",
                  f"  %e{v} = shl <16 x i32> %w{v}, splat (i32 16)",
                  f"  %of{v} = bitcast <16 x i32> %o{v} to <16 x float>",
                  f"  %ef{v} = bitcast <16 x i32> %e{v} to <16 x float>"]
    last = "%sum"
    for part in ("of", "ef"):
        lines.append(f"  %s{part} = call <16 x float> @llvm.fma.v16f32("
                     f"<16 x float> %{part}a, <16 x float> %{part}b, "
                     f"<16 x float> {last})")
        last = f"%s{part}"
    return "\n".join([*lines, f"  ret <16 x float> {last}", "}", ""])


def pack(name: str, wide: str, narrow: str, signed: bool) -> str:
    """A function that saturates two vectors to one of half the width, in
    parts of 16 bytes as the instruction does."""
    count = 512 // int(wide[1:])
    low, high = (-(2 ** (int(narrow[1:]) - 1)), 2 ** (int(narrow[1:]) - 1) - 1)
    if not signed:
        low, high = 0, 2 ** int(narrow[1:]) - 1
    part = count // 4
    mask = ", ".join(f"i32 {source * count + lane * part + i}"
                     for lane in range(4) for source in range(2)
                     for i in range(part))
    both, half = f"<{2 * count} x {wide}>", f"<{count} x {wide}>"
    result = f"<{2 * count} x {narrow}>"
    return "\n".join([
        f"define internal {result} @{name}({half} %a, {half} %b) {{",
        f"  %x = shufflevector {half} %a, {half} %b, <{2 * count} x i32> "
        f"<{mask}>",
        f"  %l = icmp slt {both} %x, splat ({wide} {low})",
        f"  %m = select <{2 * count} x i1> %l, {both} splat ({wide} {low}), "
        f"{both} %x",
        f"  %h = icmp sgt {both} %m, splat ({wide} {high})",
        f"  %n = select <{2 * count} x i1> %h, {both} splat ({wide} {high}), "
        f"{both} %m",
        f"  %r = trunc {both} %n to {result}",
        f"  ret {result} %r", "}", ""])


def emulate(ir: str) -> str:
    """LLVM IR without intrinsics of AMX and AVX512."""
    ir = ir.replace("x86_amx", "ptr")
    names = "|".join(TILE_INTRINSICS)
    ir = re.sub(rf"@llvm\.x86\.({names})\.internal", r"@emulated_\1", ir)
    ir = re.sub(r"^attributes .*$", "", ir, flags=re.MULTILINE)
    ir = re.sub(r" #\d+", " ", ir)
    functions = {
        "avx512.vpdpbusd.512": ("vpdpbusd", dot(
            "emulated_vpdpbusd", "i8", 64, ("zext", "sext"), True)),
        "avx512.pmaddw.d.512": ("pmaddwd", dot(
            "emulated_pmaddwd", "i16", 32, ("sext", "sext"), False)),
        "avx512.mask.scalef.ps.512": ("scalef", scale()),
        "avx512bf16.dpbf16ps.512": ("dpbf16ps", dot_of_pairs()),
        "avx512.packssdw.512": ("packssdw", pack(
            "emulated_packssdw", "i32", "i16", signed=True)),
        "avx512.packsswb.512": ("packsswb", pack(
            "emulated_packsswb", "i16", "i8", signed=True)),
        "avx512.packuswb.512": ("packuswb", pack(
            "emulated_packuswb", "i16", "i8", signed=False)),
    }
    for name, (emulated, function) in functions.items():
        intrinsic = f"@llvm.x86.{name}"
        ir = re.sub(rf"^declare .*{re.escape(intrinsic)}\(.*$", "", ir,
                    flags=re.MULTILINE)
        if intrinsic in ir:
            if "@llvm.fma.v16f32" in ir:
                function = re.sub(r"^declare .*@llvm\.fma.*\n", "", function,
                                  flags=re.MULTILINE)
            ir = ir.replace(intrinsic, "@emulated_" + emulated) + function
    assert "@llvm.x86." not in ir
    return ir


def build(module: str, folder: Path) -> ctypes.CDLL:
    """The functions of a module of LLVM's dialect, emulated."""
    (folder / "kernels.mlir").write_text(module)
    run(TOOLS["mlir-translate"], "--mlir-to-llvmir", folder / "kernels.mlir",
        "-o", folder / "kernels.ll")
    (folder / "emulated.ll").write_text(
        emulate((folder / "kernels.ll").read_text()))
    run(TOOLS["llc"], "-O1", f"-mattr={FEATURES}", "-filetype=obj",
        "-relocation-model=pic", folder / "emulated.ll", "-o",
        folder / "kernels.o")
    run(TOOLS["clang"], "-O1", "-shared", "-fPIC", HERE / "amx_emulation.c",
        folder / "kernels.o", "-lm", "-o", folder / "kernels.so")
    return ctypes.CDLL(str(folder / "kernels.so"))


class Kernel:
    """The kernel of the one `qlm.packed_linear` of a step, emulated."""

    def __init__(self, text: str, folder: Path):
        source = folder / "step.mlir"
        source.write_text(text)
        lowered = toolchain.succeed(
            "quant-opt", source, "--qlm-plan-memory",
            "--qlm-emit-cpu-kernels=target-cpu=sapphirerapids",
            "--qlm-lower-kernels-to-llvm",
        )  # fmt: skip
        info = next(line for line in lowered.splitlines()
                    if 'key = "qlm.packed_linear' in line)
        self.scratch_bytes = int(
            re.search(r"scratch_bytes = (\d+)", info).group(1))
        self.tiles = int(re.search(r"tiles<(\d+)", info).group(1))
        begin = lowered.index("module @kernels")
        end = find_block(lowered, lowered.index("qlm.target_features", begin))
        kernels = re.sub(r" attributes \{qlm\.kernel = .*\} \{\n", " {\n",
                         lowered[begin:end])
        kernels = re.sub(r"^module @kernels attributes \{.*?\} \{",
                         "module {", kernels, count=1)
        library = build(kernels, folder)
        self.function = library.packed_linear
        self.function.restype = None

    def __call__(self, inputs: list[np.ndarray], result: np.ndarray,
                 shared: bool) -> np.ndarray:
        """Runs all tiles on guarded copies of the buffers, in parts, as two
        threads would that take turns.

        The result begins as `result`; with `shared` it is the last input too,
        as a residual that is written over.
        """
        buffers = [Guarded(array) for array in inputs]
        buffers += [Guarded(result)]
        addresses = [buffer.address for buffer in buffers]
        if shared:
            addresses.append(addresses[-1])
        rows = len(result)
        sizes = (ctypes.c_int64 * 4)(rows, 1, rows, 1)
        memory = np.full(self.scratch_bytes, POISON, np.uint8)
        memory[:8] = 0  # qlm/Package/LaunchScratch.h
        threads = [Guarded(memory), Guarded(memory)]
        for part in range(PARTS):
            lo, hi = (self.tiles * i // PARTS for i in (part, part + 1))
            scratch = threads[part % 2]
            self.function((ctypes.c_void_p * len(addresses))(*addresses),
                          sizes, ctypes.c_int64(lo), ctypes.c_int64(hi),
                          ctypes.c_void_p(scratch.address))
            assert scratch.is_intact()
        assert all(buffer.is_intact() for buffer in buffers)
        return buffers[-1].read(result)


class Guarded:
    """An aligned copy of an array with poison before and behind it."""

    def __init__(self, array: np.ndarray):
        self.size = array.nbytes
        self.memory = np.full(self.size + 4 * ALIGNMENT, POISON, np.uint8)
        self.begin = ALIGNMENT + -self.memory.ctypes.data % ALIGNMENT
        self.memory[self.begin : self.begin + self.size] = (
            np.ascontiguousarray(array).reshape(-1).view(np.uint8))
        self.address = self.memory.ctypes.data + self.begin

    def is_intact(self) -> bool:
        around = (self.memory[: self.begin],
                  self.memory[self.begin + self.size :])
        return all((part == POISON).all() for part in around)

    def read(self, like: np.ndarray) -> np.ndarray:
        part = self.memory[self.begin : self.begin + self.size]
        return part.view(like.dtype).reshape(like.shape).copy()

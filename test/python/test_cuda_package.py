# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""quantc --target cuda: every kernel assembles, and the package says how.

No GPU is needed: ptxas accepts or refuses each kernel here. What the kernels
compute is the business of `make gpu-test`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import toolchain

CHIPS = ("sm_80", "sm_89", "sm_90a")
MOST_SPILLS = 16
"""Bytes that ptxas may spill: a few registers of a plain kernel, never a tile."""
FORMATS = (
    ("--weights", "f32", "--kv-cache", "f32"),
    ("--weights", "bf16", "--kv-cache", "bf16"),
    ("--weights", "f16", "--kv-cache", "f16"),
    ("--weights", "int8", "--kv-cache", "int8"),
    ("--weights", "int8", "--activations", "int8-dynamic"),
    ("--weights", "int4", "--group-size", "32", "--kv-cache", "fp8"),
    ("--weights", "int4", "--group-size", "32", "--zero-points"),
    ("--weights", "int4", "--group-size", "32", "--activations",
     "int8-dynamic"),
    ("--weights", "nf4", "--group-size", "64"),
    ("--weights", "nf4", "--group-size", "64", "--double-quant"),
    ("--weights", "fp8"),
)


def has_ptxas() -> bool:
    """Whether the compiler will find ptxas."""
    wheels = Path(".venv/lib").glob("*/site-packages/nvidia/*/bin/ptxas")
    return (shutil.which("ptxas") is not None
            or os.path.exists("/usr/local/cuda/bin/ptxas")
            or any(wheels))


pytestmark = pytest.mark.skipif(not has_ptxas(), reason="there is no ptxas")


def manifest(package: Path) -> dict:
    """The manifest of a package."""
    return json.loads((package / "manifest.json").read_text())


@pytest.mark.parametrize("options", FORMATS,
                         ids=lambda options: " ".join(options))
def test_assembles_for_every_chip(packages: toolchain.Packages,
                                  options: tuple[str, ...]) -> None:
    package = packages.compile("tiny-llama", "--target",
                               "cuda:" + ",".join(CHIPS), *options)
    made = manifest(package)
    target = made["target"]
    assert target["kind"] == "cuda"
    assert [chip["chip"] for chip in target["chips"]] == list(CHIPS)
    sampling, = made["sampling"]
    assert [kind for kind, _ in sampling["args"]] == ["logits", "sampling",
                                                      "sampled", "step"]
    for chip in target["chips"]:
        code = (package / chip["file"]).read_bytes()
        assert code[:4] == b"\x7fELF" and len(code) == chip["bytes"]
        for kernel, took in chip["kernels"].items():
            assert 0 < took["registers"] <= 255, kernel
            assert took["spill_bytes"] <= MOST_SPILLS, kernel
            assert took["shared_bytes"] <= 48 * 1024, kernel
    assert target["ptx"]["chip"] == "sm_80"
    ptx = (package / target["ptx"]["file"]).read_text()
    assert ".target sm_80" in ptx
    assert f".version {target['ptx']['version'] / 10}" in ptx
    # Each launch names kernels that are there, for every chip.
    kernels = {chip["chip"]: set(chip["kernels"]) for chip in target["chips"]}
    for launch in made["launches"]:
        chips = set()
        for variant in launch["variants"]:
            assert variant["kernel"] in kernels[variant["chip"]]
            assert variant["block_threads"] % 32 == 0
            assert variant["dependent"] <= (variant["chip"] == "sm_90a")
            chips.add(variant["chip"])
        assert chips == set(CHIPS), launch["label"]
    entries = set(re.findall(r"\.entry (\w+)", ptx))
    assert entries == kernels["sm_80"]


def test_ptx_beside_newer_code(packages: toolchain.Packages) -> None:
    """sm_90a code runs on nothing else: older kernels go along as PTX."""
    target = manifest(packages.compile("tiny-llama", "--target",
                                       "cuda"))["target"]
    assert [chip["chip"] for chip in target["chips"]] == ["sm_90a"]
    assert target["ptx"]["chip"] == "sm_80"


def test_plan(packages: toolchain.Packages) -> None:
    """What is planned is aligned for a GPU, and adds up."""
    plan = manifest(packages.compile("tiny-llama", "--target", "cuda"))
    launches, plan = plan["launches"], plan["plan"]
    assert plan["kv"]["type"] == "f16" and plan["kv"]["page_tokens"] == 64
    offsets = [value for launch in launches for kind, value in launch["args"]
               if kind in ("arena", "workspace")]
    assert offsets and all(offset % 256 == 0 for offset in offsets)
    assert plan["peak_bytes"] >= (plan["arena_bytes"] + plan["workspace_bytes"]
                                  + plan["kv"]["pool_bytes"]
                                  + plan["logits_bytes"])


@pytest.mark.parametrize("target, message", (
    ("cuda:sm_70", "unknown chip 'sm_70', expected sm_80, sm_89 or sm_90a"),
    ("cuda:sm_80,sm_80", "chip 'sm_80' is named twice"),
))
def test_refuses(tmp_path: Path, packages: toolchain.Packages, target: str,
                 message: str) -> None:
    done = toolchain.run("quantc", packages.model("tiny-llama"), "-o",
                         tmp_path / "package", "--target", target)
    assert done.returncode == 1
    assert message in done.stderr and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_says_where_ptxas_comes_from(tmp_path: Path,
                                     packages: toolchain.Packages) -> None:
    """A ptxas that fails is named, with its first error."""
    fake = tmp_path / "bin" / "ptxas"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\necho 'ptxas fatal : no such luck'\nexit 3\n")
    fake.chmod(0o755)
    environment = dict(os.environ, CUDA_HOME=str(tmp_path))
    done = toolchain.subprocess.run(
        [toolchain.BIN / "quantc", packages.model("tiny-llama"), "-o",
         tmp_path / "package", "--target", "cuda"], env=environment,
        capture_output=True, text=True, timeout=toolchain.TIMEOUT)
    assert done.returncode == 1
    assert f"'{fake}' failed: ptxas fatal : no such luck" in done.stderr


def test_inspect_shows_resources(packages: toolchain.Packages) -> None:
    """quant-run inspect needs no GPU to say what kernels take."""
    package = packages.compile("tiny-llama", "--target", "cuda")
    shown = json.loads(toolchain.succeed("quant-run", "inspect", package,
                                         "--json"))["kernels"]
    took = manifest(package)["target"]["chips"][0]["kernels"]
    here = {kernel["kernel"]: kernel for kernel in shown
            if kernel["chip"] == "sm_90a"}
    assert set(here) == set(took)
    for name, kernel in here.items():
        assert kernel["registers"] == took[name]["registers"]
        assert kernel["shared_bytes"] == took[name]["shared_bytes"]
    assert here["embedding"]["launches"] == 1
    text = toolchain.succeed("quant-run", "inspect", package)
    assert re.search(r"^kernel .* registers spilled shared B$", text,
                     re.MULTILINE)

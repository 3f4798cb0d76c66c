# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Tools load the folders that `quantc quantize` writes, whole, on a CPU.

Each one that is installed loads the model by its own front door, and its
layers' own dequantization gives the codes of `quantc`, bit for bit. None of
them is among what scripts/bootstrap installs; test_write_checkpoints.py has
what can be told without them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import toolchain

checkpoints = pytest.importorskip("qlm.checkpoints")
torch = pytest.importorskip("torch")

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def write(packages, tmp_path_factory):
    """Writes a folder by the command, of a format and its options."""
    scratch = tmp_path_factory.mktemp("tools")
    model = packages.model("tiny-llama")

    def write(form: str, *options: str) -> Path:
        folder = scratch / "-".join([form, *options])
        if not folder.exists():
            subprocess.run(
                [toolchain.BIN / "quantc", "quantize", model, "-o", folder,
                 "--format", form, *options, "--quiet"], check=True,
                env={**os.environ, "PATH": ":".join(
                    [str(Path(sys.executable).parent), os.environ["PATH"]])})
        return folder

    return write


def check(folder: Path, restore, kind: type) -> None:
    """`restore(layer)` of each layer of `kind` is what we read."""
    expected = {name.removesuffix(".weight"): values for name, (values, _) in
                checkpoints.read_weights(folder).items()}
    seen = 0
    for name, layer in restore.model.named_modules():
        if isinstance(layer, kind) and name in expected:
            actual = restore(layer).detach().float().numpy()
            assert np.array_equal(actual, expected[name]), name
            seen += 1
    assert seen == 6 * 7


class Restore:
    """A loaded model, and how its layers are dequantized."""

    def __init__(self, model, function):
        self.model, self.function = model, function

    def __call__(self, layer):
        return self.function(layer)


@pytest.mark.parametrize("options", [[], ["--zero-points"]])
def test_gptqmodel(write, options, monkeypatch):
    monkeypatch.setenv("GPTQMODEL_CPU_WORKERS", "2")
    tool = pytest.importorskip("gptqmodel")
    from gptqmodel.nn_modules.qlinear import BaseQuantLinear

    folder = write("gptq", *options)
    model = tool.GPTQModel.load(str(folder), device="cpu", dtype=torch.float16,
                                backend=tool.BACKEND.TORCH)
    check(folder, Restore(model.model, lambda layer: layer.dequantize_weight().T),
          BaseQuantLinear)


def test_autoawq(write):
    pytest.importorskip("awq")
    from awq.modules.linear import WQLinear_GEMM
    from awq.utils.packing_utils import dequantize_gemm

    folder = write("awq")
    tensors = checkpoints.read_folder(folder)
    model = torch.nn.Module()
    for name, tensor in tensors.items():
        if not name.endswith(".qweight"):
            continue
        part = {key: torch.from_numpy(tensors[f"{name[:-7]}{key}"].array.copy())
                for key in ("qweight", "qzeros", "scales")}
        layer = WQLinear_GEMM(4, 128, part["qweight"].shape[0],
                              part["scales"].shape[1], False, "cpu")
        layer.load_state_dict(part)
        place = model
        *path, last = name[:-8].split(".")
        for step in path:
            if not hasattr(place, step):
                place.add_module(step, torch.nn.Module())
            place = getattr(place, step)
        place.add_module(last, layer)
    check(folder, Restore(model, lambda layer: dequantize_gemm(
        layer.qweight, layer.qzeros, layer.scales, 4, 128).T), WQLinear_GEMM)


@pytest.mark.parametrize("options", [
    ["--weights", "int4"], ["--weights", "int4", "--zero-points"],
    ["--weights", "int8"], ["--weights", "fp8"],
    ["--weights", "int8", "--activations", "int8-dynamic"]])
def test_transformers_compressed_tensors(write, options):
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.quantization import QuantizationConfig

    transformers = pytest.importorskip("transformers")
    folder = write("compressed-tensors", *options)
    # The type of the stored scales; the model's own, bf16, rounds them.
    kind = torch.float16 if "int4" in options else torch.float32
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=kind, quantization_config=transformers.
        CompressedTensorsConfig(run_compressed=False))
    inputs = QuantizationConfig.model_validate(json.loads(
        (folder / "config.json").read_text())["quantization_config"]
    ).config_groups["group_0"].input_activations
    assert (inputs is not None and inputs.dynamic) == (
        "--activations" in options)
    check(folder, Restore(model, lambda layer: layer.weight), torch.nn.Linear)


@pytest.mark.parametrize("options", [
    ["--weights", "nf4"], ["--weights", "nf4", "--double-quant"],
    ["--weights", "int8", "--method", "llm.int8"]])
def test_transformers_bitsandbytes(write, options):
    functional = pytest.importorskip("bitsandbytes.functional")
    transformers = pytest.importorskip("transformers")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    folder = write("bitsandbytes", *options)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, device_map="cpu")

    def restore(layer):
        weight = layer.weight
        if "nf4" in options:
            return functional.dequantize_4bit(weight.data, weight.quant_state)
        return functional.int8_vectorwise_dequant(weight.data, weight.SCB)

    check(folder, Restore(model, restore), torch.nn.Linear)

# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Quantization-aware training rounds as the compiler does."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path

import numpy as np
import numpy_reference as reference
import pytest
from numpy_reference import Scheme

torch = pytest.importorskip("torch")
qat = pytest.importorskip("qlm.qat")
nn = torch.nn
ROOT = Path(__file__).resolve().parents[2]

CASES = [
    ("int8", 0, False, Scheme(8, "channel")),
    ("int8", 0, True, Scheme(8, "channel", 0, True, 0, 255)),
    ("int8", 16, False, Scheme(8, "group", 16)),
    ("int4", 32, False, Scheme(4, "group", 32, False, -8, 7, 7.5, "f16")),
    ("int4", 32, True, Scheme(4, "group", 32, True, 0, 15, 0.0, "f16")),
]


@pytest.mark.parametrize("kind, group, zeros, scheme", CASES)
def test_values_are_the_compilers_bit_for_bit(kind, group, zeros, scheme):
    rng = np.random.default_rng(group)
    w = rng.normal(0, 0.05, (13, 96)).astype(np.float32)
    w[3] = 0
    w[5, :32] = 0
    w[7] = np.abs(w[7])
    tensor = torch.tensor(w, requires_grad=True)
    with torch.no_grad():
        rounded = qat._rounded(tensor, kind, group, zeros).numpy()
    expected = reference.dequantize(*reference.rtn(w, scheme), scheme)
    # -0 and 0 are the same number.
    assert np.array_equal(rounded, expected)
    used = qat.fake_quantize(tensor, kind, group, zeros)
    assert np.allclose(used.detach().numpy(), expected, rtol=0, atol=1e-7)
    used.sum().backward()
    assert torch.equal(tensor.grad, torch.ones_like(tensor))


def test_activations_are_the_compilers():
    x = np.random.default_rng(1).normal(size=(5, 33)).astype(np.float32)
    x[2] = 0
    codes, scales = reference.dynamic_quantize(x)
    expected = codes.astype(np.float32) * scales[:, None]
    actual = qat.fake_quantize_rows(torch.tensor(x)).numpy()
    assert np.allclose(actual, expected, rtol=0, atol=1e-6)


def test_batch_norm_is_folded():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(),
        nn.Linear(8 * 4, 6), nn.BatchNorm1d(6),
    )  # fmt: skip
    for norm in (model[1], model[5]):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    model.eval()
    x = torch.randn(2, 3, 4, 4)
    expected = model(x)
    names = qat.prepare(model, "int8")
    assert names == ["0", "4"]
    assert isinstance(model[1], nn.Identity)
    error = (model(x) - expected).norm() / expected.norm()
    assert 0 < error < 0.02


def test_training_brings_rounded_weights_nearer():
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16))
    student = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16))
    student.load_state_dict(teacher.state_dict())
    qat.prepare(student, "int4", group_size=32, activations="int8-dynamic")
    x = torch.randn(256, 8) @ torch.randn(8, 64)
    target = teacher(x).detach()

    def loss():
        return (student(x) - target).square().mean()

    before = loss().item()
    optimizer = torch.optim.Adam(student.parameters(), 1e-4)
    for step in range(200):
        optimizer.param_groups[0]["lr"] = 1e-4 * (1 - step / 200)
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
    assert loss().item() < 0.4 * before
    trained = student[0].parametrizations.weight.original.detach().clone()
    used = student[0].weight.detach().clone()
    qat.convert(student)
    assert torch.equal(student[0].weight, trained)
    assert torch.allclose(qat.fake_quantize(trained, "int4", 32), used)


@pytest.mark.parametrize("arguments, message", [
    ({"weights": "int2"}, "weights must be int8 or int4, got 'int2'"),
    ({"activations": "fp8"}, "activations must be none or int8-dynamic"),
    ({"group_size": 48}, "group size must divide the columns, got 48 and 64 in 0"),
])
def test_bad_options(arguments, message):
    model = nn.Sequential(nn.Linear(64, 4))
    with pytest.raises(ValueError, match=message):
        qat.prepare(model, **arguments)
    assert not hasattr(model[0], "parametrizations")


def test_exported_llama_runs_as_trained(tmp_path):
    toolchain = pytest.importorskip("toolchain")
    if not (toolchain.BIN / "quantc").exists():
        pytest.skip("quantc is not built")
    sys.path.insert(0, str(ROOT / "models"))
    from llama_network import Llama

    source = ROOT / "models" / "tiny-llama"
    model = Llama(json.loads((source / "config.json").read_text()))
    data = (source / "model.safetensors").read_bytes()
    (size,) = struct.unpack_from("<Q", data)
    state = {
        name: torch.tensor(array)
        for name, array in toolchain.read_safetensors(
            source / "model.safetensors").items()
    }  # fmt: skip
    assert size > 0
    model.load_state_dict(state)
    names = qat.prepare(model, "int4", group_size=64)
    assert len(names) == 6 * 7
    ids = torch.tensor([[4094, 17, 300, 5, 80, 1000]])
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    model(ids).square().mean().backward()
    optimizer.step()
    expected = model(ids)[0].detach().numpy()
    qat.export_llama(model, source, tmp_path / "trained")
    toolchain.succeed(
        "quantc", tmp_path / "trained", "-o", tmp_path / "pkg", "--weights",
        "int4", "--group-size", 64, "--keep-lm-head",
    )  # fmt: skip
    actual = toolchain.logits(tmp_path / "pkg", ids[0].tolist())
    assert toolchain.relative_error(actual, expected) < 1e-5

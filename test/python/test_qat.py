# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Quantization-aware training rounds as the compiler does."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import numpy_reference as reference
import pytest
import toolchain
from numpy_reference import Scheme

torch = pytest.importorskip("torch")
qat = pytest.importorskip("qlm.qat")
nn = torch.nn
ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "models" / "tiny-llama"

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
    ({"reach": 0.5}, "reach must be from 0 to below 0.5, got 0.5"),
    ({"group_size": 48}, "group size must divide the columns, got 48 and 64 in 0"),
])
def test_bad_options(arguments, message):
    model = nn.Sequential(nn.Linear(64, 4))
    with pytest.raises(ValueError, match=message):
        qat.prepare(model, **arguments)
    assert not hasattr(model[0], "parametrizations")


def load_tiny():
    """The tiny LLaMA in PyTorch."""
    sys.path.insert(0, str(ROOT / "models"))
    from llama_network import Llama

    model = Llama(json.loads((TINY / "config.json").read_text()))
    stored = toolchain.read_safetensors(TINY / "model.safetensors")
    model.load_state_dict({n: torch.tensor(a) for n, a in stored.items()})
    return model


def test_exported_llama_runs_as_trained(tmp_path):
    if not (toolchain.BIN / "quantc").exists():
        pytest.skip("quantc is not built")
    source, model = TINY, load_tiny()
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


@pytest.mark.parametrize("kind, zero", [("int4", 8.0), ("int4", 3.0),
                                        ("int8", 128.0)])
def test_values_and_gradients_of_a_grid(kind, zero):
    low, high = (1, 255) if kind == "int8" else (0, 15)
    rng = np.random.default_rng(high)
    w = rng.normal(0, 40 if high > 15 else 4, (5, 24)).astype(np.float32)
    s = rng.uniform(0.5, 1, (5, 3)).astype(np.float16).astype(np.float32)
    upstream = rng.normal(size=w.shape).astype(np.float32)
    grid = qat.GridQuantize(kind, 8, torch.tensor(s),
                            torch.full((5, 3), zero))  # fmt: skip
    steps = grid.right_inverse(torch.tensor(w)).requires_grad_(True)
    values = grid(steps)
    wide = np.repeat(s, 8, 1)
    codes = np.clip(np.rint(w / wide) + zero, low, high)
    assert np.array_equal(values.detach().numpy(), (codes - zero) * wide)
    values.backward(torch.tensor(upstream))
    inside = codes == np.rint(w / wide) + zero
    assert not inside.all()
    assert np.array_equal(steps.grad.numpy(), upstream * wide * inside)
    expected = (upstream.astype(np.float64) * (codes - zero)).reshape(5, 3, 8)
    assert np.allclose(grid.scales.grad[..., 0].numpy(), expected.sum(-1),
                       rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """GPTQ's checkpoints of the tiny LLaMA, symmetric and with zero points."""
    if not (toolchain.BIN / "quantc").exists():
        pytest.skip("quantc is not built")
    from qlm.quantize import quantize

    folder = tmp_path_factory.mktemp("starts")
    options = ["--method", "gptq", "--group-size", "64", "--statistics",
               str(folder / "statistics")]
    text = ["--calibration", str(ROOT / "models" / "heldout.txt"),
            "--calibration-tokens", "1024"]
    return {
        False: quantize(TINY, folder / "plain", "gptq", options=options + text),
        True: quantize(TINY, folder / "zeros", "gptq",
                       options=[*options, "--zero-points"]),
    }  # fmt: skip


@pytest.mark.parametrize("zeros, reach", [(False, 0.49), (True, 0)])
def test_training_begins_at_gptqs_codes(checkpoints, tmp_path, zeros, reach):
    from qlm.checkpoints import read_weights

    model, start = load_tiny(), checkpoints[zeros]
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    names = qat.prepare(model, "int4", group_size=64, zero_points=zeros,
                        start=start, reach=reach)
    assert len(names) == 6 * 7
    values, moved = read_weights(start), 0.0
    for name in names:
        layer = model.get_submodule(name)
        # GPTQ's own values are rounded to float16.
        assert np.allclose(layer.weight.detach().numpy(),
                           values[name + ".weight"][0], rtol=1e-3, atol=0)
        old = before[name + ".weight"]
        rounding = layer.parametrizations.weight[0]
        same = rounding(rounding.right_inverse(old)) == layer.weight
        steps = rounding.stored_scales().expand(-1, -1, 64).reshape(old.shape)
        # What is trained is in steps.
        latent = layer.parametrizations.weight.original * steps
        distance = (latent - layer.weight).abs()
        assert (distance <= (reach + 1e-2) * steps).all()
        # Weights move no farther than they must.
        near = (old - layer.weight).abs() < (reach - 1e-2) * steps
        assert torch.allclose(latent[near], old[near], rtol=1e-5)
        moved += float((~same).float().mean()) / len(names)
    assert 0.01 < moved < 0.5  # GPTQ's codes are not those of rounding
    ids = torch.tensor([[4094, 17, 300, 5, 80, 1000]])
    grids = [model.get_submodule(n).parametrizations.weight for n in names]
    optimizer = torch.optim.SGD([
        {"params": [g.original for g in grids], "lr": 0.05},
        {"params": [g[0].scales for g in grids], "lr": 2e-3},
    ])  # fmt: skip
    scales = grids[3][0].stored_scales().detach().clone()
    model(ids).square().mean().backward()
    optimizer.step()
    assert not torch.equal(grids[3][0].stored_scales(), scales)
    expected = model(ids)[0].detach().numpy()
    qat.export_llama(model, TINY, tmp_path / "trained")
    toolchain.succeed(
        "quantc", tmp_path / "trained", "-o", tmp_path / "pkg", "--weights",
        "int4", "--group-size", 64, "--keep-lm-head", "--method", "keep",
        "--statistics", tmp_path / "trained" / "kept-scales.safetensors",
        *(["--zero-points"] if zeros else []),
    )  # fmt: skip
    actual = toolchain.logits(tmp_path / "pkg", ids[0].tolist())
    assert toolchain.relative_error(actual, expected) < 1e-5


def test_starts_that_are_refused(checkpoints, tmp_path):
    start = checkpoints[True]
    for arguments, message in [
        ({"group_size": 32}, "int4 in groups of 32, got int4 in groups of 64"),
        ({"weights": "int8"}, "start must have int8 in groups of 64, got int4"),
        ({"zero_points": False}, "no zero points, got some in model.layers"),
    ]:
        options = {"group_size": 64, "zero_points": True} | arguments
        with pytest.raises(ValueError, match=message):
            qat.prepare(load_tiny(), start=start, **options)
    model = load_tiny()
    model.extra = nn.Linear(64, 4)
    with pytest.raises(ValueError, match="start has no codes of extra: skip it"):
        qat.prepare(model, group_size=64, zero_points=True, start=start)
    model = load_tiny()
    with torch.no_grad():
        model.model.norm.weight[0] += 1
    with pytest.raises(ValueError, match="same model, its model.norm.weight"):
        qat.prepare(model, group_size=64, zero_points=True, start=start)
    with pytest.raises(ValueError, match="no known method"):
        qat.prepare(load_tiny(), group_size=64, start=TINY)

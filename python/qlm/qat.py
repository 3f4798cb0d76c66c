# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Quantization-aware training of PyTorch modules, with the compiler's numerics.

``prepare`` lets each linear and convolution compute with the weights that the
compiler will store; the user's own loop trains; ``convert`` gives the trained
module back, and ``export_llama`` a folder that ``qlm.compile`` takes with the
same options:

    qat.prepare(model, weights="int4", group_size=32, skip=("lm_head",))
    ...                                            # the user's training loop
    qat.export_llama(model, "tiny-llama", "trained")
    qlm.compile("trained", "trained.qlm", weights="int4", group_size=32,
                keep_lm_head=True)

Training keeps float32 weights, and the compiler rounds those: by the same
arithmetic, so the package holds the codes that training saw. A gradient passes
through rounding as if it weren't there (straight-through estimator; Bengio et
al., arXiv 1308.3432).

With ``prepare(..., start=FOLDER)`` training begins at the codes and scales of a
quantized checkpoint, such as GPTQ's of ``quantc quantize``, and scales are
trained with the weights. ``export_llama`` then writes what the codes stand for
with the scales beside it, and ``quantc --method keep`` keeps them.

PyTorch is an optional dependency: ``pip install qlm[qat]``.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
from pathlib import Path

try:
    import torch
    from torch import nn
    from torch.nn.utils import fusion, parametrize
except ImportError as error:  # pragma: no cover
    raise ImportError("qlm.qat needs PyTorch: pip install torch") from error

__all__ = [
    "FakeQuantize",
    "GridQuantize",
    "convert",
    "export_llama",
    "fake_quantize",
    "fake_quantize_rows",
    "prepare",
]

_KINDS = ("int8", "int4")


def _rounded(weight, kind: str, group_size: int, zero_points: bool):
    """The values of the codes of float32 weights, as `qlm.rtn` defines them."""
    rows = weight.shape[0]
    matrix = weight.reshape(rows, -1)
    groups = matrix.reshape(rows, -1, group_size) if group_size else matrix[:, None]
    low, high = (-127.0, 127.0) if kind == "int8" else (-8.0, 7.0)
    bound = 127.0 if kind == "int8" else 7.5
    if zero_points:
        low, high = 0.0, 255.0 if kind == "int8" else 15.0
        smallest = groups.amin(-1, keepdim=True).clamp(max=0)
        largest = groups.amax(-1, keepdim=True).clamp(min=0)
        scale = (largest - smallest) / high
    else:
        scale = groups.abs().amax(-1, keepdim=True) / bound
    if kind == "int4":
        scale = scale.half().float()
    divisor = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero = torch.zeros_like(scale)
    if zero_points:
        zero = torch.clamp(torch.round(-smallest / divisor), 0, high)
    codes = torch.clamp(torch.round(groups / divisor) + zero, low, high)
    values = torch.where(scale == 0, torch.zeros_like(codes), codes - zero) * scale
    return values.reshape(weight.shape)


def fake_quantize(
    weight, kind: str = "int4", group_size: int = 0, zero_points: bool = False
):
    """Round weights to the values that the compiler's codes stand for.

    Parameters
    ----------
    weight : float32 tensor [rows, ...]
    kind : str
        "int8" or "int4".
    group_size : int
        Columns that share a scale; 0 gives each row one.
    zero_points : bool

    Returns
    -------
    tensor of the weight's shape
        Its gradient is the weight's, unchanged.
    """
    if kind not in _KINDS:
        raise ValueError(f"weights must be int8 or int4, got '{kind}'")
    columns = weight[0].numel()
    if group_size and columns % group_size:
        raise ValueError(
            f"group size must divide the columns, got {group_size} and {columns}"
        )
    with torch.no_grad():
        change = _rounded(weight.float(), kind, group_size, zero_points) - weight
    return weight + change


def fake_quantize_rows(x):
    """Round activations as `--activations int8-dynamic` does, a scale a row.

    Parameters
    ----------
    x : float32 tensor [..., features]
    """
    with torch.no_grad():
        largest = x.abs().amax(-1, keepdim=True)
        inverse = 127.0 / largest
        codes = torch.clamp(torch.round(x * inverse), -127, 127)
        codes = torch.where(x == 0, torch.zeros_like(codes), codes)
        change = codes * (largest / 127.0) - x
    return x + change


class FakeQuantize(nn.Module):
    """A parametrization that rounds a weight whenever it is used."""

    def __init__(self, kind: str, group_size: int, zero_points: bool):
        super().__init__()
        self.kind, self.group_size = kind, group_size
        self.zero_points = zero_points

    def forward(self, weight):
        return fake_quantize(
            weight, self.kind, self.group_size, self.zero_points
        )

    def right_inverse(self, weight):
        return weight


class _RoundSteps(torch.autograd.Function):
    """`clamp(round(u) + z, low, high) - z`, with the gradient of `u` within the
    range of the codes and none beyond it."""

    @staticmethod
    def forward(context, steps, zero, low, high):
        codes = torch.round(steps) + zero
        context.save_for_backward((codes >= low) & (codes <= high))
        return codes.clamp(low, high) - zero

    @staticmethod
    def backward(context, gradient):
        (inside,) = context.saved_tensors
        return gradient * inside, None, None, None


class GridQuantize(FakeQuantize):
    """A parametrization that rounds a weight to codes with scales of its own.

    What is trained is the weight in steps, `w / s`, so that one rate suits all
    layers, and a scale that moves takes what its codes stand for with it. A
    scale's gradient is the sum over its group of that of the value times the
    code.

    Attributes
    ----------
    scales : Parameter ``[rows, groups, 1]``
        In float32; used as they are stored, with int4 in float16.
    zeros : tensor ``[rows, groups, 1]``
        Zero points of codes from 0 on.
    """

    def __init__(self, kind: str, group_size: int, scales, zeros):
        bits = 4 if kind == "int4" else 8
        middle = 1 << (bits - 1)
        super().__init__(kind, group_size, bool((zeros != middle).any()))
        self.scales = nn.Parameter(scales[..., None].contiguous())
        self.register_buffer("zeros", zeros[..., None].contiguous())
        symmetric8 = bits == 8 and not self.zero_points
        self.low, self.high = int(symmetric8), (1 << bits) - 1

    def stored_scales(self):
        """The scales as the package has them; the gradient passes."""
        with torch.no_grad():
            stored = self.scales.clamp(min=0)
            if self.kind == "int4":
                stored = stored.half().float()
            change = stored - self.scales
        return self.scales + change

    def forward(self, steps):
        groups = steps.reshape(steps.shape[0], self.scales.shape[1], -1)
        digits = _RoundSteps.apply(groups, self.zeros, self.low, self.high)
        return (digits * self.stored_scales()).reshape(steps.shape)

    def right_inverse(self, weight):
        scales = self.stored_scales().detach()
        groups = weight.reshape(weight.shape[0], self.scales.shape[1], -1)
        divisor = torch.where(scales == 0, torch.ones_like(scales), scales)
        return (groups / divisor).reshape(weight.shape)


def _grids_of(start, kind: str, group_size: int, zero_points: bool) -> dict:
    """The grids of a quantized checkpoint's linears, and their values."""
    from .kept import NotOurs, read_scales
    from .tool_formats import read_weights

    try:
        parts = read_scales(start)
    except NotOurs as reason:
        raise ValueError(f"cannot start from {start}: {reason}") from None
    values = read_weights(start)
    grids = {}
    for name, (scales, zeros, bits, group) in parts.items():
        stored = f"int{bits}" if isinstance(bits, int) else bits
        if (stored, group or 0) != (kind, group_size):
            raise ValueError(
                f"start must have {kind} in groups of {group_size}, got "
                f"{stored} in groups of {group or 0} in {name}"
            )
        scales = torch.tensor(scales).float()
        middle = float(1 << (bits - 1))
        zeros = (torch.full_like(scales, middle) if zeros is None
                 else torch.tensor(zeros).float())  # fmt: skip
        grid = GridQuantize(kind, group_size, scales, zeros)
        if grid.zero_points and not zero_points:
            raise ValueError(f"start must have no zero points, got some in {name}")
        # The type's range is the checkpoint's, whatever this weight's zeros are.
        grid.low, grid.zero_points = 0 if zero_points else grid.low, zero_points
        grids[name] = (grid, torch.tensor(values.pop(name + ".weight")[0]))
    return grids | {None: values}


def _begin_at(layer, grid: GridQuantize, values, reach: float) -> None:
    """Move a layer's weight to at most `reach` of a step from `values`."""
    with torch.no_grad():
        shape = (values.shape[0], grid.scales.shape[1], -1)
        middle = values.reshape(shape).to(layer.weight.device)
        most = reach * grid.stored_scales()
        weight = layer.weight.reshape(shape)
        layer.weight.copy_(torch.minimum(torch.maximum(weight, middle - most),
                                         middle + most).reshape(values.shape))


def _fold_batch_norms(module) -> None:
    """Fold each BatchNorm into the linear or convolution before it."""
    for child in module.children():
        _fold_batch_norms(child)
    if not isinstance(module, nn.Sequential):
        return
    names = list(module._modules)
    for name, following in zip(names, names[1:]):
        layer, norm = module._modules[name], module._modules[following]
        if isinstance(layer, nn.Linear) and isinstance(norm, nn.BatchNorm1d):
            fold = fusion.fuse_linear_bn_weights
        elif isinstance(layer, (nn.Conv1d, nn.Conv2d)) and isinstance(
            norm, (nn.BatchNorm1d, nn.BatchNorm2d)
        ):
            fold = fusion.fuse_conv_bn_weights
        else:
            continue
        layer.weight, layer.bias = fold(
            layer.weight, layer.bias, norm.running_mean, norm.running_var,
            norm.eps, norm.weight, norm.bias,
        )  # fmt: skip
        module._modules[following] = nn.Identity()


def _check_start(module, prepared, grids) -> None:
    """Refuse a start that is of another model."""
    for name, layer in prepared:
        if name not in grids:
            raise ValueError(f"start has no codes of {name}: skip it")
        if grids[name][1].shape != layer.weight.shape:
            raise ValueError(
                f"start must have {list(layer.weight.shape)} values of {name}, "
                f"got {list(grids[name][1].shape)}"
            )
    state = module.state_dict()
    for name, (values, _) in grids[None].items():
        if name in state and not torch.equal(
            state[name].float().cpu(), torch.tensor(values)
        ):
            raise ValueError(
                f"start must be of the same model, its {name} differs"
            )


def _round_inputs(_, inputs):
    return (fake_quantize_rows(inputs[0]), *inputs[1:])


def prepare(
    module,
    weights: str = "int4",
    group_size: int | None = None,
    zero_points: bool = False,
    activations: str = "none",
    skip: tuple[str, ...] = (),
    start: str | os.PathLike | None = None,
    reach: float = 0.0,
):
    """Let a module's linears and convolutions compute with rounded weights.

    Batch norms behind a linear or convolution of an ``nn.Sequential`` are
    folded into it first, by their running statistics.

    Parameters
    ----------
    module : torch.nn.Module
        Changed in place.
    weights : str
        "int8" (a scale for each row) or "int4" (a scale for each group).
    group_size : int, optional
        By default 128 for int4 and rows for int8.
    zero_points : bool
    activations : str
        "none" or "int8-dynamic".
    skip : names
        Modules whose name is one of these, or ends in it, stay as they are.
    start : path, optional
        A quantized checkpoint of this LLaMA with this scheme: each weight
        begins where it rounds to the checkpoint's value. Trained are then
        ``layer.parametrizations.weight.original``, the weight in steps between
        codes, and ``layer.parametrizations.weight[0].scales``.
    reach : float
        How far, of a step between codes, a weight may begin from the
        checkpoint's value towards its own, below 0.5. At 0 only gradients that
        keep their direction change codes; the farther, the more does noise.

    Returns
    -------
    list of str
        Names of the modules prepared.

    Raises
    ------
    ValueError
        For an unknown type, a group size that doesn't divide the columns, or a
        start with another scheme, another model's norms or without a linear.
    """
    if weights not in _KINDS:
        raise ValueError(f"weights must be int8 or int4, got '{weights}'")
    if activations not in ("none", "int8-dynamic"):
        raise ValueError(
            f"activations must be none or int8-dynamic, got '{activations}'"
        )
    if not 0 <= reach < 0.5:
        raise ValueError(f"reach must be from 0 to below 0.5, got {reach}")
    if group_size is None:
        group_size = 128 if weights == "int4" else 0
    _fold_batch_norms(module)
    prepared = []
    for name, layer in module.named_modules():
        if not isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d)):
            continue
        if any(name == s or name.endswith("." + s) for s in skip):
            continue
        columns = layer.weight[0].numel()
        if group_size and columns % group_size:
            raise ValueError(
                f"group size must divide the columns, got {group_size} and "
                f"{columns} in {name}"
            )
        prepared.append((name, layer))
    grids = _grids_of(start, weights, group_size, zero_points) if start else {}
    if start:
        _check_start(module, prepared, grids)
    for name, layer in prepared:
        rounding = FakeQuantize(weights, group_size, zero_points)
        if start:
            rounding, values = grids[name]
            rounding.to(layer.weight.device)
            _begin_at(layer, rounding, values, reach)
        parametrize.register_parametrization(layer, "weight", rounding)
        if activations == "int8-dynamic":
            layer._qlm_hook = layer.register_forward_pre_hook(_round_inputs)
    return [name for name, _ in prepared]


def convert(module, rounded: bool = False):
    """Take the rounding out again.

    Parameters
    ----------
    module : torch.nn.Module
        One that `prepare` has changed; changed in place and returned.
    rounded : bool
        Leave the rounded weights, for running in PyTorch, and not the trained
        ones, which the compiler rounds to the same. After a `start` the rounded
        ones are left in any case.
    """
    for layer in module.modules():
        if parametrize.is_parametrized(layer, "weight") and isinstance(
            layer.parametrizations.weight[0], FakeQuantize
        ):
            grid = isinstance(layer.parametrizations.weight[0], GridQuantize)
            parametrize.remove_parametrizations(
                layer, "weight", leave_parametrized=rounded or grid
            )
        if hasattr(layer, "_qlm_hook"):
            layer._qlm_hook.remove()
            del layer._qlm_hook
    return module


def _write_safetensors(path: Path, tensors: dict) -> None:
    """Write float32 tensors."""
    header, offset = {}, 0
    for name, tensor in tensors.items():
        end = offset + 4 * tensor.numel()
        header[name] = {
            "dtype": "F32",
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            file.write(tensor.contiguous().numpy().tobytes())
    os.replace(partial, path)


def _trained_scales(module) -> dict:
    """The scales and zero points of a module that had a start, by linear."""
    found = {}
    for name, layer in module.named_modules():
        if not parametrize.is_parametrized(layer, "weight"):
            continue
        grid = layer.parametrizations.weight[0]
        if not isinstance(grid, GridQuantize):
            continue
        with torch.no_grad():
            scales = grid.stored_scales()[..., 0].cpu().numpy()
        zeros = grid.zeros[..., 0].cpu().numpy() if grid.zero_points else None
        found[name] = (scales, zeros, 4 if grid.kind == "int4" else 8,
                       grid.group_size or None)
    return found


def export_llama(module, source: str | os.PathLike, output: str | os.PathLike):
    """Write a trained LLaMA as a folder for ``qlm.compile``.

    Parameters
    ----------
    module : torch.nn.Module
        Its state has Hugging Face's names; converted here if it isn't yet.
    source : path
        The folder it came from: config and tokenizer are copied.
    output : path
        The folder to write; it may exist.

    Returns
    -------
    Path

    Notes
    -----
    After `prepare` with a `start` the weights are those that codes stand for,
    and ``kept-scales.safetensors`` is written beside them, for ``quantc OUTPUT
    --method keep --statistics OUTPUT/kept-scales.safetensors --keep-lm-head``
    with the type, group size and ``--zero-points`` of `prepare`.
    """
    kept = _trained_scales(module)
    convert(module)
    source, output = Path(source), Path(output)
    output.mkdir(parents=True, exist_ok=True)
    config = json.loads((source / "config.json").read_text())
    config["torch_dtype"] = "float32"
    (output / "config.json").write_text(json.dumps(config, indent=2))
    for name in ("tokenizer.json", "tokenizer_config.json",
                 "generation_config.json"):  # fmt: skip
        if (source / name).exists():
            shutil.copy(source / name, output / name)
    tensors = {
        name: tensor.detach().float().cpu()
        for name, tensor in module.state_dict().items()
    }
    if config.get("tie_word_embeddings"):
        tensors.pop("lm_head.weight", None)
    _write_safetensors(output / "model.safetensors", tensors)
    if kept:
        from .kept import KEPT_FILE, label_scales

        scales, _ = label_scales(kept)
        _write_safetensors(output / KEPT_FILE, {
            name: torch.tensor(tensor.array) for name, tensor in scales.items()
        })
    return output

# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Writes quantized checkpoints that other tools load.

    quantc quantize MODEL -o DIR --format gptq --method gptq \\
        --calibration FILE

is this module's `main`. The codes are the compiler's: ``quantc`` makes a package with its own options
(``--method``, ``--group-size``, ``--calibration``, …), and its codes and scales
are written in the format's order. The head and the embedding stay as they are.

==================  ========================================================
format              weights
==================  ========================================================
gptq                int4 by groups, symmetric or ``--zero-points``
awq                 int4 by groups with zero points (gemm packing)
bitsandbytes        nf4, with or without ``--double-quant``; int8
compressed-tensors  int4 by groups, int8 by channel, fp8 by channel
==================  ========================================================

Inputs that are rounded when the model runs are said where the format can:
``--activations int8-dynamic`` with compressed-tensors' int8, and ``--method
llm.int8`` with bitsandbytes' int8.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from .compiler import _find_compiler
from .packed import Linear, read_linears
from .tensors import CheckpointError, Tensor, read_folder, write_folder
from .tool_formats import AWQ_ORDER, dynamic_map, normal_float4

__all__ = ["FORMATS", "quantize"]

_WEIGHTS = {"gptq": ("int4",), "awq": ("int4",),
            "bitsandbytes": ("nf4", "int8"),
            "compressed-tensors": ("int4", "int8", "fp8")}  # fmt: skip
FORMATS = tuple(_WEIGHTS)


def _pack(codes: np.ndarray, axis: int) -> np.ndarray:
    """Pack eight 4-bit codes along an axis in an int32, low bits first."""
    codes = np.moveaxis(codes.astype(np.uint32), axis, -1)
    cells = codes.reshape(*codes.shape[:-1], -1, 8)
    words = (cells << (np.arange(8, dtype=np.uint32) * 4)).sum(
        -1, dtype=np.uint32)
    return np.ascontiguousarray(np.moveaxis(words, -1, axis)).view(np.int32)


def _zeros_of(linear: Linear) -> np.ndarray:
    """Zero points of codes from 0 to 15."""
    if linear.zero_points is not None:
        return linear.zero_points
    return np.full(linear.scales.shape, 8, np.int16)


def _unsigned(linear: Linear) -> np.ndarray:
    return linear.codes + (0 if linear.zero_points is not None else 8)


def _check_rows(name: str, rows: int) -> None:
    if rows % 8:
        raise CheckpointError(
            f"{name}: rows must be a multiple of 8 in this format, got {rows}")


#
# A writer for each format: the tensors of one linear, by their last names.
#


def _write_gptq(name: str, linear: Linear, settings: dict) -> dict:
    rows, columns = linear.codes.shape
    _check_rows(name, rows)
    group = columns // linear.scales.shape[1]
    zeros = _zeros_of(linear)
    if settings["checkpoint_format"] == "gptq":
        zeros = zeros - 1  # version 1 stores one less
    return {
        "qweight": Tensor("I32", _pack(_unsigned(linear).T, 0)),
        "qzeros": Tensor("I32", _pack(zeros.T, 1)),
        "scales": Tensor("F16", linear.scales.T.astype(np.float16)),
        "g_idx": Tensor("I32", (np.arange(columns) // group).astype(np.int32)),
    }


def _write_awq(name: str, linear: Linear, settings: dict) -> dict:
    _check_rows(name, linear.codes.shape[0])
    inverse = np.argsort(AWQ_ORDER)

    def ordered(codes):  # nibble i holds column order[i] of eight
        cells = codes.reshape(codes.shape[0], -1, 8)[:, :, inverse]
        return _pack(cells.reshape(codes.shape[0], -1), 1)

    return {
        "qweight": Tensor("I32", ordered(_unsigned(linear).T)),
        "qzeros": Tensor("I32", ordered(_zeros_of(linear).T)),
        "scales": Tensor("F16", linear.scales.T.astype(np.float16)),
    }


def _write_bitsandbytes(name: str, linear: Linear, settings: dict) -> dict:
    rows, columns = linear.codes.shape
    if settings["load_in_8bit"]:
        absmax = linear.scales[:, 0] * np.float32(127)
        return {
            "weight": Tensor("I8", linear.codes.astype(np.int8)),
            "SCB": Tensor("F32", absmax.astype(np.float32)),
            "weight_format": Tensor("U8", np.array(0, np.uint8)),
        }
    codes = linear.codes.astype(np.uint8).reshape(-1, 2)
    state = {"quant_type": "nf4", "blocksize": settings["block"],
             "dtype": settings["dtype"], "shape": [rows, columns]}
    parts = {
        "weight": Tensor("U8", (codes[:, :1] << 4) | codes[:, 1:]),
        "weight.quant_map": Tensor("F32", normal_float4()),
        "weight.absmax": Tensor(
            "F32", np.ascontiguousarray(linear.scales, np.float32).ravel()),
    }
    if linear.doubled is not None:
        scale_codes, offset, blocks = linear.doubled
        state |= {"nested_blocksize": 256, "nested_dtype": "float32",
                  "nested_offset": float(offset)}
        parts["weight.absmax"] = Tensor("U8", scale_codes.ravel())
        parts["weight.nested_absmax"] = Tensor("F32", blocks)
        parts["weight.nested_quant_map"] = Tensor("F32", dynamic_map())
    text = np.frombuffer(json.dumps(state).encode(), np.uint8)
    parts["weight.quant_state.bitsandbytes__nf4"] = Tensor("U8", text)
    return parts


def _write_compressed(name: str, linear: Linear, settings: dict) -> dict:
    rows, columns = linear.codes.shape
    scales = Tensor("F16" if linear.scales.dtype == np.float16 else "F32",
                    linear.scales)
    if settings["weights"] == "fp8":
        return {"weight": Tensor("F8_E4M3", linear.codes.astype(np.uint8)),
                "weight_scale": scales}
    if settings["weights"] == "int8":
        return {"weight": Tensor("I8", linear.codes.astype(np.int8)),
                "weight_scale": scales}
    parts = {
        "weight_packed": Tensor("I32", _pack(_unsigned(linear), 1)),
        "weight_scale": scales,
        "weight_shape": Tensor("I64", np.array([rows, columns], np.int64)),
    }
    if linear.zero_points is not None:
        _check_rows(name, rows)
        parts["weight_zero_point"] = Tensor("I32", _pack(linear.zero_points, 0))
    return parts


_WRITERS = {"gptq": _write_gptq, "awq": _write_awq,
            "bitsandbytes": _write_bitsandbytes,
            "compressed-tensors": _write_compressed}  # fmt: skip


# What each format can say of inputs, with weights of a kind.
_ACTIVATIONS = {("bitsandbytes", "int8"): "int8-dynamic",
                ("compressed-tensors", "int8"): "int8-dynamic"}  # fmt: skip


def _settings(form: str, weights: str, linears: dict[str, Linear],
              dtype: str, activations: str = "none") -> tuple[dict, dict]:
    """Return the config's section, and what the writer needs to know."""
    if activations not in ("none", _ACTIVATIONS.get((form, weights))):
        raise CheckpointError(
            f"{form} with weights {weights} can't say activations "
            f"{activations}")
    first = next(iter(linears.values()))
    group = first.codes.shape[1] // first.scales.shape[1]
    symmetric = first.zero_points is None
    if form == "gptq":
        # Version 1 stores one less, which a zero point of 0 doesn't have, and
        # GPTQModel reads it of symmetric codes alone.
        version = "gptq" if symmetric else "gptq_v2"
        section = {"quant_method": "gptq", "bits": 4, "group_size": group,
                   "desc_act": False, "sym": symmetric, "lm_head": False,
                   "checkpoint_format": version}
        return section, section
    if form == "awq":
        section = {"quant_method": "awq", "bits": 4, "group_size": group,
                   "zero_point": True, "version": "gemm", "backend": "autoawq",
                   "modules_to_not_convert": ["lm_head"]}
        return section, section
    if form == "bitsandbytes":
        eight = weights == "int8"
        section = {
            "quant_method": "bitsandbytes", "load_in_8bit": eight,
            "load_in_4bit": not eight, "llm_int8_threshold": 6.0,
            "llm_int8_skip_modules": ["lm_head"],
            "llm_int8_has_fp16_weight": False,
            "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype,
            "bnb_4bit_quant_storage": "uint8",
            "bnb_4bit_use_double_quant": first.doubled is not None,
        }  # fmt: skip
        return section, section | {"block": group, "dtype": dtype}
    section = _compressed_section(weights, group, symmetric,
                                  activations != "none")
    return section, section | {"weights": weights}


def _compressed_section(weights: str, group: int, symmetric: bool,
                        rounds_inputs: bool) -> dict:
    packed = weights == "int4"
    arguments = {
        "num_bits": 4 if packed else 8,
        "type": "float" if weights == "fp8" else "int",
        "symmetric": symmetric,
        "strategy": "group" if packed else "channel",
        "group_size": group if packed else None, "dynamic": False,
    }  # fmt: skip
    inputs = {
        "num_bits": 8, "type": "int", "symmetric": True, "strategy": "token",
        "dynamic": True,
    } if rounds_inputs else None  # fmt: skip
    return {
        "quant_method": "compressed-tensors",
        "format": {"int4": "pack-quantized", "int8": "int-quantized",
                   "fp8": "float-quantized"}[weights],
        "quantization_status": "compressed", "ignore": ["lm_head"],
        "config_groups": {"group_0": {
            "targets": ["Linear"], "weights": arguments,
            "input_activations": inputs, "output_activations": None}},
    }  # fmt: skip


def _collect(model: Path, package: Path, form: str, weights: str,
             dtype: str) -> tuple[dict, dict]:
    """All tensors of the checkpoint, and the config's section."""
    linears, norms, _ = read_linears(package)
    manifest = json.loads((package / "manifest.json").read_text())
    section, settings = _settings(form, weights, linears, dtype,
                                  manifest["quantization"]["activations"])
    kept = read_folder(model)
    tensors = {}
    for name, tensor in kept.items():
        module = name.removesuffix(".weight").removesuffix(".bias")
        if module in linears:
            if name.endswith(".bias") and linears[module].bias is not None:
                tensors[name] = Tensor("F32", linears[module].bias)
        elif name in norms and not np.array_equal(tensor.floats(), norms[name]):
            # Scales were folded into it.
            tensors[name] = Tensor("F32", norms[name])
        else:
            tensors[name] = tensor
    for name, linear in linears.items():
        parts = _WRITERS[form](name, linear, settings)
        tensors |= {f"{name}.{last}": each for last, each in parts.items()}
    return tensors, section


class CompilerError(CheckpointError):
    """The compiler has failed, and said why itself.

    Attributes
    ----------
    code : int
        What it ended with.
    """

    def __init__(self, code: int):
        super().__init__(f"quantc ended with {code}")
        self.code = code


def _compile(command: list[str], show: bool) -> None:
    """Run the compiler; with `show`, its progress and warnings are seen."""
    done = subprocess.run(
        command, stdout=subprocess.DEVNULL, check=False, text=True,
        stderr=None if show else subprocess.PIPE)  # fmt: skip
    if done.returncode and show:
        raise CompilerError(done.returncode)
    if done.returncode:
        line = (done.stderr.strip().splitlines() or ["quantc failed"])[-1]
        raise CheckpointError(line.removeprefix("quantc: error: "))


def quantize(model, output, form: str, weights: str | None = None,
             options: list[str] | None = None, show: bool = False) -> Path:
    """Quantize a model and write it in another tool's format.

    Parameters
    ----------
    model, output : paths
        A Hugging Face folder; the folder to write, which must not exist.
    form : str
        One of `FORMATS`.
    weights : str, optional
        What linears become; the format's first by default.
    options : list of str, optional
        More of quantc's: ``["--method", "gptq", "--calibration", "a.txt"]``.
    show : bool
        Lets the compiler write its progress, warnings and errors itself.

    Returns
    -------
    Path

    Raises
    ------
    CheckpointError
        For what the format cannot say, and with the compiler's message;
        nothing is written then.
    """
    model, output = Path(model), Path(output)
    if form not in _WEIGHTS:
        raise CheckpointError(
            f"format must be {', '.join(FORMATS)}, got {form!r}")
    weights = weights or _WEIGHTS[form][0]
    if weights not in _WEIGHTS[form]:
        raise CheckpointError(
            f"{form} stores {' or '.join(_WEIGHTS[form])}, got {weights!r}")
    if output.exists():
        raise CheckpointError(f"{output} exists")
    words = list(options or [])
    if form == "awq" and "--zero-points" not in words:
        words.append("--zero-points")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent) as scratch:
        package = Path(scratch) / "package"
        _compile([_find_compiler(), str(model), "-o", str(package), "--weights",
                  weights, "--keep-lm-head", "--target-cpu", "x86-64-v3",
                  *words], show)  # fmt: skip
        config = json.loads((model / "config.json").read_text())
        dtype = config.get("torch_dtype", config.get("dtype", "float32"))
        tensors, config["quantization_config"] = _collect(
            model, package, form, weights, dtype)
    write_folder(model, output, config, {"model.safetensors": tensors})
    return output


def main(arguments: list[str], program: str = "qlm.quantize") -> int:
    """``quantc quantize MODEL -o DIR --format FORMAT [quantc's options]``."""
    parser = argparse.ArgumentParser(
        prog=program, allow_abbrev=False,
        description="Writes a quantized checkpoint that other tools load. All "
        "other options are quantc's: --method, --calibration, --group-size, "
        "--zero-points, ...")
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("-o", "--output", required=True, metavar="FOLDER",
                        help="the folder to write, which must not exist")
    parser.add_argument("--format", required=True, choices=FORMATS)
    parser.add_argument("--weights", metavar="TYPE", help="; ".join(
        f"{form}: {', '.join(types)}" for form, types in _WEIGHTS.items()))
    known, rest = parser.parse_known_args(arguments)
    try:
        quantize(known.model, known.output, known.format, known.weights, rest,
                 show=True)
    except CompilerError as error:
        return error.code
    except (CheckpointError, OSError) as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        return 1
    if "--quiet" not in rest:
        print(f"{program}: wrote {known.output}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""ONNX's backend interface over quantc and quant-run.

>>> import qlm.onnx_backend as backend                     # doctest: +SKIP
>>> [y] = backend.run_model(onnx.load("mlp.onnx"), [x])    # doctest: +SKIP

Needs the ``onnx`` package. Shapes, axes and the like that the compiler must
know and that a graph takes as inputs are compiled in: such a graph is compiled
again for each new value of them.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Sequence

import numpy as np
import onnx
from onnx.backend.base import Backend, BackendRep

__all__ = [
    "QlmBackend",
    "QlmRep",
    "Refused",
    "compile_models",
    "is_compatible",
    "prepare",
    "run_model",
    "supports_device",
]

_MUST_BE_KNOWN = re.compile(r"input \d+ \('(.*?)'\) must be known when")


class Refused(RuntimeError):
    """The compiler doesn't handle the model, and says why."""


def _find_tool(name: str) -> str:
    """Return a tool's path: beside the build this package is in, or on PATH."""
    beside = Path(__file__).resolve().parents[2] / "bin" / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if not found:
        raise FileNotFoundError(f"{name} is neither at {beside} nor on PATH")
    return found


def save_inputs(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write an .npz; types that NumPy lacks become raw bytes."""
    np.savez(path, **{
        # Unlike ascontiguousarray, require keeps a rank of 0.
        name: np.require(array, requirements="C").view(f"V{array.dtype.itemsize}")
        if array.dtype.type.__module__ == "ml_dtypes" else
        np.require(array, requirements="C")
        for name, array in arrays.items()
    })  # fmt: skip


def compile_models(
    folder: Path,
    models: dict[str, onnx.ModelProto],
    fixed: dict[str, dict[str, np.ndarray]] | None = None,
    quick: bool = False,
) -> dict[str, str | None]:
    """Compile models in one process, several at a time.

    Parameters
    ----------
    folder
        Where ``NAME.onnx`` and the packages ``NAME.qlm`` go.
    models
        Models by name.
    fixed
        Inputs that become constants, by model and input.
    quick
        Whether compiling fast counts more than fast code.

    Returns
    -------
    dict
        For each name None, or why the model was refused.
    """
    lines = []
    for name, model in models.items():
        path = folder / f"{name}.onnx"
        path.write_bytes(model.SerializeToString())
        line = f"{path}\t{folder / name}.qlm"
        if fixed and fixed.get(name):
            save_inputs(folder / f"{name}.fixed.npz", fixed[name])
            line += f"\t{folder / name}.fixed.npz"
        lines.append(line)
    batch = folder / "batch.txt"
    batch.write_text("\n".join(lines) + "\n")
    done = subprocess.run(
        [_find_tool("quantc"), "--batch", batch, *(["--quick"] if quick else [])],
        capture_output=True,
        text=True,
    )
    results: dict[str, str | None] = {}
    for line in done.stdout.splitlines():
        state, path, *message = line.split("\t", 2)
        name = Path(path).name.removesuffix(".onnx")
        results[name] = message[0].removeprefix(path + ": ") if message else None
        assert (state == "ok") == (not message)
    missing = [name for name in models if name not in results]
    if len(models) == 1 and missing:
        text = done.stderr.strip().splitlines()
        raise RuntimeError(
            f"quantc ended with {done.returncode}: {text[-1] if text else ''}"
        )
    # Whatever stopped the process, the others get their turn.
    for name in missing:
        try:
            results |= compile_models(folder, {name: models[name]}, fixed, quick)
        except RuntimeError as error:
            results[name] = f"crash: {error}"
    return results


def inputs_to_fix(error: str | None) -> list[str]:
    """Names of inputs that a refusal says must be known."""
    return _MUST_BE_KNOWN.findall(error) if error else []


def run_package(
    package: Path, model: onnx.ModelProto, inputs: dict[str, np.ndarray]
) -> list[np.ndarray]:
    """Run a package that :func:`compile_models` wrote; outputs in order."""
    source, target = package.with_suffix(".in.npz"), package.with_suffix(".out.npz")
    save_inputs(source, inputs)
    done = subprocess.run(
        [_find_tool("quant-run"), "run", package, "--input", source, "-o", target],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    if done.returncode:
        text = done.stderr.strip() or f"quant-run ended with {done.returncode}"
        raise RuntimeError(text.removeprefix("quant-run: error: "))
    outputs = []
    with np.load(target) as arrays:
        for info in model.graph.output:
            wanted = onnx.helper.tensor_dtype_to_np_dtype(
                info.type.tensor_type.elem_type
            )
            array = arrays[info.name]
            outputs.append(array.view(wanted) if array.dtype.kind == "V" else array)
    return outputs


class QlmRep(BackendRep):
    """A model that runs; made by :meth:`QlmBackend.prepare`."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self._folder = tempfile.TemporaryDirectory(prefix="qlm-onnx-")
        self._fixed: list[str] = []
        self._key: Any = None
        weights = {tensor.name for tensor in model.graph.initializer}
        self._names = [i.name for i in model.graph.input if i.name not in weights]
        error = self._compile({})
        if error and not inputs_to_fix(error):
            raise Refused(error)

    def _compile(self, fixed: dict[str, np.ndarray]) -> str | None:
        self._key = {name: array.tobytes() for name, array in fixed.items()}
        [error] = compile_models(
            Path(self._folder.name), {"model": self.model}, {"model": fixed}
        ).values()
        if error:
            self._key = None
        return error

    def run(self, inputs: Any, **kwargs: Any) -> tuple[np.ndarray, ...]:
        """Compute the outputs of arrays, in order or by name."""
        if not isinstance(inputs, dict):
            arrays = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
            inputs = dict(zip(self._names, arrays, strict=True))
        inputs = {name: np.asarray(array) for name, array in inputs.items()}
        while True:
            fixed = {name: inputs[name] for name in self._fixed}
            if self._key == {name: a.tobytes() for name, a in fixed.items()}:
                break
            error = self._compile(fixed)
            more = [name for name in inputs_to_fix(error) if name not in fixed]
            if error and not more:
                raise Refused(error)
            self._fixed += more
        rest = {n: array for n, array in inputs.items() if n not in self._fixed}
        package = Path(self._folder.name) / "model.qlm"
        return tuple(run_package(package, self.model, rest))


class QlmBackend(Backend):
    """Compiles for this machine's processor."""

    @classmethod
    def prepare(
        cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any
    ) -> QlmRep:
        """Compile *model*; raises :class:`Refused` when that can't be done."""
        if not cls.supports_device(device):
            raise Refused(f"device must be CPU, got {device}")
        return QlmRep(model)

    @classmethod
    def run_node(
        cls,
        node: onnx.NodeProto,
        inputs: Any,
        device: str = "CPU",
        outputs_info: Sequence[tuple[np.dtype, tuple[int, ...]]] | None = None,
        **kwargs: Any,
    ) -> tuple[np.ndarray, ...]:
        """Run one node; *outputs_info* has the type and shape of each output."""
        if outputs_info is None:
            raise Refused("outputs_info must be given for a node without a graph")

        def describe(name: str, dtype: Any, shape: Any) -> onnx.ValueInfoProto:
            element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
            return onnx.helper.make_tensor_value_info(name, element, shape)

        arrays = dict(zip([n for n in node.input if n], map(np.asarray, inputs)))
        graph = onnx.helper.make_graph(
            [node],
            "node",
            [describe(n, a.dtype, a.shape) for n, a in arrays.items()],
            [describe(n, *info)
             for n, info in zip([n for n in node.output if n], outputs_info)],
        )  # fmt: skip
        return cls.run_model(onnx.helper.make_model(graph), arrays, device)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether *device* is the processor."""
        return device.split(":")[0] == "CPU"


prepare = QlmBackend.prepare
run_model = QlmBackend.run_model
is_compatible = QlmBackend.is_compatible
supports_device = QlmBackend.supports_device

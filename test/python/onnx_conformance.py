# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Runs the node cases of ONNX's own backend tests and keeps the score.

python test/python/onnx_conformance.py [--write] [--only SUBSTRING] [--verbose]

Fails if a case gives another result than the standard, or if fewer pass than
docs/generated/OnnxConformance.md says.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import os
import re
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import onnx

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(Path(os.environ.get("QLM_BUILD", ROOT / "build/release")).resolve() / "python"))

from qlm import onnx_backend  # noqa: E402

SCORE = ROOT / "docs" / "generated" / "OnnxConformance.md"
PASSED, REFUSED, FAILED = "passed", "refused", "failed"


def collect(only: str = "") -> dict:
    """The standard's cases by name."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with np.errstate(all="ignore"):
            cases = collect_testcases(None)
    return {case.name: case for case in cases if only in case.name}


def operators(case) -> str:
    """What a case is about: the one operator, or the one it was expanded from."""
    nodes = {node.op_type for node in case.model.graph.node}
    if len(nodes) == 1:
        return nodes.pop()
    return "(expanded)" if "_expanded" in case.name else "(several)"


def to_array(value):
    """Cases hold some tensors as messages."""
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    return np.asarray(value)


def is_tensor(value) -> bool:
    """Whether a case's value is a tensor; those of rank 0 are NumPy scalars."""
    return isinstance(value, (np.ndarray, np.generic, onnx.TensorProto))


def name_inputs(case, arrays) -> dict[str, np.ndarray] | str:
    """Arrays by input name, or why there are none."""
    names = [info.name for info in case.model.graph.input]
    if not all(is_tensor(array) for array in arrays):
        return "inputs that are no tensors"
    arrays = [to_array(array) for array in arrays]
    if any(array.dtype.kind in "OUS" for array in arrays):
        return "inputs of strings"
    return dict(zip(names, arrays))


def compile_cases(folder: Path, cases: dict, inputs: dict) -> dict[str, str | None]:
    """Compiles all cases; inputs that must be known are fixed step by step."""
    fixed: dict[str, dict[str, np.ndarray]] = {name: {} for name in cases}
    results: dict[str, str | None] = {}
    waiting = {name: case.model for name, case in cases.items()}
    while waiting:
        done = onnx_backend.compile_models(folder, waiting, fixed, quick=True)
        results |= done
        again = {}
        for name, error in done.items():
            for wanted in onnx_backend.inputs_to_fix(error):
                if wanted in inputs[name] and wanted not in fixed[name]:
                    fixed[name][wanted] = inputs[name][wanted]
                    again[name] = waiting[name]
        waiting = again
    for name, arrays in fixed.items():
        for wanted in arrays:
            inputs[name].pop(wanted)
    return results


def compare(case, expected, actual) -> None:
    """Raises AssertionError where results differ by more than the case allows."""
    assert len(expected) == len(actual), "another number of outputs"
    for want, got in zip(expected, actual):
        want = to_array(want)
        assert got.dtype == want.dtype, f"type {got.dtype}, not {want.dtype}"
        assert got.shape == want.shape, f"shape {got.shape}, not {want.shape}"
        rtol = case.rtol
        if want.dtype.name == "bfloat16":
            rtol = max(rtol, 2**-6)  # Two steps, as in ONNX's own runner.
        if want.dtype.type.__module__ == "ml_dtypes":
            got, want = got.astype(np.float32), want.astype(np.float32)
        np.testing.assert_allclose(got, want, rtol=rtol, atol=case.atol)


def run_case(folder: Path, case, inputs) -> str | None:
    """Why a compiled case fails, or None."""
    for _, expected in case.data_sets:
        try:
            actual = onnx_backend.run_package(
                folder / f"{case.name}.qlm", case.model, inputs
            )
            compare(case, expected, actual)
        except (AssertionError, RuntimeError) as error:
            lines = [line for line in str(error).splitlines() if line.strip()]
            return "; ".join(lines[:12])
    return None


def judge(cases: dict) -> dict[str, tuple[str, str]]:
    """(PASSED, REFUSED or FAILED, why) of each case."""
    verdicts: dict[str, tuple[str, str]] = {}
    runnable, inputs = {}, {}
    for name, case in cases.items():
        if not case.data_sets or len(case.data_sets) != 1:
            verdicts[name] = (REFUSED, "not exactly one set of data")
            continue
        arrays = name_inputs(case, case.data_sets[0][0])
        if isinstance(arrays, str):
            verdicts[name] = (REFUSED, arrays)
        else:
            runnable[name], inputs[name] = case, arrays
    with tempfile.TemporaryDirectory(prefix="qlm-onnx-") as text:
        folder = Path(text)
        errors = compile_cases(folder, runnable, inputs)
        ready = []
        for name, error in errors.items():
            if error is None:
                ready.append(name)
            else:
                crashed = error.startswith("crash")
                verdicts[name] = (FAILED if crashed else REFUSED, error)
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            def run(name: str) -> str | None:
                return run_case(folder, runnable[name], inputs[name])

            for name, error in zip(ready, pool.map(run, ready)):
                verdicts[name] = (FAILED, error) if error else (PASSED, "")
    return verdicts


def count(verdicts: dict) -> collections.Counter:
    return collections.Counter(verdict for verdict, _ in verdicts.values())


def format_score(cases: dict, verdicts: dict) -> str:
    """The page that docs/generated keeps."""
    total = count(verdicts)
    by_operator: dict[str, collections.Counter] = collections.defaultdict(
        collections.Counter
    )
    reasons: dict[str, collections.Counter] = collections.defaultdict(
        collections.Counter
    )
    for name, (verdict, why) in verdicts.items():
        operator = operators(cases[name])
        by_operator[operator][verdict] += 1
        if verdict == REFUSED:
            why = re.sub(r"^node .*? \((\S+)\): ", "", why)
            why = re.sub(r"node (of )?'.*?' ", "", why)
            reasons[operator][why] += 1
    lines = [
        "# ONNX conformance",
        "",
        f"The node cases of the backend tests in onnx {onnx.__version__}: "
        f"{total[PASSED]} passed, {total[REFUSED]} refused, {total[FAILED]} failed, "
        f"of {len(verdicts)}.",
        "",
        "Made by `test/python/onnx_conformance.py --write`; a refused case is one",
        "that the compiler says it doesn't handle, a failed one gives another",
        "result than the standard.",
        "",
        "| operator | passed | refused | failed | most are refused for |",
        "|---|---|---|---|---|",
    ]
    for operator in sorted(by_operator):
        row = by_operator[operator]
        why = reasons[operator].most_common(1)
        text = why[0][0].replace("|", "\\|")[:120] if why else ""
        lines.append(
            f"| {operator} | {row[PASSED]} | {row[REFUSED]} | {row[FAILED]} | {text} |"
        )
    return "\n".join(lines) + "\n"


def kept_score() -> int:
    """Cases that pass according to the page in docs/generated."""
    [passed] = re.findall(r"(\d+) passed, \d+ refused", SCORE.read_text())
    return int(passed)


def judge_all(cases: dict, size: int = 200) -> dict[str, tuple[str, str]]:
    """:func:`judge`, some cases at a time, so that files don't pile up."""
    names = sorted(cases)
    verdicts: dict[str, tuple[str, str]] = {}
    for first in range(0, len(names), size):
        verdicts |= judge({name: cases[name] for name in names[first:first + size]})
    return verdicts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--verbose", action="store_true")
    arguments = parser.parse_args()
    cases = collect(arguments.only)
    verdicts = judge_all(cases)
    for name, (verdict, why) in sorted(verdicts.items()):
        if verdict == FAILED or (arguments.verbose and verdict == REFUSED):
            print(f"{verdict} {name}: {why}")
    if arguments.write:
        SCORE.write_text(format_score(cases, verdicts))
    total = count(verdicts)
    fell = not arguments.only and total[PASSED] < kept_score()
    if fell:
        print(f"{kept_score()} passed before, by {SCORE.relative_to(ROOT)}")
    print(f"{total[PASSED]} passed, {total[REFUSED]} refused, {total[FAILED]} failed")
    return 1 if total[FAILED] or fell else 0


if __name__ == "__main__":
    sys.exit(main())

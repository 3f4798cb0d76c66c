# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The tutorial's MLP (784-256-10, batch 100) beside ONNX Runtime.

    python benchmarks/graph/mlp.py make FOLDER     float and quantized ONNX files
    python benchmarks/graph/mlp.py compile FOLDER --quantc quantc [--target-cpu X]
    python benchmarks/graph/mlp.py time FOLDER --quant-run quant-run

`make` needs onnx and onnxruntime, `time` onnxruntime and numpy. Timing takes
turns: in each round every contestant is pinned to the same cores, runs for half
a second, and gives its least and median time of a run. What is printed is the
least and the median over the rounds of those medians, in microseconds, with the
spread of the rounds; ratios are of medians of one round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import time
from pathlib import Path

import numpy as np

BATCH = 100
KINDS = {
    "f32": [],
    "dynamic": ["--weights", "int8", "--activations", "int8-dynamic"],
    "static": ["--weights", "int8", "--activations", "int8-static"],
    "qdq": [],
}


def make(folder: Path) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    from onnxruntime import quantization as q

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.standard_normal((784, 256)) / 28, "b1": rng.standard_normal(256),
        "w2": rng.standard_normal((256, 10)) / 16, "b2": rng.standard_normal(10),
    }  # fmt: skip
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], name="first"),
        helper.make_node("Relu", ["h"], ["r"], name="relu"),
        helper.make_node("Gemm", ["r", "w2", "b2"], ["y"], name="second"),
    ]
    graph = helper.make_graph(
        nodes, "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 784])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()],
    )  # fmt: skip
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10
    )
    onnx.save(model, folder / "f32.onnx")
    x = rng.standard_normal((BATCH, 784)).astype(np.float32)
    np.save(folder / "x.npy", x)
    np.savez(folder / "x.npz", x=x)

    class Reader(q.CalibrationDataReader):
        def __init__(self):
            self.rows = iter([{"x": x}])

        def get_next(self):
            return next(self.rows, None)

    q.quantize_dynamic(folder / "f32.onnx", folder / "dynamic.onnx",
                       weight_type=q.QuantType.QInt8)  # fmt: skip
    q.quantize_static(
        folder / "f32.onnx", folder / "qdq.onnx", Reader(),
        quant_format=q.QuantFormat.QDQ, per_channel=True,
        activation_type=q.QuantType.QUInt8, weight_type=q.QuantType.QInt8,
    )  # fmt: skip


def compile_all(folder: Path, quantc: str, cpu: str) -> None:
    for kind, options in KINDS.items():
        model = folder / ("qdq.onnx" if kind == "qdq" else "f32.onnx")
        if kind == "static":
            options = [*options, "--calibration", folder / "x.npz"]
        subprocess.run(
            [quantc, model, "-o", folder / f"{kind}.qlm", "--target-cpu", cpu,
             "--quiet", *options], check=True,
        )  # fmt: skip


def time_package(
    tool: str, package: Path, inputs: Path, threads: int, out: Path | None = None
) -> tuple[float, float]:
    keep = ["-o", out] if out else []
    done = subprocess.run(
        [tool, "run", package, "--input", inputs, "--threads", str(threads), "--time",
         *keep], check=True, capture_output=True, text=True,
    )  # fmt: skip
    found = json.loads(done.stdout)
    return found["min_us"], found["median_us"]


def time_ours(folder: Path, tool: str, kind: str, threads: int) -> tuple[float, float]:
    return time_package(tool, folder / f"{kind}.qlm", folder / "x.npy", threads)


def time_session(
    path: Path, inputs: dict[str, np.ndarray], threads: int
) -> tuple[float, float]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = ort.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"]
    )
    binding = session.io_binding()
    for name, value in inputs.items():
        binding.bind_cpu_input(name, value)
    binding.bind_output("y")
    times = []
    end = time.perf_counter() + 0.5
    while time.perf_counter() < end or len(times) < 20:
        before = time.perf_counter_ns()
        session.run_with_iobinding(binding)
        times.append((time.perf_counter_ns() - before) / 1000)
    return min(times), statistics.median(times)


def time_theirs(folder: Path, kind: str, threads: int) -> tuple[float, float]:
    name = "qdq" if kind == "static" else kind
    inputs = {"x": np.load(folder / "x.npy")}
    return time_session(folder / f"{name}.onnx", inputs, threads)


def check(folder: Path, tool: str) -> dict[str, float]:
    """The largest difference of each package from ONNX Runtime's float result."""
    import onnxruntime as ort

    x = np.load(folder / "x.npy")
    session = ort.InferenceSession(str(folder / "f32.onnx"))
    [expected] = session.run(None, {"x": x})
    found = {}
    for kind in KINDS:
        results = folder / "y.npz"
        subprocess.run([tool, "run", folder / f"{kind}.qlm", "--input",
                        folder / "x.npy", "-o", results], check=True)  # fmt: skip
        found[kind] = float(np.abs(np.load(results)["y"] - expected).max())
    return found


def fastest_cores(count: int) -> list[int]:
    """The cores that a short loop runs quickest on: a host's may differ."""
    speeds = {}
    x = np.ones((256, 256), np.float32)
    for core in sorted(os.sched_getaffinity(0)):
        os.sched_setaffinity(0, [core])
        took = []
        for _ in range(20):
            before = time.perf_counter()
            x @ x
            took.append(time.perf_counter() - before)
        speeds[core] = min(took)
    return sorted(speeds, key=speeds.get)[:count]


def tell(runs: list[tuple[float, float]], digits: int) -> str:
    """The least time, and the median and spread of the rounds' medians."""
    medians = [median for _, median in runs]
    least, middle = min(least for least, _ in runs), statistics.median(medians)
    return (f"{least:.{digits}f}, {middle:.{digits}f} "
            f"[{min(medians):.{digits}f}-{max(medians):.{digits}f}]")  # fmt: skip


def measure(folder: Path, tool: str, rounds: int, out: Path | None) -> None:
    everything = os.sched_getaffinity(0)
    errors = check(folder, tool)
    lines = ["| kind | threads | ours: least, median [spread] | onnxruntime: least, "
             "median [spread] | ratio of medians |", "|---|---|---|---|---|"]  # fmt: skip
    for threads in (1, 2):
        os.sched_setaffinity(0, everything)
        cores = fastest_cores(threads)
        os.sched_setaffinity(0, cores)
        for kind in KINDS:
            ours, theirs = [], []
            for _ in range(rounds):
                ours.append(time_ours(folder, tool, kind, threads))
                theirs.append(time_theirs(folder, kind, threads))
            ratio = statistics.median(t[1] / o[1] for o, t in zip(ours, theirs))
            lines.append(f"| {kind} | {threads} | {tell(ours, 1)} | {tell(theirs, 1)} | "
                         f"{ratio:.2f} |")  # fmt: skip
    sizes = {kind: sum(f.stat().st_size for f in (folder / f"{kind}.qlm").iterdir())
             for kind in KINDS}  # fmt: skip
    whole = (folder / "f32.onnx").stat().st_size
    lines.append("")
    for kind in KINDS:
        lines.append(f"{kind}: package {sizes[kind]} bytes, "
                     f"{100 * sizes[kind] / whole:.1f} % of the float file; "
                     f"largest difference from float {errors[kind]:.4f}")  # fmt: skip
    text = "\n".join(lines)
    print(text)
    if out:
        out.write_text(text + "\n")


def run(description: str, rounds: int, make, compile_all, measure) -> None:
    """The command line: one of the functions, by the action's name."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("action", choices=["make", "compile", "time"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quantc", default="build/release/bin/quantc")
    parser.add_argument("--quant-run", default="build/release/bin/quant-run")
    parser.add_argument("--target-cpu", default="native")
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.action == "make":
        make(arguments.folder)
    elif arguments.action == "compile":
        compile_all(arguments.folder, arguments.quantc, arguments.target_cpu)
    else:
        measure(arguments.folder, arguments.quant_run, arguments.rounds, arguments.out)


if __name__ == "__main__":
    run(__doc__, 5, make, compile_all, measure)

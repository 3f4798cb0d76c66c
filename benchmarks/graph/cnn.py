# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""A ResNet-18-shaped CNN with random weights beside ONNX Runtime.

    python benchmarks/graph/cnn.py make FOLDER      float and quantized ONNX files
    python benchmarks/graph/cnn.py compile FOLDER --quantc quantc [--target-cpu X]
    python benchmarks/graph/cnn.py time FOLDER --quant-run quant-run

As mlp.py, whose parts this uses; batches of 1 and 8 images of 224 x 224. The
graph is the one that torch.onnx.export gives for ResNet-18 in inference: batch
normalization is folded into the convolutions. Weights are 1,024 random numbers
over and over, scaled: files compress, and times don't depend on values.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import time
from pathlib import Path

import numpy as np
from mlp import fastest_cores, run, tell

BATCHES = (1, 8)
KINDS = ("f32", "qdq")
#: Channels and stride of the first block of each stage of two.
STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))


class Network:
    """Nodes and weights, one convolution after the other."""

    def __init__(self, seed: int = 0):
        self.rng = np.random.default_rng(seed)
        self.nodes, self.weights = [], {}
        self.multiplications = 0
        self.numbers = self.rng.standard_normal(1024).astype(np.float32)

    def random(self, *shape: int) -> np.ndarray:
        return np.resize(self.numbers, shape)

    def node(self, op: str, inputs: list[str], name: str, **attributes) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def conv(self, x: str, name: str, depth: int, maps: int, size: int, stride: int,
             places: int) -> str:  # fmt: skip
        weight = self.random(maps, depth, size, size)
        self.weights[f"{name}.w"] = weight * np.sqrt(2 / weight[0].size, dtype="f4")
        self.weights[f"{name}.b"] = self.random(maps) / 8
        self.multiplications += weight.size * places * places
        pad = size // 2
        return self.node("Conv", [x, f"{name}.w", f"{name}.b"], name,
                         strides=[stride] * 2, pads=[pad] * 4)  # fmt: skip

    def block(self, x: str, name: str, depth: int, maps: int, stride: int,
              places: int) -> str:  # fmt: skip
        y = self.conv(x, f"{name}.1", depth, maps, 3, stride, places)
        y = self.node("Relu", [y], f"{name}.1.relu")
        y = self.conv(y, f"{name}.2", maps, maps, 3, 1, places)
        if stride != 1 or depth != maps:
            x = self.conv(x, f"{name}.side", depth, maps, 1, stride, places)
        y = self.node("Add", [y, x], f"{name}.sum")
        return self.node("Relu", [y], f"{name}.relu")


def make_network(batch: int):
    """The model, and the multiplications that an image takes."""
    from onnx import TensorProto, helper, numpy_helper

    net = Network()
    x = net.conv("x", "stem", 3, 64, 7, 2, 112)
    x = net.node("Relu", [x], "stem.relu")
    x = net.node("MaxPool", [x], "stem.pool", kernel_shape=[3, 3], strides=[2, 2],
                 pads=[1, 1, 1, 1])  # fmt: skip
    depth, places = 64, 56
    for i, (maps, stride) in enumerate(STAGES):
        places //= stride
        x = net.block(x, f"{i}.a", depth, maps, stride, places)
        x = net.block(x, f"{i}.b", maps, maps, 1, places)
        depth = maps
    x = net.node("GlobalAveragePool", [x], "pool")
    x = net.node("Flatten", [x], "flat")
    net.weights["fc.w"] = net.random(1000, 512) / 23
    net.weights["fc.b"] = np.zeros(1000, np.float32)
    net.multiplications += net.weights["fc.w"].size
    net.node("Gemm", [x, "fc.w", "fc.b"], "y", transB=1)
    graph = helper.make_graph(
        net.nodes, "cnn",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 224, 224])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 1000])],
        [numpy_helper.from_array(v, k) for k, v in net.weights.items()],
    )  # fmt: skip
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10
    )
    return model, net.multiplications


def make_input(batch: int) -> np.ndarray:
    rng = np.random.default_rng(batch)
    return rng.standard_normal((batch, 3, 224, 224)).astype(np.float32)


def make(folder: Path) -> None:
    import onnx
    from onnxruntime import quantization as q

    folder.mkdir(parents=True, exist_ok=True)
    for batch in BATCHES:
        model, count = make_network(batch)
        onnx.save(model, folder / f"f32-{batch}.onnx")
        print(f"{2 * count / 1e9:.3f} billion operations an image")
        x = make_input(batch)

        class Reader(q.CalibrationDataReader):
            def __init__(self, x=x):
                self.rows = iter([{"x": x}])

            def get_next(self):
                return next(self.rows, None)

        q.quantize_static(
            folder / f"f32-{batch}.onnx", folder / f"qdq-{batch}.onnx", Reader(),
            quant_format=q.QuantFormat.QDQ, per_channel=True,
            activation_type=q.QuantType.QUInt8, weight_type=q.QuantType.QInt8,
        )  # fmt: skip


def compile_all(folder: Path, quantc: str, cpu: str) -> None:
    for kind in KINDS:
        for batch in BATCHES:
            name = f"{kind}-{batch}"
            subprocess.run([quantc, folder / f"{name}.onnx", "-o",
                            folder / f"{name}.qlm", "--target-cpu", cpu, "--quiet"],
                           check=True)  # fmt: skip


def time_ours(folder: Path, tool: str, name: str, threads: int, batch: int):
    done = subprocess.run(
        [tool, "run", folder / f"{name}.qlm", "--input", folder / f"x{batch}.npy",
         "--threads", str(threads), "--time"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    found = json.loads(done.stdout)
    return found["min_us"] / 1000, found["median_us"] / 1000


def time_theirs(folder: Path, name: str, threads: int, batch: int):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = ort.InferenceSession(
        str(folder / f"{name}.onnx"), options, providers=["CPUExecutionProvider"]
    )
    x = np.load(folder / f"x{batch}.npy")
    times = []
    end = time.perf_counter() + 0.5
    while time.perf_counter() < end or len(times) < 5:
        before = time.perf_counter_ns()
        session.run(None, {"x": x})
        times.append((time.perf_counter_ns() - before) / 1e6)
    return min(times), statistics.median(times)


def check(folder: Path, tool: str, name: str, batch: int) -> float:
    """The relative distance of our result from ONNX Runtime's of the floats."""
    import onnxruntime as ort

    x = np.load(folder / f"x{batch}.npy")
    session = ort.InferenceSession(str(folder / f"f32-{batch}.onnx"))
    [expected] = session.run(None, {"x": x})
    results = folder / "y.npz"
    subprocess.run([tool, "run", folder / f"{name}.qlm", "--input",
                    folder / f"x{batch}.npy", "-o", results], check=True)  # fmt: skip
    found = np.load(results)["y"]
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def measure(folder: Path, tool: str, rounds: int, out: Path | None) -> None:
    everything = os.sched_getaffinity(0)
    lines = ["| kind | batch | threads | ours: least, median [spread] | onnxruntime: "
             "least, median [spread] | ratio of medians | distance |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for batch in BATCHES:
        np.save(folder / f"x{batch}.npy", make_input(batch))
    for batch in BATCHES:
        for threads in (1, 2):
            os.sched_setaffinity(0, everything)
            os.sched_setaffinity(0, fastest_cores(threads))
            for kind in KINDS:
                name = f"{kind}-{batch}"
                ours, theirs = [], []
                for _ in range(rounds):
                    ours.append(time_ours(folder, tool, name, threads, batch))
                    theirs.append(time_theirs(folder, name, threads, batch))
                ratio = statistics.median(t[1] / o[1] for o, t in zip(ours, theirs))
                distance = check(folder, tool, name, batch)
                lines.append(f"| {kind} | {batch} | {threads} | {tell(ours, 2)} | "
                             f"{tell(theirs, 2)} | {ratio:.2f} | {distance:.4f} |")  # fmt: skip
                print(lines[-1], flush=True)
                if out:
                    out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    run(__doc__, 3, make, compile_all, measure)

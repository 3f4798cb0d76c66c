# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Trains the tiny LLaMA's linears to be rounded, with qlm.qat.

    train_qat.py train MODEL -o DIR [--steps N | --seconds S]
        [--corpus corpus.jsonl.xz] [--group-size G]
    train_qat.py merge MODEL DIR -o FOLDER

The teacher is the model itself in float32; the student computes with int4
weights and learns the teacher's probabilities on the training split of a corpus
(models/python_corpus.py; without one, of this Python's standard library), which
keeps the text of models/heldout.txt out. Only linears are trained. `train` writes their weights
in float32, a file for half the layers; `merge` makes a folder that quantc
takes with ``--keep-lm-head`` and the same group size.
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "models"), str(ROOT / "python" / "qlm")]

import python_corpus  # noqa: E402
import qat  # noqa: E402
from llama_network import Llama  # noqa: E402


def read_state(path: Path) -> dict:
    """Tensors of a safetensors file, in float32."""
    data = path.read_bytes()
    (size,) = struct.unpack_from("<Q", data)
    state = {}
    for name, entry in json.loads(data[8 : 8 + size]).items():
        if name == "__metadata__":
            continue
        begin, end = (8 + size + offset for offset in entry["data_offsets"])
        kind = {"BF16": torch.bfloat16, "F32": torch.float32}[entry["dtype"]]
        raw = torch.frombuffer(bytearray(data[begin:end]), dtype=kind)
        state[name] = raw.reshape(entry["shape"]).float()
    return state


def load(folder: Path) -> Llama:
    """The model of a folder, in float32."""
    model = Llama(json.loads((folder / "config.json").read_text()))
    model.load_state_dict(read_state(folder / "model.safetensors"))
    return model


def train_tokens(folder: Path, corpus: Path | None) -> torch.Tensor:
    """Tokens of the training split."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    documents = (python_corpus.load(corpus) if corpus else
                 python_corpus.collect(python_corpus.default_stdlib(), None))
    texts = [d.text for d in documents if d.split == "train"]
    ids: list[int] = []
    for encoding in tokenizer.encode_batch(texts):
        ids += encoding.ids
    return torch.tensor(ids, dtype=torch.int32)


@torch.no_grad()
def distance(teacher, student, folder: Path, text: Path, count: int) -> float:
    """Mean KL of the teacher's probabilities from the student's.

    Windows and tokens are those of ``quant-run eval --max-tokens COUNT``.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = tokenizer.encode(text.read_text(), add_special_tokens=False).ids
    ids = ids[:count]
    begin, total, positions = teacher.config["bos_token_id"], 0.0, 0
    for first in range(0, len(ids), 256):
        window = [begin, *ids[first : first + 256][:-1]]
        inputs = torch.tensor([window], device=teacher.cos.device)
        wanted = F.log_softmax(teacher(inputs).double(), -1)
        got = F.log_softmax(student(inputs).double(), -1)
        total += (wanted.exp() * (wanted - got)).sum().item()
        positions += len(window)
    return total / positions


def train(args) -> None:
    torch.manual_seed(args.seed)
    device = args.device
    teacher = load(args.model).to(device).eval()
    student = load(args.model).to(device)
    tokens = train_tokens(args.model, args.corpus).to(device)
    print(f"{len(tokens)} training tokens")
    for parameter in student.parameters():
        parameter.requires_grad_(False)
    names = qat.prepare(student, "int4", group_size=args.group_size)
    linears = [student.get_submodule(name) for name in names]
    weights = [linear.parametrizations.weight.original for linear in linears]
    for weight in weights:
        weight.requires_grad_(True)
    if args.text:
        before = distance(teacher, student, args.model, args.text, 16384)
        print(f"rounded to nearest: kl {before:.5f} on {args.text.name}")
    optimizer = torch.optim.AdamW(weights, lr=args.lr, weight_decay=0)
    torch.set_float32_matmul_precision(args.precision)
    start = time.time()
    for step in range(args.steps):
        warm = min(1.0, (step + 1) / 50)
        done = step / args.steps
        if args.seconds:
            done = max(done, (time.time() - start) / args.seconds)
            if done >= 1:
                break
        optimizer.param_groups[0]["lr"] = args.lr * warm * (1 - done)
        first = torch.randint(
            len(tokens) - args.tokens, (args.batch, 1), device=device
        )
        ids = tokens[first + torch.arange(args.tokens, device=device)].long()
        with torch.no_grad():
            wanted = F.log_softmax(teacher(ids).float(), -1)
        got = F.log_softmax(student(ids).float(), -1)
        loss = F.kl_div(
            got.flatten(0, 1), wanted.flatten(0, 1), log_target=True,
            reduction="batchmean",
        )  # fmt: skip
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % args.log_every == 0 or step + 1 == args.steps:
            spent = time.time() - start
            print(f"step {step}: kl {loss.item():.5f}, {spent:.0f} s", flush=True)
    torch.set_float32_matmul_precision("highest")
    print(f"{step} steps in {time.time() - start:.0f} s")
    if args.text:
        after = distance(teacher, student, args.model, args.text, 16384)
        print(f"trained: kl {after:.5f} on {args.text.name}")
    args.output.mkdir(parents=True, exist_ok=True)
    qat.convert(student)
    half = teacher.config["num_hidden_layers"] // 2
    for part in (0, 1):
        arrays = {
            name: student.get_submodule(name).weight.detach().cpu().numpy()
            for name in names
            if (int(name.split(".")[2]) >= half) == bool(part)
        }
        np.savez(args.output / f"linears-{part}.npz", **arrays)


def merge(args) -> None:
    model = load(args.model)
    for part in (0, 1):
        arrays = np.load(args.trained / f"linears-{part}.npz")
        for name in arrays:
            model.get_submodule(name).weight.data = torch.tensor(arrays[name])
    qat.export_llama(model, args.model, args.output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    commands = parser.add_subparsers(required=True)
    training = commands.add_parser("train")
    training.add_argument("model", type=Path)
    training.add_argument("-o", "--output", type=Path, required=True)
    training.add_argument("--text", type=Path)
    training.add_argument("--corpus", type=Path)
    training.add_argument("--steps", type=int, default=1000)
    training.add_argument("--seconds", type=float, default=0,
                          help="stop here, and let the rate fall towards it")
    training.add_argument("--precision", default="highest",
                          choices=("highest", "high"),
                          help="of products in training; high is TF32")
    training.add_argument("--batch", type=int, default=32)
    training.add_argument("--tokens", type=int, default=256)
    training.add_argument("--group-size", type=int, default=128)
    training.add_argument("--lr", type=float, default=3e-4)
    training.add_argument("--seed", type=int, default=0)
    training.add_argument("--device", default="cuda")
    training.add_argument("--log-every", type=int, default=100)
    training.set_defaults(run=train)
    merging = commands.add_parser("merge")
    merging.add_argument("model", type=Path)
    merging.add_argument("trained", type=Path)
    merging.add_argument("-o", "--output", type=Path, required=True)
    merging.set_defaults(run=merge)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()

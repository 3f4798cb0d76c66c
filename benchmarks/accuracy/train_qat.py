# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Trains a LLaMA's linears to be rounded, with qlm.qat.

    PYTHONPATH=build/release/python train_qat.py MODEL -o FOLDER
        [--start CHECKPOINT] [--steps N | --seconds S]
        [--corpus corpus.jsonl.xz] [--group-size G] [--zero-points]

The teacher is the model itself in float32; the student computes with int4
weights and learns the teacher's probabilities on the training split of a corpus
(models/python_corpus.py; without one, of this Python's standard library), which
keeps the text of models/heldout.txt out. Only linears are trained, the head is
not among them. FOLDER is for quantc with ``--weights int4 --keep-lm-head``, the
same group size, and ``--zero-points`` where it was given here; with a start,
such as ``quantc quantize MODEL -o CHECKPOINT --format gptq --method gptq
--calibration FILE`` writes, also ``--method keep --statistics
FOLDER/kept-scales.safetensors``.
"""

from __future__ import annotations

import argparse
import json
import math
import struct
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "models"))

import python_corpus  # noqa: E402
from llama_network import Llama  # noqa: E402

from qlm import qat  # noqa: E402


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


def split_tokens(folder: Path, corpus: Path | None, split: str) -> torch.Tensor:
    """Tokens of a split of the corpus."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    documents = (python_corpus.load(corpus) if corpus else
                 python_corpus.collect(python_corpus.default_stdlib(), None))
    texts = [d.text for d in documents if d.split == split]
    ids: list[int] = []
    for encoding in tokenizer.encode_batch(texts):
        ids += encoding.ids
    return torch.tensor(ids, dtype=torch.int32)


def read_ids(folder: Path, text: Path, count: int) -> list[int]:
    """Tokens that ``quant-run eval --max-tokens COUNT`` takes."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return tokenizer.encode(text.read_text(), add_special_tokens=False).ids[:count]


@torch.no_grad()
def distance(teacher, student, ids: list[int]) -> float:
    """Mean KL of the teacher's probabilities from the student's.

    Windows are those of ``quant-run eval``.
    """
    begin, total, positions = teacher.config["bos_token_id"], 0.0, 0
    windows = [[begin, *ids[first : first + 256][:-1]]
               for first in range(0, len(ids), 256)]
    whole, rest = windows[: len(ids) // 256], windows[len(ids) // 256 :]
    for batch in [whole[i : i + 16] for i in range(0, len(whole), 16)] + [rest]:
        if not batch:
            continue
        inputs = torch.tensor(batch, device=teacher.cos.device)
        wanted = F.log_softmax(teacher(inputs).double(), -1)
        got = F.log_softmax(student(inputs).double(), -1)
        total += (wanted.exp() * (wanted - got)).sum().item()
        positions += inputs.numel()
    return total / positions


def make_student(args) -> tuple[Llama, list[str]]:
    """The rounded model, and the names of its linears."""
    student = load(args.model).to(args.device)
    for parameter in student.parameters():
        parameter.requires_grad_(False)
    names = qat.prepare(student, "int4", group_size=args.group_size,
                        zero_points=args.zero_points, start=args.start,
                        reach=args.reach)
    return student, names


def make_groups(student: Llama, names: list[str], args) -> list[dict]:
    """Groups of a student's parameters for the optimizer.

    Rates are in steps between codes: after a start weights are, elsewhere the
    mean step of the linear stands for it.
    """
    groups = []
    for name in names:
        parametrizations = student.get_submodule(name).parametrizations.weight
        weight = parametrizations.original
        blocks = weight.detach().reshape(len(weight), -1, args.group_size)
        step = blocks.abs().amax(-1).mean().item() / 7.5
        if args.start:
            scales = parametrizations[0].scales.requires_grad_(args.scale_lr > 0)
            mean, step = scales.mean().item(), 1.0
            groups.append({"params": [scales], "peak": args.scale_lr * mean})
        groups.append({"params": [weight.requires_grad_(args.lr > 0)],
                       "peak": args.lr * step})
    return [g for g in groups if g["peak"] > 0]


class Best:
    """The state that was nearest to the teacher on text to choose by."""

    def __init__(self, groups: list[dict]):
        self.parameters = [p for group in groups for p in group["params"]]
        self.kl, self.step, self.values = math.inf, 0, []

    @torch.no_grad()
    def offer(self, kl: float, step: int) -> None:
        if kl < self.kl:
            self.kl, self.step = kl, step
            self.values = [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def restore(self) -> None:
        for parameter, value in zip(self.parameters, self.values):
            parameter.copy_(value)


def train(args) -> None:
    torch.manual_seed(args.seed)
    device = args.device
    teacher = load(args.model).to(device).eval()
    student, names = make_student(args)
    groups = make_groups(student, names, args)
    tokens = split_tokens(args.model, args.corpus, "train").to(device)
    # Text that neither training nor the measurement sees, from all of its split.
    valid = split_tokens(args.model, args.corpus, "valid")
    stride = max(256, len(valid) // max(args.chosen_by // 256, 1))
    chosen_by = [i for first in range(0, len(valid) - 255, stride)
                 for i in valid[first : first + 256].tolist()][: args.chosen_by]
    print(f"{len(tokens)} training tokens, {len(chosen_by)} to choose by")

    def measure(state: str) -> None:
        if args.text:
            ids = read_ids(args.model, args.text, args.measured)
            kl = distance(teacher, student, ids)
            print(f"{state}: kl {kl:.5f} on {args.text.name}", flush=True)

    measure("at the start" if args.start else "rounded to nearest")
    optimizer = torch.optim.AdamW(groups, lr=0, weight_decay=0, betas=(0.9, 0.95))
    torch.set_float32_matmul_precision(args.precision)
    best, start, step, mean = Best(groups), time.time(), 0, 0.0
    for step in range(args.steps + 1):
        done = step / args.steps
        if args.seconds:
            done = max(done, (time.time() - start) / args.seconds)
        if step % args.choose_every == 0 or done >= 1:
            kl = distance(teacher, student, chosen_by)
            best.offer(kl, step)
            print(f"step {step}: kl {kl:.5f} to choose by, {mean:.5f} in "
                  f"training, {time.time() - start:.0f} s", flush=True)
        if done >= 1:
            break
        rate = min(1.0, (step + 1) / 30) * (1 + math.cos(math.pi * done)) / 2
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * rate
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
        mean += (loss.item() - mean) * max(0.05, 1 / (step + 1))
    best.restore()
    torch.set_float32_matmul_precision("highest")
    print(f"{step} steps in {time.time() - start:.0f} s, best at {best.step}")
    measure("trained")
    qat.export_llama(student, args.model, args.output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--start", type=Path)
    parser.add_argument("--text", type=Path, help="to measure KL on")
    parser.add_argument("--measured", type=int, default=16384,
                        help="tokens of it")
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=0,
                        help="stop here, and let the rate fall towards it")
    parser.add_argument("--precision", default="highest",
                        choices=("highest", "high"),
                        help="of products in training; high is TF32")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--group-size", type=int, default=128)
    parser.add_argument("--zero-points", action="store_true")
    parser.add_argument("--lr", type=float, default=3e-3,
                        help="of weights, in steps between codes; 0: fixed")
    parser.add_argument("--scale-lr", type=float, default=1e-4,
                        help="of scales, as a part of them, with a start")
    parser.add_argument("--reach", type=float, default=0,
                        help="see qlm.qat.prepare")
    parser.add_argument("--choose-every", type=int, default=50,
                        help="steps between looks at the validation split, "
                        "which choose the state to keep")
    parser.add_argument("--chosen-by", type=int, default=8192,
                        help="tokens of that")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda")
    train(parser.parse_args())


if __name__ == "__main__":
    main()

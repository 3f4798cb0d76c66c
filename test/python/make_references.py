# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Writes what transformers computes, for machines that lack PyTorch.

    python make_references.py            rewrites test/Inputs/references
    python make_references.py NAME...    only these models (``tiny-llama`` too)

Needs torch and transformers. Everything is computed in float32 with plain
(``eager``) attention, from the weights as stored. Each ``NAME.npz`` of a model
in `random_llama.SPECS` holds

``tokens``          int32 [24], the input of ``logits``
``logits``          float32 [24, vocab]
``prompt_lengths``  int32 [prompts]; prompt i is ``tokens[:prompt_lengths[i]]``
``greedy``          int32 [prompts, 32], the likeliest tokens, no end token
``margin``          float32, least gap between the two best logits on the way
``sha256``          of the model's files in name order, as hexadecimal text

``tiny-llama.npz`` holds, for ``models/tiny-llama``,

``logits_text.N``, ``logits_tokens.N``  a text and its ids behind BOS
``logits.N``        float32 [2, vocab], at the last two positions
``prompts``         text [prompts]
``prompt_tokens.N`` int32, ids of prompt N behind BOS
``greedy``          int32 [prompts, 48], no end token
``perplexity``, ``nll_sum``  float64, of ``models/heldout.txt``
``perplexity_tokens``, ``perplexity_window``  int32, tokens scored; window
``margin``, ``sha256``  as above

Perplexity recipe: the whole text is encoded without special tokens and cut
into windows of 256 tokens that don't overlap; the last may be shorter. Each
window is fed behind one BOS token, so every token of the text is scored once;
the value is exp(sum of -ln p / tokens).
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import math
import tempfile
from pathlib import Path

import numpy as np
import random_llama

ROOT = Path(__file__).resolve().parents[2]
REFERENCES = ROOT / "test" / "Inputs" / "references"
TINY = ROOT / "models" / "tiny-llama"
HELDOUT = ROOT / "models" / "heldout.txt"

TOKENS, NEW_TOKENS, TINY_NEW_TOKENS = 24, 32, 48
PROMPT_LENGTHS = (1, 7, 24)
WINDOW = 256
# A greedy choice closer than this could differ between two correct float32
# programs, and the test would be of luck.
LEAST_MARGIN = 1e-3
# A continuation that repeats a few tokens would hide a wrong cache.
LEAST_DISTINCT = 12

LOGITS_TEXTS = (
    "def main():\n    parser = argparse.ArgumentParser(",
    ".. function:: sleep(seconds)\n\n   Suspend execution of the",
)
TINY_PROMPTS = (
    "import",
    "class Stack:\n",
    "    def __repr__(self):\n",
    "The :mod:`json` module is a",
    "def read_lines(path):\n    \"\"\"Return the lines of a file.\"\"\"\n",
    "class TestQueue(unittest.TestCase):\n\n    def setUp(self):\n"
    "        self.queue = queue.Queue(maxsize=3)\n\n"
    "    def test_put_and_get(self):\n        self.queue.put(1)\n",
)


def load(folder: Path):
    """Loads a folder in float32 with eager attention."""
    import torch
    from transformers import AutoModelForCausalLM, utils

    utils.logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    return model.eval()


def logits_of(model, tokens) -> np.ndarray:
    """Returns logits [tokens, vocab] for one sequence."""
    import torch

    with torch.no_grad():
        out = model(torch.tensor([list(map(int, tokens))]), use_cache=False)
    return out.logits[0].numpy()


def greedy(model, tokens, count: int) -> tuple[list[int], float]:
    """Continues `tokens` by the likeliest, recomputing the whole sequence.

    Returns
    -------
    tuple of list and float
        The `count` new tokens, and the least gap between first and second.
    """
    ids, margin = list(map(int, tokens)), math.inf
    for _ in range(count):
        last = logits_of(model, ids)[-1]
        second, first = np.partition(last, -2)[-2:]
        margin = min(margin, float(first - second))
        ids.append(int(last.argmax()))
    return ids[-count:], margin


def digest(folder: Path, pattern: str = "*") -> str:
    """Hashes the files of a folder in name order."""
    state = hashlib.sha256()
    for path in sorted(folder.glob(pattern)):
        state.update(path.read_bytes())
    return state.hexdigest()


def random_reference(spec: random_llama.Spec) -> dict:
    """Computes the reference of one random model."""
    with tempfile.TemporaryDirectory() as folder:
        random_llama.write_model(spec, Path(folder))
        model, sha256 = load(Path(folder)), digest(Path(folder))
    raw = np.random.PCG64(spec.seed + 1000).random_raw(TOKENS)
    tokens = (raw % np.uint64(spec.vocab)).astype(np.int32)
    runs = [greedy(model, tokens[:n], NEW_TOKENS) for n in PROMPT_LENGTHS]
    return {
        "tokens": tokens,
        "logits": logits_of(model, tokens),
        "prompt_lengths": np.int32(PROMPT_LENGTHS),
        "greedy": np.int32([ids for ids, _ in runs]),
        "margin": np.float32(min(margin for _, margin in runs)),
        "sha256": np.str_(sha256),
    }


def is_clear(reference: dict) -> bool:
    """Tells whether greedy tests of a reference can be trusted to fail."""
    distinct = len(np.unique(reference["greedy"]))
    return reference["margin"] >= LEAST_MARGIN and distinct >= LEAST_DISTINCT


def better_seed(spec: random_llama.Spec) -> int:
    """Searches for a seed whose greedy choices are clear and varied."""
    for seed in range(spec.seed + 100, spec.seed + 10000, 100):
        trial = random_reference(dataclasses.replace(spec, seed=seed))
        if is_clear(trial):
            return seed
    raise SystemExit(f"{spec.name}: no seed makes greedy choices clear")


def heldout_nll(model, ids: list[int], bos: int) -> float:
    """Sums -ln p over `ids` in windows, each behind a BOS."""
    import torch

    total = 0.0
    for start in range(0, len(ids), WINDOW):
        window = ids[start : start + WINDOW]
        logits = torch.from_numpy(logits_of(model, [bos, *window[:-1]]))
        logs = torch.log_softmax(logits.double(), -1)
        total -= logs[range(len(window)), window].sum().item()
    return total


def tiny_reference() -> dict:
    """Computes the reference of the trained model."""
    from tokenizers import Tokenizer

    model = load(TINY)
    tokenizer = Tokenizer.from_file(str(TINY / "tokenizer.json"))
    out: dict = {"prompts": np.array(TINY_PROMPTS)}
    for index, text in enumerate(LOGITS_TEXTS):
        ids = tokenizer.encode(text).ids
        out[f"logits_text.{index}"] = np.str_(text)
        out[f"logits_tokens.{index}"] = np.int32(ids)
        out[f"logits.{index}"] = logits_of(model, ids)[-2:]
    runs = []
    for index, text in enumerate(TINY_PROMPTS):
        ids = tokenizer.encode(text).ids
        out[f"prompt_tokens.{index}"] = np.int32(ids)
        runs.append(greedy(model, ids, TINY_NEW_TOKENS))
        print(f"{runs[-1][1]:.4f}", repr(tokenizer.decode(ids + runs[-1][0])))
    out["greedy"] = np.int32([ids for ids, _ in runs])
    out["margin"] = np.float32(min(margin for _, margin in runs))
    text = HELDOUT.read_text(encoding="utf-8")
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    total = heldout_nll(model, ids, model.config.bos_token_id)
    out["nll_sum"] = np.float64(total)
    out["perplexity"] = np.float64(math.exp(total / len(ids)))
    out["perplexity_tokens"] = np.int32(len(ids))
    out["perplexity_window"] = np.int32(WINDOW)
    out["sha256"] = np.str_(digest(TINY, "*.safetensors"))
    print(f"perplexity {out['perplexity']:.6f} over {len(ids)} tokens")
    return out


def summary(name: str, reference: dict) -> str:
    """Describes a reference in one line."""
    logits = reference.get("logits", reference.get("logits.0"))
    distinct = len(np.unique(reference["greedy"]))
    return (
        f"{name:16s} margin {reference['margin']:.4f}  logit deviation"
        f" {logits.std():.2f}  {distinct} distinct tokens"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("-o", "--output", type=Path, default=REFERENCES)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    known = [spec.name for spec in random_llama.SPECS] + ["tiny-llama"]
    unclear = 0
    for name in args.names or known:
        if name == "tiny-llama":
            reference = tiny_reference()
        else:
            reference = random_reference(random_llama.find(name))
        path = args.output / f"{name}.npz"
        np.savez_compressed(path, **reference)
        print(summary(name, reference), path.stat().st_size, "bytes")
        if not is_clear(reference):
            unclear += 1
            path.unlink()
            if name != "tiny-llama":
                seed = better_seed(random_llama.find(name))
                print(f"  use seed {seed} instead")
    if unclear:
        raise SystemExit(
            f"greedy choices must be {LEAST_MARGIN} apart and take"
            f" {LEAST_DISTINCT} tokens, {unclear} models fall short"
        )


if __name__ == "__main__":
    main()

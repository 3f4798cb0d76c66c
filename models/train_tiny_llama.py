# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Trains the tiny LLaMA of ``models/tiny-llama`` from a local Python.

    python train_tiny_llama.py corpus --docs DIR -o corpus.jsonl.xz
    python train_tiny_llama.py train corpus.jsonl.xz -o DIR
    python train_tiny_llama.py evaluate DIR

The first command reads the standard library and needs no package; the others
need torch, tokenizers and safetensors, and training needs a GPU for more than
a smoke test. It writes a folder as Hugging Face's ``LlamaForCausalLM`` loads
it, the held-out text, the loss curve and samples.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import time
from pathlib import Path

import python_corpus

BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"
# Splits text into words, numbers of up to three digits, punctuation and white
# space before byte-pair merging; the pattern of the LLaMA 3 tokenizer.
WORD_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Tokens in a window of the perplexity that the README states.
EVAL_WINDOW = 256


def model_config(changes: Path | None = None) -> dict:
    """Returns ``config.json``: 5.8 million parameters, every matrix a
    multiple of 128 wide, so that any group size of the quantizer divides it.

    Parameters
    ----------
    changes
        JSON file whose keys replace those of the tiny model.
    """
    config = {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 4094,
        "eos_token_id": 4095,
        "head_dim": 32,
        "hidden_act": "silu",
        "hidden_size": 256,
        "initializer_range": 0.02,
        "intermediate_size": 768,
        "max_position_embeddings": 1024,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": 8,
        "num_hidden_layers": 6,
        "num_key_value_heads": 4,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": 4096,
    }
    if changes:
        config |= json.loads(changes.read_text(encoding="utf-8"))
    return config


def generation_config(config: dict) -> dict:
    """Returns ``generation_config.json``: a model this small repeats itself
    without a penalty.
    """
    return {
        "bos_token_id": config["bos_token_id"],
        "do_sample": True,
        "eos_token_id": config["eos_token_id"],
        "repetition_penalty": 1.1,
        "temperature": 0.8,
        "top_p": 0.95,
    }


def train_tokenizer(texts: list[str], vocab_size: int):
    """Trains a byte-level BPE tokenizer with BOS and EOS as its last ids."""
    from tokenizers import Regex, Tokenizer, decoders, models
    from tokenizers import pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([BOS, EOS])
    assert tokenizer.token_to_id(EOS) == vocab_size - 1
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A {BOS} $B:1",
        special_tokens=[(BOS, tokenizer.token_to_id(BOS))],
    )
    return tokenizer


def read_tokenizer(path: Path):
    """Returns the tokenizer of a folder's ``tokenizer.json``."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(path))


def tokenizer_config(config: dict) -> dict:
    """Returns ``tokenizer_config.json`` for `config`'s special tokens."""
    special = {"lstrip": False, "normalized": False, "rstrip": False,
               "single_word": False, "special": True}  # fmt: skip
    return {
        "added_tokens_decoder": {
            str(config["bos_token_id"]): {"content": BOS, **special},
            str(config["eos_token_id"]): {"content": EOS, **special},
        },
        "bos_token": BOS,
        "clean_up_tokenization_spaces": False,
        "eos_token": EOS,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": config["max_position_embeddings"],
        "tokenizer_class": "PreTrainedTokenizerFast",
    }


def schedule(progress: float, warmup: float = 0.02) -> float:
    """Scales the learning rate: linear warm-up, then a cosine to zero."""
    if progress < warmup:
        return progress / warmup
    return 0.5 + 0.5 * math.cos(math.pi * (progress - warmup) / (1 - warmup))


class Trainer:
    """Runs the steps of one training and keeps its curve.

    Attributes
    ----------
    curve : list of tuple
        Step, tokens seen, train loss, validation loss; nats per token.
    """

    def __init__(self, args, config: dict, splits: dict, bos: int):
        import torch
        from llama_network import Llama, Muon

        self.args, self.bos, self.splits = args, bos, splits
        self.model = Llama(config, args.dropout).to(args.device)
        layers = self.model.model.layers.parameters()
        matrices = [p for p in layers if p.ndim > 1]
        norms = [p for p in self.model.parameters() if p.ndim == 1]
        embedding = self.model.model.embed_tokens.weight
        self.small = [*norms, embedding]
        self.muon = Muon(matrices, args.weight_decay)
        self.adam = torch.optim.AdamW(
            [
                {"params": norms, "weight_decay": 0.0},
                {"params": [embedding]},
            ],
            betas=(0.9, 0.95),
            weight_decay=args.weight_decay,
        )
        self.loss = self.raw_loss
        if args.compile:
            self.loss = torch.compile(self.raw_loss)
        self.curve: list[tuple] = []

    def raw_loss(self, ids, targets):
        """Mean cross-entropy of `targets` after `ids`, both [batch, tokens]."""
        import torch
        import torch.nn.functional as F

        with torch.autocast(ids.device.type, torch.bfloat16):
            logits = self.model(ids)
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())

    def windows(self, tokens, starts):
        """Cuts windows behind a BOS each: a prompt may begin anywhere."""
        import torch

        span = torch.arange(self.args.tokens, device=tokens.device)
        targets = tokens[starts[:, None] + span].long()
        ids = torch.roll(targets, 1, 1)
        ids[:, 0] = self.bos
        return ids, targets

    def evaluate(self) -> float:
        """Returns the mean loss over the validation split's windows."""
        import torch

        tokens = self.splits["valid"]
        stop = len(tokens) - self.args.tokens
        starts = torch.arange(0, stop, self.args.tokens, device=tokens.device)
        batches = starts[: len(starts) // 16 * 16].view(-1, 16)
        self.model.eval()
        with torch.no_grad():
            losses = [self.loss(*self.windows(tokens, s)) for s in batches]
        self.model.train()
        return torch.stack(losses).mean().item()

    def run(self):
        """Trains for ``--steps`` steps or ``--minutes``, whichever is less."""
        import torch

        args, tokens = self.args, self.splits["train"]
        self.log(0, math.nan, 0.0)
        begin = time.monotonic()
        step, progress, running, count = 0, 0.0, 0, 0
        while progress < 1:
            starts = torch.randint(
                len(tokens) - args.tokens, (args.batch,), device=args.device
            )
            loss = self.loss(*self.windows(tokens, starts))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.small, 1.0)
            rate = args.lr * schedule(progress)
            self.muon.step(rate)
            for group in self.adam.param_groups:
                group["lr"] = rate
            self.adam.step()
            self.adam.zero_grad()
            running, count = running + loss.detach(), count + 1
            step += 1
            if step == 1:  # the clock leaves compilation out
                begin = time.monotonic()
            minutes = (time.monotonic() - begin) / 60
            progress = max(step / args.steps, minutes / args.minutes)
            if step % args.log_every == 0 or progress >= 1:
                self.log(step, (running / count).item(), minutes)
                running, count = 0, 0

    def log(self, step: int, train_loss: float, minutes: float):
        """Adds a point to the curve, save the untrained one, and prints it."""
        seen = step * self.args.batch * self.args.tokens
        valid_loss = self.evaluate()
        if step:
            self.curve.append((step, seen, train_loss, valid_loss))
        print(
            f"step {step:6d}  {seen / 1e6:8.1f} M tokens  {minutes:5.2f} min"
            f"  train {train_loss:.4f}  valid {valid_loss:.4f}",
            flush=True,
        )


def perplexity(model, tokens, bos: int) -> tuple[float, int]:
    """Scores `tokens` in windows that don't overlap, in float32.

    Each window holds up to `EVAL_WINDOW` tokens and is fed behind one BOS, so
    every token of the text is scored once.

    Returns
    -------
    tuple of float and int
        Perplexity a token, and the tokens scored.
    """
    import torch
    import torch.nn.functional as F

    total = 0.0
    with torch.no_grad():
        for window in tokens.long().split(EVAL_WINDOW):
            ids = torch.roll(window, 1)
            ids[0] = bos
            logits = model(ids[None])[0].float()
            total += F.cross_entropy(logits, window, reduction="sum").item()
    return math.exp(total / len(tokens)), len(tokens)


def choose(logits, ids: list[int], generation: dict | None) -> int:
    """Picks the next token from `logits` [vocab], greedily without options.

    The order is that of transformers: penalty, temperature, nucleus.
    """
    import torch

    if generation is None:
        return logits.argmax().item()
    seen = torch.tensor(sorted(set(ids)), device=logits.device)
    penalty = generation["repetition_penalty"]
    old = logits[seen]
    logits[seen] = torch.where(old > 0, old / penalty, old * penalty)
    chances = torch.softmax(logits / generation["temperature"], -1)
    chances, order = chances.sort(descending=True)
    before = chances.cumsum(-1) - chances
    chances[before > generation["top_p"]] = 0
    return order[torch.multinomial(chances, 1)].item()


def sample(model, tokenizer, prompt: str, generation, length: int) -> str:
    """Continues `prompt` by up to `length` tokens."""
    import torch

    ids = tokenizer.encode(prompt).ids
    for _ in range(length):
        with torch.no_grad():
            logits = model(torch.tensor([ids], device=model.cos.device))
        ids.append(choose(logits[0, -1].float(), ids, generation))
        if ids[-1] == tokenizer.token_to_id(EOS):
            break
    return tokenizer.decode(ids)


PROMPTS = (
    "def read_lines(path, encoding='utf-8'):\n    \"\"\"",
    "class Queue:\n    \"\"\"",
    "The :mod:`socket` module provides",
    "import os\nimport sys\n\n",
    "    def __init__(self, name",
    "If the argument is not a string,",
)


def write_samples(model, tokenizer, path: Path) -> None:
    """Writes a greedy and a sampled continuation of each prompt."""
    with open(path, "w", encoding="utf-8") as out:
        for prompt in PROMPTS:
            for options in (None, generation_config(model.config)):
                text = sample(model, tokenizer, prompt, options, 120)
                title = "sampled" if options else "greedy"
                out.write(f"--- {title}\n{text}\n\n")


def write_curve(curve: list[tuple], folder: Path) -> None:
    """Writes ``loss.csv`` and ``loss.svg`` for the points of a training."""
    with open(folder / "loss.csv", "w", newline="", encoding="utf-8") as out:
        rows = csv.writer(out, lineterminator="\n")
        rows.writerow(("step", "tokens", "train_loss", "valid_loss"))
        for step, seen, train, valid in curve:
            rows.writerow((step, seen, f"{train:.4f}", f"{valid:.4f}"))

    width, height, left, bottom = 640, 360, 50, 40
    last, top = curve[-1][1], 4.0
    base = math.floor(2 * min(min(p[2], p[3]) for p in curve)) / 2

    def point(seen, loss):
        x = left + (width - left - 10) * seen / last
        y = (height - bottom) * (top - min(loss, top)) / (top - base) + 5
        return f"{x:.1f},{y:.1f}"

    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" font-family="sans-serif"'
        f' font-size="12" viewBox="0 0 {width} {height}">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for tick in range(int(2 * base), int(2 * top) + 1):
        x, y = point(0, tick / 2).split(",")
        parts.append(
            f'<path d="M{x} {y}H{width - 10}" stroke="#ddd"/>'
            f'<text x="{left - 30}" y="{float(y) + 4:.1f}">{tick / 2}</text>'
        )
    lines = ((2, "#1f77b4", "train"), (3, "#d62728", "valid"))
    for column, color, name in lines:
        line = " ".join(point(p[1], p[column]) for p in curve)
        parts.append(
            f'<polyline points="{line}" fill="none" stroke="{color}"/>'
            f'<text x="{width - 90}" y="{column * 16}" fill="{color}">'
            f"{name}</text>"
        )
    parts.append(
        f'<text x="{left}" y="{height - 12}">loss in nats a token, over '
        f"{last / 1e6:.0f} million tokens</text></svg>"
    )
    (folder / "loss.svg").write_text("\n".join(parts) + "\n", encoding="utf-8")


def write_model(model, tokenizer, config: dict, folder: Path) -> None:
    """Writes the folder that `LlamaForCausalLM.from_pretrained` loads."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        name: p.detach().to("cpu", torch.bfloat16).contiguous()
        for name, p in model.named_parameters()
    }
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    tokenizer.save(str(folder / "tokenizer.json"))
    for name, value in (
        ("config.json", config),
        ("generation_config.json", generation_config(config)),
        ("tokenizer_config.json", tokenizer_config(config)),
    ):
        text = json.dumps(value, indent=2) + "\n"
        (folder / name).write_text(text, encoding="utf-8")


def encode_splits(documents, tokenizer, eos: int, device: str) -> dict:
    """Encodes the splits that training reads, an end token after each file."""
    import torch

    splits = {}
    for name in ("train", "valid"):
        texts = [d.text for d in documents if d.split == name]
        ids: list[int] = []
        for encoding in tokenizer.encode_batch(texts):
            ids += encoding.ids + [eos]
        splits[name] = torch.tensor(ids, dtype=torch.int16, device=device)
        size = sum(len(text.encode()) for text in texts)
        print(f"{name}: {len(texts)} files, {size} bytes, {len(ids)} tokens")
    return splits


def score_heldout(model, tokenizer, text: str) -> None:
    """Prints the perplexity of the held-out text."""
    import torch

    ids = tokenizer.encode(text, add_special_tokens=False).ids
    tokens = torch.tensor(ids, device=model.cos.device)
    value, count = perplexity(model, tokens, model.config["bos_token_id"])
    size = len(text.encode())
    print(
        f"heldout.txt: {size} bytes, {count} tokens, perplexity {value:.4f},"
        f" {count * math.log2(value) / size:.4f} bits a byte"
    )


def train(args) -> None:
    """Trains and writes everything below ``args.output``."""
    import torch

    torch.manual_seed(args.seed)
    documents = python_corpus.load(args.corpus)
    config = model_config(args.config)
    if args.tokenizer:
        tokenizer = read_tokenizer(args.tokenizer)
    else:
        texts = [d.text for d in documents if d.split == "train"]
        tokenizer = train_tokenizer(texts, config["vocab_size"])
    bos, eos = config["bos_token_id"], config["eos_token_id"]
    splits = encode_splits(documents, tokenizer, eos, args.device)
    trainer = Trainer(args, config, splits, bos)
    print(sum(p.numel() for p in trainer.model.parameters()), "parameters")
    trainer.run()

    model = trainer.model.eval()
    for p in model.parameters():  # what is evaluated is what is stored
        p.data = p.data.bfloat16().float()
    write_model(model, tokenizer, config, args.output / args.name)
    write_curve(trainer.curve, args.output)
    text = python_corpus.heldout_text(documents)
    (args.output / "heldout.txt").write_text(text, encoding="utf-8")
    score_heldout(model, tokenizer, text)
    write_samples(model, tokenizer, args.output / "samples.txt")


def evaluate(args) -> None:
    """Scores and samples a folder that `train` wrote."""
    import torch
    from llama_network import Llama
    from safetensors.torch import load_file

    torch.manual_seed(args.seed)
    folder = args.folder / "tiny-llama"
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tokenizer = read_tokenizer(folder / "tokenizer.json")
    model = Llama(config).eval()
    model.load_state_dict(load_file(folder / "model.safetensors"))
    text = (args.folder / "heldout.txt").read_text(encoding="utf-8")
    score_heldout(model, tokenizer, text)
    write_samples(model, tokenizer, args.folder / "samples.txt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    commands = parser.add_subparsers(required=True)

    corpus = commands.add_parser("corpus", help="build the corpus")
    corpus.add_argument("--stdlib", type=Path, help="default: this Python's")
    corpus.add_argument("--docs", type=Path, help="folder of reST pages")
    corpus.add_argument("-o", "--output", type=Path, required=True)
    corpus.set_defaults(
        run=lambda a: python_corpus.save(
            python_corpus.collect(
                a.stdlib or python_corpus.default_stdlib(), a.docs
            ),
            a.output,
        )
    )

    training = commands.add_parser("train", help="train tokenizer and model")
    training.add_argument("corpus", type=Path)
    training.add_argument("-o", "--output", type=Path, required=True)
    training.add_argument("--config", type=Path, help="keys to replace")
    training.add_argument("--tokenizer", type=Path, help="default: train one")
    training.add_argument("--name", default="tiny-llama", help="its folder")
    training.add_argument("--device", default="cuda")
    training.add_argument("--compile", type=int, default=1)
    training.add_argument("--steps", type=int, default=4500)
    training.add_argument("--minutes", type=float, default=math.inf)
    training.add_argument("--batch", type=int, default=64)
    training.add_argument("--tokens", type=int, default=1024)
    training.add_argument("--lr", type=float, default=8e-3)
    training.add_argument("--dropout", type=float, default=0.15)
    training.add_argument("--weight-decay", type=float, default=0.1)
    training.add_argument("--log-every", type=int, default=100)
    training.add_argument("--seed", type=int, default=0)
    training.set_defaults(run=train)

    evaluation = commands.add_parser("evaluate", help="score and sample again")
    evaluation.add_argument("folder", type=Path)
    evaluation.add_argument("--seed", type=int, default=0)
    evaluation.set_defaults(run=evaluate)

    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()

# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Tokenizer files of the kinds that models come with, trained in place.

Each builder returns a `tokenizers.Tokenizer` over a small vocabulary. The
regular expressions are the ones published with the models named.
"""

from __future__ import annotations

import argparse as _argparse
import inspect
import textwrap as _textwrap
from typing import Callable

from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models,
                        normalizers, pre_tokenizers, processors, trainers)

FOREIGN = """
Съешь же ещё этих мягких французских булок, да выпей чаю.
Τάχιστη αλώπηξ βαφής ψημένη γη, δρασκελίζει υπέρ νωθρού κυνός.
いろはにほへと ちりぬるを わかよたれそ つねならむ 我能吞下玻璃而不傷身體。
다람쥐 헌 쳇바퀴에 타고파. نص حكيم له سر قاطع وذو شأن عظيم.
Zażółć gęślą jaźń; Ça va été; Größe; naïve café; e\u0301te\u0301 ﬁn ½ ①.
😀 🎉 👩‍👩‍👧‍👦 🇩🇪 1234567890 12,345.67  3.14159   I'll we've They'RE don't
▁▁ marks ▁here __init__ \tdef f(x):\n    return x\r\n\r\n  <s> </s> <0x41>
"""

LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
CL100K_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+|"
    r" ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s")
O200K_PATTERN = "|".join([
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*"
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+",
    r"\s+(?!\S)", r"\s+"])
KIMI_PATTERN = "|".join([
    r"[\p{Han}]+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*"
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+"
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n]*", r"\s*[\r\n]+",
    r"\s+(?!\S)", r"\s+"])
DEEPSEEK_PATTERN = (
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|"
    "[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|"
    "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+")
# Constructs that mean something else in PCRE2 or need spelling out.
CORNERS_PATTERN = (
    r"\bfoo\b|(?m:<.>)|\h{2,3}?|[\w&&[^\d_]]{,4}!|[[:upper:]-]{3}+|[\s\S&&\S]"
    r"|[^\W\d]++|(?<open>\()|\x{1F600}|\u00e9|[\]\-a]|{x}|\v")

BYTE_PIECES = [f"<0x{byte:02X}>" for byte in range(256)]


def training_text() -> list[str]:
    """English-like lines that every machine has, and many scripts."""
    code = inspect.getsource(_argparse) + inspect.getsource(_textwrap)
    return (code + FOREIGN * 8).split("\n")


def add_tokens(tokenizer: Tokenizer) -> None:
    """Adds tokens with each of the flags."""
    tokenizer.add_special_tokens(["<s>", "</s>", "<|start|>", "<|end|>"])
    tokenizer.add_special_tokens([
        AddedToken("<left>", lstrip=True, special=True),
        AddedToken("<right>", rstrip=True, special=True),
        AddedToken("<both>", lstrip=True, rstrip=True, special=True),
        AddedToken("mask", single_word=True, special=True)])
    tokenizer.add_tokens([
        AddedToken("New Token", normalized=True),
        AddedToken("Raw", normalized=False, rstrip=True),
        AddedToken("ÉCOLE", normalized=True, single_word=True),
        AddedToken("\n\n\n", normalized=False),
        AddedToken("  ", normalized=False, lstrip=True),
        AddedToken("<|start|>x", normalized=False)])


def train(model: models.BPE, pre_tokenizer=None, normalizer=None,
          vocabulary: int = 1500, alphabet: list[str] | None = None,
          special: list[str] | None = None, **options) -> Tokenizer:
    """Trains a BPE model on the local text."""
    tokenizer = Tokenizer(model)
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.train_from_iterator(training_text(), trainers.BpeTrainer(
        vocab_size=vocabulary, show_progress=False,
        initial_alphabet=alphabet or [], special_tokens=special or [],
        **options))
    return tokenizer


def byte_level(pattern: str | None, normalizer=None, prefix: bool = False,
               ignore_merges: bool = False) -> Tokenizer:
    """A byte-level model that splits by a pattern, or as GPT-2 does."""
    steps = []
    if pattern is not None:
        steps.append(pre_tokenizers.Split(Regex(pattern), "isolated"))
    steps.append(pre_tokenizers.ByteLevel(
        add_prefix_space=prefix, use_regex=pattern is None))
    tokenizer = train(
        models.BPE(ignore_merges=ignore_merges),
        pre_tokenizers.Sequence(steps) if len(steps) > 1 else steps[0],
        normalizer, alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.decoder = decoders.ByteLevel()
    add_tokens(tokenizer)
    start = tokenizer.token_to_id("<|start|>")
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=True),
        processors.TemplateProcessing(
            single="<|start|> $A", pair="<|start|> $A <|start|> $B",
            special_tokens=[("<|start|>", start)])])
    return tokenizer


def gpt2() -> Tokenizer:
    tokenizer = byte_level(None)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def deepseek() -> Tokenizer:
    tokenizer = byte_level(None)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"\p{N}{1,3}"), "isolated"),
        pre_tokenizers.Split(Regex("[一-龥぀-ゟ゠-ヿ]+"), "isolated"),
        pre_tokenizers.Split(Regex(DEEPSEEK_PATTERN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    return tokenizer


def falcon() -> Tokenizer:
    tokenizer = byte_level(None)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Punctuation("contiguous"),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        pre_tokenizers.Digits(individual_digits=False),
        pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated")])
    return tokenizer


def split_behaviors() -> Tokenizer:
    tokenizer = byte_level(None)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(",", "merged_with_previous"),
        pre_tokenizers.Split(Regex("[ab]"), "merged_with_next"),
        pre_tokenizers.Split(Regex("x*"), "isolated"),
        pre_tokenizers.Split("-", "contiguous"),
        pre_tokenizers.Split(Regex("[^;]+"), "removed", invert=True),
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.WhitespaceSplit(),
        pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)])
    return tokenizer


def llama2(cross_words: bool = False, fuse_unk: bool = True) -> Tokenizer:
    """Byte fallback with the marks made by the normalizer."""
    marks = normalizers.Sequence([
        normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    splitter = None if cross_words else pre_tokenizers.Metaspace()
    tokenizer = train(
        models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=fuse_unk),
        splitter, marks if cross_words else None, limit_alphabet=120,
        special=["<unk>", "<s>", "</s>"] + BYTE_PIECES)
    tokenizer = without_added(tokenizer)
    tokenizer.normalizer = marks
    tokenizer.pre_tokenizer = None
    tokenizer.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
        decoders.Strip(" ", 1, 0)])
    add_tokens(tokenizer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B",
        special_tokens=[("<s>", tokenizer.token_to_id("<s>"))])
    return tokenizer


def without_added(tokenizer: Tokenizer) -> Tokenizer:
    """Makes the trainer's special tokens plain pieces of the model."""
    import json
    file = json.loads(tokenizer.to_str())
    file["added_tokens"] = []
    return Tokenizer.from_str(json.dumps(file))


def metaspace(scheme: str, split: bool, decoder=None) -> Tokenizer:
    tokenizer = llama2()
    tokenizer.normalizer = None
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
        prepend_scheme=scheme, split=split)
    tokenizer.decoder = decoder or decoders.Sequence([
        decoders.ByteFallback(), decoders.Metaspace(prepend_scheme=scheme)])
    return tokenizer


def gemma() -> Tokenizer:
    tokenizer = llama2(cross_words=True)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(
        " ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def stripped(scheme: str) -> Tokenizer:
    """A normalizer that takes characters away before a Metaspace."""
    tokenizer = metaspace(scheme, split=True)
    tokenizer.normalizer = normalizers.Sequence([
        normalizers.Strip(), normalizers.NFKD(),
        normalizers.Replace(Regex(r"\p{Mn}+|z*"), "z")])
    tokenizer.decoder = decoders.Sequence([
        decoders.ByteFallback(), decoders.Fuse(),
        decoders.Replace("▁▁", "=="), decoders.Strip("▁", 2, 3),
        decoders.Replace(Regex("[aeiou]"), "#")])
    return tokenizer


def characters(fuse_unk: bool, suffix: bool) -> Tokenizer:
    """No byte fallback: characters outside the vocabulary are unknown."""
    options = {"end_of_word_suffix": "</w>"} if suffix else {}
    tokenizer = train(
        models.BPE(unk_token="<unk>", fuse_unk=fuse_unk, **options),
        pre_tokenizers.WhitespaceSplit(), limit_alphabet=60,
        special=["<unk>"], **options)
    add_tokens(tokenizer)
    return tokenizer


BUILDERS: dict[str, Callable[[], Tokenizer]] = {
    "gpt2": gpt2,
    "gpt2-prefix-space": lambda: byte_level(None, prefix=True),
    "llama3": lambda: byte_level(LLAMA3_PATTERN, ignore_merges=True),
    "qwen2-nfc": lambda: byte_level(
        LLAMA3_PATTERN.replace("{1,3}", ""), normalizers.NFC()),
    "cl100k": lambda: byte_level(CL100K_PATTERN),
    "o200k": lambda: byte_level(O200K_PATTERN),
    "kimi-intersections": lambda: byte_level(KIMI_PATTERN),
    "deepseek": deepseek,
    "falcon": falcon,
    "pattern-corners": lambda: byte_level(CORNERS_PATTERN),
    "split-behaviors": split_behaviors,
    "nfkc-lowercase": lambda: byte_level(None, normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase()])),
    "nfd": lambda: byte_level(None, normalizers.NFD()),
    "llama2": llama2,
    "llama2-crossing": lambda: llama2(cross_words=True, fuse_unk=False),
    "metaspace-first": lambda: metaspace("first", False),
    "metaspace-always": lambda: metaspace(
        "always", True, decoders.Metaspace()),
    "metaspace-never": lambda: metaspace("never", True),
    "gemma": gemma,
    "stripped-first": lambda: stripped("first"),
    "stripped-always": lambda: stripped("always"),
    "characters": lambda: characters(False, False),
    "characters-fused": lambda: characters(True, False),
    "characters-suffix": lambda: characters(False, True),
}

# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The runtime's tokenizer equals the `tokenizers` library, id for id."""

from __future__ import annotations

import json
import os
import pathlib
import random
import subprocess
import sys
import unicodedata

import pytest

tokenizers = pytest.importorskip("tokenizers")

from toolchain import BIN  # noqa: E402
from tokenizer_files import BUILDERS, FOREIGN, training_text  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
STRINGS = int(os.environ.get("QLM_TOKENIZER_STRINGS", "1500"))


def run_tool(file: pathlib.Path, mode: str, requests: list) -> list:
    """Answers of qlm-tokenize to the requests, in order."""
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    done = subprocess.run([BIN / "qlm-tokenize", str(file), mode], input=lines,
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    # Only line feeds end a line: texts may hold other separators.
    return [json.loads(line) for line in done.stdout.split("\n")[:-1]]


FORMS = {"NFC": tokenizers.normalizers.NFC(),
         "NFD": tokenizers.normalizers.NFD(),
         "NFKC": tokenizers.normalizers.NFKC(),
         "NFKD": tokenizers.normalizers.NFKD()}


def is_known(char: str) -> bool:
    """Whether this Python and the library know the character.

    Characters of later Unicode versions are left out: whether they are
    letters or compose depends on the version each library was built with, and
    the normalizers of `tokenizers` have the data of Unicode 9.
    """
    if unicodedata.category(char) in ("Cn", "Cs"):
        return False
    if not unicodedata.combining(char) and not unicodedata.decomposition(char):
        return True
    return all(
        normalizer.normalize_str(text) == unicodedata.normalize(form, text)
        for form, normalizer in FORMS.items()
        for text in (char, f"a{char}\u0334", f"a\u0345{char}"))


def known_scalars() -> list[str]:
    """The known characters that no later Unicode version reclassified."""
    classes: dict[str, list[str]] = {}
    for char in map(chr, range(sys.maxunicode + 1)):
        if is_known(char):
            classes.setdefault(unicodedata.category(char), []).append(char)
    moved = set()
    for name, chars in classes.items():
        splitter = tokenizers.pre_tokenizers.Split(
            tokenizers.Regex(rf"\p{{{name}}}+"), "removed")
        for piece, _ in splitter.pre_tokenize_str("".join(chars)):
            moved.update(piece)
    assert len(moved) < 100
    return [c for chars in classes.values() for c in chars if c not in moved]


SCALARS = known_scalars()
MARKS = [c for c in SCALARS if unicodedata.category(c) == "Mn"]
SPACES = list(" \t\n\r\x0b\x0c\x85\xa0\u1680\u180e\u2003\u2028\u2029\u202f"
              "\u205f\u200b\u3000\ufeff")
TOKENS = ["<s>", "</s>", "<|start|>", "<|end|>", "<left>", "<right>",
          "<both>", "mask", "New Token", "new token", "Raw", "ÉCOLE", "école",
          "E\u0301COLE", "<0x41>", "<unk>", "<|start|>x", "<|sta", "<b", "▁",
          "  ", "\n\n\n", "unmask", "mask_", "(", "foo", "<.>", "{x}"]
WORDS = sorted(set(" ".join(training_text()).split()))


def random_text(rng: random.Random) -> str:
    """A text of a few pieces of different kinds."""
    parts = []
    for _ in range(rng.randint(0, 8)):
        kind = rng.randrange(12)
        size = rng.randint(1, 6)
        if kind == 0:
            parts.append("".join(rng.choices(SCALARS, k=size)))
        elif kind == 1:
            parts.append(rng.choice("aeéKi") + "".join(
                rng.choices(MARKS, k=rng.randint(1, 12))))
        elif kind == 2:
            parts.append(rng.choice(SPACES) * rng.choice([1, 2, 3, 40, 300]))
        elif kind == 3:
            parts.append("".join(rng.choices(SPACES, k=size)))
        elif kind == 4:
            parts.append("".join(map(chr, rng.choices(range(0x20), k=size))))
        elif kind == 5:
            parts.append("".join(rng.choices("0123456789,.-٣४", k=size)))
        elif kind == 6:
            start = rng.randrange(len(FOREIGN))
            parts.append(FOREIGN[start:start + rng.randint(1, 30)])
        elif kind == 7:
            parts.append(rng.choice("abx-,;'_") * rng.choice([1, 2, 90]))
        elif kind in (8, 9):
            parts.append(rng.choice(TOKENS))
        else:
            parts.append(" ".join(rng.choices(WORDS, k=size)))
        parts.append(rng.choice(["", "", " "]))
    return "".join(parts)


@pytest.fixture(scope="module", params=BUILDERS)
def case(request, tmp_path_factory):
    """A tokenizer file and the library's reading of it."""
    file = tmp_path_factory.mktemp("tokenizer") / f"{request.param}.json"
    BUILDERS[request.param]().save(str(file))
    return file, tokenizers.Tokenizer.from_file(str(file))


def library_answer(function, *arguments):
    """What the library returns, or None where it panics.

    It does so when a token's stripped white space covers the next token, and
    when Strip wants more characters than a piece has.
    """
    try:
        return function(*arguments)
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        return None


def compare(answers: list, expected: list, requests: list) -> None:
    """Asserts equality wherever the library has an answer."""
    assert len(answers) == len(requests)
    for request, answer, wanted in zip(requests, answers, expected):
        assert wanted is None or answer == wanted, repr(request)
    assert expected.count(None) <= len(expected) // 10


def test_encode_equals_library(case):
    file, library = case
    rng = random.Random(file.name)
    texts = ["", " ", "a"] + [random_text(rng) for _ in range(STRINGS)]
    requests = [[text, rng.random() < 0.5] for text in texts]
    answers = run_tool(file, "encode", requests)
    expected = [library_answer(library.encode, text, None, False, special)
                for text, special in requests]
    compare(answers, [None if e is None else e.ids for e in expected], requests)


def random_ids(rng: random.Random, library) -> list[int]:
    """Ids of a text, ids at random, runs of byte pieces, ids of nothing."""
    size = library.get_vocab_size()
    kind = rng.randrange(4)
    if kind == 0:
        encoding = library_answer(library.encode, random_text(rng))
        return [] if encoding is None else encoding.ids
    if kind == 1:
        # The first ids are bytes or characters, which form broken UTF-8.
        return rng.choices(range(min(size, 260)), k=rng.randint(0, 12))
    if kind == 2:
        mark = library.token_to_id("▁")
        few = rng.choices(range(size), k=3) + ([mark] if mark else [])
        return rng.choices(few, k=rng.randint(0, 12))
    return rng.choices(range(size + 20), k=rng.randint(0, 12))


def test_decode_equals_library(case):
    file, library = case
    rng = random.Random(file.name + " decode")
    requests = [[random_ids(rng, library), rng.random() < 0.5]
                for _ in range(STRINGS)]
    decoded = run_tool(file, "decode", requests)
    streamed = run_tool(file, "stream", requests)
    expected = [library_answer(library.decode, ids, skip)
                for ids, skip in requests]
    compare(decoded, expected, requests)
    for (ids, _), text, pieces in zip(requests, decoded, streamed):
        assert "".join(pieces) == text, ids
        assert len(pieces) == len(ids) + 1


def test_stream_shows_words_at_once(case):
    """Plain words come out with the token that completes them."""
    file, library = case
    ids = library.encode("return the value", add_special_tokens=False).ids
    pieces = run_tool(file, "stream", [[ids, True]])[0]
    if "stripped" in file.name:  # its last step is an expression: all is held
        assert pieces[:-1] == [""] * len(ids)
        return
    assert pieces[-1] == ""
    shown = "".join(pieces[:-1])
    assert shown == library.decode(ids)


def test_long_texts_equal_library(case):
    """Single words of 20,000 characters and long ordinary text."""
    file, library = case
    rng = random.Random(0)
    texts = ["a" * 20_000, " " * 20_000, "é" * 5_000, "\n" * 9_000,
             "".join(rng.choices("abcdefghij", k=20_000)),
             "\n".join(training_text())]
    if "stripped" in file.name or file.stem == "pattern-corners":
        texts = texts[-1:]  # the library takes quadratic time on the others
    answers = run_tool(file, "encode", [[text, False] for text in texts])
    for text, ids in zip(texts, answers):
        expected = library.encode(text, add_special_tokens=False).ids
        assert ids == expected, text[:20]


PATTERNS = [
    r"\s", r"\S+", r"\w+", r"\W+", r"\d+", r"\D+", r"\h+", r"\H+", r"\b", r"\B",
    r"[\s\d]+", r"[^\s\d]+", r"[\S]+", r"[^\S\n]+", r"[\W_]+", r"[^\W_]+",
    r"[^\H]+", r"^", r"$", r"^.", r".$", r"\A.", r".\z", r".\Z", r".+", r"(?m:.+)",
    r"(?m).+", r"a{,2}", r"a{2}?", r"a{2}+", r"a{1,2}+", r"a{1,2}?", r"a{2,}",
    r"a{x}", r"{", r"a}", r"]", r"a*+", r"a++b", r"a?+", r"(?:ab|a)(?>b*)", r"x*",
    r"(a)\1", r"(?<q>.)b", r"(?=a)", r"(?!a)", r"(?<=a).", r"(?<!a).", r"(?#no)a",
    r"[a-c&&[^b]]+", r"[^a-c&&[^b]]+", r"[a-z&&b-y&&[^d]]", r"[a[0-9]]+",
    r"[^a[0-9]]+", r"[]a]", r"[^]a]", r"[-a]", r"[a-]", r"[a^]", r"[a\-c]",
    r"[\x41-\x43]", r"\u00e9", r"\x{e9}", r"\v", r"\f", r"\e|\a|\t|\r|\n", r"\.",
    r"\p{^L}+", r"\P{L}+", r"\p{Lu}", r"[\p{Lu}\P{L}]+", r"\p{Han}+", r"\p{Greek}+",
    r"[\p{Han}\p{Hiragana}]+", r"\p{Alpha}+", r"\p{Punct}+", r"[[:punct:]]+",
    r"[[:upper:]]+", r"[[:^lower:]]+", r"[[:space:]]", r"[[:alnum:]]+", r"[[:digit:]]",
    r"(?i:k|s)", r"(?i)É", r"(?i:[a-f]+)", r"(?-i:a)", r"\R", r"é+", r"[é-ü]+", r"\é",
]


def test_patterns_equal_library(tmp_path):
    """Each construct splits the same text at the same places.

    The boundaries show as marks, which a Metaspace puts before each word.
    """
    from tokenizer_files import BYTE_PIECES
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(
        vocab={piece: i for i, piece in enumerate(BYTE_PIECES + ["▁"])},
        merges=[], byte_fallback=True))
    rng = random.Random(3)
    known = list("aAbBcCdDxyz_09 -{}]^.!$+ \t\n\r\v\féÉüſK٣漢ひα\u0301\u180e\u00a0")
    for number, pattern in enumerate(PATTERNS):
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([
            tokenizers.pre_tokenizers.Split(
                tokenizers.Regex(pattern), "isolated"),
            tokenizers.pre_tokenizers.Metaspace(split=False)])
        file = tmp_path / f"{number}.json"
        tokenizer.save(str(file))
        texts = ["".join(rng.choices(known, k=rng.randint(1, 14)))
                 for _ in range(100)]
        texts += ["".join(rng.choices("ab\n ", k=rng.randint(1, 14)))
                  for _ in range(100)]
        answers = run_tool(file, "encode", [[text, False] for text in texts])
        for text, ids in zip(texts, answers):
            expected = tokenizer.encode(text, add_special_tokens=False).ids
            assert ids == expected, (pattern, text)

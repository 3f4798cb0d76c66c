# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Builds the corpus of the tiny LLaMA from a local Python installation.

The corpus is the text of the Python standard library: its modules, its tests
and, where a folder of them is given, the reST sources of its documentation.
Everything in it is under the licence in ``LICENSE.python.txt``.

Each document belongs to one split:

``heldout``  modules named in `HELDOUT` and their pages; never trained on, and
             written to ``heldout.txt``
``valid``    about one file in 64, chosen by the checksum of its topic; draws
             the validation curve
``train``    the rest
"""

from __future__ import annotations

import json
import lzma
import sysconfig
import zlib
from pathlib import Path
from typing import Iterator, NamedTuple

# Topics whose module, test and page stay out of training. Page and module of
# one topic quote each other, so a topic is held out whole.
HELDOUT = (
    "bisect",
    "colorsys",
    "fnmatch",
    "graphlib",
    "heapq",
    "sched",
    "textwrap",
)

# Tables, generated files and copies of the documentation: not prose, not code
# that someone wrote.
SKIPPED_PARTS = {
    "__pycache__",
    "cjkencodings",
    "data",
    "encodings",
    "pydoc_data",
    "site-packages",
    "turtledemo",
}
SKIPPED_PREFIXES = ("config-", "_sysconfigdata")

VALID_ONE_IN = 64


class Document(NamedTuple):
    """One text file of the corpus, its name relative to its root."""

    name: str
    split: str
    text: str


def topic_of(name: str) -> str:
    """Names what a file is about, so that module, test and page agree.

    Examples
    --------
    >>> topic_of("Lib/heapq.py"), topic_of("Doc/library/heapq.rst")
    ('heapq', 'heapq')
    >>> topic_of("Lib/test/test_heapq.py")
    'heapq'
    """
    stem = name.rsplit("/", 1)[-1].split(".", 1)[0]
    return stem.removeprefix("test_")


def split_of(name: str) -> str:
    """Assigns a file to ``heldout``, ``valid`` or ``train`` by its topic."""
    topic = topic_of(name)
    if topic in HELDOUT:
        return "heldout"
    if zlib.crc32(topic.encode()) % VALID_ONE_IN == 0:
        return "valid"
    return "train"


def is_text(text: str) -> bool:
    """Tells prose and code from tables of numbers and foreign scripts."""
    if len(text) < 256:
        return False
    letters = sum(map(str.isalpha, text))
    digits = sum(map(str.isdigit, text))
    foreign = sum(not c.isascii() for c in text)
    longest = max(map(len, text.splitlines()))
    return (
        digits < 0.25 * letters
        and foreign < 0.03 * len(text)
        and longest < 1000
    )


def python_files(stdlib: Path) -> Iterator[tuple[str, Path]]:
    """Yields name and path of each module and test of the library."""
    for path in sorted(stdlib.rglob("*.py")):
        relative = path.relative_to(stdlib)
        if SKIPPED_PARTS.intersection(relative.parts):
            continue
        if relative.as_posix().startswith(SKIPPED_PREFIXES):
            continue
        yield "Lib/" + relative.as_posix(), path


def page_files(docs: Path) -> Iterator[tuple[str, Path]]:
    """Yields name and path of each documentation page below `docs`."""
    for path in sorted(docs.rglob("*.rst*")):
        relative = path.relative_to(docs).as_posix().removesuffix(".txt")
        yield "Doc/" + relative, path


def collect(stdlib: Path, docs: Path | None) -> list[Document]:
    """Reads, filters and splits the corpus.

    Parameters
    ----------
    stdlib
        Folder of the standard library's modules.
    docs
        Folder of the documentation's reST sources, or None to go without.

    Returns
    -------
    list of Document
        In a fixed order, without exact duplicates.
    """
    files = list(python_files(stdlib))
    if docs is not None:
        files += page_files(docs)
    documents, seen = [], set()
    for name, path in files:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # tests of source encodings
        lines = (line.rstrip() for line in text.expandtabs(8).splitlines())
        text = "\n".join(lines).strip("\n") + "\n"
        if text in seen or not is_text(text):
            continue
        seen.add(text)
        documents.append(Document(name, split_of(name), text))
    return documents


def heldout_text(documents: list[Document]) -> str:
    """Joins the held-out modules and pages, without their tests."""
    parts = [
        d.text
        for d in documents
        if d.split == "heldout" and not d.name.startswith("Lib/test/")
    ]
    return "\n".join(parts)


def default_stdlib() -> Path:
    """Returns the library of the Python that runs this."""
    return Path(sysconfig.get_paths()["stdlib"])


def save(documents: list[Document], path: Path) -> None:
    """Writes the corpus as compressed JSON lines."""
    with lzma.open(path, "wt", encoding="utf-8", preset=6) as out:
        for document in documents:
            out.write(json.dumps(document._asdict()) + "\n")


def load(path: Path) -> list[Document]:
    """Reads what `save` wrote."""
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        return [Document(**json.loads(line)) for line in lines]

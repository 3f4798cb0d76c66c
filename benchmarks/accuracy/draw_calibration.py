# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Draws a calibration text from the corpus that the models were trained on.

    draw_calibration.py -o FILE [--corpus corpus.jsonl.xz] [--characters N]
        [--split train] [--seed 1]

Pieces of at most 2,048 characters from places drawn evenly over the split, so
that modules, tests and pages have the shares that they have in training. The
held-out text is in another split. Without a corpus, this Python's library is
read (models/python_corpus.py).
"""

from __future__ import annotations

import argparse
import bisect
import itertools
import random
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "models"))

import python_corpus  # noqa: E402

PIECE = 2048


def draw(texts: list[str], characters: int, seed: int) -> str:
    """Pieces of `texts`, of `characters` characters or a little more."""
    ends = list(itertools.accumulate(map(len, texts)))
    source, pieces, total = random.Random(seed), [], 0
    while total < characters:
        place = source.randrange(ends[-1])
        i = bisect.bisect_right(ends, place)
        first = place - (ends[i - 1] if i else 0)
        pieces.append(texts[i][first : first + PIECE])
        total += len(pieces[-1])
    return "\n".join(pieces)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--characters", type=int, default=1_200_000)
    parser.add_argument("--split", choices=("train", "valid"), default="train")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    documents = (python_corpus.load(args.corpus) if args.corpus else
                 python_corpus.collect(python_corpus.default_stdlib(), None))
    texts = [each.text for each in documents if each.split == args.split]
    args.output.write_text(draw(texts, args.characters, args.seed))


if __name__ == "__main__":
    main()

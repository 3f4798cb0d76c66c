# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Documents say what the tools do.

- A relative link leads to a file.
- A line of a `console` block that begins with `$` runs, in a folder of the
  page's own that sees the repository's `models`, `include` and build; the
  lines below it occur in its output. `…` stands for anything.
- Such a folder holds the page's `c` and `python` blocks as `example.c` and
  `example.py`.
- An `mlir` block below `<!-- from FILE -->` occurs in FILE, which one of the
  page's commands wrote. White space, SSA names, locations and offsets in the
  arena don't count.
"""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("QLM_BUILD", ROOT / "build/dev")).resolve()
BINARIES = BUILD / "bin"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"),
                *ROOT.glob("models/*.md"), *ROOT.glob("benchmarks/**/*.md")])
# Commands that a test has no business running.
SKIPPED = ("make", "scripts/bootstrap", "git ", "cmake", "touch", "ninja")
EXAMPLES = {"c": "example.c", "python": "example.py"}
BLOCK = re.compile(r"(?:<!-- from (\S+) -->\n)?```(\w*)\n(.*?)```", re.DOTALL)
LINK = re.compile(r"(?<!`)\[[^\]`]*\]\(([^)\s]+)\)")


def name(page: pathlib.Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: pathlib.Path) -> list[tuple[str, str, str]]:
    """(file that holds it or "", language, text) of each fenced block."""
    return BLOCK.findall(page.read_text())


def has_examples(page: pathlib.Path) -> bool:
    return any(language in ("console", "mlir") and (origin or "$ " in text)
               for origin, language, text in blocks(page))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: pathlib.Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in LINK.findall(text):
        if re.match(r"[a-z]+:|#", target):
            continue
        path = page.parent / target.split("#")[0]
        assert path.exists(), f"{name(page)} links to {target}"


def commands(text: str) -> list[tuple[str, list[str]]]:
    """Each command of a console block with the output shown below it."""
    found: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif line.startswith("> ") and found and not found[-1][1]:
            found[-1] = (f"{found[-1][0]}\n{line[2:]}", [])
        elif line.strip() and found:
            found[-1][1].append(line)
    return found


def matches(shown: str, printed: str) -> bool:
    """Whether `printed` is `shown` with anything in place of each `…`."""
    parts = [re.escape(" ".join(part.split())) for part in shown.split("…")]
    return re.search(r"\s*.*?\s*".join(parts),
                     " ".join(printed.split())) is not None


def run(command: str, shown: list[str], folder: pathlib.Path) -> None:
    path = [str(BINARIES), os.path.dirname(sys.executable), os.environ["PATH"]]
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, text=True, capture_output=True,
        timeout=300, stdin=subprocess.DEVNULL,
        env=dict(os.environ, PATH=os.pathsep.join(path)))
    output = done.stdout + done.stderr
    refused = any(": error: " in line for line in shown)
    assert (done.returncode != 0) == refused, f"{command}\n{output}"
    for line in shown:
        assert any(matches(line, printed) for printed in output.splitlines()), (
            f"{command}\nnot printed: {line}\nprinted:\n{output[:4000]}")


def without_names(text: str) -> str:
    """IR without white space, SSA names, locations and arena offsets."""
    text = re.sub(r"\bloc\((?:[^()]|\([^()]*\))*\)", "", text)
    text = re.sub(r"%[\w-]+(?::\d+)?(?:#\d+)?", "%", text)
    text = re.sub(r"#qlm\.arg<arena(?:, \d+)?>", "#qlm.arg<arena>", text)
    return "".join(text.split())


def statements(block: str) -> list[str]:
    """The block's operations; a line that is indented continues one."""
    found: list[str] = []
    for line in block.splitlines():
        if line.startswith(" ") and found:
            found[-1] += line
        elif line.strip():
            found.append(line)
    return found


def check_excerpt(block: str, printed: str) -> None:
    lines = [without_names(line) for line in printed.splitlines()]
    for statement in statements(block):
        parts = [re.escape(without_names(part))
                 for part in statement.split("…")]
        pattern = re.compile(".*?".join(parts))
        assert any(pattern.search(line) for line in lines), (
            f"not in the compiler's output: {statement}")


@pytest.mark.parametrize(
    "page", [page for page in PAGES if has_examples(page)], ids=name)
def test_examples_hold(page: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for folder in ("models", "include"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "release").symlink_to(BUILD)
    found = blocks(page)
    for _, language, text in found:
        if language == "console":
            for command, shown in commands(text):
                if not command.startswith(SKIPPED):
                    run(command, shown, tmp_path)
        elif language in EXAMPLES:
            (tmp_path / EXAMPLES[language]).write_text(text)
    for origin, language, text in found:
        if origin:
            assert language == "mlir"
            check_excerpt(text, (tmp_path / origin).read_text())


def test_excerpts_are_compared() -> None:
    """The comparison fails on other operations and on other numbers."""
    printed = "%1 = qlm.load @w : tensor<4x8xf32> loc(#loc3)"
    check_excerpt("%7 = qlm.load @w\n    : tensor<4x8xf32>", printed)
    check_excerpt("%7 = qlm.load … : tensor<4x8xf32>", printed)
    for wrong in ("%7 = qlm.load @v : tensor<4x8xf32>",
                  "%7 = qlm.load @w : tensor<4x9xf32>"):
        with pytest.raises(AssertionError, match="not in the compiler"):
            check_excerpt(wrong, printed)

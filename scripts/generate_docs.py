#!/usr/bin/env python3
"""Makes docs/generated from the TableGen files, or checks that it is current.

Without --write, prints what differs and exits with 1.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TABLEGEN = "/usr/lib/llvm-22/bin/mlir-tblgen"
# Pages that other scripts keep in the same folder.
OTHERS = {"OnnxConformance.md"}  # test/python/onnx_conformance.py
INCLUDES = ["-I", str(ROOT / "include"), "-I", "/usr/lib/llvm-22/include"]


def generate() -> dict[str, str]:
    """Text of each generated page by its file name."""
    pages = {"Dialect.md": (["-gen-dialect-doc", "-dialect=qlm"],
                            "include/qlm/Dialect/QlmOps.td"),
             "MethodOps.md": (["-gen-op-doc"],
                              "include/qlm/Dialect/QlmMethodOps.td"),
             "OnnxDialect.md": (["-gen-dialect-doc", "-dialect=onnx"],
                                "include/qlm/Dialect/OnnxOps.td"),
             "GraphDialect.md": (["-gen-dialect-doc", "-dialect=graph"],
                                 "include/qlm/Dialect/GraphOps.td"),
             "LowerGraphPasses.md": (["-gen-pass-doc"],
                                     "include/qlm/Lower/GraphPasses.td")}
    for stage in ("Dialect", "Optimize", "Quantize", "Lower", "Package",
                  "Pipelines"):
        passes = f"include/qlm/{stage}/Passes.td"
        if (ROOT / passes).exists():
            pages[f"{stage}Passes.md"] = (["-gen-pass-doc"], passes)
    texts = {}
    for name, (flags, source) in pages.items():
        result = subprocess.run([TABLEGEN, *flags, *INCLUDES, source],
                                cwd=ROOT, text=True, capture_output=True)
        if result.returncode:
            sys.exit(result.stderr)
        text = "\n".join(line.rstrip() for line in result.stdout.splitlines())
        texts[name] = text.strip() + "\n"
    return texts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=Path)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    folder = ROOT / "docs" / "generated"
    texts = generate()
    if arguments.write:
        folder.mkdir(parents=True, exist_ok=True)
        for stale in (set(p.name for p in folder.glob("*.md"))
                      - set(texts) - OTHERS):
            (folder / stale).unlink()
        for name, text in texts.items():
            (folder / name).write_text(text)
        return 0
    current = {p.name: p.read_text() for p in folder.glob("*.md")
               if p.name not in OTHERS}
    differing = sorted(name for name in set(texts) | set(current)
                       if texts.get(name) != current.get(name))
    for name in differing:
        print(f"docs/generated/{name} is not up to date: run make docs")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())

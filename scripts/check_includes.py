#!/usr/bin/env python3
"""Checks that the arrows between folders point one way.

A stage may include itself and what lies below it; the runtime includes no
header of the compiler but qlm/Package's formats, and no LLVM or MLIR header.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ALLOWED = {
    "Dialect": {"Dialect", "Package/Format.h", "Package/Tables.h"},
    "Archive": {"Archive"},
    "Import": {"Import", "Archive", "Dialect"},
    "Optimize": {"Optimize", "Dialect", "Archive/PackedCodes.h"},
    "Quantize": {"Quantize", "Dialect", "Archive/PackedCodes.h",
                 "Package/Format.h", "Package/Tables.h"},
    "Lower": {"Lower", "Dialect", "Package/Format.h",
              "Package/GraphFormat.h", "Package/LaunchScratch.h",
              "Package/Tables.h"},
    "Package": {"Package", "Archive", "Dialect", "Quantize/Awq.h",
                "Quantize/Gptq.h",
                "Quantize/Numerics.h", "Quantize/NumericsScheme.h"},
    "Calibrate": {"Calibrate", "Runtime", "Package/Format.h",
                  "Quantize/Products.h"},
    "Pipelines": {"Pipelines", "Import", "Optimize", "Quantize", "Lower",
                  "Package", "Dialect", "Archive"},
    "Runtime": {"Runtime", "Package/Format.h", "Package/GraphFormat.h",
                "Package/LaunchScratch.h", "Package/Tables.h"},
}
INCLUDE = re.compile(r'^\s*#include\s+["<]([^">]+)[">]', re.MULTILINE)


def violations() -> list[str]:
    found = []
    for folder, allowed in ALLOWED.items():
        for base in (ROOT / "include" / "qlm" / folder, ROOT / "lib" / folder):
            for path in sorted(base.rglob("*")):
                if path.suffix not in (".h", ".cpp"):
                    continue
                for header in INCLUDE.findall(path.read_text()):
                    if folder == "Runtime" and header.startswith(
                            ("mlir/", "llvm/")):
                        found.append(f"{path.relative_to(ROOT)}: {header}")
                    if not header.startswith("qlm/"):
                        continue
                    name = header[len("qlm/"):]
                    if name in allowed or name.split("/")[0] in allowed:
                        continue
                    found.append(f"{path.relative_to(ROOT)}: {header}")
    return found


if __name__ == "__main__":
    FOUND = violations()
    for line in FOUND:
        print(f"an include against the arrows: {line}")
    sys.exit(1 if FOUND else 0)

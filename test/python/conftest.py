# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Fixtures of the tests of the whole way."""

from __future__ import annotations

import pytest
import toolchain


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> toolchain.Packages:
    """Models and packages, each made once for all tests."""
    for tool in ("quantc", "quant-run"):
        if not (toolchain.BIN / tool).exists():
            pytest.skip(f"{tool} is not built in {toolchain.BIN}")
    return toolchain.Packages(tmp_path_factory.mktemp("packages"))

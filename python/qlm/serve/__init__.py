# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""An OpenAI-compatible server: ``python -m qlm.serve PKG``."""

from .app import create_app
from .options import ServeOptions

__all__ = ["ServeOptions", "create_app"]

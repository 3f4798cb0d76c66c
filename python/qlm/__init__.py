# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Compiles language models ahead of time and runs them.

>>> import qlm
>>> qlm.compile("models/tiny-llama", "tiny.qlm", weights="int4")  # doctest: +SKIP
>>> model = qlm.load("tiny.qlm")  # doctest: +SKIP
>>> model.generate(["def main("], max_new_tokens=8)[0].text  # doctest: +SKIP
"""

from ._runtime import Busy, Error
from .batcher import ContinuousBatcher
from .compiler import compile  # noqa: A004 (the compiler's own verb)
from .engine import EngineOptions, SamplingParams
from .llm import LLM, CompletionOutput, RequestOutput
from .model import Model, Result, load

__all__ = [
    "LLM",
    "Busy",
    "CompletionOutput",
    "ContinuousBatcher",
    "EngineOptions",
    "Error",
    "Model",
    "RequestOutput",
    "Result",
    "SamplingParams",
    "compile",
    "load",
]
__version__ = "0.1.0"

# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""What the server is told on its command line."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, field
from pathlib import Path

from ..engine import EngineOptions


@dataclass(frozen=True)
class ServeOptions:
    """Limits and names; the command line says what each is."""

    name: str
    api_keys: tuple[str, ...] = ()
    chat_template: Path | None = None
    max_body_bytes: int = 1 << 20
    max_prompt_tokens: int = 0
    max_prompts: int = 64
    timeout: float = 600.0
    template_timeout: float = 2.0
    isolate_prefixes: bool = False
    engine: EngineOptions = field(
        default_factory=lambda: EngineOptions(max_queue=1024)
    )


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be above 0, got {value}")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(
            f"must be above 0 and below 1e9, got {text}"
        )
    return value


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    result = argparse.ArgumentParser(
        prog="python -m qlm.serve",
        description="Serves a package over OpenAI's HTTP interface.",
    )
    add = result.add_argument
    add("package", type=Path, metavar="PKG", help="what quantc wrote")
    add("--host", default="127.0.0.1", help="address (default: %(default)s)")
    add("--port", type=int, default=8000,
        help="port, 0 takes a free one (default: %(default)s)")
    add("--name", help="the model's name (default: the package's)")
    add("--threads", type=int, default=0, help="that compute (default: all)")
    add("--api-key", action="append", default=[], metavar="KEY",
        help="accept requests with one of these keys alone; may be repeated, "
        "and QLM_API_KEY is one too")
    add("--chat-template", type=Path, metavar="FILE",
        help="Jinja template of chats (default: the model's own)")
    add("--speculate", type=int, default=0, metavar="N",
        help="check N proposed tokens in a step at most (default: 0)")
    add("--draft", type=Path, metavar="PKG",
        help="package that proposes (default: the text itself)")
    add("--fixed", action="store_true",
        help="propose N tokens always, not only where it pays")
    add("--kv-pages", type=int, default=0, metavar="N",
        help="pages of the KV cache to use (default: the plan's)")
    add("--max-step-tokens", type=int, default=0, metavar="N",
        help="rows of a step at most (default: the plan's)")
    add("--no-prefix-cache", action="store_true",
        help="compute every prompt anew")
    add("--isolate-prefixes", action="store_true",
        help="share prompts' beginnings within an API key alone, so that "
        "nobody learns from the time of an answer what others asked")
    add("--max-queue", type=int, default=1024, metavar="N",
        help="requests that may wait; more get status 429 (default: 1024)")
    add("--max-body", type=_positive, default=1 << 20, metavar="BYTES",
        help="of a request (default: 1 MiB)")
    add("--max-prompt-tokens", type=int, default=0, metavar="N",
        help="of a prompt (default: the context)")
    add("--timeout", type=_seconds, default=600.0, metavar="SECONDS",
        help="of a request (default: 600)")
    add("--drain-timeout", type=_seconds, default=600.0, metavar="SECONDS",
        help="after SIGTERM, for requests in progress (default: 600)")
    add("--log-level", default="info",
        choices=("debug", "info", "warning", "error"))
    return result  # fmt: skip


def from_arguments(arguments: argparse.Namespace) -> ServeOptions:
    """Return the options that a parsed command line asks for."""
    keys = list(arguments.api_key)
    if os.environ.get("QLM_API_KEY"):
        keys.append(os.environ["QLM_API_KEY"])
    return ServeOptions(
        name=arguments.name or arguments.package.resolve().name,
        api_keys=tuple(keys),
        chat_template=arguments.chat_template,
        max_body_bytes=arguments.max_body,
        max_prompt_tokens=arguments.max_prompt_tokens,
        timeout=arguments.timeout,
        isolate_prefixes=arguments.isolate_prefixes,
        engine=EngineOptions(
            max_queue=arguments.max_queue,
            kv_pages=arguments.kv_pages,
            max_step_tokens=arguments.max_step_tokens,
            share_prefixes=not arguments.no_prefix_cache,
            speculate=arguments.speculate,
            adaptive=not arguments.fixed,
            draft=arguments.draft,
        ),
    )

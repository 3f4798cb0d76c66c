# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Turns chats into prompts with the model's own template."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from .._runtime import Error

WORKER = Path(__file__).with_name("template_worker.py")
LINE_LIMIT = 64 << 20


class TemplateError(Error):
    """A template failed, or a chat that it doesn't accept."""


def _spelling(value: object) -> str | None:
    """Return a token of tokenizer_config.json: a text, or an added token."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def find_template(package: Path, given: Path | None) -> str | None:
    """Return the template of a package's model, or None.

    Parameters
    ----------
    package : Path
    given : Path, optional
        A file to take instead.
    """
    if given is not None:
        return given.read_text(encoding="utf-8")
    beside = package / "chat_template.jinja"
    if beside.is_file():
        return beside.read_text(encoding="utf-8")
    template = _config(package).get("chat_template")
    if isinstance(template, list):  # several, by name
        named = {
            entry.get("name"): entry.get("template")
            for entry in template
            if isinstance(entry, dict)
        }
        template = named.get("default")
    return template if isinstance(template, str) else None


def _config(package: Path) -> dict:
    path = package / "tokenizer_config.json"
    if not path.is_file():
        return {}
    config = json.loads(path.read_text(encoding="utf-8"))
    return config if isinstance(config, dict) else {}


class ChatTemplate:
    """A model's template, rendered by a process that can be killed.

    Parameters
    ----------
    package : Path
    given : Path, optional
        A template's file to take instead of the model's.
    timeout : float
        Seconds of processor time that a chat may take.
    patience : float
        Seconds after which the process is killed in any case.
    """

    def __init__(
        self, package: Path, given: Path | None, timeout: float,
        patience: float = 60.0,
    ) -> None:  # fmt: skip
        self.template = find_template(package, given)
        self.timeout = timeout
        self.patience = patience
        config = _config(package)
        self._tokens = {
            name: _spelling(config.get(name)) or ""
            for name in ("bos_token", "eos_token", "unk_token", "pad_token")
        }
        self._worker: asyncio.subprocess.Process | None = None
        self._lock = asyncio.Lock()

    async def render(self, messages: list[dict]) -> str:
        """Return the prompt of a chat.

        Raises
        ------
        TemplateError
            There is no template, it takes too long, or it refuses the chat.
        """
        if self.template is None:
            raise TemplateError(
                "the model has no chat template; give one with --chat-template"
            )
        values = {
            "messages": messages,
            "add_generation_prompt": True,
            **self._tokens,
        }
        task = json.dumps({
            "template": self.template, "values": values,
            "seconds": self.timeout,
        })  # fmt: skip
        async with self._lock:
            try:
                answer = await asyncio.wait_for(
                    self._ask(task), self.patience
                )
            except asyncio.TimeoutError:
                await self._kill()
                answer = {"late": True}
            except BaseException:
                await self._kill()  # the answer would be the next one's
                raise
        if "late" in answer:
            raise TemplateError(
                f"the chat template takes more than {self.timeout:g} seconds"
            )
        if "error" in answer:
            raise TemplateError(f"the chat template fails: {answer['error']}")
        return answer["text"]

    async def _ask(self, task: str) -> dict:
        if self._worker is None or self._worker.returncode is not None:
            self._worker = await asyncio.create_subprocess_exec(
                sys.executable, "-I", str(WORKER),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                limit=LINE_LIMIT,
            )  # fmt: skip
        self._worker.stdin.write(task.encode() + b"\n")
        await self._worker.stdin.drain()
        line = await self._worker.stdout.readline()
        if not line:
            await self._kill()
            return {"error": "its process ended"}
        return json.loads(line)

    async def _kill(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None and worker.returncode is None:
            worker.kill()
            await worker.wait()

    async def close(self) -> None:
        """Stop the process."""
        await self._kill()

# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Starts the server as people do, for the tests of it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import toolchain

TEMPLATE = """\
{%- for message in messages -%}
{%- if message.role not in ('system', 'user', 'assistant') -%}
{{ raise_exception('no role ' ~ message.role) }}
{%- endif -%}
{{ bos_token if loop.first }}# {{ message.role }}: {{ message.content }}
{% endfor -%}
{%- if add_generation_prompt -%}
# assistant:
{%- endif -%}
"""

PROMPT = "def main():\n"
PATIENCE = 600
"""Seconds after which something counts as hanging, on the busiest machine."""


def environment() -> dict[str, str]:
    """What the server's process needs to find the package."""
    return dict(os.environ, PYTHONPATH=str(toolchain.BUILD / "python"))


def ask(server: Server, path: str = "completions", **body) -> httpx.Response:
    """Posts a request; defaults make it a small one."""
    defaults = {"model": "tiny", "max_tokens": 4, "temperature": 0}
    if path == "completions":
        defaults["prompt"] = PROMPT
    else:
        defaults["messages"] = [{"role": "user", "content": "hello"}]
    return httpx.post(
        f"{server.url}/v1/{path}", json=defaults | body, timeout=PATIENCE
    )


def get(url: str, **options) -> httpx.Response:
    """Gets a page, however long it takes."""
    return httpx.get(url, timeout=PATIENCE, **options)


def message(answer: httpx.Response) -> str:
    """The message of an error, which must have OpenAI's form."""
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error["message"]


async def post(reader, writer, body: dict) -> tuple[int, dict]:
    """Posts on a connection, which is closed; returns status and answer.

    Much cheaper than a client library where there are a thousand.
    """
    content = json.dumps(body).encode()
    writer.write(
        b"POST /v1/completions HTTP/1.1\r\nHost: server\r\n"
        b"Content-Type: application/json\r\nConnection: close\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(content), content)
    )
    answer = await reader.read()
    writer.close()
    head, _, rest = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(rest)


class Server:
    """A server's process; use it in a ``with`` statement.

    Parameters
    ----------
    package : Path
    *options
        Of the command line.
    """

    def __init__(self, package: Path, *options: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "qlm.serve", str(package), "--port=0",
             *map(str, options)],
            env=environment(), stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.log: list[str] = []
        self.url = ""
        for line in self.process.stderr:
            self.log.append(line)
            found = re.search(r"running on (http://[0-9.:]+)", line)
            if found:
                self.url = found.group(1)
                break
        # The pipe must not fill up.
        threading.Thread(
            target=lambda: self.log.extend(self.process.stderr), daemon=True
        ).start()
        if not self.url:
            self.process.wait(timeout=PATIENCE)

    def __enter__(self) -> Server:
        assert self.url, "".join(self.log)
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(timeout=PATIENCE)

    async def connect(self):
        """A connection's reader and writer."""
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        host, port = self.url.removeprefix("http://").split(":")
        return await asyncio.open_connection(host, int(port))

    def metric(self, name: str) -> float:
        """The value of a metric without labels."""
        text = get(self.url + "/metrics").text
        found = re.search(rf"^{name}(?:_total)? ([0-9.e+-]+)$", text, re.M)
        assert found, name
        return float(found.group(1))

    def wait_for_rest(self) -> None:
        """Waits until the engine has nothing to do; nothing may be left."""
        for _ in range(PATIENCE * 20):
            if self.metric("qlm_requests_open") == 0:
                break
            time.sleep(0.05)
        assert self.metric("qlm_requests_open") == 0
        assert self.metric("qlm_kv_pages_used") == 0

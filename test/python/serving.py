# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Starts the server as people do, for the tests of it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
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


class Server:
    """A server's process; use it in a ``with`` statement.

    Parameters
    ----------
    package : Path
    *options
        Of the command line.
    """

    def __init__(self, package: Path, *options: object) -> None:
        environment = dict(
            os.environ, PYTHONPATH=str(toolchain.BUILD / "python")
        )
        self.process = subprocess.Popen(
            [sys.executable, "-m", "qlm.serve", str(package), "--port=0",
             *map(str, options)],
            env=environment, stderr=subprocess.PIPE, text=True,
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
            self.process.wait(timeout=60)

    def __enter__(self) -> Server:
        assert self.url, "".join(self.log)
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(timeout=60)

    def client(self, **options) -> httpx.Client:
        """An HTTP client of the server."""
        return httpx.Client(base_url=self.url, timeout=60, **options)

    def metric(self, name: str) -> float:
        """The value of a metric without labels."""
        text = httpx.get(self.url + "/metrics").text
        found = re.search(rf"^{name}(?:_total)? ([0-9.e+-]+)$", text, re.M)
        assert found, name
        return float(found.group(1))

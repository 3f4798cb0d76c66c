# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Many mixed requests against a server; its memory must stay flat.

    QLM_BUILD=build/release python test/python/soak_serve.py PKG 10000

Requests are good and bad, plain and streamed, some are dropped in the middle.
Each good greedy one must have the text that its prompt had the first time.
Prints one JSON object; exit code 1 when memory grew or an answer was wrong.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from pathlib import Path

import httpx
import serving

WARM_UP = 0.3
"""Part of the requests after which memory must stay flat."""


def resident_bytes(pid: int) -> int:
    """Memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


class Soak:
    """Asks a server and remembers what it answered.

    Parameters
    ----------
    server : serving.Server
    count : int
        Requests.
    """

    def __init__(self, server: serving.Server, count: int) -> None:
        self.server = server
        self.count = count
        self.random = random.Random(1)
        self.texts: dict[str, str] = {}
        self.kinds = dict.fromkeys(
            ("plain", "stream", "dropped", "chat", "refused"), 0
        )
        self.wrong: list[str] = []
        self.memory: list[int] = []

    def body(self) -> dict:
        """A good request; one of 50 prompts and 9 lengths."""
        which = self.random.randrange(50)
        greedy = self.random.random() < 0.5
        return {
            "model": "tiny", "max_tokens": 1 + self.random.randrange(9),
            "prompt": f"def f{which}(a, b):\n    " + "x = a\n    " * (which % 7),
            "temperature": 0 if greedy else 1.0, "stop": ["\n\n\n"],
            "ignore_eos": True,
        }  # fmt: skip

    def check(self, body: dict, text: str) -> None:
        """Compare a greedy text with those of its prompt so far."""
        if body["temperature"]:
            return
        known = self.texts.setdefault(body["prompt"], text)
        short, long = sorted((known, text), key=len)
        if not long.startswith(short):
            self.wrong.append(f"{body['prompt']!r}: {known!r}, {text!r}")
        self.texts[body["prompt"]] = long

    async def one(self, client: httpx.AsyncClient) -> None:
        """Make one request of a random kind."""
        kind = self.random.choices(
            list(self.kinds), (50, 25, 10, 5, 10)
        )[0]  # fmt: skip
        body = self.body()
        self.kinds[kind] += 1
        if kind == "refused":
            bad = self.random.choice(
                ({"max_tokens": -1}, {"model": "no"}, {"prompt": [9999]},
                 {"temperature": 9}, {"nonsense": 1})
            )  # fmt: skip
            answer = await client.post("/v1/completions", json=body | bad)
            if answer.status_code not in (400, 404):
                self.wrong.append(f"{bad}: {answer.status_code}")
        elif kind == "chat":
            del body["prompt"]
            body["messages"] = [{"role": "user", "content": "hi"}]
            answer = await client.post("/v1/chat/completions", json=body)
            if answer.status_code != 200:
                self.wrong.append(answer.text)
        elif kind == "plain":
            answer = await client.post("/v1/completions", json=body)
            if answer.status_code != 200:
                self.wrong.append(answer.text)
            else:
                self.check(body, answer.json()["choices"][0]["text"])
        else:
            await self.stream(client, body, kind == "dropped")

    async def stream(self, client, body: dict, drop: bool) -> None:
        """Read a stream to its end, or leave it after the first event."""
        text = ""
        async with client.stream(
            "POST", "/v1/completions", json=body | {"stream": True}
        ) as stream:
            async for line in stream.aiter_lines():
                if line.startswith("data: {"):
                    event = json.loads(line[6:])
                    text += event["choices"][0]["text"]
                    if drop:
                        return
        self.check(body, text)

    async def run(self) -> None:
        """Make all requests, 16 at a time."""
        left = iter(range(self.count))
        pid = self.server.process.pid

        async def work(client) -> None:
            for index in left:
                await self.one(client)
                if index % max(self.count // 50, 1) == 0:
                    self.memory.append(resident_bytes(pid))

        async with httpx.AsyncClient(
            base_url=self.server.url, timeout=300
        ) as client:
            await asyncio.gather(*[work(client) for _ in range(16)])

    def report(self) -> dict:
        """What happened; ``growth`` is of the memory after warm-up."""
        later = self.memory[int(len(self.memory) * WARM_UP) :]
        half = len(later) // 2
        return {
            "requests": self.count, "kinds": self.kinds,
            "wrong": self.wrong[:5],
            "memory_mb": [round(m / 1e6, 1) for m in self.memory[::5]],
            "growth": max(later[half:]) / max(later[:half]) - 1,
            "open": self.server.metric("qlm_requests_open"),
            "used_pages": self.server.metric("qlm_kv_pages_used"),
        }  # fmt: skip


def soak(package: Path, count: int, *options: object) -> dict:
    """Start a server, ask it, and report."""
    with serving.Server(package, "--name=tiny", *options) as server:
        run = Soak(server, count)
        asyncio.run(run.run())
        return run.report()


def main() -> int:
    """Run the command."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        template = Path(folder) / "chat.jinja"
        template.write_text(serving.TEMPLATE)
        report = soak(
            Path(sys.argv[1]), int(sys.argv[2]), "--speculate=4",
            f"--chat-template={template}", "--kv-pages=40",
        )  # fmt: skip
    print(json.dumps(report, indent=1))
    good = not report["wrong"] and report["growth"] < 0.02
    return 0 if good and report["open"] == 0 == report["used_pages"] else 1


if __name__ == "__main__":
    sys.exit(main())

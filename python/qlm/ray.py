# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Serves a package on many machines with Ray; ``pip install qlm[ray]``.

    serve run qlm.ray:app package=/models/tiny.qlm replicas=4

Each replica is a process with the package and the whole of `qlm.serve`. In
front of them a router sends prompts that begin alike to the same replica, whose
prefix cache then knows them, and to another where that one has too much to do.

Offline, `generate_batches` runs a Ray dataset of prompts through as many
processes as are asked for.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

from ray import serve
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from .engine import EngineOptions, SamplingParams
from .llm import LLM

PREFIX = 512
"""Characters of a prompt, or a quarter as many tokens, that choose a replica."""
KNOWN_PREFIXES = 256
"""Prefixes that a replica is known for at most."""


def prefix_key(body: bytes) -> str:
    """Return what requests whose prompts begin alike have in common.

    Parameters
    ----------
    body : bytes
        A request's body; anything.

    Examples
    --------
    >>> a = prefix_key(b'{"prompt": "' + b"x" * 600 + b'1"}')
    >>> a == prefix_key(b'{"prompt": "' + b"x" * 600 + b'2"}')
    True
    >>> prefix_key(b"not JSON")
    ''
    """
    try:
        content = json.loads(body)
        prompt = content.get("prompt", content.get("messages"))
    except (ValueError, AttributeError, RecursionError):
        return ""
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], int):
        prompt = prompt[: PREFIX // 4]
    text = prompt if isinstance(prompt, str) else json.dumps(prompt)
    digest = hashlib.sha256(text[:PREFIX].encode("utf-8", "replace"))
    return digest.hexdigest()[:16]


class _Call:
    """Runs one request through an ASGI application inside this process."""

    def __init__(self, path: str, method: str, headers: list, body: bytes):
        import asyncio

        self.scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1",
            "method": method, "path": path, "raw_path": path.encode(),
            "query_string": b"", "root_path": "", "scheme": "http",
            "headers": headers, "client": None, "server": None,
        }  # fmt: skip
        self._body = body
        self._sent = False
        self._gone = asyncio.Event()
        self._messages: asyncio.Queue = asyncio.Queue()

    async def receive(self) -> dict:
        if not self._sent:
            self._sent = True
            return {"type": "http.request", "body": self._body}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def run(self, app) -> AsyncIterator[dict]:
        """Yield what the application sends."""
        import asyncio

        async def work() -> None:
            try:
                await app(self.scope, self.receive, self._messages.put)
            finally:
                await self._messages.put(None)

        task = asyncio.ensure_future(work())
        try:
            while (message := await self._messages.get()) is not None:
                yield message
        finally:
            self._gone.set()  # who reads has left, or all is said
            task.cancel()


@serve.deployment(max_ongoing_requests=1024)
class Replica:
    """A package, its engine and the server's routes.

    Parameters
    ----------
    package : str
        The package's folder, on every machine.
    name : str
        The model's name.
    threads : int
        That compute; 0 for all that the process may use.
    **engine
        See :class:`qlm.EngineOptions`.
    """

    def __init__(
        self, package: str, name: str, threads: int = 0, **engine
    ) -> None:
        from .serve import ServeOptions, create_app

        options = ServeOptions(
            name=name, engine=EngineOptions(**({"max_queue": 1024} | engine))
        )
        llm = LLM(package, threads=threads, **vars(options.engine))
        self._llm = llm
        self._app = create_app(llm, Path(package), options)

    @serve.multiplexed(max_num_models_per_replica=KNOWN_PREFIXES)
    async def know(self, prefix: str) -> str:
        """Make this replica known for a prefix; the cache does the rest."""
        return prefix

    async def call(
        self, path: str, method: str, headers: list, body: bytes
    ) -> AsyncIterator[tuple]:
        """Yield the status and headers, then the parts of the body."""
        prefix = serve.get_multiplexed_model_id()
        if prefix:
            await self.know(prefix)
        async for message in _Call(path, method, headers, body).run(self._app):
            if message["type"] == "http.response.start":
                yield message["status"], message["headers"], os.getpid()
            elif message.get("body"):
                yield (message["body"],)

    def check_health(self) -> None:
        """Raise when the engine is dead: Ray starts another."""
        if not self._llm.engine.alive:
            raise RuntimeError("the engine is dead")


@serve.deployment
class Router:
    """Sends each request to a replica by how its prompt begins."""

    def __init__(self, replicas) -> None:
        self._replicas = replicas

    async def __call__(self, request: Request) -> Response:
        """Pass a request on and its answer back, part by part."""
        body = await request.body()
        handle = self._replicas.options(
            stream=True, method_name="call",
            multiplexed_model_id=prefix_key(body) if body else "",
        )  # fmt: skip
        # An application may have a prefix of its own, which no route knows.
        path = request.url.path.removeprefix(request.scope["root_path"])
        parts = handle.remote(
            path, request.method, request.scope["headers"], body
        )
        status, headers, pid = await parts.__anext__()

        async def rest() -> AsyncIterator[bytes]:
            async for (part,) in parts:
                yield part

        response = StreamingResponse(rest(), status_code=status)
        response.raw_headers = [
            *[(bytes(k), bytes(v)) for k, v in headers],
            (b"x-qlm-replica", str(pid).encode()),
        ]
        return response


def app(arguments: dict[str, str]):
    """Return the application that ``serve run qlm.ray:app`` runs.

    Parameters
    ----------
    arguments : dict
        ``package``; and optionally ``name``, ``replicas`` (a number, or
        ``least-most`` for autoscaling), ``threads`` of each replica, and
        ``speculate``, ``kv_pages``, ``max_queue`` of each engine. With
        autoscaling also ``target_ongoing_requests`` of a replica (16: more
        wait for a batch's places), ``upscale_delay_s`` and
        ``downscale_delay_s``, as Ray calls them.
    """
    arguments = dict(arguments)
    package = arguments.pop("package")
    name = arguments.pop("name", Path(package).name)
    least, _, most = str(arguments.pop("replicas", "1")).partition("-")
    threads = int(arguments.pop("threads", 0))
    scaling = {"target_ongoing_requests": 16.0}
    for key in (*scaling, "upscale_delay_s", "downscale_delay_s"):
        if key in arguments:
            scaling[key] = float(arguments.pop(key))
    engine = {key: int(value) for key, value in arguments.items()}
    options: dict = {"ray_actor_options": {"num_cpus": max(threads, 1)}}
    if most:
        options["autoscaling_config"] = {
            "min_replicas": int(least), "max_replicas": int(most), **scaling,
        }  # fmt: skip
    else:
        options["num_replicas"] = int(least)
    replica = Replica.options(**options)
    return Router.bind(replica.bind(package, name, threads, **engine))


class BatchGenerator:
    """Continues the prompts of a Ray dataset's batches.

    Parameters
    ----------
    package : str
    params : SamplingParams
    **engine
        See :class:`qlm.EngineOptions`.
    """

    def __init__(self, package: str, params: SamplingParams, **engine) -> None:
        self._llm = LLM(package, **engine)
        self._params = params

    def __call__(self, batch: dict) -> dict:
        """Add a column ``text`` to a batch with a column ``prompt``."""
        outputs = self._llm.generate(
            [str(prompt) for prompt in batch["prompt"]], self._params
        )
        return batch | {"text": [o.outputs[0].text for o in outputs]}


def generate_batches(
    dataset, package: str, params: SamplingParams, *, processes: int = 1,
    batch_size: int = 64, **engine,
):  # fmt: skip
    """Return the dataset with a column ``text`` beside ``prompt``.

    Parameters
    ----------
    dataset : ray.data.Dataset
        With a column ``prompt``.
    package : str
    params : SamplingParams
    processes : int
        That hold the package; each machine should have one.
    batch_size : int
        Prompts handed over at a time: several times the package's batch keeps
        the engine busy.
    """
    return dataset.map_batches(
        BatchGenerator, batch_size=batch_size, concurrency=processes,
        fn_constructor_args=(package, params), fn_constructor_kwargs=engine,
    )  # fmt: skip

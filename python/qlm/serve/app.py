# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The server's routes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException

from .. import _runtime
from ..engine import SamplingParams
from ..llm import LLM
from . import protocol
from .answers import (
    Answers,
    ChatAnswers,
    CompletionAnswers,
    failure,
    stream,
)
from .chat import ChatTemplate, TemplateError
from .generation import Deadline, Failed, Generation
from .limits import ApiError, BodyLimit, Guard, client_of, key_of
from .metrics import Metrics
from .options import ServeOptions

ERRORS = {
    status: {"model": protocol.ErrorAnswer}
    for status in (400, 401, 404, 413, 429, 500, 503, 504)
}
EVENTS = {
    200: {
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
        "description": "An object, or server-sent events with `stream`",
    }
}
MOST_TEXTS = 512
"""Texts of one request: its prompts times n."""


class Server:
    """What the routes share.

    Parameters
    ----------
    llm : LLM
    package : Path
        The package's folder, for the chat template.
    options : ServeOptions
    """

    def __init__(self, llm: LLM, package: Path, options: ServeOptions) -> None:
        self.llm = llm
        self.options = options
        self.metrics = Metrics(llm.engine)
        self.chat = ChatTemplate(
            package, options.chat_template, options.template_timeout
        )
        self.created = int(time.time())
        self.draining = False
        self.most_prompt = options.max_prompt_tokens or llm.max_context

    # What a request asks

    def check_model(self, model: str) -> None:
        """Refuse a model that isn't served."""
        if model != self.options.name:
            raise ApiError(
                404, f"the model {model!r} does not exist, "
                f"{self.options.name!r} is served", "model", "model_not_found",
            )  # fmt: skip

    def params(
        self, body: protocol.Sampling, max_tokens: int, logprobs: int | None,
        key: str,
    ) -> SamplingParams:  # fmt: skip
        """Return what the engine is asked."""

        def given(value, default):
            return default if value is None else value

        timeout = min(given(body.timeout, 1e9), self.options.timeout)
        client = client_of(key, body.user)
        seed = body.seed
        return SamplingParams(
            n=given(body.n, 1),
            max_tokens=max_tokens,
            temperature=given(body.temperature, 1.0),
            # The fewest tokens that reach 0 are the likeliest alone.
            top_p=max(given(body.top_p, 1.0), 1e-6),
            top_k=given(body.top_k, 0),
            min_p=given(body.min_p, 0.0),
            repetition_penalty=given(body.repetition_penalty, 1.0),
            frequency_penalty=given(body.frequency_penalty, 0.0),
            presence_penalty=given(body.presence_penalty, 0.0),
            logit_bias={
                int(token): value
                for token, value in (body.logit_bias or {}).items()
            },
            seed=None if seed is None else seed % 2**64,
            stop=given(body.stop, ()),
            ignore_eos=given(body.ignore_eos, False),
            logprobs=logprobs,
            priority=given(body.priority, 0),
            timeout=timeout,
            client=client,
            cache_scope=(
                client_of(key, None) if self.options.isolate_prefixes else 0
            ),
        )

    async def encode(self, text: str, special: bool) -> list[int]:
        """Return a text's token ids; refuse what isn't a text."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ApiError(
                400, f"the prompt is not Unicode text: {error.reason} at "
                f"character {error.start}", "prompt",
            ) from None  # fmt: skip
        return await asyncio.to_thread(self.llm.encode, text, special)

    def check_prompt(self, tokens: list[int], name: str) -> None:
        """Refuse a prompt that is too long."""
        if len(tokens) > self.most_prompt:
            raise ApiError(
                400, f"the prompt has {len(tokens)} tokens, at most "
                f"{self.most_prompt} are allowed", name,
                "context_length_exceeded",
            )  # fmt: skip

    def start(
        self, prompts: list[list[int]], params: SamplingParams,
        keep_tokens: bool, name: str,
    ) -> Generation:  # fmt: skip
        """Hand the prompts to the engine."""
        for tokens in prompts:
            self.check_prompt(tokens, name)
        if len(prompts) * params.n > MOST_TEXTS:
            raise ApiError(
                400, f"prompts times n must be at most {MOST_TEXTS}, got "
                f"{len(prompts) * params.n}", "n",
            )  # fmt: skip
        try:
            return Generation(
                self.llm.engine, self.metrics, prompts, params,
                self.llm.vocabulary_size, keep_tokens,
            )  # fmt: skip
        except _runtime.Busy as error:
            raise ApiError(429, str(error), code="queue_full") from None
        except _runtime.Error as error:
            raise ApiError(400, str(error)) from None

    # What it gets

    async def answer(
        self, request: Request, body: protocol.Sampling,
        generation: Generation, answers: Answers,
    ) -> Response:  # fmt: skip
        """Return the texts, whole or as a stream."""
        if body.stream:
            return StreamingResponse(
                stream(generation, answers), media_type="text/event-stream",
                headers={"Cache-Control": "no-cache"},
            )  # fmt: skip
        gone = asyncio.ensure_future(_disconnected(request))
        done = asyncio.ensure_future(_finish(generation))
        try:
            await asyncio.wait(
                (gone, done), return_when=asyncio.FIRST_COMPLETED
            )
            if not done.done():
                return Response(status_code=499)  # nobody reads it
            done.result()
        except (Deadline, Failed) as error:
            raise failure(error) from None
        finally:
            gone.cancel()
            done.cancel()
            generation.cancel()
        return JSONResponse(answers.whole(generation).model_dump())


async def _finish(generation: Generation) -> None:
    async for _ in generation.steps():
        pass


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _validation_message(error: RequestValidationError) -> ApiError:
    first = error.errors()[0]
    where = [str(part) for part in first["loc"] if part != "body"]
    if first["type"] == "json_invalid":
        return ApiError(400, "the body is not JSON")
    name = ".".join(where)
    message = first["msg"][0].lower() + first["msg"][1:]
    return ApiError(
        400, f"{name or 'body'}: {message}", where[0] if where else None
    )


def create_app(llm: LLM, package: Path, options: ServeOptions) -> FastAPI:
    """Return the ASGI application of a loaded package.

    Parameters
    ----------
    llm : LLM
        Closed when the application ends.
    package : Path
        Its folder.
    options : ServeOptions
    """
    server = Server(llm, package, options)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI):
        yield
        server.draining = True
        llm.engine.drain()
        await server.chat.close()
        await asyncio.to_thread(llm.close)

    app = FastAPI(
        title="QLM", version=_version(), lifespan=lifespan,
        docs_url=None, redoc_url=None,
    )  # fmt: skip
    app.state.server = server

    def count(path: str, status: int) -> None:
        route = path if path in ROUTES else "other"
        server.metrics.answers.labels(route, status).inc()

    app.add_middleware(BodyLimit, most=options.max_body_bytes)
    app.add_middleware(Guard, keys=options.api_keys, count=count)
    _add_errors(app)
    _add_states(app, server)
    _add_completions(app, server)
    _add_chat(app, server)
    _describe(app, options.name)
    return app


def _describe(app: FastAPI, name: str) -> None:
    """Let the app's description of itself name the model that is served."""
    made = app.openapi

    def openapi() -> dict:
        if app.openapi_schema is None:
            description = made()
            for kind in ("CompletionRequest", "ChatRequest"):
                schema = description["components"]["schemas"][kind]
                schema["properties"]["model"]["enum"] = [name]
            path = description["paths"]["/v1/models/{name}"]["get"]
            path["parameters"][0]["schema"]["enum"] = [name]
        return app.openapi_schema

    app.openapi = openapi


def _version() -> str:
    from .. import __version__

    return __version__


def _add_errors(app: FastAPI) -> None:
    def respond(error: ApiError) -> JSONResponse:
        headers = {"Retry-After": "1"} if error.status in (429, 503) else None
        return JSONResponse(error.body(), error.status, headers)

    @app.exception_handler(ApiError)
    async def api_error(_: Request, error: ApiError):
        return respond(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError):
        return respond(_validation_message(error))

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException):
        response = respond(
            ApiError(error.status_code, str(error.detail).lower())
        )
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception):
        return respond(ApiError(500, "the server failed"))


def _add_states(app: FastAPI, server: Server) -> None:
    @app.get("/health", responses={503: {"model": protocol.State}})
    async def health() -> protocol.State:
        """Whether the engine works."""
        alive = server.llm.engine.alive
        state = protocol.State(status="ok" if alive else "dead")
        return JSONResponse(state.model_dump(), 200 if alive else 503)

    @app.get("/ready", responses={503: {"model": protocol.State}})
    async def ready() -> protocol.State:
        """Whether requests are welcome."""
        state = "draining" if server.draining else "ready"
        return JSONResponse({"status": state}, 503 if server.draining else 200)

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Return numbers for Prometheus."""
        return Response(
            generate_latest(server.metrics.registry),
            media_type=CONTENT_TYPE_LATEST,
        )

    def card() -> protocol.ModelCard:
        return protocol.ModelCard(
            id=server.options.name, created=server.created,
            max_model_len=server.llm.max_context,
        )  # fmt: skip

    @app.get("/v1/models", responses={401: ERRORS[401]})
    async def models() -> protocol.ModelList:
        """Return the one model."""
        return protocol.ModelList(data=[card()])

    @app.get(
        "/v1/models/{name:path}", responses={401: ERRORS[401], 404: ERRORS[404]}
    )
    async def model(name: str) -> protocol.ModelCard:
        """Return a model."""
        server.check_model(name)
        return card()


ROUTES = (
    "/v1/completions", "/v1/chat/completions", "/v1/models", "/health",
    "/ready", "/metrics",
)  # fmt: skip


def _prompts(prompt) -> list:
    """Return a list of prompts, each a text or token ids."""
    if isinstance(prompt, str) or isinstance(prompt[0], int):
        return [prompt]
    return list(prompt)


def _add_completions(app: FastAPI, server: Server) -> None:
    @app.post(
        "/v1/completions", response_model=protocol.Completion,
        responses={**EVENTS, **ERRORS},
    )  # fmt: skip
    async def completions(request: Request, body: protocol.CompletionRequest):
        """Continue prompts."""
        server.check_model(body.model)
        given = _prompts(body.prompt)
        if len(given) > server.options.max_prompts:
            raise ApiError(
                400, f"at most {server.options.max_prompts} prompts are "
                f"allowed, got {len(given)}", "prompt",
            )  # fmt: skip
        tokens = [
            await server.encode(each, True) if isinstance(each, str) else each
            for each in given
        ]
        key = key_of(request.headers.get("authorization"))
        max_tokens = 16 if body.max_tokens is None else body.max_tokens
        params = server.params(body, max_tokens, body.logprobs, key)
        generation = server.start(
            tokens, params, body.logprobs is not None, "prompt"
        )
        echoes = []
        if body.echo:
            echoes = [
                each if isinstance(each, str) else server.llm.decode(each)
                for each in given
            ]
        options = body.stream_options
        answers = CompletionAnswers(
            server.options.name, server.llm.decode,
            bool(options and options.include_usage),
            echoes=echoes, n=params.n, logprobs=body.logprobs,
        )  # fmt: skip
        return await server.answer(request, body, generation, answers)


def _message(message: protocol.Message) -> dict:
    """Return a message as templates read it."""
    content = message.content
    if not isinstance(content, str):
        content = "".join(part.text for part in content)
    result = {"role": message.role, "content": content}
    if message.name is not None:
        result["name"] = message.name
    return result


def _add_chat(app: FastAPI, server: Server) -> None:
    @app.post(
        "/v1/chat/completions", response_model=protocol.ChatCompletion,
        responses={**EVENTS, **ERRORS},
    )  # fmt: skip
    async def chat(request: Request, body: protocol.ChatRequest):
        """Answer the last message of a chat."""
        server.check_model(body.model)
        try:
            text = await server.chat.render(
                [_message(message) for message in body.messages]
            )
        except TemplateError as error:
            raise ApiError(400, str(error), "messages") from None
        # The template writes the special tokens that it wants.
        tokens = await server.encode(text, False)
        server.check_prompt(tokens, "messages")
        limits = [body.max_completion_tokens, body.max_tokens]
        limits = [limit for limit in limits if limit is not None]
        max_tokens = min(limits, default=server.llm.max_context)
        wants = bool(body.logprobs)
        if body.top_logprobs is not None and not wants:
            raise ApiError(400, "top_logprobs needs logprobs", "top_logprobs")
        key = key_of(request.headers.get("authorization"))
        params = server.params(
            body, max_tokens, (body.top_logprobs or 0) if wants else None, key
        )
        generation = server.start([tokens], params, wants, "messages")
        options = body.stream_options
        answers = ChatAnswers(
            server.options.name, server.llm.decode,
            bool(options and options.include_usage), logprobs=wants,
        )  # fmt: skip
        return await server.answer(request, body, generation, answers)

# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Generates texts in the manner of other serving libraries."""

from __future__ import annotations

import asyncio
import os
import queue
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from . import _runtime
from .engine import Engine, EngineOptions, Prompt, SamplingParams


@dataclass
class CompletionOutput:
    """One continuation of a prompt.

    Attributes
    ----------
    index : int
        Which of the ``n``.
    text, token_ids : str, list of int
        What was generated.
    finish_reason : str or None
        ``"stop"``, ``"length"``, ``"cancelled"``, ``"deadline"`` or
        ``"error"``; None while it goes on.
    logprobs : list of float
        Of each token, when asked for.
    top_logprobs : list of list of (int, float)
        The likeliest tokens at each place, when asked for.
    error : str
        What went wrong; empty when nothing did.
    """

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    logprobs: list[float] = field(default_factory=list)
    top_logprobs: list[list[tuple[int, float]]] = field(default_factory=list)
    error: str = ""


@dataclass
class RequestOutput:
    """A prompt and its continuations.

    Attributes
    ----------
    prompt : str or None
        The prompt's text, if it was one.
    prompt_token_ids : list of int
    outputs : list of CompletionOutput
    cached_tokens : int
        Tokens of the prompt that were not computed again.
    """

    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    cached_tokens: int = 0

    @property
    def finished(self) -> bool:
        """Whether all continuations have ended."""
        return all(output.finish_reason for output in self.outputs)

    def take(self, event: _runtime.Event, logprobs: bool) -> None:
        """Add what an event says."""
        output = self.outputs[event.choice]
        if event.is_last:
            output.finish_reason = event.finish_reason
            output.error = event.error
            if event.choice == 0:
                self.cached_tokens = event.cached_tokens
            return
        output.text += event.text
        output.token_ids.append(event.token)
        if logprobs:
            output.logprobs.append(event.logprob)
            output.top_logprobs.append(event.top)


class LLM:
    """A package and its engine.

    Parameters
    ----------
    package : path
        What ``qlm.compile`` or quantc wrote.
    threads : int, optional
        Threads that compute; every core by default.
    **options
        See :class:`EngineOptions`.

    Examples
    --------
    >>> llm = LLM("tiny.qlm")  # doctest: +SKIP
    >>> params = SamplingParams(temperature=0, max_tokens=8)
    >>> llm.generate(["import os"], params)[0].outputs[0].text  # doctest: +SKIP
    """

    def __init__(
        self,
        package: str | os.PathLike[str],
        *,
        threads: int | None = None,
        verify: bool = True,
        **options,
    ) -> None:
        settings = EngineOptions(**options)
        draft = None
        if settings.draft is not None:
            draft = _runtime.load(
                os.fspath(settings.draft), threads or 0, verify
            )
        self._model = _runtime.load(os.fspath(package), threads or 0, verify)
        self.engine = Engine(self._model, settings, draft)

    @property
    def vocabulary_size(self) -> int:
        """Number of entries of the vocabulary."""
        return self._model.vocabulary_size

    @property
    def max_context(self) -> int:
        """Most tokens of a prompt and its continuation together."""
        return self._model.max_context

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Return the token ids of a text."""
        return self._model.encode(text, add_special_tokens)

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of token ids."""
        return self._model.decode(list(tokens))

    def _start(self, prompt: Prompt, params: SamplingParams, sink):
        tokens = (
            self.encode(prompt) if isinstance(prompt, str) else list(prompt)
        )
        output = RequestOutput(
            prompt if isinstance(prompt, str) else None,
            tokens,
            [CompletionOutput(index) for index in range(params.n)],
        )
        request = params.request(tokens, self.vocabulary_size)
        return output, self.engine.submit(request, sink)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> list[RequestOutput]:
        """Continue prompts and return when all are done.

        Parameters
        ----------
        prompts : str, or sequence of str or of token id sequences
        params : SamplingParams or a sequence of them, one for each prompt

        Returns
        -------
        list of RequestOutput
            In the prompts' order.

        Raises
        ------
        qlm.Error
            A request breaks a rule; none is run to its end then.
        """
        if isinstance(prompts, str):
            prompts = [prompts]
        if params is None or isinstance(params, SamplingParams):
            params = [params or SamplingParams()] * len(prompts)
        events: queue.SimpleQueue = queue.SimpleQueue()
        outputs: dict[int, tuple[RequestOutput, bool]] = {}
        try:
            for prompt, each in zip(prompts, params, strict=True):
                output, number = self._start(prompt, each, events.put)
                outputs[number] = output, each.logprobs is not None
            left = sum(len(output.outputs) for output, _ in outputs.values())
            while left:
                event = events.get()
                output, wants = outputs[event.request]
                output.take(event, wants)
                left -= event.is_last
        except BaseException:
            for number in outputs:
                self.engine.cancel(number)
            raise
        return [output for output, _ in outputs.values()]

    async def stream(
        self, prompt: Prompt, params: SamplingParams | None = None
    ) -> AsyncIterator[RequestOutput]:
        """Yield the request's output each time it has grown.

        Leaving the loop cancels the request.
        """
        params = params or SamplingParams()
        loop = asyncio.get_running_loop()
        events: asyncio.Queue = asyncio.Queue()

        def sink(event) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(events.put_nowait, event)

        output, number = self._start(prompt, params, sink)
        try:
            while not output.finished:
                output.take(await events.get(), params.logprobs is not None)
                yield output
        finally:
            if not output.finished:
                self.engine.cancel(number)

    def close(self) -> None:
        """Cancel what is left and stop the engine."""
        self.engine.stop()

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

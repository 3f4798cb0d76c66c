# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Runs the texts of one HTTP request on the engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from ..engine import Engine, SamplingParams
from .metrics import Metrics


@dataclass
class Token:
    """A generated token."""

    id: int
    text: str
    logprob: float
    top: list[tuple[int, float]]


@dataclass
class Choice:
    """A text so far."""

    index: int
    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    count: int = 0
    finish_reason: str | None = None
    error: str = ""


class Deadline(Exception):
    """The request's time is over."""


class Failed(Exception):
    """The engine could not go on with a text."""


class Generation:
    """The texts of one HTTP request.

    Parameters
    ----------
    engine : Engine
    metrics : Metrics
    prompts : sequence of token ids
    params : SamplingParams
        ``n`` texts of each prompt.
    vocabulary_size : int
    keep_tokens : bool
        Keep each token, for log probabilities.
    """

    def __init__(
        self,
        engine: Engine,
        metrics: Metrics,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        vocabulary_size: int,
        keep_tokens: bool,
    ) -> None:
        self._engine = engine
        self._metrics = metrics
        self._n = params.n
        self._keep_tokens = keep_tokens
        self._events: asyncio.Queue = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._numbers: dict[int, int] = {}
        self._last_seconds: dict[int, float] = {}
        self.choices = [Choice(i) for i in range(len(prompts) * params.n)]
        self.prompt_tokens = sum(map(len, prompts))
        self.cached_tokens = 0
        self._left = len(self.choices)
        try:
            for index, prompt in enumerate(prompts):
                request = params.request(prompt, vocabulary_size)
                self._numbers[engine.submit(request, self._sink)] = index
        except BaseException:
            self.cancel()
            raise

    @property
    def completion_tokens(self) -> int:
        """Tokens generated so far."""
        return sum(choice.count for choice in self.choices)

    def _sink(self, event) -> None:
        try:
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)
        except RuntimeError:  # the server's loop has ended
            pass

    def cancel(self) -> None:
        """End what has not ended."""
        if self._left:
            for number in self._numbers:
                self._engine.cancel(number)

    async def steps(self) -> AsyncIterator[tuple[Choice, Token | None]]:
        """Yield each token with its choice, and None with one that ended.

        Raises
        ------
        Deadline
            The time is over; the choices hold what there is.
        Failed
            A text could not go on.
        """
        try:
            while self._left:
                event = await self._events.get()
                index = self._numbers[event.request] * self._n + event.choice
                choice = self.choices[index]
                if event.is_last:
                    self._end(choice, event)
                    yield choice, None
                    continue
                self._observe(index, event.seconds)
                token = Token(
                    event.token, event.text, event.logprob, event.top
                )
                choice.text += event.text
                choice.count += 1
                if self._keep_tokens:
                    choice.tokens.append(token)
                yield choice, token
        finally:
            self.cancel()

    def _end(self, choice: Choice, event) -> None:
        self._left -= 1
        choice.finish_reason = event.finish_reason
        if event.choice == 0:
            self.cached_tokens += event.cached_tokens
        self._metrics.whole.observe(event.seconds)
        if event.finish_reason == "deadline":
            raise Deadline
        if event.finish_reason == "error":
            raise Failed(event.error)

    def _observe(self, index: int, seconds: float) -> None:
        before = self._last_seconds.get(index)
        if before is None:
            self._metrics.first_token.observe(seconds)
        else:
            self._metrics.between_tokens.observe(seconds - before)
        self._last_seconds[index] = seconds

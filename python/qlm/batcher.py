# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Continuous batching, one step at a time."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from .engine import Prompt, SamplingParams
from .model import Model, Result


@dataclass(frozen=True)
class Completed:
    """A request that ended in a step.

    Attributes
    ----------
    request_id : int
        What :meth:`ContinuousBatcher.add_request` returned.
    result : Result
    """

    request_id: int
    result: Result


class ContinuousBatcher:
    """Runs requests that join and leave at every step.

    Parameters
    ----------
    model : qlm.Model
        A loaded package.
    max_batch_size : int
        Requests that run at once at most.

    Examples
    --------
    >>> batcher = ContinuousBatcher(qlm.load("tiny.qlm"))  # doctest: +SKIP
    >>> batcher.add_request("import os", max_tokens=8)  # doctest: +SKIP
    >>> while batcher.has_work():  # doctest: +SKIP
    ...     for done in batcher.step():
    ...         print(done.request_id, done.result.text)
    """

    def __init__(self, model: Model, max_batch_size: int = 8) -> None:
        if max_batch_size < 1:
            raise ValueError(
                f"max_batch_size must be above 0, got {max_batch_size}"
            )
        self._model = model._model
        self._encode = model.encode
        self.max_batch_size = max_batch_size
        self._pending: deque[tuple[int, object]] = deque()
        self._active: dict[int, int] = {}
        self._count = 0

    def add_request(
        self,
        prompt: Prompt,
        max_tokens: int = 16,
        params: SamplingParams | None = None,
    ) -> int:
        """Queue a prompt; greedy without ``params``.

        Raises
        ------
        qlm.Error
            The request breaks a rule.
        """
        tokens = (
            self._encode(prompt) if isinstance(prompt, str) else list(prompt)
        )
        if params is None:
            params = SamplingParams(temperature=0.0, max_tokens=max_tokens)
        request = params.request(tokens, self._model.vocabulary_size)
        self._model.check(request)
        self._pending.append((self._count, request))
        self._count += 1
        return self._count - 1

    def has_work(self) -> bool:
        """Whether requests wait or run."""
        return bool(self._pending or self._active)

    def step(self) -> list[Completed]:
        """Run one step and return what ended in it; [] when nothing runs."""
        while self._pending and len(self._active) < self.max_batch_size:
            request_id, request = self._pending.popleft()
            self._active[self._model.add(request)] = request_id
        self._model.step()
        completed = []
        for number, request_id in list(self._active.items()):
            results = self._model.take(number)
            if results is None:
                continue
            del self._active[number]
            completed += [
                Completed(request_id, Result.of(result)) for result in results
            ]
        return completed

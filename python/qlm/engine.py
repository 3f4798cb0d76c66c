# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""An engine on a thread of its own, and what a request may ask of it."""

from __future__ import annotations

import atexit
import os
import secrets
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Union

from . import _runtime

Prompt = Union[str, Sequence[int]]
Mask = Callable[[int, Sequence[int]], Iterable[int]]


@dataclass(frozen=True)
class SamplingParams:
    """How texts are generated.

    Attributes
    ----------
    n : int
        Continuations of each prompt.
    max_tokens : int
        Tokens to generate at most.
    temperature : float
        0 takes the most likely token; above, tokens are drawn.
    top_k, top_p, min_p : int, float, float
        Draw from the k most likely tokens (0: all), from the fewest that reach
        a probability, from those above a part of the most likely one's.
    repetition_penalty : float
        Above 1 makes tokens of the prompt and the text less likely.
    frequency_penalty, presence_penalty : float
        Subtracted from a token's logit for each time, or once, that the text
        holds it.
    logit_bias : mapping of int to float
        Added to these tokens' logits.
    seed : int, optional
        Of the draws; a random one by default.
    stop : str or sequence of str
        Strings before which a text ends.
    ignore_eos : bool
        Whether to go on past end-of-sequence tokens.
    logprobs : int, optional
        Tell each token's log probability, and those of that many likely ones.
    priority : int
        Higher goes first.
    timeout : float, optional
        Seconds after which a text ends unfinished.
    mask : callable, optional
        ``mask(choice, generated)`` gives the token ids that may come next.
    speculate : bool
        Whether tokens may be proposed ahead; the text is the same either way.
    client, cache_scope : int
        See ``qlm_request_options`` in qlm.h.
    """

    n: int = 1
    max_tokens: int = 16
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    stop: str | Sequence[str] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    priority: int = 0
    timeout: float | None = None
    mask: Mask | None = None
    speculate: bool = True
    client: int = 0
    cache_scope: int = 0

    def request(
        self, tokens: Sequence[int], vocabulary_size: int
    ) -> _runtime.Request:
        """Return the runtime's request to continue a prompt."""
        request = _runtime.Request()
        request.prompt = list(tokens)
        request.max_new_tokens = self.max_tokens
        request.stops = (
            [self.stop] if isinstance(self.stop, str) else list(self.stop)
        )
        request.ignore_eos = self.ignore_eos
        request.logprobs = self.logprobs is not None
        request.top_logprobs = self.logprobs or 0
        request.choices = self.n
        request.priority = self.priority
        request.client = self.client
        request.cache_scope = self.cache_scope
        request.speculate = self.speculate
        seed = secrets.randbits(63) if self.seed is None else self.seed
        request.sample(
            self.temperature, self.top_k, self.top_p, self.min_p,
            self.repetition_penalty, seed,
        )  # fmt: skip
        request.adjust(
            self.frequency_penalty,
            self.presence_penalty,
            list(self.logit_bias.items()),
        )
        if self.timeout is not None:
            _runtime.set_deadline(request, self.timeout)
        if self.mask is not None:
            _runtime.set_mask(request, self.mask, vocabulary_size)
        return request


@dataclass(frozen=True)
class EngineOptions:
    """How an engine uses a package's plan.

    Attributes
    ----------
    max_queue : int
        Requests that may wait; more are refused with :class:`qlm.Busy`.
    kv_pages, max_step_tokens : int
        Pages of the KV cache, and rows of a step; 0 for the plan's.
    share_prefixes : bool
        Keep what prompts and texts computed for those that begin alike.
    speculate : int
        Tokens proposed for a text in one step at most; 0 proposes none.
    adaptive : bool
        Propose fewer tokens, or none for a while, where it doesn't pay.
    draft : path, optional
        Package that proposes; without one, what followed the text's last
        tokens where they occurred before (prompt lookup).
    """

    max_queue: int = 100_000
    kv_pages: int = 0
    max_step_tokens: int = 0
    share_prefixes: bool = True
    speculate: int = 0
    adaptive: bool = True
    draft: str | os.PathLike[str] | None = None


class Engine:
    """A package's engine on a thread of its own.

    The engine's thread runs without the interpreter's lock. A thread of
    Python's hands what happens to each request's sink.

    Parameters
    ----------
    model : qlm._runtime.Model
        A loaded package.
    options : EngineOptions
    draft : qlm._runtime.Model, optional
        The loaded draft.
    """

    def __init__(self, model, options: EngineOptions, draft=None) -> None:
        self._engine = _runtime.start_engine(
            model, options.max_queue, options.kv_pages,
            options.max_step_tokens, options.share_prefixes,
            options.speculate, options.adaptive, draft,
        )  # fmt: skip
        self._lock = threading.Lock()
        self._sinks: dict[int, list] = {}
        self._stopping = False
        self._thread = threading.Thread(
            target=self._dispatch, name="qlm-events", daemon=True
        )
        self._thread.start()
        # A thread that waits in the runtime can't outlive the interpreter.
        atexit.register(self.stop)

    def submit(
        self, request: _runtime.Request, sink: Callable[[_runtime.Event], None]
    ) -> int:
        """Hand over a request.

        Parameters
        ----------
        request : _runtime.Request
        sink : callable
            Called with each event of the request, on the dispatching thread:
            a token, or, with ``is_last``, the end of a choice. It must not
            wait; if it raises, the request is cancelled.

        Returns
        -------
        int
            The request's number.

        Raises
        ------
        qlm.Error
            The request breaks a rule.
        qlm.Busy
            Too many requests wait, or the engine drains.
        """
        with self._lock:  # no event before the sink is known
            number = self._engine.submit(request)
            self._sinks[number] = [sink, request.choices]
        return number

    def cancel(self, number: int) -> None:
        """End a request soon; its last events come in any case."""
        self._engine.cancel(number)

    def drain(self) -> None:
        """Refuse requests from now on; those accepted go on."""
        self._engine.drain()

    @property
    def open(self) -> int:
        """Requests accepted and not finished."""
        return self._engine.open

    @property
    def alive(self) -> bool:
        """Whether events are handed out."""
        return self._thread.is_alive()

    def stats(self) -> dict[str, float]:
        """What the engine holds now and did since it began."""
        return self._engine.stats()

    def stop(self) -> None:
        """Cancel what is left and stop."""
        if self._stopping:
            return
        self._stopping = True
        atexit.unregister(self.stop)
        self._engine.wake()
        self._thread.join()
        self._engine.stop()

    def _dispatch(self) -> None:
        while not self._stopping:
            # Batches of events; the lock of the interpreter is released.
            for event in self._engine.wait(1.0):
                with self._lock:
                    entry = self._sinks[event.request]
                    if event.is_last:
                        entry[1] -= 1
                        if entry[1] == 0:
                            del self._sinks[event.request]
                try:
                    entry[0](event)
                except Exception:  # one reader's fault is nobody else's
                    self._engine.cancel(event.request)

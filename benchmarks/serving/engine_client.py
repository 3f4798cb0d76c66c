# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The engine of qlm.h through ctypes: no package but the standard library.

Works with any Python that finds libqlm.so, so benchmarks run where the binding
is not built.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_char_p, c_double, c_float, c_int32, c_int64
from ctypes import c_size_t, c_uint64, c_void_p
from dataclasses import dataclass, field

FINISH_REASONS = ("stop", "length", "cancelled", "error", "deadline")


class Request(ctypes.Structure):
    """``qlm_request``."""

    _fields_ = [
        ("text", c_char_p), ("tokens", POINTER(c_int32)),
        ("token_count", c_size_t), ("max_new_tokens", c_int64),
        ("temperature", c_float), ("top_k", c_int64), ("top_p", c_float),
        ("min_p", c_float), ("repetition_penalty", c_float),
        ("seed", c_uint64), ("stops", POINTER(c_char_p)),
        ("stop_count", c_size_t), ("ignore_eos", c_int32),
        ("callback", c_void_p), ("user", c_void_p),
    ]  # fmt: skip


class EngineOptions(ctypes.Structure):
    """``qlm_engine_options``."""

    _fields_ = [
        ("struct_size", c_size_t), ("max_queue", c_int64),
        ("kv_pages", c_int64), ("max_step_tokens", c_int64),
        ("share_prefixes", c_int32), ("speculate", c_int64),
        ("adaptive", c_int32), ("draft", c_void_p),
    ]  # fmt: skip


class RequestOptions(ctypes.Structure):
    """``qlm_request_options``."""

    _fields_ = [
        ("struct_size", c_size_t), ("choices", c_int64),
        ("logprobs", c_int32), ("top_logprobs", c_int64),
        ("priority", c_int32), ("client", c_uint64),
        ("cache_scope", c_int64), ("deadline_seconds", c_double),
        ("frequency_penalty", c_float), ("presence_penalty", c_float),
        ("bias_tokens", POINTER(c_int32)), ("bias_values", POINTER(c_float)),
        ("bias_count", c_size_t), ("speculate", c_int32),
        ("mask", c_void_p), ("mask_user", c_void_p),
    ]  # fmt: skip


class Event(ctypes.Structure):
    """``qlm_event``."""

    _fields_ = [
        ("request", c_int64), ("choice", c_int64), ("is_last", c_int32),
        ("token", c_int32), ("text", c_void_p), ("text_length", c_size_t),
        ("logprob", c_float), ("top_tokens", POINTER(c_int32)),
        ("top_logprobs", POINTER(c_float)), ("top_count", c_size_t),
        ("generated_tokens", c_int64), ("seconds", c_double),
        ("finish_reason", c_int32), ("error", c_char_p),
        ("prompt_tokens", c_int64), ("cached_tokens", c_int64),
        ("proposed_tokens", c_int64), ("accepted_tokens", c_int64),
    ]  # fmt: skip


class Stats(ctypes.Structure):
    """``qlm_stats``."""

    _fields_ = [
        ("struct_size", c_size_t), ("waiting", c_int64),
        ("running", c_int64), ("total_pages", c_int64),
        ("used_pages", c_int64), ("idle_pages", c_int64), ("steps", c_int64),
        ("failed_steps", c_int64), ("prompt_tokens", c_int64),
        ("cached_tokens", c_int64), ("generated_tokens", c_int64),
        ("proposed_tokens", c_int64), ("accepted_tokens", c_int64),
        ("preemptions", c_int64), ("evictions", c_int64),
        ("finished", c_int64 * 5), ("kernel_seconds", c_double),
        ("proposal_seconds", c_double), ("step_seconds", c_double),
    ]  # fmt: skip


class Error(Exception):
    """A call that failed, with its message."""


@dataclass
class Text:
    """What became of one choice of a request."""

    tokens: list[int] = field(default_factory=list)
    text: bytes = b""
    seconds: list[float] = field(default_factory=list)
    """From submission to each token."""
    reason: str = ""
    error: str = ""
    cached_tokens: int = 0
    proposed_tokens: int = 0
    accepted_tokens: int = 0


def load_library(path: str) -> ctypes.CDLL:
    """Return libqlm.so with the types of what is called here."""
    library = ctypes.CDLL(path)
    library.qlm_string_free.argtypes = [c_void_p]
    library.qlm_model_free.argtypes = [c_void_p]
    library.qlm_engine_free.argtypes = [c_void_p]
    library.qlm_engine_drain.argtypes = [c_void_p]
    library.qlm_engine_open.argtypes = [c_void_p]
    library.qlm_engine_open.restype = c_int64
    library.qlm_engine_wait.argtypes = [c_void_p, c_double]
    library.qlm_engine_wait.restype = c_void_p
    library.qlm_events_count.argtypes = [c_void_p]
    library.qlm_events_count.restype = c_size_t
    library.qlm_events_get.argtypes = [c_void_p, c_size_t]
    library.qlm_events_get.restype = POINTER(Event)
    library.qlm_events_free.argtypes = [c_void_p]
    library.qlm_cancel.argtypes = [c_void_p, c_int64]
    library.qlm_engine_stats.argtypes = [c_void_p, POINTER(Stats)]
    library.qlm_vocabulary_size.argtypes = [c_void_p]
    library.qlm_vocabulary_size.restype = c_int64
    library.qlm_max_batch.argtypes = [c_void_p]
    library.qlm_max_batch.restype = c_int64
    library.qlm_load.argtypes = [c_char_p, c_void_p, c_void_p, c_void_p]
    library.qlm_engine_start.argtypes = [c_void_p] * 4
    library.qlm_submit.argtypes = [c_void_p] * 5
    return library


class LoadOptions(ctypes.Structure):
    """``qlm_load_options``."""

    _fields_ = [("threads", c_int32), ("verify_weights", c_int32)]


class Model:
    """A loaded package.

    Parameters
    ----------
    library : ctypes.CDLL
    package : str
    threads : int
        That compute; 0 for every core.
    verify : bool
        Whether to compare the weights with their checksum.
    """

    def __init__(self, library: ctypes.CDLL, package: str, threads: int = 0,
                 verify: bool = True) -> None:
        self.library = library
        self.handle = c_void_p()
        options = LoadOptions(threads, verify)
        self.call("qlm_load", package.encode(), ctypes.byref(options),
                  ctypes.byref(self.handle))

    def call(self, name: str, *arguments: object) -> None:
        """Call a function that can fail."""
        error = c_char_p()
        if getattr(self.library, name)(*arguments, ctypes.byref(error)):
            message = (error.value or b"").decode()
            self.library.qlm_string_free(error)
            raise Error(message)

    @property
    def vocabulary_size(self) -> int:
        """Number of entries of the vocabulary."""
        return self.library.qlm_vocabulary_size(self.handle)

    @property
    def max_batch(self) -> int:
        """Most requests that are computed at once."""
        return self.library.qlm_max_batch(self.handle)

    def close(self) -> None:
        """Free it."""
        self.library.qlm_model_free(self.handle)


class Engine:
    """A model's engine; use it in a ``with`` statement.

    Parameters
    ----------
    model : Model
    **options
        Fields of ``qlm_engine_options``; ``draft`` is a Model.
    """

    def __init__(self, model: Model, **options: object) -> None:
        self.model, self.library = model, model.library
        settings = EngineOptions()
        self.library.qlm_engine_options_init(ctypes.byref(settings))
        if options.get("draft") is not None:
            options["draft"] = options["draft"].handle
        for name, value in options.items():
            setattr(settings, name, value)
        self.handle = c_void_p()
        model.call("qlm_engine_start", model.handle, ctypes.byref(settings),
                   ctypes.byref(self.handle))
        self.texts: dict[tuple[int, int], Text] = {}

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.library.qlm_engine_free(self.handle)

    def submit(self, tokens: list[int], more: dict | None = None,
               **fields: object) -> int:
        """Hand over a prompt of token ids; returns the request's number.

        ``fields`` are those of ``qlm_request``, ``more`` those of
        ``qlm_request_options``.
        """
        request, options = Request(), RequestOptions()
        self.library.qlm_request_init(ctypes.byref(request))
        self.library.qlm_request_options_init(ctypes.byref(options))
        array = (c_int32 * len(tokens))(*tokens)
        request.tokens, request.token_count = array, len(tokens)
        for target, values in ((request, fields), (options, more or {})):
            for name, value in values.items():
                assert hasattr(target, name), name
                setattr(target, name, value)
        number = c_int64()
        self.model.call("qlm_submit", self.handle, ctypes.byref(request),
                        ctypes.byref(options), ctypes.byref(number))
        return number.value

    def wait(self, seconds: float = 1.0) -> list[tuple[int, int]]:
        """Take what happened into ``texts``; returns the choices that ended."""
        library, ended = self.library, []
        events = library.qlm_engine_wait(self.handle, seconds)
        for index in range(library.qlm_events_count(events)):
            event = library.qlm_events_get(events, index).contents
            key = event.request, event.choice
            text = self.texts.setdefault(key, Text())
            if event.is_last:
                text.reason = FINISH_REASONS[event.finish_reason]
                text.error = event.error.decode()
                text.cached_tokens = event.cached_tokens
                text.proposed_tokens = event.proposed_tokens
                text.accepted_tokens = event.accepted_tokens
                ended.append(key)
            else:
                text.tokens.append(event.token)
                text.seconds.append(event.seconds)
                text.text += ctypes.string_at(event.text, event.text_length)
        library.qlm_events_free(events)
        return ended

    def finish(self, count: int) -> None:
        """Wait until that many choices have ended."""
        while count:
            count -= len(self.wait())

    def cancel(self, number: int) -> None:
        """End a request soon."""
        self.library.qlm_cancel(self.handle, number)

    def stats(self) -> Stats:
        """What the engine holds and did."""
        stats = Stats(struct_size=ctypes.sizeof(Stats))
        self.library.qlm_engine_stats(self.handle, ctypes.byref(stats))
        return stats

# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The runtime's C interface through ctypes: a request has its own options."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_char_p, c_float, c_int32, c_int64, c_size_t
from ctypes import c_uint64, c_void_p
from pathlib import Path
from typing import Sequence

import toolchain

LIBRARY = toolchain.BUILD / "lib" / "libqlm.so"
FINISH_REASONS = ("stop", "length", "cancelled", "error")


class Request(ctypes.Structure):
    """``qlm_request``, field by field."""

    _fields_ = [
        ("text", c_char_p),
        ("tokens", POINTER(c_int32)),
        ("token_count", c_size_t),
        ("max_new_tokens", c_int64),
        ("temperature", c_float),
        ("top_k", c_int64),
        ("top_p", c_float),
        ("min_p", c_float),
        ("repetition_penalty", c_float),
        ("seed", c_uint64),
        ("stops", POINTER(c_char_p)),
        ("stop_count", c_size_t),
        ("ignore_eos", c_int32),
        ("callback", c_void_p),
        ("user", c_void_p),
    ]


def load_library() -> ctypes.CDLL:
    """The shared library, with the types of what is called here."""
    library = ctypes.CDLL(str(LIBRARY))
    library.qlm_string_free.argtypes = [c_void_p]
    library.qlm_model_free.argtypes = [c_void_p]
    library.qlm_results_free.argtypes = [c_void_p]
    library.qlm_result_text.argtypes = [c_void_p, c_size_t]
    library.qlm_result_text.restype = c_char_p
    library.qlm_result_tokens.argtypes = [c_void_p, c_size_t, c_void_p]
    library.qlm_result_tokens.restype = POINTER(c_int32)
    library.qlm_result_finish_reason.argtypes = [c_void_p, c_size_t]
    library.qlm_load.argtypes = [c_char_p, c_void_p, c_void_p, c_void_p]
    library.qlm_generate.argtypes = [
        c_void_p, c_void_p, c_size_t, c_void_p, c_void_p,
    ]  # fmt: skip
    return library


class Error(Exception):
    """A call that failed, with its message."""


class Model:
    """A loaded package; use it in a ``with`` statement."""

    def __init__(self, package: Path) -> None:
        self.library = load_library()
        self.model = c_void_p()
        path = str(package).encode()
        self._call("qlm_load", path, None, ctypes.byref(self.model))

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.library.qlm_model_free(self.model)

    def _call(self, name: str, *arguments: object) -> None:
        error = c_char_p()
        function = getattr(self.library, name)
        if function(*arguments, ctypes.byref(error)):
            message = (error.value or b"").decode()
            self.library.qlm_string_free(error)
            raise Error(message)

    def _request(self, options: dict) -> Request:
        request = Request()
        self.library.qlm_request_init(ctypes.byref(request))
        options = dict(options)
        tokens = [int(token) for token in options.pop("tokens")]
        request.tokens = (c_int32 * len(tokens))(*tokens)
        request.token_count = len(tokens)
        stops = [stop.encode() for stop in options.pop("stops", ())]
        request.stops = (c_char_p * len(stops))(*stops)
        request.stop_count = len(stops)
        for name, value in options.items():
            assert hasattr(request, name), name
            setattr(request, name, value)
        return request

    def generate(self, requests: Sequence[dict]) -> list[dict]:
        """Continues token ids in one batch.

        Parameters
        ----------
        requests : sequence of dict
            ``tokens``, ``stops`` and the other fields of ``qlm_request``.

        Returns
        -------
        list of dict
            ``text``, ``tokens`` and ``finish_reason`` of each.
        """
        made = [self._request(options) for options in requests]
        array, results = (Request * len(made))(*made), c_void_p()
        self._call(
            "qlm_generate", self.model, array, len(made), ctypes.byref(results)
        )
        answers = []
        for index in range(len(made)):
            count = c_size_t()
            tokens = self.library.qlm_result_tokens(
                results, index, ctypes.byref(count)
            )
            reason = self.library.qlm_result_finish_reason(results, index)
            text = self.library.qlm_result_text(results, index)
            answers.append({
                "text": text.decode(),
                "tokens": tokens[: count.value],
                "finish_reason": FINISH_REASONS[reason],
            })  # fmt: skip
        self.library.qlm_results_free(results)
        return answers

# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Loads packages and generates text with them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Union

from . import _runtime

if TYPE_CHECKING:
    import numpy

Prompt = Union[str, Sequence[int]]


@dataclass(frozen=True)
class Result:
    """A finished text.

    Attributes
    ----------
    text : str
        What was generated, without the prompt, stop strings and special
        tokens.
    tokens : list of int
        The generated token ids, an end-of-sequence token among them.
    finish_reason : str
        ``"stop"`` (a stop string or end of sequence), ``"length"``
        (``max_new_tokens`` or the context's end) or ``"cancelled"``.
    prompt_tokens : int
        Number of tokens of the prompt.
    logprobs : list of float
        Logarithm of each token's probability in the model's own distribution;
        empty unless asked for.
    """

    text: str
    tokens: list[int]
    finish_reason: str
    prompt_tokens: int
    logprobs: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, result: _runtime.Result) -> Result:
        """Copy what the runtime returned."""
        return cls(
            text=result.text,
            tokens=result.tokens,
            finish_reason=result.finish_reason,
            prompt_tokens=result.prompt_tokens,
            logprobs=result.logprobs,
        )


class Model:
    """A loaded package; made by :func:`load`.

    Calls from several threads share steps and run without the interpreter's
    lock.
    """

    def __init__(self, path: str, threads: int, verify: bool) -> None:
        self._model = _runtime.load(path, threads, verify)
        if self._model.note:
            warnings.warn(self._model.note, stacklevel=3)

    @property
    def vocabulary_size(self) -> int:
        """Number of entries of the vocabulary."""
        return self._model.vocabulary_size

    @property
    def max_context(self) -> int:
        """Most tokens of a prompt and its continuation together."""
        return self._model.max_context

    @property
    def max_batch(self) -> int:
        """Most prompts that are computed at once; more wait their turn."""
        return self._model.max_batch

    @property
    def peak_bytes(self) -> int:
        """Resident memory in bytes that the model takes at most."""
        return self._model.peak_bytes

    @property
    def threads(self) -> int:
        """Threads that compute."""
        return self._model.threads

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Return the token ids of a text.

        Parameters
        ----------
        text : str
            Any text.
        add_special_tokens : bool
            Whether to add what the tokenizer adds to a prompt, such as the
            token that begins a sequence.

        Returns
        -------
        list of int
        """
        return self._model.encode(text, add_special_tokens)

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of token ids, special tokens left out."""
        return self._model.decode(list(tokens))

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        seed: int = 0,
        stop: str | Sequence[str] = (),
        ignore_eos: bool = False,
        logprobs: bool = False,
        on_token: Callable[[int, int, str], bool | None] | None = None,
    ) -> list[Result]:
        """Continue prompts, batched; a text doesn't depend on its neighbours.

        Parameters
        ----------
        prompts : str, or sequence of str or of token id sequences
            The texts to continue. One string is a list of one.
        max_new_tokens : int
            Tokens to generate for each prompt at most.
        temperature : float
            0 takes the most likely token; above, tokens are drawn.
        top_k : int
            Draw from the k most likely tokens; 0 for all.
        top_p : float
            Draw from the fewest tokens whose probabilities reach this.
        min_p : float
            Drop tokens below this part of the most likely one's probability.
        repetition_penalty : float
            Above 1 makes tokens of the prompt and the text less likely.
        seed : int
            Of the draws, from 0 to 2**64 - 1.
        stop : str or sequence of str
            Strings before which a text ends.
        ignore_eos : bool
            Whether to go on past end-of-sequence tokens.
        logprobs : bool
            Whether results hold each token's log probability.
        on_token : callable, optional
            Called after each token as ``on_token(index, token, text)`` with the
            prompt's index and the text that is settled now; returning False
            ends that prompt's text.

        Returns
        -------
        list of Result
            One for each prompt, in order.

        Raises
        ------
        qlm.Error
            A prompt is empty or longer than the context, or an option is out
            of range.

        Examples
        --------
        >>> model.generate(["import os"], max_new_tokens=4)  # doctest: +SKIP
        """
        if isinstance(prompts, str):
            prompts = [prompts]
        stops = [stop] if isinstance(stop, str) else list(stop)
        requests = []
        for prompt in prompts:
            request = _runtime.Request()
            request.prompt = (
                self.encode(prompt) if isinstance(prompt, str) else list(prompt)
            )
            request.max_new_tokens = max_new_tokens
            request.stops = stops
            request.ignore_eos = ignore_eos
            request.logprobs = logprobs
            request.sample(
                temperature, top_k, top_p, min_p, repetition_penalty, seed
            )
            requests.append(request)
        return [
            Result.of(result)
            for result in self._model.generate(requests, on_token)
        ]

    def logits(self, tokens: Sequence[int], *, chunk: int = 0) -> numpy.ndarray:
        """Return the logits after each token.

        Parameters
        ----------
        tokens : sequence of int
            Token ids of one sequence.
        chunk : int
            Tokens of a step; 0 for the most that the package allows.

        Returns
        -------
        numpy.ndarray
            float32 ``[tokens, vocabulary_size]``; row ``t`` predicts the token
            after ``tokens[t]``.

        Raises
        ------
        qlm.Error
            There are no tokens, more than the context, or one is outside the
            vocabulary.
        """
        return self._model.logits(list(tokens), chunk)


def load(
    package: str | os.PathLike[str],
    threads: int | None = None,
    *,
    verify: bool = True,
) -> Model:
    """Load a package that the compiler wrote.

    Parameters
    ----------
    package : path
        The package's folder.
    threads : int, optional
        Threads that compute; every core by default.
    verify : bool
        Whether to compare the weights with their checksum.

    Returns
    -------
    Model

    Raises
    ------
    qlm.Error
        The package is missing, damaged, of another version, or compiled for
        another processor.
    """
    return Model(os.fspath(package), threads or 0, verify)

# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Turns generated texts into answers and streams of events."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence

from pydantic import BaseModel

from . import protocol
from .generation import Choice, Deadline, Failed, Generation, Token
from .limits import ApiError

Decode = Callable[[Sequence[int]], str]


def usage_of(generation: Generation) -> protocol.Usage:
    """Return the tokens read and written."""
    written = generation.completion_tokens
    return protocol.Usage(
        prompt_tokens=generation.prompt_tokens,
        completion_tokens=written,
        total_tokens=generation.prompt_tokens + written,
        prompt_tokens_details=protocol.PromptDetails(
            cached_tokens=generation.cached_tokens
        ),
    )


class Answers:
    """Makes the answers of one request.

    Parameters
    ----------
    model : str
        The model's name.
    decode : callable
        Gives the text of token ids.
    usage_at_end : bool
        Whether a stream ends with usage counts.
    """

    prefix = ""

    def __init__(self, model: str, decode: Decode, usage_at_end: bool) -> None:
        self.head = {
            "id": f"{self.prefix}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model,
        }
        self.decode = decode
        self.usage_at_end = usage_at_end

    def opening(self, choices: list[Choice]) -> list[BaseModel]:
        """Events before the first token."""
        return []

    def part(self, choice: Choice, token: Token | None) -> BaseModel | None:
        """The event for a token, or for the end of a choice."""
        raise NotImplementedError

    def whole(self, generation: Generation) -> BaseModel:
        """The answer when all is done."""
        raise NotImplementedError

    def last(self, usage: protocol.Usage) -> BaseModel:
        """The event with the usage counts."""
        raise NotImplementedError


class CompletionAnswers(Answers):
    """Answers of /v1/completions.

    Parameters
    ----------
    echoes : list of str
        The prompts' texts, to be put before each text; empty for none.
    n : int
        Texts of each prompt.
    logprobs : int or None
        Likely tokens to tell.
    """

    prefix = "cmpl"

    def __init__(self, *head, echoes: list[str], n: int, logprobs: int | None):
        super().__init__(*head)
        self.echoes = echoes
        self.n = n
        self.logprobs = logprobs
        self.offsets: dict[int, int] = {}

    def _echo(self, choice: Choice) -> str:
        return self.echoes[choice.index // self.n] if self.echoes else ""

    def _logprobs(self, choice: Choice, tokens: list[Token]):
        if self.logprobs is None:
            return None
        result = protocol.CompletionLogprobs(
            tokens=[], token_logprobs=[], top_logprobs=[], text_offset=[]
        )
        offset = self.offsets.get(choice.index, len(self._echo(choice)))
        for token in tokens:
            result.tokens.append(self.decode([token.id]))
            result.token_logprobs.append(token.logprob)
            result.top_logprobs.append(
                {self.decode([other]): value for other, value in token.top}
            )
            result.text_offset.append(offset)
            offset += len(token.text)
        self.offsets[choice.index] = offset
        return result

    def _choice(self, choice: Choice, text: str, tokens: list[Token]):
        return protocol.CompletionChoice(
            index=choice.index,
            text=text,
            logprobs=self._logprobs(choice, tokens),
            finish_reason=choice.finish_reason,
        )

    def opening(self, choices):
        if not self.echoes:
            return []
        return [
            protocol.Completion(
                **self.head,
                choices=[self._choice(choice, self._echo(choice), [])],
            )
            for choice in choices
        ]

    def part(self, choice, token):
        if token is not None and not token.text and self.logprobs is None:
            return None
        text, tokens = ("", []) if token is None else (token.text, [token])
        return protocol.Completion(
            **self.head, choices=[self._choice(choice, text, tokens)]
        )

    def whole(self, generation):
        return protocol.Completion(
            **self.head,
            choices=[
                self._choice(
                    choice, self._echo(choice) + choice.text, choice.tokens
                )
                for choice in generation.choices
            ],
            usage=usage_of(generation),
        )

    def last(self, usage):
        return protocol.Completion(**self.head, choices=[], usage=usage)


class ChatAnswers(Answers):
    """Answers of /v1/chat/completions.

    Parameters
    ----------
    logprobs : bool
        Whether log probabilities are told.
    """

    prefix = "chatcmpl"

    def __init__(self, *head, logprobs: bool):
        super().__init__(*head)
        self.logprobs = logprobs

    def _token(self, kind, token: int, logprob: float, **more):
        text = self.decode([token])
        return kind(
            token=text, logprob=logprob, bytes=list(text.encode()), **more
        )

    def _logprobs(self, tokens: list[Token]):
        if not self.logprobs:
            return None
        return protocol.ChatLogprobs(
            content=[
                self._token(
                    protocol.TokenLogprob, token.id, token.logprob,
                    top_logprobs=[
                        self._token(protocol.TopLogprob, *other)
                        for other in token.top
                    ],
                )
                for token in tokens
            ]
        )  # fmt: skip

    def _chunk(self, choice: Choice, delta: protocol.Delta, tokens: list[Token]):
        return protocol.ChatChunk(
            **self.head,
            choices=[
                protocol.ChatChunkChoice(
                    index=choice.index,
                    delta=delta,
                    logprobs=self._logprobs(tokens) if tokens else None,
                    finish_reason=choice.finish_reason,
                )
            ],
        )

    def opening(self, choices):
        first = protocol.Delta(role="assistant", content="")
        return [self._chunk(choice, first, []) for choice in choices]

    def part(self, choice, token):
        if token is None:
            return self._chunk(choice, protocol.Delta(), [])
        if not token.text and not self.logprobs:
            return None
        return self._chunk(choice, protocol.Delta(content=token.text), [token])

    def whole(self, generation):
        return protocol.ChatCompletion(
            **self.head,
            choices=[
                protocol.ChatChoice(
                    index=choice.index,
                    message=protocol.AnswerMessage(content=choice.text),
                    logprobs=self._logprobs(choice.tokens),
                    finish_reason=choice.finish_reason,
                )
                for choice in generation.choices
            ],
            usage=usage_of(generation),
        )

    def last(self, usage):
        return protocol.ChatChunk(**self.head, choices=[], usage=usage)


def failure(error: Exception) -> ApiError:
    """Return what a client is told of a failure after acceptance."""
    if isinstance(error, Deadline):
        return ApiError(504, "the request's time is over", code="timeout")
    return ApiError(500, f"generation failed: {error}")


def _event(body: str) -> bytes:
    return b"data: " + body.encode() + b"\n\n"


async def stream(
    generation: Generation, answers: Answers
) -> AsyncIterator[bytes]:
    """Yield server-sent events; the last is ``[DONE]`` or an error."""
    import json

    def dump(model: BaseModel) -> bytes:
        # finish_reason is null until the end, other fields are left out.
        return _event(model.model_dump_json(exclude_unset=False))

    try:
        for event in answers.opening(generation.choices):
            yield dump(event)
        async for choice, token in generation.steps():
            event = answers.part(choice, token)
            if event is not None:
                yield dump(event)
    except (Deadline, Failed) as error:
        yield _event(json.dumps(failure(error).body()))
        return
    finally:
        generation.cancel()
    if answers.usage_at_end:
        yield dump(answers.last(usage_of(generation)))
    yield _event("[DONE]")

# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Bad input of the server: what it refuses, and how."""

from __future__ import annotations

import pytest

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")
pytest.importorskip("qlm")
serving = pytest.importorskip("serving")

PROMPT, ask, message = serving.PROMPT, serving.ask, serving.message


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'"text"', b'{"model": "tiny"}',
     b'{"model": "tiny", "prompt": "\xff\xfe"}', b"\x00\x01",
     b'{"model": "tiny", "prompt": "\\ud800"}', b"[" * 100_000,
     b'{"model": "tiny", "prompt": "a", "temperature": NaN}',
     b'{"model": "tiny", "prompt": "a", "temperature": 1e999}'],
)  # fmt: skip
def test_malformed_bodies(server, body):
    answer = httpx.post(
        server.url + "/v1/completions", content=body,
        headers={"content-type": "application/json"},
        timeout=serving.PATIENCE,
    )  # fmt: skip
    assert answer.status_code == 400
    assert message(answer)


@pytest.mark.parametrize(
    "field, value",
    [("max_tokens", -1), ("max_tokens", 10**30), ("max_tokens", "4"),
     ("max_tokens", 2.5), ("n", 0), ("n", 10**6), ("temperature", -0.1),
     ("temperature", 1e308), ("top_p", -1), ("top_p", 2), ("seed", 2**64),
     ("stop", ""), ("stop", [""]), ("stop", ["a"] * 17), ("logprobs", 21),
     ("logprobs", -1), ("logit_bias", {"a": 1}), ("logit_bias", {"-1": 1}),
     ("logit_bias", {"4096": 1}), ("logit_bias", {"1": 101}),
     ("frequency_penalty", 3), ("presence_penalty", -3), ("timeout", 0),
     ("timeout", -5), ("priority", 10**10), ("top_k", -1), ("min_p", 2),
     ("repetition_penalty", 0), ("prompt", []), ("prompt", [[]]),
     ("prompt", [-1]), ("prompt", [4096]), ("prompt", [2**40]),
     ("prompt", ["a", 1]), ("prompt", ["a"] * 65), ("prompt", ""),
     ("tools", []), ("best_of", 3), ("unknown", 1)],
)  # fmt: skip
def test_values_out_of_range(server, field, value):
    if field == "prompt" and value == "":
        # The tokenizer adds the token that begins a text.
        assert ask(server, prompt="").status_code == 200
        return
    answer = ask(server, **{field: value})
    assert answer.status_code == 400, answer.text
    assert message(answer)


def test_prompts_at_the_contexts_end(server):
    assert ask(server, prompt=[5] * 256).status_code == 200
    answer = ask(server, prompt=[5] * 255, max_tokens=50)
    assert answer.json()["usage"]["completion_tokens"] == 1
    refused = ask(server, prompt=[5] * 257)
    assert refused.status_code == 400
    assert message(refused) == (
        "the prompt has 257 tokens, at most 256 are allowed"
    )
    assert refused.json()["error"]["code"] == "context_length_exceeded"
    long = ask(server, "chat/completions",
               messages=[{"role": "user", "content": "x y z " * 500}])
    assert long.status_code == 400


def test_unknown_model_route_and_method(server):
    answer = ask(server, model="gpt-4")
    assert answer.status_code == 404
    assert message(answer) == (
        "the model 'gpt-4' does not exist, 'tiny' is served"
    )
    assert serving.get(server.url + "/v1/nothing").status_code == 404
    assert serving.get(server.url + "/v1/completions").status_code == 405


def test_bodies_that_are_too_large(server):
    answer = ask(server, prompt="x" * (2 << 20))
    assert answer.status_code == 413
    assert message(answer) == "the body has more than 1048576 bytes"

    def chunks():
        for _ in range(40):
            yield b" " * (1 << 16)

    try:
        answer = httpx.post(server.url + "/v1/completions", content=chunks(),
                            timeout=serving.PATIENCE)
        assert answer.status_code == 413
    except httpx.TransportError:
        pass  # the connection is closed while it still sends
    assert ask(server).status_code == 200


def test_roles_that_the_template_refuses(server):
    answer = ask(server, "chat/completions",
                 messages=[{"role": "developer", "content": "x"}])
    assert answer.status_code == 400
    assert message(answer) == "the chat template fails: no role developer"


def test_deadline(server):
    answer = ask(server, max_tokens=240, timeout=1e-6, ignore_eos=True)
    assert answer.status_code == 504
    assert message(answer) == "the request's time is over"
    with httpx.stream(
        "POST", server.url + "/v1/completions",
        json={"model": "tiny", "prompt": PROMPT, "stream": True,
              "timeout": 1e-6}, timeout=serving.PATIENCE,
    ) as stream:  # fmt: skip
        lines = [line for line in stream.iter_lines() if line]
    assert "timeout_error" in lines[-1]

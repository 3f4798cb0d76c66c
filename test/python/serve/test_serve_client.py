# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The server and the official client; states and metrics."""

from __future__ import annotations

import pytest

httpx = pytest.importorskip("httpx")
openai = pytest.importorskip("openai")
pytest.importorskip("fastapi")
qlm = pytest.importorskip("qlm")
serving = pytest.importorskip("serving")

PROMPT, ask = serving.PROMPT, serving.ask


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(
        base_url=f"{server.url}/v1", api_key="none", timeout=serving.PATIENCE
    )


# The official client


def test_completion(client, expected):
    answer = client.completions.create(
        model="tiny", prompt=PROMPT, max_tokens=24, temperature=0
    )
    assert answer.choices[0].text == expected.text
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 24
    assert answer.usage.prompt_tokens == expected.prompt_tokens
    assert answer.usage.total_tokens == 24 + expected.prompt_tokens


def test_completion_stream(client, expected):
    parts = list(
        client.completions.create(
            model="tiny", prompt=PROMPT, max_tokens=24, temperature=0,
            stream=True, stream_options={"include_usage": True},
        )
    )  # fmt: skip
    text = "".join(c.text for part in parts for c in part.choices)
    assert text == expected.text
    assert parts[-1].usage.completion_tokens == 24
    assert [c.finish_reason for p in parts for c in p.choices][-1] == "length"
    assert len(parts) > 10, "it comes in pieces"


def test_several_prompts_and_choices(client, expected):
    answer = client.completions.create(
        model="tiny", prompt=[PROMPT, "import os\n"], n=2, max_tokens=8,
        temperature=0.9, seed=5,
    )  # fmt: skip
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    again = client.completions.create(
        model="tiny", prompt=PROMPT, n=2, max_tokens=8, temperature=0.9, seed=5
    )
    assert [c.text for c in again.choices] == [
        c.text for c in answer.choices[:2]
    ]


def test_token_ids_echo_and_logprobs(client, package, expected):
    model = qlm.load(package)
    tokens = model.encode(PROMPT)
    answer = client.completions.create(
        model="tiny", prompt=tokens, max_tokens=4, temperature=0, logprobs=3,
        echo=True,
    )  # fmt: skip
    choice = answer.choices[0]
    assert choice.text.startswith(PROMPT)
    result = model.generate([tokens], max_new_tokens=4, logprobs=True)[0]
    assert choice.logprobs.token_logprobs == pytest.approx(
        result.logprobs, abs=1e-6
    )
    for value, top in zip(
        choice.logprobs.token_logprobs, choice.logprobs.top_logprobs,
        strict=True,
    ):  # fmt: skip
        assert max(top.values()) == value
    for token, place in zip(
        choice.logprobs.tokens, choice.logprobs.text_offset, strict=True
    ):
        assert choice.text[place : place + len(token)] == token


def test_chat(client, package):
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "hello"}]},
    ]
    answer = client.chat.completions.create(
        model="tiny", messages=messages, max_tokens=12, temperature=0,
        logprobs=True, top_logprobs=2,
    )  # fmt: skip
    model = qlm.load(package)
    prompt = "<|begin_of_text|># system: be brief\n# user: hello\n# assistant:"
    result = model.generate(
        [model.encode(prompt, add_special_tokens=False)], max_new_tokens=12
    )[0]
    choice = answer.choices[0]
    assert choice.message.content == result.text
    assert choice.message.role == "assistant"
    assert len(choice.logprobs.content) == 12
    assert len(choice.logprobs.content[0].top_logprobs) == 2
    parts = list(
        client.chat.completions.create(
            model="tiny", messages=messages, max_tokens=12, temperature=0,
            stream=True,
        )
    )  # fmt: skip
    assert parts[0].choices[0].delta.role == "assistant"
    text = "".join(part.choices[0].delta.content or "" for part in parts)
    assert text == result.text


def test_models(client):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError, match="gpt-4"):
        client.models.retrieve("gpt-4")


def test_stop_bias_and_penalties(client, expected):
    stop = expected.text[8:12]
    answer = client.completions.create(
        model="tiny", prompt=PROMPT, max_tokens=24, temperature=0, stop=[stop]
    )
    assert answer.choices[0].text == expected.text.split(stop)[0]
    assert answer.choices[0].finish_reason == "stop"
    forced = client.completions.create(
        model="tiny", prompt=PROMPT, max_tokens=3, temperature=0,
        logit_bias={"77": 100}, logprobs=0,
    )  # fmt: skip
    assert len(set(forced.choices[0].logprobs.tokens)) == 1
    penalized = client.completions.create(
        model="tiny", prompt=PROMPT, max_tokens=24, temperature=0,
        frequency_penalty=2, presence_penalty=2,
    )  # fmt: skip
    assert penalized.choices[0].text != expected.text


# States and metrics


def test_states(server):
    assert serving.get(server.url + "/health").json() == {"status": "ok"}
    assert serving.get(server.url + "/ready").json() == {"status": "ready"}


def test_metrics_count(server):
    names = ("qlm_generated_tokens", "qlm_prompt_tokens",
             "qlm_prompt_tokens_cached")  # fmt: skip
    before = {name: server.metric(name) for name in names}
    prompt = " ".join(f"word{i}" for i in range(20))
    for _ in range(2):
        assert ask(server, prompt=prompt, max_tokens=6).status_code == 200
    after = {name: server.metric(name) for name in names}
    assert after["qlm_generated_tokens"] - before["qlm_generated_tokens"] == 12
    cached = after["qlm_prompt_tokens_cached"] - before[
        "qlm_prompt_tokens_cached"
    ]
    assert cached >= 16 and cached % 16 == 0
    text = serving.get(server.url + "/metrics").text
    for name in (
        "qlm_requests_waiting", "qlm_requests_running", "qlm_kv_pages_used",
        "qlm_time_to_first_token_seconds_bucket",
        "qlm_inter_token_seconds_bucket", "qlm_speculation_accepted_tokens",
        'qlm_http_requests_total{route="/v1/completions",status="200"}',
    ):  # fmt: skip
        assert name in text, name
    assert server.metric("qlm_kv_pages_used") == 0

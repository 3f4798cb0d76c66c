# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The server: the official client, every route, faults and bad input."""

from __future__ import annotations

import concurrent.futures
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import make_references
import pytest
import toolchain

httpx = pytest.importorskip("httpx")
openai = pytest.importorskip("openai")
pytest.importorskip("fastapi")
qlm = pytest.importorskip("qlm")
serving = pytest.importorskip("serving")
soak_serve = pytest.importorskip("soak_serve")

PROMPT = "def main():\n"


@pytest.fixture(scope="module")
def package(packages):
    return packages.compile("tiny-llama", "--weights=int8", "--max-context=256")


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    path = tmp_path_factory.mktemp("template") / "chat.jinja"
    path.write_text(serving.TEMPLATE)
    return path


@pytest.fixture(scope="module")
def server(package, template):
    with serving.Server(
        package, "--name=tiny", f"--chat-template={template}",
        "--speculate=4", "--timeout=60",
    ) as running:  # fmt: skip
        yield running


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")


@pytest.fixture(scope="module")
def expected(package):
    """Greedy text of the prompt, by the tool."""
    model = qlm.load(package)
    return model.generate(PROMPT, max_new_tokens=24)[0]


def ask(server, path="completions", **body):
    """Posts a request; defaults make it a small one."""
    defaults = {"model": "tiny", "max_tokens": 4, "temperature": 0}
    if path == "completions":
        defaults["prompt"] = PROMPT
    else:
        defaults["messages"] = [{"role": "user", "content": "hello"}]
    return httpx.post(
        f"{server.url}/v1/{path}", json=defaults | body, timeout=60
    )


def message(answer) -> str:
    """The message of an error, which must have OpenAI's form."""
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error["message"]


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
    assert httpx.get(server.url + "/health").json() == {"status": "ok"}
    assert httpx.get(server.url + "/ready").json() == {"status": "ready"}


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
    text = httpx.get(server.url + "/metrics").text
    for name in (
        "qlm_requests_waiting", "qlm_requests_running", "qlm_kv_pages_used",
        "qlm_time_to_first_token_seconds_bucket",
        "qlm_inter_token_seconds_bucket", "qlm_speculation_accepted_tokens",
        'qlm_http_requests_total{route="/v1/completions",status="200"}',
    ):  # fmt: skip
        assert name in text, name
    assert server.metric("qlm_kv_pages_used") == 0


# Bad input


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
    assert httpx.get(server.url + "/v1/nothing").status_code == 404
    assert httpx.get(server.url + "/v1/completions").status_code == 405


def test_bodies_that_are_too_large(server):
    answer = ask(server, prompt="x" * (2 << 20))
    assert answer.status_code == 413
    assert message(answer) == "the body has more than 1048576 bytes"

    def chunks():
        for _ in range(40):
            yield b" " * (1 << 16)

    try:
        answer = httpx.post(server.url + "/v1/completions", content=chunks())
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
              "timeout": 1e-6},
    ) as stream:  # fmt: skip
        lines = [line for line in stream.iter_lines() if line]
    assert "timeout_error" in lines[-1]


# Faults


def wait_for_rest(server):
    """Waits until the engine has nothing to do; nothing may be left over."""
    for _ in range(600):
        if server.metric("qlm_requests_open") == 0:
            break
        time.sleep(0.05)
    assert server.metric("qlm_requests_open") == 0
    assert server.metric("qlm_kv_pages_used") == 0


def test_client_gone_in_the_middle_of_a_stream(server):
    body = {"model": "tiny", "prompt": PROMPT, "max_tokens": 240,
            "stream": True, "ignore_eos": True, "n": 4}  # fmt: skip
    for _ in range(4):
        with httpx.stream(
            "POST", server.url + "/v1/completions", json=body
        ) as stream:
            next(stream.iter_lines())
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(server.url + "/v1/completions",
                   json=body | {"stream": False, "n": 32}, timeout=0.2)
    wait_for_rest(server)
    text = httpx.get(server.url + "/metrics").text
    assert 'qlm_texts_finished_total{reason="cancelled"}' in text


def test_slow_readers_hold_up_nobody(server, expected):
    host, port = server.url.removeprefix("http://").split(":")
    body = json.dumps({"model": "tiny", "prompt": PROMPT, "stream": True,
                       "max_tokens": 200, "ignore_eos": True, "logprobs": 20,
                       "n": 4}).encode()  # fmt: skip
    head = (f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: "
            f"application/json\r\nContent-Length: {len(body)}\r\n\r\n")
    slow = []
    for _ in range(5):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((host, int(port)))
        connection.sendall(head.encode() + body)
        slow.append(connection)  # and never read
    answer = ask(server, max_tokens=24)
    assert answer.json()["choices"][0]["text"] == expected.text
    for connection in slow:
        connection.close()
    wait_for_rest(server)


def test_a_thousand_at_once(server, expected):
    async def all_of_them():
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(
            base_url=server.url, limits=limits, timeout=120
        ) as client:
            return await asyncio.gather(*[
                client.post("/v1/completions", json={
                    "model": "tiny", "prompt": PROMPT, "temperature": 0,
                    "max_tokens": 1 + index % 3})
                for index in range(1000)
            ])  # fmt: skip

    import asyncio

    for index, answer in enumerate(asyncio.run(all_of_them())):
        assert answer.status_code == 200, answer.text
        text = answer.json()["choices"][0]["text"]
        assert expected.text.startswith(text)
        assert answer.json()["usage"]["completion_tokens"] == 1 + index % 3
    wait_for_rest(server)


def test_mixed_clients_get_their_own_texts(server):
    """No cross-talk: many at once get what each gets alone."""
    bodies = [
        {"prompt": f"def f{index}(", "max_tokens": 5 + index % 7,
         "temperature": index % 2, "seed": index}
        for index in range(12)
    ]  # fmt: skip
    alone = [ask(server, **body).json()["choices"] for body in bodies]
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        together = list(
            pool.map(lambda body: ask(server, **body).json()["choices"],
                     bodies * 2)
        )  # fmt: skip
    assert together == alone * 2


@pytest.fixture(scope="module")
def guarded(package, tmp_path_factory):
    """A server with a key, a tiny queue, a looping template, few pages."""
    template = tmp_path_factory.mktemp("loop") / "loop.jinja"
    template.write_text(
        "{% for a in range(90000) %}{% for b in range(90000) %}"
        "{% endfor %}{% endfor %}"
    )
    with serving.Server(
        package, "--name=tiny", f"--chat-template={template}",
        "--api-key=secret", "--api-key=other", "--max-queue=2",
        "--kv-pages=17", "--isolate-prefixes",
    ) as running:  # fmt: skip
        yield running


def guarded_client(server, key="secret"):
    return openai.OpenAI(
        base_url=f"{server.url}/v1", api_key=key, max_retries=0
    )


def test_keys(guarded):
    with pytest.raises(openai.AuthenticationError, match="wrong or missing"):
        guarded_client(guarded, "wrong").models.list()
    assert httpx.get(guarded.url + "/v1/models").status_code == 401
    assert httpx.get(
        guarded.url + "/v1/models", headers={"authorization": "Basic secret"}
    ).status_code == 401
    assert httpx.get(guarded.url + "/health").status_code == 200
    for key in ("secret", "other"):
        assert guarded_client(guarded, key).models.list()


def test_prefixes_are_isolated_by_key(guarded):
    prompt = [7] * 40
    cached = []
    for key in ("secret", "secret", "other"):
        usage = guarded_client(guarded, key).completions.create(
            model="tiny", prompt=prompt, max_tokens=1
        ).usage
        cached.append(usage.prompt_tokens_details.cached_tokens)
    assert cached == [0, 32, 0]


def test_a_template_that_loops(guarded):
    client = guarded_client(guarded)
    begin = time.monotonic()
    with pytest.raises(openai.BadRequestError, match="more than 2 seconds"):
        client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "x"}]
        )
    assert time.monotonic() - begin < 20
    assert client.models.list()


def test_a_full_queue_is_told(guarded):
    def post(_):
        return httpx.post(
            guarded.url + "/v1/completions", timeout=120,
            headers={"authorization": "Bearer secret"},
            json={"model": "tiny", "prompt": PROMPT, "max_tokens": 150,
                  "ignore_eos": True},
        )  # fmt: skip

    with concurrent.futures.ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(post, range(40)))
    statuses = {answer.status_code for answer in answers}
    assert statuses == {200, 429}
    refused = next(a for a in answers if a.status_code == 429)
    assert "queue is full" in message(refused)
    assert refused.headers["retry-after"] == "1"
    # 8 at once with 160 tokens each need far more than 17 pages.
    text = httpx.get(guarded.url + "/metrics").text
    assert "qlm_preemptions_total 0.0" not in text
    assert 'qlm_texts_finished_total{reason="error"} 0.0' in text
    texts = {
        answer.json()["choices"][0]["text"]
        for answer in answers
        if answer.status_code == 200
    }
    assert len(texts) >= 1


def test_sigterm_under_load_answers_what_was_accepted(package, expected):
    with serving.Server(package, "--name=tiny") as server:
        answers: list = [None] * 12
        accepted = threading.Barrier(13)

        def work(index):
            body = {"model": "tiny", "prompt": PROMPT, "temperature": 0,
                    "max_tokens": 120, "ignore_eos": True,
                    "stream": True}  # fmt: skip
            with httpx.stream(
                "POST", server.url + "/v1/completions", json=body, timeout=120
            ) as stream:
                # The head of the answer has come: the request is accepted.
                accepted.wait(timeout=60)
                answers[index] = stream.read().decode()

        threads = [
            threading.Thread(target=work, args=(index,)) for index in range(12)
        ]
        for thread in threads:
            thread.start()
        accepted.wait(timeout=60)
        server.process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        assert server.process.wait(timeout=60) in (0, -signal.SIGTERM)
        for text in answers:
            events = [
                json.loads(line.removeprefix("data: "))
                for line in text.splitlines()
                if line.startswith("data: {")
            ]
            whole = "".join(
                c["text"] for event in events for c in event["choices"]
            )
            assert whole.startswith(expected.text)
            assert text.rstrip().endswith("data: [DONE]")


def test_sigkill_and_restart(package, expected):
    before = {
        path.name: path.read_bytes()
        for path in package.iterdir()
        if path.is_file()
    }
    with serving.Server(package, "--name=tiny") as server:
        with httpx.stream(
            "POST", server.url + "/v1/completions",
            json={"model": "tiny", "prompt": PROMPT, "max_tokens": 200,
                  "stream": True},
        ) as stream:  # fmt: skip
            next(stream.iter_lines())
            server.process.kill()
            server.process.wait(timeout=60)
    after = {
        path.name: path.read_bytes()
        for path in package.iterdir()
        if path.is_file()
    }
    assert before == after
    with serving.Server(package, "--name=tiny") as server:
        answer = ask(server, max_tokens=24)
        assert answer.json()["choices"][0]["text"] == expected.text


def run_serve(*arguments):
    environment = dict(os.environ, PYTHONPATH=str(toolchain.BUILD / "python"))
    return subprocess.run(
        [sys.executable, "-m", "qlm.serve", *map(str, arguments)],
        env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize(
    "options, expected_message",
    [
        (["--chat-template=/nonexistent"], "No such file"),
        (["--kv-pages=100000"], "pages must be from 1 to"),
        (["--speculate=1000"], "speculated tokens must be from 0 to 64"),
        (["--draft=/nonexistent"], "No such file"),
    ],
)
def test_command_lines_that_are_refused(package, options, expected_message):
    done = run_serve(package, *options)
    assert done.returncode == 1
    assert expected_message in done.stderr
    assert done.stderr.startswith("qlm.serve: error: ")
    assert len(done.stderr.splitlines()) == 1


def test_not_a_package(tmp_path):
    done = run_serve(tmp_path)
    assert done.returncode == 1 and "not a package" in done.stderr


def test_howto(package):
    """The examples of docs/serving.md run as they are."""
    page = (make_references.TINY.parents[1] / "docs/serving.md").read_text()
    served, offline = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    with serving.Server(package, "--name=tiny.qlm") as server:
        served = served.replace("http://127.0.0.1:8000", server.url)
        done = subprocess.run(
            [sys.executable, "-c", served], capture_output=True, text=True,
            timeout=60,
        )  # fmt: skip
    assert done.returncode == 0 and done.stdout, done.stderr
    offline = offline.replace("tiny.qlm", str(package))
    environment = dict(os.environ, PYTHONPATH=str(toolchain.BUILD / "python"))
    done = subprocess.run(
        [sys.executable, "-c", offline], capture_output=True, text=True,
        timeout=60, env=environment,
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout, done.stderr


def test_load_tool(server):
    script = make_references.TINY.parents[1] / "benchmarks/serving/load.py"
    done = subprocess.run(
        [sys.executable, script, "--url", server.url, "--model=tiny",
         "--rate", "20", "--seconds=2", "--prompt-tokens=16",
         "--new-tokens=8", "--shared-tokens=48", "--json"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    [row] = json.loads(done.stdout)
    assert row["failed"] == 0 and row["requests"] > 20
    assert 0 < row["ttft_p50"] <= row["ttft_p95"] <= row["ttft_p99"]


def test_short_soak(package, template):
    report = soak_serve.soak(
        package, 120, "--speculate=4", "--kv-pages=40",
        f"--chat-template={template}",
    )  # fmt: skip
    assert report["wrong"] == []
    assert report["open"] == 0 and report["used_pages"] == 0
    # The long run, by hand, asks for 2 %.
    assert report["growth"] < 0.2


# The description of itself


def test_schemathesis(server, tmp_path):
    """Requests made from the OpenAPI description break nothing."""
    pytest.importorskip("schemathesis")
    done = subprocess.run(
        [sys.executable, "-m", "schemathesis.cli", "run",
         server.url + "/openapi.json", "--url", server.url,
         "--max-examples=6", "--seed=1", "--phases=fuzzing",
         "--checks=not_a_server_error,status_code_conformance,"
         "content_type_conformance,response_schema_conformance",
         "--request-timeout=60", "--suppress-health-check=all"],
        capture_output=True, text=True, timeout=240, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert httpx.get(server.url + "/health").status_code == 200

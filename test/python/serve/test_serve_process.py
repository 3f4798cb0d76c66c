# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The server's process: signals, command lines, the how-to, the tools."""

from __future__ import annotations

import contextlib
import io
import json
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import make_references
import pytest

httpx = pytest.importorskip("httpx")
pytest.importorskip("openai")
pytest.importorskip("fastapi")
pytest.importorskip("qlm")
serving = pytest.importorskip("serving")

PROMPT, ask = serving.PROMPT, serving.ask
ROOT = make_references.TINY.parents[1]


def contents(package: Path) -> dict[str, bytes]:
    """Every file of a package."""
    return {
        path.name: path.read_bytes()
        for path in package.iterdir()
        if path.is_file()
    }


@pytest.fixture(scope="module")
def restarted(package):
    """A server of a package whose first server was killed at work."""
    before = contents(package)
    with serving.Server(package, "--name=tiny") as server:
        with httpx.stream(
            "POST", server.url + "/v1/completions", timeout=serving.PATIENCE,
            json={"model": "tiny", "prompt": PROMPT, "max_tokens": 200,
                  "stream": True},
        ) as stream:  # fmt: skip
            next(stream.iter_lines())
            server.process.kill()
            server.process.wait(timeout=serving.PATIENCE)
    assert contents(package) == before
    with serving.Server(package, "--name=tiny") as server:
        yield server


def test_sigkill_and_restart(restarted, expected):
    answer = ask(restarted, max_tokens=24)
    assert answer.json()["choices"][0]["text"] == expected.text


def test_sigterm_under_load_answers_what_was_accepted(restarted, expected):
    answers: list = [None] * 12
    accepted = threading.Barrier(13)

    def work(index):
        body = {"model": "tiny", "prompt": PROMPT, "temperature": 0,
                "max_tokens": 120, "ignore_eos": True,
                "stream": True}  # fmt: skip
        with httpx.stream(
            "POST", restarted.url + "/v1/completions", json=body,
            timeout=serving.PATIENCE,
        ) as stream:  # fmt: skip
            # The head of the answer has come: the request is accepted.
            accepted.wait(timeout=serving.PATIENCE)
            answers[index] = stream.read().decode()

    threads = [
        threading.Thread(target=work, args=(index,)) for index in range(12)
    ]
    for thread in threads:
        thread.start()
    accepted.wait(timeout=serving.PATIENCE)
    restarted.process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join()
    code = restarted.process.wait(timeout=serving.PATIENCE)
    assert code in (0, -signal.SIGTERM)
    for text in answers:
        events = [
            json.loads(line.removeprefix("data: "))
            for line in text.splitlines()
            if line.startswith("data: {")
        ]
        whole = "".join(c["text"] for event in events for c in event["choices"])
        assert whole.startswith(expected.text)
        assert events[-1]["choices"][0]["finish_reason"] == "length"
        assert text.rstrip().endswith("data: [DONE]")


@pytest.mark.parametrize(
    "options, expected_message",
    [
        (["--chat-template=/nonexistent"], "No such file"),
        (["--kv-pages=100000"], "pages must be from 1 to"),
        (["--speculate=1000"], "speculated tokens must be from 0 to 64"),
        (["--draft=/nonexistent"], "No such file"),
    ],
)
def test_command_lines_that_are_refused(
    package, options, expected_message, monkeypatch, capsys
):
    from qlm.serve.__main__ import main

    monkeypatch.setattr(sys, "argv", ["qlm.serve", str(package), *options])
    assert main() == 1
    error = capsys.readouterr().err
    assert expected_message in error
    assert error.startswith("qlm.serve: error: ")
    assert len(error.splitlines()) == 1


def test_not_a_package(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "qlm.serve", str(tmp_path)],
        env=serving.environment(), capture_output=True, text=True,
        timeout=serving.PATIENCE,
    )  # fmt: skip
    assert done.returncode == 1 and "not a package" in done.stderr
    assert done.stderr.startswith("qlm.serve: error: ")


def test_howto(server, package):
    """The examples of docs/serving.md run, against the tests' own server.

    The third, with Ray, runs in test_ray.py.
    """
    page = (ROOT / "docs/serving.md").read_text()
    served, offline, _ = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert "http://127.0.0.1:8000" in served and '"tiny.qlm"' in served
    for text in (
        served.replace("http://127.0.0.1:8000", server.url)
        .replace("tiny.qlm", "tiny"),
        offline.replace("tiny.qlm", str(package)),
    ):  # fmt: skip
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown):
            exec(compile(text, "docs/serving.md", "exec"), {})  # noqa: S102
        assert shown.getvalue().strip()


def test_load_tool(server, tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks/serving/load.py",
         "--url", server.url, "--model=tiny", "--rate", "20", "40",
         "--seconds=1", "--prompt-tokens=16", "--new-tokens=8",
         "--shared-tokens=48", "--json", "--plot", tmp_path / "load.svg"],
        capture_output=True, text=True, timeout=serving.PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [row["rate"] for row in rows] == [20, 40]
    for row in rows:
        assert row["failed"] == 0 and row["requests"] > 10
        assert 0 < row["ttft_p50"] <= row["ttft_p95"] <= row["ttft_p99"]
        assert row["tokens_per_second"] > 0
    assert (tmp_path / "load.svg").read_text().count("<polyline") == 6


def test_schemathesis(server, tmp_path):
    """Requests made from the server's own description break nothing."""
    pytest.importorskip("schemathesis")
    done = subprocess.run(
        [sys.executable, "-m", "schemathesis.cli", "run",
         server.url + "/openapi.json", "--url", server.url,
         "--max-examples=3", "--seed=1", "--phases=fuzzing",
         "--checks=not_a_server_error,status_code_conformance,"
         "content_type_conformance,response_schema_conformance",
         f"--request-timeout={serving.PATIENCE}",
         "--suppress-health-check=all"],
        capture_output=True, text=True, timeout=serving.PATIENCE, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert serving.get(server.url + "/health").status_code == 200

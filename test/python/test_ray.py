# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Several replicas behind Ray's router, where Ray is installed."""

from __future__ import annotations

import concurrent.futures
import json
import os
import re
import threading
import time

import make_references
import pytest
import toolchain

ray = pytest.importorskip("ray")
httpx = pytest.importorskip("httpx")
qlm = pytest.importorskip("qlm")
pytest.importorskip("ray.serve")


@pytest.fixture(scope="module")
def package(packages):
    return packages.compile("tiny-llama", "--weights=int8", "--max-context=1024")


@pytest.fixture(scope="module")
def cluster():
    # The processes of the cluster find the package as this one does.
    os.environ["PYTHONPATH"] = str(toolchain.BUILD / "python")
    # Five and ten seconds are too few for a busy machine.
    os.environ["RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S"] = "300"
    os.environ["RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S"] = "300"
    # On a busy machine its first process may take longer than Ray waits.
    for attempt in range(5):
        try:
            ray.init(num_cpus=10, include_dashboard=False, log_to_driver=False)
            break
        except Exception:
            ray.shutdown()
            if attempt == 4:
                raise
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def url(cluster, package):
    from ray import serve

    import qlm.ray

    serve.start(http_options={"port": 8765})
    serve.run(
        qlm.ray.app({
            "package": str(package), "name": "tiny", "replicas": "2",
            "threads": "1",
        })
    )  # fmt: skip
    yield "http://127.0.0.1:8765"
    serve.shutdown()


def ask(url, prompt, **more):
    body = {"model": "tiny", "prompt": prompt, "max_tokens": 8,
            "temperature": 0}  # fmt: skip
    return httpx.post(f"{url}/v1/completions", json=body | more, timeout=600)


def test_answers_are_the_packages(url, package):
    wanted = qlm.load(package).generate("def main():", max_new_tokens=8)[0]
    answer = ask(url, "def main():")
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["text"] == wanted.text
    assert ask(url, "a", max_tokens=-1).status_code == 400
    assert httpx.get(f"{url}/v1/models").json()["data"][0]["id"] == "tiny"


def test_streams_pass_through(url):
    with httpx.stream(
        "POST", f"{url}/v1/completions", timeout=600,
        json={"model": "tiny", "prompt": "import", "max_tokens": 8,
              "temperature": 0, "stream": True},
    ) as stream:  # fmt: skip
        events = [line for line in stream.iter_lines() if line]
    assert events[-1] == "data: [DONE]"
    text = "".join(
        choice["text"]
        for event in events[:-1]
        for choice in json.loads(event[6:])["choices"]
    )
    assert text == ask(url, "import").json()["choices"][0]["text"]


def test_prompts_that_begin_alike_meet_one_replica(url):
    replicas, cached = {}, []
    for turn in range(3):
        for which in range(6):
            prefix = f"# file {which}\n" + "x = 1\n" * 100
            answer = ask(url, prefix[:520] + f"y = {turn}")
            replicas.setdefault(which, set()).add(
                answer.headers["x-qlm-replica"]
            )
            if turn:
                usage = answer.json()["usage"]["prompt_tokens_details"]
                cached.append(usage["cached_tokens"])
    assert all(len(each) == 1 for each in replicas.values()), replicas
    assert min(cached) >= 32
    assert len(set.union(*replicas.values())) == 2, "both work"


def test_replicas_come_and_go_with_the_load(cluster, url, package):
    from ray import serve

    import qlm.ray

    serve.run(
        qlm.ray.app({
            "package": str(package), "name": "tiny", "replicas": "1-2",
            "threads": "1", "target_ongoing_requests": "1",
            "upscale_delay_s": "0.5", "downscale_delay_s": "1",
        }), name="scaled", route_prefix="/scaled",
    )  # fmt: skip

    def running() -> int:
        status = serve.status().applications["scaled"].deployments["Replica"]
        return status.replica_states.get("RUNNING", 0)

    def wait_for(count: int) -> None:
        for _ in range(3000):
            if running() == count:
                return
            time.sleep(0.1)
        raise AssertionError(f"{running()} replicas, not {count}")

    wait_for(1)
    wanted = ask(url, "def main():", max_tokens=48).json()["choices"]
    enough = threading.Event()

    def load() -> None:
        while not enough.is_set():
            answer = ask(f"{url}/scaled", "def main():", max_tokens=48)
            assert answer.status_code == 200, answer.text
            assert answer.json()["choices"] == wanted

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        crowd = [pool.submit(load) for _ in range(6)]
        try:
            wait_for(2)
        finally:
            enough.set()
        for each in crowd:
            each.result()
    wait_for(1)
    serve.delete("scaled")


def test_batches_of_a_dataset(cluster, package):
    import ray.data

    import qlm.ray

    prompts = [f"def f{index}(" for index in range(12)]
    params = qlm.SamplingParams(temperature=0, max_tokens=6)
    dataset = ray.data.from_items([{"prompt": each} for each in prompts])
    rows = qlm.ray.generate_batches(
        dataset, str(package), params, processes=2, batch_size=3, threads=1
    ).take_all()
    texts = {row["prompt"]: row["text"] for row in rows}
    wanted = qlm.load(package).generate(prompts, max_new_tokens=6)
    assert [texts[prompt] for prompt in prompts] == [w.text for w in wanted]


def test_recipe_of_the_howto(cluster, package, tmp_path):
    page = make_references.TINY.parents[1] / "docs/serving.md"
    recipe = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)[2]
    for old, new in (
        ("/models/tiny.qlm", str(package)), ("/models/texts", str(tmp_path)),
        ("range(1000)", "range(6)"), ("processes=4", "processes=2"),
    ):  # fmt: skip
        assert old in recipe
        recipe = recipe.replace(old, new)
    names: dict = {}
    exec(compile(recipe, "docs/serving.md", "exec"), names)  # noqa: S102
    rows = ray.data.read_parquet(str(tmp_path)).take_all()
    assert {row["prompt"] for row in rows} == {f"def f{i}(" for i in range(6)}
    assert all(row["text"] for row in rows)

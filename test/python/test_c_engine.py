# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The engine of the C interface, through the benchmarks' ctypes client."""

from __future__ import annotations

import ctypes
import sys

import make_references
import pytest
import toolchain

sys.path.insert(
    0, str(make_references.TINY.parents[1] / "benchmarks" / "serving")
)
client = pytest.importorskip("engine_client")


@pytest.fixture(scope="module")
def package(packages):
    return packages.compile("tiny-llama", "--weights=int8", "--max-context=256")


@pytest.fixture(scope="module")
def model(package):
    library = toolchain.BUILD / "lib" / "libqlm.so"
    if not library.exists():
        pytest.skip(f"{library.name} is not built")
    made = client.Model(client.load_library(str(library)), str(package))
    yield made
    made.close()


def prompts(count):
    return [[(7 * i + 3 * k) % 4000 for k in range(3 + i)]
            for i in range(count)]


def test_texts_are_those_of_the_tool(model, package):
    wanted = toolchain.generate(
        package, prompts(12), "--max-new-tokens=20", "--ignore-eos"
    )
    with client.Engine(model) as engine:
        numbers = [
            engine.submit(prompt, max_new_tokens=20, ignore_eos=1)
            for prompt in prompts(12)
        ]
        engine.finish(12)
        texts = [engine.texts[number, 0] for number in numbers]
    assert [text.tokens for text in texts] == [w["tokens"] for w in wanted]
    assert [text.text.decode() for text in texts] == [
        w["text"] for w in wanted
    ]
    assert {text.reason for text in texts} == {"length"}


KV_CACHES = ("f32", "f16", "bf16", "int8", "fp8")


@pytest.mark.parametrize("kv", KV_CACHES)
def test_speculation_leaves_texts_as_they_are(packages, model, kv):
    """Bit for bit, for each way to keep keys and values."""
    options = ["--weights=int8", "--max-context=256", f"--kv-cache={kv}"]
    model = client.Model(
        model.library, str(packages.compile("tiny-llama", *options))
    )
    answers = []
    for options in ({}, {"speculate": 6, "adaptive": 0}, {"speculate": 6},
                    {"kv_pages": 20, "speculate": 3}):
        with client.Engine(model, **options) as engine:
            numbers = [
                engine.submit(
                    (prompt * 9)[:60], max_new_tokens=40, ignore_eos=1,
                    temperature=(0.0, 0.7)[i % 2], seed=i,
                )
                for i, prompt in enumerate(prompts(10))
            ]  # fmt: skip
            engine.finish(10)
            answers.append([engine.texts[n, 0].tokens for n in numbers])
            stats = engine.stats()
        if options.get("speculate"):
            assert stats.accepted_tokens > 0
    assert answers[1:] == answers[:1] * 3
    model.close()


def test_options_of_a_request(model):
    with client.Engine(model) as engine:
        bias = (ctypes.c_int32 * 1)(77), (ctypes.c_float * 1)(900.0)
        more = {"choices": 3, "logprobs": 1, "top_logprobs": 2,
                "bias_tokens": bias[0], "bias_values": bias[1],
                "bias_count": 1, "priority": 4, "client": 9,
                "deadline_seconds": 60.0}
        number = engine.submit([5, 6], more, max_new_tokens=4)
        engine.finish(3)
        for choice in range(3):
            assert engine.texts[number, choice].tokens == [77] * 4
        late = engine.submit([5, 6], {"deadline_seconds": 1e-9})
        engine.finish(1)
        assert engine.texts[late, 0].reason == "deadline"
        gone = engine.submit([5, 6], max_new_tokens=250, ignore_eos=1)
        engine.cancel(gone)
        engine.finish(1)
        assert engine.texts[gone, 0].reason == "cancelled"
        with pytest.raises(client.Error, match="n must be from 1 to 128"):
            engine.submit([5], {"choices": 0})
        stats = engine.stats()
        assert list(stats.finished)[1:] == [3, 1, 0, 1]
        assert stats.used_pages == 0 and stats.running == 0
        engine.library.qlm_engine_drain(engine.handle)
        with pytest.raises(client.Error, match="shutting down"):
            engine.submit([5])


def test_older_callers_structs_are_understood(model):
    """Fields beyond a struct's own size are taken as defaults."""
    with client.Engine(model, struct_size=16, share_prefixes=0) as engine:
        prompt = list(range(40))
        for _ in range(2):
            number = engine.submit(
                prompt, {"struct_size": 16, "top_logprobs": 999}
            )
            engine.finish(1)
        assert engine.texts[number, 0].cached_tokens == 32
        small = client.Stats(struct_size=24, running=-1, total_pages=-1)
        engine.library.qlm_engine_stats(engine.handle, ctypes.byref(small))
        assert small.running == 0 and small.total_pages == -1

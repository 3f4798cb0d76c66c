# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The Python interface in the manner people know."""

from __future__ import annotations

import asyncio
import threading

import pytest
import toolchain

qlm = pytest.importorskip("qlm")

PROMPTS = ["import os\n", "def main(", "class A:\n", "for i in range("]


@pytest.fixture(scope="module")
def package(packages):
    return packages.compile("tiny-llama", "--weights=int8", "--max-context=256")


@pytest.fixture(scope="module")
def llm(package):
    with qlm.LLM(package, speculate=4) as made:
        yield made


@pytest.fixture(scope="module")
def expected(llm, package):
    prompts = [llm.encode(prompt) for prompt in PROMPTS]
    return toolchain.generate(package, prompts, "--max-new-tokens=20")


def test_generate(llm, expected):
    params = qlm.SamplingParams(temperature=0, max_tokens=20, logprobs=2)
    outputs = llm.generate(PROMPTS, params)
    assert [o.prompt for o in outputs] == PROMPTS
    for output, wanted in zip(outputs, expected, strict=True):
        one = output.outputs[0]
        assert output.finished and len(output.outputs) == 1
        assert one.token_ids == wanted["tokens"] and one.text == wanted["text"]
        assert one.finish_reason == wanted["finish_reason"]
        assert len(one.logprobs) == len(one.token_ids)
        for token, value, top in zip(
            one.token_ids, one.logprobs, one.top_logprobs, strict=True
        ):
            assert top[0] == (token, value)


def test_params_of_each_prompt_and_n(llm, expected):
    params = [
        qlm.SamplingParams(temperature=0, max_tokens=index + 1, n=2)
        for index in range(4)
    ]
    outputs = llm.generate(PROMPTS, params)
    for index, output in enumerate(outputs):
        for one in output.outputs:
            assert one.token_ids == expected[index]["tokens"][: index + 1]
    drawn = qlm.SamplingParams(max_tokens=8, n=3, seed=4)
    one, other = (llm.generate("a = ", drawn)[0] for _ in range(2))
    assert [o.text for o in one.outputs] == [o.text for o in other.outputs]
    assert len({o.text for o in one.outputs}) > 1
    free = qlm.SamplingParams(max_tokens=16)
    texts = {llm.generate("a = ", free)[0].outputs[0].text for _ in range(4)}
    assert len(texts) > 1, "no seed means another each time"


def test_streams(llm, expected):
    params = qlm.SamplingParams(temperature=0, max_tokens=20)

    async def one(prompt):
        lengths, last = [], None
        async for output in llm.stream(prompt, params):
            lengths.append(len(output.outputs[0].token_ids))
            last = output.outputs[0]
        assert lengths == sorted(lengths) and lengths[0] == 1
        return last.text

    async def all_of_them():
        return await asyncio.gather(*map(one, PROMPTS))

    assert asyncio.run(all_of_them()) == [w["text"] for w in expected]


def test_leaving_a_stream_cancels(llm):
    params = qlm.SamplingParams(max_tokens=200, ignore_eos=True)
    before = llm.engine.stats()["finished_cancelled"]

    async def leave():
        stream = llm.stream("a", params)
        async for _ in stream:
            break
        await stream.aclose()

    asyncio.run(leave())
    for _ in range(500):
        if llm.engine.open == 0:
            break
        threading.Event().wait(0.01)
    assert llm.engine.stats()["finished_cancelled"] == before + 1


def test_masks(llm):
    allowed = [10, 20, 30, 40]

    def mask(choice, generated):
        return allowed[len(generated) :]

    params = qlm.SamplingParams(temperature=0, max_tokens=3, mask=mask)
    tokens = llm.generate("a", params)[0].outputs[0].token_ids
    assert all(
        token in allowed[place:] for place, token in enumerate(tokens)
    )

    def broken(choice, generated):
        raise ValueError("no grammar")

    for wrong, message in (
        (broken, "the token mask failed: ValueError: no grammar"),
        (lambda *_: [], "the token mask allows no token"),
        (lambda *_: [4096], "allows token 4096, which the vocabulary lacks"),
        (lambda *_: None, "the token mask failed"),
    ):
        params = qlm.SamplingParams(max_tokens=3, mask=wrong)
        good = qlm.SamplingParams(max_tokens=3, temperature=0)
        failed, fine = llm.generate(["a", "import"], [params, good])
        assert failed.outputs[0].finish_reason == "error"
        assert message in failed.outputs[0].error
        assert fine.outputs[0].finish_reason == "length"


def test_refusals(llm):
    with pytest.raises(qlm.Error, match="n must be from 1 to 128"):
        llm.generate("a", qlm.SamplingParams(n=0))
    with pytest.raises(qlm.Error, match="temperature"):
        llm.generate("a", qlm.SamplingParams(temperature=-1))
    with pytest.raises(ValueError):
        llm.generate(["a", "b"], [qlm.SamplingParams()])
    assert issubclass(qlm.Busy, qlm.Error)


def test_queue_limit(package):
    params = qlm.SamplingParams(max_tokens=100, ignore_eos=True)
    with qlm.LLM(package, max_queue=0) as llm:
        with pytest.raises(qlm.Busy, match="the queue is full, 8 requests"):
            llm.generate(["a"] * 9, params)
        # Those that were accepted are cancelled.
        while llm.engine.open:
            threading.Event().wait(0.01)
        llm.engine.drain()
        with pytest.raises(qlm.Busy, match="shutting down"):
            llm.generate("a")


def test_timeout(llm):
    params = qlm.SamplingParams(max_tokens=200, ignore_eos=True, timeout=1e-9)
    output = llm.generate("a", params)[0].outputs[0]
    assert output.finish_reason == "deadline"


def test_draft_package(package, packages, expected):
    draft = packages.compile("tiny-llama", "--weights=int4",
                             "--max-context=256")  # fmt: skip
    params = qlm.SamplingParams(temperature=0, max_tokens=20)
    with qlm.LLM(package, speculate=4, adaptive=False, draft=draft) as llm:
        outputs = llm.generate(PROMPTS, params)
        stats = llm.engine.stats()
    assert [o.outputs[0].text for o in outputs] == [
        w["text"] for w in expected
    ]
    assert stats["accepted_tokens"] > 0.3 * stats["proposed_tokens"] > 0


def test_continuous_batcher(package, expected):
    batcher = qlm.ContinuousBatcher(qlm.load(package), max_batch_size=2)
    numbers = [
        batcher.add_request(prompt, max_tokens=20 - 5 * index)
        for index, prompt in enumerate(PROMPTS)
    ]
    assert batcher.has_work()
    done, steps = {}, 0
    while batcher.has_work():
        completed = batcher.step()
        done |= {each.request_id: each.result for each in completed}
        steps += 1
    assert sorted(done) == numbers == [0, 1, 2, 3]
    for index, number in enumerate(numbers):
        tokens = expected[index]["tokens"][: 20 - 5 * index]
        assert done[number].tokens == tokens
    assert steps < 20 + 15 + 10 + 5, "two at a time"
    assert batcher.step() == []
    with pytest.raises(qlm.Error, match="no tokens"):
        batcher.add_request([])
    with pytest.raises(ValueError, match="above 0, got 0"):
        qlm.ContinuousBatcher(qlm.load(package), 0)

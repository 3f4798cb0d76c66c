# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The Python package does what its documentation says."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import toolchain

qlm = pytest.importorskip("qlm")


@pytest.fixture(scope="module")
def package(tmp_path_factory, packages):
    output = tmp_path_factory.mktemp("binding") / "tiny.qlm"
    made = qlm.compile(
        packages.model("tiny-llama"), output, weights="int8", max_context=128
    )
    assert made == output
    return made


@pytest.fixture(scope="module")
def model(package):
    return qlm.load(package)


def test_model_tells_its_limits(model):
    assert model.vocabulary_size == 4096
    assert model.max_context == 128
    assert model.max_batch == 8
    assert model.peak_bytes > 8_000_000
    assert model.threads >= 1


def test_generate_equals_the_tool(model, package):
    prompts = ["import os\n", "def main("]
    results = model.generate(prompts, max_new_tokens=16)
    tool = toolchain.generate(
        package, [model.encode(prompt) for prompt in prompts],
        "--max-new-tokens", 16,
    )  # fmt: skip
    assert [r.tokens for r in results] == [r["tokens"] for r in tool]
    assert [r.text for r in results] == [r["text"] for r in tool]
    assert [r.finish_reason for r in results] == [
        r["finish_reason"] for r in tool
    ]


def test_prompts_may_be_one_text_or_tokens(model):
    one = model.generate("import os\n", max_new_tokens=4)
    tokens = model.generate([model.encode("import os\n")], max_new_tokens=4)
    assert len(one) == 1 and one == tokens
    assert one[0].prompt_tokens == len(model.encode("import os\n"))
    assert model.decode(one[0].tokens) == one[0].text


def test_logits_predict_the_greedy_token(model):
    tokens = model.encode("import os\nimport ")
    rows = model.logits(tokens)
    assert rows.dtype == np.float32
    assert rows.shape == (len(tokens), model.vocabulary_size)
    assert np.array_equal(rows, model.logits(tokens, chunk=2))
    result = model.generate([tokens], max_new_tokens=1, logprobs=True)[0]
    assert result.tokens == [int(rows[-1].argmax())]
    row = rows[-1].astype(np.float64)
    expected = row.max() - np.log(np.exp(row - row.max()).sum()) - row.max()
    assert result.logprobs == [pytest.approx(expected, abs=1e-5)]


def test_callback_streams_and_cancels(model):
    seen = []

    def on_token(index, token, text):
        seen.append((index, token, text))
        return len(seen) < 5

    result = model.generate("import os\n", on_token=on_token)[0]
    assert result.finish_reason == "cancelled"
    assert [token for _, token, _ in seen] == result.tokens
    assert "".join(text for _, _, text in seen) == result.text


def test_exception_of_a_callback_comes_out(model):
    def on_token(index, token, text):
        raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        model.generate(["a", "b"], on_token=on_token)
    assert model.generate("a", max_new_tokens=1)[0].tokens


def test_threads_of_python_take_turns(model):
    alone = model.generate("import os\n", max_new_tokens=8)
    results = [None] * 4

    def work(i):
        results[i] = model.generate("import os\n", max_new_tokens=8)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [alone] * 4


def test_errors_name_the_cause(model, package, tmp_path):
    with pytest.raises(qlm.Error, match="prompt has no tokens"):
        model.generate([[]])
    with pytest.raises(qlm.Error, match="temperature must be from 0 to 100"):
        model.generate("a", temperature=-1)
    with pytest.raises(qlm.Error, match="token id must be from 0 to 4095"):
        model.logits([5000])
    with pytest.raises(qlm.Error, match="not a package"):
        qlm.load(tmp_path)
    with pytest.raises(qlm.Error, match="not a folder"):
        qlm.compile(tmp_path / "none", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.warns(UserWarning, match="using "):
        qlm.load(package, threads=4096)

# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""What a request gets doesn't depend on what runs beside it."""

from __future__ import annotations

import json
import shutil

import c_api
import make_references
import numpy as np
import pytest
import random_llama
import toolchain

NAME = "three-shards"
WEIGHTS = {
    "f32": ["--weights=f32"],
    "f32-old": ["--weights=f32", "--target-cpu=x86-64-v3"],
    "bf16": ["--weights=bf16"],
    "bf16-bf16": ["--weights=bf16", "--activations=bf16"],
    "int8": ["--weights=int8"],
    "int4": ["--weights=int4", "--group-size=32"],
    "int4-old": ["--weights=int4", "--group-size=32",
                 "--target-cpu=x86-64-v3"],
    "int8-dynamic": ["--weights=int8", "--activations=int8-dynamic"],
    "int8-outliers": ["--weights=int8", "--activations=int8-dynamic",
                      "--outlier-threshold=1.5"],
    "int4-dynamic": ["--weights=int4", "--group-size=32", "--zero-points",
                     "--activations=int8-dynamic"],
    "int4-dynamic-old": ["--weights=int4", "--group-size=32",
                         "--activations=int8-dynamic",
                         "--target-cpu=x86-64-v3"],
    "int8-static": ["--weights=int8", "--activations=int8-static",
                    "--statistics"],
    "nf4": ["--weights=nf4", "--group-size=32"],
    "nf4-double": ["--weights=nf4", "--group-size=32", "--double-quant"],
    "fp8": ["--weights=fp8"],
    "f16": ["--weights=f16"],
    "fp8-dynamic": ["--weights=fp8", "--activations=fp8-dynamic"],
    "f16-cache": ["--weights=int8", "--kv-cache=f16"],
    "bf16-cache": ["--weights=int8", "--kv-cache=bf16"],
    "int8-cache": ["--weights=int8", "--kv-cache=int8"],
    "fp8-cache": ["--weights=int8", "--kv-cache=fp8"],
}  # fmt: skip
LENGTHS = (17, 1, 40, 16, 2, 63, 31, 5, 33, 9, 15, 3, 64, 48, 12, 7)
"""Prompts' tokens, around the page of 16; a batch's sizes stand side by
side."""
SIZES = (2, 3, 4, 5, 6, 7, 8, 9, 12, 16)
"""Of batches: those around which kernels take rows another way."""
NEW_TOKENS = 12

every_weights = pytest.mark.parametrize("weights", WEIGHTS)


@pytest.fixture(scope="module")
def statistics(tmp_path_factory):
    """What calibration finds, which is more than rounding covers here."""
    path = tmp_path_factory.mktemp("statistics") / "statistics.safetensors"
    spec = random_llama.find(NAME)
    columns = {"qkv": spec.hidden, "o": spec.hidden, "gate_up": spec.hidden,
               "down": spec.ffn}
    tensors = {}
    for layer in range(spec.layers):
        for linear, count in columns.items():
            name = f"layers.{layer}.{linear}"
            tensors[f"{name}.range"] = np.array([-2, 2], np.float32)
            tensors[f"{name}.absmax"] = np.full(count, 2, np.float32)
    tensors["lm_head.range"] = np.array([-4, 4], np.float32)
    tensors["lm_head.absmax"] = np.full(spec.hidden, 4, np.float32)
    random_llama.write_safetensors(path, tensors, "F32")
    return path


@pytest.fixture
def package(request, packages, statistics):
    """Of the test's weights."""
    options = list(WEIGHTS[request.getfixturevalue("weights")])
    if options[-1] == "--statistics":
        options[-1] += f"={statistics}"
    return packages.compile(NAME, "--max-batch=16", *options)


def draw_prompts(lengths, seed=7, name=NAME):
    rng = np.random.default_rng(seed)
    vocabulary = random_llama.find(name).vocab
    return [rng.integers(0, vocabulary, length).tolist() for length in lengths]


PROMPTS = draw_prompts(LENGTHS)


def greedy(package, prompts, *options):
    """Tokens and their log probabilities, bit for bit."""
    results = toolchain.generate(
        package, prompts, "--logprobs", "--ignore-eos", "--max-new-tokens",
        NEW_TOKENS, *options,
    )  # fmt: skip
    return [(result["tokens"], result["logprobs"]) for result in results]


@every_weights
def test_batch_mates_change_no_bit(package, weights):
    alone = [greedy(package, [prompt])[0] for prompt in PROMPTS]
    assert all(len(tokens) == NEW_TOKENS for tokens, _ in alone)
    assert len({tuple(tokens) for tokens, _ in alone}) == len(alone)
    for size in SIZES:
        # Each size begins elsewhere, so that mates and order change too.
        chosen = [(size + i) % len(PROMPTS) for i in range(size)]
        batch = greedy(package, [PROMPTS[index] for index in chosen])
        assert batch == [alone[index] for index in chosen], size


@every_weights
def test_chunks_change_no_bit(package, weights):
    [tokens] = draw_prompts([120])
    whole = toolchain.logits(package, tokens)
    assert whole.shape == (120, random_llama.find(NAME).vocab)
    for chunk in (1, 3, 16, 100):
        parts = toolchain.logits(package, tokens, "--chunk", chunk)
        assert parts.tobytes() == whole.tobytes(), chunk


@pytest.mark.parametrize("name, options", [
    ("mistral-window", ["--target-cpu=x86-64-v3"]),
    ("mistral-window", ["--kv-cache=int8"]),
    ("qwen2-window", ["--kv-cache=bf16"]),
    ("qwen2-layer-types", ["--weights=fp8", "--activations=fp8-dynamic"]),
])
def test_windows_change_no_bit(packages, name, options):
    """Prompts longer than the window, alone, in batches and in chunks."""
    package = packages.compile(name, *options)
    prompts = draw_prompts(LENGTHS, name=name)
    alone = [greedy(package, [prompt])[0] for prompt in prompts]
    assert greedy(package, prompts) == alone
    assert greedy(package, prompts[2:5]) == alone[2:5]
    [tokens] = draw_prompts([110], name=name)
    whole = toolchain.logits(package, tokens)
    for chunk in (1, 3, 16, 100):
        parts = toolchain.logits(package, tokens, "--chunk", chunk)
        assert parts.tobytes() == whole.tobytes(), chunk
    prefix = toolchain.logits(package, tokens[:33])
    assert prefix.tobytes() == whole[:33].tobytes()


@every_weights
def test_prefix_has_the_same_logits(package, weights):
    [tokens] = draw_prompts([33])
    whole = toolchain.logits(package, tokens)
    for count in (1, 2, 15, 16, 17, 32):
        prefix = toolchain.logits(package, tokens[:count])
        assert prefix.tobytes() == whole[:count].tobytes(), count


@pytest.mark.parametrize("weights", ["f32", "int4-dynamic"])
def test_threads_change_no_bit(packages, weights):
    package = packages.compile(NAME, *WEIGHTS[weights])
    [tokens] = draw_prompts([50])
    one = toolchain.logits(package, tokens, "--threads=1")
    for threads in (2, 5):
        many = toolchain.logits(package, tokens, "--threads", threads)
        assert many.tobytes() == one.tobytes(), threads
    alone = greedy(package, PROMPTS, "--threads=1")
    assert greedy(package, PROMPTS, "--threads=3") == alone


@pytest.mark.parametrize("weights", ["int4-dynamic"])
def test_tuned_kernels_change_no_bit(packages, weights):
    plain = packages.compile(NAME, *WEIGHTS[weights])
    tuned = packages.compile(NAME, *WEIGHTS[weights], "--tune")
    [tokens] = draw_prompts([50])
    whole = toolchain.logits(plain, tokens)
    for chunk in (1, 50):
        parts = toolchain.logits(tuned, tokens, "--chunk", chunk)
        assert parts.tobytes() == whole.tobytes(), chunk


@pytest.mark.parametrize(
    "plan",
    [
        ["--max-batch=3"],
        ["--max-step-tokens=9"],
        ["--max-batch=2", "--max-step-tokens=17"],
        ["--page-tokens=16", "--max-context=80", "--max-batch=8"],
        ["--max-batch=1", "--max-step-tokens=1"],
    ],
    ids=" ".join,
)
def test_narrow_plans_change_no_bit(packages, plan):
    """More requests than places, and prompts in pieces among decoding."""
    expected = greedy(packages.compile(NAME, *WEIGHTS["int8"]), PROMPTS)
    package = packages.compile(NAME, *WEIGHTS["int8"], *plan)
    assert greedy(package, PROMPTS) == expected
    assert greedy(package, PROMPTS[::-1]) == expected[::-1]


def test_many_requests_are_all_served(packages):
    package = packages.compile(NAME, *WEIGHTS["int8"], "--max-batch=3")
    prompts = PROMPTS * 5
    assert greedy(package, prompts) == greedy(package, PROMPTS) * 5


# Sampling


SAMPLING = ("--temperature=1.5", "--top-p=0.95", "--ignore-eos",
            "--max-new-tokens=16")  # fmt: skip


def sample(package, prompts, *options):
    results = toolchain.generate(package, prompts, *SAMPLING, *options)
    return [result["tokens"] for result in results]


def test_seed_reproduces_samples(packages):
    package = packages.compile(NAME, *WEIGHTS["int8"])
    first = sample(package, PROMPTS, "--seed=11")
    assert sample(package, PROMPTS, "--seed=11") == first
    assert sample(package, PROMPTS, "--seed=12") != first
    assert sample(package, PROMPTS, f"--seed={2**64 - 1}") != first


def test_samples_do_not_depend_on_batch_mates(packages):
    package = packages.compile(NAME, *WEIGHTS["int8"])
    alone = [sample(package, [prompt], "--seed=3")[0] for prompt in PROMPTS]
    assert sample(package, PROMPTS, "--seed=3") == alone
    assert sample(package, PROMPTS[::-1], "--seed=3") == alone[::-1]
    assert sample(package, PROMPTS[2:5], "--seed=3") == alone[2:5]


def test_top_k_of_one_is_greedy(packages):
    package = packages.compile(NAME, *WEIGHTS["int8"])
    expected = [tokens for tokens, _ in greedy(package, PROMPTS)]
    options = ["--temperature=2", "--top-k=1", "--seed=5"]
    results = toolchain.generate(
        package, PROMPTS, "--ignore-eos", "--max-new-tokens", NEW_TOKENS,
        *options,
    )  # fmt: skip
    assert [result["tokens"] for result in results] == expected


@pytest.mark.parametrize("option", ["--min-p=0.9999", "--top-p=0.0001"])
def test_narrow_draws_are_greedy(packages, option):
    package = packages.compile(NAME, *WEIGHTS["int8"])
    expected = [tokens for tokens, _ in greedy(package, PROMPTS)]
    results = toolchain.generate(
        package, PROMPTS, "--ignore-eos", "--max-new-tokens", NEW_TOKENS,
        "--temperature=1", option,
    )  # fmt: skip
    assert [result["tokens"] for result in results] == expected


def test_repetition_penalty_avoids_the_prompt(packages):
    package = packages.compile(NAME, *WEIGHTS["int8"])
    results = toolchain.generate(
        package, PROMPTS, "--ignore-eos", "--max-new-tokens", NEW_TOKENS,
        "--repetition-penalty=100",
    )  # fmt: skip
    for prompt, result in zip(PROMPTS, results, strict=True):
        tokens = result["tokens"]
        assert len(set(tokens)) == len(tokens)
        assert not set(tokens) & set(prompt)


# Ends


@pytest.fixture(scope="module")
def tiny(packages):
    return packages.compile("tiny-llama", "--weights=f32")


@pytest.fixture(scope="module")
def texts(tiny):
    """Greedy results of the reference's prompts, and the prompts' tokens."""
    stored = toolchain.reference("tiny-llama")
    prompts = [
        stored[f"prompt_tokens.{index}"].tolist()
        for index in range(len(stored["prompts"]))
    ]
    results = toolchain.generate(tiny, prompts, "--max-new-tokens=48")
    return prompts, results


def cut(result, stop):
    """The text of a result before a stop string."""
    assert stop in result["text"]
    return result["text"].split(stop)[0]


def test_one_new_token(tiny, texts):
    prompts, full = texts
    results = toolchain.generate(tiny, prompts, "--max-new-tokens=1")
    for result, longer in zip(results, full, strict=True):
        assert result["tokens"] == longer["tokens"][:1]
        assert result["finish_reason"] == "length"


def test_no_new_tokens(tiny, texts):
    prompts, _ = texts
    for result in toolchain.generate(tiny, prompts, "--max-new-tokens=0"):
        assert result["tokens"] == [] and result["text"] == ""
        assert result["finish_reason"] == "length"


def test_stop_strings_end_each_text_at_its_own_place(tiny, texts):
    prompts, full = texts
    results = toolchain.generate(
        tiny, prompts, "--max-new-tokens=48", "--stop=self", "--stop=\n\n"
    )
    reasons = set()
    for result, longer in zip(results, full, strict=True):
        places = [longer["text"].find(stop) for stop in ("self", "\n\n")]
        places = [place for place in places if place >= 0]
        end = min(places, default=None)
        assert result["text"] == longer["text"][:end]
        assert result["finish_reason"] == ("stop" if places else "length")
        count = len(result["tokens"])
        assert result["tokens"] == longer["tokens"][:count]
        assert (count < len(longer["tokens"])) == bool(places)
        reasons.add(result["finish_reason"])
    assert reasons == {"stop", "length"}


def test_stop_string_across_tokens(tiny, texts):
    prompts, full = texts
    text = full[2]["text"]
    stop = text[9:15]
    [result] = toolchain.generate(
        tiny, prompts[2:3], "--max-new-tokens=48", f"--stop={stop}"
    )
    assert result["text"] == cut(full[2], stop)
    assert result["finish_reason"] == "stop"


def test_requests_of_a_batch_have_their_own_options(tiny, texts):
    """One batch through the C interface; each as if it were alone."""
    prompts, full = texts
    stop = full[1]["text"][6:10]
    requests = [
        {"tokens": prompts[0], "max_new_tokens": 5},
        {"tokens": prompts[1], "max_new_tokens": 48, "stops": [stop]},
        {"tokens": prompts[2], "max_new_tokens": 1},
        {"tokens": prompts[3], "max_new_tokens": 30, "temperature": 1.0,
         "top_k": 40, "seed": 9},
        {"tokens": prompts[3], "max_new_tokens": 30, "temperature": 1.0,
         "top_k": 40, "seed": 10},
        {"tokens": prompts[4], "max_new_tokens": 20,
         "repetition_penalty": 1.3},
        {"tokens": prompts[5], "max_new_tokens": 48, "stops": ["no such"]},
        {"tokens": prompts[5], "max_new_tokens": 0},
    ]  # fmt: skip
    if not c_api.LIBRARY.exists():
        pytest.skip(f"{c_api.LIBRARY.name} is not built")
    with c_api.Model(tiny) as model:
        batch = model.generate(requests)
        assert batch == [model.generate([item])[0] for item in requests]
        assert model.generate(requests[::-1]) == batch[::-1]
    assert batch[0]["tokens"] == full[0]["tokens"][:5]
    assert batch[1]["text"] == cut(full[1], stop)
    assert batch[1]["finish_reason"] == "stop"
    assert batch[2]["tokens"] == full[2]["tokens"][:1]
    assert batch[3]["tokens"] != batch[4]["tokens"]
    assert batch[6] == {key: full[5][key] for key in batch[6]}
    assert batch[7]["tokens"] == []
    reasons = [result["finish_reason"] for result in batch]
    assert reasons == ["length", "stop"] + ["length"] * 6


def test_end_of_sequence_ends_a_text(packages, texts, tmp_path):
    prompts, full = texts
    folder = tmp_path / "model"
    shutil.copytree(make_references.TINY, folder)
    path = folder / "generation_config.json"
    config = json.loads(path.read_text())
    ends = [full[0]["tokens"][7], full[1]["tokens"][11], 4095]
    config["eos_token_id"] = ends
    path.write_text(json.dumps(config))
    package = tmp_path / "package"
    toolchain.succeed("quantc", folder, "-o", package)
    results = toolchain.generate(package, prompts, "--max-new-tokens=48")
    counts = set()
    for result, longer in zip(results, full, strict=True):
        places = [i for i, t in enumerate(longer["tokens"]) if t in ends]
        count = places[0] + 1 if places else len(longer["tokens"])
        assert result["tokens"] == longer["tokens"][:count]
        assert result["finish_reason"] == ("stop" if places else "length")
        assert longer["text"].startswith(result["text"])
        counts.add(count)
    assert len(counts) >= 3
    ignored = toolchain.generate(
        package, prompts, "--max-new-tokens=48", "--ignore-eos"
    )
    assert [r["tokens"] for r in ignored] == [r["tokens"] for r in full]


def test_context_ends_texts(packages):
    package = packages.compile(NAME, *WEIGHTS["int8"], "--max-context=32")
    prompts = draw_prompts([30, 31, 32, 3])
    results = toolchain.generate(
        package, prompts, "--max-new-tokens=100", "--ignore-eos"
    )
    assert [len(result["tokens"]) for result in results] == [2, 1, 0, 29]
    assert {result["finish_reason"] for result in results} == {"length"}


def test_stream_prints_the_text(tiny, texts):
    prompts, full = texts
    printed = toolchain.succeed(
        "quant-run", "generate", tiny, "--stream",
        f"--tokens={toolchain.join(prompts[4])}", "--max-new-tokens=48",
    )  # fmt: skip
    assert printed == full[4]["text"] + "\n"

# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Float packages compute what transformers computes."""

from __future__ import annotations

import doctest
import json

import make_references
import numpy as np
import pytest
import random_llama
import toolchain

NAMES = [spec.name for spec in random_llama.SPECS]
BOUND = 1e-5
"""Relative error of logits; other orders of sums stay under 1e-6."""

requires_avx512 = pytest.mark.skipif(
    not toolchain.has_avx512(), reason="the processor has no AVX512"
)
CASES = [
    *((name, "--target-cpu=native") for name in NAMES),
    *((name, "--target-cpu=x86-64-v3") for name in NAMES),
    *(
        pytest.param(name, "--target-cpu=x86-64-v4", marks=requires_avx512)
        for name in ("mha-f32", "head-dim-12", "three-shards", "mlp-bias")
    ),
    *(
        (name, "--plain-ops")
        for name in ("mha-f32", "gqa-bf16", "mqa-f16", "head-dim-20",
                     "attention-bias")
    ),
]  # fmt: skip


def greedy(package, prompts, count):
    results = toolchain.generate(
        package, prompts, "--max-new-tokens", count, "--ignore-eos"
    )
    assert {result["finish_reason"] for result in results} == {"length"}
    return [result["tokens"] for result in results]


def perplexity(package, *options):
    output = toolchain.succeed(
        "quant-run", "eval", package, "--text", make_references.HELDOUT,
        "--window", make_references.WINDOW, "--json", *options,
    )  # fmt: skip
    return json.loads(output)


@pytest.mark.parametrize("name, option", CASES)
def test_random_model_equals_transformers(packages, name, option):
    package = packages.compile(name, option)
    stored = toolchain.reference(name)
    actual = toolchain.logits(package, stored["tokens"])
    assert toolchain.relative_error(actual, stored["logits"]) < BOUND
    prompts = [stored["tokens"][:n] for n in stored["prompt_lengths"]]
    count = stored["greedy"].shape[1]
    assert greedy(package, prompts, count) == stored["greedy"].tolist()


@pytest.mark.parametrize("weights, bound", [("f16", 2e-3), ("bf16", 2e-2)])
@pytest.mark.parametrize("cpu", ["native", "x86-64-v3"])
def test_narrow_floats_stay_near(packages, weights, bound, cpu):
    options = ["--weights", weights, "--target-cpu", cpu]
    package = packages.compile("mha-f32", *options)
    stored = toolchain.reference("mha-f32")
    actual = toolchain.logits(package, stored["tokens"])
    error = toolchain.relative_error(actual, stored["logits"])
    assert BOUND < error < bound


@pytest.mark.parametrize(
    "name, weights", [("mqa-f16", "f16"), ("gqa-bf16", "bf16")]
)
@pytest.mark.parametrize("cpu", ["native", "x86-64-v3"])
def test_weights_of_the_source_type_lose_nothing(packages, name, weights, cpu):
    options = ["--weights", weights, "--target-cpu", cpu]
    package = packages.compile(name, *options)
    stored = toolchain.reference(name)
    actual = toolchain.logits(package, stored["tokens"])
    assert toolchain.relative_error(actual, stored["logits"]) < BOUND


@pytest.mark.parametrize("kv_cache, bound", [("f16", 1e-3), ("bf16", 1e-2),
                                             ("int8", 2e-2), ("fp8", 0.1)])
def test_narrow_cache_stays_near(packages, kv_cache, bound):
    package = packages.compile("gqa-bf16", "--kv-cache", kv_cache)
    stored = toolchain.reference("gqa-bf16")
    actual = toolchain.logits(package, stored["tokens"])
    error = toolchain.relative_error(actual, stored["logits"])
    assert BOUND < error < bound


@pytest.mark.parametrize(
    "option", ["--target-cpu=native", "--target-cpu=x86-64-v3", "--plain-ops"]
)
def test_tiny_model_equals_transformers(packages, option):
    package = packages.compile("tiny-llama", option)
    stored = toolchain.reference("tiny-llama")
    for index in range(len(make_references.LOGITS_TEXTS)):
        tokens = stored[f"logits_tokens.{index}"]
        expected = stored[f"logits.{index}"]
        actual = toolchain.logits(package, tokens)[-len(expected) :]
        assert toolchain.relative_error(actual, expected) < BOUND
    count = stored["greedy"].shape[1]
    prompts = [
        stored[f"prompt_tokens.{index}"]
        for index in range(len(stored["prompts"]))
    ]
    assert len(prompts) == 6
    assert greedy(package, prompts, count) == stored["greedy"].tolist()


def test_tiny_model_continues_texts(packages):
    stored = toolchain.reference("tiny-llama")
    texts = [str(text) for text in stored["prompts"]]
    options = [f"--prompt={text}" for text in texts]
    results = toolchain.generate(
        packages.compile("tiny-llama", "--target-cpu=native"), [], *options,
        "--max-new-tokens", stored["greedy"].shape[1], "--ignore-eos",
    )  # fmt: skip
    tokens = [result["tokens"] for result in results]
    assert tokens == stored["greedy"].tolist()
    assert len({result["text"] for result in results}) == len(texts)


def test_tiny_model_has_the_stored_perplexity(packages):
    stored = toolchain.reference("tiny-llama")
    package = packages.compile("tiny-llama", "--target-cpu=native")
    measured = perplexity(package)
    assert measured["tokens"] == stored["perplexity_tokens"]
    assert abs(measured["perplexity"] - stored["perplexity"]) < 1e-3


def test_a_package_has_no_distance_to_itself(packages):
    package = packages.compile("tiny-llama", "--target-cpu=native")
    measured = perplexity(package, "--max-tokens=600", "--reference", package)
    assert measured["kl"] == pytest.approx(0, abs=1e-6)
    assert measured["top1_agreement"] == 1
    assert np.isfinite(measured["perplexity"])


def test_toolchain_doctests():
    assert doctest.testmod(toolchain).failed == 0

# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Accuracy cards, their limit, and errors of layers."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import toolchain

HELDOUT = toolchain.make_references.TINY.parent / "heldout.txt"
LIMITS = ["--max-context", "128", "--max-step-tokens", "128"]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "measured.txt"
    path.write_text(HELDOUT.read_text()[:4000])
    return path


def evaluate(package, text, *options) -> dict:
    return json.loads(toolchain.succeed(
        "quant-run", "eval", package, "--text", text, "--window", 128,
        "--json", *options))


def test_card_equals_eval(packages, text, tmp_path):
    exact = packages.compile("tiny-llama", *LIMITS)
    package = tmp_path / "pkg"
    toolchain.succeed("quantc", packages.model("tiny-llama"), "-o", package,
                      *LIMITS, "--weights", "int4", "--evaluation", text,
                      "--max-kl", 0.5)
    assert os.listdir(tmp_path) == ["pkg"]
    card = json.loads((package / "manifest.json").read_text())["accuracy"]
    measured = evaluate(package, text, "--reference", exact)
    assert card["reference"] == "f32" and card["text"] == "measured.txt"
    assert card["tokens"] == measured["tokens"]
    for key in ("perplexity", "kl", "top1_agreement"):
        assert np.isclose(card[key], measured[key], rtol=1e-6), key
    assert np.isclose(card["reference_perplexity"],
                      evaluate(exact, text)["perplexity"], rtol=1e-6)
    # The manifest's checksum counts the card.
    toolchain.succeed("quant-run", "inspect", package)


def test_package_above_the_limit_is_not_written(packages, text, tmp_path):
    done = toolchain.run(
        "quantc", packages.model("tiny-llama"), "-o", tmp_path / "pkg",
        *LIMITS, "--weights", "int4", "--evaluation", text, "--max-kl", "1e-4")
    assert done.returncode == 1
    assert "kl against float32 weights must be at most 0.0001, got" in done.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("options, message", [
    (["--max-kl", "0.1"], "--max-kl needs a text: --evaluation FILE"),
    (["--max-kl", "-1", "--evaluation", "x"], "--max-kl must be a number"),
    (["--damping", "2"], "--damping must be a number from 0 to 1, got '2'"),
])
def test_wrong_usage(packages, tmp_path, options, message):
    done = toolchain.run("quantc", packages.model("tiny-llama"), "-o",
                         tmp_path / "pkg", *options)
    assert done.returncode == 2
    assert message in done.stderr


def test_errors_of_layers(packages, text, tmp_path):
    exact = packages.compile("tiny-llama", *LIMITS, "--observe")
    int8 = packages.compile("tiny-llama", *LIMITS, "--observe", "--weights",
                            "int8")
    int4 = packages.compile("tiny-llama", *LIMITS, "--observe", "--weights",
                            "int4")
    fine = evaluate(int8, text, "--reference", exact, "--layers")["layers"]
    coarse = evaluate(int4, text, "--reference", exact, "--layers")["layers"]
    assert list(fine) == [
        *(f"layers.{i}.{part}" for i in range(6)
          for part in ("qkv", "o", "gate_up", "down")), "lm_head"]
    # The first inputs come before any rounded weight.
    assert fine["layers.0.qkv"] == 0 and coarse["layers.0.qkv"] == 0
    for label in list(fine)[1:]:
        assert 0 < fine[label] < coarse[label] < 1, label
    same = evaluate(exact, text, "--reference", exact, "--layers")["layers"]
    assert set(same.values()) == {0}
    # Observers change no result.
    plain = packages.compile("tiny-llama", *LIMITS)
    assert evaluate(exact, text) == evaluate(plain, text)
    done = toolchain.run("quant-run", "eval", plain, "--text", text,
                         "--reference", exact, "--layers", "--window", 128)
    assert done.returncode == 1
    assert "compile both with --observe" in done.stderr

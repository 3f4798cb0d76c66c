# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Checks that the stored references belong to the models made here."""

import doctest
import json
import struct

import make_random_model
import make_references
import numpy as np
import pytest
import random_llama

NAMES = [spec.name for spec in random_llama.SPECS]


def reference(name):
    return np.load(make_references.REFERENCES / f"{name}.npz")


@pytest.mark.parametrize("name", NAMES)
def test_random_model_is_the_one_of_the_reference(name, tmp_path):
    spec = random_llama.find(name)
    random_llama.write_model(spec, tmp_path)
    stored = reference(name)
    assert make_references.digest(tmp_path) == str(stored["sha256"])
    assert stored["logits"].shape == (make_references.TOKENS, spec.vocab)
    assert stored["tokens"].max() < spec.vocab
    assert make_references.is_clear(stored)


def test_tiny_model_is_the_one_of_the_reference():
    stored = reference("tiny-llama")
    digest = make_references.digest(make_references.TINY, "*.safetensors")
    assert digest == str(stored["sha256"])
    scored = int(stored["perplexity_tokens"])
    perplexity = np.exp(stored["nll_sum"] / scored)
    assert stored["perplexity"] == pytest.approx(perplexity, rel=1e-12)


@pytest.mark.parametrize("name", ["rope-llama3-new", "three-shards"])
def test_reference_is_what_transformers_computes(name):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    stored = reference(name)
    live = make_references.random_reference(random_llama.find(name))
    error = np.linalg.norm(live["logits"] - stored["logits"])
    assert error < 1e-5 * np.linalg.norm(stored["logits"])
    assert (live["greedy"] == stored["greedy"]).all()


def test_bf16_rounds_ties_to_even():
    values = np.array(
        [0x3F800000, 0x3F808000, 0x3F818000, 0x3F808001, 0xBF7FFFFF, 0x8000],
        np.uint32,
    )
    bits = random_llama.bf16_bits(values.view(np.float32))
    assert bits.tolist() == [0x3F80, 0x3F80, 0x3F82, 0x3F81, 0xBF80, 0x0000]


def test_random_llama_doctests():
    assert doctest.testmod(random_llama).failed == 0


def test_shards_cover_each_tensor_once(tmp_path):
    spec = random_llama.find("gqa-bf16")
    make_random_model.write_model(spec, tmp_path, shard_bytes=60_000)
    text = (tmp_path / "model.safetensors.index.json").read_text()
    where = json.loads(text)["weight_map"]
    assert list(where) == list(random_llama.shapes_of(spec))
    for file in sorted(set(where.values())):
        data = (tmp_path / file).read_bytes()
        (size,) = struct.unpack_from("<Q", data)
        header = json.loads(data[8 : 8 + size])
        header.pop("__metadata__")
        assert sorted(header) == sorted(n for n in where if where[n] == file)
        end = max(t["data_offsets"][1] for t in header.values())
        assert len(data) == 8 + size + end


def test_readme_names_every_heldout_topic():
    models = make_references.TINY.parent
    source = (models / "python_corpus.py").read_text(encoding="utf-8")
    listed = source.split("HELDOUT = (")[1].split(")")[0]
    readme = (models / "README.md").read_text(encoding="utf-8")
    for topic in listed.replace('"', "").replace(",", "").split():
        assert f"`{topic}`" in readme

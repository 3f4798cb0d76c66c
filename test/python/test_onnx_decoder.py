# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Decoders in ONNX files, raised to models, against their folders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy_llama
import pytest
import toolchain

onnx = pytest.importorskip("onnx")

from onnx.reference import ReferenceEvaluator  # noqa: E402
from onnx_decoders import Decoder  # noqa: E402

STYLES = {
    "plain": {},
    "cached": {"cached": True},
    "contributed": {"contributed": True},
}
PROMPTS = [[1, 5, 9], [4], [7, 7, 2, 3, 11, 30]]


def compile_decoder(
    path: Path, decoder: Decoder, folder: Path, *options: object, data: bool = False
) -> Path:
    model = decoder.build()
    onnx.save(
        model, path, save_as_external_data=data, location=path.name + ".data",
        size_threshold=0,
    )  # fmt: skip
    package = path.with_suffix(".qlm")
    toolchain.succeed(
        "quantc", path, "-o", package, "--tokenizer", folder, "--quiet", *options
    )
    return package


def refuse(path: Path, model: onnx.ModelProto, folder: Path) -> str:
    onnx.save(model, path)
    package = path.with_suffix(".qlm")
    done = toolchain.run("quantc", path, "-o", package, "--tokenizer", folder)
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert not package.exists()
    return done.stderr.strip()


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", ["gqa-bf16", "attention-bias", "rope-llama3-old"])
def test_logits_equal_numpy_in_float64(tmp_path, packages, name, style):
    folder = packages.model(name)
    decoder = Decoder(folder, **STYLES[style])
    package = compile_decoder(
        tmp_path / "m.onnx", decoder, folder, data=style == "cached"
    )
    tokens = [1, 17, 40, 3, 99, 2, 64]
    expected = numpy_llama.Llama(folder).logits(np.array(tokens))
    error = toolchain.relative_error(toolchain.logits(package, tokens), expected)
    assert error < 2e-5


def test_the_plain_graph_means_the_model(packages):
    """What the other tests compile is what ONNX's evaluator understands."""
    folder = packages.model("gqa-bf16")
    tokens = np.array([[1, 17, 40, 3, 99, 2, 64]])
    model = Decoder(folder).build()
    onnx.checker.check_model(model)
    [got] = ReferenceEvaluator(model).run(None, {"input_ids": tokens})
    expected = numpy_llama.Llama(folder).logits(tokens[0])
    assert toolchain.relative_error(got[0], expected) < 2e-5


@pytest.mark.parametrize("style", STYLES)
def test_greedy_tokens_equal_those_of_the_folder(tmp_path, packages, style):
    folder = packages.model("tiny-llama")
    package = compile_decoder(
        tmp_path / "m.onnx", Decoder(folder, **STYLES[style]), folder
    )
    options = ("--max-new-tokens", "24")
    expected = toolchain.generate(packages.compile("tiny-llama"), PROMPTS, *options)
    got = toolchain.generate(package, PROMPTS, *options)
    assert [r["tokens"] for r in got] == [r["tokens"] for r in expected]


def test_quantized_as_the_folder_is(tmp_path, packages):
    folder = packages.model("gqa-bf16")
    options = ("--weights", "int8", "--activations", "int8-dynamic")
    package = compile_decoder(tmp_path / "m.onnx", Decoder(folder), folder, *options)
    tokens = [1, 17, 40, 3]
    expected = toolchain.logits(packages.compile("gqa-bf16", *options), tokens)
    # The same codes; the graph's scale of scores is a product of two roots.
    error = toolchain.relative_error(toolchain.logits(package, tokens), expected)
    assert error < 1e-6


@pytest.mark.parametrize("style", STYLES)
def test_the_package_is_that_of_the_folder(tmp_path, packages, style):
    """The same launches of the same kernels' sizes on the same packed bytes, and
    so the same speed. Angles of rotations are the graph's own."""
    folder = packages.model("mha-f32")
    options = ("--weights", "int8", "--activations", "int8-dynamic")
    decoder = Decoder(folder, **STYLES[style])
    package = compile_decoder(tmp_path / "m.onnx", decoder, folder, *options)
    theirs = packages.compile("mha-f32", *options)
    launches = [json.loads((p / "manifest.json").read_text())["launches"]
                for p in (package, theirs)]  # fmt: skip
    assert launches[0] == launches[1] and len(launches[0]) > 10
    got, expected = (toolchain.read_safetensors(p / "weights.safetensors")
                     for p in (package, theirs))  # fmt: skip
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        if name == "rope_table":
            np.testing.assert_allclose(got[name], array, atol=1e-4)
        else:
            assert got[name].tobytes() == array.tobytes(), name


def test_a_window_is_no_causal_mask(tmp_path, packages):
    folder = packages.model("gqa-bf16")
    model = Decoder(folder, cached=True, window=20).build()
    text = refuse(tmp_path / "m.onnx", model, folder)
    assert "(Attention): the mask must hide later tokens, and no others" in text
    assert "for token 20 and token 0" in text


def test_what_is_no_decoder_is_named(tmp_path, packages):
    folder = packages.model("gqa-bf16")
    model = Decoder(folder).build()
    [node] = [n for n in model.graph.node if n.op_type == "Sigmoid"][1:2]
    node.op_type = "Tanh"
    text = refuse(tmp_path / "m.onnx", model, folder)
    assert f"node '{node.name}' (Tanh): a decoder's layers have no such operator" in text


def test_another_folder_is_refused(tmp_path, packages):
    model = Decoder(packages.model("gqa-bf16")).build()
    text = refuse(tmp_path / "m.onnx", model, packages.model("attention-bias"))
    assert "the graph's" in text and "the folder's config.json says" in text


def test_a_tokenizer_is_for_onnx_files(tmp_path, packages):
    folder = packages.model("gqa-bf16")
    done = toolchain.run("quantc", folder, "-o", tmp_path / "p", "--tokenizer", folder)
    assert done.returncode == 2
    assert "--tokenizer is for ONNX files" in done.stderr


@pytest.mark.parametrize("style", ["plain", "contributed"])
def test_packed_weights_are_what_their_codes_stand_for(tmp_path, packages, style):
    folder = packages.model("attention-bias")
    decoder = Decoder(folder, packed=16, **STYLES[style])
    package = compile_decoder(tmp_path / "m.onnx", decoder, folder)
    tokens = [1, 17, 40, 3, 99, 2, 64]
    # The decoder put the codes' values in the place of the model's weights.
    expected = decoder.llama.logits(np.array(tokens))
    error = toolchain.relative_error(toolchain.logits(package, tokens), expected)
    assert error < 2e-5


@pytest.mark.parametrize("options", [(), ("--weights", "int8")])
def test_codes_of_packed_weights_are_kept(tmp_path, packages, options):
    """Those of joined projections too: the package says so, and their weights
    are codes."""
    folder = packages.model("attention-bias")
    decoder = Decoder(folder, packed=16)
    package = compile_decoder(tmp_path / "m.onnx", decoder, folder, *options)
    manifest = json.loads((package / "manifest.json").read_text())
    assert manifest["quantization"]["method"] == "keep"
    assert manifest["quantization"]["weights"] == "int4-g16-zp"
    weights = toolchain.read_safetensors(package / "weights.safetensors")
    linears = {n: a for n, a in weights.items()
               if n.endswith((".qkv.weight", ".o.weight", ".gate_up.weight",
                              ".down.weight"))}  # fmt: skip
    assert len(linears) == 4 * decoder.llama.config["num_hidden_layers"]
    assert {array.dtype for array in linears.values()} == {np.dtype(np.uint8)}
    tokens = [1, 17, 40, 3]
    expected = decoder.llama.logits(np.array(tokens))
    error = toolchain.relative_error(toolchain.logits(package, tokens), expected)
    assert error < (2e-2 if options else 2e-5)


def test_codes_of_other_sizes_are_not_joined(tmp_path, packages):
    """One projection of 8 bits among those of 4: values are, as float32."""
    folder = packages.model("attention-bias")
    decoder = Decoder(folder, packed=16, wide=("v_proj",))
    package = compile_decoder(tmp_path / "m.onnx", decoder, folder)
    tokens = [1, 17, 40, 3]
    expected = decoder.llama.logits(np.array(tokens))
    error = toolchain.relative_error(toolchain.logits(package, tokens), expected)
    assert error < 2e-5


def test_packed_weights_of_another_size_are_refused(tmp_path, packages):
    folder = packages.model("attention-bias")
    model = Decoder(folder, packed=16).build()
    node = next(n for n in model.graph.node if n.op_type == "MatMulNBits")
    next(a for a in node.attribute if a.name == "K").i += 16
    text = refuse(tmp_path / "m.onnx", model, folder)
    assert f"node '{node.name}' (com.microsoft.MatMulNBits): codes must have" in text


def test_functions_of_a_decoder_are_inlined(tmp_path, packages):
    """Each normalization as a call of a function of the model."""
    folder = packages.model("gqa-bf16")
    model = Decoder(folder, contributed=True).build()
    body = onnx.helper.make_node(
        "SimplifiedLayerNormalization", ["a", "w"], ["b"], axis=-1
    )
    body.attribute.append(onnx.AttributeProto(
        name="epsilon", ref_attr_name="epsilon", type=onnx.AttributeProto.FLOAT
    ))  # fmt: skip
    for node in model.graph.node:
        if node.op_type == "SimplifiedLayerNormalization":
            node.op_type, node.domain = "Norm", "com.example"
            for attribute in [a for a in node.attribute if a.name == "axis"]:
                node.attribute.remove(attribute)
    model.opset_import.append(onnx.helper.make_opsetid("com.example", 1))
    model.functions.append(onnx.helper.make_function(
        "com.example", "Norm", ["a", "w"], ["b"], [body], [model.opset_import[0]],
        attributes=["epsilon"],
    ))  # fmt: skip
    onnx.save(model, tmp_path / "m.onnx")
    package = tmp_path / "m.qlm"
    toolchain.succeed("quantc", tmp_path / "m.onnx", "-o", package, "--tokenizer",
                      folder, "--quiet")  # fmt: skip
    tokens = [1, 17, 40, 3]
    expected = numpy_llama.Llama(folder).logits(np.array(tokens))
    error = toolchain.relative_error(toolchain.logits(package, tokens), expected)
    assert error < 2e-5

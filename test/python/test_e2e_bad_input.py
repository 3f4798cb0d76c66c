# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Bad input gets one line that names it, exit code 1, and leaves nothing.

Damaged models, options that don't fit, damaged packages and paths that can't
be written, through the tools as people call them.
"""

from __future__ import annotations

import json
import re
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import toolchain

NAME = "mha-f32"
SHARDED = "three-shards"
TENSOR = "model.layers.1.mlp.up_proj.weight"


def refuse(code, tool, *arguments):
    """The one line that a tool refuses with, without its name."""
    done = toolchain.run(tool, *arguments)
    assert done.returncode == code, (done.returncode, done.stderr)
    assert done.stdout == ""
    assert done.stderr.endswith("\n") and done.stderr.count("\n") == 1
    found = re.fullmatch(rf"{tool}( [a-z]+)?: error: (.*)\n", done.stderr)
    assert found and (found[1] is None or code == 2), done.stderr
    assert not found[2].endswith(".")
    return found[2]


def tree(folder):
    """Each path below a folder, with its size and bytes."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        if path.is_file()
        else None
        for path in sorted(Path(folder).rglob("*"))
    }


@pytest.fixture
def copy(packages, tmp_path):
    """Makes a copy of a model's folder, to be damaged."""

    def make(name=NAME):
        folder = tmp_path / "model"
        shutil.copytree(packages.model(name), folder)
        return folder

    return make


def refuse_model(folder, *options):
    """quantc's line about a model; checks that nothing is left behind."""
    parent = folder.parent
    before = tree(parent)
    line = refuse(1, "quantc", folder, "-o", parent / "package", *options)
    assert tree(parent) == before
    return line


def edit_header(path, change):
    """Rewrites the JSON header of a safetensors file, data untouched."""
    data = path.read_bytes()
    (size,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + size])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])


def edit_json(path, **changes):
    """Sets members of a JSON file; None takes one away."""
    config = json.loads(path.read_text())
    config.update(changes)
    config = {key: value for key, value in config.items() if value is not None}
    path.write_text(json.dumps(config))


# Models


@pytest.mark.parametrize(
    "name, file",
    [
        (NAME, "config.json"),
        (NAME, "model.safetensors"),
        (SHARDED, "model-00002-of-00003.safetensors"),
    ],
)
def test_missing_file(copy, name, file):
    folder = copy(name)
    (folder / file).unlink()
    assert file in refuse_model(folder)


def test_missing_folder(tmp_path):
    assert "nowhere" in refuse_model(tmp_path / "nowhere")


def test_file_instead_of_a_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    assert "file" in refuse_model(tmp_path / "file")


@pytest.mark.parametrize("kept", [0, 4, 8, 100, 0.5, -1])
@pytest.mark.parametrize("name", [NAME, SHARDED])
def test_truncated_safetensors(copy, name, kept):
    folder = copy(name)
    path = sorted(folder.glob("*.safetensors"))[-1]
    data = path.read_bytes()
    end = int(kept * len(data)) if isinstance(kept, float) else kept
    path.write_bytes(data[:end])
    assert path.name in refuse_model(folder)


def test_bytes_behind_the_last_tensor(copy):
    path = copy() / "model.safetensors"
    path.write_bytes(path.read_bytes() + bytes(64))
    assert path.name in refuse_model(path.parent)


def move(begin, end):
    def change(header):
        offsets = header[TENSOR]["data_offsets"]
        header[TENSOR]["data_offsets"] = [offsets[0] + begin,
                                          offsets[1] + end]  # fmt: skip

    return change


def set_entry(**fields):
    def change(header):
        header[TENSOR].update(fields)

    return change


@pytest.mark.parametrize(
    "change",
    [
        move(0, 4),
        move(4, 0),
        move(-4, -4),
        move(1 << 40, 1 << 40),
        move(1 << 62, 1 << 62),
        set_entry(data_offsets=[-8, 0]),
        set_entry(data_offsets=[16, 8]),
        set_entry(data_offsets=[0]),
        set_entry(data_offsets="0"),
        set_entry(shape=[128, 65]),
        set_entry(shape=[1 << 32, 1 << 32]),
        set_entry(shape=[-128, -64]),
        set_entry(dtype="F16"),
        set_entry(dtype="Q4_K"),
    ],
    ids=range(14),
)
def test_header_that_lies(copy, change):
    path = copy() / "model.safetensors"
    edit_header(path, change)
    line = refuse_model(path.parent)
    # Data that moved away leaves a hole, told of the tensor behind it.
    behind = TENSOR.replace("up_proj", "down_proj")
    assert path.name in line
    assert TENSOR in line or (f"{behind}': data leaves a hole" in line)


@pytest.mark.parametrize(
    "size", [0, 1 << 20, (1 << 63) - 1, (1 << 64) - 1], ids=hex
)
def test_header_size_that_lies(copy, size):
    path = copy() / "model.safetensors"
    path.write_bytes(struct.pack("<Q", size) + path.read_bytes()[8:])
    assert path.name in refuse_model(path.parent)


def test_header_that_is_no_json(copy):
    path = copy() / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:20] + b"\xff" + data[21:])
    assert path.name in refuse_model(path.parent)


def test_missing_tensor(copy):
    path = copy() / "model.safetensors"
    edit_header(
        path, lambda h: h.update({TENSOR + "x": h.pop(TENSOR)})
    )
    assert TENSOR in refuse_model(path.parent)


def test_shard_without_its_tensor(copy):
    path = copy(SHARDED) / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    files = sorted(set(index["weight_map"].values()))
    held = index["weight_map"][TENSOR]
    index["weight_map"][TENSOR] = next(f for f in files if f != held)
    path.write_text(json.dumps(index))
    assert TENSOR in refuse_model(path.parent)


def test_index_that_leaves_the_folder(copy):
    path = copy(SHARDED) / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"][TENSOR] = "../other.safetensors"
    path.write_text(json.dumps(index))
    assert "../other.safetensors" in refuse_model(path.parent)


@pytest.mark.parametrize(
    "changes, tensor",
    [
        ({"vocab_size": 98}, "model.embed_tokens.weight"),
        ({"hidden_size": 128}, "model.embed_tokens.weight"),
        ({"intermediate_size": 256}, "mlp."),
        ({"num_key_value_heads": 2}, "k_proj.weight"),
        ({"head_dim": 32}, "q_proj.weight"),
        ({"num_hidden_layers": 3}, "model.layers.2."),
        ({"attention_bias": True}, "_proj.bias"),
    ],
)
def test_shapes_that_do_not_match_the_config(copy, changes, tensor):
    path = copy() / "config.json"
    edit_json(path, **changes)
    assert tensor in refuse_model(path.parent)


@pytest.mark.parametrize(
    "changes, word",
    [
        ({"architectures": ["MambaForCausalLM"], "model_type": "mamba"},
         "MambaForCausalLM"),
        ({"architectures": None, "model_type": "mamba"}, "architectures"),
        ({"architectures": []}, "architectures"),
        ({"hidden_act": "relu"}, "relu"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "yarn"),
        ({"rope_scaling": {"rope_type": "linear"}}, "factor"),
        ({"hidden_size": None}, "hidden_size"),
        ({"hidden_size": "64"}, "hidden_size"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"num_hidden_layers": -1}, "num_hidden_layers"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"rms_norm_eps": -1.0}, "rms_norm_eps"),
        ({"vocab_size": 1 << 62}, "vocab_size"),
    ],
)  # fmt: skip
def test_config_that_is_refused(copy, changes, word):
    path = copy() / "config.json"
    edit_json(path, **changes)
    line = refuse_model(path.parent)
    assert word in line and "config.json" in line


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"a": 1} x', "\xff"], ids=repr
)
def test_config_that_is_no_json(copy, text):
    path = copy() / "config.json"
    path.write_text(text, encoding="latin-1")
    assert "config.json" in refuse_model(path.parent)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("weights", ["f32", "int8"])
def test_weight_that_is_not_finite(copy, value, weights):
    path = copy() / "model.safetensors"
    data = bytearray(path.read_bytes())
    (size,) = struct.unpack_from("<Q", data)
    begin = json.loads(data[8 : 8 + size])[TENSOR]["data_offsets"][0]
    struct.pack_into("<f", data, 8 + size + begin + 400, value)
    path.write_bytes(data)
    line = refuse_model(path.parent, "--weights", weights)
    assert TENSOR in line
    # Asked for, it is named, counts as 0, and the package is made.
    package = path.parent.parent / "allowed.qlm"
    done = toolchain.run("quantc", path.parent, "-o", package, "--weights",
                         weights, "--allow-nonfinite")
    assert done.returncode == 0, done.stderr
    assert (f"quantc: warning: weight '{TENSOR}' is not finite, got {value} at "
            in done.stderr)
    assert done.stderr.count("is not finite") == 1


def test_groups_of_zeros_are_counted(copy):
    """An all-zero row is no error: it stays zero and is told."""
    path = copy() / "model.safetensors"
    data = bytearray(path.read_bytes())
    (size,) = struct.unpack_from("<Q", data)
    entry = json.loads(data[8 : 8 + size])[TENSOR]
    first, last = (8 + size + at for at in entry["data_offsets"])
    data[first:last] = bytes(last - first)
    path.write_bytes(data)
    done = toolchain.run("quantc", path.parent, "-o",
                         path.parent.parent / "zeros.qlm", "--weights", "int8")
    assert done.returncode == 0, done.stderr
    rows = entry["shape"][0]
    assert re.search(rf"warning: weight '.*': {rows} of \d+ groups are all zero",
                     done.stderr)


# Options


@pytest.mark.parametrize("group", [24, 48, 128, 1024])
def test_group_size_that_does_not_divide(packages, copy, group):
    line = refuse_model(copy(), "--weights=int4", "--group-size", group)
    assert f"group size must divide the columns, got {group} and 64" in line
    assert re.search(r"layers\.\d+\.\w+", line)


@pytest.mark.parametrize("target", ["model", "file", "below"])
def test_path_that_cannot_be_written(copy, tmp_path, target):
    folder = copy()
    (tmp_path / "file").write_text("x")
    output = {
        "model": folder,  # would replace the model
        "file": tmp_path / "file",
        "below": tmp_path / "file" / "package",  # refused to root as well
    }[target]
    before = tree(tmp_path)
    assert str(output) in refuse(1, "quantc", folder, "-o", output)
    assert tree(tmp_path) == before


def test_ir_path_that_cannot_be_written(copy, tmp_path):
    folder = copy()
    (tmp_path / "file").write_text("x")
    output = tmp_path / "file" / "model.mlir"
    before = tree(tmp_path)
    line = refuse(1, "quantc", folder, "--to=lower", "-o", output)
    assert str(output) in line
    assert tree(tmp_path) == before


def test_failed_compilation_keeps_the_old_package(copy, tmp_path):
    folder, package = copy(), tmp_path / "package"
    toolchain.succeed("quantc", folder, "-o", package)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    before = tree(tmp_path)
    refuse(1, "quantc", folder, "-o", package)
    assert tree(tmp_path) == before
    toolchain.logits(package, [1, 2, 3])


@pytest.mark.parametrize(
    "arguments, word",
    [
        (["MODEL"], "-o"),
        (["-o", "PACKAGE"], "MODEL"),
        (["MODEL", "-o", "PACKAGE", "--no-such-option"], "--no-such-option"),
        (["MODEL", "-o", "PACKAGE", "--weights=int3"], "int3"),
        (["MODEL", "-o", "PACKAGE", "--target-cpu=i386"], "i386"),
        (["MODEL", "-o", "PACKAGE", "--group-size=-1"], "--group-size"),
        (["MODEL", "-o", "PACKAGE", "--max-batch=x"], "--max-batch"),
        (["MODEL", "OTHER", "-o", "PACKAGE"], "positional"),
    ],
)
def test_wrong_usage_of_quantc(tmp_path, packages, arguments, word):
    names = {"MODEL": packages.model(NAME), "PACKAGE": tmp_path / "package"}
    arguments = [names.get(argument, argument) for argument in arguments]
    assert word in refuse(2, "quantc", *arguments)
    assert tree(tmp_path) == {}


@pytest.mark.parametrize(
    "arguments, word",
    [
        (["logits", "PACKAGE"], "--tokens"),
        (["logits", "PACKAGE", "--tokens=1,x", "-o", "OUT"], "--tokens"),
        (["logits", "--tokens=1", "-o", "OUT"], "no package"),
        (["generate", "PACKAGE"], "--prompt"),
        (["generate", "PACKAGE", "--no-such-option"], "--no-such-option"),
        (["generate", "PACKAGE", "--tokens=1", "--seed=-1"], "--seed"),
        (["generate", "PACKAGE", "--tokens=1", "--top-p=x"], "--top-p"),
        (["eval", "PACKAGE"], "--text"),
        (["translate", "PACKAGE"], "translate"),
    ],
)
def test_wrong_usage_of_quant_run(tmp_path, packages, arguments, word):
    names = {"PACKAGE": packages.compile(NAME), "OUT": tmp_path / "out.npy"}
    arguments = [names.get(argument, argument) for argument in arguments]
    assert word in refuse(2, "quant-run", *arguments)
    assert tree(tmp_path) == {}


# Packages


@pytest.fixture(scope="module")
def sound(packages):
    """A package of the tiny model, with each kind of file."""
    return packages.compile("tiny-llama", "--weights=int8", "--max-context=64")


@pytest.fixture
def damaged(sound, tmp_path):
    """A copy of a package, to be damaged."""
    shutil.copytree(sound, tmp_path / "package")
    return tmp_path / "package"


FILES = (
    "manifest.json",
    "weights.safetensors",
    "module.cpu.so",
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "config.json",
)


def refuse_package(package, *options):
    """quant-run's line about a package, the same for each command."""
    output = package.parent / "out.npy"
    before = set(tree(package.parent))
    lines = {
        refuse(1, "quant-run", "generate", package, "--tokens=1", *options),
        refuse(
            1, "quant-run", "logits", package, "--tokens=1", "-o", output,
            *options,
        ),
    }  # fmt: skip
    assert len(lines) == 1
    assert set(tree(package.parent)) == before
    return lines.pop()


def test_package_has_the_files_that_are_damaged_here(sound):
    assert sorted(path.name for path in sound.iterdir()) == sorted(FILES)


@pytest.mark.parametrize("place", [0.0, 0.001, 0.3, 0.77, 1.0])
@pytest.mark.parametrize("file", FILES)
def test_flipped_byte(damaged, file, place):
    path = damaged / file
    data = bytearray(path.read_bytes())
    at = int(place * (len(data) - 1))
    data[at] ^= 0x10
    path.write_bytes(data)
    assert file in refuse_package(damaged)


def test_flipped_bits_of_the_manifest(damaged):
    """None passes, though most leave it well formed or in range."""
    path = damaged / "manifest.json"
    good = path.read_bytes()
    rng = np.random.default_rng(3)
    for at in rng.integers(0, len(good), 60):
        data = bytearray(good)
        data[at] ^= 1 << rng.integers(0, 7)
        path.write_bytes(data)
        line = refuse(1, "quant-run", "inspect", damaged)
        assert "manifest.json" in line, at


@pytest.mark.parametrize("file", FILES)
def test_missing_file_of_a_package(damaged, file):
    (damaged / file).unlink()
    assert file in refuse_package(damaged)


@pytest.mark.parametrize("file", FILES)
def test_truncated_file_of_a_package(damaged, file):
    path = damaged / file
    path.write_bytes(path.read_bytes()[:-3])
    assert file in refuse_package(damaged)


def test_damaged_weights_pass_unverified(damaged):
    """What --no-verify leaves out is the weights' checksum, no more."""
    path = damaged / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    toolchain.generate(
        damaged, [[1]], "--max-new-tokens=1", "--no-verify"
    )
    path.write_bytes(data[:-64])
    assert path.name in refuse_package(damaged, "--no-verify")


@pytest.mark.parametrize("version", [0, 1, 999])
def test_package_of_another_version(damaged, version):
    edit_json(damaged / "manifest.json", version=version)
    line = refuse_package(damaged)
    assert "manifest.json" in line
    assert f"version {version}, this runtime reads version 2" in line


def test_folder_that_is_no_package(packages, tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere", packages.model(NAME)):
        line = refuse(1, "quant-run", "generate", folder, "--tokens=1")
        assert str(folder) in line


def test_prompt_longer_than_the_context(sound, tmp_path):
    tokens = toolchain.join([5] * 65)
    line = refuse(1, "quant-run", "generate", sound, "--tokens", tokens)
    assert "65 tokens" in line and "64" in line
    line = refuse(
        1, "quant-run", "logits", sound, "--tokens", tokens,
        "-o", tmp_path / "out.npy",
    )  # fmt: skip
    assert "65" in line and "64" in line
    assert tree(tmp_path) == {}
    assert refuse(
        1, "quant-run", "generate", sound, "--tokens=1", "--tokens", tokens
    ).startswith("prompt 2: ")


@pytest.mark.parametrize("token", [-1, 4096, 2**31 - 1])
def test_token_outside_the_vocabulary(sound, tmp_path, token):
    line = refuse(
        1, "quant-run", "logits", sound, f"--tokens=1,{token}",
        "-o", tmp_path / "out.npy",
    )  # fmt: skip
    assert str(token) in line
    assert tree(tmp_path) == {}


def test_logits_path_that_cannot_be_written(sound, tmp_path):
    (tmp_path / "file").write_text("x")
    output = tmp_path / "file" / "out.npy"
    line = refuse(
        1, "quant-run", "logits", sound, "--tokens=1", "-o", output
    )
    assert str(output) in line
    assert list(tree(tmp_path)) == ["file"]


@pytest.mark.parametrize(
    "option",
    ["--temperature=-1", "--top-p=0", "--top-p=1.5", "--min-p=2", "--top-k=-1",
     "--repetition-penalty=0", "--max-new-tokens=-1", "--temperature=nan"],
)  # fmt: skip
def test_sampling_out_of_range(sound, option):
    line = refuse(1, "quant-run", "generate", sound, "--tokens=1", option)
    name = option.split("=")[0].strip("-").replace("-", "_")
    assert name in line


def test_stop_strings_need_a_tokenizer(packages):
    line = refuse(
        1, "quant-run", "generate", packages.compile(NAME), "--tokens=1",
        "--stop=x",
    )  # fmt: skip
    assert "tokenizer" in line


def test_eval_of_a_text_that_is_missing(sound, tmp_path):
    path = tmp_path / "text"
    line = refuse(
        1, "quant-run", "eval", sound, "--text", path, "--window=32"
    )
    assert str(path) in line

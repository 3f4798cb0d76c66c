# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Damaged checkpoints of other tools are refused by one error.

Whatever is changed in the file or the config, `restore` either writes a folder
or raises `CheckpointError` and leaves nothing behind.
"""

from __future__ import annotations

import json
import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
import test_checkpoints
from hypothesis import given, settings
from hypothesis import strategies as st

checkpoints = pytest.importorskip("qlm.checkpoints")

NAME = "model.layers.0.mlp.down_proj"


def cases() -> dict[str, tuple[dict, dict]]:
    """Tensors below NAME and quantization_config of each method."""
    rng = np.random.default_rng(5)

    def words(*shape):
        return rng.integers(-(2**31), 2**31, shape).astype(np.int32)

    halves = rng.uniform(0.01, 0.02, (4, 24)).astype(np.float16)
    floats = rng.uniform(0.01, 0.02, 24).astype(np.float32)
    state = {"shape": [24, 64], "blocksize": 64, "dtype": "float16",
             "nested_blocksize": 16, "nested_offset": 0.5}
    state = np.frombuffer(json.dumps(state).encode(), np.uint8)
    return {
        "gptq": ({"qweight": words(8, 24), "qzeros": words(4, 3),
                  "scales": halves,
                  "g_idx": np.repeat(np.arange(4, dtype=np.int32), 16)},
                 {"quant_method": "gptq", "bits": 4, "group_size": 16}),
        "awq": ({"qweight": words(64, 3), "qzeros": words(4, 3),
                 "scales": halves},
                {"quant_method": "awq", "bits": 4, "version": "gemm"}),
        "nf4": ({"weight": rng.integers(0, 256, (768, 1)).astype(np.uint8),
                 "weight.absmax": rng.integers(0, 256, 24).astype(np.uint8),
                 "weight.quant_map": np.linspace(-1, 1, 16, dtype=np.float32),
                 "weight.nested_absmax": floats[:2],
                 "weight.nested_quant_map":
                     np.linspace(-1, 1, 256, dtype=np.float32),
                 "weight.quant_state.bitsandbytes__nf4": state},
                {"quant_method": "bitsandbytes", "load_in_4bit": True}),
        "int8": ({"weight": rng.integers(-127, 128, (24, 64)).astype(np.int8),
                  "SCB": floats},
                 {"quant_method": "bitsandbytes", "load_in_8bit": True}),
        "packed": ({"weight_packed": words(24, 8),
                    "weight_shape": np.array([24, 64]),
                    "weight_scale": halves.T.copy(),
                    "weight_zero_point": words(3, 4)},
                   {"quant_method": "compressed-tensors", "config_groups": {
                       "group_0": {"weights": {"num_bits": 4}}}}),
    }


CASES = cases()
JSON = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 70), st.just(1 << 70),
    st.floats(), st.text(max_size=4), st.just([]), st.just({}), st.just([1, 2]),
    st.sampled_from(["F16", "I32", "U8", "F8_E4M3", "BF16", "I64"]))


def replace_leaf(data, tree):
    """Replaces or removes one value somewhere in a tree of JSON."""
    keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
    key = data.draw(st.sampled_from(keys))
    if isinstance(tree[key], (dict, list)) and tree[key] and data.draw(
            st.integers(0, 3)):
        replace_leaf(data, tree[key])
    elif isinstance(tree, dict) and data.draw(st.booleans()):
        del tree[key]
    else:
        tree[key] = data.draw(JSON)


def damage(data, folder: Path) -> None:
    """Changes the config, the header, a tensor's bytes or the file's length."""
    path, config = folder / "model.safetensors", folder / "config.json"
    stored = path.read_bytes()
    (size,) = struct.unpack_from("<Q", stored)
    what = data.draw(st.sampled_from(["config", "header", "bytes", "length"]))
    if what == "config":
        tree = json.loads(config.read_text())
        replace_leaf(data, tree)
        config.write_text(json.dumps(tree))
    elif what == "header":
        tree = json.loads(stored[8 : 8 + size])
        replace_leaf(data, tree)
        text = json.dumps(tree).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + stored[8 + size:])
    elif what == "bytes":
        changed = bytearray(stored)
        for _ in range(data.draw(st.integers(1, 8))):
            place = data.draw(st.integers(0, len(stored) - 1))
            changed[place] = data.draw(st.integers(0, 255))
        path.write_bytes(changed)
    else:
        path.write_bytes(stored[: data.draw(st.integers(0, len(stored) - 1))])


@pytest.mark.parametrize("case", CASES)
def test_whole_checkpoints_are_restored(tmp_path, case):
    tensors, config = CASES[case]
    test_checkpoints.save(tmp_path / "in", {
        f"{NAME}.{name}": array for name, array in tensors.items()}, config)
    out = checkpoints.restore(tmp_path / "in", tmp_path / "out")
    assert checkpoints.read_folder(out)[NAME + ".weight"].array.shape == (24, 64)
    with pytest.raises(checkpoints.CheckpointError, match="exists"):
        checkpoints.restore(tmp_path / "in", tmp_path / "out")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("case", CASES)
@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_damaged_checkpoints_leave_nothing_behind(case, data):
    tensors, config = CASES[case]
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        test_checkpoints.save(root / "in", {
            f"{NAME}.{name}": array for name, array in tensors.items()}, config)
        damage(data, root / "in")
        try:
            checkpoints.restore(root / "in", root / "out")
        except checkpoints.CheckpointError:
            assert sorted(path.name for path in root.iterdir()) == ["in"]
        else:
            assert sorted(path.name for path in root.iterdir()) == ["in", "out"]


@pytest.mark.parametrize("text", [
    "", "{", "[]", "[" * 5000, "{\"quantization_config\": 3}"])
def test_configs_that_are_none(tmp_path, text):
    tensors, config = CASES["awq"]
    test_checkpoints.save(tmp_path / "in", tensors, config)
    (tmp_path / "in/config.json").write_text(text)
    with pytest.raises(checkpoints.CheckpointError):
        checkpoints.restore(tmp_path / "in", tmp_path / "out")

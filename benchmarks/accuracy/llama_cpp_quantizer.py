# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Rounds a model by llama.cpp, with an importance matrix or without.

    llama_cpp_quantizer.py MODEL -o FOLDER --type Q4_K_S [--statistics FILE]

llama.cpp's own `llama_model_quantize` (PyPI's llama-cpp-python) rounds a GGUF
file of the model; what its blocks stand for, by PyPI's gguf, is written as
float32 weights for quantc. The importance of a column is the mean square of
what the linear reads there, as llama.cpp's imatrix tool has it, and comes from
the statistics of `quantc --calibration`, so that both tools saw the same text.
The head and the embedding stay as they are.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np
from gguf import quants
from llama_cpp import llama_cpp as api

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "test" / "python"), str(ROOT / "benchmarks" / "accuracy")]

import toolchain  # noqa: E402
from compare_methods import write_safetensors  # noqa: E402

# Hugging Face's names, llama.cpp's, and the linear of the statistics.
NAMES = {
    "self_attn.q_proj": ("attn_q", "qkv"), "self_attn.k_proj": ("attn_k", "qkv"),
    "self_attn.v_proj": ("attn_v", "qkv"),
    "self_attn.o_proj": ("attn_output", "o"),
    "mlp.gate_proj": ("ffn_gate", "gate_up"), "mlp.up_proj": ("ffn_up", "gate_up"),
    "mlp.down_proj": ("ffn_down", "down"),
    "input_layernorm": ("attn_norm", None),
    "post_attention_layernorm": ("ffn_norm", None),
}  # fmt: skip
WHOLE = {"model.embed_tokens.weight": "token_embd.weight",
         "model.norm.weight": "output_norm.weight",
         "lm_head.weight": "output.weight"}  # fmt: skip


def ggml_name(name: str) -> tuple[str, str | None]:
    """llama.cpp's name of a weight, and its linear's label."""
    if name in WHOLE:
        return WHOLE[name], None
    _, _, layer, rest = name.split(".", 3)
    short, label = NAMES[rest.removesuffix(".weight")]
    return (f"blk.{layer}.{short}.weight",
            f"layers.{layer}.{label}" if label else None)


def write_gguf(path: Path, tensors: dict, config: dict) -> None:
    """A GGUF file of float32 weights. Rows of queries and keys stay in Hugging
    Face's order: blocks lie along columns, so it makes no difference."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for name, array in tensors.items():
        writer.add_tensor(ggml_name(name)[0], array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def importance(statistics: Path, names) -> list[tuple[bytes, np.ndarray]]:
    """The mean square of each column that a linear reads, by llama.cpp's name."""
    moments = toolchain.read_safetensors(statistics)
    return [(short.encode(),
             np.ascontiguousarray(np.diag(moments[label + ".second_moments"])))
            for short, label in map(ggml_name, names) if label]


def round_gguf(source: Path, target: Path, kind: str, matrix) -> None:
    params = api.llama_model_quantize_default_params()
    params.ftype = getattr(api, f"LLAMA_FTYPE_MOSTLY_{kind}")
    params.quantize_output_tensor = False
    params.token_embedding_type = int(gguf.GGMLQuantizationType.F32)
    entries = (api.llama_model_imatrix_data * (len(matrix) + 1))()
    for entry, (name, values) in zip(entries, matrix):
        entry.name, entry.size = name, values.size
        entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    if matrix:
        params.imatrix = entries
    code = api.llama_model_quantize(str(source).encode(), str(target).encode(),
                                    ctypes.byref(params))
    if code:
        raise SystemExit(f"llama_model_quantize ended with {code}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--type", default="Q4_K_S")
    parser.add_argument("--statistics", type=Path)
    args = parser.parse_args()
    config = json.loads((args.model / "config.json").read_text())
    tensors = {name: np.array(array, np.float32) for name, array in
               toolchain.read_safetensors(args.model / "model.safetensors").items()}
    matrix = importance(args.statistics, tensors) if args.statistics else []
    with tempfile.TemporaryDirectory() as scratch:
        plain, rounded = Path(scratch) / "f32.gguf", Path(scratch) / "out.gguf"
        write_gguf(plain, tensors, config)
        round_gguf(plain, rounded, args.type, matrix)
        stored = {t.name: t for t in gguf.GGUFReader(rounded).tensors}
        bits, weights = 0, 0
        for name, array in tensors.items():
            tensor = stored[ggml_name(name)[0]]
            if name.endswith("_proj.weight"):
                bits += 8 * tensor.n_bytes
                weights += array.size
            values = quants.dequantize(tensor.data, tensor.tensor_type)
            tensors[name] = values.reshape(array.shape).astype(np.float32)
    print(f"{args.type}: {bits / weights:.3f} bits a weight of the linears")
    shutil.copytree(args.model, args.output)
    config["torch_dtype"] = "float32"
    (args.output / "config.json").write_text(json.dumps(config))
    os.remove(args.output / "model.safetensors")
    write_safetensors(args.output / "model.safetensors", tensors)


if __name__ == "__main__":
    main()

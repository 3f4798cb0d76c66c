# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""quant-run keeps what its help and the design promise."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import toolchain

COMMANDS = ("generate", "logits", "eval", "run", "bench", "inspect")


@pytest.fixture(scope="module")
def package(packages) -> Path:
    return packages.compile("tiny-llama", "--weights=int8", "--max-context=256")


def fail(code: int, *arguments: object) -> str:
    """Runs quant-run, which must fail with a code and one line."""
    done = toolchain.run("quant-run", *arguments)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr.strip()


def run_json(*arguments: object) -> dict:
    return json.loads(toolchain.succeed("quant-run", *arguments, "--json"))


def test_generate_prints_one_object_in_the_designs_shape(package):
    output = run_json(
        "generate", package, "--prompt", "import os", "--prompt", "def main(",
        "--max-new-tokens", 12,
    )  # fmt: skip
    assert set(output) == {
        "results", "prompt_tokens", "generated_tokens", "tokens_per_second",
        "peak_memory_bytes",
    }  # fmt: skip
    assert [set(result) for result in output["results"]] == [
        {"text", "tokens", "finish_reason"}
    ] * 2
    counts = [len(result["tokens"]) for result in output["results"]]
    assert sum(counts) == output["generated_tokens"] <= 24
    assert output["peak_memory_bytes"] > 5e6
    assert output["tokens_per_second"] > 0


def test_generate_reads_files_and_token_lists_alike(package, tmp_path):
    (tmp_path / "prompt").write_text("import os\n")
    by_text = run_json("generate", package, "--prompt", "import os\n")
    by_file = run_json(
        "generate", package, "--prompt-file", tmp_path / "prompt"
    )
    assert by_text["results"] == by_file["results"]


def test_stream_prints_the_same_text(package):
    arguments = ("generate", package, "--prompt", "class A", "--temperature",
                 1, "--seed", 5)  # fmt: skip
    assert toolchain.succeed("quant-run", *arguments) == toolchain.succeed(
        "quant-run", *arguments, "--stream"
    )


def test_stop_string_ends_the_text_before_it(package):
    arguments = ("generate", package, "--prompt", "import os\n")
    text = run_json(*arguments, "--max-new-tokens", 40)["results"][0]["text"]
    stop = text[10:14]
    result = run_json(*arguments, "--stop", stop)["results"][0]
    assert result["text"] == text[: text.index(stop)]
    assert result["finish_reason"] == "stop"


def test_seed_repeats_and_batch_does_not_matter(package):
    options = ("--temperature=0.9", "--top-p=0.95", "--top-k=50", "--seed=3")
    alone = toolchain.generate(package, [[5, 6, 7]], *options)
    again = toolchain.generate(package, [[9], [5, 6, 7], [1] * 50], *options)
    assert alone[0] == again[1]
    other = toolchain.generate(package, [[5, 6, 7]], *options[:-1], "--seed=4")
    assert other[0]["tokens"] != alone[0]["tokens"]


def test_logits_writes_float32_rows(package, tmp_path):
    path = tmp_path / "out.npy"
    toolchain.succeed(
        "quant-run", "logits", package, "--tokens", "1,2,3", "-o", path
    )
    rows = np.load(path)
    assert rows.dtype == np.float32 and rows.shape == (3, 4096)
    assert list(tmp_path.iterdir()) == [path]


def test_logits_do_not_depend_on_chunks_or_threads(package):
    tokens = list(range(100, 177))
    whole = toolchain.logits(package, tokens)
    for options in (("--chunk", 1), ("--chunk", 13), ("--threads", 1)):
        assert np.array_equal(whole, toolchain.logits(package, tokens, *options))


def test_eval_of_a_package_against_itself(package, tmp_path):
    text = tmp_path / "text"
    text.write_text("import os\nimport sys\n\n\ndef main():\n    pass\n" * 20)
    output = run_json(
        "eval", package, "--text", text, "--reference", package, "--window", 32
    )
    assert set(output) == {"perplexity", "kl", "top1_agreement", "tokens"}
    assert output["kl"] == 0 and output["top1_agreement"] == 1
    assert 1 < output["perplexity"] < 4096


def test_eval_predicts_within_windows(package, tmp_path):
    text = tmp_path / "text"
    text.write_text("def add(a, b):\n    return a + b\n" * 3)
    output = run_json("eval", package, "--text", text, "--window", 8)
    assert output["kl"] is None
    # Behind a begin-of-sequence token, all 8 of a window are predicted.
    output = run_json(
        "eval", package, "--text", text, "--window", 8, "--max-tokens", 16
    )
    assert output["tokens"] == 16


def test_bench_reports_each_batch_size(package):
    sizes = ("--prompt-tokens", 20, "--new-tokens", 4)
    output = run_json("bench", package, "--batch", "1,3", *sizes)
    keys = {"batch", "pp_tps", "tg_tps", "ttft_s", "bandwidth_gbps",
            "prefill_tops", "peak_memory_bytes"}  # fmt: skip
    assert [set(result) for result in output["results"]] == [keys, keys]
    assert [result["batch"] for result in output["results"]] == [1, 3]
    assert "pp_tps" not in output
    one = run_json("bench", package, *sizes, "--profile")
    assert one["pp_tps"] == one["results"][0]["pp_tps"] > 0
    assert one["tg_tps"] == one["results"][0]["tg_tps"] > 0
    decode = {entry["label"]: entry for entry in one["profile"]["decode"]}
    assert decode["layers.*.down"]["launches"] == 3 * 6
    assert decode["layers.*.down"]["tops"] > 0
    assert one["ceilings"]["read_gbps"] > 0
    assert one["ceilings"]["arithmetic_tops"] > 0
    assert one["ceilings"]["unit"] in ("AVX2 f32", "AVX512 f32")


def test_bench_computes_every_prompt(package):
    """None is found computed because an earlier batch had it."""

    def operations(batches):
        output = run_json("bench", package, "--batch", batches, "--profile",
                          "--prompt-tokens", 40, "--new-tokens", 2)  # fmt: skip
        entries = {e["label"]: e for e in output["profile"]["prefill"]}
        down = entries["layers.*.down"]
        return down["tops"] * down["seconds"]

    assert operations("1,1") == pytest.approx(2 * operations("1"), rel=1e-3)


def test_bench_prints_what_the_machine_can_do(package):
    text = toolchain.run(
        "quant-run", "bench", package, "--prompt-tokens", 20,
        "--new-tokens", 4, "--profile", "--threads", 1,
    ).stdout  # fmt: skip
    assert "TOP/s" in text.splitlines()[0]
    assert "at most, by 1 threads: " in text.splitlines()[-1]
    assert "GB/s of weights (mapped)" in text


@pytest.mark.parametrize("memory", ["huge", "late", "mapped", "auto"])
def test_weights_memory_changes_no_token(package, memory):
    def tokens(*options):
        return run_json(
            "generate", package, "--prompt", "def", "--max-new-tokens", 64,
            "--ignore-eos", *options,
        )["results"][0]["tokens"]  # fmt: skip

    assert tokens("--weights-memory", memory) == tokens()


def test_unknown_weights_memory_is_refused(package):
    assert (
        "--weights-memory must be auto, huge, late or mapped, got 'ram'"
        in fail(1, "bench", package, "--weights-memory", "ram")
    )


def test_inspect_shows_the_plan(package):
    output = run_json("inspect", package)
    assert output["format"] == "qlm-package"
    assert output["plan"]["max_context"] == 256
    assert sum(k["launches"] for k in output["kernels"]) == len(
        output["launches"]
    )
    assert "tiny-llama" in toolchain.succeed("quant-run", "inspect", package)


def test_inspect_writes_a_page(package, tmp_path):
    page = tmp_path / "plan.html"
    toolchain.succeed("quant-run", "inspect", package, "--html", page)
    text = page.read_text()
    assert text.startswith("<!doctype html>")
    launches = run_json("inspect", package)["launches"]
    assert all(f"<td>{launch['label']}</td>" in text for launch in launches)
    assert list(tmp_path.iterdir()) == [page]
    message = fail(1, "inspect", package, "--html", page / "below")
    assert f"cannot write {page / 'below'}: Not a directory" in message


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command(command):
    assert toolchain.succeed("quant-run", command, "--help").startswith(
        f"usage: quant-run {command} PKG"
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("fly",), "unknown command 'fly'"),
        (("generate",), "no package given"),
        (("generate", "p"), "give --prompt, --prompt-file or --tokens"),
        (("generate", "p", "q", "--prompt", "x"), "unexpected operand 'q'"),
        (("generate", "p", "--prompt"), "--prompt takes text"),
        (("generate", "p", "--sed", "1"), "unknown option --sed"),
        (("generate", "p", "--tokens", "1,,2"), "--tokens takes whole numbers"),
        (("generate", "p", "--tokens", "4294967296"), "32-bit token ids"),
        (("generate", "p", "--seed", "-1"), "--seed takes a whole number"),
        (("generate", "p", "--top-p", "x"), "--top-p takes a number, got 'x'"),
        (("generate", "p", "--json=1", "--prompt", "x"), "--json takes no"),
        (("generate", "p", "--prompt", "x", "--stream", "--json"),
         "--stream takes one prompt"),
        (("logits", "p"), "give --tokens and -o"),
        (("eval", "p"), "give --text"),
        (("eval", "p", "--text", "t", "--window", "1"), "--window must be at"),
        (("bench", "p", "--batch", "0"), "--batch takes sizes above 0"),
        (("bench", "p", "--new-tokens", "0"), "must be above 0"),
    ],
)  # fmt: skip
def test_wrong_usage(arguments, message):
    assert message in fail(2, *arguments)


def test_bad_requests_name_the_limit(package, tmp_path):
    tokens = ",".join(["7"] * 257)
    assert "prompt has 257 tokens, the package's context holds 256" in fail(
        1, "generate", package, "--tokens", tokens
    )
    assert "token id must be from 0 to 4095, got 4096" in fail(
        1, "generate", package, "--tokens", "4096"
    )
    assert "top_p must be above 0" in fail(
        1, "generate", package, "--prompt", "x", "--top-p", 0
    )
    assert "batch is 99, the package's limit is 8; recompile it with quantc " \
        "--max-batch" in fail(1, "bench", package, "--batch", 99)  # fmt: skip
    assert "--max-context" in fail(1, "bench", package, "--prompt-tokens", 300)
    (tmp_path / "t").write_text("def main():\n" * 100)
    assert "window must be at most the context's 256 tokens, got 300" in fail(
        1, "eval", package, "--text", tmp_path / "t", "--window", 300
    )
    assert "No such file" in fail(
        1, "eval", package, "--text", tmp_path / "missing"
    )
    nowhere = tmp_path / "no" / "out.npy"
    assert f"{nowhere}: cannot write" in fail(
        1, "logits", package, "--tokens", "1", "-o", nowhere
    )


def test_threads_beyond_the_cores_are_cut_with_a_note(package):
    done = toolchain.run(
        "quant-run", "generate", package, "--prompt", "x", "--threads", 4096,
        "--max-new-tokens", 1,
    )  # fmt: skip
    assert done.returncode == 0
    assert "note: using " in done.stderr
    assert "threads must not be negative" in fail(
        1, "generate", package, "--prompt", "x", "--threads", -3
    )


def damage(package: Path, copy: Path, name: str, change) -> Path:
    shutil.copytree(package, copy)
    (copy / name).write_bytes(change((copy / name).read_bytes()))
    return copy


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("weights.safetensors", lambda b: b[:-9] + bytes([b[-9] ^ 1]) + b[-8:],
         "the file is damaged"),
        ("weights.safetensors", lambda b: b[:-1], "bytes, the manifest says"),
        ("module.cpu.so", lambda b: b[:99] + bytes([b[99] ^ 1]) + b[100:],
         "the file is damaged"),
        ("tokenizer.json", lambda b: b + b" ", "the file is damaged"),
        ("manifest.json", lambda b: b[:50], "not valid JSON"),
        ("manifest.json",
         lambda b: json.dumps(json.loads(b) | {"version": 1}).encode(),
         "package has version 1, this runtime reads version 2; recompile it "
         "with quantc"),
    ],
)  # fmt: skip
def test_damaged_packages_are_refused(package, tmp_path, name, change, message):
    copy = damage(package, tmp_path / "copy", name, change)
    line = fail(1, "generate", copy, "--prompt", "x")
    assert message in line and name in line


def test_what_is_no_package_is_refused(tmp_path):
    assert "not a package: no manifest.json" in fail(
        1, "inspect", tmp_path
    )
    assert "No such file" in fail(1, "inspect", tmp_path / "none")

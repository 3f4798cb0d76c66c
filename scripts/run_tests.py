#!/usr/bin/env python3
"""Runs every test runner and prints the sum of their counts last.

The runners: lit (IR in, IR out), GoogleTest, pytest, the format check, the
check that generated documents are up to date, the check of the arrows
between folders, the fuzz targets on their corpora (built with AddressSanitizer
and UBSan), the runtime's tests with ThreadSanitizer, and ONNX's own backend
tests, whose score must not fall.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIT = "/usr/lib/llvm-22/bin/lit"
FUZZ_SECONDS = 5
# Programs and files of tests that run at once: most use one thread.
JOBS = 2


class Count:
    """Passed and failed tests of one runner."""

    def __init__(self, passed: int = 0, failed: int = 0) -> None:
        self.passed = passed
        self.failed = failed


def sum_up(counts: list[Count]) -> Count:
    return Count(sum(count.passed for count in counts),
                 sum(count.failed for count in counts))


def run(command: list[str], **kwargs) -> subprocess.CompletedProcess:
    return subprocess.run([str(part) for part in command], cwd=ROOT, text=True,
                          stdin=subprocess.DEVNULL, **kwargs)


def run_captured(command: list[str]) -> subprocess.CompletedProcess:
    return run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def run_all(function, items: list) -> list:
    """The function of each item, JOBS at a time, in order."""
    with ThreadPoolExecutor(JOBS) as pool:
        return list(pool.map(function, items))


def run_lit(build: Path) -> Count:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "lit.json"
        result = run([sys.executable, LIT, "-q", f"-j{JOBS}", "-o", output,
                      build / "test"])
        if not output.exists():
            return Count(0, 1)
        tests = json.loads(output.read_text())["tests"]
    passed = sum(test["code"] in ("PASS", "XFAIL") for test in tests)
    failed = sum(test["code"] in ("FAIL", "XPASS", "UNRESOLVED", "TIMEOUT")
                 for test in tests)
    if not tests or (result.returncode and not failed):
        failed += 1
    return Count(passed, failed)


def run_program(program: Path) -> Count:
    """One program of GoogleTest."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "out.json"
        result = run_captured([program, f"--gtest_output=json:{output}",
                               "--gtest_brief=1"])
        report = json.loads(output.read_text()) if output.exists() else {}
    failed = report.get("failures", 0) + report.get("errors", 0)
    passed = report.get("tests", 0) - failed - report.get("disabled", 0)
    if not report or (result.returncode and not failed):
        failed += 1
    if failed:
        print(f"{program.name}:\n{result.stdout}")
    return Count(passed, failed)


def run_gtest(build: Path) -> Count:
    programs = sorted((build / "bin" / "tests").glob("*"))
    if not programs:
        print("no unit tests were built")
        return Count(0, 1)
    return sum_up(run_all(run_program, programs))


def run_pytest(build: Path) -> Count:
    environment = dict(os.environ, QLM_BUILD=str(build),
                       PYTHONPATH=str(build / "python"))
    result = run([sys.executable, "-m", "pytest", "-q", "--tb=short",
                  "-p", "no:cacheprovider", "-n", str(JOBS), "--dist",
                  "loadfile", "test/python"], env=environment,
                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    words = dict((kind, int(number)) for number, kind in re.findall(
        r"(\d+) (passed|failed|error|errors|skipped)", result.stdout[-400:]))
    failed = words.get("failed", 0) + words.get("error", 0) + words.get(
        "errors", 0)
    if result.returncode not in (0, 1) or (result.returncode and not failed):
        failed += 1
    print(result.stdout[-12000:] if failed else
          result.stdout.strip().splitlines()[-1])
    return Count(words.get("passed", 0), failed)


def check_format(build: Path) -> Count:
    files = run_captured(["git", "ls-files", "*.cpp", "*.h"]).stdout.split()
    count = Count()
    result = run_captured(["clang-format-22", "--dry-run", *files])
    bad = sorted(set(re.findall(r"^(\S+?):\d+:\d+: .*clang-format",
                                result.stdout, re.MULTILINE)))
    for name in bad:
        print(f"not formatted (make format): {name}")
    count.failed = len(bad)
    count.passed = len(files) - len(bad)
    return count


def check_script(script: str, *arguments: str) -> Count:
    return judge(script, run_captured([sys.executable, ROOT / "scripts" / script,
                                       *arguments]))


def check_docs(build: Path) -> Count:
    return check_script("generate_docs.py", "--build", str(build))


def check_includes(build: Path) -> Count:
    return check_script("check_includes.py")


def judge(name: str, result: subprocess.CompletedProcess) -> Count:
    """One test, which passes by its exit code."""
    if result.returncode:
        print(f"{name}:\n{result.stdout[-6000:]}")
    return Count(int(result.returncode == 0), int(result.returncode != 0))


def fuzz(target: Path) -> Count:
    corpus = ROOT / "test" / "fuzz" / "corpus" / target.name[4:].lower()
    with tempfile.TemporaryDirectory() as found:
        return judge(target.name, run_captured([
            target, f"-max_total_time={FUZZ_SECONDS}", "-timeout=10",
            "-rss_limit_mb=2048", "-print_final_stats=0",
            f"-artifact_prefix={ROOT}/build/asan/", found, corpus]))


def run_sanitized(program: Path) -> Count:
    # See test/fuzz/SanitizerOptions.cpp.
    return judge(f"{program.name} with sanitizers", run_captured([
        "env", "ASAN_OPTIONS=allow_user_poisoning=0:"
        "detect_container_overflow=0", program, "--gtest_brief=1"]))


def run_fuzz(build: Path) -> Count:
    """Builds the sanitized fuzz targets and unit tests and runs them."""
    result = run_captured(["make", "--no-print-directory", "configure",
                           "PRESET=asan"])
    if result.returncode == 0:
        result = run_captured(["cmake", "--build", "build/asan", "--target",
                               "sanitized"])
    if result.returncode:
        print(result.stdout[-6000:])
        return Count(0, 1)
    asan = ROOT / "build" / "asan" / "bin"
    count = sum_up(run_all(fuzz, sorted((asan / "fuzz").glob("Fuzz*"))) +
                   run_all(run_sanitized, sorted((asan / "tests").glob("*"))))
    if not count.passed:
        count.failed += 1
    return count


def run_tsan(build: Path) -> Count:
    """Builds the runtime's tests with ThreadSanitizer and runs them."""
    result = run_captured(["make", "--no-print-directory", "configure",
                           "PRESET=tsan"])
    if result.returncode == 0:
        result = run_captured(["cmake", "--build", "build/tsan", "--target",
                               "RuntimeTests"])
    if result.returncode:
        print(result.stdout[-6000:])
        return Count(0, 1)
    # The queue's test needs memory that sanitizers multiply.
    return judge("RuntimeTests with ThreadSanitizer", run_captured([
        "build/tsan/bin/tests/RuntimeTests", "--gtest_brief=1",
        "--gtest_filter=EngineT*:Serving*:Speculation*:KvPages*:Thread*:Tile*"
        ]))


def run_onnx(build: Path) -> Count:
    """The node cases of ONNX's own backend tests."""
    script = ROOT / "test" / "python" / "onnx_conformance.py"
    result = run_captured(["env", f"QLM_BUILD={build}", sys.executable,
                           script])
    lines = result.stdout.strip().splitlines() or ["no output"]
    print("\n".join(lines[-60:]))
    score = re.fullmatch(r"(\d+) passed, \d+ refused, (\d+) failed", lines[-1])
    if not score:
        return Count(0, 1)
    failed = int(score[2])
    if result.returncode and not failed:
        failed = 1  # Fewer pass than before.
    return Count(int(score[1]), failed)


RUNNERS = {"lit": run_lit, "gtest": run_gtest, "pytest": run_pytest,
           "onnx": run_onnx,
           "format": check_format, "docs": check_docs,
           "includes": check_includes, "fuzz": run_fuzz,
           "tsan": run_tsan}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=Path, required=True)
    parser.add_argument("--only", choices=RUNNERS, action="append")
    parser.add_argument("--skip", choices=RUNNERS, action="append", default=[])
    arguments = parser.parse_args()
    build = arguments.build.resolve()
    total = Count()
    rows = []
    for name, runner in RUNNERS.items():
        if name in arguments.skip or (arguments.only
                                      and name not in arguments.only):
            continue
        print(f"== {name}", flush=True)
        begin = time.monotonic()
        count = runner(build)
        rows.append((name, count, time.monotonic() - begin))
        total.passed += count.passed
        total.failed += count.failed
    for name, count, seconds in rows:
        print(f"{name:10} {count.passed:6} passed {count.failed:4} failed"
              f" {seconds:7.1f} s")
    print(f"{total.passed} passed, {total.failed} failed")
    return 1 if total.failed else 0


if __name__ == "__main__":
    sys.exit(main())

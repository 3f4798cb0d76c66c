# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Measures the engine without HTTP: batching, overhead, prefixes, lookup.

    python bench_engine.py PKG --library build/release/lib/libqlm.so

Each number is the median of ``--rounds`` rounds, with the least and the most.
The rounds of what is compared alternate, so that a machine that slows down
slows down both.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import random
import statistics
import time

from engine_client import Engine, Model, load_library


def run(engine: Engine, jobs: list[tuple[list[int], int]], **fields) -> float:
    """Run prompts with their numbers of new tokens; returns tokens/s."""
    begin = time.perf_counter()
    for prompt, count in jobs:
        engine.submit(prompt, max_new_tokens=count, ignore_eos=1, **fields)
    engine.finish(len(jobs))
    seconds = time.perf_counter() - begin
    return sum(count for _, count in jobs) / seconds


def describe(values: list[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": statistics.median(values), "least": min(values),
            "most": max(values)}  # fmt: skip


class Bench:
    """Draws prompts and runs each measurement."""

    def __init__(self, model: Model, arguments: argparse.Namespace) -> None:
        self.model = model
        self.rounds = arguments.rounds
        self.scale = arguments.scale
        self.batch = min(8, model.max_batch)
        self.random = random.Random(1)

    def prompt(self, length: int) -> list[int]:
        """Random tokens, different each time."""
        most = self.model.vocabulary_size - 8
        return [self.random.randrange(most) for _ in range(length)]

    def tokens(self, count: int) -> int:
        """A number of new tokens, fewer for quick runs."""
        return max(int(count * self.scale), 4)

    def compare(self, one, other) -> tuple[list[float], list[float]]:
        """Run both in turns, after a round of each that doesn't count."""
        results: tuple[list[float], list[float]] = ([], [])
        for index in range(self.rounds + 1):
            for which, measure in enumerate((one, other)):
                value = measure()
                if index:
                    results[which].append(value)
        return results

    def static(self) -> dict:
        """Continuous batching against a perfect static batch.

        Both decode the same number of tokens after prompts of the same length:
        in one, requests of 4 lengths come and go; in the other they come in
        waves of as many as run at once, all of one length. ``ratio`` is of the
        whole runs. ``full_ratio`` leaves out the end, when too few requests
        are left to fill the batch: continuous batching counts from 5 to 85 %
        of its tokens.
        """
        lengths = [self.tokens(n) for n in (24, 48, 96, 120)]
        jobs = 24 * self.batch
        full: list[float] = []
        total = sum(lengths[i % 4] for i in range(jobs))

        def continuous() -> float:
            with Engine(self.model, share_prefixes=0) as engine:
                whole = run(engine, [(self.prompt(8), lengths[i % 4])
                                     for i in range(jobs)])
                # All were handed over at once: their clocks are the same.
                times = sorted(second for text in engine.texts.values()
                               for second in text.seconds)
                first, last = int(total * 0.05), int(total * 0.85)
                full.append((last - first) / (times[last] - times[first]))
                return whole

        def static() -> float:
            with Engine(self.model, share_prefixes=0) as engine:
                waves = [(self.prompt(8), total // jobs)] * self.batch
                begin = time.perf_counter()
                for _ in range(jobs // self.batch):
                    run(engine, waves)
                return total / (time.perf_counter() - begin)

        ours, perfect = self.compare(continuous, static)
        ratios = [a / b for a, b in zip(ours, perfect)]
        full_ratios = [a / b for a, b in zip(full[1:], perfect)]
        return {"continuous_tps": describe(ours),
                "static_tps": describe(perfect), "ratio": describe(ratios),
                "full_ratio": describe(full_ratios)}

    def steps(self) -> dict:
        """Milliseconds in kernels of a step, by its rows.

        Rows up to the batch are those of texts that decode, more are a
        prompt's. From these the ratio that `static` can reach follows: a
        request that joins a full batch costs the difference between a step of
        15 rows and one of 8.
        """
        result = {}
        for rows in (1, self.batch, 15, 16, 17, 24, 32, 64):
            times = []
            for _ in range(self.rounds + 1):
                with Engine(self.model, share_prefixes=0) as engine:
                    if rows <= self.batch:
                        run(engine, [(self.prompt(1), 16)] * rows)
                    else:
                        for _ in range(4):
                            run(engine, [(self.prompt(rows), 1)])
                    stats = engine.stats()
                times.append(1e3 * stats.kernel_seconds / stats.steps)
            result[str(rows)] = describe(times[1:])
        return result

    def users(self) -> dict:
        """Throughput at 8 users over that of one."""
        count = self.tokens(64)

        def many(users: int) -> float:
            with Engine(self.model, share_prefixes=0) as engine:
                return run(engine, [(self.prompt(8), count)] * users)

        one, eight = self.compare(lambda: many(1), lambda: many(self.batch))
        ratios = [b / a for a, b in zip(one, eight)]
        return {"one_tps": describe(one), "eight_tps": describe(eight),
                "ratio": describe(ratios)}

    def overhead(self) -> dict:
        """Part of a step that is not in kernels, at batch 8."""
        parts = {"greedy": [], "drawn": []}
        for _ in range(self.rounds):
            for name, temperature in (("greedy", 0.0), ("drawn", 1.0)):
                with Engine(self.model, share_prefixes=0) as engine:
                    run(engine, [(self.prompt(8), self.tokens(64))]
                        * self.batch, temperature=temperature)
                    stats = engine.stats()
                parts[name].append(
                    1 - stats.kernel_seconds / stats.step_seconds)
        return {name: describe(values) for name, values in parts.items()}

    def prefix(self) -> dict:
        """Time to first token of a 1,000-token prompt, the second time."""
        first, second = [], []
        with Engine(self.model) as engine:
            for _ in range(self.rounds):
                shared = self.prompt(1000)
                for times in (first, second):
                    number = engine.submit(shared + self.prompt(8),
                                           max_new_tokens=2)
                    engine.finish(1)
                    times.append(engine.texts[number, 0].seconds[0])
        ratios = [a / b for a, b in zip(first, second)]
        return {"first_s": describe(first), "second_s": describe(second),
                "ratio": describe(ratios)}

    def lookup(self) -> dict:
        """Prompt lookup on text that repeats and on text that doesn't.

        ``misleading`` text is drawn from few tokens, whichever came before:
        all its short runs occurred already, and what followed them tells
        nothing. It proposes always and is wrong nearly always.
        """
        count = self.tokens(160)
        piece = self.prompt(24)
        # What the model itself says of this is greedy and soon goes around.
        repetitive = (piece * 12)[:256]
        few = self.prompt(24)
        bias = {
            "bias_tokens": (ctypes.c_int32 * len(few))(*few),
            "bias_values": (ctypes.c_float * len(few))(*[1000.0] * len(few)),
            "bias_count": len(few),
        }
        misleading = [self.random.choice(few) for _ in range(256)]

        def measure(speculate: int, prompt, temperature: float, more: dict):
            def once() -> float:
                with Engine(self.model, speculate=speculate) as engine:
                    value = run(engine, [(prompt, count)], seed=3, more=more,
                                temperature=temperature)
                    stats = engine.stats()
                    self.seen = (stats.proposed_tokens,
                                 stats.accepted_tokens)
                    return value
            return once

        result = {}
        for name, *case in (
            ("repetitive", repetitive, 0.0, {}),
            ("unpredictable", self.prompt(256), 1.0, {}),
            ("misleading", misleading, 10.0, bias),
        ):
            plain, ahead = self.compare(measure(0, *case), measure(8, *case))
            result[name] = {
                "plain_tps": describe(plain), "lookup_tps": describe(ahead),
                "ratio": describe([b / a for a, b in zip(plain, ahead)]),
                "proposed": self.seen[0], "accepted": self.seen[1],
            }  # fmt: skip
        return result


def main() -> None:
    """Run what is asked for and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("package")
    parser.add_argument("--library", required=True)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--no-verify", action="store_true",
                        help="for packages of fill_package.py")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0,
                        help="of the numbers of new tokens")
    parser.add_argument("--only", nargs="+",
                        default=["static", "steps", "users", "overhead", "prefix",
                                 "lookup"])
    arguments = parser.parse_args()
    model = Model(load_library(arguments.library), arguments.package,
                  arguments.threads, not arguments.no_verify)
    bench = Bench(model, arguments)
    print(json.dumps({name: getattr(bench, name)()
                      for name in arguments.only}, indent=1))


if __name__ == "__main__":
    main()

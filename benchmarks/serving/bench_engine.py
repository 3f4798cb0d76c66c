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
        waves of as many as run at once, all of one length. There are many requests, so
        that the end, when too few are left to fill the batch, counts little.
        """
        lengths = [self.tokens(n) for n in (24, 48, 96, 120)]
        jobs = 24 * self.batch
        total = sum(lengths[i % 4] for i in range(jobs))

        def continuous() -> float:
            with Engine(self.model, share_prefixes=0) as engine:
                return run(engine, [(self.prompt(8), lengths[i % 4])
                                    for i in range(jobs)])

        def static() -> float:
            with Engine(self.model, share_prefixes=0) as engine:
                waves = [(self.prompt(8), total // jobs)] * self.batch
                begin = time.perf_counter()
                for _ in range(jobs // self.batch):
                    run(engine, waves)
                return total / (time.perf_counter() - begin)

        ours, perfect = self.compare(continuous, static)
        ratios = [a / b for a, b in zip(ours, perfect)]
        return {"continuous_tps": describe(ours),
                "static_tps": describe(perfect), "ratio": describe(ratios)}

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
        """Prompt lookup on text that repeats and on text that doesn't."""
        count = self.tokens(160)
        piece = self.prompt(24)
        # What the model itself says of this is greedy and soon goes around.
        repetitive = (piece * 12)[:256]

        def measure(speculate: int, temperature: float, prompt):
            def once() -> float:
                with Engine(self.model, speculate=speculate) as engine:
                    value = run(engine, [(prompt, count)], seed=3,
                                temperature=temperature)
                    stats = engine.stats()
                    self.seen = (stats.proposed_tokens,
                                 stats.accepted_tokens)
                    return value
            return once

        result = {}
        for name, prompt, temperature in (
            ("repetitive", repetitive, 0.0),
            ("unpredictable", self.prompt(256), 1.0),
        ):
            plain, ahead = self.compare(measure(0, temperature, prompt),
                                        measure(8, temperature, prompt))
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
                        default=["static", "users", "overhead", "prefix",
                                 "lookup"])
    arguments = parser.parse_args()
    model = Model(load_library(arguments.library), arguments.package,
                  arguments.threads, not arguments.no_verify)
    bench = Bench(model, arguments)
    print(json.dumps({name: getattr(bench, name)()
                      for name in arguments.only}, indent=1))


if __name__ == "__main__":
    main()

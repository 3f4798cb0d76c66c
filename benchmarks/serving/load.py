# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Loads a server as a crowd does, and tells how long its answers take.

    python load.py --url http://127.0.0.1:8000 --model NAME --rate 1 2 4 8

Open loop: requests come at random moments (a Poisson process of the given
rate), whether or not the server keeps up. Prompts and answers have mixed
lengths; a part of the prompts begin with one of a few shared texts. Any server
with OpenAI's /v1/completions and streaming will do; prompts are token ids, or
text with ``--text`` for servers of another vocabulary.

Prints, for each rate, throughput, and the time to the first token and between
tokens at the 50th, 95th and 99th percentile; ``--plot FILE.svg`` draws latency
against load. The same seed gives the same requests at the same moments.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import plot


@dataclass
class Job:
    """A request of the crowd and what became of it."""

    at: float
    prompt: list[int] | str
    max_tokens: int
    first: float = 0.0
    gaps: list[float] = field(default_factory=list)
    seconds: float = 0.0
    tokens: int = 0
    error: str = ""


def percentile(values: list[float], part: float) -> float:
    """The value below which that part of the values lies.

    Examples
    --------
    >>> percentile([3.0, 1.0, 2.0], 0.5)
    2.0
    >>> percentile([1.0, 2.0], 0.5)
    1.5
    """
    if not values:
        return float("nan")
    ordered = sorted(values)
    place = part * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def plan(rate: float, arguments: argparse.Namespace) -> list[Job]:
    """Draw the requests of one rate."""
    source = random.Random(arguments.seed)
    words = arguments.vocabulary

    def draw(count: int) -> list[int]:
        return [source.randrange(words) for _ in range(count)]

    shared = [draw(arguments.shared_tokens) for _ in range(4)]
    jobs, at = [], 0.0
    while at < arguments.seconds:
        at += source.expovariate(rate)
        # Lengths over two octaves to either side, short ones more often.
        length = int(arguments.prompt_tokens * 2 ** source.uniform(-2, 2))
        tokens = draw(max(length, 1))
        if source.random() < arguments.shared_part:
            tokens = source.choice(shared) + tokens
        count = max(int(arguments.new_tokens * 2 ** source.uniform(-2, 2)), 1)
        prompt = " ".join(map(str, tokens)) if arguments.text else tokens
        jobs.append(Job(at, prompt, count))
    return jobs


async def ask(client: httpx.AsyncClient, job: Job, begin: float,
              arguments: argparse.Namespace) -> None:  # fmt: skip
    """Send one request at its moment and read its stream."""
    await asyncio.sleep(max(begin + job.at - time.perf_counter(), 0))
    body = {
        "model": arguments.model, "prompt": job.prompt, "stream": True,
        "max_tokens": job.max_tokens, "temperature": 0,
        "stream_options": {"include_usage": True},
    } | json.loads(arguments.extra)  # fmt: skip
    sent = last = time.perf_counter()
    try:
        async with client.stream("POST", "/v1/completions", json=body) as got:
            if got.status_code != 200:
                job.error = f"status {got.status_code}"
                return
            async for line in got.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                event = json.loads(line[6:])
                if "error" in event:
                    job.error = event["error"]["message"]
                    return
                if event.get("usage"):
                    job.tokens = event["usage"]["completion_tokens"]
                if not event["choices"] or not event["choices"][0]["text"]:
                    continue
                now = time.perf_counter()
                if not job.first:
                    job.first = now - sent
                else:
                    job.gaps.append(now - last)
                last = now
    except httpx.HTTPError as error:
        job.error = type(error).__name__
    finally:
        job.seconds = time.perf_counter() - sent


def summarize(rate: float, jobs: list[Job], seconds: float) -> dict:
    """One rate's numbers; times in seconds."""
    good = [job for job in jobs if not job.error]
    first = [job.first for job in good if job.first]
    gaps = [gap for job in good for gap in job.gaps]
    row = {
        "rate": rate, "requests": len(jobs), "failed": len(jobs) - len(good),
        "tokens_per_second": sum(job.tokens for job in good) / seconds,
        "requests_per_second": len(good) / seconds,
    }  # fmt: skip
    for name, values in (("ttft", first), ("itl", gaps)):
        for part in (50, 95, 99):
            row[f"{name}_p{part}"] = percentile(values, part / 100)
    errors = sorted({job.error for job in jobs if job.error})
    if errors:
        row["errors"] = errors
    return row


async def measure(rate: float, arguments: argparse.Namespace) -> dict:
    """Run one rate."""
    jobs = plan(rate, arguments)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    headers = {"Authorization": f"Bearer {arguments.key}"}
    async with httpx.AsyncClient(
        base_url=arguments.url, limits=limits, timeout=arguments.timeout,
        headers=headers,
    ) as client:  # fmt: skip
        begin = time.perf_counter()
        await asyncio.gather(
            *[ask(client, job, begin, arguments) for job in jobs]
        )
        return summarize(rate, jobs, time.perf_counter() - begin)


def main() -> int:
    """Run every rate; prints a table, or JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--url", default="http://127.0.0.1:8000")
    add("--model", required=True)
    add("--key", default="none")
    add("--rate", type=float, nargs="+", default=[1, 2, 4, 8],
        help="requests a second")
    add("--seconds", type=float, default=20, help="of each rate")
    add("--prompt-tokens", type=int, default=64, help="in the middle")
    add("--new-tokens", type=int, default=32, help="in the middle")
    add("--shared-tokens", type=int, default=128)
    add("--shared-part", type=float, default=0.3)
    add("--vocabulary", type=int, default=4000, help="token ids are below it")
    add("--text", action="store_true", help="send the ids as text")
    add("--extra", default='{"ignore_eos": true}', help="JSON added to bodies")
    add("--timeout", type=float, default=600)
    add("--seed", type=int, default=1)
    add("--json", action="store_true")
    add("--plot", type=Path)
    add("--title", default="latency against load")
    arguments = parser.parse_args()
    rows = []
    for rate in arguments.rate:
        rows.append(asyncio.run(measure(rate, arguments)))
        print(f"rate {rate:g}: {rows[-1]['failed']} failed", file=sys.stderr)
    if arguments.plot:
        plot.draw({arguments.model: rows}, arguments.plot, arguments.title)
    if arguments.json:
        print(json.dumps(rows, indent=1))
    else:
        print(f"{'req/s':>6} {'sent':>5} {'fail':>4} {'tok/s':>8} "
              f"{'ttft ms p50':>11} {'p95':>8} {'p99':>8} "
              f"{'itl ms p50':>10} {'p95':>8} {'p99':>8}")
        for row in rows:
            times = [1e3 * row[f"{name}_p{part}"] for name in ("ttft", "itl")
                     for part in (50, 95, 99)]  # fmt: skip
            print(f"{row['rate']:6g} {row['requests']:5} {row['failed']:4} "
                  f"{row['tokens_per_second']:8.1f} {times[0]:11.1f} "
                  f"{times[1]:8.1f} {times[2]:8.1f} {times[3]:10.1f} "
                  f"{times[4]:8.1f} {times[5]:8.1f}")
    return 1 if any(row["failed"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())

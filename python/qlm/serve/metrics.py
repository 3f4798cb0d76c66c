# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""What Prometheus reads at /metrics."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

GAUGES = {
    "waiting": ("qlm_requests_waiting", "texts that wait for pages"),
    "running": ("qlm_requests_running", "texts that are computed"),
    "open": ("qlm_requests_open", "requests accepted and not finished"),
    "total_pages": ("qlm_kv_pages", "pages of the KV cache"),
    "used_pages": ("qlm_kv_pages_used", "pages held by running texts"),
    "idle_pages": ("qlm_kv_pages_idle", "pages kept for texts to come"),
}
COUNTERS = {
    "steps": ("qlm_steps", "steps"),
    "failed_steps": ("qlm_steps_failed", "steps rolled back"),
    "prompt_tokens": ("qlm_prompt_tokens", "tokens of prompts computed"),
    "cached_tokens": (
        "qlm_prompt_tokens_cached", "tokens of prompts found in the cache",
    ),
    "generated_tokens": ("qlm_generated_tokens", "tokens generated"),
    "proposed_tokens": (
        "qlm_speculation_proposed_tokens", "tokens checked ahead of a text",
    ),
    "accepted_tokens": (
        "qlm_speculation_accepted_tokens", "those of them that came true",
    ),
    "preemptions": ("qlm_preemptions", "texts that gave their pages up"),
    "evictions": ("qlm_kv_evictions", "idle pages that were needed"),
    "kernel_seconds": ("qlm_kernel_seconds", "seconds in kernels"),
    "step_seconds": ("qlm_step_seconds", "seconds in steps"),
}  # fmt: skip


class EngineCollector:
    """Reads the engine's numbers when asked."""

    def __init__(self, engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """Yield each number."""
        stats = self._engine.stats()
        for key, (name, text) in GAUGES.items():
            yield GaugeMetricFamily(name, text, value=stats[key])
        for key, (name, text) in COUNTERS.items():
            yield CounterMetricFamily(name, text, value=stats[key])
        finished = CounterMetricFamily(
            "qlm_texts_finished", "texts by how they ended", labels=["reason"]
        )
        for key, value in stats.items():
            if key.startswith("finished_"):
                finished.add_metric([key.removeprefix("finished_")], value)
        yield finished


class Metrics:
    """The server's own numbers and the engine's, in one registry."""

    def __init__(self, engine) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(EngineCollector(engine))
        self.first_token = Histogram(
            "qlm_time_to_first_token_seconds",
            "from a request's acceptance to its first token",
            registry=self.registry, buckets=SECONDS,
        )  # fmt: skip
        self.between_tokens = Histogram(
            "qlm_inter_token_seconds", "between a text's tokens",
            registry=self.registry, buckets=SECONDS,
        )  # fmt: skip
        self.whole = Histogram(
            "qlm_request_seconds", "from a text's acceptance to its end",
            registry=self.registry, buckets=SECONDS,
        )  # fmt: skip
        self.answers = Counter(
            "qlm_http_requests", "answers by route and status",
            ["route", "status"], registry=self.registry,
        )  # fmt: skip

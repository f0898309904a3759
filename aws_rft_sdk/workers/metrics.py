"""Figures of one worker in the Prometheus text format, in a registry of its own."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from aws_rft_sdk.workers.pool import RolloutPool

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_ANSWER_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_ROLLOUT_BUCKETS = (1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 540.0, 600.0)


class WorkerMetrics:
    """What `/metrics` shows.

    Args:
        pool: Whose figures are read when somebody asks.
    """

    def __init__(self, pool: RolloutPool) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_PoolCollector(pool))
        self.requests = Counter("rft_worker_requests", "Requests answered", ["path", "status"], registry=self._registry)
        self.answers = Histogram(
            "rft_worker_answer_seconds",
            "From a request's head to the answer's head",
            ["path"],
            buckets=_ANSWER_BUCKETS,
            registry=self._registry,
        )
        self.rollouts = Histogram(
            "rft_worker_rollout_seconds",
            "From the start of a rollout until its feedback was delivered",
            buckets=_ROLLOUT_BUCKETS,
            registry=self._registry,
        )

    def render(self) -> bytes:
        """Return the text."""
        return generate_latest(self._registry)


class _PoolCollector(Collector):
    def __init__(self, pool: RolloutPool) -> None:
        self._pool = pool

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        figures = self._pool.figures()
        for name, text, value in (
            ("running", "Rollouts and calls in progress", figures.running),
            ("free", "How many more may begin", figures.free),
            ("hung", "Threads that run on although their rollout is over", figures.hung),
            ("stuck", "Whether this process is lost and ends", int(self._pool.is_stuck)),
            ("draining", "Whether new rollouts are refused", int(figures.draining)),
            ("loop_stalled_seconds", "For how long a handler has blocked its event loop", figures.stalled_seconds),
        ):
            yield GaugeMetricFamily(f"rft_worker_{name}", text, value=value)
        for name, text, value in (
            ("started", "Rollouts begun", figures.started),
            ("repeated", "Deliveries of a rollout that was running or done", figures.repeated),
            ("refused", "Deliveries refused since no slot was free", figures.refused),
        ):
            yield CounterMetricFamily(f"rft_worker_rollouts_{name}", text, value=value)
        ended = CounterMetricFamily("rft_worker_rollouts_ended", "Rollouts that ended", labels=["outcome"])
        for outcome, count in figures.ended.items():
            ended.add_metric([outcome], count)
        yield ended

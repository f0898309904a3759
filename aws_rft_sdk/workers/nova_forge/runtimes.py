"""Local runtimes, one after the other: each keeps every turn that it served, and a container may serve for weeks."""

from __future__ import annotations

import threading
from collections import Counter

from aws_rft_sdk.runtime import LocalRuntime, Policy

ROLLOUTS_EACH = 500
"""Rollouts that one runtime serves. With long answers and their log probabilities that is some 100 MB."""


class Runtimes:
    """Hands out a runtime for each rollout. One that has served its share ends with the last of them.

    Args:
        policy: Who answers inference, in all of them.
        db: File in which every turn is recorded; then one runtime serves all rollouts. None to record in memory.
        rollouts_each: How many rollouts a runtime in memory serves.

    Concurrency: safe from any thread.
    """

    def __init__(self, policy: Policy, db: str | None, rollouts_each: int = ROLLOUTS_EACH) -> None:
        self._policy = policy
        self._db = db
        self._rollouts_each = rollouts_each
        self._lock = threading.Lock()
        self._served = 0
        self._in_use: Counter[LocalRuntime] = Counter()
        self._current = self._make()

    @property
    def current(self) -> LocalRuntime:
        """The runtime of the rollouts that begin now."""
        return self._current

    def start(self) -> None:
        """Start the first one."""
        self._current.start()

    def acquire(self) -> LocalRuntime:
        """Return the runtime of a rollout that begins; `release` it afterwards."""
        retired = None
        with self._lock:
            if self._db is None and self._served >= self._rollouts_each:
                retired, self._current, self._served = self._current, self._make().start(), 0
            self._served += 1
            self._in_use[self._current] += 1
            found = self._current
            if retired is not None and self._in_use[retired]:
                retired = None  # the last of its rollouts ends it
        if retired is not None:
            retired.stop()
        return found

    def release(self, runtime: LocalRuntime) -> None:
        """Say that a rollout is over, and everything is known of it."""
        with self._lock:
            self._in_use[runtime] -= 1
            if self._in_use[runtime]:
                return
            del self._in_use[runtime]
            retired = runtime is not self._current
        if retired:
            runtime.stop()

    def stop(self) -> None:
        """Stop all of them."""
        with self._lock:
            runtimes = {self._current, *self._in_use}
        for runtime in runtimes:
            runtime.stop()

    def _make(self) -> LocalRuntime:
        return LocalRuntime(self._policy, auth="none", db=self._db or ":memory:")

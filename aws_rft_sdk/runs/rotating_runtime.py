"""Runtimes for many rollouts in a row: replaced now and then, so that what they record does not pile up."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aws_rft_sdk.lifecycle.executor import in_sdk_thread
from aws_rft_sdk.runtime import LocalRuntime, Policy

_TURNS_EACH = 500


class RotatingRuntime:
    """Local runtimes with one policy, each for a number of turns. Nothing of them goes to disk.

    Args:
        policy: Who answers inference. Its `aclose` is called by each runtime.
        turns_each: After how many turns a runtime is replaced: it keeps the request of each.

    Concurrency: for one event loop.
    """

    def __init__(self, policy: Policy, turns_each: int = _TURNS_EACH) -> None:
        self._policy = policy
        self._turns_each = turns_each
        self._current: LocalRuntime | None = None
        self._turns = 0
        self._in_use: Counter[LocalRuntime] = Counter()
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def runtime(self, turns: int) -> AsyncIterator[LocalRuntime]:
        """Lend a running runtime for one rollout of about so many turns."""
        async with self._lock:
            if self._current is None or self._turns >= self._turns_each:
                retired, self._current = self._current, None
                if retired is not None and not self._in_use[retired]:
                    await in_sdk_thread(retired.stop)
                # A payload's signature says nothing here: whoever replays may have no credentials, or other ones.
                self._current = await in_sdk_thread(LocalRuntime(self._policy, auth="none").start)
                self._turns = 0
            runtime = self._current
            self._turns += turns
            self._in_use[runtime] += 1
        try:
            yield runtime
        finally:
            self._in_use[runtime] -= 1
            if not self._in_use[runtime]:
                del self._in_use[runtime]
                if runtime is not self._current:
                    await in_sdk_thread(runtime.stop)

    async def aclose(self) -> None:
        """Stop what is left."""
        left = {*self._in_use, *([self._current] if self._current is not None else [])}
        self._current = None
        for runtime in left:
            await in_sdk_thread(runtime.stop)

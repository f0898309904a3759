"""When calls to one agent may go out. All rollouts of an engine share a gate."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable

from aws_rft_sdk._backoff import Backoff
from aws_rft_sdk.errors import AgentUnreachableError, UnavailableError
from aws_rft_sdk.rollout.engines.base import PATIENCE_SECONDS

_BACKOFF = Backoff(base_seconds=0.2, cap_seconds=2.0)
_SPACING_SECONDS = 0.02
"""Between calls that were held back: all at once, they would overflow the queue of a server that has just started."""


class Gate:
    """Holds calls back while an agent is busy, or does not answer.

    Args:
        agent: What is called, for messages.
        unreachable_seconds: For how long the agent may answer no call.
        backoff: Waits between calls that are not answered.
        clock: Seconds that never go backwards.
    """

    def __init__(
        self,
        agent: str,
        *,
        unreachable_seconds: float = PATIENCE_SECONDS,
        backoff: Backoff = _BACKOFF,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._agent = agent
        self._limit = unreachable_seconds
        self._backoff = backoff
        self._clock = clock
        self._busy_until = self._again_at = self._answered_at = -math.inf
        self._slot_at = -math.inf
        self._silent_since: float | None = None
        self._failures = 0
        self._why = f"{agent} was not called before the deadline of the rollout"

    async def wait(self, end: float, *, for_start: bool) -> float:
        """Wait until a call may go out, and return the time.

        Args:
            end: Deadline of the rollout on the gate's clock.
            for_start: Whether the call starts a rollout. Then it also waits for a busy agent.

        Raises:
            AgentUnreachableError: The deadline comes first, so nothing was sent.
        """
        slot: float | None = -math.inf
        while True:  # others may move the times meanwhile
            now = self._clock()
            opens = max(self._again_at, self._busy_until if for_start else -math.inf)
            if now < opens:
                slot = None
            elif slot is None:
                slot = max(now, self._slot_at)
                self._slot_at = slot + _SPACING_SECONDS
            due = max(opens, -math.inf if slot is None else slot)
            if now >= end and (for_start or now < due):
                raise AgentUnreachableError(self._why)
            if now >= due:
                return now
            await asyncio.sleep(min(due, end) - now)

    def busy(self, seconds: float) -> None:
        """Let no rollout start for some seconds: the agent has refused one."""
        self._why = f"{self._agent} was busy until the deadline of the rollout"
        self._busy_until = max(self._busy_until, self._clock() + seconds)

    def answered(self) -> None:
        """Note that a call was answered, whatever the answer was."""
        self._answered_at, self._silent_since, self._failures = self._clock(), None, 0

    def failed(self, began: float, why: str) -> None:
        """Note that a call was not answered, and hold all calls back for a moment.

        Args:
            began: When the call went out.
            why: What went wrong.

        Raises:
            UnavailableError: The agent has answered no call for too long.
        """
        now = self._clock()
        self._why = f"{self._agent} does not answer ({why})"
        since = max(began, self._answered_at)
        self._silent_since = since if self._silent_since is None else min(since, self._silent_since)
        if now - self._silent_since >= self._limit:
            raise UnavailableError(f"{self._why}: no call was answered for {self._limit:g} s")
        if began >= self._again_at:  # of calls that went out together, the first one counts
            self._failures += 1
            self._again_at = now + self._backoff.delay(self._failures)

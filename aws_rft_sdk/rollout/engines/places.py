"""Chooses where a rollout runs, and keeps work away from places that fail."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from aws_rft_sdk._backoff import Backoff
from aws_rft_sdk.errors import UnavailableError
from aws_rft_sdk.rollout.engines.base import PATIENCE_SECONDS

_BACKOFF = Backoff(base_seconds=0.5, cap_seconds=10.0)

P = TypeVar("P", bound=Hashable)


@dataclass
class _Standing:
    load: int = 0
    failures: int = 0
    """Since its last success. It decides how long the next quarantine lasts."""
    quarantined_until: float | None = None
    """Time of the event loop. None if the place is trusted."""
    trusted_at: float = 0.0
    """When that began. Time of the event loop."""
    on_trial: bool = False
    """Whether a first rollout was sent there after the quarantine, and nothing is known of it yet."""

    def is_free(self, now: float) -> bool:
        return self.quarantined_until is None or (self.quarantined_until <= now and not self.on_trial)


class Places(Generic[P]):
    """The places of an engine: processes, actors or workers.

    Work goes to the place with the fewest rollouts. A place that fails gets no work for a while: 0.25 to 0.5 s after
    the first failure, doubled with each further one up to 10 s. After that a single rollout tries it; more follow once
    the place has answered. So a place that fails at once does not attract work. All methods belong to one event loop.

    Args:
        patience_seconds: How long `acquire` waits for a place that works.
        backoff: How long a quarantine lasts.
    """

    def __init__(self, *, patience_seconds: float = PATIENCE_SECONDS, backoff: Backoff = _BACKOFF) -> None:
        self._patience_seconds = patience_seconds
        self._backoff = backoff
        self._standings: dict[P, _Standing] = {}
        self._missing_since: float | None = None
        self._last_failure = "there is no place at all"
        self._changed = asyncio.Event()

    def add(self, place: P, error: str | None = None) -> None:
        """Add a place. Does nothing if it is known.

        Args:
            place: The place.
            error: How it has failed already, which puts it into quarantine; None if it seems to work.
        """
        if place in self._standings:
            return
        self._standings[place] = _Standing(trusted_at=asyncio.get_running_loop().time())
        if error is not None:
            self._quarantine(self._standings[place], error)
        self._wake()

    def remove(self, place: P) -> None:
        """Remove a place, also while it runs rollouts; their `release` does nothing then."""
        if standing := self._standings.pop(place, None):
            self._note_last_of(standing)
        self._wake()

    async def acquire(self) -> P:
        """Return the place with the fewest rollouts, one more from now on. Waits while all are in quarantine.

        Raises:
            UnavailableError: No place has worked for `patience_seconds`.
        """
        while True:
            now = asyncio.get_running_loop().time()
            self._check_patience(now)
            free = [place for place, standing in self._standings.items() if standing.is_free(now)]
            if free:
                place = min(free, key=lambda place: self._standings[place].load)
                standing = self._standings[place]
                standing.load += 1
                standing.on_trial = standing.quarantined_until is not None
                return place
            await self._change(now)

    def answered(self, place: P) -> None:
        """Note that the place has taken a rollout, so it works. `release` comes only when the rollout is over."""
        if standing := self._standings.get(place):
            if standing.quarantined_until is not None:
                standing.trusted_at = asyncio.get_running_loop().time()
            standing.quarantined_until, standing.on_trial = None, False
            self._missing_since = None
            self._wake()

    def release(self, place: P, error: str | None) -> None:
        """Note that a rollout has left the place that `acquire` returned.

        Args:
            place: The place.
            error: How the place failed, which puts it into quarantine; None if it did its work, which ends one.
        """
        if (standing := self._standings.get(place)) is None:
            return
        standing.load -= 1
        if error is None:
            standing.failures = 0
            self.answered(place)
        else:
            self._quarantine(standing, error)
            self._wake()

    def _quarantine(self, standing: _Standing, error: str) -> None:
        self._last_failure = error
        now = asyncio.get_running_loop().time()
        # All rollouts of a place that dies fail together: that is one failure.
        if standing.is_free(now) or standing.on_trial:
            self._note_last_of(standing)
            standing.failures += 1
            standing.quarantined_until = now + self._backoff.delay(standing.failures)
            standing.on_trial = False

    def _note_last_of(self, standing: _Standing) -> None:
        """Begin patience anew if a place is lost that was trusted for that long: its rollouts may just be long."""
        now = asyncio.get_running_loop().time()
        if standing.quarantined_until is None and now - standing.trusted_at >= self._patience_seconds:
            self._missing_since = None

    def _check_patience(self, now: float) -> None:
        if any(standing.quarantined_until is None for standing in self._standings.values()):
            return
        if self._missing_since is None:
            self._missing_since = now
        if now >= self._missing_since + self._patience_seconds:
            raise UnavailableError(
                f"nothing has been able to run rollouts for {self._patience_seconds:g} s. "
                f"The last failure: {self._last_failure}"
            )

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _change(self, now: float) -> None:
        """Wait until a place may be free, or patience is over."""
        waiting = [standing for standing in self._standings.values() if not standing.on_trial]
        times = [standing.quarantined_until for standing in waiting if standing.quarantined_until is not None]
        if self._missing_since is not None:
            times.append(self._missing_since + self._patience_seconds)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._changed.wait(), min(times) - now)

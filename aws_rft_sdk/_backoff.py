"""How long to wait before a repetition. Pure, apart from the random source that is passed in."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

_LONGEST_SECONDS = 86_400.0


@dataclass(frozen=True)
class Backoff:
    """Exponential backoff with jitter.

    The n-th wait, n from 1, is drawn evenly from the upper half of `min(cap, base * 2 ** (n - 1))` seconds. A wait that
    the service asks for (`Retry-After`) takes its place, up to the cap.
    """

    base_seconds: float = 0.25
    cap_seconds: float = 20.0

    def delay(
        self,
        attempt: int,
        retry_after_seconds: float | None = None,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> float:
        """Return the seconds to wait after attempt number `attempt` (from 1) failed.

        Args:
            attempt: Attempts made so far.
            retry_after_seconds: Seconds that the service asked for, None when it did not ask.
            uniform: Draws a float between its two arguments.
        """
        if retry_after_seconds is not None:
            return min(max(retry_after_seconds, 0.0), self.cap_seconds)
        full: float = min(self.cap_seconds, self.base_seconds * 2.0 ** min(attempt - 1, 32))
        return uniform(full / 2, full)


def parse_retry_after(value: str | None, now: Callable[[], float] = time.time) -> float | None:
    """Read a `Retry-After` header, in seconds or as a date (RFC 9110, 10.2.3).

    Args:
        value: The header, None when there is none.
        now: Seconds since the epoch.

    Returns:
        Seconds from now, from 0 to 86,400. Returns None when there is no header or it cannot be read.
    """
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        from email.utils import parsedate_to_datetime  # rarely needed, and slow to import

        try:
            seconds = parsedate_to_datetime(value).timestamp() - now()
        except (ValueError, OverflowError):  # OverflowError: a year that no clock reaches
            return None
    return min(max(seconds, 0.0), _LONGEST_SECONDS) if seconds == seconds else None  # NaN is no time

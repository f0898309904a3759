"""Ends code that takes too long, so that one reward that hangs does not take everything else with it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn


class OutOfTimeError(BaseException):
    """The time is over. No Exception, so that code which catches those lets it through."""


@contextmanager
def ended_after(seconds: float | None) -> Iterator[None]:
    """Raise `OutOfTimeError` in the code inside when it takes longer than this.

    Python's loops, waits and regular expressions are ended, long steps of extensions are not. There is no limit outside
    of the main thread and on Windows, where there are no alarms.

    Args:
        seconds: Above 0; None for no limit.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if seconds is None or not in_main_thread or not hasattr(signal, "setitimer"):
        yield
        return
    before = signal.signal(signal.SIGALRM, _strike)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before or signal.SIG_DFL)


def _strike(*signal_and_frame: object) -> NoReturn:
    raise OutOfTimeError("the time is over")

"""Ends code that takes too long, so that one reward that hangs does not take everything else with it."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn


class OutOfTimeError(BaseException):
    """The time is over. No Exception, so that code which catches those lets it through."""


def has_alarm() -> bool:
    """Return whether `ended_after` has a limit here: in the main thread, and not on Windows."""
    return hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()


def leave_alarms_to_main_thread() -> None:
    """Call this first in a thread that runs beside `ended_after`.

    The kernel may deliver the alarm to any thread that does not block it. Then a main thread that waits sleeps on.
    """
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})


@contextmanager
def ended_after(seconds: float | None) -> Iterator[None]:
    """Raise `OutOfTimeError` in the code inside when it takes longer than this.

    Python's loops, waits and regular expressions are ended, long steps of extensions are not. There is no limit if
    `seconds` is None, outside of the main thread, and on Windows.
    """
    if seconds is None or not has_alarm():
        yield
        return
    before, began = signal.signal(signal.SIGALRM, _strike), time.monotonic()
    others, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        try:
            signal.setitimer(signal.ITIMER_REAL, 0)
        finally:
            signal.signal(signal.SIGALRM, before or signal.SIG_DFL)
            if others:  # somebody else's alarm, such as that of a test runner, goes on
                signal.setitimer(signal.ITIMER_REAL, max(others - (time.monotonic() - began), 1e-6))


def _strike(*signal_and_frame: object) -> NoReturn:
    raise OutOfTimeError("the time is over")

"""Ends a process that runs rollouts in good order, for example when a platform reclaims its container.

New rollouts are refused, and those in progress get a deadline. A rollout that does not finish in time is reported as an
error, so that nobody waits for it in vain. Feedback that cannot be delivered stays in the outbox.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from types import FrameType
from typing import Any, NamedTuple

from aws_rft_sdk._checks import check_seconds
from aws_rft_sdk.errors import ConfigurationError, GivenUpError
from aws_rft_sdk.lifecycle import one_rollout

logger = logging.getLogger(__name__)

GRACE_SECONDS = 25.0
"""Default for the whole shutdown: less than the 30 seconds after which most platforms kill."""
REPORT_SHARE = 0.2
"""Share of the grace period that is kept for reporting the rollouts that did not finish."""
_POLL_SECONDS = 0.05
_SHUT_DOWN = "the process was shut down before the rollout had finished"


class Drained(NamedTuple):
    """What became of the rollouts that were in progress."""

    finished: int
    """Ended by themselves."""
    given_up: int
    """Still in progress at the deadline. They are reported as errors, or delivered if they had just finished. If that
    took too long, they are neither."""


def drain(grace_seconds: float = GRACE_SECONDS) -> Drained:
    """Refuse new rollouts, wait for those in progress, and report those that do not finish in time. Blocks.

    A rollout that is given up is reported with a `GivenUpError`, as `on_error` of its handler says. Its function
    may still be running, and what it returns is ignored. Call this in a thread if an event loop runs your handlers,
    since the loop must go on meanwhile. Safe to repeat.

    Args:
        grace_seconds: Seconds for all of it. A fifth is kept for reporting.

    Returns:
        What became of the rollouts. New ones are still refused.

    Raises:
        ConfigurationError: The grace period is not a positive number.
    """
    check_seconds("grace_seconds", grace_seconds)
    end = time.monotonic() + grace_seconds
    one_rollout.stop_beginning()
    begun = len(one_rollout.running())
    deadline = end - grace_seconds * REPORT_SHARE
    while one_rollout.running() and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    late = one_rollout.running()
    if late:
        logger.warning("rollouts=<%d> | did not finish before the shutdown and are reported as errors", len(late))
        give_up(late, end)
    return Drained(finished=begun - len(late), given_up=len(late))


def give_up(rollouts: list[one_rollout.Rollout], end: float, why: str = _SHUT_DOWN) -> None:
    """Report rollouts as errors, all at once. Blocks, at most until `end` on the monotonic clock."""
    error = GivenUpError(why)
    threads = ThreadPoolExecutor(min(32, len(rollouts)), thread_name_prefix="rft-shutdown")
    reports = [threads.submit(rollout.failed, error) for rollout in rollouts]
    # With an outbox, the next process delivers what is decided by then.
    wait(reports, timeout=max(0.0, end - time.monotonic()))
    threads.shutdown(wait=False, cancel_futures=True)


def drain_on_sigterm(grace_seconds: float = GRACE_SECONDS) -> None:
    """From now on, `drain` at SIGTERM, then do what the process would have done without this: usually, end.

    The process has ended when the grace period is over, whatever hangs. Call it in the main thread, after everything
    else that handles the signal. A server that installs its own handler later (uvicorn, gunicorn) replaces this one.
    Call `drain` in the shutdown hook of such a server instead. A replaced handler is named in the log when the process
    ends.

    Args:
        grace_seconds: Seconds from the signal to the end of the process. Stay below what the platform allows.

    Raises:
        ConfigurationError: Not in the main thread, or the grace period is not a positive number.
    """
    if threading.current_thread() is not threading.main_thread():
        raise ConfigurationError("drain_on_sigterm() sets a signal handler, so it must be called in the main thread")
    check_seconds("grace_seconds", grace_seconds)
    before: Any = signal.getsignal(signal.SIGTERM)
    begun, drained = threading.Event(), threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if drained.is_set():
            _go_on(before, number, frame)
        elif not begun.is_set():
            begun.set()
            # In a thread: a signal handler interrupts the main thread, which may be in the middle of a rollout.
            threading.Thread(target=_drain_and_end, args=(grace_seconds, drained), name="rft-shutdown").start()

    def note_replaced() -> None:
        if not begun.is_set() and (now := signal.getsignal(signal.SIGTERM)) is not handle:
            logger.warning(
                "handler=<%s> | replaced that of drain_on_sigterm(), so SIGTERM would not have drained the rollouts. "
                "Call aws_rft_sdk.lifecycle.shutdown.drain() in the shutdown hook of the server",
                getattr(now, "__qualname__", now),
            )

    signal.signal(signal.SIGTERM, handle)
    atexit.register(note_replaced)


def _drain_and_end(grace_seconds: float, drained: threading.Event) -> None:
    end = time.monotonic() + grace_seconds
    drain(grace_seconds)
    drained.set()
    _wake_main_thread()
    end_at(max(end, time.monotonic() + 1.0), 128 + signal.SIGTERM)


def _wake_main_thread() -> None:
    # Handlers run in the main thread, and only a signal to that very thread wakes it from a wait.
    ident = threading.main_thread().ident
    if ident is not None and hasattr(signal, "pthread_kill"):
        signal.pthread_kill(ident, signal.SIGTERM)
    else:
        os.kill(os.getpid(), signal.SIGTERM)


def end_at(end: float, status: int) -> None:
    """See to it that the process has ended by `end` on the monotonic clock, whatever hangs in it. Returns at once."""
    threading.Thread(target=_end_at, args=(end, status), name="rft-end", daemon=True).start()


def _end_at(end: float, status: int) -> None:
    time.sleep(max(0.0, end - time.monotonic()))
    logger.error("the process did not end within its grace period and is ended now")
    os._exit(status)


def _go_on(before: Any, number: int, frame: FrameType | None) -> None:
    if callable(before):
        before(number, frame)
    elif before != signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

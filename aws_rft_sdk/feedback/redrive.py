"""Delivers what stands in an outbox and the runtime has not confirmed: at once, or in the background."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from aws_rft_sdk._checks import check_number
from aws_rft_sdk._fork import in_forked_child
from aws_rft_sdk.errors import OutboxError, RFTError
from aws_rft_sdk.feedback.delivery import OnDisk
from aws_rft_sdk.feedback.delivery import deliver as deliver_outstanding
from aws_rft_sdk.feedback.ledger import Entry
from aws_rft_sdk.feedback.outbox import Outbox, shared_outbox
from aws_rft_sdk.feedback.sending import TIMEOUT_SECONDS, Sender

logger = logging.getLogger(__name__)

POLL_SECONDS = 2.0
"""How often the background looks for pending trajectories whose next attempt is due."""
PRUNE_SECONDS = 3600.0
MAX_PAUSE_SECONDS = 300.0
THREADS = 16
"""Trajectories delivered at once."""

Deliver = Callable[[Outbox, Entry], None]


class Delivered(NamedTuple):
    """What one pass over an outbox did."""

    delivered: int
    """Trajectories whose feedback the runtime has confirmed now."""
    postponed: int
    """Trajectories that are still pending."""
    refused: int = 0
    """Trajectories whose feedback the runtime refuses for good: they count as failed now."""


def deliver(outbox: Outbox, entry: Entry) -> None:
    """Deliver one entry with the credentials of this process. Each call is sent once; it comes back later.

    The endpoint was trusted when the trajectory was decided, so it is not checked again.

    Raises:
        RFTError: It could not be delivered; the entry is postponed. Safe to repeat.
    """
    sender = Sender(entry.endpoint, entry.auth, entry.metadata.trajectory_id, max_seconds=TIMEOUT_SECONDS, backoff=None)
    deliver_outstanding(OnDisk(outbox, entry.metadata, entry.endpoint, entry.auth), sender, entry.metadata)


def deliver_pending(
    outbox: Outbox,
    *,
    due_only: bool = False,
    deliver: Deliver = deliver,
    threads: int = THREADS,
    stopping: threading.Event | None = None,
) -> Delivered:
    """Try to deliver every pending trajectory once, several at once. Blocks.

    Args:
        outbox: The outbox; others may use it meanwhile.
        due_only: Whether trajectories are left alone whose next attempt is not due, or that someone else is delivering.
        deliver: Delivers one entry. What it raises stops no other entry.
        threads: Trajectories delivered at once.
        stopping: Ends the pass early, after the trajectories in hand, once it is set.

    Raises:
        OutboxError: The file cannot be used.
    """
    check_number("threads", threads, low=1, whole=True)
    one_pass = _Pass(outbox, outbox.now() if due_only else outbox.make_all_due(), deliver, stopping)
    helpers = [
        threading.Thread(target=one_pass.run, name="rft-deliver", daemon=True)
        for _ in range(min(threads, outbox.count_due()) - 1)
    ]
    for helper in helpers:
        helper.start()
    one_pass.run()
    for helper in helpers:
        helper.join()
    if one_pass.error is not None:
        raise one_pass.error
    return Delivered(**one_pass.counts)


class _Pass:
    """One pass over the trajectories of an outbox that are due. Several threads may run it."""

    def __init__(self, outbox: Outbox, due_before: float, deliver: Deliver, stopping: threading.Event | None) -> None:
        self.counts = {"delivered": 0, "postponed": 0, "refused": 0}
        self.error: OutboxError | None = None
        self._outbox = outbox
        self._due_before = due_before
        self._deliver = deliver
        self._stopping = stopping or threading.Event()
        self._lock = threading.Lock()

    def run(self) -> None:
        try:
            while not self._stopping.is_set() and self.error is None:
                entry = self._outbox.claim(self._due_before)
                if entry is None:
                    return
                kind = self._try(entry)
                with self._lock:
                    self.counts[kind] += 1
        except OutboxError as error:
            self.error = error

    def _try(self, entry: Entry) -> str:
        try:
            self._deliver(self._outbox, entry)
            return "delivered"
        except OutboxError:
            raise
        except RFTError as error:
            failure: Exception = error
        except Exception as error:  # of the entry, or a mistake of ours: it is postponed, and the others go on
            failure = error
        return self._note(entry, failure)

    def _note(self, entry: Entry, error: Exception) -> str:
        text = f"{type(error).__name__}: {error}"
        after = self._outbox.find(entry.metadata) or entry
        if after.attempts == entry.attempts:  # nobody has noted the failure yet
            self._outbox.update(entry.metadata, entry.endpoint, entry.auth, error=text)
        refused = after.decision.is_refused
        # A failure that repeats itself is logged once.
        if refused or text != entry.last_error:
            logger.log(
                logging.ERROR if refused or not isinstance(error, RFTError) else logging.WARNING,
                "trajectory_id=<%s>, error=<%s> | %s",
                entry.metadata.trajectory_id,
                text,
                "the runtime refuses the feedback for good" if refused else "feedback stays in the outbox",
                exc_info=None if isinstance(error, RFTError) else error,
            )
        return "refused" if refused else "postponed"


class Redriver:
    """Delivers pending trajectories of an outbox in a thread, until it is stopped.

    Args:
        outbox: The outbox.
        poll_seconds: Pause between two looks.
        deliver: Delivers one entry.
    """

    def __init__(self, outbox: Outbox, *, poll_seconds: float = POLL_SECONDS, deliver: Deliver = deliver) -> None:
        self._outbox = outbox
        self._poll_seconds = poll_seconds
        self._deliver = deliver
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rft-redrive", daemon=True)

    def start(self) -> Redriver:
        """Begin: first with everything that an earlier process left, then with what becomes due."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """End after the trajectories in hand. What is pending stays in the outbox."""
        self._stopping.set()
        self._thread.join()

    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        pruned_at = -math.inf
        pause = self._poll_seconds
        while True:
            try:
                if time.monotonic() - pruned_at >= PRUNE_SECONDS:
                    self._outbox.prune()
                    pruned_at = time.monotonic()
                deliver_pending(self._outbox, due_only=True, deliver=self._deliver, stopping=self._stopping)
                pause = self._poll_seconds
            except Exception as error:
                # A handler that needs the outbox says so itself; here it is enough not to fill the log.
                pause = min(2 * pause, MAX_PAUSE_SECONDS)
                logger.warning(
                    "outbox=<%s>, error=<%s: %s> | tried again in %.0f s",
                    self._outbox.path,
                    type(error).__name__,
                    error,
                    pause,
                )
            if self._stopping.wait(pause):
                return


_redrivers: dict[Path, Redriver] = {}
_lock = threading.Lock()


def start_in_background(outbox: Outbox) -> None:
    """Make sure that a thread of this process delivers what becomes due in this outbox. Safe to do often."""
    redriver = _redrivers.get(outbox.path)
    if redriver is not None and redriver.is_alive():
        return
    with _lock:
        redriver = _redrivers.get(outbox.path)
        if redriver is None or not redriver.is_alive():  # threads do not survive a fork
            _redrivers[outbox.path] = Redriver(outbox).start()


def start_if_present(outbox: Outbox | str | os.PathLike[str]) -> None:
    """Like `start_in_background`, for a file that exists; one that does not holds nothing to deliver."""
    found = shared_outbox(outbox)
    if found is not None and found.path.is_file():
        start_in_background(found)


def stop_in_background(outbox: Outbox) -> None:
    """Stop what `start_in_background` started, if it did."""
    with _lock:
        redriver = _redrivers.pop(outbox.path, None)
    if redriver is not None and redriver.is_alive():
        redriver.stop()


@in_forked_child
def _forget_after_fork() -> None:
    # Threads do not survive a fork, and nobody would release the lock.
    global _lock
    _lock = threading.Lock()
    _redrivers.clear()

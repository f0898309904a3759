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

from aws_rft_sdk._fork import in_forked_child
from aws_rft_sdk.client import RolloutFeedbackClient
from aws_rft_sdk.errors import OutboxError, RFTError
from aws_rft_sdk.feedback.ledger import Entry
from aws_rft_sdk.feedback.outbox import Outbox, shared_outbox
from aws_rft_sdk.settings import PAYLOAD, check_trusted
from aws_rft_sdk.types import RolloutMetadata

logger = logging.getLogger(__name__)

POLL_SECONDS = 2.0
"""How often the background looks for pending trajectories whose next attempt is due."""
PRUNE_SECONDS = 3600.0
MAX_PAUSE_SECONDS = 300.0
_ATTEMPTS = 2  # an entry that is not delivered comes back later, so one call need not be stubborn

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
    """Deliver one entry with the credentials of this process.

    Raises:
        RFTError: It could not be delivered; the entry is postponed. Safe to repeat.
    """
    try:
        if entry.endpoint.source == PAYLOAD:
            # It was trusted when the trajectory was received; but who can write the file could have written another.
            check_trusted(entry.endpoint.url)
        client = RolloutFeedbackClient(
            entry.metadata,
            endpoint=entry.endpoint.url,
            region=entry.endpoint.region,
            api=entry.endpoint.api,
            auth="bearer" if entry.auth == "bearer" else "sigv4",
            max_attempts=_ATTEMPTS,
            outbox=outbox,
        )
    except RFTError as error:
        outbox.postpone(entry.metadata, f"{type(error).__name__}: {error}", maybe_sent=entry.maybe_sent)
        raise
    client.redeliver(entry)


def deliver_pending(outbox: Outbox, *, due_only: bool = False, deliver: Deliver = deliver) -> Delivered:
    """Try to deliver every pending trajectory once.

    Args:
        outbox: The outbox; others may use it meanwhile.
        due_only: Whether trajectories are left alone whose next attempt is not due, or that someone else is delivering.
        deliver: Delivers one entry.

    Raises:
        OutboxError: The file cannot be used.
    """
    tried: set[RolloutMetadata] = set()
    delivered = refused = 0
    while (entry := outbox.claim(due_only=due_only, exclude=tried)) is not None:
        tried.add(entry.metadata)
        try:
            deliver(outbox, entry)
        except OutboxError:
            raise
        except RFTError as error:
            after = outbox.find(entry.metadata)
            given_up = after is not None and after.refused
            refused += given_up
            logger.log(
                logging.ERROR if given_up else logging.WARNING,
                "trajectory_id=<%s>, error=<%s> | %s",
                entry.metadata.trajectory_id,
                error,
                "the runtime refuses the feedback for good" if given_up else "feedback stays in the outbox",
            )
        else:
            delivered += 1
    return Delivered(delivered, len(tried) - delivered - refused, refused)


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
        """End after the trajectory in hand. What is pending stays in the outbox."""
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
                deliver_pending(self._outbox, due_only=True, deliver=self._deliver)
                pause = self._poll_seconds
            except OutboxError as error:
                # A handler that needs the outbox says so itself; here it is enough not to fill the log.
                pause = min(2 * pause, MAX_PAUSE_SECONDS)
                logger.warning("outbox=<%s>, error=<%s> | tried again in %.0f s", self._outbox.path, error, pause)
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

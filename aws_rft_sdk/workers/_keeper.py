"""Keeps received messages hidden while somebody works on them, then deletes them, shows them again or buries them."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from typing import NamedTuple

from aws_rft_sdk._backoff import Backoff
from aws_rft_sdk.workers._queue import QUEUE_ERRORS, Message, Queue, error_code

logger = logging.getLogger(__name__)

BURIED_SECONDS = 900.0
"""For how long a message is hidden that cannot be used, when there is no dead-letter queue for it."""
UNBURIED_SECONDS = 60.0
"""For how long, when the dead-letter queue did not take it."""
_BEATS = 3
"""How often a message is hidden again within the time for which it is hidden."""


class Delete(NamedTuple):
    """The message has served its purpose."""


class Release(NamedTuple):
    """Someone else, or we later, shall receive the message again."""

    seconds: float


class Bury(NamedTuple):
    """The message cannot be used."""

    reason: str


Fate = Delete | Release | Bury


@dataclass
class _Held:
    """A message in our hands."""

    message: Message
    fate: Fate | None = None


class Keeper:
    """Holds messages of one queue, in a thread of its own.

    Args:
        queue: The queue.
        visibility_seconds: For how long messages are hidden; they are hidden anew three times in that time.
        dead_letters: Where messages go that cannot be used; None to keep them in the queue.
        backoff: Waits between attempts while the queue gives trouble.

    Concurrency: safe from any thread; no method blocks but `stop`.
    """

    def __init__(
        self,
        queue: Queue,
        *,
        visibility_seconds: float,
        dead_letters: Queue | None = None,
        backoff: Backoff = Backoff(),
    ) -> None:
        self._queue = queue
        self._visibility_seconds = visibility_seconds
        self._dead_letters = dead_letters
        self._backoff = backoff
        self._changed = threading.Condition()
        self._held: dict[str, _Held] = {}
        self._stopping = False
        self._beat_seconds = visibility_seconds / _BEATS
        self._beat_at = self._retry_at = 0.0
        self._attempts = 0
        self._thread = threading.Thread(target=self._run, name="rft-keeper", daemon=True)

    def start(self) -> None:
        """Begin to hide messages anew and to carry out fates."""
        self._thread.start()

    def hold(self, message: Message) -> bool:
        """Take a message into our hands; False if it is there already and was delivered again.

        Then its newer handle counts from now on, since queues may refuse the older one.
        """
        with self._changed:
            held = self._held.get(message.id)
            if held is not None:
                held.message = message
                return False
            self._held[message.id] = _Held(message)
            return True

    def decide(self, message_id: str, fate: Fate) -> None:
        """Say what shall become of a message. The first word counts."""
        with self._changed:
            held = self._held.get(message_id)
            if held is not None and held.fate is None:
                held.fate = fate
                self._changed.notify_all()

    def wait(self, timeout_seconds: float) -> bool:
        """Wait until nothing is in our hands any more; False if that takes longer."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._held, timeout_seconds)

    def stop(self, timeout_seconds: float) -> None:
        """Carry out what is decided, within `timeout_seconds`, and show all other messages again."""
        with self._changed:
            for held in self._held.values():
                if held.fate is None:  # not `or`: a Delete is an empty tuple, and so is not true
                    held.fate = Release(0)
            self._stopping = True
            self._retry_at = 0.0  # there may be no time to wait for
            self._changed.notify_all()
        self._thread.join(timeout_seconds)

    # --- in the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        self._beat_at = time.monotonic() + self._beat_seconds
        while True:
            with self._changed:
                self._changed.wait_for(self._has_work, self._idle_seconds())
                if self._stopping and not self._held:
                    return
                held = list(self._held.values())
            done: bool | None
            try:
                done = self._step(held)
            except Exception:
                # A client may raise what is not botocore's; messages that nobody hides would be run twice.
                logger.exception("queue=<%s> | tried again", self._queue.url)
                done = False
            if done is None:
                continue
            self._attempts = 0 if done else self._attempts + 1
            self._retry_at = 0.0 if done else time.monotonic() + self._backoff.delay(self._attempts)

    def _step(self, held: list[_Held]) -> bool | None:
        """Do what is due; return whether all fates were carried out, None when it is not the time for that."""
        if time.monotonic() >= self._beat_at:
            self._beat_at = time.monotonic() + self._beat_seconds
            self._hide(held)
        if time.monotonic() < self._retry_at:
            return None
        return self._carry_out([item for item in held if item.fate is not None])

    def _has_work(self) -> bool:
        if self._stopping and not self._held:
            return True
        return time.monotonic() >= self._retry_at and any(held.fate is not None for held in self._held.values())

    def _idle_seconds(self) -> float:
        now = time.monotonic()
        return max(0.0, (min(self._beat_at, self._retry_at) if self._retry_at > now else self._beat_at) - now)

    def _hide(self, held: list[_Held]) -> None:
        handles = {item.message.handle: item for item in held if not isinstance(item.fate, Release)}
        result = self._queue.hide(dict.fromkeys(handles, self._visibility_seconds))
        for handle in result.gone:
            # Whoever received it meanwhile finds out that the rollout is running, or is done.
            logger.warning("message_id=<%s> | cannot be hidden any more: delivered again", handles[handle].message.id)
        if result.later:
            again = self._queue.hide(dict.fromkeys(result.later, self._visibility_seconds))
            logger.warning("messages=<%d> | not hidden, tried again in %.0f s", len(again.later), self._beat_seconds)

    def _carry_out(self, decided: list[_Held]) -> bool:
        """Carry fates out; return whether that worked for all."""
        for item in decided:
            if isinstance(item.fate, Bury):
                item.fate = self._bury(item.message, item.fate.reason)
        released = {item.message.handle: item.fate.seconds for item in decided if isinstance(item.fate, Release)}
        if released:
            self._queue.hide(released)  # where it fails, they show by themselves, a little later
        handles = [item.message.handle for item in decided if isinstance(item.fate, Delete)]
        later = self._queue.delete(handles) if handles else set[str]()
        done = {*released, *handles} - later
        with self._changed:
            for item in decided:
                # One that was delivered again in between has another handle by now.
                if item.message.handle in done:
                    del self._held[item.message.id]
            self._changed.notify_all()
        return not later

    def _bury(self, message: Message, reason: str) -> Delete | Release:
        if self._dead_letters is None:
            logger.error(
                "message_id=<%s>, receives=<%d>, reason=<%s> | the message cannot be used, and there is no dead-letter "
                "queue; it is kept and shown again in %.0f s",
                message.id,
                message.receives,
                reason,
                BURIED_SECONDS,
            )
            return Release(BURIED_SECONDS)
        attributes = {"reason": reason, "receives": str(message.receives), "queue": self._queue.url}
        try:
            self._dead_letters.send(message.body, message.id, attributes)
        except QUEUE_ERRORS as error:
            # Not tried here until it works: it may be too large for that queue, and others wait to be deleted.
            logger.error(
                "message_id=<%s>, reason=<%s>, error=<%s> | the dead-letter queue did not take the message, which is "
                "shown again in %.0f s",
                message.id,
                reason,
                error_code(error),
                UNBURIED_SECONDS,
            )
            return Release(UNBURIED_SECONDS)
        logger.error("message_id=<%s>, reason=<%s> | now in the dead-letter queue", message.id, reason)
        return Delete()

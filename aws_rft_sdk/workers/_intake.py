"""Receives messages of one queue: never more than there is room for, and through every trouble of the queue."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from aws_rft_sdk._backoff import Backoff
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.workers._queue import BATCH, QUEUE_ERRORS, Message, Queue, error_code

logger = logging.getLogger(__name__)

ROOM_SECONDS = 1.0
"""How often it is asked whether there is room again, where nobody tells."""


class Intake:
    """Receives messages in a thread until it is stopped.

    Args:
        queue: The queue.
        room: How many messages may be received now.
        take: Is given each message; must not raise, and not block for long.
        wait_seconds: For the first message of a call, 0 to 20.
        visibility_seconds: For how long received messages are hidden.
        prepare: Called before the first message, again and again until it raises nothing. A ConfigurationError ends
            the intake.
        backoff: Waits while the queue gives trouble.
    """

    def __init__(
        self,
        queue: Queue,
        *,
        room: Callable[[], int],
        take: Callable[[Message], None],
        wait_seconds: int,
        visibility_seconds: float,
        prepare: Callable[[], None] | None = None,
        backoff: Backoff = Backoff(),
    ) -> None:
        self._queue = queue
        self._room = room
        self._take = take
        self._wait_seconds = wait_seconds
        self._visibility_seconds = visibility_seconds
        self._prepare = prepare
        self._backoff = backoff
        self._stopping = threading.Event()
        self._may_have_room = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rft-intake", daemon=True)
        self.error: ConfigurationError | None = None
        """Why it has ended by itself; None while it runs."""

    def start(self) -> None:
        """Begin to receive."""
        self._thread.start()

    def stop(self) -> None:
        """Receive no more. A call that waits for messages goes on, and what it brings is still taken."""
        self._stopping.set()
        self._may_have_room.set()

    def join(self, timeout_seconds: float) -> bool:
        """Wait for the end; False if that takes longer."""
        self._thread.join(max(0.0, timeout_seconds))
        return not self._thread.is_alive()

    @property
    def is_alive(self) -> bool:
        """Whether it receives."""
        return self._thread.is_alive()

    def look_again(self) -> None:
        """Say that there may be room now."""
        self._may_have_room.set()

    def _run(self) -> None:
        attempts = 0
        while not self._stopping.is_set():
            try:
                if self._prepare is not None:
                    self._prepare()
                    self._prepare = None
                room = self._room()
                if room < 1:
                    self._may_have_room.wait(ROOM_SECONDS)
                    self._may_have_room.clear()
                    continue
                messages = self._queue.receive(min(room, BATCH), self._wait_seconds, self._visibility_seconds)
            except ConfigurationError as error:
                self.error = error
                logger.error("error=<%s> | nothing more is received", error)
                return
            except Exception as error:
                if not isinstance(error, QUEUE_ERRORS):  # a client may raise what is not botocore's
                    logger.exception("queue=<%s> | an error that nobody expected", self._queue.url)
                attempts += 1
                delay = self._backoff.delay(attempts)
                logger.warning(
                    "queue=<%s>, error=<%s> | tried again in %.1f s", self._queue.url, error_code(error), delay
                )
                self._stopping.wait(delay)
                continue
            attempts = 0
            for message in messages:
                try:
                    self._take(message)
                except Exception:
                    # The others must not wait for it.
                    logger.exception("message_id=<%s> | the message was not taken", message.id)

"""Receives rollouts from an SQS queue and runs the handler. A message is deleted once its reward is safe.

What a message goes through: received only when there is a free slot, hidden from others while its rollout runs, and
deleted when the runtime knows the reward or an outbox holds it. A rollout that ended unreported is shown again, later
each time. What cannot be used goes to a dead-letter queue. Nothing is dropped without a word.
"""

from __future__ import annotations

import functools
import json
import logging
import threading
import time
from collections import OrderedDict
from concurrent.futures import Future
from typing import Any

from aws_rft_sdk._backoff import Backoff
from aws_rft_sdk.errors import AtCapacityError, ConfigurationError, ShuttingDownError, TrajectoryConflictError
from aws_rft_sdk.failures import chain_of
from aws_rft_sdk.lifecycle.calling import DEADLINE_SECONDS, Ended, Handler
from aws_rft_sdk.lifecycle.shutdown import GRACE_SECONDS
from aws_rft_sdk.workers._aws import aws_client
from aws_rft_sdk.workers._intake import Intake
from aws_rft_sdk.workers._keeper import BURIED_SECONDS, Bury, Delete, Fate, Keeper, Release
from aws_rft_sdk.workers._queue import Message, Queue
from aws_rft_sdk.workers._worker import QueueWorker
from aws_rft_sdk.workers.outcomes import is_settled
from aws_rft_sdk.workers.pool import MAX_ROLLOUTS, RolloutPool, Submitted

logger = logging.getLogger(__name__)

VISIBILITY_SECONDS = 60.0
MAX_RECEIVES = 5
WAIT_SECONDS = 20
RETRY = Backoff(base_seconds=5.0, cap_seconds=BURIED_SECONDS)
"""For how long a message is hidden after a rollout that ended unreported."""
_FLUSH_SHARE = 0.2
_REMEMBERED = 10_000


class SqsWorker(QueueWorker):
    """Runs the rollouts that arrive in one queue, FIFO or standard.

    Each body is a payload in any known spelling. A rollout that is delivered again, in another message too, is not run
    again in this process once its outcome is known; over several processes and restarts an outbox on a shared disk
    does the same, and without one the runtime, which takes no second reward.

    Use it as a context manager, call `start` and `stop`, or `run` it until an event is set.

    Args:
        queue_url: The queue.
        handler: A function decorated with `rft_handler`, or a pool that is running already and stays yours.
        client: A boto3 or botocore SQS client; None for one with the credentials of the process.
        max_rollouts: How many may be in progress at once. Not with a pool.
        deadline_seconds: For one rollout. Not with a pool.
        visibility_seconds: For how long a message is hidden at a time; so long it takes until another worker gets what
            this one held when it was killed. At least 1.
        wait_seconds: How long one call waits for messages, 0 to 20.
        max_receives: After so many receives a message is not tried again. Those in which this worker began no rollout,
            for want of a slot or at its end, do not count; what other workers did with it is not known, so theirs do.
            Where the queue has a redrive policy, that decides instead, and counts them all.
        dead_letter_queue_url: Where messages go then, and those that are malformed. Where the queue has a redrive
            policy, that moves them. With neither they stay, are logged as errors, and are shown every 15 minutes.
        retry: For how long a message is hidden after a rollout that ended unreported, by the number of its receives.

    Raises:
        ConfigurationError: An argument has a value that it cannot have, or there is no region.

    Concurrency: safe from any thread.
    """

    def __init__(
        self,
        queue_url: str,
        handler: Handler | RolloutPool,
        *,
        client: Any = None,
        max_rollouts: int = MAX_ROLLOUTS,
        deadline_seconds: float = DEADLINE_SECONDS,
        visibility_seconds: float = VISIBILITY_SECONDS,
        wait_seconds: int = WAIT_SECONDS,
        max_receives: int = MAX_RECEIVES,
        dead_letter_queue_url: str | None = None,
        retry: Backoff = RETRY,
    ) -> None:
        check_timing(visibility_seconds, wait_seconds, max_receives)
        self._own_pool: RolloutPool | None = None
        if not isinstance(handler, RolloutPool):
            handler = self._own_pool = RolloutPool(
                handler, max_rollouts=max_rollouts, deadline_seconds=deadline_seconds
            )
        self._pool = handler
        client = client or aws_client("sqs", queue_url=queue_url)
        self._queue = Queue(client, queue_url)
        self._dead_letters = None if dead_letter_queue_url is None else Queue(client, dead_letter_queue_url)
        self._max_receives = max_receives
        self._retry = retry
        self._redrives = False
        self._unbegun = _Unbegun()
        self._stopping = threading.Event()
        self._keeper = Keeper(self._queue, visibility_seconds=visibility_seconds, dead_letters=self._dead_letters)
        self._intake = Intake(
            self._queue,
            room=lambda: self._pool.free,
            take=self._take,
            wait_seconds=wait_seconds,
            visibility_seconds=visibility_seconds,
            prepare=self._look_at_queue,
        )
        self._intakes = (self._intake,)

    # --- life --------------------------------------------------------------------------------------------------------

    def start(self) -> SqsWorker:
        """Begin to receive rollouts. Once only."""
        if self._own_pool is not None:
            self._own_pool.start()
        self._keeper.start()
        self._intake.start()
        return self

    def stop(self, grace_seconds: float = GRACE_SECONDS) -> bool:
        """Receive no more, let rollouts in progress end, and show again what was not begun. Blocks.

        Rollouts that do not end in time are reported as errors, unless the pool is yours: then their messages are
        shown again. A call that waits for messages meanwhile ends by itself, within `wait_seconds`.

        Args:
            grace_seconds: For all of it.

        Returns:
            Whether every message was deleted or shown again.
        """
        end = time.monotonic() + grace_seconds
        self._stopping.set()
        self._intake.stop()
        flush_seconds = grace_seconds * _FLUSH_SHARE
        if self._own_pool is not None:
            self._own_pool.drain(grace_seconds - flush_seconds)
        # What has ended is told a moment after the pool is empty.
        self._keeper.wait(flush_seconds / 2 if self._own_pool is not None else grace_seconds - flush_seconds)
        self._intake.join(end - flush_seconds / 2 - time.monotonic())
        self._keeper.stop(max(0.1, end - time.monotonic()))
        if self._own_pool is not None:
            self._own_pool.close()
        return self._keeper.wait(0)

    # --- messages ----------------------------------------------------------------------------------------------------

    def _look_at_queue(self) -> None:
        self._redrives = self._queue.redrives()
        if self._dead_letters is not None:
            self._dead_letters.check()

    def _take(self, message: Message) -> None:
        if not self._keeper.hold(message):
            self._unbegun.note(message.id)
            return
        try:
            self._begin(message._replace(receives=self._unbegun.without(message)))
        except Exception:  # the intake logs it
            self._keeper.decide(message.id, Release(self._retry.delay(message.receives)))
            raise

    def _begin(self, message: Message) -> None:
        if self._stopping.is_set():
            self._put_back(message, 0)
        elif message.receives > self._max_receives and not self._redrives:
            # Every time it was received the worker ended before it could say what was wrong.
            self._keeper.decide(message.id, Bury(f"received {message.receives} times and never settled"))
        else:
            self._submit(message)

    def _submit(self, message: Message) -> None:
        try:
            submitted = self._pool.submit(json.loads(message.body))
        except (ValueError, TypeError, RecursionError) as error:  # a PayloadError is a ValueError
            logger.error("message_id=<%s>, error=<%s> | the message is no rollout", message.id, error)
            # Where the queue buries, it does so after some more receives, and these may as well come soon.
            self._keeper.decide(message.id, Release(0) if self._redrives else Bury(f"malformed: {error}"[:256]))
        except AtCapacityError as error:
            self._put_back(message, error.retry_after_seconds or 0)
        except ShuttingDownError:
            self._put_back(message, 0)
        else:
            submitted.ended.add_done_callback(functools.partial(self._settle, message, submitted))

    def _put_back(self, message: Message, seconds: float) -> None:
        """Show a message again whose rollout did not begin."""
        self._unbegun.note(message.id)
        self._keeper.decide(message.id, Release(seconds))

    def _settle(self, message: Message, submitted: Submitted, future: Future[Ended]) -> None:
        # In the pool's event loop, so nothing here blocks.
        self._keeper.decide(message.id, self._fate(message, submitted, future.result()))
        self._intake.look_again()

    def _fate(self, message: Message, submitted: Submitted, ended: Ended) -> Fate:
        if is_settled(ended):
            return Delete()
        if is_decided_elsewhere(ended):
            logger.warning(
                "trajectory_id=<%s> | the runtime has a decision of another worker already; the message is deleted",
                submitted.trajectory_id,
            )
            return Delete()
        if isinstance(ended.error, ShuttingDownError):
            self._unbegun.note(message.id)
            return Release(0)
        if message.receives >= self._max_receives and not self._redrives:
            return Bury(f"unreported after {message.receives} receives: {type(ended.error).__name__}")
        seconds = self._retry.delay(message.receives)
        logger.warning(
            "trajectory_id=<%s>, receives=<%d> | not reported; the message is shown again in %.0f s",
            submitted.trajectory_id,
            message.receives,
            seconds,
        )
        return Release(seconds)


class _Unbegun:
    """How often messages were received here for nothing: a queue counts that as well, and it says nothing of them.

    Concurrency: safe from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: OrderedDict[str, int] = OrderedDict()

    def note(self, message_id: str) -> None:
        """Count a receive that began no rollout."""
        with self._lock:
            self._counts[message_id] = self._counts.pop(message_id, 0) + 1
            while len(self._counts) > _REMEMBERED:
                self._counts.popitem(last=False)

    def without(self, message: Message) -> int:
        """Return how often a message was received, less those receives; 1 at least."""
        with self._lock:
            return max(1, message.receives - self._counts.get(message.id, 0))


def check_timing(visibility_seconds: float, wait_seconds: int, max_receives: int) -> None:
    """Raise ConfigurationError if SQS does not take one of these."""
    if not 1 <= visibility_seconds <= 43_200:
        raise ConfigurationError(f"visibility_seconds is {visibility_seconds}; it must be from 1 to 43200")
    if not 0 <= wait_seconds <= 20:
        raise ConfigurationError(f"wait_seconds is {wait_seconds}; it must be from 0 to 20")
    if max_receives < 1:
        raise ConfigurationError(f"max_receives is {max_receives}; it must be at least 1")


def is_decided_elsewhere(ended: Ended) -> bool:
    """Whether reporting failed since the runtime has another decision: a killed worker had reported before."""
    return any(isinstance(error, TrajectoryConflictError) for error in chain_of(ended.error))

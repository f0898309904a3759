"""Runs the rollouts of a Nova Forge trainer: rollout request in, turns over queues, rollout response out.

The handler is the one that runs on SageMaker, unchanged. It talks to a local runtime in this process, whose policy
asks the trainer for each turn; when it has reported, its reward goes out as the rollout response.
"""

from __future__ import annotations

import functools
import json
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from aws_rft_sdk._backoff import Backoff
from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import ConfigurationError, PayloadError, RewardError, RFTError, ShuttingDownError
from aws_rft_sdk.lifecycle.calling import DEADLINE_SECONDS, Ended, Handler
from aws_rft_sdk.lifecycle.shutdown import GRACE_SECONDS
from aws_rft_sdk.runtime import LocalRuntime
from aws_rft_sdk.settings import OUTBOX_VARIABLE, environment
from aws_rft_sdk.workers._aws import aws_client
from aws_rft_sdk.workers._intake import Intake
from aws_rft_sdk.workers._keeper import Bury, Delete, Fate, Keeper, Release
from aws_rft_sdk.workers._queue import QUEUE_ERRORS, Message, Queue, error_code
from aws_rft_sdk.workers._worker import QueueWorker
from aws_rft_sdk.workers.nova_forge.messages import Task, cell_of, rollout_response
from aws_rft_sdk.workers.nova_forge.runtimes import Runtimes
from aws_rft_sdk.workers.nova_forge.scoring import score_of
from aws_rft_sdk.workers.nova_forge.tasks import TaskTable
from aws_rft_sdk.workers.nova_forge.turns import QueuePolicy, ResponseIntake
from aws_rft_sdk.workers.pool import RolloutPool
from aws_rft_sdk.workers.sqs import check_timing

logger = logging.getLogger(__name__)

MAX_ROLLOUTS = 40
TRAINER_SECONDS = 600.0
"""After that the trainer's recipe gives a rollout up, and the training fails."""
TURN_SECONDS = 300.0
VISIBILITY_SECONDS = 60.0
MAX_ATTEMPTS = 3
WAIT_SECONDS = 20
_SENDERS = 16
_FLUSH_SHARE = 0.2
_RETRY = Backoff(base_seconds=2.0, cap_seconds=60.0)


class NovaForgeQueues(NamedTuple):
    """The URLs of the four queues."""

    rollout_requests: str
    rollout_responses: str
    generate_requests: str
    generate_responses: str


@dataclass
class _Running:
    """A rollout in progress, with every message that asked for it."""

    task: Task
    runtime: LocalRuntime | None
    """None when it was decided before, and only its response is to be sent."""
    trajectory_id: str
    attempts: int
    message_ids: list[str] = field(default_factory=list)


class NovaForgeWorker(QueueWorker):
    """Runs rollouts of a Nova Forge trainer. Several containers may share all four queues and the table.

    The score that is sent is the handler's reward; of one reward for each turn their sum, unless the result has a
    `reward` of its own. A score outside the `rewards.range` of the request is brought to its nearest end, with a
    warning in the log. A handler that raises is scored as its `on_error` says; with `on_error="failed"` the response
    has no score and the stop reason "error". A rollout without any report - no reward, say - is tried again.

    Use it as a context manager, call `start` and `stop`, or `run` it until an event is set. An outbox has no place
    here: the table does its work.

    Args:
        queues: The queues, standard or FIFO.
        handler: A function decorated with `rft_handler`.
        tasks: The table of the rollouts' state, or its name.
        client: A boto3 or botocore SQS client; None for one with the credentials of the process.
        max_rollouts: How many may be in progress at once.
        deadline_seconds: For one rollout, below the 600 seconds of the trainer.
        turn_seconds: For the answer of one turn; past it the turn fails, and is not asked for again.
        visibility_seconds: For how long a message is hidden at a time, and a rollout belongs to a container; so long it
            takes until another one takes over what this one did when it was killed. At least 1.
        wait_seconds: How long one call waits for messages, 0 to 20.
        max_attempts: How often a rollout is run at most, over all containers. Where the queue of requests has a
            redrive policy, that decides instead.
        dead_letter_queue_url: Where requests go then, and malformed ones; see `SqsWorker`.
        cell: Makes the prompt cell that the handler gets of the `data` of a request.
        db: SQLite file in which every turn is recorded, with token ids and log probabilities. None to forget turns some
            time after their rollout is over, so that memory does not grow.

    Raises:
        ConfigurationError: An argument has a value that it cannot have, `RFT_OUTBOX` is set, or there is no region.
    """

    def __init__(
        self,
        queues: NovaForgeQueues,
        handler: Handler,
        tasks: TaskTable | str,
        *,
        client: Any = None,
        max_rollouts: int = MAX_ROLLOUTS,
        deadline_seconds: float = DEADLINE_SECONDS,
        turn_seconds: float = TURN_SECONDS,
        visibility_seconds: float = VISIBILITY_SECONDS,
        wait_seconds: int = WAIT_SECONDS,
        max_attempts: int = MAX_ATTEMPTS,
        dead_letter_queue_url: str | None = None,
        cell: Callable[[JSON], JSON] = cell_of,
        db: str | None = None,
    ) -> None:
        check_timing(visibility_seconds, wait_seconds, max_attempts)
        if not 0 < deadline_seconds < TRAINER_SECONDS:
            raise ConfigurationError(
                f"deadline_seconds is {deadline_seconds}; it must be above 0 and below {TRAINER_SECONDS:g}: a longer "
                "rollout fails the training"
            )
        if environment(OUTBOX_VARIABLE):
            raise ConfigurationError(f"unset {OUTBOX_VARIABLE}: rewards go to the trainer, and the table keeps them")
        client = client or aws_client("sqs", queue_url=queues.rollout_requests, connections=_SENDERS + max_rollouts)
        if isinstance(tasks, str):
            made = aws_client("dynamodb", queue_url=queues.rollout_requests, connections=_SENDERS + max_rollouts)
            tasks = TaskTable(tasks, made, lease_seconds=visibility_seconds)
        self._tasks = tasks
        self._cell = cell
        self._max_attempts = max_attempts
        self._requests, self._responses = (
            Queue(client, queues.rollout_requests),
            Queue(client, queues.rollout_responses),
        )
        self._redrives = False
        dead_letters = None if dead_letter_queue_url is None else Queue(client, dead_letter_queue_url)
        generate = Queue(client, queues.generate_requests), Queue(client, queues.generate_responses)
        self._others = [queue for queue in (self._responses, *generate, dead_letters) if queue is not None]
        self._keeper = Keeper(self._requests, visibility_seconds=visibility_seconds, dead_letters=dead_letters)
        self._policy = QueuePolicy(generate[0], tasks, turn_seconds=turn_seconds)
        waits: Any = {"wait_seconds": wait_seconds, "visibility_seconds": visibility_seconds}
        self._answers = ResponseIntake(generate[1], self._policy, **waits)
        self._intake = Intake(
            self._requests, room=lambda: self._pool.free, take=self._take, prepare=self._look_at_queue, **waits
        )
        self._intakes = (self._intake, self._answers.intake)
        self._pool = RolloutPool(handler, max_rollouts=max_rollouts, deadline_seconds=deadline_seconds)
        self._runtimes = Runtimes(self._policy, db)
        self._senders = ThreadPoolExecutor(_SENDERS, thread_name_prefix="rft-forge")
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._running: dict[str, _Running] = {}
        self._renewing = threading.Thread(target=self._renew, name="rft-leases", daemon=True)
        self._ended = threading.Event()

    @property
    def runtime(self) -> LocalRuntime:
        """The local runtime of the rollouts that begin now."""
        return self._runtimes.current

    # --- life --------------------------------------------------------------------------------------------------------

    def start(self) -> NovaForgeWorker:
        """Begin to receive rollouts. Once only."""
        self._runtimes.start()
        self._pool.start()
        self._keeper.start()
        self._renewing.start()
        self._answers.intake.start()
        self._intake.start()
        return self

    def stop(self, grace_seconds: float = GRACE_SECONDS) -> bool:
        """Receive no more, let rollouts in progress end, and show again what was not begun. Blocks.

        Rollouts that do not end in time are reported as errors, as their handler's `on_error` says.

        Args:
            grace_seconds: For all of it.

        Returns:
            Whether every request was answered or shown again.
        """
        end = time.monotonic() + grace_seconds
        flush_seconds = grace_seconds * _FLUSH_SHARE
        self._stopping.set()
        self._intake.stop()
        self._pool.drain(grace_seconds - flush_seconds)
        self._keeper.wait(flush_seconds / 2)
        self._answers.intake.stop()
        self._ended.set()
        self._intake.join(end - flush_seconds / 4 - time.monotonic())
        self._keeper.stop(max(0.1, end - time.monotonic()))
        self._senders.shutdown(wait=False, cancel_futures=True)
        self._pool.close()
        self._runtimes.stop()
        self._policy.close()
        return self._keeper.wait(0)

    # --- requests, in the intake's thread ----------------------------------------------------------------------------

    def _look_at_queue(self) -> None:
        # A rollout that cannot ask for its turns would be answered with the floor, and the training go on with that.
        self._tasks.check()
        for queue in self._others:
            queue.check()
        self._redrives = self._requests.redrives()

    def _take(self, message: Message) -> None:
        if not self._keeper.hold(message):
            return
        if self._stopping.is_set():
            self._keeper.decide(message.id, Release(0))
            return
        try:
            self._begin(message)
        except Exception:  # the intake logs it
            self._keeper.decide(message.id, Release(_RETRY.delay(message.receives)))
            raise

    def _begin(self, message: Message) -> None:
        try:
            task = Task.parse(message.body)
        except PayloadError as error:
            logger.error("message_id=<%s>, error=<%s> | the message is no rollout request", message.id, error)
            self._keeper.decide(message.id, Release(0) if self._redrives else Bury(f"malformed: {error}"[:256]))
            return
        with self._lock:
            running = self._running.get(task.sample_id)
            if running is not None:
                running.message_ids.append(message.id)  # it shares the fate of the first one
                return
        try:
            claim = self._tasks.claim(task.sample_id)
        except QUEUE_ERRORS as error:
            logger.warning("sample_id=<%s>, error=<%s> | not claimed", task.sample_id, error_code(error))
            self._keeper.decide(message.id, Release(_RETRY.delay(message.receives)))
            return
        if claim.state == "ours" and claim.attempts > self._max_attempts and not self._redrives:
            # Every time the container ended before it could say what was wrong.
            self._senders.submit(self._give_back, task.sample_id)
            self._keeper.decide(message.id, Bury(f"run {claim.attempts - 1} times and never answered"))
        elif claim.state == "ours":
            self._start_rollout(task, message, claim.attempts)
        elif claim.state == "taken":
            self._keeper.decide(message.id, Release(claim.lease_seconds + 1))
        elif claim.state == "sent":
            logger.warning("sample_id=<%s> | it was answered before; the request is deleted", task.sample_id)
            self._keeper.decide(message.id, Delete())
        else:
            # Whoever decided it ended before it was sent, or before that was noted.
            running = _Running(task, None, "", 0, [message.id])
            with self._lock:
                self._running[task.sample_id] = running
            self._senders.submit(self._send, running, str(claim.response))

    def _start_rollout(self, task: Task, message: Message, attempts: int) -> None:
        params = None if task.max_length is None else {"maxTokens": task.max_length}
        trajectory_id = ""
        runtime = self._runtimes.acquire()
        try:
            payload = runtime.new_rollout(self._cell(task.data), inference_params=params)
            trajectory_id = payload["metadata"]["rolloutId"]
            payload["data"], payload["sampleId"] = task.data, task.sample_id
            running = _Running(task, runtime, trajectory_id, attempts, [message.id])
            with self._lock:
                self._running[task.sample_id] = running
            self._policy.expect(trajectory_id, task.sample_id)
            self._answers.intake.look_again()
            submitted = self._pool.submit(payload)
        except Exception as error:
            if not isinstance(error, RFTError):
                logger.exception("sample_id=<%s> | the rollout cannot begin", task.sample_id)
            with self._lock:
                self._running.pop(task.sample_id, None)
            self._policy.forget(trajectory_id)
            self._runtimes.release(runtime)
            self._senders.submit(self._give_back, task.sample_id)
            self._keeper.decide(message.id, Release(0 if isinstance(error, ShuttingDownError) else 1))
            return
        submitted.ended.add_done_callback(functools.partial(self._hand_over, running))

    def _hand_over(self, running: _Running, future: Future[Ended]) -> None:
        # In the pool's event loop, where nothing may block.
        self._senders.submit(self._finish, running, future.result())
        self._intake.look_again()

    # --- responses, in threads of their own --------------------------------------------------------------------------

    def _finish(self, running: _Running, ended: Ended) -> None:
        task = running.task
        self._policy.forget(running.trajectory_id)
        try:
            score = score_of(task, self._rewards_of(running), ended)
        except Exception as error:
            if not isinstance(error, RewardError):  # nobody else would hear of it in this thread
                logger.exception("sample_id=<%s> | the rollout cannot be scored", task.sample_id)
            logger.error("sample_id=<%s>, error=<%s> | the rollout has no score", task.sample_id, error)
            self._give_back(task.sample_id)
            self._decide(running, self._retry_fate(running, ended, error))
            return
        body = json.dumps(rollout_response(task.sample_id, score))
        if self._stubbornly(lambda: self._tasks.decide(task.sample_id, body), task.sample_id):
            self._send(running, body)
        else:
            logger.warning("sample_id=<%s> | its lease has ended, the rollout is another container's", task.sample_id)
            self._decide(running, Release(self._tasks.lease_seconds))

    def _rewards_of(self, running: _Running) -> tuple[float, ...] | None:
        if running.runtime is None:
            return None
        try:
            return running.runtime.trajectory(running.trajectory_id).rewards
        finally:
            self._runtimes.release(running.runtime)

    def _retry_fate(self, running: _Running, ended: Ended, error: Exception) -> Fate:
        if isinstance(ended.error, ShuttingDownError):
            return Release(0)
        if running.attempts >= self._max_attempts and not self._redrives:
            return Bury(f"no score after {running.attempts} attempts: {error}"[:256])
        return Release(_RETRY.delay(running.attempts))

    def _decide(self, running: _Running, fate: Fate) -> None:
        with self._lock:
            self._running.pop(running.task.sample_id, None)
            message_ids = list(running.message_ids)
        for message_id in message_ids:
            self._keeper.decide(message_id, fate)

    def _send(self, running: _Running, body: str) -> None:
        sample_id = running.task.sample_id
        if self._stubbornly(lambda: self._responses.send(body, sample_id), sample_id) is not _GIVEN_UP:
            self._stubbornly(lambda: self._tasks.confirm(sample_id), sample_id)
            self._decide(running, Delete())

    def _give_back(self, sample_id: str) -> None:
        self._stubbornly(lambda: self._tasks.release(sample_id), sample_id)

    def _stubbornly(self, call: Callable[[], Any], sample_id: str) -> Any:
        """Make a call until it works, or the worker has ended: then what is stored is sent by another one."""
        attempt = 0
        while True:
            try:
                return call()
            except Exception as error:
                attempt += 1
                delay = _RETRY.delay(attempt)
                _warn(error, sample_id, f"again in {delay:.1f} s")
            if self._ended.wait(delay):
                return _GIVEN_UP

    def _renew(self) -> None:
        while not self._ended.wait(self._tasks.lease_seconds / 3):
            with self._lock:
                sample_ids = list(self._running)
            for sample_id in sample_ids:
                try:
                    self._tasks.renew(sample_id)
                except Exception as error:
                    # Whatever it is: without this thread, other containers would run again what runs here.
                    _warn(error, sample_id, "lease not renewed")


def _warn(error: Exception, sample_id: str, consequence: str) -> None:
    # A client may raise what is not botocore's: then the way to it is of interest.
    unexpected = None if isinstance(error, QUEUE_ERRORS) else error
    logger.warning("sample_id=<%s>, error=<%s> | %s", sample_id, error_code(error), consequence, exc_info=unexpected)


class _GivenUp:
    """The worker has ended before a call worked. Not true, so that nothing is concluded from it."""

    def __bool__(self) -> bool:
        return False


_GIVEN_UP = _GivenUp()

"""Model calls over queues: a policy that asks by generate requests, and hands out the generate responses.

A turn is asked for once. Its number is part of its step id, and another conversation of the same rollout - of a
container that was killed - never gets an answer that belongs to the first one: what was asked is compared.

Containers may share one queue of responses, and each receives those of all. Whoever receives one puts it into the
table, and who waits for it looks there.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import threading
from collections.abc import Mapping
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from typing import Any

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import PayloadError
from aws_rft_sdk.runtime import PolicyError
from aws_rft_sdk.runtime.chat import AnswerError, read_answer
from aws_rft_sdk.runtime.policies import Call, Policy
from aws_rft_sdk.workers._intake import Intake
from aws_rft_sdk.workers._queue import BATCH, QUEUE_ERRORS, Message, Queue, error_code
from aws_rft_sdk.workers.nova_forge.messages import GenerateResponse, generate_request
from aws_rft_sdk.workers.nova_forge.tasks import TaskTable

logger = logging.getLogger(__name__)

_THREADS = 32
_LOOK_SECONDS = 1.0
"""How often somebody who waits looks whether another container has received the answer."""
_TOLD_RECEIVES = 3
_KEPT_SECONDS = 600
"""For how long a response that the table does not take is hidden at most."""
# Clients repeat a call that is answered 5xx, 429 or 409, and a turn that was asked for must not be asked for again.
_NO_ANSWER_STATUS = 424
_NOT_ASKED_STATUS = 503


class QueuePolicy(Policy):
    """The policy of a local runtime whose turns are asked for over queues.

    Args:
        requests: Where generate requests go.
        tasks: Where turns are noted.
        turn_seconds: For the answer of one turn.

    Concurrency: safe from any thread.
    """

    def __init__(self, requests: Queue, tasks: TaskTable, *, turn_seconds: float) -> None:
        self._requests = requests
        self._tasks = tasks
        self._turn_seconds = turn_seconds
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="rft-generate")
        self._lock = threading.Lock()
        self._samples: dict[str, str] = {}
        self._waiting: dict[str, Future[GenerateResponse]] = {}

    def expect(self, trajectory_id: str, sample_id: str) -> None:
        """Say which rollout a trajectory belongs to, before its handler runs."""
        with self._lock:
            self._samples[trajectory_id] = sample_id

    def forget(self, trajectory_id: str) -> None:
        """Say that a trajectory is over."""
        with self._lock:
            self._samples.pop(trajectory_id, None)

    @property
    def is_busy(self) -> bool:
        """Whether an answer may be waited for soon."""
        return bool(self._samples)

    async def answer(self, call: Call) -> Mapping[str, JSON]:
        """Ask for a turn and wait for its answer.

        Raises:
            PolicyError: 424 when no usable answer came in time, 503 when the turn could not be asked for.
        """
        sample_id = self._samples.get(call.trajectory_id or "")
        if sample_id is None:
            raise PolicyError("the call belongs to no rollout in progress: is the model wrapped?")
        loop = asyncio.get_running_loop()
        step_id, future = await loop.run_in_executor(self._threads, self._ask, sample_id, call.turn, call.request)
        looking = asyncio.ensure_future(self._look(step_id))
        try:
            response = await asyncio.wait_for(asyncio.wrap_future(future), self._turn_seconds)
        except (TimeoutError, asyncio.TimeoutError) as error:
            raise PolicyError(
                f"no generate response for step {step_id} within {self._turn_seconds:g} s; it is not asked for again",
                _NO_ANSWER_STATUS,
            ) from error
        finally:
            looking.cancel()
            with self._lock:
                self._waiting.pop(step_id, None)
        try:
            return read_answer(response.completion, call.request)
        except AnswerError as error:
            raise PolicyError(
                f"the generate response of {step_id} cannot be used: {error}", _NO_ANSWER_STATUS
            ) from error

    def close(self) -> None:
        """Let the threads end."""
        self._threads.shutdown(wait=False)

    # --- asking, in a thread -----------------------------------------------------------------------------------------

    def _ask(self, sample_id: str, turn: int, chat: Mapping[str, Any]) -> tuple[str, Future[GenerateResponse]]:
        asked = json.dumps([chat.get("messages"), chat.get("tools")], sort_keys=True)
        digest = hashlib.sha256(asked.encode()).hexdigest()
        try:
            return self._ask_once(sample_id, turn, digest, chat)
        except QUEUE_ERRORS as error:
            raise PolicyError(f"turn {turn} cannot be asked for: {error_code(error)}", _NOT_ASKED_STATUS) from error

    def _ask_once(
        self, sample_id: str, turn: int, digest: str, chat: Mapping[str, Any]
    ) -> tuple[str, Future[GenerateResponse]]:
        while True:
            step_id = f"{sample_id}_{turn}"
            turn += 1
            future: Future[GenerateResponse] = Future()
            with self._lock:
                if step_id in self._waiting:
                    continue  # another turn of the same rollout, at the same time
                self._waiting[step_id] = future
            try:
                step = self._tasks.begin_step(step_id, digest)
                if step.state == "new":
                    self._send(sample_id, step_id, chat)
                elif step.response is not None:
                    self._hand_out(GenerateResponse.parse(step.response))
            except BaseException:
                with self._lock:
                    self._waiting.pop(step_id, None)
                raise
            if step.state != "other":
                return step_id, future
            with self._lock:
                self._waiting.pop(step_id, None)

    def _send(self, sample_id: str, step_id: str, chat: Mapping[str, Any]) -> None:
        try:
            self._requests.send(generate_request(sample_id, step_id, chat), step_id)
        except QUEUE_ERRORS as error:
            if getattr(error, "response", None) is None:
                # No answer of the queue: it may be in there. Whether it is, time will tell.
                logger.warning("step_id=<%s>, error=<%s> | perhaps asked for", step_id, error_code(error))
                return
            self._tasks.forget_step(step_id)
            raise

    # --- answers -----------------------------------------------------------------------------------------------------

    def deliver(self, response: GenerateResponse, body: str) -> bool:
        """Take an answer in; False when someone else may want its message. In the intake's thread."""
        stored = False
        try:
            # For whoever waits for it elsewhere, or takes the rollout over. One that came before is known there.
            stored = self._tasks.answer_step(response.step_id, body)
        except Exception as error:  # whatever it is: who waits for it here shall have it
            logger.warning("step_id=<%s>, error=<%s> | the answer is not stored", response.step_id, error_code(error))
        return self._hand_out(response) or stored

    async def _look(self, step_id: str) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            await asyncio.get_running_loop().run_in_executor(self._threads, self._look_once, step_id)

    def _look_once(self, step_id: str) -> None:
        try:
            body = self._tasks.answer_of(step_id)
            if body is not None:
                self._hand_out(GenerateResponse.parse(body))
        except Exception as error:  # whatever it is: the next look may do better
            logger.warning("step_id=<%s>, error=<%s> | not looked up", step_id, error_code(error))

    def _hand_out(self, response: GenerateResponse) -> bool:
        """Give an answer to who waits for it here; False when nobody does."""
        with self._lock:
            future = self._waiting.get(response.step_id)
            if future is None:
                return False
            with contextlib.suppress(InvalidStateError):  # it has one, or the time for it was up just now
                future.set_result(response)
        return True


class ResponseIntake:
    """Receives generate responses: ours are handed out, those of others put into the table.

    One that the table does not take - of a turn that nobody noted there, or too large - is hidden for longer each time:
    responses of an earlier training must not hold up those of this one.

    Args:
        queue: The queue, which several containers may share.
        policy: Who waits for responses.
        wait_seconds: For the first message of a call, 0 to 20.
        visibility_seconds: For how long a response is hidden while it is looked at.
    """

    def __init__(self, queue: Queue, policy: QueuePolicy, *, wait_seconds: int, visibility_seconds: float) -> None:
        self._queue = queue
        self._policy = policy
        self.intake = Intake(
            queue,
            room=self._room,
            take=self._take,
            wait_seconds=wait_seconds,
            visibility_seconds=visibility_seconds,
        )

    def _room(self) -> int:
        # Who waits for nothing would only keep the responses from those who do.
        return BATCH if self._policy.is_busy else 0

    def _take(self, message: Message) -> None:
        try:
            response = GenerateResponse.parse(message.body)
        except PayloadError as error:
            logger.error("message_id=<%s>, error=<%s> | no generate response; deleted", message.id, error)
            self._queue.delete([message.handle])
            return
        if self._policy.deliver(response, message.body):
            self._queue.delete([message.handle])
            return
        seconds = min(4 ** min(message.receives, 5), _KEPT_SECONDS)
        if message.receives == _TOLD_RECEIVES:
            logger.warning("step_id=<%s> | nobody takes this generate response; it is kept", response.step_id)
        self._queue.hide({message.handle: seconds})

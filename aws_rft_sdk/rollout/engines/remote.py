"""What the engines share that call an agent elsewhere. The agent or the runtime tells how the rollout ended."""

from __future__ import annotations

import asyncio
import math
import time
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from enum import Enum
from typing import Any, NamedTuple

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import AgentUnreachableError, RewardError, RolloutTimeoutError
from aws_rft_sdk.failures import FailureKind, RolloutStatus, describe_error, error_type
from aws_rft_sdk.lifecycle.calling import DEADLINE_SECONDS
from aws_rft_sdk.lifecycle.outcomes import RolloutOutcome, metrics_of, state_of
from aws_rft_sdk.rollout.access import Observation, Observe
from aws_rft_sdk.rollout.engines.base import Engine
from aws_rft_sdk.types import RolloutResult, TrajectoryStatus, carries_reward

_FIRST_LOOK_SECONDS = 0.05
_LONGEST_LOOK_SECONDS = 2.0
_LONGEST_ERROR = 2000
NO_REWARD_IN_ANSWER = "the agent's answer holds no reward, and this runtime cannot be asked for it"
_OF_THE_REQUEST = (400, 413, 422, 424)
"""Statuses that blame the payload, or the agent's own code (424). All other error statuses blame what is around it."""


class Answer(NamedTuple):
    """What an agent answered."""

    result: JSON = None
    """The JSON value of the answer. None if the answer tells nothing."""
    error: str | None = None
    """What went wrong. None if the call was accepted."""
    failure: FailureKind | None = None
    """Why it failed. None if nothing failed, and if the answer does not tell."""
    lost: bool = False
    """Whether the call may have been accepted and only its answer was lost."""


class Standing(Enum):
    """What an agent tells about a rollout that it was given, if not the outcome."""

    RUNNING = "running"
    UNKNOWN = "unknown"
    """The process that was given the rollout is gone, or has forgotten it."""
    NO_ANSWER = "no answer"
    """At the moment. Ask again."""
    NOT_TOLD = "not told"
    """This agent does not tell about rollouts."""


def read_answer(value: JSON, refused: int | None = None) -> Answer:
    """Return what an agent's JSON says, in the forms of workers, of Lambda functions and of AgentCore's own server.

    Args:
        value: The body. None if it is no JSON.
        refused: The error status of the answer. None if it has none.
    """
    fields = value if isinstance(value, Mapping) else {}
    told = fields.get("failure")
    kind = FailureKind(told) if told in [*FailureKind] else None
    if isinstance(error_type := fields.get("errorType"), str):
        # As records of a handler in this process have it: the same failure, the same text.
        error = f"{error_type}: {fields.get('errorMessage', '')}"[:_LONGEST_ERROR]
        return Answer(value, error, kind or kind_of_status(refused))
    texts = [text for name in ("error", "message", "detail") if isinstance(text := fields.get(name), str) and text]
    text = texts[0][:_LONGEST_ERROR] if texts else ""
    says_error = bool(text) and isinstance(fields.get("error"), str)
    if refused is not None:
        kind = FailureKind.AGENT if says_error and refused == 500 else kind_of_status(refused)
        # A proxy gives these answers too, also when the agent goes on.
        return Answer(value, f"the worker answered {refused}: {text}", kind, lost=refused in (502, 504))
    # Servers answer 200 also when the entrypoint raised; a result with a reward is none of theirs.
    if says_error and not carries_reward(value):
        return Answer(value, f"the agent answered: {text}", FailureKind.AGENT)
    return Answer(value)


def kind_of_status(status: int | None) -> FailureKind | None:
    """Return what an HTTP error status blames. Returns None if it does not tell."""
    if status in _OF_THE_REQUEST:
        return FailureKind.AGENT
    return None if status in (None, 500) else FailureKind.INFRASTRUCTURE


class RemoteEngine(Engine):
    """Base of engines that call an agent which is running already.

    Args:
        observe: Looks at a rollout in the runtime; None when it cannot be asked, so that the agent's answer is all.
        deadline_seconds: For each rollout; None for no deadline.
    """

    after_error_seconds = 5.0
    """For a reward that is on its way when the agent answers with an error, or no longer knows the rollout."""
    quiet_seconds = 60.0
    """For the next turn, or the reward, when the answer is lost and the rollout has begun: a proxy that ends a long
    call does not end the rollout."""

    def __init__(self, observe: Observe | None, *, deadline_seconds: float | None = DEADLINE_SECONDS) -> None:
        self._observe = observe
        self._deadline_seconds = deadline_seconds

    @abstractmethod
    async def deliver(self, payload: Mapping[str, Any], trajectory_id: str, end: float) -> Answer:
        """Call the agent and return its answer. An agent that refuses because it is busy is called again.

        Args:
            payload: What the service would send.
            trajectory_id: The trajectory that it names.
            end: Deadline of the rollout, on the monotonic clock.

        Raises:
            AgentUnreachableError: The agent could not be called before the deadline, so the rollout has not begun.
            TimeoutError: The agent was called, and did not answer before the deadline.
            UnavailableError: The agent has answered nobody for too long.
        """

    async def ask(self, payload: Mapping[str, Any], trajectory_id: str, end: float) -> RolloutOutcome | Standing:
        """Ask the agent what became of a rollout that it was given. May wait a while for the end of the rollout."""
        return Standing.NOT_TOLD

    async def run(self, payload: Mapping[str, Any], trajectory_id: str) -> RolloutOutcome:
        """Call the agent, then wait until the agent or the runtime tells how the rollout ended. See `Engine.run`."""
        began = time.monotonic()
        end = began + (math.inf if self._deadline_seconds is None else self._deadline_seconds)
        try:
            answer = await self.deliver(payload, trajectory_id, end)
        except AgentUnreachableError as error:
            return RolloutOutcome.broken(error, seconds=time.monotonic() - began)
        except (asyncio.TimeoutError, TimeoutError):
            answer = Answer()
        outcome = await self._follow(answer, payload, trajectory_id, end)
        return outcome if outcome.seconds else replace(outcome, seconds=time.monotonic() - began)

    async def _follow(
        self, answer: Answer, payload: Mapping[str, Any], trajectory_id: str, end: float
    ) -> RolloutOutcome:
        """Look at a rollout less and less often until it is over, its deadline has passed, or nothing new happens."""
        turns, news_at, pause = 0, time.monotonic(), _FIRST_LOOK_SECONDS
        while True:
            looked_at = time.monotonic()
            word = await self.ask(payload, trajectory_id, end)
            if isinstance(word, RolloutOutcome):
                return await self._confirm(word, trajectory_id, end)
            if word is Standing.NOT_TOLD and self._observe is None:
                return self._judge_answer(answer, end)
            is_late = time.monotonic() >= end
            seen = await self._look(trajectory_id) if word is not Standing.RUNNING or is_late else None
            now = time.monotonic()
            if word is Standing.RUNNING or (seen is not None and seen.turns != turns):
                turns, news_at = seen.turns if seen is not None else turns, now
            left = min(end, news_at + self._patience(answer, word, turns)) - now
            if seen is not None and seen.is_over:
                return self._judge(answer, seen)
            if left <= 0:
                return self._give_up(answer, word, turns, end)
            await asyncio.sleep(min(max(0.0, pause - (now - looked_at)), left))
            pause = min(pause * 1.5, _LONGEST_LOOK_SECONDS)

    def _patience(self, answer: Answer, word: Standing, turns: int) -> float:
        """Return for how many seconds nothing new may happen."""
        if word is Standing.UNKNOWN:
            return self.after_error_seconds
        if word is not Standing.NOT_TOLD or answer.error is None:
            return math.inf
        return self.quiet_seconds if answer.lost and turns else self.after_error_seconds

    async def _look(self, trajectory_id: str) -> Observation | None:
        try:
            return await self._observe(trajectory_id) if self._observe is not None else None
        except AgentUnreachableError:
            return None  # the runtime may be back before the deadline

    async def _confirm(self, outcome: RolloutOutcome, trajectory_id: str, end: float) -> RolloutOutcome:
        """Return what a worker has told. A reward that the worker could not confirm may be in the runtime."""
        is_final = outcome.status is not RolloutStatus.UNREPORTED or outcome.failure is FailureKind.REWARD
        give_up_at = min(end, time.monotonic() + self.after_error_seconds)
        while not is_final and self._observe is not None:
            seen = await self._look(trajectory_id)
            if seen is not None and seen.is_over:
                raised = outcome.error if error_type(outcome.error) else None  # else it says why nothing was reported
                told = {"metrics": outcome.metrics, "state": outcome.state}
                answer = Answer(told, raised, outcome.failure)
                return replace(self._judge(answer, seen), seconds=outcome.seconds)
            if time.monotonic() >= give_up_at:
                break
            await asyncio.sleep(self.after_error_seconds / 20)
        return outcome

    def _judge(self, answer: Answer, seen: Observation) -> RolloutOutcome:
        """Return the outcome of a rollout that is over in the runtime."""
        error = None if answer.lost else answer.error
        if seen.status is TrajectoryStatus.FAILED:
            error = error or "the agent sealed the trajectory as failed"
        return RolloutOutcome(
            RolloutStatus.COMPLETED if error is None else RolloutStatus.FAILED,
            rewards=seen.rewards,
            turns=seen.turns,
            metrics=metrics_of(answer.result),
            state=state_of(answer.result),
            error=error,
            failure=None if error is None else answer.failure or FailureKind.AGENT,
        )

    def _give_up(self, answer: Answer, word: Standing, turns: int, end: float) -> RolloutOutcome:
        """Return the outcome of a rollout that the runtime was not told about."""
        if word is Standing.RUNNING or (time.monotonic() >= end and answer.error is None):
            late, kind = self._late(), FailureKind.TIMEOUT
            return RolloutOutcome(RolloutStatus.UNREPORTED, turns=turns, error=late, failure=kind, lost=True)
        if answer.error is not None and not answer.lost:
            kind = answer.failure or FailureKind.INFRASTRUCTURE
            return RolloutOutcome(RolloutStatus.UNREPORTED, turns=turns, error=answer.error, failure=kind)
        error = answer.error or "the worker no longer knows the rollout: the process that ran it has ended"
        return RolloutOutcome.broken(error, lost=True, turns=turns)

    def _judge_answer(self, answer: Answer, end: float) -> RolloutOutcome:
        """Return the outcome of a rollout of which only the answer is known."""
        try:
            result = RolloutResult.of(answer.result)
        except RewardError as error:
            return RolloutOutcome(RolloutStatus.UNREPORTED, error=describe_error(error), failure=FailureKind.REWARD)
        rewards = result.rewards if result is not None else None
        if answer.error is not None and rewards is not None:
            kind = answer.failure or FailureKind.AGENT
            return RolloutOutcome(RolloutStatus.FAILED, rewards=rewards, error=answer.error, failure=kind)
        if rewards is None and (answer.error is not None or time.monotonic() >= end):
            return self._give_up(answer, Standing.NOT_TOLD, 0, end)
        if rewards is None:
            kind = FailureKind.AGENT
            return RolloutOutcome(RolloutStatus.UNREPORTED, error=NO_REWARD_IN_ANSWER, failure=kind)
        metrics, state = metrics_of(answer.result), state_of(answer.result)
        return RolloutOutcome(RolloutStatus.COMPLETED, rewards=rewards, metrics=metrics, state=state)

    def _late(self) -> str:
        seconds = self._deadline_seconds or 0.0
        return describe_error(RolloutTimeoutError(f"the rollout was not over after {seconds:g} s, its deadline"))

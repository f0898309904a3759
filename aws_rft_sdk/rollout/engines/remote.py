"""What engines share whose agent runs elsewhere: it is called, and the runtime tells what became of the rollout."""

from __future__ import annotations

import asyncio
import math
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import AgentUnreachableError, RewardError, RolloutTimeoutError
from aws_rft_sdk.failures import FailureKind
from aws_rft_sdk.rollout.access import Observation, Observe
from aws_rft_sdk.rollout.engines.base import DEADLINE_SECONDS, Engine, RolloutOutcome, metrics_of
from aws_rft_sdk.runs.records import RolloutStatus, describe_error
from aws_rft_sdk.types import RolloutResult, TrajectoryStatus, carries_reward

_FIRST_LOOK_SECONDS = 0.05
_LONGEST_LOOK_SECONDS = 2.0
_LONGEST_ERROR = 2000


class Answer(NamedTuple):
    """What an agent answered."""

    result: JSON = None
    """The JSON value of the answer; None for one that tells nothing."""
    error: str | None = None
    """What went wrong, None when the call was accepted."""
    lost: bool = False
    """Whether the call may have been accepted and only its answer was lost."""


def read_answer(value: JSON, refused: str | None = None) -> Answer:
    """Return what an agent's JSON says, in the forms of workers, of Lambda functions and of AgentCore's own server.

    Args:
        value: The body; None when it is no JSON.
        refused: What the status says, of an answer with an error status; else None.
    """
    fields = value if isinstance(value, Mapping) else {}
    if isinstance(kind := fields.get("errorType"), str):
        # As records of a handler in this process have it: the same failure, the same text.
        return Answer(value, f"{kind}: {fields.get('errorMessage', '')}"[:_LONGEST_ERROR])
    texts = [text for name in ("error", "message", "detail") if isinstance(text := fields.get(name), str) and text]
    text = texts[0][:_LONGEST_ERROR] if texts else ""
    if refused is not None:
        return Answer(value, f"{refused}: {text}")
    # Servers answer 200 also when the entrypoint raised; a result with a reward is none of theirs.
    if isinstance(fields.get("error"), str) and text and not carries_reward(value):
        return Answer(value, f"the agent answered: {text}")
    return Answer(value)


class RemoteEngine(Engine):
    """Base of engines that call an agent which is running already.

    Args:
        observe: Looks at a rollout in the runtime; None when it cannot be asked, so that the agent's answer is all.
        deadline_seconds: For each rollout; None for no deadline.
    """

    after_error_seconds = 5.0
    """For a reward that is on its way when the agent answers with an error, or its answer is lost."""
    quiet_seconds = 60.0
    """For the next turn, or the reward, when the answer is lost and the rollout has begun: a proxy that ends a long
    call does not end the rollout."""

    def __init__(self, observe: Observe | None, *, deadline_seconds: float | None = DEADLINE_SECONDS) -> None:
        self._observe = observe
        self._deadline_seconds = deadline_seconds

    @abstractmethod
    async def deliver(self, payload: Mapping[str, Any], trajectory_id: str) -> Answer:
        """Call the agent, again after a refusal that asks for it, and return what it says.

        Raises:
            AgentUnreachableError: It cannot be called, so that it has not begun.
        """

    async def run(self, payload: Mapping[str, Any], trajectory_id: str) -> RolloutOutcome:
        """Call the agent, then wait until the runtime knows how the rollout ended. See `Engine.run`."""
        began = time.perf_counter()
        try:
            answer = await asyncio.wait_for(self.deliver(payload, trajectory_id), self._deadline_seconds)
            left = None if self._deadline_seconds is None else self._deadline_seconds - (time.perf_counter() - began)
        except AgentUnreachableError as error:
            seconds = time.perf_counter() - began
            return RolloutOutcome.broken(
                error,
                seconds=seconds,
                lost=True,
            )
        except asyncio.TimeoutError:
            answer, left = Answer(), 0.0
        if self._observe is None:
            outcome = self._judge_answer(answer)
        else:
            outcome = await self._judge(answer, trajectory_id, self._observe, left)
        return replace(outcome, seconds=time.perf_counter() - began)

    async def _judge(self, answer: Answer, trajectory_id: str, observe: Observe, left: float | None) -> RolloutOutcome:
        seen = await _wait(observe, trajectory_id, left, None if answer.error is None else self._patience(answer.lost))
        if seen is None or not seen.is_over:
            explanation = answer.error or self._late()
            return RolloutOutcome.broken(explanation, turns=seen.turns if seen else 0)
        error = None if answer.lost else answer.error
        if seen.status is TrajectoryStatus.FAILED:
            error = error or "the agent sealed the trajectory as failed"
        return RolloutOutcome(
            RolloutStatus.COMPLETED if error is None else RolloutStatus.FAILED,
            rewards=seen.rewards,
            turns=seen.turns,
            metrics=metrics_of(answer.result),
            error=error,
            failure=None if error is None else FailureKind.AGENT,
        )

    def _patience(self, lost: bool) -> Callable[[int], float]:
        return lambda turns: self.quiet_seconds if lost and turns else self.after_error_seconds

    def _judge_answer(self, answer: Answer) -> RolloutOutcome:
        try:
            result = RolloutResult.of(answer.result)
        except RewardError as error:
            return RolloutOutcome.broken(error)
        if answer.error is not None:
            rewards = result.rewards if result is not None else None
            status = RolloutStatus.UNREPORTED if rewards is None else RolloutStatus.FAILED
            return RolloutOutcome(status, rewards=rewards, error=answer.error, failure=FailureKind.AGENT)
        if result is None:
            text = "the agent's answer holds no reward, and this runtime cannot be asked for it"
            return RolloutOutcome.broken(
                self._late() if answer == Answer() else text,
            )
        return RolloutOutcome(RolloutStatus.COMPLETED, rewards=result.rewards, metrics=metrics_of(answer.result))

    def _late(self) -> str:
        seconds = self._deadline_seconds or 0.0
        return describe_error(RolloutTimeoutError(f"the rollout was not over after {seconds:g} s, its deadline"))


async def _wait(
    observe: Observe, trajectory_id: str, seconds: float | None, patience: Callable[[int], float] | None
) -> Observation | None:
    """Look at a rollout less and less often until it is over, `seconds` have passed, or nothing is new for too long.

    Args:
        observe: Looks at it in the runtime.
        trajectory_id: Which it is.
        seconds: For all of it; None for no limit.
        patience: How many seconds may pass without another turn, by the number of turns so far; None for any.
    """
    end = math.inf if seconds is None else time.monotonic() + seconds
    turns, news_at = 0, time.monotonic()
    pause = _FIRST_LOOK_SECONDS
    seen: Observation | None = None
    while True:
        try:
            seen = await observe(trajectory_id)
        except AgentUnreachableError:
            seen = None  # the runtime may be back before the deadline
        now = time.monotonic()
        if seen is not None and seen.turns != turns:
            turns, news_at = seen.turns, now
        left = (end if patience is None else min(end, news_at + patience(turns))) - now
        if (seen is not None and seen.is_over) or left <= 0:
            return seen
        await asyncio.sleep(min(pause, left))
        pause = min(pause * 1.5, _LONGEST_LOOK_SECONDS)

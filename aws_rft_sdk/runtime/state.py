"""The state machine of a trajectory. Pure functions: no clock, no storage, no I/O.

    PENDING --complete(ready)--> READY ---reward--> REWARD_RECEIVED
       |
       +----complete(failed)--> FAILED --reward--> REWARD_RECEIVED (only when not strict)

The table "What the contract leaves open" in `docs/runtime.md` says what is decided here, and why.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from aws_rft_sdk.runtime.answers import Refusal
from aws_rft_sdk.types import ProblemKind, TrajectoryStatus
from aws_rft_sdk.wire import COMPLETION_STATUSES, READY

PENDING = TrajectoryStatus.PENDING


class State(NamedTuple):
    """Everything that decides how a trajectory answers its next call."""

    status: TrajectoryStatus = PENDING
    turns: int = 0
    """Number of turns recorded."""
    completed_as: str | None = None
    """ "ready" or "failed"; None while the trajectory is open."""
    completion_token: str | None = None
    """Client token of the call that sealed the trajectory. None if it is open, or if the call carried no token."""
    rewards: tuple[float, ...] | None = None
    reward_token: str | None = None
    """Client token of the call that rewarded the trajectory."""


def check_open(state: State, trajectory_id: str) -> None:
    """Refuse an inference call on a sealed trajectory.

    Raises:
        Refusal: 400 if the trajectory is not PENDING. The service model lists no conflict (409) for sampling.
    """
    if state.status is not PENDING:
        raise Refusal(
            400,
            f"Trajectory {trajectory_id} is not in valid status for sampling: it is {state.status.value}, "
            "and only a PENDING trajectory takes turns",
        )


def add_turn(state: State, trajectory_id: str) -> State:
    """Return the state after one more turn.

    Raises:
        Refusal: 400 if the trajectory was sealed while the policy answered.
    """
    check_open(state, trajectory_id)
    return state._replace(turns=state.turns + 1)


def complete(state: State, trajectory_id: str, outcome: str, token: str | None) -> State:
    """Return the state after the trajectory was sealed.

    Args:
        state: The state before.
        trajectory_id: For messages.
        outcome: "ready" or "failed".
        token: Client token of the call. None if the call carried no token.

    Returns:
        The new state. `state` itself if this call repeats the call that sealed the trajectory.

    Raises:
        Refusal: 400 if the outcome is unknown, or if the token was used for another decision. 409 if the trajectory is
            sealed already.
    """
    if outcome not in COMPLETION_STATUSES:
        raise Refusal(400, f"Status must be one of {', '.join(COMPLETION_STATUSES)}, not {outcome!r:.80}")
    if token is not None and token == state.completion_token:
        if outcome == state.completed_as:
            return state
        raise _token_reused(trajectory_id, f"it was completed as {state.completed_as} with it")
    if state.status is not PENDING:
        raise Refusal(409, f"Cannot transition trajectory {trajectory_id}: it is {state.status.value}, not PENDING")
    status = TrajectoryStatus.READY if outcome == READY else TrajectoryStatus.FAILED
    return state._replace(status=status, completed_as=outcome, completion_token=token)


def reward(
    state: State, trajectory_id: str, rewards: tuple[float, ...], token: str | None, *, strict: bool = True
) -> State:
    """Return the state after the trajectory was rewarded.

    Args:
        state: The state before.
        trajectory_id: For messages.
        rewards: One finite number, or one for each recorded turn in order.
        token: Client token of the call. None if the call carried no token.
        strict: Whether to refuse a reward for a failed trajectory, and a number of rewards that fits nothing.

    Returns:
        The new state. `state` itself if this call repeats the call that rewarded the trajectory.

    Raises:
        Refusal: 400 if the number of rewards is wrong, or if the token was used for other rewards. 409 if the
            trajectory is open or failed, or has its reward already.
    """
    if not rewards or not all(math.isfinite(item) for item in rewards):
        raise Refusal(400, "Rewards must be a non-empty list of finite numbers")
    if token is not None and token == state.reward_token:
        if rewards == state.rewards:
            return state
        raise _token_reused(trajectory_id, "other rewards were given with it")
    _check_rewardable(state, trajectory_id, strict)
    if strict and len(rewards) not in (1, state.turns):
        raise Refusal(
            400,
            f"Rewards has {len(rewards)} numbers for the {state.turns} turns of trajectory {trajectory_id}; "
            "give one number for the whole trajectory, or one for each turn",
        )
    return state._replace(status=TrajectoryStatus.REWARD_RECEIVED, rewards=rewards, reward_token=token)


def _check_rewardable(state: State, trajectory_id: str, strict: bool) -> None:
    allowed = {TrajectoryStatus.READY} if strict else {TrajectoryStatus.READY, TrajectoryStatus.FAILED}
    if state.status in allowed:
        return
    reasons = {
        PENDING: "complete it first",
        TrajectoryStatus.FAILED: "a failed trajectory is not used for training and takes no reward",
        TrajectoryStatus.REWARD_RECEIVED: "it has its reward already",
    }
    raise Refusal(
        409,
        f"Trajectory {trajectory_id} is not in valid status for a reward: it is {state.status.value}; "
        f"{reasons[state.status]}",
    )


def _token_reused(trajectory_id: str, what: str) -> Refusal:
    return Refusal(400, f"ClientToken was used before for trajectory {trajectory_id}: {what}")


class Problem(NamedTuple):
    """A fault of a trajectory over which the service would fail the job or waste the rollout."""

    kind: ProblemKind
    trajectory_id: str
    message: str
    """What is wrong, and what usually causes it."""


def find_problems(state: State, trajectory_id: str) -> list[Problem]:
    """Return the problems of a trajectory whose rollout is over. The list is empty if there are none."""
    problems = []
    if state.status is PENDING:
        what = f"trajectory {trajectory_id} was left open after {state.turns} turns: complete_trajectory never came"
        problems.append(Problem(ProblemKind.OPEN, trajectory_id, what))
    if state.status is TrajectoryStatus.READY:
        what = f"trajectory {trajectory_id} is sealed and no reward came: the service fails a job over it"
        problems.append(Problem(ProblemKind.UNREWARDED, trajectory_id, what))
    if state.completed_as == READY and state.turns == 0:
        what = (
            f"trajectory {trajectory_id} was completed without one tracked inference call: the service fails a job "
            "over it; usually the model is not wrapped"
        )
        problems.append(Problem(ProblemKind.NO_TURNS, trajectory_id, what))
    return problems

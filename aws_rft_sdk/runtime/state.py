"""The state machine of a trajectory. Pure: values in, values out; no clock, no storage, no I/O.

    PENDING --complete(ready)--> READY ---reward--> REWARD_RECEIVED
       |
       +----complete(failed)--> FAILED --reward--> REWARD_RECEIVED (only when not strict)

What the contract leaves open is decided here, once:

- A repeated call with the client token and the decision of the call that succeeded is answered 200 and changes nothing,
  in whatever state the trajectory is by then. Without a token, or with another one, a second transition is a 409.
- The same client token with another decision is a 400, not a 409: clients may take a 409 after a lost answer for
  "already done", and here something else was done.
- A reward for a FAILED trajectory is a 409 when strict: a failed trajectory is not used for training, so a reward for
  it is a mistake of the sender.
- Rewards are one number, or one for each recorded turn; another length is a 400 when strict.
- Sealing a trajectory without turns is accepted: the service finds out only later, and then fails the job.
  `problems` says so.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from aws_rft_sdk.runtime.answers import Refusal
from aws_rft_sdk.types import ProblemKind, TrajectoryStatus
from aws_rft_sdk.wire import COMPLETION_STATUSES, READY

PENDING = TrajectoryStatus.PENDING


class State(NamedTuple):
    """What decides how a trajectory answers its next call."""

    status: TrajectoryStatus = PENDING
    turns: int = 0
    """Number of turns recorded."""
    completed_as: str | None = None
    """ "ready" or "failed", None while open."""
    completion_token: str | None = None
    """Client token of the call that sealed it, None when it is open or that call carried none."""
    rewards: tuple[float, ...] | None = None
    reward_token: str | None = None
    """Client token of the call that rewarded it."""


def check_open(state: State, trajectory_id: str) -> None:
    """Refuse an inference call on a sealed trajectory.

    Raises:
        Refusal: 409, the trajectory is not PENDING.
    """
    if state.status is not PENDING:
        raise Refusal(
            409,
            f"Trajectory {trajectory_id} is not in valid status for sampling: it is {state.status.value}, "
            "and only a PENDING trajectory takes turns",
        )


def add_turn(state: State, trajectory_id: str) -> State:
    """Return the state after one more turn.

    Raises:
        Refusal: 409, the trajectory was sealed in the meantime.
    """
    check_open(state, trajectory_id)
    return state._replace(turns=state.turns + 1)


def complete(state: State, trajectory_id: str, outcome: str, token: str | None) -> State:
    """Return the state after the trajectory was sealed.

    Args:
        state: The state before.
        trajectory_id: For messages.
        outcome: "ready" or "failed".
        token: Client token of the call, None when it carried none.

    Returns:
        The new state, or `state` itself when the call repeats the one that sealed it.

    Raises:
        Refusal: 400 for an unknown outcome or a token used for another decision; 409 when it is sealed already.
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
        rewards: One number, or one for each recorded turn in order.
        token: Client token of the call, None when it carried none.
        strict: See the module's text.

    Returns:
        The new state, or `state` itself when the call repeats the one that rewarded it.

    Raises:
        Refusal: 400 for rewards that are empty, not finite, of a wrong number, or a token used for other rewards;
            409 when the trajectory is open, failed, or has its reward.
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
    """Something about a trajectory that would make the service fail the job, or waste the rollout."""

    kind: ProblemKind
    trajectory_id: str
    message: str
    """What is wrong and what usually causes it."""


def find_problems(state: State, trajectory_id: str) -> list[Problem]:
    """Return what is wrong with a trajectory whose rollout is over; empty when nothing is."""
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

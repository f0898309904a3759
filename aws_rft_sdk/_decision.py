"""What was decided about one trajectory, and how far the two calls are that tell the runtime. Values only.

Everything else about delivery is derived from a `Decision`: what is sent next, what the ledger says, what a context
shows. Every change of a decision is a pure function here. Clients, outbox and re-drive apply them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Literal

from aws_rft_sdk.errors import DecisionConflictError
from aws_rft_sdk.wire import FAILED

Completion = Literal["ready", "failed"]
Rewards = tuple[float, ...]
"""One number for the whole trajectory, or one for each turn in turn order."""


class CallState(str, Enum):
    """How far a feedback call is."""

    UNSENT = "unsent"
    """It certainly has not reached the runtime."""
    MAYBE_SENT = "maybe sent"
    """It may have taken effect: it is on its way, its answer was lost, or the process died meanwhile."""
    CONFIRMED = "confirmed"
    """The runtime has it."""
    REFUSED = "refused"
    """The runtime refuses it, and no repetition changes that."""


class Call(str, Enum):
    """The two feedback calls. The value names the field of `Decision` that holds the call's state."""

    SEAL = "seal"
    REWARD = "reward"


class TrajectoryOutcome(str, Enum):
    """What has become of a trajectory that was received. Each is in exactly one of these states."""

    OPEN = "open"
    """Not decided yet: its handler runs, was killed, or left the reward to someone else."""
    PENDING = "pending"
    """Decided, and a call is still to be made or confirmed."""
    REWARDED = "rewarded"
    """The runtime has confirmed the reward."""
    FAILED = "failed"
    """It ended without a reward: as decided, or because the runtime refuses the feedback."""


@dataclass(frozen=True)
class Decision:
    """What was decided about one trajectory, and the states of the two calls that deliver it."""

    completion: Completion | None = None
    """How it is sealed. None while that is undecided, and when someone else seals it and only the reward is ours."""
    rewards: Rewards | None = None
    """None while there are none."""
    seal: CallState = CallState.UNSENT
    reward: CallState = CallState.UNSENT
    sends: int = 0
    """How often a call was begun. Tells whether another process has begun one since."""

    @property
    def outstanding(self) -> Call | None:
        """The call that is to be made next, the seal before the reward. None when nothing is left to do."""
        waiting = (CallState.UNSENT, CallState.MAYBE_SENT)
        if self.reward is CallState.CONFIRMED or self.seal is CallState.REFUSED:
            return None
        if self.completion is not None and self.seal in waiting:
            return Call.SEAL
        return Call.REWARD if self.rewards is not None and self.reward in waiting else None

    @property
    def outcome(self) -> TrajectoryOutcome:
        """What has become of the trajectory."""
        if self.reward is CallState.CONFIRMED:
            return TrajectoryOutcome.REWARDED
        if self.outstanding is not None:
            return TrajectoryOutcome.PENDING
        return TrajectoryOutcome.FAILED if self.is_refused or self.completion == FAILED else TrajectoryOutcome.OPEN

    @property
    def is_refused(self) -> bool:
        """Whether the runtime refuses one of the calls."""
        return CallState.REFUSED in (self.seal, self.reward)

    def state_of(self, call: Call) -> CallState:
        """Return how far a call is."""
        return self.seal if call is Call.SEAL else self.reward

    def decide(self, trajectory_id: str, completion: Completion | None, rewards: Rewards | None) -> Decision:
        """Return this decision with something added to it. The same decision again changes nothing.

        What the runtime has refused did not happen, so it may be decided anew. A refused seal is someone else's.

        Args:
            trajectory_id: For the message.
            completion: None leaves the seal as it is.
            rewards: None leaves the reward as it is.

        Raises:
            DecisionConflictError: It was decided before, in another way.
        """
        known = self
        if known.reward is CallState.CONFIRMED:  # so it was sealed as ready, by us or by someone else
            known = replace(known, completion=known.completion or "ready", seal=CallState.CONFIRMED)
        elif rewards is not None and known.is_refused:
            known = replace(known, rewards=None, reward=CallState.UNSENT)
        if known.seal is CallState.REFUSED:
            known = replace(known, completion=None, seal=CallState.UNSENT)
        added = replace(known, completion=completion or known.completion, rewards=rewards or known.rewards)
        if known.completion not in (None, added.completion) or known.rewards not in (None, added.rewards):
            raise DecisionConflictError(
                f"trajectory {trajectory_id} was decided before: {known._described()} stands; "
                f"{replace(added, rewards=rewards)._described()} came now and is not sent"
            )
        return added

    def begin(self) -> Decision:
        """Return this decision with the outstanding call, if there is one, marked as maybe sent."""
        call = self.outstanding
        return self if call is None else replace(self._with(call, CallState.MAYBE_SENT), sends=self.sends + 1)

    def end(self, call: Call, state: CallState, sends: int) -> Decision:
        """Return this decision with the outcome of a call that was begun.

        Args:
            call: The call.
            state: How far it is now.
            sends: `sends` since it was begun. If another process has begun a call since, that one may have arrived, so
                the call is not unsent any more.
        """
        if self.state_of(call) is CallState.CONFIRMED or (state is CallState.UNSENT and self.sends != sends):
            return self
        return self._with(call, state)

    def _with(self, call: Call, state: CallState) -> Decision:
        return replace(self, seal=state) if call is Call.SEAL else replace(self, reward=state)

    def _described(self) -> str:
        rewards = "no reward" if self.rewards is None else f"rewards {list(self.rewards)}"
        return f"{self.completion or 'open'} with {rewards}"

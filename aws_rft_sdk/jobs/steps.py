"""One record of a training step, whatever the service calls its metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from aws_rft_sdk._frozen import JSON


@dataclass(frozen=True)
class Step:
    """The metrics of one training step. A metric that the service did not report is None.

    Attributes:
        step: Number of the step, from 1.
        total_steps: Steps of the whole job.
        time: When the step ended, in seconds since 1970.
        reward_mean: Mean reward of the step's rollouts. So are `reward_std`, `reward_max`, `reward_min`.
        entropy: Of the policy's next-token distribution, in nats. Near 0 the policy has collapsed.
        policy_loss: Loss of the policy gradient.
        grad_norm: Norm of the gradient.
        advantage_mean: Mean advantage.
        kl: Divergence from the reference model.
        response_length_mean: Tokens of a response. So is `response_length_max`.
        dead_group_share: Share of groups, 0 to 1, whose rewards are all equal. Nothing is learnt from them.
        truncated_share: Share of responses, 0 to 1, that ended at the token limit.
        validation_reward_mean: Mean reward on the validation rows, at steps that measure it.
        other: Metrics that no field above holds, by the service's names.
    """

    step: int
    total_steps: int | None = None
    time: float | None = None
    reward_mean: float | None = None
    reward_std: float | None = None
    reward_max: float | None = None
    reward_min: float | None = None
    entropy: float | None = None
    policy_loss: float | None = None
    grad_norm: float | None = None
    advantage_mean: float | None = None
    kl: float | None = None
    response_length_mean: float | None = None
    response_length_max: float | None = None
    dead_group_share: float | None = None
    truncated_share: float | None = None
    validation_reward_mean: float | None = None
    other: Mapping[str, JSON] = field(default_factory=dict)

    def to_json(self) -> dict[str, JSON]:
        """Return all fields by their names."""
        return asdict(self)

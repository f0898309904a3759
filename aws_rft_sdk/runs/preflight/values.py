"""What a preflight is told, and what it says: reasons, each with its number, interval, threshold, source and advice."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import Enum

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.agent_rft import ROLLOUT_TIMEOUT_SECONDS, Prices


class Verdict(str, Enum):
    """What a reason says, and what all of them say together."""

    GO = "go"
    WARN = "warn"
    """The job can learn, and something should be looked at first."""
    NO_GO = "no-go"
    """The job would fail, or would not learn."""
    UNKNOWN = "unknown"
    """The sample cannot tell."""


@dataclass(frozen=True)
class TrainingPlan:
    """What the job will be run with. None where nobody said."""

    group_size: int = 8
    """Rollouts of each prompt in a training step."""
    batch_size: int | None = None
    """Prompts of a training step."""
    prompts: int | None = None
    """Prompts that the job trains on."""
    steps: int | None = None
    """Most training steps."""
    max_tokens: int | None = None
    """Most tokens of one answer."""
    max_turns: int | None = None
    """Turns after which the agent gives up."""
    context_tokens: int | None = None
    """Most tokens that the model takes, request and answer together."""
    rollout_timeout_seconds: float = ROLLOUT_TIMEOUT_SECONDS
    """After it the service gives a rollout up."""
    epochs: int | None = None
    """Most passes over the prompts."""
    concurrency: int | None = None
    """Rollouts that the service has in progress at once, at most."""
    success_threshold: float | None = None
    """Lowest reward that counts as a success."""
    platform_seconds: float | None = None
    """After it the place where the agent runs ends a call: 900 on AgentCore and Lambda."""
    model: str | None = None
    """Short name of the model, if the job is a multi-turn RL job on SageMaker."""
    validation_prompts: int | None = None
    """Prompts of the validation, with one rollout each."""
    val_every: int | None = None
    """Steps between validations. 0: only before the first step and after the last one."""
    max_steps_off_policy: int | None = None
    """Updates that the policy may be ahead of a rollout. 0: a step waits for its slowest rollout."""
    max_runtime_seconds: float | None = None
    """After it the service stops the job."""
    prices: Prices | None = None
    """What tokens cost."""


@dataclass(frozen=True)
class Checks:
    """What records do not tell, and somebody measured. None where nobody did."""

    untracked_calls: int | None = None
    """Calls of the policy that named no trajectory, or a wrong one, as `aws-rft prove` counts them."""
    foreign_calls: int | None = None
    """Calls of models that are not the policy, as `aws-rft prove` counts them."""
    repeated_rewards: tuple[int, int] | None = None
    """Rollouts whose reward was computed again from the same answers, and how many of them got another one."""


@dataclass(frozen=True)
class Reason:
    """What one rule says."""

    rule: str
    verdict: Verdict
    value: float | None
    """The number that was compared. None if there is none."""
    interval: tuple[float, float] | None
    """Where the true value lies with a confidence of 95 %. None for a count, and where nothing can be said."""
    threshold: float | None
    source: str
    """Where the threshold comes from. "this package" for a proposal of ours."""
    text: str
    """What was found, in a sentence."""
    advice: str
    """What to change. Empty for `go`."""

    def to_dict(self) -> dict[str, JSON]:
        """Return the fields as JSON."""
        return {**asdict(self), "verdict": self.verdict.value, "interval": self.interval and list(self.interval)}


@dataclass(frozen=True)
class Preflight:
    """The verdict on a job."""

    reasons: tuple[Reason, ...]
    """One for each rule that could be measured, the gravest first."""

    @property
    def verdict(self) -> Verdict:
        """No-go if one reason says so, else unknown, else warn."""
        said = {reason.verdict for reason in self.reasons}
        return next((verdict for verdict in _GRAVEST_FIRST if verdict in said), Verdict.UNKNOWN)

    def to_dict(self) -> dict[str, JSON]:
        """Return verdict and reasons as JSON."""
        return {"verdict": self.verdict.value, "reasons": [reason.to_dict() for reason in self.reasons]}


_GRAVEST_FIRST = (Verdict.NO_GO, Verdict.UNKNOWN, Verdict.WARN, Verdict.GO)

"""Frozen values that pass between the rooms of this package. Invariants are checked when a value is made."""

from __future__ import annotations

import math
import numbers
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from typing import Literal

from aws_rft_sdk import wire
from aws_rft_sdk._checks import is_number
from aws_rft_sdk._frozen import JSON, FrozenDict, freeze, thaw
from aws_rft_sdk.errors import PayloadError, RewardError

NO_FIELDS = FrozenDict()


@dataclass(frozen=True)
class RolloutMetadata:
    """Which rollout this is and where its runtime stands.

    Raises:
        PayloadError: The job ARN or the trajectory id is missing or malformed, or endpoint or region are not strings.
    """

    job_arn: str
    """ARN of the training job, at most 256 characters."""
    trajectory_id: str
    """The service's id of the trajectory (`rolloutId` on the GA wire), 1 to 256 printable ASCII characters."""
    endpoint: str | None = None
    """Base URL of the runtime as the payload names it, None when it names none. Untrusted input."""
    region: str | None = None
    """AWS region as the payload names it, None when it names none."""
    extra: Mapping[str, JSON] = field(default_factory=FrozenDict)
    """Fields of the payload's metadata that this package does not know, frozen."""

    def __post_init__(self) -> None:
        wire.check_job_arn(self.job_arn, "job_arn")
        wire.check_trajectory_id(self.trajectory_id, "trajectory_id")
        for name in ("endpoint", "region"):
            value = getattr(self, name)
            if value == "":
                object.__setattr__(self, name, None)
            elif value is not None and not (isinstance(value, str) and value.isprintable()):
                raise PayloadError(f"{name} must be a printable string, not {value!r}", field=name)
        object.__setattr__(self, "extra", freeze(self.extra))


@dataclass(frozen=True)
class InferenceParams:
    """Sampling parameters that the job asks for. None means that the job leaves the value to the agent.

    Raises:
        PayloadError: A value is not a number of the right kind or outside its range.
    """

    temperature: float | None = None
    """At least 0. Evaluation rollouts usually ask for 0."""
    top_p: float | None = None
    """From 0 to 1."""
    max_tokens: int | None = None
    """Limit of one model call, at least 1 token."""
    extra: Mapping[str, JSON] = field(default_factory=FrozenDict)
    """Fields of the payload's inference parameters that this package does not know, frozen."""

    def __post_init__(self) -> None:
        self._check_range("temperature", math.inf, "a finite number of at least 0")
        self._check_range("top_p", 1.0, "a number from 0 to 1")
        limit = self.max_tokens
        if limit is not None:
            if not is_number(limit) or limit < 1 or limit % 1 != 0:
                raise PayloadError(
                    f"max_tokens must be a whole number of at least 1, not {_shown(limit)}", field="max_tokens"
                )
            object.__setattr__(self, "max_tokens", int(limit))
        object.__setattr__(self, "extra", freeze(self.extra))

    def _check_range(self, name: str, high: float, wanted: str) -> None:
        value = getattr(self, name)
        if value is not None and not (is_number(value) and 0 <= value <= high):
            raise PayloadError(f"{name} must be {wanted}, not {_shown(value)}", field=name)

    def sampling(self) -> dict[str, float]:
        """Return the parameters that the job asks for, by their Python names. Empty when it asks for none."""
        return {name: value for name in wire.SAMPLING_FIELDS if (value := getattr(self, name)) is not None}


def _shown(value: object) -> str:
    try:
        return f"{value!r:.80}"
    except ValueError:  # Python refuses to print integers that are long enough
        return f"a {type(value).__name__} of enormous size"


@dataclass(frozen=True)
class RolloutRequest:
    """What the service sends to an agent to start one rollout. Hashable and immutable."""

    prompt: JSON
    """The prompt cell of the dataset, verbatim: usually a string (often JSON in it), an object in the oldest form."""
    metadata: RolloutMetadata
    inference_params: InferenceParams = field(default_factory=InferenceParams)
    extra: Mapping[str, JSON] = field(default_factory=FrozenDict)
    """Top-level fields of the payload that this package does not know, frozen."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt", freeze(self.prompt))
        object.__setattr__(self, "extra", freeze(self.extra))

    @property
    def job_arn(self) -> str:
        """ARN of the training job."""
        return self.metadata.job_arn

    @property
    def trajectory_id(self) -> str:
        """The service's id of the trajectory."""
        return self.metadata.trajectory_id

    @classmethod
    def parse(cls, payload: object) -> RolloutRequest | None:
        """Read a payload in any known spelling.

        Accepts the GA form (`metadata.jobArn`, `metadata.rolloutId`, `inferenceParams.topP`), the snake_case and the
        PascalCase ones, `instance` for `prompt`, and any of them as a JSON string under `body`.

        Args:
            payload: What the agent was called with, of any type. A request comes back as it is, and `RolloutMetadata`
                becomes a request without a prompt.

        Returns:
            The request, or None for ordinary traffic: no `metadata` object with a known job or trajectory key.

        Raises:
            PayloadError: It is a rollout and malformed; `.field` is the path of the culprit as the payload spells it.
        """
        if isinstance(payload, RolloutRequest):
            return payload
        if isinstance(payload, RolloutMetadata):
            return cls(prompt=None, metadata=payload)
        # Ordinary traffic pays for no more than this line.
        if type(payload) is dict and "metadata" not in payload and "body" not in payload and "Metadata" not in payload:
            return None
        try:
            fields = wire.read_payload(payload)
            return None if fields is None else cls._of(fields)
        except RecursionError:
            raise PayloadError("the payload nests too deeply to be read", field="") from None

    @classmethod
    def _of(cls, fields: wire.Payload) -> RolloutRequest:
        try:
            metadata = RolloutMetadata(**fields.metadata)
            params = InferenceParams(**(fields.inference_params or {}))
        except PayloadError as error:
            # The constructors name fields as Python does. The sender is told how the payload spells them.
            path = fields.paths[error.field]
            raise PayloadError(str(error).replace(error.field, path, 1), field=path) from None
        return cls(fields.prompt, metadata, params, fields.extra)

    def to_payload(self, spelling: Literal["ga", "alpha"] = "ga") -> dict[str, JSON]:
        """Return the payload of this request; `parse` of it gives this request again.

        Args:
            spelling: "ga" for camelCase keys and `prompt`, "alpha" for snake_case keys and `instance`.

        Returns:
            A new object of plain dicts and lists. Values that are None are left out.
        """
        payload = wire.write_payload(
            wire.Api(spelling), self.prompt, vars(self.metadata), vars(self.inference_params), self.extra
        )
        return thaw(payload)  # type: ignore[no-any-return] # an object in, an object out


def parse_reward(value: object) -> float:
    """Return `value` as a float.

    Accepts int, float, Decimal, Fraction, and numpy or torch scalars. Any finite number is allowed: the service sets no
    range.

    Raises:
        RewardError: It is a bool, a string or another type, or it is NaN or infinite.
    """
    if not isinstance(value, numbers.Real | Decimal) and getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()  # numpy and torch scalars that are not registered as numbers
    if isinstance(value, bool) or not isinstance(value, numbers.Real | Decimal):
        raise RewardError(f"a reward must be a number, not {type(value).__name__}: {value!r:.80}")
    try:
        number = float(value)
    except (OverflowError, ValueError) as error:
        # The value is left out: Python refuses to print integers that are long enough.
        raise RewardError(f"a reward must fit a float, and this {type(value).__name__} does not") from error
    if not math.isfinite(number):
        raise RewardError(f"a reward must be finite, not {number}; a rollout that cannot be judged has no reward")
    return number


def parse_rewards(value: object) -> tuple[float, ...]:
    """Return one reward or a list of rewards as a tuple.

    Args:
        value: A number for the whole trajectory, or a list with one number for each turn in turn order.

    Raises:
        RewardError: The list is empty, or an element is not a finite number; the message gives its position.
    """
    if getattr(value, "ndim", None) == 1 and hasattr(value, "tolist"):
        value = value.tolist()
    if not isinstance(value, Sequence) or isinstance(value, str | bytes | bytearray):
        return (parse_reward(value),)
    if not value:
        raise RewardError("the list of rewards is empty; give one number, or one for each turn")
    rewards = []
    for index, item in enumerate(value):
        try:
            rewards.append(parse_reward(item))
        except RewardError as error:
            raise RewardError(f"reward of turn {index}: {error}") from error
    return tuple(rewards)


@dataclass(frozen=True, init=False)
class RolloutResult:
    """What a handler returns when a dict is too loose.

    Args:
        reward: Score of the whole trajectory, a finite number. None if there is no score, which is not zero.
        rewards: One score for each turn, in turn order. If given, the service gets these in place of `reward`.
        metrics: Figures for your own records. The service has no field for them.
        state: Final state of the environment, any JSON, for example the rows of a database. It goes into the record of
            the rollout, and rewards read it as `Rollout.state` when they are applied again. It is never reported to the
            service. Its size is not limited: every record of the run holds it, so keep what rewards need.
        turns_rewards: The former name of `rewards`. It is accepted with a `DeprecationWarning`.

    Raises:
        RewardError: A reward is not a finite number, or `rewards` is empty.
    """

    reward: float | None
    """Score of the whole trajectory. None if there is none."""
    rewards: tuple[float, ...] | None
    """What the service gets: one score for each turn, or `reward` alone. None if the result has no score."""
    metrics: Mapping[str, JSON]
    """Figures for your own records, frozen."""
    state: JSON
    """Final state of the environment, frozen. None if the handler gave none."""

    def __init__(
        self,
        reward: float | None = None,
        rewards: Sequence[float] | None = None,
        metrics: Mapping[str, JSON] = NO_FIELDS,
        *,
        state: JSON = None,
        turns_rewards: Sequence[float] | None = None,
    ) -> None:
        if turns_rewards is not None:
            warnings.warn("RolloutResult(turns_rewards=...) is now rewards=...", DeprecationWarning, stacklevel=2)
            rewards = turns_rewards if rewards is None else rewards
        number = None if reward is None else parse_reward(reward)
        whole = None if number is None else (number,)
        object.__setattr__(self, "reward", number)
        object.__setattr__(self, "rewards", whole if rewards is None else parse_rewards(rewards))
        object.__setattr__(self, "metrics", freeze(metrics))
        object.__setattr__(self, "state", freeze(state))

    @classmethod
    def of(cls, value: object) -> RolloutResult | None:
        """Read a handler's result.

        Args:
            value: A `RolloutResult`, a finite number, or a mapping with `reward` (a number, or a list with one number
                for each turn) and / or `rewards` (such a list), optionally `metrics` and `state`.

        Returns:
            The result, or None when `value` carries no reward: another type, no such key, or None under it.

        Raises:
            RewardError: It carries something that is no reward: a bool, a string, NaN, an empty list.
        """
        if not carries_reward(value):
            return None
        if isinstance(value, RolloutResult):
            return value
        if not isinstance(value, Mapping):
            return cls(parse_reward(value))
        reward, rewards, metrics = (value.get(name) for name in ("reward", "rewards", "metrics"))
        if rewards is None and _is_list(reward):
            reward, rewards = None, reward
        return cls(reward, rewards, metrics if isinstance(metrics, Mapping) else NO_FIELDS, state=value.get("state"))


def carries_reward(value: object) -> bool:
    """Whether `RolloutResult.of` finds a reward in `value`, a proper one or not."""
    if isinstance(value, RolloutResult):
        return value.rewards is not None
    if isinstance(value, Mapping):
        return value.get("reward") is not None or value.get("rewards") is not None
    return isinstance(value, numbers.Real | Decimal) or getattr(value, "ndim", None) == 0  # a bool is Real


def _is_list(value: object) -> bool:
    return getattr(value, "ndim", None) == 1 or (isinstance(value, Sequence) and not isinstance(value, str | bytes))


class TrajectoryStatus(str, Enum):
    """State of a trajectory in the runtime."""

    PENDING = "PENDING"
    """Open: inference calls add turns."""
    READY = "READY"
    """Sealed, waiting for its reward."""
    FAILED = "FAILED"
    """Sealed, not used for training."""
    REWARD_RECEIVED = "REWARD_RECEIVED"
    """Sealed and rewarded: eligible for training."""


class ProblemKind(str, Enum):
    """What is wrong with a trajectory whose rollout is over."""

    OPEN = "open"
    """It was never sealed."""
    UNREWARDED = "unrewarded"
    """It was sealed as ready, and no reward came."""
    NO_TURNS = "no-turns"
    """It was sealed as ready without one tracked inference call."""


@dataclass(frozen=True)
class Turn:
    """One inference call as the runtime recorded it."""

    index: int
    """Position in the trajectory, from 0."""
    span_id: str | None
    """`X-Span-Id` of the call, None when it carried none."""
    request: JSON
    """The chat request as the policy saw it, frozen. None if the runtime kept none."""
    response: JSON
    """The chat completion, frozen; assembled from its chunks when it was streamed. Only `usage` if none was kept."""
    started_at: float
    """Seconds since the epoch when the request arrived."""
    seconds: float
    """Duration until the last byte of the answer was ready."""
    usage: JSON = None
    """The policy's token counts in OpenAI form, None when it gave none."""
    token_ids: tuple[int, ...] | None = None
    """Ids of the sampled tokens in order, None when the policy gave none."""
    logprobs: tuple[float, ...] | None = None
    """Natural log probability of each sampled token, as long as `token_ids`; None when the policy gave none."""
    prompt_token_ids: tuple[int, ...] | None = None
    """Ids of the tokens that the policy read before it sampled, in order. None when the policy gave none."""

    @property
    def message(self) -> JSON:
        """The assistant message of the answer in OpenAI chat format, None when the answer holds none."""
        choices = self.response.get("choices") if isinstance(self.response, Mapping) else None
        first = choices[0] if isinstance(choices, Sequence) and choices else None
        return first.get("message") if isinstance(first, Mapping) else None


@dataclass(frozen=True)
class Trajectory:
    """The runtime's record of one rollout."""

    trajectory_id: str
    job_arn: str
    status: TrajectoryStatus
    prompt: JSON = None
    """The prompt it was created with, None when the runtime first heard of it from an inference call."""
    turns: tuple[Turn, ...] = ()
    """In the order in which they were recorded."""
    rewards: tuple[float, ...] | None = None
    """One number, or one for each turn; None before the reward arrived."""
    created_at: float = 0.0
    """Seconds since the epoch."""

    @property
    def repeated_turns(self) -> tuple[int, ...]:
        """Indexes of the turns whose request equals that of an earlier turn, in order.

        Such a turn may be one call that was sampled twice: its first answer was lost and the call was made again. Then
        one reward for each turn does not fit what the agent did.
        """
        requests = [turn.request for turn in self.turns]
        return tuple(index for index, request in enumerate(requests) if request and request in requests[:index])

    @property
    def messages(self) -> list[JSON]:
        """The conversation as the policy saw it: the messages of the last request, then its answer.

        A new list of plain OpenAI chat messages; empty when there are no turns.
        """
        if not self.turns:
            return []
        last = self.turns[-1]
        sent = last.request.get("messages", []) if isinstance(last.request, Mapping) else []
        return thaw([*sent, *([last.message] if last.message is not None else [])])  # type: ignore[no-any-return] # a list in, a list out

"""What a reward is given and what it gives back. Values only."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, Protocol, runtime_checkable

from aws_rft_sdk._frozen import JSON, FrozenDict, freeze
from aws_rft_sdk.errors import RewardError
from aws_rft_sdk.rewards._messages import chat_messages
from aws_rft_sdk.types import Trajectory, parse_reward, parse_rewards


class HasMessages(Protocol):
    """An agent with the messages of its conversation, as Strands' `Agent` has."""

    messages: JSON


@dataclass(frozen=True)
class Rollout:
    """A finished rollout as a reward sees it. Hashable, immutable, picklable."""

    messages: tuple[JSON, ...]
    """The conversation in OpenAI chat format, in order, tool calls and tool results included, frozen."""
    ground_truth: JSON = None
    """What is right, of whatever form the reward knows; None when it is not known."""
    prompt: JSON = None
    """The prompt cell that the rollout began with; None when it is not known."""
    metadata: Mapping[str, JSON] = field(default_factory=FrozenDict)
    """Anything else that is known about the task, frozen."""
    state: JSON = None
    """Final state of the environment as the handler gave it in `RolloutResult.state`, frozen. None if it gave none."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "messages", tuple(map(freeze, self.messages)))
        for name in ("ground_truth", "prompt", "metadata", "state"):
            object.__setattr__(self, name, freeze(getattr(self, name)))

    @classmethod
    def from_trajectory(cls, trajectory: Trajectory, ground_truth: JSON = None, *, state: JSON = None) -> Rollout:
        """Return a trajectory of the runtime as a reward sees it."""
        return cls(tuple(trajectory.messages), ground_truth, trajectory.prompt, state=state)

    of = from_trajectory

    @classmethod
    def from_messages(
        cls,
        messages: Iterable[JSON],
        ground_truth: JSON = None,
        *,
        prompt: JSON = None,
        metadata: Mapping[str, JSON] = FrozenDict(),
        state: JSON = None,
    ) -> Rollout:
        """Return a conversation as a reward sees it.

        The messages are those of OpenAI, Anthropic, Bedrock's Converse or Strands, in order: dicts, or the objects that
        openai and anthropic answer with.

        Raises:
            PayloadError: `messages` is no list of messages with a role.
        """
        return cls(tuple(chat_messages(messages)), ground_truth, prompt, metadata, state)

    @classmethod
    def from_agent(cls, agent: HasMessages, ground_truth: JSON = None, *, state: JSON = None) -> Rollout:
        """Return what a Strands `Agent` said and did, in OpenAI chat form, without its system prompt.

        `state` is the final state of the environment, not the agent's own state.
        """
        return cls.from_messages(agent.messages, ground_truth, state=state)

    @classmethod
    def of_answer(cls, answer: str, ground_truth: JSON = None, prompt: JSON = None) -> Rollout:
        """Return a rollout that consists of one answer."""
        return cls(({"role": "assistant", "content": answer},), ground_truth, prompt)

    @property
    def before_turns(self) -> tuple[JSON, ...]:
        """The messages before the first turn: what the policy sees when it begins."""
        return tuple(takewhile(lambda message: message.get("role") not in ASSISTANT_ROLES, self.messages))

    @property
    def turns(self) -> tuple[JSON, ...]:
        """The assistant messages, one for each turn, in order."""
        return tuple(message for message in self.messages if message.get("role") in ASSISTANT_ROLES)

    @property
    def answer(self) -> str:
        """Text of the last assistant message that has text; "" if none has.

        A closing tool call without text hides no answer that came before it. Reasoning is not text.
        """
        return next((text for turn in reversed(self.turns) if (text := message_text(turn)).strip()), "")


ASSISTANT_ROLES = ("assistant", "nova_assistant")
"""Roles of what the policy said; the second is what Bedrock's evaluation calls it."""


def message_text(message: Mapping[str, Any]) -> str:
    """Return the text of a chat message: its content, or the text parts of its content joined; "" if it has none.

    Parts with reasoning (of OpenAI, Anthropic, Bedrock and Gemini) are not text.
    """
    content = message.get("content")
    if isinstance(content, str):
        return content
    if not isinstance(content, Iterable):
        return ""
    return "".join(part["text"] for part in content if isinstance(part, Mapping) and _is_text(part))


def _is_text(part: Mapping[str, Any]) -> bool:
    is_reasoning = part.get("thought") is True or re.search("reason|think", str(part.get("type", "")))
    return isinstance(part.get("text"), str) and not is_reasoning


@dataclass(frozen=True)
class Component:
    """One part of a reward, or a figure beside it.

    Raises:
        RewardError: The name is no text, or the value is no finite number.
    """

    name: str
    value: float
    counts: bool = True
    """Whether it is part of the reward; False for a figure that is only reported (a metric)."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise RewardError(f"the name of a component must be a text, not {self.name!r:.80}")
        object.__setattr__(self, "value", parse_reward(self.value))


@dataclass(frozen=True)
class RewardResult:
    """A reward and what it is made of.

    Raises:
        RewardError: A number is not finite, or two components have one name.
    """

    reward: float | None
    """The aggregate; None when the rollout cannot be judged, which is not zero."""
    components: tuple[Component, ...] = ()
    turns_rewards: tuple[float, ...] | None = None
    """One number for each turn in order; None when the reward is for the rollout as a whole."""

    def __post_init__(self) -> None:
        if self.reward is not None:
            object.__setattr__(self, "reward", parse_reward(self.reward))
        if self.turns_rewards is not None:
            object.__setattr__(self, "turns_rewards", parse_rewards(self.turns_rewards))
        names = [component.name for component in self.components]
        if len(set(names)) != len(names):
            raise RewardError(f"components of a reward need names of their own, not {names}")


@runtime_checkable
class GroupReward(Protocol):
    """A reward that compares the rollouts of one prompt with each other, for example by ranking them.

    `evaluate_group`, `aws-rft rescore`, `aws-rft reward test` and TRL (`as_trl`) take group rewards. A handler scores
    one rollout and does not see its group, so it cannot use a group reward.
    """

    def score_group(self, rollouts: Sequence[Rollout]) -> Sequence[float | RewardResult | None]:
        """Return one reward for each rollout, in the order of the rollouts. None means "cannot be judged"."""
        ...


Reward = Callable[[Rollout], "float | RewardResult | None"]
"""A reward: a plain picklable function or object. Equal rollouts get equal rewards; None says "cannot be judged"."""

AnyReward = Reward | GroupReward


def leaves(reward: AnyReward, path: str = "") -> Iterator[tuple[str, AnyReward]]:
    """Yield the rewards that a combination is made of, each with its path ("a/condition"), else the reward itself."""
    parts = getattr(reward, "reward_parts", None)
    if parts is None:
        yield path, reward
    for name, part in parts().items() if parts else ():
        yield from leaves(part, f"{path}/{name}" if path else name)


def is_group_reward(reward: AnyReward) -> bool:
    """Return whether a reward, or a part of it, compares the rollouts of a prompt."""
    return any(isinstance(part, GroupReward) for _, part in leaves(reward))


def evaluate(reward: AnyReward, rollout: Rollout) -> RewardResult:
    """Apply a reward to one rollout and return its result in one form.

    Raises:
        RewardError: The reward only scores groups, or it returned neither a finite number, a `RewardResult` nor None.
        Exception: Whatever the reward raises.
    """
    if not callable(reward):
        raise RewardError(
            f"{type(reward).__name__} compares the rollouts of a prompt and cannot score one alone; "
            "use evaluate_group(reward, rollouts)"
        )
    return _result(_without_await(reward(rollout)))


def evaluate_group(reward: AnyReward, rollouts: Sequence[Rollout]) -> list[RewardResult]:
    """Apply a reward to the rollouts of one prompt and return one result for each, in their order.

    A reward with `score_group` gets the whole group. Any other reward scores the rollouts one by one.

    Raises:
        RewardError: `score_group` returned another number of rewards than there are rollouts, or something that is
            neither a finite number, a `RewardResult` nor None.
        Exception: Whatever the reward raises.
    """
    if not isinstance(reward, GroupReward):
        return [evaluate(reward, rollout) for rollout in rollouts]
    scores: object = _without_await(reward.score_group(rollouts))
    if not isinstance(scores, Sequence) or isinstance(scores, str) or len(scores) != len(rollouts):
        got = f"{len(scores)} rewards" if isinstance(scores, Sequence) else type(scores).__name__
        raise RewardError(f"score_group returned {got} for {len(rollouts)} rollouts; return a list with one for each")
    return [_result(score) for score in scores]


def _without_await(value: object) -> object:
    if inspect.iscoroutine(value):
        value.close()  # or Python warns that nobody awaited it
        raise RewardError("the reward is asynchronous; a reward is a plain function, called without await")
    return value


def _result(value: object) -> RewardResult:
    return value if isinstance(value, RewardResult) else RewardResult(value)  # type: ignore[arg-type] # checked there


class TextReward:
    """Base of rewards that compare the text of the answer with a ground truth. Subclasses define `score`."""

    def score(self, answer_text: str, ground_truth: JSON) -> float | None:
        """Return the reward of an answer, None when it cannot be judged, for example without a usable ground truth."""
        raise NotImplementedError

    def __call__(self, rollout: Rollout) -> float | None:
        """Return the reward of the rollout's last answer."""
        return self.score(rollout.answer, rollout.ground_truth)

"""Rewards as reward functions of TRL, verifiers and Inspect. None of these packages is imported before it is needed."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from importlib import import_module

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.rewards._checks import check_reward, check_single_reward
from aws_rft_sdk.rewards._messages import prompt_messages
from aws_rft_sdk.rewards.rollout import AnyReward, RewardResult, Rollout, evaluate, evaluate_group
from aws_rft_sdk.types import parse_reward

_TRUTHS = ("ground_truth", "answer", "reference_answer", "solution", "target")
_OF_THE_TRAINER = {"trainer_state", "log_extra", "log_metric", "environments"}
"""What GRPOTrainer passes besides columns of the dataset."""


def as_trl(
    reward: AnyReward, *, ground_truth: str | None = None, name: str | None = None
) -> Callable[..., list[float | None]]:
    """Return a reward function for TRL: `GRPOTrainer(..., reward_funcs=as_trl(gsm8k, name="gsm8k"))`.

    Columns of the dataset become `Rollout.metadata`. A group reward gets all completions of this process with an equal
    prompt and ground truth together. TRL leaves out completions whose reward is None.

    Args:
        reward: Any reward. An exception of the reward ends the training.
        ground_truth: The column with the ground truth. None for the first of ground_truth, answer, reference_answer,
            solution and target that the dataset has.
        name: What TRL logs the reward as. None for the name of the function or of its class.

    Raises:
        ConfigurationError: The reward is a class, asynchronous or no reward. On a call: the column is missing.
    """
    check_reward(reward)

    def score(
        prompts: Sequence[JSON], completions: Sequence[JSON], completion_ids: JSON = None, **columns: JSON
    ) -> list[float | None]:
        rows = {key: values for key, values in columns.items() if key not in _OF_THE_TRAINER}
        column = ground_truth or next((name for name in _TRUTHS if name in rows), None)
        if column is not None and column not in rows:
            names = ", ".join(rows) or "only prompts"
            raise ConfigurationError(f"the dataset has no column {column!r}; it has {names}")
        truths = [None] * len(prompts) if column is None else rows.pop(column)
        groups: dict[str, dict[int, Rollout]] = defaultdict(dict)
        for row, (prompt, completion, truth) in enumerate(zip(prompts, completions, truths, strict=True)):
            rollout = _rollout(prompt, completion, truth, {key: values[row] for key, values in rows.items()})
            groups[json.dumps([prompt, truth], sort_keys=True, default=repr)][row] = rollout
        results: dict[int, RewardResult] = {}
        for group in groups.values():
            results |= zip(group, evaluate_group(reward, [*group.values()]), strict=True)
        return [results[row].reward for row in range(len(prompts))]

    score.__name__ = name or _name(reward)
    return score


def as_verifiers(reward: AnyReward, *, floor: float = 0.0, name: str | None = None) -> Callable[..., float]:
    """Return a reward function for verifiers: `Rubric(funcs=[as_verifiers(gsm8k)])`.

    The state becomes `Rollout.state`, and `info` becomes `Rollout.metadata`. A rollout that cannot be judged gets
    `floor`, since verifiers takes only numbers. `name` is as for `as_trl`.

    Raises:
        ConfigurationError: The reward only scores groups, or is a class, asynchronous or no reward.
        RewardError: `floor` is no finite number.
    """
    check_single_reward(reward, "verifiers")
    lowest = parse_reward(floor)

    def score(
        prompt: JSON = None, completion: JSON = "", answer: JSON = None, state: JSON = None, **kwargs: JSON
    ) -> float:
        rollout = _rollout(prompt, completion, None if answer == "" else answer, kwargs.get("info") or {}, state)
        found = evaluate(reward, rollout).reward
        return lowest if found is None else found

    score.__name__ = name or _name(reward)
    return score


def as_inspect(reward: AnyReward, *, name: str | None = None) -> Callable[[JSON, JSON], Awaitable[JSON]]:
    """Return a scorer for Inspect: `Task(..., scorer=as_inspect(gsm8k))`. Its metrics are the mean and standard error.

    The ground truth is the sample's target, a list if there are several. The sample's store becomes `Rollout.state`.
    A sample that cannot be judged gets NaN, which Inspect counts as unscored. The reward runs in a thread. `name` is as
    for `as_trl`.

    Raises:
        ConfigurationError: inspect-ai is not installed, or the reward only scores groups or is no reward.
    """
    check_single_reward(reward, "Inspect")
    try:
        inspect_ai, threads = import_module("inspect_ai.scorer"), import_module("anyio.to_thread")
    except ImportError as error:
        raise ConfigurationError("as_inspect needs another package: pip install inspect-ai") from error

    async def score(state: JSON, target: JSON) -> JSON:
        truths = [text for text in target if text]
        truth = truths if len(truths) > 1 else next(iter(truths), None)
        details = {"prompt": state.input_text, "metadata": state.metadata or {}, "state": dict(state.store.items())}
        rollout = Rollout.from_messages(state.messages, truth, **details)
        result = await threads.run_sync(evaluate, reward, rollout)
        value = math.nan if result.reward is None else result.reward
        parts = {component.name: component.value for component in result.components}
        return inspect_ai.Score(value=value, answer=rollout.answer, metadata=parts)

    make = inspect_ai.scorer(metrics=[inspect_ai.mean(), inspect_ai.stderr()], name=name or _name(reward))
    return make(lambda: score)()  # type: ignore[no-any-return] # inspect_ai is not there to be checked


def _name(reward: AnyReward) -> str:
    return getattr(reward, "__name__", type(reward).__name__)


def _rollout(prompt: JSON, completion: JSON, truth: JSON, metadata: JSON, state: JSON = None) -> Rollout:
    said = [{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion
    messages = [*prompt_messages(prompt), *said]
    return Rollout.from_messages(messages, truth, prompt=prompt, metadata=metadata, state=state)

"""A reward as an AWS Lambda function, for Bedrock and Nova fine-tuning. Nothing here needs boto3."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aws_rft_sdk._checks import is_number
from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import ConfigurationError, PayloadError
from aws_rft_sdk.rewards._alarm import ended_after
from aws_rft_sdk.rewards._checks import check_single_reward
from aws_rft_sdk.rewards.rollout import ASSISTANT_ROLES, Component, Reward, RewardResult, Rollout, evaluate
from aws_rft_sdk.types import parse_reward

logger = logging.getLogger(__name__)

_KNOWN_KEYS = ("id", "messages", "metadata", "reference_answer")
_REPLY_SECONDS = 0.5
"""Time that is kept for sending the reply."""
_LEAST_SECONDS = 0.01
"""Time for a row when no time is left. It is enough for most rewards."""
_EMPTY: tuple[JSON, ...] = ("", {}, [], ())
"""Ground truths that may be there in form only, so that a filled one counts. False and 0 are answers."""


@dataclass(frozen=True)
class RewardLambda:
    """A Lambda handler that scores each row of its event with a reward. Make it with `reward_lambda`."""

    reward: Reward
    floor: float = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.reward, RewardLambda):
            raise ConfigurationError("this is a Lambda handler already; name the reward that is in it")
        check_single_reward(self.reward, "a Lambda function")
        object.__setattr__(self, "floor", parse_reward(self.floor))

    def __call__(self, event: JSON, context: Any = None) -> list[dict[str, JSON]]:
        """Return one result for each row of the event, in order, its id echoed.

        A row that takes more than half of the time that is left cannot be judged, so a row that hangs leaves time for
        the others. Without a context that knows the time, in threads and on Windows there is no limit.

        Raises:
            PayloadError: The event has no rows.
            ConfigurationError: No row could be judged because the reward lacks what it needs, a package for example.
        """
        lacking: list[ConfigurationError] = []
        results = [self._score(row, position, context, lacking) for position, row in enumerate(rows_of(event))]
        if lacking and len(lacking) == len(results):
            raise lacking[0]
        return results

    def _score(self, row: JSON, position: int, context: Any, lacking: list[ConfigurationError]) -> dict[str, JSON]:
        identity = _id_of(row, position)
        try:
            with ended_after(_share_of_time(context)):
                result = evaluate(self.reward, rollout_of(row))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a panic of an extension or a cancellation is no Exception
            # One bad row must not cost the batch its rewards; it is logged and counted instead.
            if isinstance(error, ConfigurationError):
                lacking.append(error)
            logger.exception("row_id=<%s> | row cannot be scored, it gets the floor", identity)
            result = RewardResult(None)
        unscored = Component("unscored", float(result.reward is None), counts=False)
        metrics = [
            {"name": item.name, "value": item.value, "type": "Reward" if item.counts else "Metric"}
            for item in (*(part for part in result.components if part.name != unscored.name), unscored)
        ]
        score = self.floor if result.reward is None else result.reward
        return {"id": identity, "aggregate_reward_score": score, "metrics_list": metrics}


def _share_of_time(context: Any) -> float | None:
    """Return the seconds that a row may take: half of those that are left, None when nobody knows."""
    ask = getattr(context, "get_remaining_time_in_millis", None)
    millis = ask() if callable(ask) else None
    return max((millis / 1000 - _REPLY_SECONDS) / 2, _LEAST_SECONDS) if isinstance(millis, int | float) else None


def reward_lambda(reward: Reward, *, floor: float = 0.0) -> RewardLambda:
    """Return an AWS Lambda `handler(event, context)` that scores with a reward.

    Args:
        reward: Any reward. Components become `metrics_list`: "Reward" for those that count, "Metric" for the others.
        floor: Score of a row that cannot be judged, normally the lowest of the reward's range. The service takes only
            numbers. Such a row has the metric `unscored` 1.0, all others 0.0, and the cause is in the log.

    Raises:
        ConfigurationError: The reward is asynchronous, a class, not callable, or a Lambda handler already.
        RewardError: The floor is no finite number.

    Example:
        >>> handler = reward_lambda(gsm8k)
        >>> row = {"id": "7", "messages": [{"role": "assistant", "content": "#### 4"}], "reference_answer": "4"}
        >>> handler([row], None)[0]["aggregate_reward_score"]
        1.0
    """
    return RewardLambda(reward, floor)


def rows_of(event: JSON) -> Sequence[JSON]:
    """Return the rows of an event: a list, a list as the value of `trajectories`, or a single row with `messages`.

    Raises:
        PayloadError: The event is something else.
    """
    if isinstance(event, Mapping):
        event = event.get("trajectories", [event] if "messages" in event else None)
    if not isinstance(event, list | tuple):
        raise PayloadError(f"the event must be a list of rows, not {type(event).__name__}", field="event")
    return event


def rollout_of(row: JSON) -> Rollout:
    """Return a row of an event as a rollout.

    The ground truth is `metadata.reference_answer`, `reference_answer`, or `ground_truth` in the same two places: the
    first that is not empty, or else the first. `{"text": ...}`, which the service makes of a string, becomes the string
    again. All other keys are metadata. Raises `PayloadError` if the messages are no list of objects with an answer.
    """
    if not isinstance(row, Mapping):
        raise PayloadError(f"a row must be an object, not {type(row).__name__}", field="row")
    messages = row.get("messages")
    if not isinstance(messages, list | tuple) or not all(isinstance(message, Mapping) for message in messages):
        raise PayloadError("messages must be a list of objects", field="messages")
    if not any(message.get("role") in ASSISTANT_ROLES for message in messages):
        raise PayloadError("no message is from the assistant", field="messages")
    metadata = row["metadata"] if isinstance(row.get("metadata"), Mapping) else {}
    truths = [_unwrapped(place.get(key)) for key in ("reference_answer", "ground_truth") for place in (metadata, row)]
    given = [truth for truth in truths if truth is not None]
    filled = [truth for truth in given if (truth.strip() if isinstance(truth, str) else truth) not in _EMPTY]
    truth = (filled or given or [None])[0]
    extras = {key: value for key, value in row.items() if key not in _KNOWN_KEYS}
    prompt = [message for message in messages if message.get("role") not in ASSISTANT_ROLES]
    return Rollout(tuple(messages), truth, prompt, {**extras, **metadata})


def _unwrapped(truth: JSON) -> JSON:
    return truth["text"] if isinstance(truth, Mapping) and set(truth) == {"text"} else truth


def _id_of(row: JSON, position: int) -> JSON:
    ids = [row[key] for key in ("id", "task_id") if row.get(key) is not None] if isinstance(row, Mapping) else []
    return ids[0] if ids else f"row-{position}"


def check_reply(event: JSON, reply: object) -> list[str]:
    """Return what is wrong with a handler's reply to an event, one sentence each. Returns [] if nothing is.

    The service itself checks less: not the number of results, their ids, or that scores are finite.
    """
    rows = rows_of(event)
    if not isinstance(reply, list):
        return [f"the reply must be a list, not {type(reply).__name__}"]
    problems = [] if len(reply) == len(rows) else [f"{len(reply)} results for {len(rows)} rows"]
    for position, result in enumerate(reply):
        wanted = _id_of(rows[position], position) if position < len(rows) else None
        problems += [f"result {position}: {problem}" for problem in _result_problems(result, wanted)]
    return problems


def _result_problems(result: object, wanted_id: JSON) -> Iterator[str]:
    if not isinstance(result, Mapping):
        yield f"it is a {type(result).__name__}, not an object"
        return
    score, metrics = result.get("aggregate_reward_score"), result.get("metrics_list")
    if not is_number(score):
        yield f"aggregate_reward_score must be a finite number, not {score!r:.40}"
    if metrics is not None and not isinstance(metrics, list):
        yield "metrics_list must be a list"
        metrics = None
    for metric in metrics or []:
        if not isinstance(metric, Mapping):
            yield "a metric must be an object"
        elif not isinstance(metric.get("name"), str) or not is_number(metric.get("value")):
            yield f"a metric needs a name and a finite number as value: {dict(metric)!r:.80}"
        elif metric.get("type") not in ("Reward", "Metric"):
            yield f"the type of metric {metric['name']!r} must be Reward or Metric, not {metric.get('type')!r}"
    if wanted_id is not None and result.get("id") != wanted_id:
        yield f"it has the id {result.get('id')!r}, not {wanted_id!r}"

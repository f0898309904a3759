"""A reward as an AWS Lambda function, for Bedrock and Nova fine-tuning. Nothing here needs boto3."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from aws_rft_sdk._checks import check_number, is_number
from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import ConfigurationError, PayloadError, RewardError
from aws_rft_sdk.rewards._batch import Batch, Unscored
from aws_rft_sdk.rewards._checks import check_single_reward
from aws_rft_sdk.rewards.rollout import ASSISTANT_ROLES, Component, Reward, RewardResult, Rollout, evaluate
from aws_rft_sdk.types import parse_reward

logger = logging.getLogger(__name__)

Envelope = Literal["list", "http"]
"""Form of a reply: the list of results, or an HTTP answer with that list as JSON text in its body."""
CONCURRENCY = 8
_KNOWN_KEYS = ("id", "messages", "metadata", "reference_answer")
_CANNOT = "the reward returned None: it cannot judge this row"
_EMPTY: tuple[JSON, ...] = ("", {}, [], ())
"""Ground truths that may be there in form only, so that a filled one counts. False and 0 are answers."""


@dataclass(frozen=True)
class RewardLambda:
    """A Lambda handler that scores each row of its event with a reward. Make it with `reward_lambda`."""

    reward: Reward
    floor: float = 0.0
    concurrency: int = CONCURRENCY
    envelope: Envelope = "list"

    def __post_init__(self) -> None:
        if isinstance(self.reward, RewardLambda):
            raise ConfigurationError("this is a Lambda handler already; name the reward that is in it")
        check_single_reward(self.reward, "a Lambda function")
        check_number("concurrency", self.concurrency, low=1, whole=True)
        if self.envelope not in get_args(Envelope):
            raise ConfigurationError(f"envelope is {self.envelope!r}; it must be 'list' or 'http'")
        object.__setattr__(self, "floor", parse_reward(self.floor))

    def __call__(self, event: JSON, context: Any = None) -> list[dict[str, JSON]] | dict[str, JSON]:
        """Return one result for each row of the event, in order, its id echoed.

        Each row may take half of the time that is left when it begins. Then it gets the floor, so a row that hangs
        leaves time for the others. There is no limit if the context does not know the time.

        Raises:
            PayloadError: The event has no rows.
            ConfigurationError: No row can be scored because the reward lacks something, a package for example.
            RewardError: No row can be scored, and the reason is the same for all of at least two rows.
        """
        rows = rows_of(event)
        outcomes = Batch(self._score, rows, context).run(self.concurrency)
        unscored = [outcome for outcome in outcomes if isinstance(outcome, Unscored)]
        if unscored and len(unscored) == len(outcomes):
            _refuse_common_reason(unscored)
        reply = [self._result(_id_of(row, n), outcomes[n]) for n, row in enumerate(rows)]
        if self.envelope == "list":
            return reply
        return {"statusCode": 200, "headers": {"Content-Type": "application/json"}, "body": json.dumps(reply)}

    def _score(self, row: JSON) -> RewardResult | Unscored:
        result = evaluate(self.reward, rollout_of(row))
        if result.reward is not None:
            return result
        failure, detail = getattr(result, "failure", None), getattr(result, "detail", "")
        return Unscored(f"{failure.value}: {detail}" if failure else _CANNOT, None, result)

    def _result(self, identity: JSON, outcome: RewardResult | Unscored) -> dict[str, JSON]:
        if isinstance(outcome, Unscored):
            trace = None if isinstance(outcome.error, PayloadError) else outcome.error
            logger.warning(
                "row_id=<%s>, reason=<%.500s> | row gets the floor", identity, outcome.reason, exc_info=trace
            )
        result = (outcome.result or RewardResult(None)) if isinstance(outcome, Unscored) else outcome
        unscored = Component("unscored", float(result.reward is None), counts=False)
        metrics = [
            {"name": item.name, "value": item.value, "type": "Reward" if item.counts else "Metric"}
            for item in (*(part for part in result.components if part.name != unscored.name), unscored)
        ]
        score = self.floor if result.reward is None else result.reward
        return {"id": identity, "aggregate_reward_score": score, "metrics_list": metrics}


def _refuse_common_reason(unscored: Sequence[Unscored]) -> None:
    """Raise if no row can be scored for one reason. A floor for every row would hide it."""
    error, reason = unscored[0].error, unscored[0].reason
    if isinstance(error, ConfigurationError) and all(isinstance(row.error, ConfigurationError) for row in unscored):
        raise error
    # A single row may be damaged by itself.
    if len(unscored) > 1 and {row.reason for row in unscored} == {reason}:
        raise RewardError(f"none of the {len(unscored)} rows can be scored: {reason}") from error


def reward_lambda(
    reward: Reward, *, floor: float = 0.0, concurrency: int = CONCURRENCY, envelope: Envelope = "list"
) -> RewardLambda:
    """Return an AWS Lambda `handler(event, context)` that scores with a reward.

    Args:
        reward: Any reward. Components become `metrics_list`: "Reward" for those that count, "Metric" for the others.
        floor: Score of a row that cannot be judged, normally the lowest of the reward's range. The service takes only
            numbers. Such a row has the metric `unscored` 1.0, all others 0.0, and the reason is in the log.
        concurrency: Rows at once. Rows run one after the other while the reward computes. Once it waits, for a model
            for example, threads run other rows meanwhile. With 1 all rows run in the calling thread. Only there can
            code that never waits be ended, such as a regular expression that backtracks.
        envelope: "list" for Bedrock and Nova. "http" for open-weight models with RLVR on SageMaker, which expect
            `{"statusCode": 200, "headers": ..., "body": JSON text of the list}`.

    Raises:
        ConfigurationError: The reward is asynchronous, a class, not callable, or a Lambda handler already, or another
            argument is out of range.
        RewardError: The floor is no finite number.

    Example:
        >>> handler = reward_lambda(gsm8k)
        >>> row = {"id": "7", "messages": [{"role": "assistant", "content": "#### 4"}], "reference_answer": "4"}
        >>> handler([row], None)[0]["aggregate_reward_score"]
        1.0
    """
    return RewardLambda(reward, floor, concurrency, envelope)


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

    A reply in either envelope is read, see `reply_rows`. The service itself checks less: not the number of results,
    their ids, or that scores are finite.
    """
    rows = rows_of(event)
    try:
        reply = reply_rows(reply)
    except PayloadError as error:
        return [str(error)]
    if not isinstance(reply, list):
        return [f"the reply must be a list, not {type(reply).__name__}"]
    problems = [] if len(reply) == len(rows) else [f"{len(reply)} results for {len(rows)} rows"]
    for position, result in enumerate(reply):
        wanted = _id_of(rows[position], position) if position < len(rows) else None
        problems += [f"result {position}: {problem}" for problem in _result_problems(result, wanted)]
    return problems


def reply_rows(reply: object) -> object:
    """Return the results of a reply: the body of an HTTP answer, or the reply itself.

    Raises:
        PayloadError: The answer's status is not 200, or its body is not JSON text.
    """
    if not isinstance(reply, Mapping) or "statusCode" not in reply:
        return reply
    if reply["statusCode"] != 200:
        raise PayloadError(f"statusCode is {reply['statusCode']!r:.40}; it must be 200", field="statusCode")
    try:
        return json.loads(reply["body"])
    except (LookupError, TypeError, ValueError, RecursionError):
        raise PayloadError("body must be the results as JSON text", field="body") from None


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

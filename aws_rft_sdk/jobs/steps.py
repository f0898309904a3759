"""One record of a training step, whatever the service calls its metrics."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime, timezone
from pathlib import Path

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import UnavailableError


@dataclass(frozen=True)
class Step:
    """The metrics of one training step.

    A metric is None if the service did not report it, or reported NaN or infinity. In the second case `other` has what
    the service said, as the text `nan`, `inf` or `-inf`.

    Attributes:
        step: Number of the step. Some services count from 0, others from 1.
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


_SPELLINGS = {
    "step": "step global_step training/global_step trainer/global_step step_number current_step",
    "total_steps": "total_steps max_steps num_steps",
    "time": "time created_at timestamp",
    "reward_mean": (
        "reward_mean critic/rewards/mean rollout/reward/mean train_rm_score reward reward_score mean_reward "
        "rewards/mean critic/score/mean"
    ),
    "reward_std": "reward_std critic/rewards/std rollout/reward/std rewards/std std_reward",
    "reward_max": "reward_max critic/rewards/max rollout/reward/max rewards/max",
    "reward_min": "reward_min critic/rewards/min rollout/reward/min rewards/min",
    "entropy": "entropy actor/entropy ent policy_entropy actor/entropy_loss entropy_mean",
    "policy_loss": "policy_loss actor/pg_loss pg_loss reduced_train_loss loss",
    "grad_norm": "grad_norm actor/grad_norm gradient_norm",
    "advantage_mean": "advantage_mean critic/advantages/mean rollout/advantage/mean adv advantages/mean",
    "kl": "kl actor/ppo_kl actor/kl_loss ppo_kl kl_divergence approx_kl kl_mean",
    "response_length_mean": (
        "response_length_mean completions/mean_length rollout/tokens/response_mean completion_length "
        "mean_response_length response_length"
    ),
    "response_length_max": "response_length_max completions/max_length rollout/tokens/response_max",
    "dead_group_share": "dead_group_share frac_reward_zero_std zero_advantage_share",
    "truncated_share": "truncated_share completions/clipped_ratio response_length/clip_ratio truncated_ratio",
    "validation_reward_mean": (
        "validation_reward_mean val-score/rewards/mean@1 val/reward/mean val/rewards/mean val_reward eval_reward "
        "eval/reward/mean eval/rewards/mean validation_reward validation/rewards/mean test/reward/mean"
    ),
}
"""The fields of `Step` by the services' names: Mantle and SageMaker training jobs (`critic/`, `actor/`, also with
underscores), SageMaker's Jobs API (`rollout/`), HyperPod (`train_rm_score`), TRL (`reward`). The first one counts."""
_COUNTS = frozenset({"step", "total_steps", "time"})
"""Fields that are no metrics."""
_CONTAINERS = frozenset({"data", "metrics", "values", "logs"})
"""Objects that only hold metrics. Their names are no part of the names of the metrics."""
_ENVELOPE = frozenset({"id", "object", "type", "level", "message", "ingestion_time", "event_id", "log_stream_name"})
_PAGES = ("data", "events", "log_history", "steps", "records")
"""Where a page of an API, or a file of a trainer, has its records."""
_NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?|[-+]?(?:nan|inf(?:inity)?)"
_PAIR = re.compile(rf"([A-Za-z][\w/@.-]*)[\"']?\s*[:=]\s*({_NUMBER})(?![\w%]|\.\d)", re.IGNORECASE)
_STEP_OF = re.compile(r"\b(?:step|iteration)\b\s*[:#=]?\s*(\d+)\s*(?:/|of)\s*(\d+)", re.IGNORECASE)
_MILLISECONDS = 1e11
"""A time from here on, year 5138 in seconds, is in milliseconds."""


def _plain(name: str) -> str:
    """Return a name with words in lower case between underscores: `critic/rewards/mean` is `critic_rewards_mean`."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")


_RANKS = {_plain(name): (field, rank) for field, names in _SPELLINGS.items() for rank, name in enumerate(names.split())}


def _known(name: str) -> tuple[str, int] | None:
    plain = _plain(name)
    return _RANKS.get(plain) or _RANKS.get(re.sub("^(train|training)_", "", plain))


def field_of(name: str) -> str | None:
    """Return the field of `Step` that a service's metric goes to; None for `other`."""
    known = _known(name)
    return known[0] if known else None


def read_step(record: Mapping[str, JSON] | str | Step) -> Step | None:
    """Read the metrics of a training step from whatever a service says.

    Args:
        record: An `Event`, a record as JSON with flat or nested metrics, what `Step.to_json` returned, or a line of a
            log. Numbers may be texts.

    Returns:
        The step; None if the record has no number of a step, or none of the metrics that `Step` knows.
    """
    if isinstance(record, Step):
        return record
    pairs = list(_PAIR.findall(record)) if isinstance(record, str) else list(_flat(record))
    text = record if isinstance(record, str) else record.get("message")
    if isinstance(text, str) and not isinstance(record, str) and not _has_metrics(pairs):
        pairs += _PAIR.findall(text)  # an entry of CloudWatch Logs
    if not _has_metrics(pairs):
        return None
    said = _STEP_OF.search(text) if isinstance(text, str) else None
    if said:  # last, so that a field of the record counts first
        pairs += [("current_step", said[1]), ("num_steps", said[2])]
    found: dict[str, tuple[int, str, JSON]] = {}
    kept = record.get("other") if isinstance(record, Mapping) else None
    other: dict[str, JSON] = dict(kept) if isinstance(kept, Mapping) else {}
    for name, value in pairs:
        known = _known(name)
        if known and (known[0] not in found or known[1] < found[known[0]][0]):
            if known[0] in found and known[0] not in _COUNTS:
                _keep(other, *found[known[0]][1:])
            found[known[0]] = known[1], name, value
        elif not known or known[0] not in _COUNTS:
            _keep(other, name, value)
    return _made({key: (name, value) for key, (_, name, value) in found.items()}, other)


def _made(found: Mapping[str, tuple[str, JSON]], other: dict[str, JSON]) -> Step | None:
    values: dict[str, JSON] = {}
    for key, (name, value) in found.items():
        number = _seconds(value) if key == "time" else _number(value)
        if number is None and key != "time":
            _keep(other, name, value)
        values[key] = number
    step, total = values.pop("step", None), values.pop("total_steps", None)
    if step is None or step < 0 or step != int(step):
        return None
    if values.get("dead_group_share") is None:
        values["dead_group_share"] = _dead_groups(other)
    return Step(int(step), total_steps=int(total) if total and total > 0 else None, other=other, **values)


def _dead_groups(other: Mapping[str, JSON]) -> float | None:
    """Return the share of groups without an advantage, from the counts of SageMaker's Jobs API."""
    dead, groups = other.get("analysis/zero_adv_groups"), other.get("training/num_groups")
    return dead / groups if isinstance(dead, float) and isinstance(groups, float) and groups > 0 else None


def _flat(record: Mapping[str, JSON], prefix: str = "") -> Iterator[tuple[str, JSON]]:
    for key, value in record.items():
        name = f"{prefix}{key}"
        if isinstance(value, str) and key in _CONTAINERS and value.lstrip().startswith("{"):
            value = _decoded(value)
        if isinstance(value, Mapping):
            if prefix or key != "other":
                yield from _flat(value, prefix if key in _CONTAINERS else f"{name}/")
        elif (prefix or _plain(key) not in _ENVELOPE) and value is not None:
            yield name, value


def _has_metrics(pairs: Iterable[tuple[str, JSON]]) -> bool:
    return any(field_of(name) not in (None, *_COUNTS) for name, _ in pairs)


def _keep(other: dict[str, JSON], name: str, value: JSON) -> None:
    number = _number(value, finite=False)
    if number is not None:
        other[name] = number if math.isfinite(number) else str(number)


def _number(value: JSON, *, finite: bool = True) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) or not finite else None


def _seconds(value: JSON) -> float | None:
    number = _number(value)
    if number is None and isinstance(value, str):
        try:
            read = datetime.fromisoformat(value.replace("Z", "+00:00"))
        except ValueError:
            return None
        return (read if read.tzinfo else read.replace(tzinfo=timezone.utc)).timestamp()
    return number / 1000 if number is not None and number >= _MILLISECONDS else number


def read_steps(source: Path | str | Iterable[Mapping[str, JSON] | str | Step]) -> list[Step]:
    """Read the steps of a job that anybody saved.

    Args:
        source: Path of a file: JSON Lines, a JSON array, a page of an API (`{"data": [...]}`), the `trainer_state.json`
            of a trainer, or a log. Or the records themselves: events, objects, lines, steps.

    Returns:
        The steps by number, each once. If a step comes twice, as after a restart, the later record wins, and what only
        the earlier record has is kept. Later is what has the later time; without times, what comes later. Records
        without metrics are passed over.

    Raises:
        UnavailableError: The file cannot be read.
    """
    read = (read_step(record) for record in (_records(source) if isinstance(source, Path | str) else _opened(source)))
    return in_order(step for step in read if step is not None)


def in_order(steps: Iterable[Step]) -> list[Step]:
    """Return steps by number, each once. Of two records of a step, the later one wins."""
    by_number: dict[int, Step] = {}
    for step in steps:
        before = by_number.get(step.step)
        by_number[step.step] = step if before is None else _merged(before, step)
    return [by_number[number] for number in sorted(by_number)]


def _merged(first: Step, second: Step) -> Step:
    if first.time is not None and second.time is not None and second.time < first.time:
        first, second = second, first
    missing = {f.name: getattr(first, f.name) for f in fields(Step) if getattr(second, f.name) is None}
    return replace(second, **missing, other={**first.other, **second.other})


def _records(path: Path | str) -> Iterator[Mapping[str, JSON] | str]:
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UnavailableError(f"{path} cannot be read: {error.strerror}") from error
    whole = _decoded(text)
    yield from _opened(
        [whole] if isinstance(whole, Mapping) else whole if isinstance(whole, list) else text.split("\n")
    )


def _opened(records: Iterable[JSON]) -> Iterator[JSON]:
    """Yield records. Lines of JSON are decoded, and pages opened."""
    for record in records:
        if isinstance(record, str) and record.lstrip().startswith(("{", "[")):
            decoded = _decoded(record)
            if decoded is None and record.lstrip().startswith("{") and not record.rstrip().endswith("}"):
                continue  # a line that was cut off: its last number may be, too
            record = record if decoded is None else decoded
        if isinstance(record, list):
            yield from _opened(record)
        elif isinstance(record, Mapping):
            page = next((record[key] for key in _PAGES if isinstance(record.get(key), list)), None)
            yield from [record] if page is None else _opened(page)
        elif isinstance(record, str | Step):
            yield record


def _decoded(text: str) -> JSON:
    """Return what a text of JSON says; None for other texts."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None

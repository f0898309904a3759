"""Reads the calls that arrive: headers and bodies in the spellings of both generations.

It shares only constants with `wire`, which makes such calls. So the same mistake cannot hide on both sides.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.runtime.answers import Refusal
from aws_rft_sdk.wire import (
    ALPHA_JOB_ARN_HEADER,
    ALPHA_TRAJECTORY_HEADER,
    GA_JOB_ARN_HEADER,
    GA_TRAJECTORY_HEADER,
    ID_MAX_LENGTH,
    JOB_ARN_PATTERN,
    READY,
    SPAN_HEADER,
)

Headers = Sequence[tuple[bytes, bytes]]

_JOB_HEADERS = {name.lower().encode(): name for name in (ALPHA_JOB_ARN_HEADER, GA_JOB_ARN_HEADER)}
_TRAJECTORY_HEADERS = {name.lower().encode(): name for name in (ALPHA_TRAJECTORY_HEADER, GA_TRAJECTORY_HEADER)}
_SPAN_HEADERS = {SPAN_HEADER.lower().encode(): SPAN_HEADER}


class Tracking(NamedTuple):
    """The trajectory that an inference call names. None stands for a header that is missing."""

    job_arn: str | None
    trajectory_id: str | None
    span_id: str | None

    @property
    def missing(self) -> list[str]:
        """The headers that are missing, in the spellings of both generations."""
        names = []
        if self.job_arn is None:
            names.append(f"{ALPHA_JOB_ARN_HEADER} (or {GA_JOB_ARN_HEADER})")
        if self.trajectory_id is None:
            names.append(f"{ALPHA_TRAJECTORY_HEADER} (or {GA_TRAJECTORY_HEADER})")
        return names


class Completion(NamedTuple):
    """A call that seals a trajectory."""

    job_arn: str
    trajectory_id: str
    outcome: str
    token: str | None


class Reward(NamedTuple):
    """A call that rewards a trajectory."""

    job_arn: str
    trajectory_id: str
    rewards: tuple[float, ...]
    token: str | None


def read_tracking(headers: Headers, *, strict: bool) -> Tracking:
    """Return the trajectory that the headers of an inference call name.

    Raises:
        Refusal: 400 if two headers contradict each other or a value is malformed. A job ARN is checked only when
            strict.
    """
    job_arn = _header(headers, _JOB_HEADERS)
    if job_arn is not None:
        _check_job_arn(job_arn, "the job ARN header", strict)
    return Tracking(job_arn, _header(headers, _TRAJECTORY_HEADERS), _header(headers, _SPAN_HEADERS))


def read_completion(headers: Headers, body: bytes, *, alpha: bool, strict: bool) -> Completion:
    """Read a call to `/CompleteTrajectory` (alpha) or `/complete-rollout`.

    Raises:
        Refusal: 400. The message names the field.
    """
    fields = read_object(body)
    status = fields.get("Status", READY)
    if not isinstance(status, str):
        raise Refusal(400, f"Status must be a string, not {_kind(status)}")
    if alpha and status != READY:
        raise Refusal(400, "Status is not part of CompleteTrajectory: only /complete-rollout can seal as failed")
    return Completion(*_read_ids(headers, fields, strict), status, _read_token(fields))


def read_reward(headers: Headers, body: bytes, *, strict: bool) -> Reward:
    """Read a call to `/UpdateReward` or `/update-reward`.

    Raises:
        Refusal: 400. The message names the field.
    """
    fields = read_object(body, parse_constant=float)  # so that the message can name the reward
    ids = _read_ids(headers, fields, strict)
    rewards = fields.get("Rewards")
    if not isinstance(rewards, list):
        raise Refusal(400, f"Rewards must be a list of numbers, not {_kind(rewards)}")
    if not rewards:
        raise Refusal(400, "Rewards is empty; give one number, or one for each turn")
    return Reward(
        *ids, tuple(_read_number(item, f"Rewards[{i}]") for i, item in enumerate(rewards)), _read_token(fields)
    )


def read_chat_request(body: bytes) -> dict[str, JSON]:
    """Read a chat request.

    Raises:
        Refusal: 400 if it is no object with a list of messages. The message names the field.
    """
    request = read_object(body)
    messages = request.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Refusal(400, f"messages must be a non-empty list, not {_kind(messages)}")
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            raise Refusal(400, f"messages[{index}] must be an object, not {_kind(message)}")
    return request


def read_stream_flag(request: dict[str, Any]) -> bool:
    """Return whether a request asks for an event stream.

    Raises:
        Refusal: 400 if `stream` is neither a boolean nor null.
    """
    stream = request.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise Refusal(400, f"stream must be true or false, not {_kind(stream)}")
    return bool(stream)


def _refuse_constant(name: str) -> NoReturn:
    # Python reads NaN and Infinity although JSON has neither.
    raise ValueError(f"{name} is no JSON value")


def read_object(body: bytes, parse_constant: Callable[[str], float] = _refuse_constant) -> dict[str, JSON]:
    """Read a body that must be a JSON object.

    Args:
        body: The body as it arrived.
        parse_constant: Reads NaN and Infinity, which are no JSON. Refuses them by default.

    Raises:
        Refusal: 400 if the body is something else.
    """
    try:
        value = json.loads(body, parse_constant=parse_constant)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"The body is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise Refusal(400, f"The body must be a JSON object, not {_kind(value)}")
    return value


def _read_ids(headers: Headers, fields: dict[str, JSON], strict: bool) -> tuple[str, str]:
    job_arn = _agreed(_header(headers, _JOB_HEADERS), fields.get("JobArn"), "JobArn")
    if job_arn is None:
        raise Refusal(400, f"JobArn is missing; send it in the body or as the header {GA_JOB_ARN_HEADER}")
    _check_job_arn(job_arn, "JobArn", strict)
    trajectory_id = _agreed(_header(headers, _TRAJECTORY_HEADERS), fields.get("TrajectoryId"), "TrajectoryId")
    if trajectory_id is None or "TrajectoryId" not in fields:
        raise Refusal(400, "TrajectoryId is missing from the body")
    return job_arn, trajectory_id


def _agreed(header: str | None, value: object, name: str) -> str | None:
    if value is None:
        return header
    if not isinstance(value, str):
        raise Refusal(400, f"{name} must be a string, not {_kind(value)}")
    _check_text(value, name)
    if header is not None and header != value:
        raise Refusal(400, f"{name} in the body contradicts the header")
    return value


def _header(headers: Headers, names: dict[bytes, str]) -> str | None:
    found: str | None = None
    for name, raw in headers:
        if name in names:
            value = raw.decode("latin-1").strip()
            _check_text(value, names[name])
            if found is not None and found != value:
                raise Refusal(400, f"{names[name]} contradicts another header of the same meaning")
            found = value
    return found


def _check_text(value: str, name: str) -> None:
    if not 1 <= len(value) <= ID_MAX_LENGTH or not (value.isascii() and value.isprintable()):
        raise Refusal(400, f"{name} must have 1 to {ID_MAX_LENGTH} printable ASCII characters")


def _check_job_arn(job_arn: str, name: str, strict: bool) -> None:
    if strict and not JOB_ARN_PATTERN.fullmatch(job_arn):
        raise Refusal(400, f"{name} is not of the form arn:aws:sagemaker:<region>:<12 digits>:job/<category>/<name>")


def _read_number(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Refusal(400, f"{name} must be a number, not {_kind(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise Refusal(400, f"{name} must be a finite number")
    return number


def _read_token(fields: dict[str, JSON]) -> str | None:
    token = fields.get("ClientToken")
    if token is None:
        return None
    if not isinstance(token, str) or not token:
        raise Refusal(400, "ClientToken must be a non-empty string")
    return token


def _kind(value: object) -> str:
    if value is None:
        return "missing or null"
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    text = names.get(type(value), type(value).__name__)
    return f"an empty {text.split()[-1]}" if value in ([], {}, "") else text

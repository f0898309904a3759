"""The contract with the job runtime: the only module that knows how anything is spelled.

Two generations of one contract exist. *alpha* seals with `POST /CompleteTrajectory` and tells turns apart by
`X-Span-Id`; *ga* is botocore's `sagemakerjobruntime`, API version 2026-02-01. All that differs between them stands in
the tables below. Everything here is a pure function of its arguments.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple

from aws_rft_sdk import errors
from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import PayloadError


class Api(str, Enum):
    """Generation of the job runtime's contract."""

    ALPHA = "alpha"
    """The first form: `/CompleteTrajectory`, `/UpdateReward`, `X-Rft-Job-Arn`."""
    GA = "ga"
    """The public form: `/complete-rollout`, `/update-reward`, `X-Amzn-SageMaker-Job-Arn`."""


# --- headers ---------------------------------------------------------------------------------------------------------

ALPHA_JOB_ARN_HEADER = "X-Rft-Job-Arn"
ALPHA_TRAJECTORY_HEADER = "X-Trajectory-Id"
SPAN_HEADER = "X-Span-Id"
GA_JOB_ARN_HEADER = "X-Amzn-SageMaker-Job-Arn"
GA_TRAJECTORY_HEADER = "X-Amzn-SageMaker-Trajectory-Id"
REQUEST_ID_HEADER = "x-amzn-RequestId"
ERROR_TYPE_HEADER = "x-amzn-ErrorType"

JOB_ARN_HEADERS = (ALPHA_JOB_ARN_HEADER, GA_JOB_ARN_HEADER)
TRAJECTORY_HEADERS = (ALPHA_TRAJECTORY_HEADER, GA_TRAJECTORY_HEADER)

_JOB_ARN_HEADER = {Api.ALPHA: ALPHA_JOB_ARN_HEADER, Api.GA: GA_JOB_ARN_HEADER}


def inference_headers(job_arn: str, trajectory_id: str, span_id: str) -> dict[str, str]:
    """Return the headers that tie one inference call to its trajectory, for both generations at once.

    A runtime ignores the set that it does not know.
    """
    return {
        ALPHA_JOB_ARN_HEADER: job_arn,
        ALPHA_TRAJECTORY_HEADER: trajectory_id,
        SPAN_HEADER: span_id,
        GA_JOB_ARN_HEADER: job_arn,
        GA_TRAJECTORY_HEADER: trajectory_id,
    }


# --- paths and bodies ------------------------------------------------------------------------------------------------

SAMPLE_PATH = "/sample"
SAMPLE_STREAM_PATH = "/sample-with-response-stream"
CHAT_COMPLETIONS_PATH = "/v1/chat/completions"
COMPLETE_PATHS = {Api.ALPHA: "/CompleteTrajectory", Api.GA: "/complete-rollout"}
REWARD_PATHS = {Api.ALPHA: "/UpdateReward", Api.GA: "/update-reward"}

READY = "ready"
FAILED = "failed"
COMPLETION_STATUSES = (READY, FAILED)

SIGNING_NAME = "sagemaker"
MESSAGE_MAX_LENGTH = 1024


class FeedbackRequest(NamedTuple):
    """A feedback call before it is signed: method POST, headers without authentication, JSON body."""

    path: str
    headers: dict[str, str]
    body: bytes


def completion_request(api: Api, job_arn: str, trajectory_id: str, status: str) -> FeedbackRequest:
    """Encode the call that seals a trajectory as "ready" or "failed".

    Alpha has no failed state, so there a failed trajectory is sealed like any other and simply gets no reward.
    """
    body: dict[str, JSON] = {"JobArn": job_arn, "TrajectoryId": trajectory_id}
    if api is Api.GA:
        body["Status"] = status
    return _feedback_request(api, COMPLETE_PATHS[api], job_arn, body)


def reward_request(api: Api, job_arn: str, trajectory_id: str, rewards: Sequence[float]) -> FeedbackRequest:
    """Encode the call that gives a sealed trajectory its reward: one number, or one for each turn in order."""
    body: dict[str, JSON] = {"JobArn": job_arn, "TrajectoryId": trajectory_id, "Rewards": list(rewards)}
    return _feedback_request(api, REWARD_PATHS[api], job_arn, body)


def _feedback_request(api: Api, path: str, job_arn: str, body: dict[str, JSON]) -> FeedbackRequest:
    # The model wants the job ARN in a header, the official client sends it in the body: both are sent.
    # The token is a digest of the decision itself, so a repetition carries the same one even after a restart.
    decision = json.dumps([path.lower(), body], sort_keys=True, allow_nan=False)
    body["ClientToken"] = hashlib.sha256(decision.encode()).hexdigest()[:40]
    headers = {"Content-Type": "application/json", _JOB_ARN_HEADER[api]: job_arn}
    return FeedbackRequest(path, headers, json.dumps(body, allow_nan=False).encode())


# --- answers ---------------------------------------------------------------------------------------------------------

ERROR_CODES = {
    400: "ValidationException",
    402: "ServiceQuotaExceededException",
    403: "AccessDeniedException",
    404: "ResourceNotFoundException",
    409: "ConflictException",
    429: "ThrottlingException",
    500: "InternalServiceError",
}
"""The service's error type of each status it is documented to answer with."""

_ERRORS: dict[int, type[errors.StatusError]] = {
    400: errors.InvalidRequestError,
    402: errors.QuotaExceededError,
    403: errors.AccessDeniedError,
    404: errors.TrajectoryNotFoundError,
    409: errors.TrajectoryConflictError,
    429: errors.ThrottledError,
}

RETRIABLE_STATUSES = frozenset({429, 500, 502, 503, 504})
"""Answers to a feedback call after which the same call is sent again."""

AMBIGUOUS_STATUSES = frozenset({500, 502, 503, 504})
"""Answers that leave open whether the call took effect."""


def error_class(status: int) -> type[errors.StatusError]:
    """Return the error class of an HTTP status. The status alone decides, never the text of the answer."""
    if status in _ERRORS:
        return _ERRORS[status]
    return errors.ServiceFaultError if status >= 500 else errors.StatusError


def error_message(body: bytes) -> str:
    """Return the service's message from an error body, made safe to log: printable and at most 1,024 characters."""
    text = body[: 4 * MESSAGE_MAX_LENGTH].decode("utf-8", "replace")
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        parsed = None
    if isinstance(parsed, Mapping):
        text = str(parsed.get("Message") or parsed.get("message") or text)
    return loggable(text, MESSAGE_MAX_LENGTH)


def header_text(value: str | None) -> str | None:
    """Return a header of an answer, made safe to log: printable and at most 128 characters; None without one."""
    return loggable(value, 128) or None if value is not None else None


def loggable(text: str, limit: int) -> str:
    """Return a text that is safe to log: printable, at most `limit` characters, without what looks like a secret."""
    return _printable(_redacted(text), limit)


# What a service, or a proxy before it, may quote of our request.
_SECRETS = re.compile(
    r"sagemaker-api-key-[A-Za-z0-9+/=_-]*"
    r"|Signature=[0-9A-Za-z]+"
    r"|(?:AKIA|ASIA)[A-Z0-9]{12,}"
    r"|x-amz-security-token[\"']?\s*[:=]\s*\S+"
    r"|authorization[\"']?\s*[:=][^\r\n]*"
    r"|[A-Za-z0-9+/=_-]{100,}",
    re.IGNORECASE,
)


def _redacted(text: str) -> str:
    return _SECRETS.sub("<removed>", text)


def _printable(text: str, limit: int) -> str:
    return "".join(c if c.isprintable() else " " for c in text[:limit]).strip()


# --- payloads --------------------------------------------------------------------------------------------------------

JOB_ARN_PATTERN = re.compile(
    r"arn:(?P<partition>aws[a-z\-]*):sagemaker:(?P<region>[a-z0-9\-]*):(?P<account>[0-9]{12})"
    r":job/[a-zA-Z0-9_\-]+/[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}"
)
"""Shape of a job ARN, from the service model; to be matched against the whole string."""
ID_MAX_LENGTH = 256

# For each field: the spelling of each generation, then the other spellings that were seen.
_ALIASES = {
    "prompt": ("prompt", "instance", "Prompt", "Instance"),
    "metadata": ("metadata", "Metadata"),
    "inference_params": ("inferenceParams", "inference_params", "InferenceParams"),
    "job_arn": ("jobArn", "job_arn", "JobArn"),
    "trajectory_id": ("rolloutId", "trajectory_id", "trajectoryId", "TrajectoryId", "rollout_id", "RolloutId"),
    "endpoint": ("endpoint", "Endpoint"),
    "region": ("region", "Region"),
    "temperature": ("temperature", "Temperature"),
    "top_p": ("topP", "top_p", "TopP"),
    "max_tokens": ("maxTokens", "max_tokens", "MaxTokens"),
}
_ALPHA_SPELLING = {**{name: name for name in _ALIASES}, "prompt": "instance"}

REQUEST_FIELDS = ("prompt", "metadata", "inference_params")
METADATA_FIELDS = ("job_arn", "trajectory_id", "endpoint", "region")
SAMPLING_FIELDS = ("temperature", "top_p", "max_tokens")
_ROLLOUT_KEYS = frozenset(_ALIASES["job_arn"] + _ALIASES["trajectory_id"])


def spellings(field: str) -> tuple[str, ...]:
    """Return every spelling of a field under its Python name, the GA one first."""
    return _ALIASES[field]


def spell(field: str, spelling: Api) -> str:
    """Return how a generation spells the field with the Python name `field`."""
    return _ALPHA_SPELLING[field] if spelling is Api.ALPHA else _ALIASES[field][0]


class Fields(NamedTuple):
    """An object of the payload, read: values by Python name, the path of each as spelled, and all other keys."""

    values: dict[str, Any]
    paths: dict[str, str]
    extra: dict[str, Any]


def read_fields(source: Mapping[str, Any], names: Sequence[str], path: str = "") -> Fields:
    """Sort the keys of `source` into known fields under their Python names and the rest.

    Args:
        source: An object of the payload.
        names: Python names of the fields it may hold.
        path: Path of the object in the payload, for messages; "" for the payload itself.

    Raises:
        PayloadError: Two spellings of one field are present and disagree.
    """
    prefix = f"{path}." if path else ""
    values: dict[str, Any] = {}
    paths: dict[str, str] = {}
    known: set[str] = set()
    for name in names:
        paths[name] = prefix + _ALIASES[name][0]
        for alias in _ALIASES[name]:
            if alias not in source:
                continue
            known.add(alias)
            # Objects that were dumped by a model may hold all spellings, those unused as null.
            if values.get(name) is None:
                values[name], paths[name] = source[alias], prefix + alias
            elif source[alias] is not None and values[name] != source[alias]:
                raise PayloadError(
                    f"{prefix}{alias} contradicts {paths[name]}: they are two spellings of one field; send one of them",
                    field=prefix + alias,
                )
    return Fields(values, paths, {key: value for key, value in source.items() if key not in known})


def find_rollout(payload: object) -> Mapping[str, Any] | None:
    """Return the object that holds the rollout metadata: the payload or what its `body` string wraps, else None.

    None means ordinary traffic: no `metadata` object with any of the known job or trajectory keys.
    """
    if not isinstance(payload, Mapping):
        return None
    if has_rollout_metadata(payload):
        return payload
    body = payload.get("body")
    if body is None:
        return None
    if isinstance(body, str):
        # API-gateway style. A body that is not ours may hold anything, so what cannot be read is not an error.
        try:
            body = json.loads(base64.b64decode(body) if payload.get("isBase64Encoded") is True else body)
        except (ValueError, RecursionError):
            return None
    return body if isinstance(body, Mapping) and has_rollout_metadata(body) else None


def has_rollout_metadata(payload: Mapping[str, Any]) -> bool:
    """Whether `payload` itself has a `metadata` object with any of the known job or trajectory keys."""
    for alias in _ALIASES["metadata"]:
        metadata = payload.get(alias)
        if isinstance(metadata, Mapping) and not _ROLLOUT_KEYS.isdisjoint(metadata):
            return True
    return False


def check_job_arn(value: object, path: str) -> str:
    """Return `value` if it is a job ARN.

    Raises:
        PayloadError: It is missing, empty, too long or not of the service's pattern.
    """
    text = _check_text(value, path, "job_arn")
    if not JOB_ARN_PATTERN.fullmatch(text):
        raise PayloadError(
            f"{path} is {text!r}, not a job ARN; expected arn:aws:sagemaker:<region>:<12 digits>:job/<category>/<name>",
            field=path,
        )
    return text


def check_trajectory_id(value: object, path: str) -> str:
    """Return `value` if it can be a trajectory id.

    Raises:
        PayloadError: It is missing, empty, longer than 256 characters, or cannot travel in an HTTP header unchanged.
    """
    text = _check_text(value, path, "trajectory_id")
    if not (text.isascii() and text.isprintable()) or text != text.strip():
        raise PayloadError(
            f"{path} is {text!r}; an id travels in an HTTP header, so it must be printable ASCII without spaces "
            "at its ends or control characters",
            field=path,
        )
    return text


def _check_text(value: object, path: str, name: str) -> str:
    if value is None or value == "":
        problem = "is empty" if value == "" else "is missing"
        raise PayloadError(
            f"{path} {problem}; the payload has rollout metadata, so it must name the {name.replace('_', ' ')} "
            f"(known spellings: {', '.join(_ALIASES[name])})",
            field=path,
        )
    if not isinstance(value, str):
        raise PayloadError(f"{path} must be a string, not {type(value).__name__}", field=path)
    if len(value) > ID_MAX_LENGTH:
        raise PayloadError(f"{path} has {len(value)} characters; at most {ID_MAX_LENGTH} are allowed", field=path)
    return value


def job_region(job_arn: str) -> str | None:
    """Return the region in a job ARN, None when the ARN holds none."""
    match = JOB_ARN_PATTERN.fullmatch(job_arn)
    return (match["region"] or None) if match else None

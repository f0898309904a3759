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

LIMIT_ERROR_CODE = "rollout_limit_exceeded"
"""Error type of the local runtime, with status 400: the rollout has used up a limit and gets no further turn."""

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
    r"(?:sagemaker|bedrock)-api-key-[A-Za-z0-9+/=_-]+"
    r"|\b(?:ABSK|sk-)[A-Za-z0-9+/=_-]{16,}"
    r"|Signature=[0-9A-Za-z]+"
    r"|(?:AKIA|ASIA)[A-Z0-9]{12,}"
    r"|x-amz-security-token[\"']?\s*[:=]\s*\S+"
    r"|authorization[\"']?\s*[:=][^\r\n]*"
    r"|bearer\s+\S+"
    r"|secret_?access_?key[\"']?\s*[:=]\s*\S+"
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
_GA_SPELLING = {name: aliases[0] for name, aliases in _ALIASES.items()}

_REQUEST_FIELDS = ("prompt", "metadata", "inference_params")
_METADATA_FIELDS = ("job_arn", "trajectory_id", "endpoint", "region")
SAMPLING_FIELDS = ("temperature", "top_p", "max_tokens")
_ROLLOUT_KEYS = frozenset(_ALIASES["job_arn"] + _ALIASES["trajectory_id"])


class Payload(NamedTuple):
    """A rollout's payload, read: plain values by Python name, as the constructors in `types` take them."""

    source: Mapping[str, Any]
    """The object that holds the metadata: the payload itself, or what its `body` wraps."""
    prompt: Any
    metadata: dict[str, Any]
    """Arguments of `RolloutMetadata`; fields that the payload lacks are None."""
    inference_params: dict[str, Any] | None
    """Arguments of `InferenceParams`; None if the payload has none."""
    extra: dict[str, Any]
    """Top-level fields of no known name."""
    paths: dict[str, str]
    """The path of each field as the payload spells it, for messages."""


def read_payload(payload: object) -> Payload | None:
    """Read a payload in any known spelling.

    Returns:
        Its fields, or None for ordinary traffic: no `metadata` object with a known job or trajectory key.

    Raises:
        PayloadError: Two spellings of one field are present and disagree, or the inference parameters are no object.
    """
    source = _find_rollout(payload)
    if source is None:
        return None
    paths: dict[str, str] = {}
    request = _read_fields(source, _REQUEST_FIELDS, "", paths)
    metadata = _read_fields(request["metadata"], _METADATA_FIELDS, paths["metadata"] + ".", paths)
    params = request["inference_params"]
    if params is not None:
        if not isinstance(params, Mapping):
            path = paths["inference_params"]
            raise PayloadError(f"{path} must be an object, not {type(params).__name__}", field=path)
        params = _read_fields(params, SAMPLING_FIELDS, paths["inference_params"] + ".", paths)
    return Payload(source, request["prompt"], metadata, params, request["extra"], paths)


def _read_fields(source: Mapping[str, Any], names: Sequence[str], prefix: str, paths: dict[str, str]) -> dict[str, Any]:
    """Return the known fields of an object by Python name, all others under "extra". Notes their paths in `paths`."""
    values: dict[str, Any] = dict.fromkeys(names)
    extra = dict(source)
    for name in names:
        paths[name] = prefix + _ALIASES[name][0]
        for alias in _ALIASES[name]:
            if alias not in source:
                continue
            value = extra.pop(alias)
            # A model that knows several spellings dumps all of them, the unused ones as null.
            if values[name] is None:
                values[name], paths[name] = value, prefix + alias
            elif value is not None and values[name] != value:
                raise PayloadError(
                    f"{prefix}{alias} contradicts {paths[name]}: they are two spellings of one field; send one of them",
                    field=prefix + alias,
                )
    values["extra"] = extra
    return values


def _find_rollout(payload: object) -> Mapping[str, Any] | None:
    """Return the object that holds the rollout metadata: the payload, or what its `body` wraps, else None."""
    if not isinstance(payload, Mapping):
        return None
    if _has_rollout_metadata(payload):
        return payload
    body = payload.get("body")
    if isinstance(body, str):
        # API-gateway style. A body that is not ours may hold anything, so what cannot be read is not an error.
        try:
            body = json.loads(base64.b64decode(body) if payload.get("isBase64Encoded") is True else body)
        except (ValueError, RecursionError):
            return None
    return body if isinstance(body, Mapping) and _has_rollout_metadata(body) else None


def _has_rollout_metadata(payload: Mapping[str, Any]) -> bool:
    for alias in _ALIASES["metadata"]:
        metadata = payload.get(alias)
        if isinstance(metadata, Mapping) and not _ROLLOUT_KEYS.isdisjoint(metadata):
            return True
    return False


def write_payload(
    api: Api,
    prompt: JSON,
    metadata: Mapping[str, JSON],
    inference_params: Mapping[str, JSON],
    extra: Mapping[str, JSON],
) -> dict[str, JSON]:
    """Write a payload as a generation spells it; `read_payload` reads it back.

    Args:
        api: The generation.
        prompt: The prompt.
        metadata: Fields by Python name, those of no known name under "extra".
        inference_params: Likewise. The payload has none if there are no fields.
        extra: Top-level fields of no known name.

    Returns:
        A new object. Values that are None are left out.
    """
    payload = {
        "prompt": prompt,
        "metadata": _write_fields(api, metadata),
        "inference_params": _write_fields(api, inference_params) or None,
        "extra": extra,
    }
    return _write_fields(api, payload)


def _write_fields(api: Api, values: Mapping[str, Any]) -> dict[str, JSON]:
    spelling = _ALPHA_SPELLING if api is Api.ALPHA else _GA_SPELLING
    known = {spelling[name]: value for name, value in values.items() if name != "extra" and value is not None}
    return {**values["extra"], **known}


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

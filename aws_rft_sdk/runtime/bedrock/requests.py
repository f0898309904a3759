"""Reads the calls to `/v1/files` and `/v1/fine_tuning/jobs`. Written from the API's pages, not from our client."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from starlette.datastructures import QueryParams

from aws_rft_sdk._checks import is_number
from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.runtime.answers import Refusal
from aws_rft_sdk.runtime.bedrock.errors import ApiRefusal
from aws_rft_sdk.runtime.bedrock.functions import is_function_arn
from aws_rft_sdk.runtime.decode import read_object

_FIELDS = ("model", "training_file", "validation_file", "metadata", "method", "seed")
# The values of the walkthrough. What "auto" becomes is not documented, and no ranges are published.
_DEFAULTS: dict[str, float] = {"n_epochs": 1, "batch_size": 4, "learning_rate_multiplier": 1.0}
# OpenAI's type has these too. Whether Bedrock uses them is unknown: they are kept and have no effect here.
_NO_EFFECT = ("compute_multiplier", "eval_interval", "eval_samples", "reasoning_effort")
_MAX_SEED = 2**31 - 1
MAX_PAGE = 10_000


class JobRequest(NamedTuple):
    """A checked request for a job."""

    model: str
    training_file: str
    validation_file: str | None
    metadata: dict[str, JSON] | None
    seed: int
    method: dict[str, JSON]
    function: str
    hyperparameters: dict[str, float]


def read_job(body: bytes) -> JobRequest:
    """Read the body of `POST /v1/fine_tuning/jobs`.

    Raises:
        ApiRefusal: 400. The message names the field.
    """
    try:
        fields = read_object(body)
    except Refusal as refusal:
        raise ApiRefusal(400, refusal.message) from None
    try:
        json.dumps(fields, ensure_ascii=False, allow_nan=False).encode()
    except ValueError as error:  # such as 1e400, or half of a surrogate pair: the job could not be answered with
        raise ApiRefusal(400, f"The body holds what JSON cannot express: {error}") from None
    if fields.get("suffix") is not None:
        raise _wrong("suffix", "is not supported by Bedrock; leave it out")
    if fields.get("hyperparameters") is not None:
        raise _wrong("hyperparameters", "belongs into method.reinforcement.hyperparameters")
    for name, value in fields.items():
        if name not in _FIELDS and value is not None:
            raise _wrong(name, f"is no field of a fine-tuning job here; known are {', '.join(_FIELDS)}")
    for name in ("model", "training_file"):
        if not isinstance(fields.get(name), str) or not fields[name]:
            raise _wrong(name, f"must be text, not {fields.get(name)!r:.80}")
    if not isinstance(fields.get("validation_file"), str | None):
        raise _wrong("validation_file", "must be the id of a file")
    method = fields.get("method")
    if not isinstance(method, dict) or method.get("type") != "reinforcement":
        raise _wrong("method.type", 'must be "reinforcement"')
    reinforcement = _object(method, "reinforcement", "method.reinforcement")
    hyperparameters = reinforcement.get("hyperparameters") or {}
    return JobRequest(
        fields["model"],
        fields["training_file"],
        fields.get("validation_file"),
        _read_metadata(fields.get("metadata")),
        _read_seed(fields.get("seed")),
        method,
        _read_grader(_object(reinforcement, "grader", "method.reinforcement.grader")),
        _read_hyperparameters(hyperparameters),
    )


def _wrong(param: str, text: str) -> ApiRefusal:
    return ApiRefusal(400, f"{param} {text}", param=param, code="invalid_value")


def _object(parent: Mapping[str, Any], name: str, path: str) -> dict[str, Any]:
    value = parent.get(name)
    if not isinstance(value, dict):
        raise _wrong(path, f"must be an object, not {value!r:.80}")
    return value


def _read_metadata(metadata: object) -> dict[str, JSON] | None:
    if metadata is None:
        return None
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _wrong("metadata", "must be an object of texts")
    return metadata


def _read_seed(seed: object) -> int:
    if seed is None:
        return 0
    if type(seed) is not int or not 0 <= seed <= _MAX_SEED:
        raise _wrong("seed", f"must be a whole number from 0 to {_MAX_SEED}, not {seed!r:.80}")
    return seed


def _read_grader(grader: Mapping[str, Any]) -> str:
    path = "method.reinforcement.grader"
    if grader.get("type") != "lambda":
        raise _wrong(f"{path}.type", f'must be "lambda", not {grader.get("type")!r:.80}')
    function = _object(grader, "lambda", f"{path}.lambda").get("function")
    if not is_function_arn(function):
        raise _wrong(f"{path}.lambda.function", f"must be the ARN of a Lambda function, not {function!r:.200}")
    return str(function)


def _read_hyperparameters(given: object) -> dict[str, float]:
    path = "method.reinforcement.hyperparameters"
    if not isinstance(given, dict):
        raise _wrong(path, f"must be an object, not {given!r:.80}")
    values = dict(_DEFAULTS)
    for name, value in given.items():
        if name not in (*_DEFAULTS, *_NO_EFFECT):
            raise _wrong(f"{path}.{name}", f"is no hyperparameter; known are {', '.join((*_DEFAULTS, *_NO_EFFECT))}")
        if value in (None, "auto") or name in _NO_EFFECT:
            continue
        whole = name != "learning_rate_multiplier"
        if not is_number(value) or value <= 0 or (whole and value != int(value)):
            kind = "a whole number above 0" if whole else "a number above 0"
            raise _wrong(f"{path}.{name}", f'must be {kind} or "auto", not {value!r:.80}')
        values[name] = int(value) if whole else float(value)
    return values


def page(items: list[dict[str, JSON]], query: QueryParams, *, default: int) -> dict[str, JSON]:
    """Return one page of a list, as `limit` and `after` in the query ask for it.

    Raises:
        ApiRefusal: 400 if the limit is out of range, or `after` is the id of no item.
    """
    limit = query.get("limit", str(default))
    if not (limit.isascii() and limit.isdigit() and len(limit) <= 9 and 1 <= int(limit) <= MAX_PAGE):
        raise _wrong("limit", f"must be a whole number from 1 to {MAX_PAGE}, not {limit!r:.40}")
    start = 0
    if after := query.get("after"):
        start = next((number for number, item in enumerate(items, 1) if item["id"] == after), 0)
        if not start:
            raise _wrong("after", f"is {after!r:.80}, which is no item of this list")
    shown = items[start : start + int(limit)]
    ids: dict[str, JSON] = {
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
    }
    return {"object": "list", "data": shown, "has_more": start + len(shown) < len(items), **ids}

"""Whose sampling parameters a request of a rollout carries."""

from __future__ import annotations

import json
import warnings
from typing import Any, Literal, cast

from aws_rft_sdk.adapters._http_library import http
from aws_rft_sdk.errors import ConfigurationError

Sampling = Literal["job", "model"]
"""Whose temperature, top_p and max_tokens win within a rollout: the training job's, or the model's own."""


def check_sampling(sampling: str) -> Sampling:
    """Return `sampling` if it is "job" or "model". "request", the old word for "job", is accepted with a warning.

    Raises:
        ConfigurationError: `sampling` is something else.
    """
    if sampling == "request":
        warnings.warn('sampling="request" is now called sampling="job"', DeprecationWarning, stacklevel=3)
        return "job"
    if sampling not in ("job", "model"):
        raise ConfigurationError(f"sampling is {sampling!r:.80}; it must be 'job' or 'model'")
    return cast(Sampling, sampling)


def with_sampling(request: http.Request, params: dict[str, float]) -> http.Request:
    """Return a request whose JSON body asks for these sampling parameters, by their Python names."""
    if not params:
        return request
    try:
        body = json.loads(request.content)
    except (ValueError, RuntimeError):  # no JSON, or a body that is still to be produced
        return request
    if not isinstance(body, dict):
        return request
    for name, value in params.items():
        body[_spelling(name, request.url.path, body)] = value
    headers = request.headers.copy()
    del headers["content-length"]
    content = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    return http.Request(request.method, request.url, headers=headers, content=content, extensions=request.extensions)


def _spelling(name: str, path: str, body: dict[str, Any]) -> str:
    if name != "max_tokens":
        return name
    if path.endswith("/responses"):
        return "max_output_tokens"
    return "max_completion_tokens" if "max_completion_tokens" in body else name

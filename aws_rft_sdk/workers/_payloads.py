"""What a payload must have before a worker, or the function before one, takes it."""

from __future__ import annotations

from aws_rft_sdk import wire
from aws_rft_sdk.errors import PayloadError
from aws_rft_sdk.types import RolloutRequest


def read_rollout(payload: object) -> RolloutRequest:
    """Read a payload that is to start a rollout, in any spelling.

    Raises:
        PayloadError: It is no rollout, or malformed, or its prompt is missing, empty or of a type that no prompt has.
    """
    request = RolloutRequest.parse(payload)
    if request is None:
        raise PayloadError("metadata is missing or names no job and no trajectory: no rollout", field="metadata")
    if problem := _problem_of(request.prompt):
        fields = wire.read_payload(payload)
        path = "prompt" if fields is None else fields.paths["prompt"]
        raise PayloadError(f"{path} {problem}", field=path)
    return request


def _problem_of(prompt: object) -> str:
    if not isinstance(prompt, str | dict | list) or not prompt:
        return "must be a string that is not empty"  # or an object, in the oldest form
    return "is blank" if isinstance(prompt, str) and not prompt.strip() else ""

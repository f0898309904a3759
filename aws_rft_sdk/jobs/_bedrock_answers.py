"""Reads what Bedrock's OpenAI-compatible API answers. Nothing of it is dropped. Pure functions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from aws_rft_sdk._checks import is_number
from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import JobServiceError, ServiceConnectionError
from aws_rft_sdk.jobs._refusals import is_read
from aws_rft_sdk.jobs.types import Checkpoint, Event, Job

_STATES = {
    **dict.fromkeys(("validating_files", "queued"), "queued"),
    **{name: name for name in ("running", "succeeded", "failed", "cancelled")},
}


def id_of(row: Mapping[str, JSON]) -> str:
    """Return what tells an object of a list from all others: its id, or all that it says if it has none."""
    found = row.get("id")
    return found if isinstance(found, str) and found else json.dumps(row, sort_keys=True)


def read_object(text: str, operation: str) -> dict[str, JSON]:
    """Return the JSON object of an answer.

    Raises:
        ServiceConnectionError: It is none, for example because it was cut off or a proxy wrote it.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise unreadable(operation)
    return found


def unreadable(operation: str) -> ServiceConnectionError:
    """Return the error of an answer that cannot be the service's own."""
    error = ServiceConnectionError(
        f"bedrock-mantle:{operation} was answered with something that is no JSON object of this API. Does the endpoint "
        "belong to the service, and does no proxy stand before it?"
    )
    error.may_have_happened = not is_read(operation)
    return error


def read_list(page: Mapping[str, JSON], operation: str) -> list[Mapping[str, JSON]]:
    """Return the objects of a page.

    Raises:
        JobServiceError: It has no list of objects.
    """
    rows = page.get("data")
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise _unlike_documented(page, operation, "a list")
    return rows


def raw_and_id(raw: Mapping[str, JSON], operation: str) -> tuple[Mapping[str, JSON], str]:
    """Return an answer and its id.

    Raises:
        JobServiceError: It has none.
    """
    found = raw.get("id")
    if not isinstance(found, str) or not found:
        raise _unlike_documented(raw, operation, "an id")
    return raw, found


def _unlike_documented(raw: Mapping[str, JSON], operation: str, missing: str) -> JobServiceError:
    action = f"bedrock-mantle:{operation}"
    return JobServiceError(f"{action} was answered without {missing}; the keys are {sorted(raw)}"[:500], action=action)


def read_job(raw: Mapping[str, JSON], operation: str) -> Job:
    """Return a job."""
    status, fault = str(raw.get("status", "")), raw.get("error")
    message = fault.get("message") if isinstance(fault, Mapping) else fault
    return Job(
        *raw_and_id(raw, operation),
        status=status,
        state=_STATES.get(status, "unknown"),
        tuned_model=raw.get("fine_tuned_model") or None,
        failure=str(message) if message else None,
    )


def read_event(raw: Mapping[str, JSON]) -> Event:
    """Return an event."""
    message, level = str(raw.get("message") or ""), str(raw.get("level") or "info")
    return Event(raw, id_of(raw), message=message, level=level, created_at=created_at(raw))


def read_checkpoint(raw: Mapping[str, JSON]) -> Checkpoint:
    """Return a checkpoint."""
    step = raw.get("step_number")
    known = step if isinstance(step, int) and not isinstance(step, bool) else None
    return Checkpoint(raw, id_of(raw), step=known, model=str(raw.get("fine_tuned_model_checkpoint") or ""))


def is_like(row: Mapping[str, JSON], body: Mapping[str, JSON]) -> bool:
    """Whether a job may come from this request. The service may add to what was sent, for example its defaults."""
    return all(_holds(row.get(key), value) for key, value in body.items())


def _holds(found: JSON, sent: JSON) -> bool:
    if isinstance(sent, Mapping) and isinstance(found, Mapping):
        return all(_holds(found.get(key), value) for key, value in sent.items())
    return bool(found == sent)


# --- the order of events ---------------------------------------------------------------------------------------------


class _Placed(NamedTuple):
    """Where an event stands. Compared from left to right."""

    created_at: float
    number: int
    """In the service's list, the oldest first. It decides between events of the same second."""
    row: Mapping[str, JSON]


def in_order(rows: Sequence[Mapping[str, JSON]]) -> list[Mapping[str, JSON]]:
    """Return events by their step, and those without a step at the time when they were created.

    Args:
        rows: Raw events as the service listed them: oldest first, newest first, or mixed.

    Returns:
        All of them. Events of one step are in the order in which they were created.
    """
    listed = list(reversed(rows)) if _newest_first(rows) else rows
    placed, now = list[_Placed](), 0.0
    for number, row in enumerate(listed):
        found = created_at(row)
        now = now if found is None else found
        placed.append(_Placed(now, number, row))
    stepped = sorted((p for p in placed if step_of(p.row) is not None), key=lambda p: (step_of(p.row), *p[:2]))
    others = sorted((p for p in placed if step_of(p.row) is None), key=lambda p: p[:2])
    ordered: list[Mapping[str, JSON]] = []
    for item in stepped:
        while others and others[0][:2] < item[:2]:
            ordered.append(others.pop(0).row)
        ordered.append(item.row)
    return ordered + [item.row for item in others]


def step_of(row: Mapping[str, JSON]) -> float | None:
    """Return the training step that an event is about. Returns None if it names none."""
    data = row.get("data")
    step = data.get("step") if isinstance(data, Mapping) else None
    return step if is_number(step) else None


def created_at(row: Mapping[str, JSON]) -> float | None:
    """Return when an event was created, in seconds since 1970. Returns None if the service does not say."""
    found = row.get("created_at")
    return found if is_number(found) else None


def _newest_first(rows: Sequence[Mapping[str, JSON]]) -> bool:
    """Whether steps and times go down from one event to the next more often than up."""
    balance = 0
    for value in (step_of, created_at):
        known = [found for row in rows if (found := value(row)) is not None]
        balance += sum((later > earlier) - (later < earlier) for earlier, later in pairwise(known))
    return balance < 0

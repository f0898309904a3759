"""Makes texts comparable that hold what is new in every run: random ids, the time, addresses, temporary files."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timezone

_NEAR_SECONDS = 26 * 3600.0
"""A day, and two hours for time zones and long rollouts: what lies so near the run was read from the clock."""

# Versions 3 and 5 are hashes of names: they are the same in every run, so another one is a change.
_UUID = re.compile(r"\b[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[1467][0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12}\b")
_ADDRESS = re.compile(r"(?<= at )0x[0-9a-fA-F]{6,16}\b")
_TEMPORARY = re.compile(r"(?<=/)tmp[a-z0-9_]{8}\b")
_STAMP = re.compile(
    r"\b(?P<date>[0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:[T ](?P<time>[0-9]{2}:[0-9]{2}(?::[0-9]{2})?)(?:\.[0-9]+)?(?:Z|[+-][0-9]{2}:?[0-9]{2})?)?(?![0-9])"
)
_EPOCH = re.compile(r"(?<![\w.])(?P<seconds>[0-9]{10})(?P<rest>[0-9]{3}|\.[0-9]+)?(?![\w])")


def constant_ids(recorded: str, now: str) -> frozenset[str]:
    """Return the ids that stand in both texts: those are of the task, not of the run."""
    return frozenset(_UUID.findall(recorded)) & frozenset(_UUID.findall(now))


def mask(text: str, at: float, constant: frozenset[str]) -> str:
    """Return a text with a mark in place of all that one run does not share with the next.

    Args:
        text: Any text.
        at: When it was made, in seconds since the epoch. Times that are not near it are left as they are.
        constant: Ids to be left as they are.
    """
    numbers: dict[str, int] = {}

    def number(match: re.Match[str]) -> str:
        return match[0] if match[0] in constant else f"<id {numbers.setdefault(match[0], len(numbers))}>"

    text = _UUID.sub(number, text)
    text = _ADDRESS.sub("<address>", text)
    text = _TEMPORARY.sub("<temporary>", text)
    text = _STAMP.sub(_near(_stamp_seconds, at, lambda match: "<time>" if match["time"] else "<date>"), text)
    return _EPOCH.sub(_near(lambda match: float(match["seconds"]), at, _epoch_mark), text)


def _near(
    seconds: Callable[[re.Match[str]], float | None], at: float, mark: Callable[[re.Match[str]], str]
) -> Callable[[re.Match[str]], str]:
    def replace(match: re.Match[str]) -> str:
        moment = seconds(match)
        return mark(match) if moment is not None and abs(moment - at) <= _NEAR_SECONDS else match[0]

    return replace


def _stamp_seconds(match: re.Match[str]) -> float | None:
    try:
        moment = datetime.fromisoformat(f"{match['date']} {match['time'] or '12:00'}")
    except ValueError:
        return None
    return moment.replace(tzinfo=timezone.utc).timestamp()


def _epoch_mark(match: re.Match[str]) -> str:
    rest = match["rest"] or ""
    return "<seconds>" if not rest or rest.startswith(".") else "<milliseconds>"

"""Checks of what things are made with, so that a mistake is found where it is made."""

from __future__ import annotations

import math
import numbers
from typing import Any

from aws_rft_sdk.errors import ConfigurationError


def check_number(
    name: str, value: Any, *, low: float | None = None, high: float | None = None, whole: bool = False
) -> None:
    """Refuse anything but a finite number within limits.

    Args:
        name: Of the field, for the message.
        value: What was given.
        low: Least value that is allowed; None for any.
        high: Greatest value that is allowed; None for any.
        whole: Whether it has to be an int.

    Raises:
        ConfigurationError: It is something else.
    """
    wanted = "a whole number" if whole else "a finite number"
    if low is not None:
        wanted += f" of at least {low:g}" if high is None else f" from {low:g} to {high:g}"
    fits = isinstance(value, numbers.Integral if whole else numbers.Real) and is_number(value, numbers.Real)
    if not (fits and (low is None or value >= low) and (high is None or value <= high)):
        raise ConfigurationError(f"{name} must be {wanted}, not {value!r:.80}")


def check_type(name: str, value: Any, kind: type | tuple[type, ...], wanted: str) -> None:
    """Refuse a value of another type.

    Args:
        name: Of the field, for the message.
        value: What was given.
        kind: The classes that are allowed.
        wanted: What the value must be, in words.

    Raises:
        ConfigurationError: It is something else.
    """
    if not isinstance(value, kind):
        raise ConfigurationError(f"{name} must be {wanted}, not {value!r:.80}")


def is_number(value: Any, kind: Any = int | float) -> bool:
    """Say whether a value is a number that a float can hold, which an int may be too long for; true and false are none.

    Args:
        value: Anything.
        kind: The classes that count; those that JSON is read into and written from, if not said otherwise.
    """
    try:
        return isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def check_seconds(name: str, value: Any, high: float | None = None) -> None:
    """Refuse anything but a finite number of seconds above 0 and, unless it is None, at most `high`.

    Raises:
        ConfigurationError: It is something else.
    """
    check_number(name, value, low=0, high=high)
    if not value:
        raise ConfigurationError(f"{name} is {value}; it must be above 0")

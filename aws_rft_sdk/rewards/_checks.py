"""Checks of what rewards are made with, so that a mistake is found where it is made and not in the rewards of a job."""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Callable, Iterable
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


def check_seconds(name: str, value: Any, high: float) -> None:
    """Refuse anything but a number of seconds above 0 and at most `high`.

    Raises:
        ConfigurationError: It is something else.
    """
    check_number(name, value, low=0, high=high)
    if not value:
        raise ConfigurationError(f"{name} must be above 0")


def check_names(name: str, value: Any) -> tuple[str, ...]:
    """Return a list of texts as a tuple.

    Raises:
        ConfigurationError: It is something else, one text for example.
    """
    texts = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else None
    if texts is None or not all(isinstance(text, str) for text in texts):
        raise ConfigurationError(f"{name} must be a list of texts, not {value!r:.80}")
    return texts


def check_reward(reward: Callable[..., Any], name: str = "the reward") -> None:
    """Refuse what cannot be a reward: something that is not called, a class, a coroutine function.

    Raises:
        ConfigurationError: It cannot be one; the message says why.
    """
    if isinstance(reward, type):
        raise ConfigurationError(f"{name} is the class {reward.__name__}; give an object of it: {reward.__name__}(...)")
    if not callable(reward):
        raise ConfigurationError(f"{name} is a {type(reward).__name__}, not a reward")
    call = getattr(reward, "__call__", None)  # noqa: B004 - an object's own method is looked at, not whether it has one
    for function in (reward, call):
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise ConfigurationError(f"{name} is asynchronous; a reward is a plain function, called without await")

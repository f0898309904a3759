"""Checks of what rewards are made with, so that a mistake is found where it is made and not in the rewards of a job."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from aws_rft_sdk.errors import ConfigurationError


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

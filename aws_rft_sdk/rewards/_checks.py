"""Checks of what rewards are made with. Each raises `ConfigurationError`, where the mistake is made."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.rewards.rollout import AnyReward, GroupReward, leaves


def check_names(name: str, value: Any) -> tuple[str, ...]:
    """Return a list of texts as a tuple. Refuse anything else, one text for example."""
    texts = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else None
    if texts is None or not all(isinstance(text, str) for text in texts):
        raise ConfigurationError(f"{name} must be a list of texts, not {value!r:.80}")
    return texts


def check_reward(reward: object, name: str = "the reward") -> None:
    """Refuse what cannot be a reward: a class, a coroutine function, what has neither `__call__` nor `score_group`."""
    if isinstance(reward, type):
        raise ConfigurationError(f"{name} is the class {reward.__name__}; give an object of it: {reward.__name__}(...)")
    if not callable(reward) and not isinstance(reward, GroupReward):
        raise ConfigurationError(f"{name} is a {type(reward).__name__}, not a reward")
    call = getattr(reward, "__call__", None)  # noqa: B004 - an object's own method is looked at, not whether it has one
    for function in (reward, call, getattr(reward, "score_group", None)):
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise ConfigurationError(f"{name} is asynchronous; a reward is a plain function, called without await")


def check_single_reward(reward: AnyReward, user: str) -> None:
    """Refuse what `check_reward` refuses, and a reward with a part that only scores groups. The message names the part.

    `user` is who scores single rollouts with it.
    """
    check_reward(reward)
    for path, part in leaves(reward):
        if not callable(part):
            named = f"part {path!r} of the reward" if path else "the reward"
            raise ConfigurationError(
                f"{named} ({type(part).__name__}) compares the rollouts of a prompt; {user} scores them one by one. "
                "Use a reward that can be called with one rollout, or score groups with evaluate_group"
            )

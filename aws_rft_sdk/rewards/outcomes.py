"""Rewards for what a rollout did: its calls against those of the ground truth, and the state of its environment."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.rewards._json import held, is_same
from aws_rft_sdk.rewards.extract import reference_of
from aws_rft_sdk.rewards.rollout import Rollout
from aws_rft_sdk.rewards.tools import ToolCall, read_call, tool_calls


@dataclass(frozen=True)
class ToolArguments:
    """1.0 when the rollout made the calls of the ground truth, each with the right arguments, else 0.0.

    The ground truth is a list of calls, or its JSON text, or an object that has the list as `ground_truth` or `answer`.
    The list [] says that it is right to call nothing. A call has one of two forms:

    - `{"name": "get_weather", "arguments": {"city": "Paris"}}`: the arguments must be equal. 3 equals 3.0.
    - `{"get_weather": {"city": ["Paris", "Paris, France"], "unit": ["celsius", ""]}}`, the form of the Berkeley
      Function-Calling Leaderboard: a list of accepted values for each argument. "" among them says that the argument
      may be missing. Capitals, spaces and the characters `,./-_*^` of texts do not matter.
    """

    ordered: bool = False
    """Whether the calls must come in the order of the ground truth."""
    extra: bool = False
    """Whether further calls, such as a search before the right call, do no harm."""

    def __call__(self, rollout: Rollout) -> float | None:
        """Return 1.0 or 0.0. None if the ground truth is no list of calls."""
        golds, calls = _gold_calls(rollout.ground_truth), tool_calls(rollout)
        if golds is None:
            return None
        if len(calls) < len(golds) or (len(calls) > len(golds) and not self.extra):
            return 0.0
        if self.ordered:
            left = iter(calls)
            return float(all(any(_fits(gold, call) for call in left) for gold in golds))
        return float(_pair_off([[_fits(gold, call) for call in calls] for gold in golds]))


_Gold = ToolCall | tuple[str, Mapping[str, Any]]
"""A call whose arguments must be equal, or one of BFCL with accepted values."""


def _gold_calls(ground_truth: JSON) -> list[_Gold] | None:
    reference = reference_of(ground_truth)
    reference = held(ground_truth if reference is None else reference)
    calls = [reference] if isinstance(reference, Mapping) else reference
    if not isinstance(calls, list) or not all(isinstance(call, Mapping) and call for call in calls):
        return None
    golds = [next(iter(call.items())) if _is_bfcl(call) else read_call(call) for call in calls]
    return golds if all(name and arguments is not None for name, arguments in golds) else None


def _is_bfcl(call: Mapping[str, Any]) -> bool:
    (name, arguments), *others = call.items()
    return not others and isinstance(arguments, Mapping) and name not in ("function", "toolUse")


def _fits(gold: _Gold, call: ToolCall) -> bool:
    name, wanted = gold
    if call.name != name or call.arguments is None:
        return False
    return is_same(call.arguments, wanted) if isinstance(gold, ToolCall) else _is_accepted(call.arguments, wanted)


def _is_accepted(value: JSON, accepted: JSON) -> bool:
    """Say whether a value fits what BFCL accepts: an object of lists of accepted values, a list, or a value."""
    if isinstance(accepted, Mapping) and isinstance(value, Mapping):
        wanted = {key: each if isinstance(each, list) else [each] for key, each in accepted.items()}
        return value.keys() <= wanted.keys() and all(
            any(_is_accepted(value[key], each) for each in values) if key in value else "" in values
            for key, values in wanted.items()
        )
    if isinstance(accepted, list) and isinstance(value, list):
        return len(value) == len(accepted) and all(map(_is_accepted, value, accepted))
    if isinstance(accepted, str) and isinstance(value, str):
        return _plain(value) == _plain(accepted)
    return is_same(value, accepted)


def _plain(text: str) -> str:
    return re.sub(r"[ ,./\-_*^]", "", text).casefold().replace("'", '"')


def _pair_off(fits: Sequence[Sequence[bool]]) -> bool:
    """Say whether each row can have a column of its own that fits."""
    row_of: dict[int, int] = {}

    def pair(row: int, tried: set[int]) -> bool:
        for column, fit in enumerate(fits[row]):
            if fit and column not in tried:
                tried.add(column)
                if column not in row_of or pair(row_of[column], tried):
                    row_of[column] = row
                    return True
        return False

    return all(pair(row, set()) for row in range(len(fits)))


@dataclass(frozen=True)
class FinalState:
    """1.0 when the environment ends in the state of the ground truth, else 0.0.

    A handler gives the state: `return RolloutResult(state={"orders": {"7": "cancelled"}}, ...)`. The state must have
    every key of the ground truth with an equal value, also in objects inside, and may have more. null in the ground
    truth says that the key is null or missing. Lists must be equal element by element.
    """

    exact: bool = False
    """Whether the state may have no other keys."""

    def __call__(self, rollout: Rollout) -> float | None:
        """Return 1.0 or 0.0. None if the handler gave no state or there is no ground truth."""
        state, wanted = rollout.state, rollout.ground_truth
        return None if state is None or wanted is None else float(is_same(state, wanted, subset=not self.exact))

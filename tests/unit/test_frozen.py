from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aws_rft_sdk._frozen import FrozenDict, FrozenList, freeze, thaw

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
def test_freeze_when_thawed_then_it_is_what_it_was(value: Any) -> None:
    frozen = freeze(value)
    assert frozen == value
    assert thaw(frozen) == value
    assert json.dumps(frozen) == json.dumps(value)
    assert hash(frozen) == hash(freeze(copy.deepcopy(value)))
    assert pickle.loads(pickle.dumps(frozen)) == value


@given(json_values)
def test_freeze_when_frozen_already_then_nothing_is_copied(value: Any) -> None:
    frozen = freeze(value)
    assert freeze(frozen) is frozen or not isinstance(frozen, dict | list)
    assert copy.deepcopy(frozen) is frozen or not isinstance(frozen, dict | list)


def test_thaw_when_changed_then_the_frozen_value_is_not() -> None:
    frozen = freeze({"a": [{"b": 1}]})
    thawed = thaw(frozen)
    thawed["a"][0]["b"] = 2
    thawed["a"].append(3)
    assert frozen == {"a": [{"b": 1}]}


def test_freeze_when_the_source_changes_later_then_the_frozen_value_does_not() -> None:
    source: dict[str, Any] = {"a": [1]}
    frozen = freeze(source)
    source["a"].append(2)
    assert frozen == {"a": [1]}


DICT_CHANGES: list[Callable[[Any], Any]] = [
    lambda d: d.__setitem__("a", 2),
    lambda d: d.__delitem__("a"),
    lambda d: d.clear(),
    lambda d: d.pop("a"),
    lambda d: d.popitem(),
    lambda d: d.setdefault("b", 1),
    lambda d: d.update(b=1),
    lambda d: d.__ior__({"b": 1}),
]
LIST_CHANGES: list[Callable[[Any], Any]] = [
    lambda x: x.__setitem__(0, 2),
    lambda x: x.__delitem__(0),
    lambda x: x.append(1),
    lambda x: x.extend([1]),
    lambda x: x.insert(0, 1),
    lambda x: x.pop(),
    lambda x: x.remove(1),
    lambda x: x.clear(),
    lambda x: x.sort(),
    lambda x: x.reverse(),
    lambda x: x.__iadd__([1]),
    lambda x: x.__imul__(2),
]


@pytest.mark.parametrize("change", DICT_CHANGES, ids=range(len(DICT_CHANGES)))
def test_frozen_dict_when_changed_then_type_error(change: Callable[[Any], Any]) -> None:
    frozen = FrozenDict({"a": 1})
    with pytest.raises(TypeError, match="immutable"):
        change(frozen)
    assert frozen == {"a": 1}


@pytest.mark.parametrize("change", LIST_CHANGES, ids=range(len(LIST_CHANGES)))
def test_frozen_list_when_changed_then_type_error(change: Callable[[Any], Any]) -> None:
    frozen = FrozenList([1])
    with pytest.raises(TypeError, match="immutable"):
        change(frozen)
    assert frozen == [1]

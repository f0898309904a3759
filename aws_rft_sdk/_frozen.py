"""Immutable, hashable stand-ins for JSON objects and arrays.

They subclass `dict` and `list`, so that equality, `json.dumps` and `isinstance` behave as a reader of JSON expects.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

JSON = Any
"""A JSON value: None, bool, int, float, str, or lists and string-keyed dicts of these."""


def _refuse(self: object, *args: object, **kwargs: object) -> NoReturn:
    raise TypeError(f"{type(self).__name__} is immutable; copy it with thaw() first")


class FrozenDict(dict[str, JSON]):
    """A JSON object that cannot be changed. All values inside are frozen too."""

    def __init__(self, items: Mapping[str, JSON] | Iterable[tuple[str, JSON]] = ()) -> None:
        super().__init__((key, freeze(value)) for key, value in dict(items).items())

    def __hash__(self) -> int:  # type: ignore[override] # dict declares itself unhashable
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[type[FrozenDict], tuple[dict[str, JSON]]]:
        return FrozenDict, (dict(self),)

    def __copy__(self) -> FrozenDict:
        return self

    def __deepcopy__(self, memo: object) -> FrozenDict:
        return self

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse


class FrozenList(list[JSON]):
    """A JSON array that cannot be changed. All values inside are frozen too."""

    __slots__ = ()

    def __init__(self, items: Iterable[JSON] = ()) -> None:
        super().__init__(freeze(item) for item in items)

    def __hash__(self) -> int:  # type: ignore[override] # list declares itself unhashable
        return hash(tuple(self))

    def __reduce__(self) -> tuple[type[FrozenList], tuple[list[JSON]]]:
        return FrozenList, (list(self),)

    def __copy__(self) -> FrozenList:
        return self

    def __deepcopy__(self, memo: object) -> FrozenList:
        return self

    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse
    append = clear = extend = insert = pop = remove = reverse = sort = _refuse


def freeze(value: JSON) -> JSON:
    """Return `value` with every object and array in it frozen; scalars pass through."""
    if isinstance(value, FrozenDict | FrozenList):
        return value
    if isinstance(value, Mapping):
        return FrozenDict(value)
    if isinstance(value, list | tuple):
        return FrozenList(value)
    return value


def thaw(value: JSON) -> JSON:
    """Return a copy of `value` made of plain dicts and lists, free to be changed."""
    if isinstance(value, Mapping):
        return {key: thaw(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [thaw(item) for item in value]
    return value

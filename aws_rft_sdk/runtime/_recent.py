"""A dict that forgets, so that a policy's memory of its rollouts stays bounded."""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")

_SIZE = 65_536
"""Far more than rollouts that are in progress at once."""


class Recent(OrderedDict[K, V]):
    """Holds the 65,536 keys that were set last.

    Concurrency: as a dict. Guard what reads and sets.
    """

    def __setitem__(self, key: K, value: V) -> None:
        super().__setitem__(key, value)
        self.move_to_end(key)
        if len(self) > _SIZE:
            self.popitem(last=False)

"""Finds keys and values that were computed for the beginning of a prompt."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
import torch

Pairs = list[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of a sequence for each layer. The shape is (heads, tokens, size)."""

_BLOCK = 16
"""Prefixes are found if they share this many tokens."""


class Prefix:
    """Tokens whose keys and values are known or being computed.

    Args:
        ids: The tokens.
    """

    def __init__(self, ids: Sequence[int]) -> None:
        self.ids = np.asarray(ids, dtype=np.int64)
        self.blocks: list[int] = []
        """A hash for each whole block, of the block and all before it."""
        self.read: Callable[[int], Pairs] | None = None
        """Returns keys and values of the first tokens. None while they are being computed."""
        self._hash()

    def extend(self, ids: Sequence[int]) -> None:
        """Replace the tokens by ones that begin with them."""
        self.ids = np.asarray(ids, dtype=np.int64)
        self._hash()

    def common(self, ids: np.ndarray) -> int:
        """Return how many tokens `ids` begins with that are the same here."""
        length = min(len(self.ids), len(ids))
        differs = np.flatnonzero(self.ids[:length] != ids[:length])
        return int(differs[0]) if len(differs) else length

    def _hash(self) -> None:
        for start in range(len(self.blocks) * _BLOCK, len(self.ids) - _BLOCK + 1, _BLOCK):
            before = self.blocks[-1] if self.blocks else 0
            self.blocks.append(hash((before, self.ids[start : start + _BLOCK].tobytes())))


class Prefixes:
    """The known prefixes.

    Args:
        tokens: How many tokens to keep of sequences that ended. The least recently used go first.
    """

    def __init__(self, tokens: int) -> None:
        self._limit = tokens
        self._size = 0
        self._kept: OrderedDict[Prefix, None] = OrderedDict()
        self._owners: dict[int, Prefix] = {}

    def find(self, prefix: Prefix) -> tuple[Prefix | None, int]:
        """Return another prefix that shares the most whole blocks with this one, and how many tokens both share."""
        for block in reversed(prefix.blocks):
            if (owner := self._owners.get(block)) is not None:
                if owner in self._kept:
                    self._kept.move_to_end(owner)
                return owner, owner.common(prefix.ids)
        return None, 0

    def add(self, prefix: Prefix) -> None:
        """Let others find this prefix. Those that have the same blocks are found first."""
        for block in prefix.blocks:
            self._owners.setdefault(block, prefix)

    def keep(self, prefix: Prefix, pairs: Pairs) -> None:
        """Keep a prefix whose sequence ended. Forgets those that it continues, and old ones if there are too many."""
        prefix.read = lambda length: [(keys[:, :length], values[:, :length]) for keys, values in pairs]
        for owner in {self._owners[block] for block in prefix.blocks if block in self._owners}:
            if owner in self._kept and owner.common(prefix.ids) == len(owner.ids):
                self._drop(owner)
        self.add(prefix)
        self._kept[prefix] = None
        self._size += len(prefix.ids)
        while self._size > self._limit:
            self._drop(next(iter(self._kept)))

    def forget(self, prefix: Prefix) -> None:
        """Forget a prefix whose sequence is not kept."""
        for block in prefix.blocks:
            if self._owners.get(block) is prefix:
                del self._owners[block]

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self._owners.clear()
        self._size = 0

    def _drop(self, prefix: Prefix) -> None:
        del self._kept[prefix]
        self._size -= len(prefix.ids)
        self.forget(prefix)

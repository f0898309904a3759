"""Keys and values of the sequences in progress, one row for each. All rows end at the same column."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers.cache_utils import Cache, DynamicLayer

from aws_rft_sdk.training.prefixes import Pairs

_ROOM = 128
"""Columns by which buffers grow."""


def real_columns(lengths: Sequence[int], columns: int) -> torch.Tensor:
    """Return a mask of rows that end at the last column: False for the padding on their left."""
    return torch.arange(columns) >= columns - torch.tensor(lengths)[:, None]


class _Layer(DynamicLayer):  # type: ignore[misc] # transformers is untyped here
    """Keys and values of a layer, in buffers with rows and columns to spare."""

    def __init__(self, rows: CachedRows, pair: tuple[torch.Tensor, torch.Tensor]) -> None:
        super().__init__()
        self._rows = rows
        self.buffers = pair
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the next column. Returns all columns."""
        rows = self._rows
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[: len(rows.lengths), :, rows.end] = states[:, :, 0]
        keys, values = (b[: len(rows.lengths), :, rows.start : rows.end + 1] for b in self.buffers)
        return keys, values

    def get_seq_length(self) -> int:
        """Return the number of columns."""
        return self._rows.end - self._rows.start


class CachedRows(Cache):  # type: ignore[misc] # as above
    """The cache of the sequences in progress. Its rows end at the same column."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.layers: list[_Layer]
        self.lengths: list[int] = []
        """Tokens of each row."""
        self.end = 0
        """The column after the last one in use."""

    @property
    def start(self) -> int:
        """The first column that is not padding in all rows."""
        return self.end - max(self.lengths, default=0)

    def real_with_next(self) -> torch.Tensor:
        """Return the attention mask for the next column."""
        return real_columns([length + 1 for length in self.lengths], self.end + 1 - self.start)

    def append(self, pairs: Pairs, lengths: Sequence[int]) -> None:
        """Add rows. The pairs have the shape (rows, heads, columns, size)."""
        columns = pairs[0][0].shape[2]
        first = len(self.lengths)
        self._grow(pairs, first + len(lengths), columns)
        for layer, pair in zip(self.layers, pairs, strict=True):
            for buffer, part in zip(layer.buffers, pair, strict=True):
                buffer[first : first + len(lengths), :, : self.end - columns] = 0
                buffer[first : first + len(lengths), :, self.end - columns : self.end] = part
        self.lengths += lengths

    def make_room(self) -> None:
        """Make sure that there is a next column."""
        if self.end == self.layers[0].buffers[0].shape[2]:
            self._grow([layer.buffers for layer in self.layers], len(self.lengths), 0)

    def _grow(self, like: Pairs, rows: int, columns: int) -> None:
        """Make sure that there are so many rows, as many columns up to `end`, and one after it."""
        used = self.end - self.start
        capacity = self.layers[0].buffers[0].shape if self.layers else (0, 0, 0)
        if rows <= capacity[0] and columns <= self.end < capacity[2]:
            return
        end = max(columns, used)
        layers = []
        for index, pair in enumerate(like):
            height = max(rows, 2 * capacity[0]) if rows > capacity[0] else capacity[0]
            both = [part.new_zeros(height, part.shape[1], end + _ROOM, part.shape[3]) for part in pair]
            if self.lengths:
                for new, old in zip(both, self.layers[index].buffers, strict=True):
                    new[: len(self.lengths), :, end - used : end] = old[: len(self.lengths), :, self.start : self.end]
            layers.append(_Layer(self, (both[0], both[1])))
        self.layers, self.end = layers, end

    def advance(self) -> None:
        """Count the column that a forward pass has written."""
        self.end += 1
        self.lengths = [length + 1 for length in self.lengths]

    def remove(self, row: int) -> None:
        """Remove a row. The last one takes its place."""
        last = len(self.lengths) - 1
        if row != last:
            for layer in self.layers:
                for buffer in layer.buffers:
                    buffer[row, :, : self.end] = buffer[last, :, : self.end]
            self.lengths[row] = self.lengths[last]
        self.lengths.pop()

    def read(self, row: int, length: int | None = None) -> Pairs:
        """Return keys and values of the first tokens of a row, or of all. They change with the batch."""
        start = self.end - self.lengths[row]
        stop = self.end if length is None else start + length
        return [(layer.buffers[0][row, :, start:stop], layer.buffers[1][row, :, start:stop]) for layer in self.layers]

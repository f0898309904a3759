"""Reads a JSON array piece by piece, so that an array larger than memory can be read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, TextIO

_CHUNK = 1 << 20
_SPACE = " \t\r\n"
# A decoder that ran out of text complains at most this far before the end of it, unterminated strings apart.
_TAIL = 16


class ArrayError(ValueError):
    """The text is no array of JSON values.

    Attributes:
        line: Line of the file, from 1.
    """

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


class _Window:
    """The part of the text that is in memory."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._dropped_lines = 0
        self.text = ""
        self.position = 0
        self.ended = False

    def more(self, size: int = _CHUNK) -> None:
        """Forget what was read, and read on."""
        self._dropped_lines += self.text.count("\n", 0, self.position)
        piece = self._file.read(size)
        self.ended = not piece
        self.text = self.text[self.position :] + piece
        self.position = 0

    def line(self, position: int) -> int:
        return 1 + self._dropped_lines + self.text.count("\n", 0, position)

    def peek(self) -> str:
        """Return the next character that is no white space, "" at the end."""
        while True:
            while self.position < len(self.text) and self.text[self.position] in _SPACE:
                self.position += 1
            if self.position < len(self.text):
                return self.text[self.position]
            if self.ended:
                return ""
            self.more()

    def fail(self, message: str, position: int | None = None) -> ArrayError:
        return ArrayError(message, self.line(self.position if position is None else position))


def read_array(file: TextIO, decoder: json.JSONDecoder | None = None) -> Iterator[Any]:
    """Yield the values of the array in `file`, holding one at a time.

    Args:
        file: Text, from its beginning.
        decoder: Makes the values. None: the usual one.

    Raises:
        ArrayError: The text is not JSON, or no array.
    """
    window, decode = _Window(file), (decoder or json.JSONDecoder()).raw_decode
    if window.peek() != "[":
        raise window.fail("no array")
    window.position += 1
    if window.peek() == "]":
        window.position += 1
    else:
        while True:
            yield _value(window, decode)
            mark = window.peek()
            if mark not in ("]", ","):
                raise window.fail("not JSON (Expecting ',' delimiter)")
            window.position += 1
            if mark == "]":
                break
            window.peek()
    if window.peek():
        raise window.fail("not JSON (Extra data)")


def _value(window: _Window, decode: Callable[[str, int], tuple[Any, int]]) -> Any:
    size = _CHUNK
    while True:
        try:
            value, end = decode(window.text, window.position)
        except json.JSONDecodeError as error:
            cut = error.pos >= len(window.text) - _TAIL or error.msg.startswith("Unterminated string")
            if window.ended or not cut:
                raise window.fail(f"not JSON ({error.msg})", error.pos) from error
        except (ValueError, RecursionError) as error:  # numbers or nesting that Python refuses to read
            raise window.fail(f"not JSON that can be read ({error})") from error
        else:
            if window.ended or end < len(window.text) or isinstance(value, dict | list | str):
                window.position = end
                return value
        window.more(size)
        size *= 2  # a value of any size is decoded a logarithmic number of times

"""A file that lines are appended to, and that a crash at any byte leaves readable."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from aws_rft_sdk.errors import UnavailableError

SYNC_SECONDS = 1.0
"""Between two `fsync`. A line survives the death of this process at once, and that of the machine after this time."""
_BLOCK_BYTES = 1 << 20


class AppendedFile:
    """Appends lines of JSON. A last line without its end, left by a crash, is completed or cut off when it is opened.

    Each line is handed to the operating system before `append` returns, so that killing the process loses none. The
    disk is waited for once a second and at the end: when the machine fails, the last second is lost, and its rollouts
    run again. Not for several threads, nor several processes.

    Args:
        path: The file, created if missing.

    Raises:
        UnavailableError: It cannot be written, for example because the disk is full; in each method.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._explained():
            self._file = path.open("ab")
        try:
            _mend(path)
        except BaseException:
            self._file.close()
            raise
        self._synced_at = time.monotonic()

    def append(self, line: str) -> None:
        """Append a line, given without its end. What a full disk does not take is written before the next line."""
        with self._explained():
            self._file.write(line.encode() + b"\n")
            self._file.flush()
            if time.monotonic() - self._synced_at >= SYNC_SECONDS:
                os.fsync(self._file.fileno())
                self._synced_at = time.monotonic()

    def __enter__(self) -> AppendedFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._explained(), self._file:
            self._file.flush()
            os.fsync(self._file.fileno())

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UnavailableError(f"{self._path} cannot be written: {error.strerror}") from error


def _mend(path: Path) -> None:
    with path.open("r+b") as file:
        end = whole = file.seek(0, os.SEEK_END)
        tail = b""
        while whole and b"\n" not in tail:
            whole = max(0, whole - _BLOCK_BYTES)
            file.seek(whole)
            tail = file.read(end - whole)
        whole += tail.rfind(b"\n") + 1
        tail = tail[tail.rfind(b"\n") + 1 :]
        if not tail:
            return
        if _is_whole(tail):  # only the end of the line is missing
            file.seek(end)
            file.write(b"\n")
        else:
            file.truncate(whole)


def _is_whole(tail: bytes) -> bool:
    # No beginning of an object or an array is JSON.
    try:
        return isinstance(json.loads(tail), dict | list)
    except ValueError:
        return False

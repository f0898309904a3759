"""Where recorded rollouts are read from: the files of a run, a database of the runtime, a runtime that is serving."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import requests

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk._hosts import check_url, is_loopback_url
from aws_rft_sdk.credentials import RuntimeKey
from aws_rft_sdk.errors import ConfigurationError, DatasetError, UnavailableError
from aws_rft_sdk.runtime.records import TrajectoryRow, TurnRow, open_to_read, select_some, select_turns, turn_key
from aws_rft_sdk.runtime.showing import MOST_TRAJECTORIES, TRAJECTORIES_PATH
from aws_rft_sdk.runtime.state import State
from aws_rft_sdk.settings import RUNTIME_KEY_VARIABLE, Endpoint, ca_bundle, check_key, runtime_key_for
from aws_rft_sdk.types import TrajectoryStatus
from aws_rft_sdk.wire import Api

_TIMEOUT_SECONDS = 30.0
_HEAD_BYTES = 4096


class Database(Protocol):
    """Trajectories of a runtime. Safe from any thread."""

    name: str
    """For messages."""

    def stamp(self) -> JSON:
        """Return what changes with the content, cheaply. None if nobody can tell."""

    def refresh(self) -> None:
        """Let the next reads see what is there now."""

    def rows(self, *, first: int = 0, most: int = 1, numbers: Sequence[int] | None = None) -> list[TrajectoryRow]:
        """Return some trajectories in the order of their creation. See `select_some`. At most 500.

        Raises:
            DatasetError: They cannot be read.
            UnavailableError: The runtime does not answer.
        """

    def turns(self, numbers: Sequence[int]) -> Iterator[tuple[int, list[TurnRow] | DatasetError]]:
        """Yield the turns of the trajectories with these numbers, with whole requests, or why they cannot be read.

        Raises:
            UnavailableError: The runtime does not answer.
        """

    def close(self) -> None:
        """Release files and connections."""


class DatabaseFile:
    """A database file of the runtime, also while a runtime writes to it. Nothing is written to it.

    Raises:
        ConfigurationError: There is no such file, or it is no database of the local runtime.
    """

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path
        self._log = path.with_name(f"{path.name}-wal")
        self._lock = threading.Lock()
        self._connection = self._open()

    def _open(self) -> sqlite3.Connection:
        return open_to_read(self._path, immutable=not (self._log.is_file() and self._log.stat().st_size))

    def stamp(self) -> JSON:
        """Return sizes and times of the file and its log."""
        files = [path.stat() for path in (self._path, self._log) if path.exists()]
        return [[file.st_size, file.st_mtime_ns, file.st_ino] for file in files]

    def refresh(self) -> None:
        """Open the file again: a runtime may have begun to write to it, or it may be another file."""
        with self._lock:
            self._connection.close()
            self._connection = self._open()

    def rows(self, *, first: int = 0, most: int = 1, numbers: Sequence[int] | None = None) -> list[TrajectoryRow]:
        """See `Database`."""
        with self._lock:
            try:
                return select_some(self._connection, first=first, most=most, numbers=numbers)
            except (sqlite3.DatabaseError, ValueError, TypeError) as error:
                raise self._damage("the list of trajectories", error) from error

    def turns(self, numbers: Sequence[int]) -> Iterator[tuple[int, list[TurnRow] | DatasetError]]:
        """See `Database`."""
        for number in numbers:
            found: list[TurnRow] | DatasetError
            with self._lock:
                try:
                    found = select_turns(self._connection, number)
                except (sqlite3.DatabaseError, ValueError, TypeError, LookupError) as error:
                    found = self._damage(f"the turns of trajectory {number}", error)
            yield number, found

    def _damage(self, what: str, error: Exception) -> DatasetError:
        return DatasetError(f"{self.name}: {what} cannot be read, the file is damaged ({error})")

    def close(self) -> None:
        """See `Database`."""
        with self._lock:
            self._connection.close()


class RunningRuntime:
    """The trajectories of a local runtime that is serving.

    Args:
        url: Its base URL.
        key: The key that it asks for. None for `RFT_RUNTIME_KEY`.

    Raises:
        ConfigurationError: The URL is none, the runtime refuses the key, or the server is no local runtime.
        UnavailableError: Nothing answers.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        self.name = check_url(url, "the URL of the runtime").rstrip("/")
        given = (
            runtime_key_for(Endpoint(self.name, Api.ALPHA, "", "endpoint=")) if key is None else check_key(key, "key")
        )
        self._session = requests.Session()
        self._session.trust_env = not is_loopback_url(self.name)  # no proxy stands before this machine
        self._session.auth = None if given is None else RuntimeKey(given)
        self.rows()

    def stamp(self) -> JSON:
        """Return None."""

    def refresh(self) -> None:
        """Do nothing."""

    def rows(self, *, first: int = 0, most: int = 1, numbers: Sequence[int] | None = None) -> list[TrajectoryRow]:
        """See `Database`."""
        query = {"first": first, "limit": most} if numbers is None else {"numbers": ",".join(map(str, numbers))}
        return [_row(fields) for fields in self._get(query)] if numbers is None or numbers else []

    def turns(self, numbers: Sequence[int]) -> Iterator[tuple[int, list[TurnRow] | DatasetError]]:
        """See `Database`."""
        left = sorted(numbers)
        while left:
            found = self._get({"numbers": ",".join(map(str, left[:MOST_TRAJECTORIES])), "turns": 1})
            if not found:
                return
            for fields in found:
                yield fields["number"], [_turn(fields["number"], *turn) for turn in enumerate(fields["turns"])]
            left = [number for number in left if number > found[-1]["number"]]

    def _get(self, query: Mapping[str, JSON]) -> list[JSON]:
        try:
            # A redirect would carry the key elsewhere.
            answer = self._session.get(
                self.name + TRAJECTORIES_PATH,
                params=query,
                timeout=_TIMEOUT_SECONDS,
                allow_redirects=False,
                verify=ca_bundle() or self._session.verify,
            )
        except requests.RequestException as error:
            raise UnavailableError(f"no runtime answers at {self.name} ({type(error).__name__})") from error
        if answer.status_code == 403:
            raise ConfigurationError(
                f"the runtime at {self.name} asks for its key, and this one is missing or wrong; set "
                f"{RUNTIME_KEY_VARIABLE}"
            )
        try:
            found: list[JSON] = answer.json()["trajectories"]
        except (ValueError, LookupError, TypeError) as error:
            raise ConfigurationError(
                f"{self.name} is not a local runtime that shows its trajectories (status {answer.status_code}); start "
                "one with `aws-rft runtime`"
            ) from error
        return found

    def close(self) -> None:
        """See `Database`."""
        self._session.close()


def _row(fields: Mapping[str, JSON]) -> TrajectoryRow:
    rewards = fields["rewards"]
    state = State(
        TrajectoryStatus(fields["status"]), fields["turn_count"], rewards=None if rewards is None else tuple(rewards)
    )
    place = (fields["number"], fields["trajectory_id"], fields["job_arn"])
    return TrajectoryRow(*place, json.dumps(fields["prompt"]), fields["created_at_seconds"], state)


def _turn(number: int, index: int, fields: Mapping[str, JSON]) -> TurnRow:
    times = (fields["started_at_seconds"], fields["duration_seconds"])
    bodies = (json.dumps(fields[name]).encode() for name in ("request", "response"))
    return TurnRow(turn_key(number, index), fields["span_id"], fields["path"], *times, *bodies)


class Lines:
    """A file that lines are appended to. A missing file has none."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.path.stat().st_size if self.path.exists() else 0

    def head(self, size: int) -> str:
        """Return a digest of the beginning, at most of `size` bytes. It stays while the file is only appended to."""
        if not self.path.exists():
            return ""
        with self.path.open("rb") as file:
            return hashlib.sha256(file.read(min(size, _HEAD_BYTES))).hexdigest()

    def read(self, offset: int, most: int) -> list[tuple[int, bytes]]:
        """Return at most `most` lines from an offset on, each with its offset. A last line that is cut off waits."""
        found: list[tuple[int, bytes]] = []
        if not self.path.exists():
            return found
        with self.path.open("rb") as file:
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n") or len(found) == most:
                    break
                found.append((offset, line))
                offset += len(line)
        return found

    def line_at(self, offset: int) -> bytes:
        """Return the line at an offset."""
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.readline()

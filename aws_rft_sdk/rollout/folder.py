"""The folder of a run: what it is made of, which rollouts began, and what became of them."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import sqlite3
from collections.abc import Container, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType

from aws_rft_sdk import __version__
from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import ConfigurationError, DatasetError, UnavailableError
from aws_rft_sdk.failures import RolloutStatus
from aws_rft_sdk.rollout._appending import AppendedFile
from aws_rft_sdk.rollout.access import Observe
from aws_rft_sdk.rollout.driver import Progress, recovered_record
from aws_rft_sdk.rollout.schedule import Planned
from aws_rft_sdk.runs.manifest import MANIFEST_FILE, Manifest
from aws_rft_sdk.runs.records import DATABASE_FILE, RECORDS_FILE, STARTED_FILE, RolloutRecord, decode_line, id_of
from aws_rft_sdk.runs.table import COMPLETED, RolloutTable

LOCK_FILE = "run.lock"
PROMPTS_FILE = "prompts.jsonl"
"""The prompts of a run whose dataset was no file."""
_SHOWN_CHANGES = 8
_FILES = (MANIFEST_FILE, RECORDS_FILE, STARTED_FILE, DATABASE_FILE, PROMPTS_FILE)


@dataclass(frozen=True)
class Past:
    """What earlier runs have left in a folder."""

    table: RolloutTable
    """The last record of each rollout."""
    done: set[tuple[int, int]]
    """Prompt and sample of the rollouts that ended well."""
    unrecorded: dict[str, Planned]
    """Rollouts that began and have no record, by trajectory id: the process was killed. Their prompts are not known."""
    attempts: dict[tuple[int, int], int]
    """Times that each rollout was begun that did not end well."""

    def progress(self) -> Progress:
        """Return what need not run again."""
        return Progress(self.done, {key: count for key, count in self.attempts.items() if key not in self.done})


class RunFolder:
    """A folder that one process at a time runs rollouts into. A journal for the driver.

    A new run in which no rollout began leaves nothing behind: its files are removed, and the folders made for it.

    Args:
        path: The folder, made if missing. None for a new one: `runs/<time in UTC>` in the working directory.
        manifest: What the run is made of.
        prompts: Content of `prompts.jsonl`. None for a run whose dataset is a file.
        resume: Whether to go on with the run that the folder holds; otherwise it must hold none.
        accept_changes: Whether to resume although something has changed since.

    Raises:
        ConfigurationError: The path is no folder, or another process uses it. A new run was asked for, and the folder
            holds one already. Or the folder holds no run to resume, or a different one: the message names each change.
        UnavailableError: It cannot be written.
        DatasetError: To resume, its records cannot be read.
    """

    def __init__(
        self,
        path: Path | None,
        manifest: Manifest,
        *,
        prompts: str | None = None,
        resume: bool = False,
        accept_changes: bool = False,
    ) -> None:
        self._handler_hash = manifest.handler_hash
        self._made: list[Path] = []
        self._is_new = False
        with contextlib.ExitStack() as stack:
            if resume and path is not None:
                self.path = path
                _check_unchanged(Manifest.read(path), manifest, accept_changes)
            else:
                stack.callback(self._remove_unused)
                self.path = path = self._make(path)
            stack.callback(_lock(path).close)
            if not resume:
                _check_unused(path)
                self._is_new = True
            if not resume or accept_changes:
                _write(path, manifest, prompts)
            self._records = stack.enter_context(AppendedFile(path / RECORDS_FILE))
            self._started = stack.enter_context(AppendedFile(path / STARTED_FILE))
            self.past = _read_past(path)
            self._stack = stack.pop_all()

    def _make(self, path: Path | None) -> Path:
        """Make the folder, and note which folders were missing."""
        for wanted in _default_folders() if path is None else [path]:
            self._made = [folder for folder in (wanted, *wanted.parents) if not folder.exists()]
            try:
                wanted.mkdir(parents=True, exist_ok=path is not None)
            except (FileExistsError, NotADirectoryError) as error:
                if path is None and wanted.is_dir():
                    continue  # another run began in the same second
                raise ConfigurationError(f"{wanted} cannot be made: {error.strerror}") from error
            except OSError as error:
                raise UnavailableError(f"{wanted} cannot be made: {error.strerror}") from error
            break
        return wanted

    def _remove_unused(self) -> None:
        if self._is_new and not any(_size(self.path / name) for name in (RECORDS_FILE, STARTED_FILE)):
            for name in (*_FILES, LOCK_FILE, f"{DATABASE_FILE}-*", f"{DATABASE_FILE}.*"):
                for file in self.path.glob(name):
                    file.unlink(missing_ok=True)
        for folder in self._made:
            with contextlib.suppress(OSError):  # it holds something
                folder.rmdir()

    def write(self, record: RolloutRecord) -> RolloutRecord:
        """Append a record with the versions of SDK and handler, and return it so.

        It has left this process when the call returns.
        """
        record = dataclasses.replace(record, sdk_version=__version__, handler_hash=self._handler_hash)
        self._records.append(record.to_json())
        return record

    def started(self, trajectory_id: str, planned: Planned) -> None:
        """Note that a rollout is about to run. See `Journal`."""
        self._started.append(json.dumps([trajectory_id, planned.prompt_index, planned.sample_index, planned.attempt]))

    def given_up(self, trajectory_id: str) -> None:
        """Note that a rollout is about to be cancelled. See `Journal`."""
        self._started.append(json.dumps([trajectory_id]))

    async def recover(self, observe: Observe | None) -> list[RolloutRecord]:
        """Write the records of rollouts that were over when the process was killed, and return them.

        Args:
            observe: Looks at a rollout in the runtime that the earlier run used; None when it cannot be asked.
        """
        recovered = []
        for trajectory_id, planned in self.past.unrecorded.items():
            seen = await observe(trajectory_id) if observe is not None else None
            if seen is not None and seen.is_over:
                recovered.append(self.write(recovered_record(trajectory_id, planned, seen)))
        self.past.done.update(record.key for record in recovered if record.ended_well)
        return recovered

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()


def _default_folders() -> Iterator[Path]:
    began = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H-%M-%SZ")
    yield Path("runs", began)
    yield from (Path("runs", f"{began}-{number}") for number in itertools.count(2))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _write(path: Path, manifest: Manifest, prompts: str | None) -> None:
    try:
        if prompts is not None:
            (path / PROMPTS_FILE).write_text(prompts, encoding="utf-8")
        manifest.write(path)
    except OSError as error:
        raise UnavailableError(f"{path / MANIFEST_FILE} cannot be written: {error.strerror}") from error


def _check_unused(path: Path) -> None:
    for name in _FILES:
        if (path / name).exists():
            raise ConfigurationError(f"{path / name} exists already; choose another folder, or --resume {path}")


def _check_unchanged(then: Manifest, now: Manifest, accept: bool) -> None:
    changes = then.changes_to(now)
    if changes and not accept:
        shown, more = changes[:_SHOWN_CHANGES], len(changes) - _SHOWN_CHANGES
        raise ConfigurationError(
            f"this is not the run that was begun, and --accept-changes resumes it all the same: {'; '.join(shown)}"
            + (f"; and {more} more" if more > 0 else "")
        )


def _lock(path: Path) -> sqlite3.Connection:
    # SQLite's lock of a file: it works on every system, ends with the process however that ends, and is not inherited.
    lock = sqlite3.connect(path / LOCK_FILE, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.Error as error:
        lock.close()
        if "locked" in str(error):
            raise ConfigurationError(f"another process runs rollouts into {path}; wait for it or stop it") from error
        raise UnavailableError(f"{path / LOCK_FILE} cannot be used: {error}") from error
    return lock


def _read_past(path: Path) -> Past:
    table = RolloutTable()
    # Ids of those that did not complete: a rollout that did is done, so nobody looks for its id.
    broken: set[str] = set()
    completed = RolloutStatus.COMPLETED.value

    def add(fields: dict[str, JSON]) -> None:
        table.add(fields)
        if fields["status"] != completed:
            broken.add(id_of(fields))

    table.read_lines(path, add)
    done = {key for key, status in zip(table.keys, table.status, strict=True) if status == COMPLETED}
    attempts = {key: tried for key, tried in zip(table.keys, table.attempts, strict=True) if key not in done}
    began, given_up = _read_started(path / STARTED_FILE, done)
    for planned in began.values():
        attempts[planned.key] = max(attempts.get(planned.key, 0), planned.attempt)
    for known in broken | given_up:
        began.pop(known, None)
    return Past(table, done, began, attempts)


def _read_started(path: Path, done: Container[tuple[int, int]]) -> tuple[dict[str, Planned], set[str]]:
    """Return the rollouts that began and are not done, by id, and the ids of those that were given up."""
    began: dict[str, Planned] = {}
    given_up: set[str] = set()
    try:
        with path.open("rb") as lines:
            for line in lines:
                trajectory_id, *numbers = decode_line(line)
                if not numbers:
                    given_up.add(trajectory_id)
                    continue
                prompt, sample, attempt = numbers
                if (prompt, sample) not in done:
                    began[trajectory_id] = Planned(prompt, sample, attempt, "")
    except (ValueError, TypeError) as error:
        raise DatasetError(f"{path} is not the journal of a run ({error})") from error
    return began, given_up

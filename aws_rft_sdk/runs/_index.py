"""The index of a run: a SQLite file beside its records that answers filters, sorting and searches in milliseconds.

It is made when someone first looks, follows the files as they grow, and is made anew when they are others. Each step is
one transaction that first reads how far the last one came. So several processes may build it at once, and a build that
was interrupted goes on. Nothing is ever written to the run's own files.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.datasets import unpack
from aws_rft_sdk.errors import DatasetError, UnavailableError
from aws_rft_sdk.failures import RolloutStatus, error_type
from aws_rft_sdk.runs._sources import Database, Lines
from aws_rft_sdk.runs.conversation import Unfolder, message_of, message_text, token_counts, tool_calls
from aws_rft_sdk.runs.records import FAULTS, RECORDS_FILE, Damage, decode_line, id_of
from aws_rft_sdk.runs.where import ROLES, spread
from aws_rft_sdk.runtime.records import TrajectoryRow, TurnRow, split_turn_key
from aws_rft_sdk.types import TrajectoryStatus

_APPLICATION_ID = 0x52465456
_VERSION = 4
_PROMPT_CHARACTERS = 1000
_WAIT_SECONDS = 60.0
_LINES_PER_STEP, _ROWS_PER_STEP, _TURNS_PER_STEP = 5000, 500, 200

_TABLES = (
    """CREATE TABLE rollouts (
        number INTEGER PRIMARY KEY, trajectory_id TEXT NOT NULL UNIQUE, place INTEGER UNIQUE, line INTEGER,
        "group" INTEGER, sample INTEGER, attempts INTEGER NOT NULL DEFAULT 1, superseded INTEGER NOT NULL DEFAULT 0,
        reward REAL, turns INTEGER, prompt_tokens INTEGER, response_tokens INTEGER, tokens INTEGER, seconds REAL,
        started_at REAL, outcome TEXT NOT NULL DEFAULT 'open', error_kind TEXT, error_type TEXT, error TEXT,
        has_traceback INTEGER NOT NULL DEFAULT 0, prompt TEXT, status TEXT, seen_turns INTEGER NOT NULL DEFAULT -1,
        is_read INTEGER NOT NULL DEFAULT 0)""",
    'CREATE INDEX of_group ON rollouts ("group", sample)',
    "CREATE INDEX of_seconds ON rollouts (seconds)",
    "CREATE INDEX replaced ON rollouts (superseded) WHERE superseded = 1",
    "CREATE INDEX unread ON rollouts (place) WHERE place IS NOT NULL AND is_read = 0",
    "CREATE TABLE metrics (number INTEGER, name TEXT, value REAL, PRIMARY KEY (number, name)) WITHOUT ROWID",
    "CREATE TABLE tool_calls (place INTEGER, tool TEXT, calls INTEGER, PRIMARY KEY (place, tool)) WITHOUT ROWID",
    "CREATE TABLE prompts (digest BLOB PRIMARY KEY, number INTEGER) WITHOUT ROWID",
    "CREATE TABLE marks (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID",
)
_FULL_TEXT = (
    f"CREATE VIRTUAL TABLE texts USING fts5({', '.join(ROLES)}, content='', tokenize='unicode61 remove_diacritics 2')"
)
_PLAIN_TEXT = f"CREATE TABLE texts (rowid INTEGER PRIMARY KEY, {', '.join(ROLES)})"
_OF_RECORD = (
    *("line", "group", "sample", "attempts", "reward", "turns", "prompt_tokens", "response_tokens", "tokens"),
    *("seconds", "outcome", "error_kind", "error_type", "error", "has_traceback"),
)
_NAMES = ", ".join(f'"{name}"' for name in _OF_RECORD)
_SET = ", ".join(["superseded = 0", *(f'"{name}" = excluded."{name}"' for name in _OF_RECORD)])
_ADD_RECORD = (
    f"INSERT INTO rollouts (trajectory_id, {_NAMES}) VALUES ({', '.join('?' * (len(_OF_RECORD) + 1))}) "  # noqa: S608
    f"ON CONFLICT (trajectory_id) DO UPDATE SET {_SET}"
)
_SUPERSEDE = (
    'UPDATE rollouts SET superseded = 1 WHERE "group" = ? AND sample = ? AND trajectory_id <> ? AND superseded = 0 '
    "AND (line < ? OR line IS NULL AND attempts <= ?)"
)
_ADD_STARTED = 'INSERT OR IGNORE INTO rollouts (trajectory_id, "group", sample, attempts) VALUES (?, ?, ?, ?)'
# What a record says stays: it also knows what the runtime does not.
_ADD_TRAJECTORY = (
    'INSERT INTO rollouts (trajectory_id, place, started_at, prompt, status, "group", reward, outcome) '
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (trajectory_id) DO UPDATE SET place = excluded.place, "
    "started_at = excluded.started_at, prompt = excluded.prompt, status = excluded.status, "
    'reward = CASE WHEN line IS NULL THEN excluded.reward ELSE reward END, "group" = ifnull("group", excluded."group"),'
    "outcome = CASE WHEN line IS NULL THEN excluded.outcome ELSE outcome END"
)
_ADD_TURNS = (
    "UPDATE rollouts SET seen_turns = ?, is_read = ?, prompt = CASE WHEN prompt IS NULL THEN ? ELSE prompt END, "
    "turns = CASE WHEN line IS NULL THEN ? ELSE turns END, seconds = CASE WHEN line IS NULL THEN ? ELSE seconds END, "
    "prompt_tokens = CASE WHEN line IS NULL OR prompt_tokens IS NULL THEN ? ELSE prompt_tokens END, "
    "response_tokens = CASE WHEN line IS NULL OR response_tokens IS NULL THEN ? ELSE response_tokens END, "
    "tokens = CASE WHEN line IS NULL OR tokens IS NULL THEN ? ELSE tokens END WHERE number = ?"
)
_OUTCOMES = {
    TrajectoryStatus.PENDING: "open",
    TrajectoryStatus.READY: "unrewarded",
    TrajectoryStatus.FAILED: "failed",
    TrajectoryStatus.REWARD_RECEIVED: "completed",
}


class Progress(NamedTuple):
    """How far an index is."""

    rollouts: int
    """Rollouts that are known."""
    read: int
    """Those of them whose turns are in the index, or which have none to read."""

    @property
    def is_done(self) -> bool:
        """Whether filters on tools and texts see all rollouts."""
        return self.read >= self.rollouts


class Index:
    """The index of one run.

    Args:
        path: Its file, made if missing.
        records: `rollouts.jsonl` of the run. None for a database alone.
        started: `started.jsonl` of the run.
        database: The turns of the run. None if there are none.

    Raises:
        UnavailableError: The file cannot be written, or is something else.

    Concurrency: safe from any thread and process. Each call has a connection of its own.
    """

    def __init__(self, path: Path, records: Lines | None, started: Lines | None, database: Database | None) -> None:
        self.path = path
        self._records, self._started, self._database = records, started, database
        with self.reading() as connection:
            _check_own(connection, path)
            with contextlib.suppress(sqlite3.OperationalError):  # another process is just doing it
                connection.execute("PRAGMA journal_mode = WAL")  # the file keeps it
        with self._writing() as connection:
            self._make(connection)
            self.full_text = json.loads(_mark(connection, "full_text"))

    # --- connections -------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Give a connection to read from.

        Raises:
            UnavailableError: The file is damaged or gone.
        """
        try:
            with contextlib.closing(sqlite3.connect(self.path, timeout=_WAIT_SECONDS, isolation_level=None)) as found:
                yield found
        except sqlite3.Error as error:
            raise UnavailableError(f"the index {self.path} cannot be used ({error}); delete that file") from error

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self.reading() as connection:
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def _make(self, connection: sqlite3.Connection) -> None:
        """Make the tables. Drop them before if the run is not the one that they were made from."""
        _check_own(connection, self.path)
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        tables = _tables(connection)
        if tables and version == _VERSION and not self._is_another_run(connection):
            return
        for name in sorted(tables, key=lambda name: name != "texts"):  # the full text drops its own tables
            if name == "texts" or not name.startswith(("texts_", "sqlite_")):
                connection.execute(f"DROP TABLE {name}")
        for statement in _TABLES:
            connection.execute(statement)
        full_text = True
        try:
            connection.execute(_FULL_TEXT)
        except sqlite3.OperationalError:  # SQLite was built without FTS5
            full_text = False
            connection.execute(_PLAIN_TEXT)
        _set_mark(connection, "full_text", full_text)
        connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {_VERSION}")

    def _is_another_run(self, connection: sqlite3.Connection) -> bool:
        for name, lines in (("records", self._records), ("started", self._started)):
            offset, _, size, head = _mark_json(connection, name, [0, 0, 0, None])
            if offset and (lines is None or lines.size < offset or lines.head(size) != head):
                return True
        if self._database is None:
            return bool(connection.execute("SELECT 1 FROM rollouts WHERE place IS NOT NULL").fetchone())
        ends = "SELECT min(place), max(place) FROM rollouts"
        known = "SELECT place, trajectory_id FROM rollouts WHERE place = ?"
        places = {place for place in connection.execute(ends).fetchone() if place is not None}
        expected = [connection.execute(known, (place,)).fetchone() for place in sorted(places)]
        try:
            return expected != [(row.number, row.trajectory_id) for row in self._database.rows(numbers=sorted(places))]
        except DatasetError:
            return False

    # --- following the run -------------------------------------------------------------------------------------------

    def update(self, *, turns: bool = True, most: int | None = None) -> Progress:
        """Take in what is new.

        Args:
            turns: Whether to read turns too: for tools and texts, and for figures of rollouts without a record.
            most: Read the turns of about this many rollouts, then return. None for all.

        Raises:
            UnavailableError: The index cannot be written, or the runtime does not answer.
        """
        if self._database is not None:
            self._database.refresh()
        with self._writing() as connection:
            self._make(connection)
        while self._step(self._add_lines):
            pass
        stamp = None if self._database is None else self._database.stamp()
        with self.reading() as connection:
            is_new = stamp is None or _mark_json(connection, "stamp", None) != stamp
        if self._database is not None and is_new:
            self._step(_forget_damage)
            with contextlib.suppress(DatasetError):  # `damage` tells
                while self._step(self._add_trajectories):
                    pass
                self._step(self._follow_open)
            with self._writing() as connection:
                _set_mark(connection, "stamp", stamp)
        read = 0
        while turns and self._database is not None and (most is None or read < most):
            if not (found := self._step(self._add_turns)):
                break
            read += found
        return self.progress()

    def progress(self) -> Progress:
        """Return how far the index is."""
        with self.reading() as connection:
            known = "SELECT count(*), count(*) - total(place IS NOT NULL AND seen_turns < 0) FROM rollouts"
            rollouts, read = connection.execute(known).fetchone()
            return Progress(rollouts, int(read))

    def stamp(self) -> object:
        """Return what changes with the content."""
        files = (self.path, self.path.with_name(f"{self.path.name}-wal"))
        found = [file.stat() for file in files if file.exists()]
        # An empty log comes and goes with connections.
        return [(file.st_size, file.st_mtime_ns, file.st_ino) for file in found if file.st_size]

    def damage(self) -> list[str]:
        """Return what could not be read, one sentence each."""
        with self.reading() as connection:
            damage = self._damage(connection)
            broken = _mark_json(connection, "broken", None)
        return [*([str(damage)] if damage else []), *([broken] if broken else [])]

    def _damage(self, connection: sqlite3.Connection) -> Damage:
        path = Path(RECORDS_FILE) if self._records is None else self._records.path
        return Damage(path, *_mark_json(connection, "damage", [0, []]))

    def _step(self, add: Any) -> int:
        with self._writing() as connection:
            return int(add(connection))

    def _add_lines(self, connection: sqlite3.Connection) -> int:
        # All of them first: a record replaces the attempts before it that have none.
        found, _ = self._take(connection, "started", self._started)
        if found:
            starts = [fields for _, line in found if _is_start(fields := _decoded(line))]
            connection.executemany(_ADD_STARTED, starts)
            return len(found)
        lines, first = self._take(connection, "records", self._records)
        if not lines:
            return 0  # without a write, which would look as if the run had changed
        damage = self._damage(connection)
        rows: list[tuple[Any, ...]] = []
        figures: list[tuple[str, str, float]] = []
        for number, (offset, line) in enumerate(lines, first):
            try:
                fields = decode_line(line)
                row = _record_columns(fields, offset)
                figures += [(row[0], name, value) for name, value in _metrics(fields)]
                rows.append(row)
            except FAULTS as error:
                damage.add(number, str(error) if isinstance(error, ValueError) else f"no record ({error!r:.80})")
        connection.executemany(_ADD_RECORD, rows)
        connection.executemany(_SUPERSEDE, [(row[2], row[3], row[0], row[1], row[4]) for row in rows])
        of = "INSERT OR REPLACE INTO metrics SELECT number, ?, ? FROM rollouts WHERE trajectory_id = ?"
        connection.executemany(of, [(name, value, trajectory_id) for trajectory_id, name, value in figures])
        _set_mark(connection, "damage", [damage.count, damage.lines])
        return len(lines)

    def _take(
        self, connection: sqlite3.Connection, name: str, lines: Lines | None
    ) -> tuple[list[tuple[int, bytes]], int]:
        """Return the next lines of a file with their offsets, and the number of the first one, from 1."""
        offset, count, size, head = _mark_json(connection, name, [0, 0, 0, None])
        found = [] if lines is None else lines.read(offset, _LINES_PER_STEP)
        if found and lines is not None:
            end = found[-1][0] + len(found[-1][1])
            _set_mark(connection, name, [end, count + len(found), size or end, head or lines.head(end)])
        return found, count + 1

    def _add_trajectories(self, connection: sqlite3.Connection) -> int:
        (last,) = connection.execute("SELECT max(place) FROM rollouts").fetchone()
        rows = self._read_rows(connection, first=0 if last is None else last + 1, most=_ROWS_PER_STEP)
        self._put_trajectories(connection, rows)
        return len(rows)

    def _follow_open(self, connection: sqlite3.Connection) -> int:
        open_ = "SELECT place FROM rollouts WHERE status IN ('PENDING', 'READY')"
        places = [place for (place,) in connection.execute(open_)]
        for start in range(0, len(places), _ROWS_PER_STEP):
            rows = self._read_rows(connection, numbers=places[start : start + _ROWS_PER_STEP])
            self._put_trajectories(connection, rows)
            grown = "UPDATE rollouts SET is_read = 0 WHERE place = ? AND seen_turns < ?"
            connection.executemany(grown, [(row.number, row.state.turns) for row in rows])
        return 0

    def _read_rows(self, connection: sqlite3.Connection, **which: Any) -> list[TrajectoryRow]:
        assert self._database is not None  # noqa: S101 - asked by the callers; for the type checker
        try:
            return self._database.rows(**which)
        except DatasetError as error:
            _set_mark(connection, "broken", str(error))
            return []

    def _put_trajectories(self, connection: sqlite3.Connection, rows: Sequence[TrajectoryRow]) -> None:
        connection.executemany(_ADD_TRAJECTORY, [self._trajectory_columns(connection, row) for row in rows])

    def _trajectory_columns(self, connection: sqlite3.Connection, row: TrajectoryRow) -> tuple[Any, ...]:
        prompt = json.loads(row.prompt)
        text = prompt if isinstance(prompt, str) or prompt is None else row.prompt
        group = None
        if self._records is None and prompt is not None:  # nobody else says which rollouts are of one prompt
            digest = hashlib.sha256(row.prompt.encode()).digest()
            connection.execute("INSERT OR IGNORE INTO prompts SELECT ?, count(*) FROM prompts", (digest,))
            (group,) = connection.execute("SELECT number FROM prompts WHERE digest = ?", (digest,)).fetchone()
        state = row.state
        reward = None if state.rewards is None else math.fsum(state.rewards)
        shown = None if text is None else clean(_asked(text)[:_PROMPT_CHARACTERS])
        status = (row.created_at_seconds, shown, state.status.value)
        return (row.trajectory_id, row.number, *status, group, reward, _OUTCOMES[state.status])

    def _add_turns(self, connection: sqlite3.Connection) -> int:
        assert self._database is not None  # noqa: S101 - asked by `update`; for the type checker
        unread = (
            "SELECT place, number, seen_turns, started_at FROM rollouts "
            "WHERE place IS NOT NULL AND is_read = 0 ORDER BY place LIMIT ?"
        )
        known = {place: fields for place, *fields in connection.execute(unread, (_TURNS_PER_STEP,))}
        count = len(known)
        for place, turns in self._database.turns(list(known)):
            number, seen, started_at = known.pop(place)
            if isinstance(turns, DatasetError):
                _set_mark(connection, "broken", str(turns))
                turns = []
            try:
                added = _TurnTexts(turns, max(seen, 0))
            except (ValueError, TypeError, AttributeError, RecursionError) as error:
                _set_mark(connection, "broken", f"the turns of trajectory {place} cannot be read ({error!r:.200})")
                added = _TurnTexts([], 0)
            marks = ", ".join("?" * (len(ROLES) + 1))
            # The question marks are ours; the texts are parameters.
            connection.executemany(f"INSERT INTO texts (rowid, {', '.join(ROLES)}) VALUES ({marks})", added.rows)  # noqa: S608
            calls = "INSERT INTO tool_calls VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET calls = calls + excluded.calls"
            connection.executemany(calls, [(place, clean(tool), count) for tool, count in added.tools.items()])
            ends = [turn.started_at_seconds + turn.duration_seconds for turn in turns]
            seconds = max(0.0, max(ends) - started_at) if ends else 0.0
            columns = (len(turns), 1, added.prompt, len(turns), seconds, *added.tokens, number)
            connection.execute(_ADD_TURNS, columns)
        for number, *_ in known.values():  # gone from the database
            gone = "UPDATE rollouts SET is_read = 1, seen_turns = max(seen_turns, 0) WHERE number = ?"
            connection.execute(gone, (number,))
        return count


class _TurnTexts:
    """What the turns of a rollout say, of those from `first` on, by role."""

    def __init__(self, turns: Sequence[TurnRow], first: int) -> None:
        self.rows: list[tuple[Any, ...]] = []
        self.tools: Counter[str] = Counter()
        self.prompt: str | None = None
        prompts: list[int | None] = []
        responses: list[int | None] = []
        unfolder = Unfolder()
        for turn in turns:
            index = split_turn_key(turn.key)[1]
            request, response = json.loads(turn.request), json.loads(turn.response)
            step = unfolder.add(index, request, message_of(response))
            prompt, answered = token_counts(response.get("usage") if isinstance(response, Mapping) else None)
            prompts.append(prompt)
            responses.append(answered)
            said: defaultdict[str, list[str]] = defaultdict(list)
            for message in step.messages:
                _say(said, message)
            if self.prompt is None and said["user"]:
                self.prompt = clean(said["user"][0][:_PROMPT_CHARACTERS])
            if step.answer is not None:
                _say(said, step.answer)
            if index >= first:
                self.tools.update(call.name for call in tool_calls(step.answer or {}))
                self.rows.append((turn.key, *(spread(clean("\n".join(said[role]))) for role in ROLES)))
        prompt_tokens, response_tokens = _sum(prompts), _sum(responses)
        self.tokens = (prompt_tokens, response_tokens, _sum([prompt_tokens, response_tokens]))


def _say(said: defaultdict[str, list[str]], message: Mapping[str, Any]) -> None:
    role = str(message.get("role") or "assistant")
    said[role if role in ROLES else "user"].append(message_text(message))
    for name in ("reasoning_content", "reasoning"):
        if isinstance(message.get(name), str):
            said["assistant"].append(message[name])
    said["call"] += [f"{call.name} {call.arguments}" for call in tool_calls(message)]


def clean(text: str) -> str:
    """Return a text that SQLite can hold: halves of surrogate pairs are replaced."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _sum(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known and len(known) == len(counts) else None


def _record_columns(fields: Mapping[str, JSON], offset: int) -> tuple[Any, ...]:
    trajectory_id, reward, error, failure = id_of(fields), fields["reward"], fields.get("error"), fields.get("failure")
    if not isinstance(trajectory_id, str) or not isinstance(error, str | None) or not isinstance(failure, str | None):
        raise ValueError("trajectory_id, error or failure is no text")
    tokens = [sum(fields[name]) if fields.get(name) else None for name in ("prompt_tokens", "response_tokens")]
    numbers = (fields["prompt_index"], fields["sample_index"], fields.get("attempts", 1), fields["turns"])
    if not all(type(number) is int for number in numbers):
        raise ValueError(f"prompt_index, sample_index, attempts and turns are {numbers!r:.200}")
    group, sample, attempts, turns = numbers
    return (
        *(clean(trajectory_id), offset, group, sample, attempts),
        None if reward is None or not math.isfinite(reward) else float(reward),
        *(turns, *tokens, _sum(tokens), float(fields["seconds"])),
        *(RolloutStatus(fields["status"]).value, failure, error_type(error), None if error is None else clean(error)),
        int(isinstance(fields.get("traceback"), str)),
    )


def _metrics(fields: Mapping[str, JSON]) -> list[tuple[str, float]]:
    return [
        (clean(name), float(value))
        for name, value in (fields.get("metrics") or {}).items()
        if type(value) in (int, float, bool) and math.isfinite(value)
    ]


def _forget_damage(connection: sqlite3.Connection) -> int:
    """Read again what could not be read. The file may have been copied or written to just then."""
    if _mark_json(connection, "broken", None) is not None:
        _set_mark(connection, "broken", None)
        connection.execute("UPDATE rollouts SET is_read = 0 WHERE seen_turns = 0 AND place IS NOT NULL")
    return 0


def _decoded(line: bytes) -> JSON:
    try:
        return decode_line(line)
    except (ValueError, RecursionError):
        return None


def _tables(connection: sqlite3.Connection) -> list[str]:
    return [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]


def _check_own(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse to write to a file that something else has made."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    if application != _APPLICATION_ID and _tables(connection):
        raise UnavailableError(f"{path} is no index of a run; move that file elsewhere")


def _is_start(fields: JSON) -> bool:
    is_list = isinstance(fields, list) and len(fields) == 4
    return is_list and isinstance(fields[0], str) and all(type(number) is int for number in fields[1:])


def _mark(connection: sqlite3.Connection, name: str) -> str:
    found = connection.execute("SELECT value FROM marks WHERE name = ?", (name,)).fetchone()
    return "null" if found is None else str(found[0])


def _mark_json(connection: sqlite3.Connection, name: str, default: JSON) -> JSON:
    found = json.loads(_mark(connection, name))
    return default if found is None else found


def _set_mark(connection: sqlite3.Connection, name: str, value: JSON) -> None:
    connection.execute("INSERT OR REPLACE INTO marks VALUES (?, ?)", (name, json.dumps(value)))


def _asked(prompt: str) -> str:
    """Return the question of a packed prompt cell. Other prompts are returned as they are."""
    try:
        question = unpack(prompt).question if prompt.startswith("{") else None
    except DatasetError:
        question = None
    return question if isinstance(question, str) else prompt

"""Look at a run: list its rollouts, filter, sort and search them, and read one as a conversation.

This is what `aws-rft show` prints and what the pages are made of:

    with RunView.open("runs/monday") as view:           # a folder, a database, or the URL of a running local runtime
        view.update()                                   # take in what is new; cheap when nothing is
        page = view.rollouts(parse_where("reward<0.5 and tool=calculator"), sort="-seconds", limit=20)
        conversation = view.conversation(page.rollouts[0].trajectory_id)

A view keeps no rollouts in memory. It asks an index file beside the database (`trajectories.db-view`), see `_index`.
Where that cannot be written, or for a runtime, the index is a temporary file.
"""

from __future__ import annotations

import contextlib
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from types import TracebackType

from aws_rft_sdk._frozen import JSON, FrozenDict
from aws_rft_sdk.errors import ConfigurationError, DatasetError, UnavailableError
from aws_rft_sdk.runs._index import Index, Progress
from aws_rft_sdk.runs._sources import Database, DatabaseFile, Lines, RunningRuntime
from aws_rft_sdk.runs.conversation import Message, TurnFacts, mask_secrets, read_conversation, read_turns, tools_offered
from aws_rft_sdk.runs.metrics import SUCCESS_THRESHOLD
from aws_rft_sdk.runs.records import DATABASE_FILE, RECORDS_FILE, STARTED_FILE, RolloutRecord, decode_line, parse_record
from aws_rft_sdk.runs.summaries import Conversation, CurvePart, GroupSummary, RolloutPage, RolloutSummary
from aws_rft_sdk.runs.where import Comparison, Where, sort_column, to_sql
from aws_rft_sdk.runtime.records import make_trajectory
from aws_rft_sdk.types import Trajectory

_INDEX_SUFFIX = "-view"
_NAMED_IDS = 5


class RunView:
    """A run that someone looks at. Make it with `open`, and close it, or use it as a context manager.

    Concurrency: all methods are safe from any thread. Several views of one run may be open, in several processes.
    """

    def __init__(self, name: str, index: Path | None, folder: Path | None, database: Database | None) -> None:
        self.name = name
        """What was looked for: the path or the URL."""
        self._database = database
        self._records = None if folder is None else Lines(folder / RECORDS_FILE)
        started = None if folder is None else Lines(folder / STARTED_FILE)
        self._note: str | None = None
        self._state: tuple[object, list[tuple[str, int, float, float]]] | None = None
        self._stack = contextlib.ExitStack()
        if database is not None:
            self._stack.callback(database.close)
        try:
            self._index = self._make_index(index, started)
        except UnavailableError:
            if index is None:
                raise
            self._index = self._make_index(None, started)

    def _make_index(self, path: Path | None, started: Lines | None) -> Index:
        if path is None:
            folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="aws-rft-view-"))
            path = Path(folder) / "index"
        return Index(path, self._records, started, self._database)

    @classmethod
    def open(cls, run: str | Path, *, db: str | Path | None = None, key: str | None = None) -> RunView:
        """Open a run. Nothing is read yet: call `update`.

        Args:
            run: A folder that `aws-rft rollout --out` wrote or writes, a database file of the local runtime, or the URL
                of a local runtime that is serving. A database beside its records is opened as the folder.
            db: The database of a folder whose rollouts ran at another runtime. None for `trajectories.db` in it.
            key: The key that a runtime asks for. None for `RFT_RUNTIME_KEY`.

        Raises:
            ConfigurationError: There is no such run.
            UnavailableError: The runtime does not answer.
        """
        if "://" in str(run):
            return cls(str(run), None, None, RunningRuntime(str(run), key))
        path = Path(run)
        if path.is_file() and not (path.name == DATABASE_FILE and (path.parent / RECORDS_FILE).exists()):
            return cls(str(run), path.with_name(path.name + _INDEX_SUFFIX), None, DatabaseFile(path))
        folder = path.parent if path.is_file() else path
        file = folder / DATABASE_FILE if db is None else Path(db)
        if not any((folder / name).exists() for name in (RECORDS_FILE, DATABASE_FILE, STARTED_FILE)):
            raise ConfigurationError(
                f"{run} is no run: name a folder with {RECORDS_FILE} or {DATABASE_FILE}, a database of the local "
                "runtime, or the URL of one that is serving"
            )
        found, note = _open_database(file, given=db is not None)
        has_records = any((folder / name).exists() for name in (RECORDS_FILE, STARTED_FILE))
        view = cls(str(run), folder / (DATABASE_FILE + _INDEX_SUFFIX), folder if has_records else None, found)
        view._note = note
        return view

    # --- the list ----------------------------------------------------------------------------------------------------

    def update(self, *, turns: bool = True, most: int | None = None) -> Progress:
        """Take in what is new since the last call. Cheap when nothing is.

        The first call of a large run takes a while: about 1 s for 20,000 records, and longer for their turns. So a
        server calls it in a thread with `most`, again and again, and shows meanwhile what is there.

        Args:
            turns: Whether to read turns too. Filters on tools and texts need them, and so do turns, tokens and seconds
                of rollouts without a record. See `where.needs_turns`.
            most: Read the turns of about this many rollouts, then return. None for all.

        Returns:
            How far the index is. Repeat the call until `is_done`.

        Raises:
            UnavailableError: The index cannot be written, or the runtime does not answer.
        """
        return self._index.update(turns=turns, most=most)

    @property
    def has_records(self) -> bool:
        """Whether there are records of rollouts, so that figures do not depend on turns."""
        return self._records is not None

    @property
    def full_text(self) -> bool:
        """Whether texts are searched with an index. False if SQLite here has no FTS5: then searches are slow."""
        return bool(self._index.full_text)

    def notes(self) -> list[str]:
        """Return what is missing or damaged, one sentence each."""
        found = [self._note] if self._note else []
        if self._records is None:
            found.append("there are no records of the run: errors, components of rewards and samples are not known")
        if not self.full_text:
            found.append("this Python's SQLite has no FTS5: text~ looks for characters in place of words, and is slow")
        return [*found, *self._index.damage()]

    def rollouts(
        self,
        where: Where | None = None,
        *,
        sort: str = "",
        limit: int = 50,
        offset: int = 0,
        superseded: bool = False,
    ) -> RolloutPage:
        """Return some rollouts.

        Args:
            where: Only those that pass this filter, see `parse_where`. None for all.
            sort: A field of the filter language with one value, or `started_at`, the least first; with "-" before it
                the greatest first. Rollouts without the value come last. "" for the order of the dataset.
            limit: How many at most.
            offset: How many to skip.
            superseded: Whether to include attempts that a later one replaced.

        Raises:
            ConfigurationError: There is no such field to sort by.
        """
        order, values = _order(sort)
        condition, parameters = self._condition(where, superseded)
        # Statements are made of our own words; what the user typed is among the parameters.
        count = "SELECT count(*) FROM rollouts"
        replaced = "SELECT count(*) FROM rollouts WHERE superseded = 1"  # both are in an index, the others are not
        choose = f"INSERT INTO chosen SELECT number FROM rollouts WHERE {condition}"  # noqa: S608
        pages = f"SELECT {_COLUMNS} FROM rollouts WHERE {condition} ORDER BY {order} LIMIT ? OFFSET ?"  # noqa: S608
        with self._index.reading() as connection:
            connection.execute("BEGIN")
            (total,) = connection.execute(count).fetchone()
            total -= 0 if superseded else connection.execute(replaced).fetchone()[0]
            matched = total
            if where is not None:  # once for the number and for the page: a search of a common word takes a while
                connection.execute("CREATE TEMP TABLE chosen (number INTEGER PRIMARY KEY)")
                matched = connection.execute(choose, parameters).rowcount
                # Not a join, which sorts ten times as long: SQLite keeps only the rows of the page for this.
                chosen = "WHERE number IN (SELECT number FROM chosen)"
                pages, parameters = pages.replace(f"WHERE {condition}", chosen), ()
            rows = connection.execute(pages, (*parameters, *values, limit, offset)).fetchall()
            found = [_summary(connection, row) for row in rows]
        return RolloutPage(tuple(found), matched, total)

    def group(self, number: int) -> tuple[RolloutSummary, ...]:
        """Return the rollouts of one prompt, at most 1,000, in the order of their samples."""
        return self.rollouts(Comparison("group", "=", float(number)), limit=1000).rollouts

    def values(self, field: str, where: Where | None = None) -> list[float]:
        """Return the values of a field of numbers, of the rollouts that have one, in no order. For histograms.

        Raises:
            ConfigurationError: There is no such field.
        """
        column = sort_column(field)
        condition, parameters = self._condition(where, False)
        statement = f"SELECT {column.text} AS value FROM rollouts WHERE {condition} AND value IS NOT NULL"  # noqa: S608
        with self._index.reading() as connection:
            return [value for (value,) in connection.execute(statement, (*column.parameters, *parameters))]

    def counts(self, field: str, where: Where | None = None) -> dict[str, int]:
        """Return how many rollouts have each value of a field, the most first. A missing value counts as "".

        Args:
            field: "outcome", "error" (kinds), "group", or "tool": rollouts that called it.
            where: Only rollouts that pass this filter.

        Raises:
            ConfigurationError: There is no such field.
        """
        condition, parameters = self._condition(where, False)
        if field == "tool" and where is None:
            with self._index.reading() as connection:
                if not connection.execute("SELECT 1 FROM rollouts WHERE superseded = 1 LIMIT 1").fetchone():
                    # Without the join it takes a fifth of the time.
                    return dict(
                        connection.execute("SELECT tool, count(*) FROM tool_calls GROUP BY 1 ORDER BY 2 DESC, 1")
                    )
        column, joined = (
            ("tool", " JOIN tool_calls USING (place)") if field == "tool" else (sort_column(field).text, "")
        )
        statement = (
            f"SELECT {column} AS value, count(*) FROM rollouts{joined} WHERE {condition} "  # noqa: S608
            "GROUP BY value ORDER BY 2 DESC, 1"
        )
        with self._index.reading() as connection:
            found = connection.execute(statement, parameters)
            return {"" if value is None else str(value): count for value, count in found}

    def curve(self, bins: int = 60) -> list[CurvePart]:
        """Return the mean reward over time, in at most `bins` parts with as many rollouts each.

        Returns:
            The parts in the order in which rollouts became known. Those without a reward are left out.
        """
        part = (
            "SELECT max(number), avg(reward), min(started_at), max(started_at) FROM rollouts "
            "WHERE number > ? AND number <= ? AND superseded = 0"
        )
        with self._index.reading() as connection:
            connection.execute("BEGIN")
            last = connection.execute("SELECT max(number) FROM rollouts").fetchone()[0] or 0
            count = min(bins, last)
            edges = [last * edge // count for edge in range(count + 1)] if count else []
            # One statement for each part: to group them, SQLite would sort all rollouts.
            found = [connection.execute(part, ends).fetchone() for ends in pairwise(edges)]
        return [CurvePart(*row) for row in found if row[1] is not None]

    def outcomes(self) -> list[tuple[str, str | None, float | None, int]]:
        """Return outcomes, kinds of error and rewards, and how many rollouts have all three, in no order."""
        statement = "SELECT outcome, error_kind, reward, count(*) FROM rollouts WHERE superseded = 0 GROUP BY 1, 2, 3"
        with self._index.reading() as connection:
            return connection.execute(statement).fetchall()

    def state(self) -> list[tuple[str, int, float, float]]:
        """Return figures that change with what the run holds, in no order. Cheap while the index does not change."""
        statement = "SELECT outcome, count(*), total(reward), total(tokens) FROM rollouts GROUP BY outcome"
        stamp = self._index.stamp()
        if self._state is None or self._state[0] != stamp:
            with self._index.reading() as connection:
                self._state = stamp, connection.execute(statement).fetchall()
        return self._state[1]

    def groups(self, success_threshold: float = SUCCESS_THRESHOLD) -> list[GroupSummary]:
        """Return all groups in the order of the dataset. Rollouts whose group is not known are in none."""
        statement = (
            'SELECT "group", count(*), count(reward), avg(reward), min(reward), max(reward), '
            'ifnull(sum(reward >= ?), 0) FROM rollouts WHERE superseded = 0 AND "group" IS NOT NULL '
            'GROUP BY "group" ORDER BY "group"'
        )
        with self._index.reading() as connection:
            return [GroupSummary(*row) for row in connection.execute(statement, (success_threshold,))]

    def prompts(self, groups: Sequence[int] | None = None) -> dict[int, str]:
        """Return the beginnings of the prompts of some groups, by their numbers, as far as they are known.

        Args:
            groups: Some hundred numbers. None for all groups.
        """
        marks = '"group" IS NOT NULL' if groups is None else f'"group" IN ({", ".join("?" * len(groups))})'
        statement = f'SELECT "group", min(prompt) FROM rollouts WHERE {marks} GROUP BY 1'  # noqa: S608
        with self._index.reading() as connection:
            return {number: prompt for number, prompt in connection.execute(statement, tuple(groups or ())) if prompt}

    def beside(self, group: int) -> tuple[int | None, int | None]:
        """Return the groups before and after one. None where there is none."""
        before = 'SELECT max("group") FROM rollouts WHERE "group" < ? AND superseded = 0'
        after = 'SELECT min("group") FROM rollouts WHERE "group" > ? AND superseded = 0'
        with self._index.reading() as connection:
            first, last = (connection.execute(statement, (group,)).fetchone()[0] for statement in (before, after))
        return first, last

    def metric_names(self) -> list[str]:
        """Return the names of the figures that handlers returned, sorted. They are components of rewards, usually."""
        with self._index.reading() as connection:
            return [name for (name,) in connection.execute("SELECT DISTINCT name FROM metrics ORDER BY name")]

    def _condition(self, where: Where | None, superseded: bool) -> tuple[str, tuple[float | str, ...]]:
        parts = ["1" if superseded else "superseded = 0"]
        if where is None:
            return parts[0], ()
        sql = to_sql(where, full_text=self.full_text)
        return f"{parts[0]} AND ({sql.text})", sql.parameters

    # --- one rollout -------------------------------------------------------------------------------------------------

    def find(self, shortened: str) -> str:
        """Return the trajectory id that begins with a text.

        Raises:
            ConfigurationError: There is none, or several do. The message lists them.
        """
        begins = (
            "SELECT trajectory_id FROM rollouts WHERE trajectory_id >= ? AND substr(trajectory_id, 1, ?) = ? "
            "ORDER BY trajectory_id LIMIT ?"
        )
        shortened = shortened.encode("utf-8", "replace").decode()
        with self._index.reading() as connection:
            parameters = (shortened, len(shortened), shortened, _NAMED_IDS + 1)
            ids = [found for (found,) in connection.execute(begins, parameters)]
        if shortened in ids or len(ids) == 1:
            return shortened if shortened in ids else ids[0]
        if not ids:
            raise ConfigurationError(f"{self.name} has no rollout whose trajectory_id begins with {shortened!r:.80}")
        more = ", ..." if len(ids) > _NAMED_IDS else ""
        raise ConfigurationError(
            f"several rollouts have a trajectory_id that begins with {shortened!r:.80}; type more of it: "
            f"{', '.join(ids[:_NAMED_IDS])}{more}"
        )

    def conversation(self, trajectory_id: str) -> Conversation:
        """Return one rollout in full. What is missing is in its `notes`.

        Raises:
            ConfigurationError: The run has no rollout with this id, given whole.
            UnavailableError: The runtime does not answer.
        """
        statement = f"SELECT line, {_COLUMNS} FROM rollouts WHERE trajectory_id = ?"  # noqa: S608 - our own columns
        with self._index.reading() as connection:
            row = connection.execute(statement, (trajectory_id,)).fetchone()
            if row is None:
                raise ConfigurationError(f"{self.name} has no rollout {trajectory_id!r:.80}")
            line, place = row[:2]
            summary = _summary(connection, row[1:])
        notes: list[str] = []
        trajectory = self._trajectory(place, summary, notes)
        record = self._record(line)
        traceback, traceback_of = self._traceback(summary, record)
        if record is None:
            notes.append(
                "it has no record: it still runs, or its process was killed"
                if self.has_records
                else "there are no records: its error and the components of its reward are not known"
            )
        messages = () if trajectory is None else tuple(read_conversation(trajectory))
        turns = () if trajectory is None else tuple(read_turns(trajectory))
        recorded = None if trajectory is None else trajectory.rewards
        own = None if record is None else record.rewards or (None if record.reward is None else (record.reward,))
        return Conversation(
            summary=summary if trajectory is None else _completed(summary, messages, turns),
            job_arn=None if trajectory is None else trajectory.job_arn,
            prompt=None if trajectory is None else trajectory.prompt,
            messages=messages,
            turns=turns,
            tools=() if trajectory is None else tuple(tools_offered(trajectory)),
            rewards=recorded or own,
            floor=None if record is None else record.floor,
            metrics=FrozenDict() if record is None else record.metrics,
            state=None if record is None else mask_secrets(record.state),
            traceback=traceback,
            traceback_of=traceback_of,
            notes=tuple(notes),
            trajectory=trajectory,
        )

    def _trajectory(self, place: int | None, summary: RolloutSummary, notes: list[str]) -> Trajectory | None:
        if self._database is None:
            notes.append(f"its turns are not here: there is no {DATABASE_FILE}. Name the runtime's database with --db")
            return None
        try:
            rows = [] if place is None else self._database.rows(numbers=[place])
            found = next(iter(self._database.turns([place])), None) if place is not None and rows else None
        except DatasetError as error:
            notes.append(str(error))
            return None
        if found is None:
            never = summary.trajectory_id.startswith("not-started-")
            notes.append("it was never started" if never else f"{self._database.name} does not have it")
            return None
        turns = found[1]
        if isinstance(turns, DatasetError):
            notes.append(str(turns))
            turns = []
        elif not turns:
            notes.append("no inference call of it reached the runtime")
        try:
            trajectory = make_trajectory(rows[0], turns)
        except (ValueError, TypeError, RecursionError) as error:
            notes.append(f"its turns cannot be read: {error!r:.200}")
            trajectory = make_trajectory(rows[0], [])
        if any(turn.request is None for turn in trajectory.turns):
            notes.append("its messages were not kept: the runtime ran with --capture none")
        return trajectory

    def _record(self, line: int | None) -> RolloutRecord | None:
        if line is None or self._records is None:
            return None
        try:
            return parse_record(decode_line(self._records.line_at(line)))
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None  # the file was changed since it was indexed; the next `update` notices

    def _traceback(self, summary: RolloutSummary, record: RolloutRecord | None) -> tuple[str | None, str | None]:
        if record is None or record.traceback is not None:
            return (None, None) if record is None else (record.traceback, summary.trajectory_id)
        first = (
            "SELECT a.line, a.trajectory_id FROM rollouts a JOIN rollouts b ON a.error_type IS b.error_type "
            "AND a.error_kind IS b.error_kind WHERE b.trajectory_id = ? AND b.error IS NOT NULL "
            "AND a.has_traceback = 1 ORDER BY a.line LIMIT 1"
        )
        with self._index.reading() as connection:
            found = connection.execute(first, (summary.trajectory_id,)).fetchone()
        other = None if found is None else self._record(found[0])
        return (None, None) if other is None else (other.traceback, found[1])

    # --- life --------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Release files and connections. Repeating is safe."""
        self._stack.close()

    def __enter__(self) -> RunView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


_STORED = [field.name for field in fields(RolloutSummary) if field.name != "tools"]
_COLUMNS = ", ".join(["place", "seen_turns", *(f'"{name}"' for name in _STORED)])
_TOOLS = "SELECT tool, calls FROM tool_calls WHERE place = ? ORDER BY calls DESC, tool"


def _summary(connection: sqlite3.Connection, row: Sequence[JSON]) -> RolloutSummary:
    """Return the rollout of a row of `_COLUMNS`."""
    place, seen_turns, *columns = row
    values = dict(zip(_STORED, columns, strict=True))
    tools = None if seen_turns < 0 else FrozenDict(connection.execute(_TOOLS, (place,)).fetchall())
    return RolloutSummary(**{**values, "superseded": bool(values["superseded"])}, tools=tools)


def _completed(summary: RolloutSummary, messages: Sequence[Message], turns: Sequence[TurnFacts]) -> RolloutSummary:
    """Return a summary with what its turns tell, which may not be in the index yet."""
    tools = Counter(call.name for message in messages if message.sampled for call in message.calls)
    return replace(
        summary,
        tools=FrozenDict(tools),
        turns=len(turns) if summary.turns is None else summary.turns,
        seconds=summary.seconds or max((turn.started_after + turn.seconds for turn in turns), default=0.0),
    )


def _order(sort: str) -> tuple[str, tuple[float | str, ...]]:
    if not sort:
        return '"group" NULLS LAST, sample, number', ()  # in this form an index has the order
    column = sort_column(sort.removeprefix("-"))
    direction = "DESC" if sort.startswith("-") else "ASC"
    return f"{column.text} {direction} NULLS LAST, number", column.parameters


def _open_database(path: Path, *, given: bool) -> tuple[Database | None, str | None]:
    """Return the database of a folder, or why there is none."""
    try:
        return DatabaseFile(path), None
    except ConfigurationError as error:
        if given:
            raise
        if path.exists():
            return None, f"conversations cannot be shown: {error}"
        return None, f"there is no {path}, so there are no conversations; name the runtime's database with --db"

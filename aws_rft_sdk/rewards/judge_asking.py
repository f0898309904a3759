"""How judges ask: one question, one verdict, at most two answers of the model, each verdict paid for once."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from aws_rft_sdk._backoff import Backoff
from aws_rft_sdk._checks import check_number, check_seconds, check_type
from aws_rft_sdk._fork import in_forked_child
from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.rewards.judge_models import (
    CallFailedError,
    Failure,
    JudgeModel,
    check_picklable,
    check_source,
    make_judge_model,
)
from aws_rft_sdk.rewards.judge_rubrics import Question, Rubric, parse_verdict

logger = logging.getLogger(__name__)

Shows = Literal["answer", "conversation"]
A = TypeVar("A", bound="Asking")

_MOST_ANSWERS = 2
"""Answers of the model to one question: the first, and one after a correction."""
_LONGEST_QUOTE = 4_000


@dataclass(eq=False)
class NoVerdictError(Exception):
    """There is no verdict. Callers of a judge get a result with a `Failure` instead."""

    failure: Failure
    detail: str


@dataclass(frozen=True)
class JudgeCost:
    """What a judge has used in this process."""

    calls: int = 0
    """Requests that were made, retries included."""
    retries: int = 0
    cache_hits: int = 0
    """Verdicts that came from the cache, without a request."""
    failures: int = 0
    """Questions that ended without a verdict."""
    input_tokens: int = 0
    """As the provider reports them; 0 if it does not."""
    output_tokens: int = 0

    def price(self, input_per_million: float, output_per_million: float) -> float:
        """Return the price of the tokens, in the currency of the two prices for a million."""
        return (self.input_tokens * input_per_million + self.output_tokens * output_per_million) / 1_000_000


class VerdictCache:
    """A file of verdicts by key. The first verdict under a key stays.

    Every call opens the file and closes it again, so threads, processes and forks can share a cache. The file and its
    folders are created when they are first needed. All methods raise `ConfigurationError` if the file cannot be used.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def get(self, key: str) -> str | None:
        """Return the verdict under a key. Returns None if there is none."""
        with self._open() as connection:
            row = connection.execute("SELECT verdict FROM verdicts WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def put(self, key: str, verdict: str) -> str:
        """Keep a verdict unless there is one already, and return the one that is kept."""
        with self._open() as connection:
            connection.execute("INSERT OR IGNORE INTO verdicts VALUES (?, ?)", (key, verdict))
        return self.get(key) or verdict

    def discard(self, key: str, verdict: str) -> None:
        """Forget a verdict that cannot be used, unless another one stands in its place by now."""
        with self._open() as connection:
            connection.execute("DELETE FROM verdicts WHERE key = ? AND verdict = ?", (key, verdict))

    def close(self) -> None:
        """Do nothing. No call leaves the file open."""

    def __len__(self) -> int:
        with self._open() as connection:
            return int(connection.execute("SELECT count(*) FROM verdicts").fetchone()[0])

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self.path, timeout=30.0, isolation_level=None)
            try:
                connection.execute("PRAGMA synchronous = NORMAL")  # a verdict that a power cut takes can be had again
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS verdicts (key TEXT PRIMARY KEY, verdict TEXT NOT NULL) WITHOUT ROWID"
                )
                yield connection
            finally:
                connection.close()
        except (OSError, sqlite3.Error) as error:
            raise ConfigurationError(f"the verdict cache {self.path} cannot be used: {error}") from error


@dataclass
class _Here:
    """What a judge has in one process."""

    process: int
    is_forked: bool
    model: JudgeModel | None = None
    counts: Counter[str] = field(default_factory=Counter)


_lock = threading.RLock()
"""For what judges have in this process."""


@in_forked_child
def _renew_lock() -> None:
    global _lock
    _lock = threading.RLock()


@dataclass(eq=False, repr=False)
class Asking:
    """What all judges have in common: they ask a model, keep verdicts, and count. `Judge` describes the fields."""

    model: Any
    rubric: Rubric
    _: KW_ONLY
    model_id: str | None = None
    params: Mapping[str, JSON] | None = None
    shows: Shows = "answer"
    cache: str | os.PathLike[str] | VerdictCache | None = None
    timeout_seconds: float = 60.0
    max_attempts: int = 4
    backoff: Backoff = Backoff()
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        check_type("rubric", self.rubric, Rubric, "a Rubric, such as single_score(task, criterion)")
        check_source(self.model)
        if self.shows not in get_args(Shows):
            raise ConfigurationError(f"shows must be one of {', '.join(get_args(Shows))}, not {self.shows!r}")
        check_number("max_attempts", self.max_attempts, low=1, whole=True)
        check_seconds("timeout_seconds", self.timeout_seconds)
        self._verdicts = VerdictCache(self.cache) if isinstance(self.cache, str | os.PathLike) else self.cache
        self._last: _Here | None = None
        if not callable(self.model):
            self._make_model()

    def __getstate__(self) -> dict[str, Any]:
        check_picklable(self.model)
        return {**self.__dict__, "_last": None}

    @property
    def cost(self) -> JudgeCost:
        """What was used so far in this process."""
        with _lock:
            return JudgeCost(**self._here().counts)

    def close(self) -> None:
        """Close an asynchronous client, and a client that a function made. Other clients are the caller's.

        The judge can be used again, unless it was given an asynchronous client.
        """
        with _lock:
            model, self._here().model = self._here().model, None
        if model is not None:
            model.close()

    def __enter__(self: A) -> A:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _here(self) -> _Here:
        if self._last is None or self._last.process != os.getpid():
            self._last = _Here(os.getpid(), is_forked=self._last is not None)
        return self._last

    def _make_model(self) -> JudgeModel:
        with _lock:
            here = self._here()
            if here.model is None:
                here.model = make_judge_model(self.model, self.model_id, self.params or {}, here.is_forked)
            return here.model

    def _count(self, **more: int) -> None:
        with _lock:
            self._here().counts.update(more)

    def _ask(self, question: Question) -> dict[str, JSON]:
        """Return the verdict, from the cache or from the model.

        Raises:
            NoVerdictError: There is none.
        """
        model = self._make_model()
        if self._verdicts is None:
            return self._converse(model, question)
        key = question.digest(model.identity)
        if (kept := self._verdicts.get(key)) is not None:
            try:
                verdict = parse_verdict(kept, question.schema)
                self._count(cache_hits=1)
                return verdict
            except ValueError:
                self._verdicts.discard(key, kept)
        return parse_verdict(self._verdicts.put(key, json.dumps(self._converse(model, question))), question.schema)

    def _converse(self, model: JudgeModel, question: Question) -> dict[str, JSON]:
        """Call the model until there is a verdict, and correct it once."""
        turns = [("user", question.user)]
        forced, attempts, sent = model.forces_form, 0, 0
        while True:
            self._count(calls=1, retries=int(attempts > 0 or forced != model.forces_form))
            try:
                reply = model.ask(question.system, turns, question.schema if forced else None, self.timeout_seconds)
                model.forces_form = forced
                self._count(input_tokens=reply.input_tokens, output_tokens=reply.output_tokens)
                if reply.refusal:
                    raise CallFailedError(Failure.REFUSED, reply.refusal)
                return parse_verdict(reply.text, question.schema)
            except (ValueError, RecursionError) as problem:
                failed = CallFailedError(Failure.MALFORMED, f"{problem}"[:300], was_sent=True)
                said = reply.text[:_LONGEST_QUOTE].strip() or "(nothing)"
                turns = [turns[0], ("assistant", said), ("user", question.correction(failed.detail))]
            except CallFailedError as error:
                failed = error
            sent += failed.was_sent
            if forced and failed.blames_form and sent < _MOST_ANSWERS:
                forced = False  # many models know no forced tool, or cannot think with one
                continue
            attempts += 1
            is_last = attempts == self.max_attempts or sent == _MOST_ANSWERS
            if is_last or failed.failure in (Failure.REFUSED, Failure.ERROR):
                self._count(failures=1)
                # Only the class of the error: services quote the prompt, and headers, in what they answer.
                kind = type(failed.__cause__ or failed).__name__
                logger.warning(
                    "attempts=<%d>, failure=<%s>, error=<%s> | no verdict", attempts, failed.failure.value, kind
                )
                raise NoVerdictError(failed.failure, failed.detail)
            if failed.failure is not Failure.MALFORMED:
                self.sleep(self.backoff.delay(attempts, failed.retry_after))

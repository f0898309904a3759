"""Scores the rows of a batch within the time that a Lambda function has left, also when some of them hang."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.rewards._alarm import ended_after, has_alarm, leave_alarms_to_main_thread
from aws_rft_sdk.rewards.rollout import RewardResult

_REPLY_SECONDS = 0.5
"""Time that is kept for sending the reply."""
_LEAST_SECONDS = 0.01
"""Time for a row when only `_REPLY_SECONDS` are left. It is enough for most rewards."""
_TOO_LATE_SECONDS = 0.1
"""With less time left no row begins."""
_LOOK_SECONDS = 0.1
"""How often somebody looks whether the reward waits, and whether the time of a row is over."""
_TIME_IS_OVER = "the time is over"


class Unscored(NamedTuple):
    """Why a row has no reward."""

    reason: str
    error: BaseException | None = None
    result: RewardResult | None = None
    """The reward's own result, with its components. None if there is none."""


Outcome = RewardResult | Unscored


class Batch:
    """The rows of one invocation.

    The calling thread scores rows one after the other, each under an alarm, which ends code that computes for ever.
    Alarms strike in the main thread only. So other threads help only while the reward waits: they are given up when
    their time is over, and keep running. Lambda freezes them with the function.

    Args:
        score: Scores one row. What it raises is the row's reason to have no reward.
        rows: The rows, in order.
        context: Lambda's context, which knows the time that is left, or anything else.
    """

    def __init__(self, score: Callable[[JSON], Outcome], rows: Sequence[JSON], context: Any) -> None:
        self._score = score
        self._context = context
        self._size = len(rows)
        self._waiting = deque(enumerate(rows))
        self._ends: dict[int, float] = {}
        """When the time of a row in progress is over, by its position."""
        self._outcomes: dict[int, Outcome] = {}
        self._begun = threading.Event()
        self._changed = threading.Condition()

    def run(self, concurrency: int) -> list[Outcome]:
        """Return one outcome for each row, in order. Raises `KeyboardInterrupt` if the main thread is interrupted."""
        works = has_alarm() or concurrency == 1
        try:
            if not works:
                self._start(self._work, min(concurrency, self._size))
            elif concurrency > 1 and self._size > 1:
                self._start(lambda: self._watch(concurrency - 1))
            if works:
                self._work()
            with self._changed:
                while len(self._outcomes) < self._size:
                    self._changed.wait(_LOOK_SECONDS)
                    self._give_up_late_rows()
            return [self._outcomes[position] for position in range(self._size)]
        finally:
            self._waiting.clear()

    def _start(self, function: Callable[[], None], count: int = 1) -> None:
        def run() -> None:
            leave_alarms_to_main_thread()
            function()

        for _ in range(count):
            threading.Thread(target=run, name="rft-row", daemon=True).start()

    def _watch(self, helpers: int) -> None:
        """Start helpers once the process waits for half of the time or more."""
        self._begun.wait()
        wall, processor = time.monotonic(), time.process_time()
        while self._waiting:
            time.sleep(_LOOK_SECONDS)
            now, used = time.monotonic(), time.process_time()
            if used - processor < (now - wall) / 2:
                return self._start(self._work, min(helpers, len(self._waiting)))
            wall, processor = now, used

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._waiting:
                    return
                seconds = self._share_of_time()
                position, row = self._waiting.popleft()
                self._ends[position] = float("inf") if seconds is None else time.monotonic() + seconds
                self._begun.set()
            outcome = self._one(row, seconds)
            with self._changed:
                self._ends.pop(position, None)
                self._outcomes.setdefault(position, outcome)
                self._changed.notify()

    def _one(self, row: JSON, seconds: float | None) -> Outcome:
        if seconds == 0:
            return Unscored("no time was left for this row")
        try:
            with ended_after(seconds):
                return self._score(row)
        except BaseException as error:  # a panic of an extension or a cancellation is no Exception
            if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
                raise
            # One bad row must not cost the batch its rewards.
            return Unscored(f"{type(error).__name__}: {error}", error)

    def _give_up_late_rows(self) -> None:
        now = time.monotonic()
        for position in [position for position, end in self._ends.items() if end <= now]:
            del self._ends[position]
            self._outcomes[position] = Unscored(_TIME_IS_OVER)
            self._start(self._work)  # in place of the thread that hangs

    def _share_of_time(self) -> float | None:
        """Return the seconds that a row may take: half of those that are left, None when nobody knows, 0 for none."""
        ask = getattr(self._context, "get_remaining_time_in_millis", None)
        millis = ask() if callable(ask) else None
        if not isinstance(millis, int | float):
            return None
        left = millis / 1000
        return 0.0 if left < _TOO_LATE_SECONDS else max((left - _REPLY_SECONDS) / 2, _LEAST_SECONDS)

"""Rollouts of one handler in this process: a bounded number at once, each trajectory once, each with a deadline."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NamedTuple

from aws_rft_sdk._checks import check_seconds
from aws_rft_sdk.agent_rft import ROLLOUT_CONCURRENCY
from aws_rft_sdk.context import RFTContext
from aws_rft_sdk.errors import AtCapacityError, ConfigurationError, GivenUpError, ShuttingDownError
from aws_rft_sdk.failures import chain_of
from aws_rft_sdk.feedback import redrive
from aws_rft_sdk.feedback.outbox import shared_outbox
from aws_rft_sdk.lifecycle import one_rollout
from aws_rft_sdk.lifecycle.calling import DEADLINE_SECONDS, Ended, Handler, run_handler
from aws_rft_sdk.lifecycle.shutdown import GRACE_SECONDS, REPORT_SHARE, Drained, give_up
from aws_rft_sdk.workers._loop import BEAT_SECONDS, LoopThread
from aws_rft_sdk.workers._memory import Key, Memory, Remembered
from aws_rft_sdk.workers._payloads import read_rollout
from aws_rft_sdk.workers.outcomes import Figures, counted_as, is_settled, log_outcome

logger = logging.getLogger(__name__)

MAX_ROLLOUTS = ROLLOUT_CONCURRENCY
"""The service's own limit of rollouts in flight."""
REMEMBERED = 10_000
MAX_RETRY_SECONDS = 30.0
_REPORT_SECONDS = 30.0
"""Longest share of a grace period that is kept for reporting what did not end."""

_STUCK_SECONDS = 5.0
"""Until a pool that is stuck is taken for lost. Some tools end a moment after the deadline of their rollout."""
LOST = "functions or tools hang in as many threads as there are slots, or block the event loop; start this worker anew"

_NEW, _OPEN, _DRAINING, _CLOSED = "new", "open", "draining", "closed"


class Submitted(NamedTuple):
    """A rollout that a pool has accepted."""

    trajectory_id: str
    repeated: bool
    """It was running or done already: nothing was started."""
    ended: Future[Ended]
    """What becomes of it. Never raises what the handler raised: that is in `Ended.error`. Cannot be cancelled; what
    waits for it may leave. Its callbacks run in the pool's event loop and must not block."""


@dataclass(eq=False)
class _Entry:
    """One rollout in progress."""

    began: float = field(default_factory=time.monotonic)
    ended: Future[Ended] = field(default_factory=Future)
    work: asyncio.Task[Ended] | None = None
    given_up: bool = False
    context: RFTContext | None = None
    """Set when it was given up; before that only the handler has it."""


class RolloutPool:
    """Runs rollouts of one handler in this process: a bounded number at once, each trajectory once, with a deadline.

    Coroutine handlers run in one event loop in a thread of the pool's, others in a thread each. A trajectory is known
    by its job and its id: one that is running, or whose outcome the runtime knows or an outbox holds, is not run again;
    one that ended unreported is.

    A thread cannot be stopped. A function that hangs past its deadline is reported, and keeps its slot until it ends.
    A tool of a coroutine handler that hangs takes no slot and no thread from other rollouts. `figures` counts both.
    When as many threads hang as there are slots, the pool refuses rollouts, and the process should be replaced:
    `is_stuck`, `should_end`.

    Use it as a context manager, or call `start` and `close`. The first rollout starts it too. After `close` it can be
    started again.

    Args:
        handler: A function of any kind, decorated with `rft_handler`.
        max_rollouts: How many may be in progress at once.
        deadline_seconds: For one rollout and its feedback; past it, it is reported as an error.
        remember: How many trajectories that ended are remembered: the last 100 with what their handler returned,
            older ones with their reward.

    Concurrency: safe from any thread.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        max_rollouts: int = MAX_ROLLOUTS,
        deadline_seconds: float = DEADLINE_SECONDS,
        remember: int = REMEMBERED,
    ) -> None:
        if not callable(handler):
            raise ConfigurationError(f"the handler is a {type(handler).__name__}, not a function")
        if max_rollouts < 1:
            raise ConfigurationError(f"max_rollouts is {max_rollouts}; it must be at least 1")
        check_seconds("deadline_seconds", deadline_seconds)
        self.handler = handler
        self.max_rollouts = max_rollouts
        self.deadline_seconds = deadline_seconds
        self._phase = _NEW
        self._changed = threading.Condition()  # guards all that follows
        self._running: dict[Key, _Entry] = {}
        self._done = Memory(remember)
        self._hung: list[Callable[[], bool]] = []
        self._stuck_since: float | None = None
        self._calls = 0
        self._started = self._repeated = self._refused = 0
        self._outcomes = dict.fromkeys(("completed", "failed", "late", "unreported"), 0)
        self._mean_seconds = 0.0
        self.loop = LoopThread("rft-pool")  # these two are others with each start
        self._over = threading.Event()

    # --- life --------------------------------------------------------------------------------------------------------

    def start(self) -> RolloutPool:
        """Begin to accept rollouts, and to deliver what an earlier process left in the outbox that `RFT_OUTBOX` names.

        Safe to repeat while it is open.

        Raises:
            ShuttingDownError: It is draining.
            OutboxError: That outbox cannot be written, so no rollout could begin.
        """
        outbox = shared_outbox(None)
        if outbox is not None:
            outbox.prune()  # writes
        with self._changed:
            if self._phase is _OPEN:
                return self
            if self._phase is _DRAINING:
                raise ShuttingDownError("this pool is draining; close it before it is started again")
            self.loop, self._over = LoopThread("rft-pool"), threading.Event()
            self._stuck_since = None
            self.loop.start()
            threading.Thread(target=self._watch, args=(self.loop, self._over), name="rft-watch", daemon=True).start()
            self._phase = _OPEN
        if outbox is not None:
            redrive.start_in_background(outbox)
        return self

    def close(self) -> None:
        """End: rollouts that are still in progress are reported as errors. Safe to repeat."""
        self._finish(0.0, GRACE_SECONDS * REPORT_SHARE)
        with self._changed:
            self._phase = _CLOSED
        self._over.set()
        self.loop.stop()

    def drain(self, grace_seconds: float = GRACE_SECONDS) -> Drained:
        """Refuse new rollouts, wait for those in progress, and report those that do not end in time. Blocks.

        Safe to repeat. Unlike `shutdown.drain` it is about this pool only, and rollouts that were accepted and have not
        begun still begin.

        Args:
            grace_seconds: For all of it. A fifth, and at most 30 s, is kept for reporting.

        Returns:
            What became of the rollouts. New ones are still refused.
        """
        check_seconds("grace_seconds", grace_seconds)
        return self._finish(grace_seconds - min(grace_seconds * REPORT_SHARE, _REPORT_SECONDS), grace_seconds)

    def __enter__(self) -> RolloutPool:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- figures -----------------------------------------------------------------------------------------------------

    @property
    def running(self) -> int:
        """Rollouts and calls in progress."""
        return len(self._running) + self._calls

    @property
    def free(self) -> int:
        """How many more may begin now; 0 when draining."""
        return self.figures().free

    @property
    def is_stuck(self) -> bool:
        """Whether this process should be replaced: as many threads hang as there are slots, or the loop is blocked.

        The loop counts as blocked once it has not moved for longer than a rollout may take.
        """
        return self.figures().hung >= self.max_rollouts or self._is_blocked

    @property
    def should_end(self) -> bool:
        """Whether it has been stuck for 5 s. Its process should end then. `drain` it for `ending_seconds`."""
        since = self._stuck_since
        return since is not None and time.monotonic() - since > _STUCK_SECONDS

    def ending_seconds(self, grace_seconds: float) -> float:
        """Return how long a pool that should end may take for that: what runs may reach its own deadline.

        Args:
            grace_seconds: For reporting what does not end. It is all the time there is if the loop is blocked.
        """
        return grace_seconds if self._is_blocked else self.deadline_seconds + _REPORT_SECONDS + grace_seconds

    @property
    def _is_blocked(self) -> bool:
        return self.loop.stalled_seconds > self.deadline_seconds

    def figures(self) -> Figures:
        """Return what it is doing, and what it has done."""
        with self._changed:
            free = self._count_free()
            return Figures(
                running=self.running,
                hung=self._count_hung(),
                free=free if self._phase in (_NEW, _OPEN) else 0,
                draining=self._phase is _DRAINING,
                stalled_seconds=self.loop.stalled_seconds,
                started=self._started,
                repeated=self._repeated,
                refused=self._refused,
                ended=dict(self._outcomes),
            )

    # --- rollouts ----------------------------------------------------------------------------------------------------

    def submit(self, payload: Mapping[str, Any]) -> Submitted:
        """Begin a rollout, unless it is running or done. Returns at once.

        Args:
            payload: What the service sends, in any spelling. It must not be changed afterwards.

        Raises:
            PayloadError: It is malformed, or no rollout, or has no prompt.
            AtCapacityError: All slots are taken; says after how many seconds it is worth another try.
            ShuttingDownError: It begins no more rollouts.
            OutboxError: It was not started yet, and its outbox cannot be written.
        """
        request = read_rollout(payload)
        key = (request.job_arn, request.trajectory_id)
        self._start_if_new()
        with self._changed:
            known = self._find(key)
            if known is not None:
                self._repeated += 1
                return Submitted(request.trajectory_id, True, known)
            self._check_room(f"trajectory {request.trajectory_id}")
            entry = self._running[key] = _Entry()
            # A future that counts as running cannot be cancelled by one of several who wait for it.
            entry.ended.set_running_or_notify_cancel()
            self._started += 1
            self.loop.submit(self._run(key, entry, payload))  # here, or the loop may be closed in between
        return Submitted(request.trajectory_id, False, entry.ended)

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Hold a slot for the body of a `with`: for calls that are no rollouts. Raises what `submit` raises."""
        self._start_if_new()
        with self._changed:
            self._check_room("the call")
            self._calls += 1
        try:
            yield
        finally:
            with self._changed:
                self._calls -= 1
                self._changed.notify_all()

    def note_hung(self, lingers: Callable[[], bool]) -> None:
        """Let a function that runs past its deadline keep a slot for as long as `lingers` says."""
        with self._changed:
            self._hung.append(lingers)

    def find(self, trajectory_id: str, job_arn: str | None = None) -> list[Future[Ended] | Remembered]:
        """Return what is known of a trajectory: a future while it is running, else what became of it.

        Args:
            trajectory_id: Its id.
            job_arn: Its job. None for all jobs that have a trajectory with this id.
        """
        with self._changed:
            keys = [(job_arn, trajectory_id)] if job_arn is not None else []
            if job_arn is None:
                keys = [key for key in dict.fromkeys((*self._running, *self._done)) if key[1] == trajectory_id]
            running = [self._running[key].ended for key in keys if key in self._running]
            done = [self._done.find(key) for key in keys if key not in self._running]
            return [*running, *(remembered for remembered in done if remembered is not None)]

    def _find(self, key: Key) -> Future[Ended] | None:
        if key in self._running:
            return self._running[key].ended
        remembered = self._done.find(key)
        if remembered is None or not is_settled(remembered.ended):
            return None
        again: Future[Ended] = Future()
        again.set_result(remembered.ended)
        return again

    def _count_hung(self) -> int:
        self._hung = [lingers for lingers in self._hung if lingers()]
        return len(self._hung) + self.loop.threads.hung

    def _count_free(self) -> int:
        if self._count_hung() >= self.max_rollouts:
            return 0
        return max(0, self.max_rollouts - self.running - len(self._hung))

    def _start_if_new(self) -> None:
        if self._phase is _NEW:  # an application whose lifespan nobody runs: mounted in another one, or in a test
            self.start()

    def _check_room(self, subject: str) -> None:
        if self._phase is not _OPEN:
            raise ShuttingDownError(f"this process is shutting down; deliver {subject} to another one")
        if self._count_hung() >= self.max_rollouts:
            self._refused += 1
            raise ShuttingDownError(f"{subject} is not begun here: {LOST}")
        if self._count_free() < 1:
            self._refused += 1
            # With all slots taken, one is free after the mean duration divided by their number.
            seconds = min(MAX_RETRY_SECONDS, max(1.0, self._mean_seconds / self.max_rollouts))
            raise AtCapacityError(
                f"all {self.max_rollouts} slots are taken; deliver {subject} again in {seconds:.0f} s",
                retry_after_seconds=seconds,
            )

    async def _run(self, key: Key, entry: _Entry, payload: Mapping[str, Any]) -> None:
        work = asyncio.ensure_future(
            run_handler(self.handler, payload, deadline_seconds=self.deadline_seconds, trajectory_id=key[1])
        )
        entry.work = work
        if entry.given_up:
            work.cancel()
        await asyncio.wait([work])
        ended = self._ended(entry, work)
        log_outcome(key[1], ended)
        for error in chain_of(ended.error):
            traceback.clear_frames(error.__traceback__)  # they hold the agent and its whole conversation
        remembered = Remembered.of(ended)
        with self._changed:
            del self._running[key]
            self._note(key, remembered)
            self._changed.notify_all()
        entry.ended.set_result(ended)

    def _ended(self, entry: _Entry, work: asyncio.Task[Ended]) -> Ended:
        seconds = time.monotonic() - entry.began
        if work.cancelled():
            return Ended(None, GivenUpError("it was given up, for the shutdown of its process"), entry.context, seconds)
        error = work.exception()
        if error is not None:
            return Ended(None, error, entry.context, seconds)
        ended = work.result()
        if ended.error is None and ended.context is not None and ended.context.outcome == "failed":
            # Given up meanwhile, and reported so: what its function returned after that counts for nothing.
            return ended._replace(result=None, error=GivenUpError("it was given up before its function returned"))
        return ended

    def _note(self, key: Key, remembered: Remembered) -> None:
        ended = remembered.ended
        self._outcomes[counted_as(ended)] += 1
        share = 0.1 if self._mean_seconds else 1.0
        self._mean_seconds += share * (ended.seconds - self._mean_seconds)
        if ended.lingers():
            logger.error("trajectory_id=<%s> | its function hangs past the deadline and keeps its slot", key[1])
            self.note_hung(ended.lingers)
        # Not the future, which keeps whatever its callbacks hold: a message's body, a caller's connection.
        self._done.add(key, remembered)

    # --- a loop that is blocked --------------------------------------------------------------------------------------

    def _watch(self, loop: LoopThread, over: threading.Event) -> None:
        """Report what is past its deadline while a handler blocks the loop, which else keeps the deadlines."""
        while not over.wait(BEAT_SECONDS):
            self._stuck_since = (self._stuck_since or time.monotonic()) if self.is_stuck else None
            if loop.stalled_seconds:
                try:
                    self._report_late(time.monotonic())
                except Exception:
                    # Whatever it is: nobody else keeps the deadlines now.
                    logger.exception("what is past its deadline could not be reported; it is tried again")

    def _report_late(self, now: float) -> None:
        with self._changed:
            late = {
                key: entry
                for key, entry in self._running.items()
                if entry.context is None and now - entry.began > self.deadline_seconds
            }
        why = f"the rollout was not over after {self.deadline_seconds:g} s, and a handler blocks the event loop"
        self._report(late, now + _REPORT_SECONDS, why)

    def _report(self, late: dict[Key, _Entry], end: float, *why: str) -> None:
        """Report rollouts as errors from threads of its own: a handler may block the loop for good."""
        keys = {rollout: (rollout.context.job_arn, rollout.context.trajectory_id) for rollout in one_rollout.running()}
        rollouts = [rollout for rollout, key in keys.items() if key in late]
        if rollouts:
            give_up(rollouts, end, *why)
        for rollout in rollouts:
            late[keys[rollout]].context = rollout.context

    # --- the end -----------------------------------------------------------------------------------------------------

    def _finish(self, wait_seconds: float, report_seconds: float) -> Drained:
        """Wait for what is in progress, and give up the rest until `report_seconds` from now."""
        began = time.monotonic()
        with self._changed:
            if self._phase is not _CLOSED:
                self._phase = _DRAINING
            count = len(self._running)
            self._changed.wait_for(lambda: not self.running, timeout=wait_seconds)
            late = dict(self._running)
        if late:
            logger.warning("rollouts=<%d> | did not finish before the shutdown and are reported as errors", len(late))
            self._give_up(late, began + report_seconds)
        return Drained(finished=count - len(late), given_up=len(late))

    def _give_up(self, late: dict[Key, _Entry], end: float) -> None:
        self._report(late, end)
        self.loop.call(_cancel, list(late.values()))
        with self._changed:
            self._changed.wait_for(lambda: not self._running, timeout=max(0.0, end - time.monotonic()))


def _cancel(entries: list[_Entry]) -> None:
    for entry in entries:
        entry.given_up = True
        if entry.work is not None:
            entry.work.cancel()

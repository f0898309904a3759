"""Threads for what blocks in an event loop, such as the synchronous tools of agents. A job that hangs costs one thread.

asyncio's own pool has a handful of threads. Jobs that never end take them one by one. Then no other rollout of the loop
gets a thread any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, ParamSpec, TypeVar

from aws_rft_sdk._fork import in_forked_child
from aws_rft_sdk.context import RFTContext
from aws_rft_sdk.lifecycle.containing import TaskFactory, contained, containing

P = ParamSpec("P")
T = TypeVar("T")

BUSY_THREADS = 512
"""Of one loop. The service has at most 96 rollouts in flight, and one rollout may run several tools at once."""
HUNG_THREADS = 512
"""Threads that may hang before further ones count as busy."""
_SDK_THREADS = 64
_IDLE_SECONDS = 10.0
_POLL_SECONDS = 0.1


class DaemonThreads(ThreadPoolExecutor):
    """An executor of daemon threads that jobs which hang cannot use up.

    A job gets an idle thread, else a new one. It waits while `busy_threads` threads run jobs that do not hang.

    Within a rollout, a job that raises what event loops cannot take raises a `HandlerError` instead (see `contained`).
    Outside of rollouts, that holds for StopIteration only.

    A job hangs if it runs although nobody uses its result any more: the rollout in whose context it was submitted is
    over, or whoever awaited it was cancelled. Neither `shutdown` nor the end of the interpreter waits for such a job.

    Args:
        busy_threads: Threads at most, without those that hang.
        hung_threads: How many threads may hang before further ones count as busy.

    Concurrency: safe from any thread.
    """

    # asyncio takes no other class for a loop's default executor. Nothing else of the base class is used.

    def __init__(self, busy_threads: int = BUSY_THREADS, hung_threads: int = HUNG_THREADS) -> None:
        super().__init__(busy_threads)
        self._busy_threads = busy_threads
        self._hung_threads = hung_threads
        self._changed = threading.Condition()  # guards all that follows
        self._waiting: deque[_Job[Any]] = deque()
        self._running: set[_Job[Any]] = set()
        self._idle = 0
        """Threads that take the next job, those included that have just been started."""
        self._watched = False
        self._closed = False

    @property
    def hung(self) -> int:
        """How many threads run jobs that hang."""
        with self._changed:
            return sum(job.hangs for job in self._running)

    @property
    def is_exhausted(self) -> bool:
        """Whether so many threads hang that jobs may wait for good."""
        return len(self._running) >= self._hung_threads and self.hung >= self._hung_threads

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run `fn` in a thread.

        Raises:
            RuntimeError: It was shut down, or the operating system gives no more threads.
        """
        job = _Job(partial(fn, *args, **kwargs))
        with self._changed:
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._waiting.append(job)
            try:
                self._grow()
            except RuntimeError:
                self._waiting.remove(job)
                raise
            self._changed.notify()
        return job

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more jobs. Safe to repeat.

        Args:
            wait: Whether to return only when all jobs have ended, except those that hang.
            cancel_futures: Whether to cancel the jobs that have not begun.
        """
        with self._changed:
            self._closed = True
            waiting = list(self._waiting) if cancel_futures else []
        for job in waiting:
            job.cancel()
        with self._changed:
            self._changed.notify_all()
            while wait and (self._waiting or not all(job.hangs for job in self._running)):
                self._changed.wait(_POLL_SECONDS)

    # --- with the lock held ---

    def _grow(self) -> None:
        """Start a thread for each job that no idle thread takes. Beyond the limit, start one that tries again."""
        while len(self._waiting) > self._idle:
            if self._may_grow():
                threading.Thread(target=self._work, name="rft-blocking", daemon=True).start()
                self._idle += 1
            else:
                if not self._watched:
                    threading.Thread(target=self._watch, name="rft-blocking-watch", daemon=True).start()
                    self._watched = True
                return

    def _may_grow(self) -> bool:
        threads = self._idle + len(self._running)
        if threads < self._busy_threads:
            return True
        return threads - min(self._hung_threads, sum(job.hangs for job in self._running)) < self._busy_threads

    # --- in the threads ---

    def _work(self) -> None:
        while self._run_next():
            pass

    def _run_next(self) -> bool:
        with self._changed:
            while not self._waiting:
                if self._closed or not (self._changed.wait(_IDLE_SECONDS) or self._waiting):
                    self._idle -= 1
                    return False
            job = self._waiting.popleft()
            self._idle -= 1
            self._running.add(job)
        job.run()
        with self._changed:
            self._running.discard(job)
            self._idle += 1
        return True

    def _watch(self) -> None:
        """Start threads as others are found to hang, until no job waits for one."""
        while True:
            time.sleep(_POLL_SECONDS)
            with self._changed, contextlib.suppress(RuntimeError):
                self._grow()
                if len(self._waiting) <= self._idle:
                    self._watched = False
                    return


class _Job(Future[T]):
    def __init__(self, fn: Callable[[], T]) -> None:
        super().__init__()
        self._fn: Callable[[], T] | None = fn
        self._rollout = RFTContext.current()
        self._abandoned = False

    @property
    def hangs(self) -> bool:
        """Whether nobody uses its result any more. For a job that runs."""
        return self._abandoned or (self._rollout is not None and self._rollout.outcome is not None)

    def cancel(self) -> bool:
        cancelled = super().cancel()
        self._abandoned = not cancelled
        return cancelled

    def run(self) -> None:
        fn, self._fn = self._fn, None
        if fn is None or not self.set_running_or_notify_cancel():
            return
        try:
            result = fn()
        except BaseException as error:
            is_contained = self._rollout is not None or isinstance(error, StopIteration)
            self.set_exception(contained(error) if is_contained else error)
            del self  # the error's traceback holds this frame
        else:
            self.set_result(result)


@contextlib.contextmanager
def hosting_handlers(loop: asyncio.AbstractEventLoop) -> Iterator[DaemonThreads]:
    """Make a loop fit for handlers for the body of a `with`. Then restore what was there before.

    Its default executor becomes `DaemonThreads`, and its tasks are contained (see `containing`). Whoever enters for the
    same loop meanwhile shares these threads. The last one to leave restores.
    """
    before: ThreadPoolExecutor | None = getattr(loop, "_default_executor", None)  # there is no public way to ask
    threads = before if isinstance(before, _LoopThreads) else _LoopThreads(before, loop.get_task_factory())
    if not threads.users:
        loop.set_default_executor(threads)
        loop.set_task_factory(containing(threads.factory_before))
    threads.users += 1
    try:
        yield threads
    finally:
        threads.users -= 1
        if not threads.users:
            loop.set_default_executor(threads.before)
            loop.set_task_factory(threads.factory_before)
            threads.shutdown(wait=False)


class _LoopThreads(DaemonThreads):
    def __init__(self, before: ThreadPoolExecutor | None, factory_before: TaskFactory | None) -> None:
        super().__init__()
        self.users = 0
        self.factory_before = factory_before
        # A loop without an executor makes such a one when it needs it, and cannot be told to have none.
        self.before = before or ThreadPoolExecutor(thread_name_prefix="asyncio")


_sdk_threads = DaemonThreads(_SDK_THREADS)


async def in_sdk_thread(fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a blocking call of this package's own, as `asyncio.to_thread` does, and not in a thread for handlers."""
    call = partial(contextvars.copy_context().run, fn, *args, **kwargs)
    return await asyncio.wrap_future(_sdk_threads.submit(call))


@in_forked_child
def _forget_after_fork() -> None:
    global _sdk_threads
    _sdk_threads = DaemonThreads(_SDK_THREADS)  # threads do not survive a fork

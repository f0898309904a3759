"""Runs math-verify in processes that end themselves when an expression takes too long."""

from __future__ import annotations

import atexit
import functools
import importlib
import json
import logging
import os
import selectors
import signal
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from aws_rft_sdk._fork import in_forked_child

if TYPE_CHECKING:
    import subprocess

_WORKERS = min(4, os.cpu_count() or 1)
"""Processes at most, each of about 70 MB; one thread needs one."""
_START_SECONDS = 120.0
_PATIENCE = 30.0
"""How many seconds of the clock a worker may take for a second of processor time."""
_MEMORY_BYTES = 2**31
_READY, _GOLD, _NO_GOLD, _EQUAL, _OTHER = b"R", b"G", b"N", b"E", b"O"
_HEAD_BYTES = 8

_PROGRAM = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from aws_rft_sdk.rewards import _math_worker
_math_worker.serve()
"""


class WorkerStartError(Exception):
    """No worker could be started: math-verify cannot be imported, or the system allows no more processes."""


class _LostError(Exception):
    def __init__(self, how: Literal["exhausted", "starved", "ended"], *, had_gold: bool) -> None:
        self.how, self.had_gold = how, had_gold


class _Worker:
    """A process with math-verify loaded, for one question at a time."""

    def __init__(self) -> None:
        import subprocess

        command = [sys.executable, "-c", _PROGRAM, json.dumps([os.fspath(path) for path in sys.path])]
        self.process: subprocess.Popen[bytes] = subprocess.Popen(  # noqa: S603 - our own interpreter and program
            command,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # an interrupt in the terminal is for us, not for it
        )
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._pipe("stdout"), selectors.EVENT_READ)
        try:
            self._expect(_START_SECONDS)
        except _LostError as error:
            raise WorkerStartError from error

    def ask(self, gold: str, answer: str, seconds: float) -> bool | None:
        """Return whether the answer is equal to the gold; None for a gold without an expression.

        Raises:
            _LostError: The process ended without saying, and is of no more use.
        """
        data = json.dumps([gold, answer, seconds]).encode()
        data = len(data).to_bytes(_HEAD_BYTES, "big") + data
        try:
            while data:
                data = data[os.write(self._pipe("stdin"), data) :]
        except BrokenPipeError:
            raise self._lost("ended", had_gold=False) from None
        if self._expect(seconds * _PATIENCE) == _NO_GOLD:
            return None
        return self._expect(seconds * _PATIENCE, had_gold=True) == _EQUAL

    def close(self) -> None:
        """End the process, at whatever it is."""
        self.process.kill()
        self.process.wait()
        self.forget()

    def forget(self) -> None:
        """Close our ends; in a forked process, where the worker is another's."""
        self._selector.close()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        self.process.returncode = self.process.returncode or 0  # a process that is not ours is not to be waited for

    def _expect(self, seconds: float, *, had_gold: bool = False) -> bytes:
        if not self._selector.select(seconds):
            raise self._lost("starved", had_gold=had_gold)
        said = os.read(self._pipe("stdout"), 1)
        if not said:
            raise self._lost("ended", had_gold=had_gold)
        return said

    def _lost(self, how: Literal["starved", "ended"], *, had_gold: bool) -> _LostError:
        exhausted = how == "ended" and self.process.wait() == -signal.SIGPROF
        self.close()
        return _LostError("exhausted" if exhausted else how, had_gold=had_gold)

    def _pipe(self, name: str) -> int:
        return int(getattr(self.process, name).fileno())


class Pool:
    """Workers that are started on use, shared by all threads, and never by two processes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free = threading.BoundedSemaphore(_WORKERS)
        self._idle: list[_Worker] = []
        self._all: set[_Worker] = set()

    def is_equal(self, gold: str, answer: str, seconds: float) -> bool | None:
        """Return whether an answer is equal to the gold, which an answer that takes too long is not.

        Args:
            gold: The right expression, as math-verify reads it.
            answer: The answer.
            seconds: Processor time for each of the two.

        Returns:
            None when the gold has no expression or takes too long itself, or when the machine gave no processor time.

        Raises:
            WorkerStartError: No worker could be started.
        """
        with self._free:
            try:
                return self._ask(gold, answer, seconds)
            except _LostError as lost:
                if lost.how == "ended":
                    # Perhaps somebody else ended it; what ends two workers in a row is the expression.
                    try:
                        return self._ask(gold, answer, seconds, fresh=True)
                    except _LostError as again:
                        lost = again
                return False if lost.had_gold and lost.how != "starved" else None

    def _ask(self, gold: str, answer: str, seconds: float, *, fresh: bool = False) -> bool | None:
        worker = self._take(fresh)
        try:
            verdict = worker.ask(gold, answer, seconds)
        except BaseException:
            with self._lock:
                self._all.discard(worker)
            worker.close()  # interrupted: its reply would be taken for that to the next question
            raise
        with self._lock:
            self._idle.append(worker)
        return verdict

    def close(self) -> None:
        """End all workers. The pool may be used again."""
        with self._lock:
            workers, self._all, self._idle = self._all, set(), []
        for worker in workers:
            worker.close()

    def forget(self) -> None:
        """Leave the workers to the process that this one was forked from. The pool is of no more use."""
        for worker in self._all:
            worker.forget()

    def _take(self, fresh: bool) -> _Worker:
        with self._lock:
            worker = self._idle.pop() if self._idle else None
            if worker is not None and not fresh:
                return worker
            self._all.discard(worker)
        if worker is not None:
            worker.close()
        try:
            worker = _Worker()
        except OSError as error:
            raise WorkerStartError from error
        with self._lock:
            self._all.add(worker)
        return worker


_pool = Pool()


def is_equal(gold: str, answer: str, seconds: float) -> bool | None:
    """Ask the pool of this process, see `Pool.is_equal`."""
    return _pool.is_equal(gold, answer, seconds)


@in_forked_child
def _forget_after_fork() -> None:
    global _pool
    _pool.forget()
    _pool = Pool()  # a lock that another thread held at the fork would never be released


atexit.register(lambda: _pool.close())


def serve() -> None:
    """Answer questions from stdin until it is closed. What a worker does."""
    library = importlib.import_module("math_verify")
    logging.disable()
    resource = importlib.import_module("resource")
    try:
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    except (OSError, ValueError):
        pass  # macOS refuses it, and a lower limit may be in force
    # What is loaded on first use is not to count against an answer.
    library.verify(
        *(library.parse(text, parsing_timeout=None) for text in (r"$\frac{x}{2}$", "$x/2$")), timeout_seconds=None
    )
    os.write(1, _READY)
    while head := _read(_HEAD_BYTES):
        gold, answer, seconds = json.loads(_read(int.from_bytes(head, "big")))
        parsed = _within(seconds, _parse_gold, library, gold)
        os.write(1, _GOLD if parsed else _NO_GOLD)
        if parsed:
            os.write(1, _EQUAL if _within(seconds, _is_equal, library, parsed, answer) else _OTHER)


@functools.lru_cache(1_024)  # a group of rollouts has one ground truth
def _parse_gold(library: Any, gold: str) -> Any:
    parsed = library.parse(gold, parsing_timeout=None)
    # What cannot even be compared with 0 in time is no fault of the answer.
    library.verify(parsed, library.parse("0", parsing_timeout=None), timeout_seconds=None)
    return parsed


def _is_equal(library: Any, gold: Any, answer: str) -> Any:
    # The order matters: verify(gold, answer) is not symmetric.
    return library.verify(gold, library.parse(answer, parsing_timeout=None), timeout_seconds=None)


def _within(seconds: float, do: Callable[..., Any], *arguments: Any) -> Any:
    """Return what `do` returns, None when it raises. When it takes too long, the signal ends this process.

    No handler is set: Python would run it only between two of its instructions, and a power may take hours.
    """
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        return do(*arguments)
    except Exception:
        return None
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _read(size: int) -> bytes:
    data = b""
    while len(data) < size and (part := os.read(0, size - len(data))):
        data += part
    return data

"""Runs math-verify in processes that end themselves when an expression takes too long."""

from __future__ import annotations

import atexit
import functools
import importlib
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

from aws_rft_sdk._fork import in_forked_child

_WORKERS = min(4, os.cpu_count() or 1)
"""Processes at most, each of about 70 MB; one thread needs one."""
_START_SECONDS = 120.0
_PATIENCE = 30.0
"""How many seconds of the clock a worker may take for a second of processor time."""
_MEMORY_BYTES = 2**31
_READY, _GOLD, _NO_GOLD, _EQUAL, _OTHER = b"R", b"G", b"N", b"E", b"O"

_PROGRAM = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from aws_rft_sdk.rewards import _math_worker
_math_worker.serve()
"""


class WorkerStartError(Exception):
    """No worker could be started: math-verify cannot be imported, or the system allows no more processes."""


class _LostError(Exception):
    def __init__(self, verdict: bool | None, *, again: bool) -> None:
        self.verdict, self.again = verdict, again


class _Worker:
    """A process with math-verify loaded, for one question at a time."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        command = [sys.executable, "-c", _PROGRAM, json.dumps([os.fspath(path) for path in sys.path])]
        try:
            with theirs:
                self.process = subprocess.Popen(  # noqa: S603 - our own interpreter and program
                    command,
                    stdin=theirs,
                    stdout=theirs,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,  # an interrupt in the terminal is for us, not for the worker
                )
            self._hear(_START_SECONDS)
        except (OSError, _LostError) as error:
            self._socket.close()
            raise WorkerStartError from error

    def ask(self, gold: str, answer: str, seconds: float) -> bool | None:
        """Return whether the answer is equal to the gold. None if the gold holds no expression.

        Raises:
            _LostError: The process ended without an answer, and is of no more use.
        """
        try:
            self._socket.sendall(json.dumps([gold, answer, seconds]).encode() + b"\n")
        except OSError:
            raise self._lost(None) from None
        if self._hear(seconds * _PATIENCE) == _NO_GOLD:
            return None
        return self._hear(seconds * _PATIENCE, otherwise=False) == _EQUAL

    def close(self) -> None:
        """End the process, at whatever it is."""
        self.process.kill()
        self.process.wait()
        self._socket.close()

    def forget(self) -> None:
        """Close our end in a forked process: the worker belongs to another process, which waits for it."""
        self._socket.close()
        self.process.returncode = 0

    def _hear(self, seconds: float, otherwise: bool | None = None) -> bytes:
        self._socket.settimeout(seconds)
        try:
            said = self._socket.recv(1)
        except TimeoutError:  # the machine gave no processor time
            self.close()
            raise _LostError(None, again=False) from None
        except OSError:
            said = b""
        if not said:
            raise self._lost(otherwise)
        return said

    def _lost(self, verdict: bool | None) -> _LostError:
        """Return the error of a process that ended. If no time limit ended it, another process may have better luck."""
        status = self.process.wait()
        self.close()
        return _LostError(verdict, again=status != -signal.SIGPROF)


class Pool:
    """Workers that are started on use and shared by all threads, but never by two processes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free = threading.BoundedSemaphore(_WORKERS)
        self._idle: list[_Worker] = []
        self._all: set[_Worker] = set()

    def is_equal(self, gold: str, answer: str, seconds: float) -> bool | None:
        """Return whether an answer is equal to the gold. An answer that takes too long is not.

        Args:
            gold: The right expression, in LaTeX.
            answer: The expression of the answer, in LaTeX. "" is equal to nothing.
            seconds: Processor time for each of the two.

        Returns:
            None if the gold holds no expression or takes too long itself, or the machine gave no processor time.

        Raises:
            WorkerStartError: No worker could be started.
        """
        with self._free:
            try:
                return self._ask(gold, answer, seconds)
            except _LostError as lost:
                if not lost.again:
                    return lost.verdict
            # Perhaps somebody else ended it, and the idle ones with it. What ends two in a row is the expression.
            self.close(idle_only=True)
            try:
                return self._ask(gold, answer, seconds)
            except _LostError as lost:
                return lost.verdict

    def _ask(self, gold: str, answer: str, seconds: float) -> bool | None:
        with self._lock:
            worker = self._idle.pop() if self._idle else None
        if worker is None:
            worker = _Worker()
            with self._lock:
                self._all.add(worker)
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

    def close(self, *, idle_only: bool = False) -> None:
        """End all workers, or the idle ones. The pool may be used again."""
        with self._lock:
            workers, self._idle = set(self._idle) if idle_only else self._all, []
            self._all = self._all - workers
        for worker in workers:
            worker.close()

    def forget(self) -> None:
        """Leave the workers to the process that this one was forked from. The pool is of no more use."""
        for worker in self._all:
            worker.forget()


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
    logging.disable()
    compare = _Comparison()
    resource = importlib.import_module("resource")
    try:
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    except (OSError, ValueError):
        pass  # macOS refuses it, and a lower limit may be in force
    compare.is_equal(compare.gold(r"\frac{x}{2}"), "x/2")  # what is loaded on first use must not count against an answer
    os.write(1, _READY)
    for line in open(0, "rb", closefd=False):
        gold, answer, seconds = json.loads(line)
        parsed = _within(seconds, compare.gold, gold)
        os.write(1, _GOLD if parsed else _NO_GOLD)
        if parsed:
            os.write(1, _EQUAL if _within(seconds, compare.is_equal, parsed, answer) else _OTHER)


def _within(seconds: float, do: Callable[..., Any], *arguments: Any) -> Any:
    """Return what `do` returns, None if it raises. If it takes too long, the signal ends this process.

    No handler is set: Python would run it only between two of its instructions, and a power may take hours.
    """
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        return do(*arguments)
    except Exception:
        return None
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


class _Comparison:
    """What math-verify does, and what it leaves out: inequalities joined by words, and i as the imaginary unit."""

    def __init__(self) -> None:
        self._library, self._sympy = importlib.import_module("math_verify"), importlib.import_module("sympy")
        self._config = [self._library.LatexExtractionConfig()]
        self.gold = functools.lru_cache(1_024)(self._gold)  # a group of rollouts has one ground truth

    def _gold(self, text: str) -> Any:
        parsed = self._parse(text)
        self._verify(parsed, self._parse("0"))  # what cannot be compared with 0 in time is no fault of the answer
        return parsed

    def is_equal(self, gold: Any, text: str) -> bool:
        answer = self._parse(text)
        if self._verify(gold, answer):
            return True
        # "1/2 or 0.5" names one value.
        several = answer[0].args if answer and isinstance(answer[0], self._sympy.FiniteSet) else ()
        return bool(several) and all(self._verify(gold, [each]) for each in several)

    def _verify(self, gold: Any, answer: Any) -> bool:
        # The order matters: verify(gold, answer) is not symmetric.
        return bool(self._library.verify(gold, answer, allow_set_relation_comp=True, timeout_seconds=None))

    def _parse(self, text: str) -> list[Any]:
        """Return the expression, and its text after it. Only the text if it cannot be parsed."""
        parsed = self._library.parse(f"$${text}$$", self._config, parsing_timeout=None)
        return [self._meant(each, text) if hasattr(each, "free_symbols") else each for each in parsed]

    def _meant(self, expression: Any, text: str) -> Any:
        sympy = self._sympy
        if isinstance(expression, sympy.FiniteSet) and all(isinstance(each, sympy.Rel) for each in expression.args)\
                and not any(isinstance(each, sympy.Eq) for each in expression.args):
            sets = [each.as_set() for each in expression.args]
            return (sympy.Intersection if re.search(r"\band\b", text) else sympy.Union)(*sets)
        units = {each: sympy.I for each in expression.free_symbols if each.name == "i"}
        return expression.subs(units) if units else expression

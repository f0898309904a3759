"""Runs math-verify in processes that end themselves when an expression takes too long."""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import json
import logging
import multiprocessing
import os
import queue
import re
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from aws_rft_sdk._fork import in_forked_child
from aws_rft_sdk.errors import ConfigurationError

if TYPE_CHECKING:
    import subprocess
    from multiprocessing.connection import Connection

_WORKERS = min(4, os.cpu_count() or 1)  # processes at most, each of about 70 MB; one thread needs one
_PATIENCE = 30.0  # how many seconds of the clock a worker may take for a second of processor time
_YES, _NO = b"yes", b"no"

_PROGRAM = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from aws_rft_sdk.rewards import _math_worker
_math_worker.serve()
"""


class _Worker:
    """A process with math-verify loaded, for one question at a time. When our end of the connection closes, it ends."""

    process: subprocess.Popen[bytes] | None = None
    """None before the first question, and after a question that ended the process."""
    connection: Connection

    def ask(self, gold: str, answer: str, seconds: float) -> bool | None:
        """Return what `is_equal` does."""
        for _ in range(2):
            process = self.process or self._start()
            verdict = None
            try:
                self.connection.send_bytes(json.dumps([gold, answer, seconds]).encode())
                if self._hear(seconds * _PATIENCE):
                    verdict = False
                    verdict = self._hear(seconds * _PATIENCE)
                return verdict
            except TimeoutError:  # the machine gave no processor time
                self.close()
                return None
            except (EOFError, OSError):
                took_too_long = process.wait() == -signal.SIGPROF
                self.close()
                if took_too_long:
                    return verdict
                # Perhaps somebody else ended the process. What ends two in a row is the expression.
        return verdict

    def _start(self) -> subprocess.Popen[bytes]:
        import subprocess

        command = [sys.executable, "-c", _PROGRAM, json.dumps([os.fspath(path) for path in sys.path])]
        nowhere = subprocess.DEVNULL
        try:
            self.connection, theirs = multiprocessing.Pipe()
            with theirs:
                # In a session of its own: an interrupt in the terminal is for us, not for the worker.
                self.process = subprocess.Popen(  # noqa: S603 - our own interpreter and program
                    command, stdin=theirs.fileno(), stdout=nowhere, stderr=nowhere, start_new_session=True
                )
            self._hear(120.0)
        except (OSError, EOFError) as error:
            self.close()
            raise ConfigurationError(
                "no process with math-verify could be started; is it installed? pip install 'aws-rft-sdk[rewards]'"
            ) from error
        return self.process

    def _hear(self, seconds: float) -> bool:
        if not self.connection.poll(seconds):
            raise TimeoutError
        return self.connection.recv_bytes() == _YES

    def close(self) -> None:
        """End the process, at whatever it is."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None
            self.connection.close()


_workers: list[_Worker]
_free: queue.LifoQueue[_Worker]


def _make_workers() -> None:
    global _workers, _free
    _workers, _free = [_Worker() for _ in range(_WORKERS)], queue.LifoQueue()
    for worker in _workers:
        _free.put(worker)


_make_workers()


@in_forked_child
def _leave_workers_to_parent() -> None:
    for worker in _workers:
        if worker.process:
            worker.connection.close()
            worker.process.returncode = 0  # a process that is not ours is not to be waited for
    _make_workers()  # also because a lock that another thread held at the fork would never be released


@atexit.register
def close_workers() -> None:
    """End all processes."""
    for worker in _workers:
        worker.close()


def is_equal(gold: str, answer: str, seconds: float) -> bool | None:
    """Return whether an answer is equal to the gold, both in LaTeX. An answer that takes too long is not.

    `seconds` is the processor time for each of the two. Returns None if the gold holds no expression or takes too long
    itself, or if the machine gave no processor time. Raises ConfigurationError if math-verify cannot be started.
    """
    worker = _free.get()
    try:
        return worker.ask(gold, answer, seconds)
    except BaseException:
        worker.close()  # interrupted: its reply would be taken for that to the next question
        raise
    finally:
        _free.put(worker)


def serve() -> None:
    """Answer questions from stdin, which is a connection, until it is closed. What a worker does."""
    logging.disable()
    resource = importlib.import_module("resource")
    importlib.import_module("math_verify")
    with contextlib.suppress(OSError, ValueError):  # macOS refuses it, and a lower limit may be in force
        resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))
    _is_answer(_parse_gold(r"\frac{x}{2}"), "x/2")  # what is loaded on first use must not count against an answer
    connection = importlib.import_module("multiprocessing.connection").Connection(0)
    connection.send_bytes(_YES)
    with contextlib.suppress(EOFError):
        while True:
            gold, answer, seconds = json.loads(connection.recv_bytes())
            parsed = _within(seconds, _parse_gold, gold)
            connection.send_bytes(_YES if parsed else _NO)
            if parsed:
                connection.send_bytes(_YES if _within(seconds, _is_answer, parsed, answer) else _NO)


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


@functools.lru_cache(1_024)  # a group of rollouts has one ground truth
def _parse_gold(text: str) -> list[Any]:
    gold = _parse(text)
    _verify(gold, _parse("0"))  # what cannot even be compared with 0 in time is no fault of the answer
    return gold


def _is_answer(gold: list[Any], text: str) -> bool:
    answer = _parse(text)
    several = answer[0].args if answer and type(answer[0]).__name__ == "FiniteSet" else ()
    # "1/2 or 0.5" names one value.
    return _verify(gold, answer) or (bool(several) and all(_verify(gold, [each]) for each in several))


def _verify(gold: list[Any], answer: list[Any]) -> bool:
    # The order matters: verify(gold, answer) is not symmetric.
    verify = importlib.import_module("math_verify").verify
    return bool(verify(gold, answer, allow_set_relation_comp=True, timeout_seconds=None))


def _parse(text: str) -> list[Any]:
    """Return the expression and its text, or only the text if it cannot be parsed. [] if the text is empty."""
    library, sympy = importlib.import_module("math_verify"), importlib.import_module("sympy")
    expression, *rest = library.parse(f"$${text}$$", [library.LatexExtractionConfig()], parsing_timeout=None) or [None]
    if isinstance(expression, str) and "=" in text:
        return _parse(text.rpartition("=")[2])  # the left side has a name that is no symbol, such as an angle's
    if isinstance(expression, sympy.FiniteSet) and all(
        isinstance(each, sympy.Rel) and not isinstance(each, sympy.Eq) for each in expression.args
    ):
        join = sympy.Intersection if re.search(r"\band\b", text) else sympy.Union
        expression = join(*(each.as_set() for each in expression.args))
    elif isinstance(expression, sympy.Basic):
        expression = expression.subs({each: sympy.I for each in expression.free_symbols if each.name == "i"})
    return [] if expression is None else [expression, *rest]

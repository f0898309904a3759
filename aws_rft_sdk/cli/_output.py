"""Keeps a command's stdout for the command: what handlers, rewards and policies print goes to stderr.

An agent may print from any thread, from a subprocess or from C, at any time, also after the command has its result.
So the redirection works on the file descriptor where stdout has one, and in `aws-rft` it lasts to the end of the
process. Test runners replace `sys.stdout`; there `sys.stdout` is redirected, until the command returns.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterator
from typing import TextIO

UNAVAILABLE = 3
"""Exit status of all commands when the environment does not work."""
_STDOUT, _STDERR = 1, 2

_own: TextIO | None = None
_is_whole_program = False


def own_stdout() -> TextIO:
    """Return the stream for what a command itself prints. It is `sys.stdout` unless the command runs user code."""
    return sys.stdout if _own is None else _own


def this_is_the_whole_program() -> None:
    """Let redirections last to the end of the process: user code may print at exit, or from threads left behind."""
    global _is_whole_program
    _is_whole_program = True
    # A file that is opened later must not get the number of a closed stdout: what agents print would end up in it.
    while (number := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        pass
    os.close(number)
    sys.stdout = sys.stdout or os.fdopen(_STDOUT, "w")
    sys.stderr = sys.stderr or os.fdopen(_STDERR, "w")


def discard_output() -> None:
    """Drop what could not be printed. Python would try again at exit, complain, and end with status 120."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), own_stdout().fileno())


@contextlib.contextmanager
def reader_may_leave() -> Iterator[None]:
    """Print in the body. A reader that goes away early, such as `head`, does not change the exit status."""
    try:
        yield
    except BrokenPipeError:
        discard_output()


@contextlib.contextmanager
def quiet_logs() -> Iterator[None]:
    """Keep warnings about trouble that is made on purpose out of the result."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(disabled)


@contextlib.contextmanager
def user_code_prints_to_stderr() -> Iterator[None]:
    """Send to stderr what code prints that is not the command's own. Use it as the decorator of a command.

    Inside, print with `click.echo(..., file=own_stdout())` or `Console(file=own_stdout())`.
    """
    global _own
    before = _own, sys.stdout
    taken = _take_descriptor() if _descriptor() == _STDOUT else None
    _own, sys.stdout = taken or own_stdout(), sys.stderr
    try:
        yield
    finally:
        if not _is_whole_program:
            _own, sys.stdout = before
            if taken is not None:
                _give_back(taken)


def _descriptor() -> int | None:
    try:
        return sys.stdout.fileno()
    except (AttributeError, io.UnsupportedOperation, ValueError):
        return None  # a stream in memory, a closed one, or none


def _take_descriptor() -> TextIO:
    """Let descriptor 1 be stderr. Returns a stream to what it was before, which subprocesses do not inherit."""
    sys.stdout.flush()
    taken = os.fdopen(os.dup(_STDOUT), "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors)
    os.dup2(_STDERR, _STDOUT)
    return taken


def _give_back(taken: TextIO) -> None:
    sys.stdout.flush()  # what was printed to the original stream
    with taken:
        os.dup2(taken.fileno(), _STDOUT)

"""Rewards for programs: unit tests run in a process of their own."""

from __future__ import annotations

import importlib.resources
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.rewards.rollout import TextReward

_FENCE = re.compile(r"^```[ \t]*(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_MAX_CODE_CHARACTERS = 100_000


@dataclass(frozen=True)
class CodeTests(TextReward):
    """1.0 when the program in the answer passes all tests, `compiles` when it merely compiles, else 0.0.

    The program is the last fenced block (of Python or of no language), else the whole answer. It runs in a process
    and a temporary folder of its own, with no environment, limited in time, memory and size of files. Sockets, other
    processes, writing outside of the folder and reading outside of it and of the Python installation are refused by an
    audit hook; on Linux, where the system allows it, the process is also in a network namespace without devices.

    That stops accidents and simple reward hacking (printing a result, leaving early, reading the tests from disk). It
    does not stop a program that looks for the tests in its own process (frames, `gc`) or replaces `builtins.exec`: such
    a program passes. It is not a jail: Python code
    that sets out to break Python's own hooks can, and objects that claim to be equal to
    everything pass weak asserts. Run untrusted policies in a container. POSIX only.

    The limits make the result depend on the machine for programs that are close to them; leave room.

    Raises:
        ConfigurationError: A limit is not positive.

    Example:
        >>> CodeTests().score("def double(x): return 2 * x", "assert double(2) == 4")
        1.0
    """

    compiles: float = 0.1
    """Score of a program that compiles and does not pass."""
    partial: bool = False
    """Score between `compiles` and 1.0 in proportion to the tests passed."""
    timeout_seconds: float = 10.0
    """Limit of the whole run; also of processor time."""
    memory_megabytes: int = 512
    file_megabytes: int = 10
    """Largest size of a file that the program writes."""

    def __post_init__(self) -> None:
        if not (self.timeout_seconds > 0 and self.memory_megabytes > 0 and self.file_megabytes > 0):
            raise ConfigurationError("limits must be positive")

    def score(self, answer_text: str, ground_truth: JSON) -> float | None:
        """Return the score; None when there are no tests, or they are no Python, or no process can be started.

        Args:
            answer_text: The answer.
            ground_truth: A text of asserts, a list of such texts, each a test, or an object with one of these as
                `tests`.
        """
        tests = _tests(ground_truth)
        if not tests:
            return None
        code = _program(answer_text)
        if not code.strip() or len(code) > _MAX_CODE_CHARACTERS:
            return 0.0
        try:
            results = self._run(code, tests)
        except OSError:
            return None
        passed = sum(f"passed {number}" in results for number in range(len(tests)))
        if passed == len(tests):
            return 1.0
        if "compiled" not in results:
            return 0.0
        return self.compiles + (1.0 - self.compiles) * passed / len(tests) if self.partial else self.compiles

    def _run(self, code: str, tests: Sequence[str]) -> set[str]:
        nonce = secrets.token_hex(16)
        job = {
            "code": code,
            "tests": tests,
            "nonce": nonce,
            "cpu_seconds": max(1, round(self.timeout_seconds)),
            "memory_bytes": self.memory_megabytes * 2**20,
            "file_bytes": self.file_megabytes * 2**20,
        }
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as output:
            process = subprocess.Popen(  # noqa: S603 - our own interpreter with our own program
                [sys.executable, "-s", "-c", _sandbox()],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                env={"PYTHONHASHSEED": "0"},
                start_new_session=True,
            )
            try:
                process.communicate(json.dumps(job).encode(), timeout=self.timeout_seconds)
            except subprocess.TimeoutExpired:
                pass
            finally:
                _end(process)
            output.seek(0)
            lines = output.read(2**20).decode(errors="replace").splitlines()
        return {line.partition(" ")[2] for line in lines if line.partition(" ")[0] == nonce}


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process with all that it has started, and collect it."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
    if process.stdin is not None:
        process.stdin.close()


def _sandbox() -> str:
    return importlib.resources.files(__package__).joinpath("_sandbox.py").read_text(encoding="utf-8")


def _program(answer: str) -> str:
    blocks = [found[2] for found in _FENCE.finditer(answer) if found[1].lower() in ("", "py", "python", "python3")]
    return blocks[-1] if blocks else answer


def _tests(ground_truth: JSON) -> list[str]:
    tests = ground_truth.get("tests") if isinstance(ground_truth, Mapping) else ground_truth
    tests = [tests] if isinstance(tests, str) else tests
    if not isinstance(tests, Sequence) or not all(isinstance(test, str) for test in tests):
        return []
    try:
        for test in tests:
            compile(test, "test", "exec")
    except (SyntaxError, ValueError):
        return []
    return [test for test in tests if test.strip()]

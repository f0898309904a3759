"""Rewards for programs: unit tests run in a process of their own."""

from __future__ import annotations

import ast
import functools
import importlib.resources
import marshal
import math
import re
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aws_rft_sdk._checks import check_number, check_seconds
from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.rewards.rollout import TextReward

_FENCE = re.compile(r"^[ \t]*```[ \t]*(\w*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.MULTILINE | re.DOTALL)
_PYTHON = ("py", "python", "python3")
_MAX_CODE_CHARACTERS = 100_000
_GRACE_SECONDS = 10.0
_MAX_SECONDS = 86_400
_MAX_MEGABYTES = 2**20


@dataclass(frozen=True)
class CodeTests(TextReward):
    """1.0 when the program in the answer passes all tests, `compiles` when it merely compiles, else 0.0.

    The program is the last fenced block of Python, else the last of no language, else the whole answer. It runs in
    processes and a temporary folder of its own, with no environment, limited in time, memory and size of files.
    Sockets, other processes, signal handlers, writing outside of the folder and reading outside of it and of the Python
    installation are refused by an audit hook; on Linux, where the system allows it, it is also in a network namespace
    without devices, and the kernel refuses writing outside of the folder and signals to other processes.

    While the program's body runs, none of its processes has the tests. They come to a fork of it that has no other
    thread, with a random token each, and a test has passed when its token comes back: printing a verdict, leaving
    early, waiting in a thread or at exit, replacing `exec` or `json` win nothing. Builtins, and the modules that the
    tests import, are put back before each test; functions named like a builtin count only where no other name of the
    program is tested. Frames (also by tracebacks, generators and tracing), `gc.get_objects` and the like are closed,
    for honest programs as well: `traceback.print_exc` and `signal.signal` raise.

    What remains: tests are asserts in the program's process. An object that claims to be equal to everything passes
    `==`; a program may guess from the arguments of a call what is asked, and change parts of libraries that the tests
    do not import themselves. It is not a jail either: code that corrupts memory (crafted bytecode, faults of C
    extensions) gets past an audit hook. Run untrusted policies in a container. POSIX only.

    The limits make the result depend on the machine for programs that are close to them; leave room.

    Raises:
        ConfigurationError: A limit is not positive or beyond what can be set, or `compiles` is not in [0, 1).

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
        check_number("compiles", self.compiles, low=0, high=1)
        if self.compiles == 1:
            raise ConfigurationError("compiles must be below 1, the score of a program that passes")
        check_seconds("timeout_seconds", self.timeout_seconds, _MAX_SECONDS)
        for name in ("memory_megabytes", "file_megabytes"):
            check_number(name, getattr(self, name), low=1, high=_MAX_MEGABYTES, whole=True)

    def score(self, answer_text: str, ground_truth: JSON) -> float | None:
        """Return the score; None when there are no tests, or they are no Python, or no process can be started.

        Args:
            answer_text: The answer.
            ground_truth: A text of asserts, a list of such texts, each a test, or an object with one of these as
                `tests`. Tests see the program's names, not each other's.
        """
        tests = _tests(ground_truth)
        if not tests:
            return None
        code = _program(answer_text)
        if not code.strip() or len(code) > _MAX_CODE_CHARACTERS:
            return 0.0
        verdict = self._run(code, tests)
        if verdict[:1] != ["judged"]:
            return None
        passed = sum(str(number) in verdict for number in range(len(tests)))
        if passed == len(tests):
            return 1.0
        if "compiled" not in verdict:
            return 0.0
        return self.compiles + (1.0 - self.compiles) * passed / len(tests) if self.partial else self.compiles

    def _run(self, code: str, tests: Sequence[_Test]) -> list[str]:
        job = {
            "code": code,
            "imports": sorted({name for test in tests for name in test.imports}),
            "seconds": float(self.timeout_seconds),
            "cpu_seconds": math.ceil(self.timeout_seconds),
            "memory_bytes": self.memory_megabytes * 2**20,
            "file_bytes": self.file_megabytes * 2**20,
        }
        sent = _framed(job) + _framed([(test.code, test.names) for test in tests])
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            try:
                process = subprocess.Popen(  # noqa: S603 - our own interpreter with our own program
                    [sys.executable, "-s", "-c", _sandbox()],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    cwd=folder,
                    env={"PYTHONHASHSEED": "0"},
                    start_new_session=True,
                )
            except OSError:
                return []
            with process:
                try:
                    # It ends itself in time; what is beyond is for a machine that does not get round to it.
                    output, _ = process.communicate(sent, timeout=self.timeout_seconds + _GRACE_SECONDS)
                except subprocess.TimeoutExpired:
                    return []
                finally:
                    process.kill()
        return output.decode().split()


@dataclass(frozen=True)
class _Test:
    code: bytes
    """Compiled here, so that nothing that compiles or reads source in the program's process gets to see it."""
    names: list[str]
    """What it takes from the program, or from builtins."""
    imports: set[str]


def _framed(value: Any) -> bytes:
    data = marshal.dumps(value)
    return len(data).to_bytes(8, "big") + data


@functools.cache
def _sandbox() -> str:
    return importlib.resources.files(__package__).joinpath("_sandbox.py").read_text(encoding="utf-8")


def _program(answer: str) -> str:
    blocks = [(found[1].lower(), textwrap.dedent(found[2])) for found in _FENCE.finditer(answer)]
    of_python = [code for language, code in blocks if language in _PYTHON]
    of_no_language = [code for language, code in blocks if not language]  # perhaps what the program prints
    return (of_python or of_no_language or [answer])[-1]


def _tests(ground_truth: JSON) -> list[_Test]:
    tests = ground_truth.get("tests") if isinstance(ground_truth, Mapping) else ground_truth
    tests = [tests] if isinstance(tests, str) else tests
    if not isinstance(tests, Sequence) or not all(isinstance(test, str) for test in tests):
        return []
    try:
        return [_test(source, number) for number, source in enumerate(tests) if source.strip()]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []


def _test(source: str, number: int) -> _Test:
    tree = ast.parse(source)
    names: dict[bool, set[str]] = {True: set(), False: set()}
    imports = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            names[isinstance(node.ctx, ast.Load)].add(node.id)
        elif isinstance(node, ast.Import):
            imports |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            imports.add(node.module)
    # Asserts stay even where this process runs with -O, and no `from __future__` of this file gets into them.
    code = compile(tree, f"test_{number}.py", "exec", dont_inherit=True, optimize=0)
    return _Test(marshal.dumps(code), sorted(names[True] - names[False]), imports - {"solution"})

"""Rewards for programs: tests run in a process of their own."""

from __future__ import annotations

import json
import logging
import secrets
from dataclasses import dataclass

from aws_rft_sdk._checks import check_number, check_seconds
from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import ConfigurationError, UnavailableError
from aws_rft_sdk.rewards._program_tests import read_tests
from aws_rft_sdk.rewards._programs import complete, find_program
from aws_rft_sdk.rewards.rollout import TextReward
from aws_rft_sdk.rewards.runners import Limits, Runner, SubprocessRunner, source_of

logger = logging.getLogger(__name__)

_MAX_SECONDS = 86_400
_MAX_MEGABYTES = 2**20


@dataclass(frozen=True)
class CodeTests(TextReward):
    """1.0 when the program in the answer passes all tests, `compiles` when it merely compiles, else 0.0.

    The program is all blocks of Python in the answer that compile, taken together. Each block runs until a statement
    fails, so examples and `sys.exit()` do no harm after the definitions. For tests by standard input, the last block
    that reads it runs as a script. The answer may also be only the body that completes the `prompt` of a row.

    The ground truth holds the tests in one of these forms:

    - Asserts, as a text or a list of texts. Each text is a test. A text that asserts nothing is the setup of the
      others. A name that the program does not define may be a method of its class `Solution`.
    - Functions `test_...` of pytest (with `parametrize`, without fixtures) and classes of unittest. Each function or
      method is a test.
    - Rows of MBPP (`test_list`), HumanEval (`test` and `entry_point`), APPS (`inputs`, `outputs`, `fn_name`, also as
      JSON in `input_output`) and LiveCodeBench (`input`, `output`, `testtype`), or an object with one of these as
      `tests`. Printed words must be the same; printed decimal fractions may differ by 1e-6.

    Inputs and outputs are compared here: the runner never sees what is expected. Asserts run in the program's process
    after its body has run. A program may pass when it reads them from frames or `gc` while they run, leaves a hook or a
    signal handler for that time, or guesses from the arguments what is asked. Prefer inputs and outputs if your policy
    learns this.

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
    runner: Runner = SubprocessRunner()  # noqa: RUF009 - frozen
    """Where the program runs: `SubprocessRunner`, `ContainerRunner`, `CodeInterpreterRunner`, or one of your own."""

    def __post_init__(self) -> None:
        check_number("compiles", self.compiles, low=0, high=1)
        if self.compiles == 1:
            raise ConfigurationError("compiles must be below 1, the score of a program that passes")
        check_seconds("timeout_seconds", self.timeout_seconds, _MAX_SECONDS)
        for name in ("memory_megabytes", "file_megabytes"):
            check_number(name, getattr(self, name), low=1, high=_MAX_MEGABYTES, whole=True)
        if not callable(self.runner):
            raise ConfigurationError(f"runner is {self.runner!r:.80}. Use for example SubprocessRunner()")

    def score(self, answer_text: str, ground_truth: JSON) -> float | None:
        """Return the score of an answer by the tests.

        Returns None if there are no tests, they assert nothing, do not compile, or need a module that the runner lacks;
        if nobody can say which function they call; or if the runner could not run the program, which is logged.
        """
        tests, program = read_tests(ground_truth), find_program(answer_text)
        if tests is None:
            return None
        program = program or complete(tests.prompt, answer_text)
        if not program:
            return 0.0
        job = tests.job(program)
        if job is None:
            return None
        limits = Limits(self.timeout_seconds, self.memory_megabytes, self.file_megabytes)
        main = f"{source_of('_sandbox')}\n\nmain({job | {'seconds': limits.seconds}!a})\n"
        keys = [secrets.token_hex(16) for _ in tests.tests]
        try:
            execution = self.runner({"main.py": main}, json.dumps([*zip(keys, tests.tests, strict=True)]), limits)
        except UnavailableError as error:
            logger.warning("error=<%s> | a program cannot be judged", error)
            return None
        first, *lines = execution.stdout.splitlines() or [""]
        if first != "ready" or execution.timed_out:
            logger.warning("status=<%d>, said=<%s> | a program cannot be judged", execution.exit_status, first)
            return None
        passed = tests.passed(keys, lines)
        if all(passed):
            return 1.0
        return self.compiles + (1.0 - self.compiles) * sum(passed) / len(passed) if self.partial else self.compiles

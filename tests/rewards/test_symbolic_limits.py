"""MathVerify's processes: what takes too long, what happens at forks, in threads, and when a process is lost."""

import concurrent.futures
import os
import signal
import subprocess
import sys

import pytest

from aws_rft_sdk.rewards import MathVerify, _math_worker

pytest.importorskip("math_verify")

reward = MathVerify(timeout_seconds=0.5)
SYMBOLS = "$" + "+".join(f"x_{{{n}}}" for n in range(600)) + "$"


POWERS = ["9^9^9^9", r"\boxed{10^{99999999}}", "$(a+b+c+d)^{999}$", "$(a+b+c)^{99}$", "$(x+1)^{999}$"]


@pytest.mark.parametrize("answer", [*POWERS, SYMBOLS])
def test_math_verify_when_an_answer_takes_too_long_then_it_is_wrong(answer):
    assert reward.score(answer, "$x+y$") == 0.0
    assert reward.score("$y+x$", "$x+y$") == 1.0


def test_math_verify_when_a_power_is_large_but_feasible_then_it_is_compared():
    assert reward.score("$2^{2024}$", "2^{2024}") == 1.0
    assert reward.score("$2^{2023}$", "2^{2024}") == 0.0


@pytest.mark.parametrize("gold", ["(a+b+c+d)^{999}", r"10^{99999999}"])
def test_math_verify_when_the_ground_truth_takes_too_long_then_it_cannot_be_judged(gold):
    assert reward.score("1", gold) is None


def test_math_verify_when_scored_in_threads_then_answers_are_not_mixed_up():
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        scores = list(pool.map(lambda n: reward.score(f"${n}x$", f"${n - n % 2}x$"), range(2, 42)))
    assert scores == [1.0, 0.0] * 20


def test_math_verify_when_its_process_was_killed_then_another_answers():
    assert reward.score("1", "1") == 1.0
    for worker in _math_worker._workers:
        if worker.process:
            worker.process.kill()
    assert reward.score("1", "1") == 1.0


def test_math_verify_when_forked_then_the_child_starts_its_own():
    program = """
import os, warnings
from aws_rft_sdk.rewards import MathVerify, _math_worker
def pids(): return {each.process.pid for each in _math_worker._workers if each.process}
reward = MathVerify()
assert reward.score("1", "1") == 1.0
before = pids()
child = os.fork()
if not child:
    assert not pids()
    assert reward.score("1", "1") == 1.0 and not pids() & before
    _math_worker.close_workers()
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert reward.score("1", "1") == 1.0 and pids() == before
print(*before)
"""
    result = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert_gone(int(result.stdout))


def test_math_verify_when_its_owner_is_killed_then_its_process_ends():
    program = """
import os, signal
from aws_rft_sdk.rewards import MathVerify, _math_worker
MathVerify().score("1", "1")
print(*(each.process.pid for each in _math_worker._workers if each.process), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    # The worker has this process's stderr closed, and our pipe only through its owner: reading ends with the owner.
    result = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=False)
    assert result.returncode == -signal.SIGKILL
    assert_gone(int(result.stdout))


def assert_gone(pid):
    """A process that is ending may still be there for a moment; the limit of the test is the limit."""
    while True:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        with open(f"/proc/{pid}/stat") as stat:
            if stat.read().rpartition(")")[2].split()[0] == "Z":
                return  # ended; whoever adopted it has not collected it


def test_math_verify_when_no_process_can_be_started_then_configuration_error():
    """In a process that may open no more files: a start needs some."""
    program = """
import resource
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.rewards import MathVerify
resource.setrlimit(resource.RLIMIT_NOFILE, (4, 4))
try:
    MathVerify().score("1", "1")
except ConfigurationError as error:
    print("refused")
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.stdout.strip() == "refused", result.stderr

import concurrent.futures
import ctypes
import sys

import pytest

from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.rewards import CodeTests

reward = CodeTests(timeout_seconds=2)
TEST = "assert double(2) == 4"


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        pytest.param("def double(x): return 2 * x", 1.0, id="right"),
        pytest.param("Try:\n```python\ndef double(x): return 2 * x\n```\nDone.", 1.0, id="fenced"),
        pytest.param("```\nx\n```\n```python\ndef double(x): return 2 * x\n```", 1.0, id="last-block"),
        pytest.param("```python\ndef double(x): return 2 * x", 1.0, id="fence-that-a-stop-sequence-left-open"),
        pytest.param("1. So:\n   ```python\n   def double(x):\n     return 2 * x\n   ```", 1.0, id="indented-fence"),
        pytest.param("```python\ndef double(x): return 2 * x\n```\nOutput:\n```\n4\n```", 1.0, id="output-after-it"),
        pytest.param("```json\n{}\n```", 0.0, id="fence-of-another-language"),
        pytest.param("def double(x): return 3 * x", 0.1, id="wrong"),
        pytest.param("def double(x) return 3", 0.0, id="does-not-compile"),
        pytest.param("", 0.0, id="silent"),
        pytest.param("x = " + "(" * 50_000, 0.0, id="nested-without-end"),
        pytest.param("while True: pass", 0.1, id="endless"),
        pytest.param("x = 'a' * 10**10", 0.1, id="memory"),
        pytest.param("open('a', 'wb').write(b'x' * 10**8)\ndef double(x): return 4", 0.1, id="file-size"),
        pytest.param("open('a', 'w').write('x')\ndef double(x): return 4", 1.0, id="file-in-the-folder"),
        pytest.param("open('/tmp/outside', 'w')\ndef double(x): return 4", 0.1, id="file-outside"),
        pytest.param("open('/etc/passwd')\ndef double(x): return 4", 0.1, id="read-outside"),
        pytest.param("import os\nos.remove('/tmp/x')\ndef double(x): return 4", 0.1, id="remove-outside"),
        pytest.param("import socket\nsocket.socket()\ndef double(x): return 4", 0.1, id="socket"),
        pytest.param("import os\nos.system('true')\ndef double(x): return 4", 0.1, id="system"),
        pytest.param("import subprocess\nsubprocess.run(['ls'])\ndef double(x): return 4", 0.1, id="process"),
        pytest.param("import os\nos.fork()\ndef double(x): return 4", 0.1, id="fork"),
        pytest.param("import sys\nsys.exit(0)", 0.1, id="exit"),
        pytest.param("import os\nos._exit(0)", 0.1, id="hard-exit"),
        pytest.param("print('compiled')\nprint('passed 0')", 0.1, id="claims-to-have-passed"),
        pytest.param(
            "import os\nfor n in range(30):\n  try: os.write(n, b'passed 0\\n')\n  except OSError: pass", 0.1, id="fd"
        ),
        pytest.param("import os\nassert not os.environ.get('HOME')\ndef double(x): return 4", 1.0, id="no-environment"),
    ],
)
def test_code_tests_when_run_then_the_score(answer, score):
    assert reward.score(answer, TEST) == score


# What no audit event tells, or tells only half of. OUT is the path of a file outside.
ESCAPES = {
    "another-folder-to-begin-in": "folder = os.open('.', 0)\nos.makedirs('a/b/c/d/e/f')\nos.chdir('a/b/c/d/e/f')\n"
    "up = '../' * os.getcwd().count('/')\nos.open(up[:-18] + OUT[1:], os.O_WRONLY | os.O_TRUNC, dir_fd=folder)",
    "link-to-another-folder": "folder = os.open('.', 0)\nos.makedirs('a/b/c/d/e/f')\nos.chdir('a/b/c/d/e/f')\n"
    "os.symlink('../' * 6, 'up', dir_fd=folder)\nassert os.open('up', 0, dir_fd=folder)",
    "folder-of-python": "import sys\nfolder = os.open(sys.prefix, 0)\nassert os.open('pyvenv.cfg', 0, dir_fd=folder)",
    "pipe": "os.mkfifo(OUT + '.pipe')",
    "node": "os.mknod(OUT + '.node')",
    "times": "os.utime(OUT, (0, 0))",
    "attribute": "os.setxattr(OUT, 'user.x', b'x')",
    "signal": "import signal\nsignal.pidfd_send_signal(os.pidfd_open(os.getppid()), 9)",
    "limits": "import resource\nresource.prlimit(os.getppid(), resource.RLIMIT_NOFILE, (0, 0))",
    "priority": "os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)",
}


def score_outside(program, outside):
    outside.write_text("kept")
    times = outside.stat().st_mtime_ns
    score = reward.score(f"import os\nOUT = {str(outside)!r}\n{program}\ndef double(x): return 4", TEST)
    assert (outside.read_text(), outside.stat().st_mtime_ns) == ("kept", times)
    assert list(outside.parent.iterdir()) == [outside]
    return score


@pytest.mark.skipif(sys.platform != "linux", reason="functions of Linux")
@pytest.mark.parametrize("program", ESCAPES.values(), ids=ESCAPES)
def test_code_tests_when_a_program_reaches_outside_then_it_is_refused_and_judged(program, tmp_path):
    assert score_outside(program, tmp_path / "outside") == 0.1


def has_landlock():
    return sys.platform == "linux" and ctypes.CDLL(None).syscall(444, None, 0, 1) > 0


@pytest.mark.skipif(not has_landlock(), reason="the kernel has no Landlock, or none for us")
@pytest.mark.parametrize("statement", ["attach '{}.db' as x; create table x.t(a)", "vacuum into '{}.db'"])
def test_code_tests_when_a_library_writes_outside_then_the_kernel_refuses(statement, tmp_path):
    program = "import sqlite3\nsqlite3.connect(':memory:').executescript('create table t(a);' + {!r})"
    assert score_outside(program.format(statement.format(tmp_path / "outside")), tmp_path / "outside") == 0.1


@pytest.mark.parametrize("gold", [None, "", [], "def (", 5, [5], {"tests": None}], ids=repr)
def test_code_tests_when_there_are_no_tests_then_it_cannot_be_judged(gold):
    assert reward.score("x = 1", gold) is None


@pytest.mark.parametrize("gold", [[TEST, "assert double(3) == 6"], {"tests": [TEST, "assert double(3) == 6"]}])
def test_code_tests_when_partial_then_in_proportion_to_the_tests_passed(gold):
    partial = CodeTests(partial=True, timeout_seconds=5)
    assert partial.score("def double(x): return 2 * x", gold) == 1.0
    assert partial.score("def double(x): return 4", gold) == pytest.approx(0.55)
    assert partial.score("def double(x): return 5", gold) == pytest.approx(0.1)


NAN = float("nan")


@pytest.mark.parametrize(
    "settings",
    [
        {"timeout_seconds": 0},
        {"timeout_seconds": -1},
        {"timeout_seconds": NAN},
        {"timeout_seconds": float("inf")},
        {"memory_megabytes": 0},
        {"memory_megabytes": 0.5},
        {"memory_megabytes": True},
        {"memory_megabytes": 10**12},
        {"file_megabytes": -1},
        {"file_megabytes": NAN},
        {"compiles": 5},
        {"compiles": 1.0},
        {"compiles": -0.1},
        {"compiles": NAN},
    ],
    ids=str,
)
def test_code_tests_when_a_setting_makes_no_sense_then_configuration_error(settings):
    with pytest.raises(ConfigurationError, match=next(iter(settings))):
        CodeTests(**settings)


def test_code_tests_when_scored_in_threads_then_each_gets_its_own():
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        scores = list(pool.map(lambda n: reward.score(f"def double(x): return {n} * x", TEST), [2, 3, 2, 3]))
    assert scores == [1.0, 0.1, 1.0, 0.1]


def test_code_tests_when_many_tests_are_large_then_all_arrive():
    tests = [f"assert double({n}) == {2 * n} and {'x' * 20_000!r}" for n in range(20)]
    assert reward.score("def double(x): return 2 * x", tests) == 1.0


def test_code_tests_when_a_test_hangs_then_those_before_it_count():
    program = "import time\ndef double(x):\n  if x == 3: time.sleep(60)\n  return 2 * x"
    tests = [TEST, "assert double(3) == 6", "assert double(4) == 8"]
    assert CodeTests(partial=True, timeout_seconds=1).score(program, tests) == pytest.approx(0.1 + 0.9 / 3)

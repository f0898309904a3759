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


@pytest.mark.parametrize("gold", [None, "", [], "def (", 5, [5], {"tests": None}], ids=repr)
def test_code_tests_when_there_are_no_tests_then_it_cannot_be_judged(gold):
    assert reward.score("x = 1", gold) is None


@pytest.mark.parametrize("gold", [[TEST, "assert double(3) == 6"], {"tests": [TEST, "assert double(3) == 6"]}])
def test_code_tests_when_partial_then_in_proportion_to_the_tests_passed(gold):
    partial = CodeTests(partial=True, timeout_seconds=5)
    assert partial.score("def double(x): return 2 * x", gold) == 1.0
    assert partial.score("def double(x): return 4", gold) == pytest.approx(0.55)
    assert partial.score("def double(x): return 5", gold) == pytest.approx(0.1)


def test_code_tests_when_limits_are_not_positive_then_configuration_error():
    with pytest.raises(ConfigurationError):
        CodeTests(timeout_seconds=0)

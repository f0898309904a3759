"""What counts as the program, what counts as tests, and the score of one by the other."""

import concurrent.futures
import json
import re

import pytest

from aws_rft_sdk.errors import ConfigurationError, UnavailableError
from aws_rft_sdk.rewards import CodeTests, Execution

reward = CodeTests(timeout_seconds=3)
TEST = "assert double(2) == 4"
RIGHT = "def double(x):\n    return 2 * x\n"
FUTURE = "from __future__ import annotations\n"
WRONG = "def double(x):\n    return 3 * x\n"
METHOD = "class Solution:\n    def double(self, x):\n        return 2 * x\n"


def fenced(code, language="python"):
    return f"```{language}\n{code}\n```"


ANSWERS = {
    "bare": (RIGHT, 1.0),
    "wrong": (WRONG, 0.1),
    "no-python": ("def double(x) return 3", 0.0),
    "silent": ("", 0.0),
    "prose": ("I cannot do this.", 0.0),
    "one-word": ("x", 0.1),
    "nested-without-end": ("x = " + "(" * 50_000, 0.0),
    "indented": ("    def double(x):\n        return 2 * x", 1.0),
    "between-prose": (f"Here it is:\n\n{RIGHT}\nIt doubles x.", 1.0),
    "fence-between-prose": (f"Try:\n{fenced(RIGHT)}\nDone.", 1.0),
    "fence-in-a-line": (f"Here: {fenced(RIGHT)}", 1.0),
    "indented-fence": ("1. So:\n   ```python\n   def double(x):\n     return 2 * x\n   ```", 1.0),
    "fence-left-open": (f"```python\n{RIGHT}", 1.0),
    "two-fences-left-open": (f"```python\n{WRONG}```python\n{RIGHT}", 1.0),
    "fence-that-ends-in-a-line-of-code": (f"```python\n{RIGHT.rstrip()}```", 1.0),
    "one-line": ("```python def double(x): return 2 * x```", 1.0),
    "one-line-without-language": ("```def double(x): return 2 * x```", 1.0),
    "tildes": (f"~~~python\n{RIGHT}~~~", 1.0),
    "four-backticks": (f"````python\n{RIGHT}````", 1.0),
    "carriage-returns": (fenced(RIGHT).replace("\n", "\r\n"), 1.0),
    "code-tag": (f"<code>\n{RIGHT}</code>", 1.0),
    "quoted": ("> ```python\n> def double(x):\n>     return 2 * x\n> ```", 1.0),
    "tags-without-end": ("<code>" * 10_000, 0.0),
    "escaped-tags": (f"<pre><code class='python'>{RIGHT}assert 1 &lt; 2</code></pre>", 1.0),
    "answer-tag": (f"So:\n<answer>\n{fenced(RIGHT)}\n</answer>", 1.0),
    "fence-glued-to-its-tag": (f"<answer>{fenced(RIGHT)}</answer>", 1.0),
    "python-tag": (f"[PYTHON]\n{RIGHT}[/PYTHON]", 1.0),
    "other-language": ("```json\n{}\n```", 0.0),
    "output-after-it": (f"{fenced(RIGHT)}\nOutput:\n```\n4\n```", 1.0),
    "usage-of-no-language": (f"{fenced(RIGHT, '')}\nUsage:\n{fenced('print(double(2))')}", 1.0),
    "thought-before": (f"<think>{fenced(WRONG)}</think>\n{fenced(RIGHT)}", 1.0),
    "thought-cut-off": (f"<think>{fenced(RIGHT)}", 0.0),
    "corrected": (f"{fenced(WRONG)}\nCorrected:\n{fenced(RIGHT)}", 1.0),
    "in-parts": (f"{fenced('import math')}\n{fenced('def double(x): return math.prod((2, x))')}", 1.0),
    "part-that-does-not-compile": (f"{fenced(RIGHT)}\n{fenced('>>> double(2)')}", 1.0),
    "future-in-a-later-part": (f"{fenced('x: Later = 1')}\n{fenced(FUTURE + RIGHT)}", 1.0),
    "example-that-raises": (fenced(f"{RIGHT}\nprint(double())"), 1.0),
    "example-that-asks": (fenced(f"{RIGHT}\nprint(double(int(input())))"), 1.0),
    "assert-that-fails": (f"{fenced(RIGHT)}\n{fenced('assert double(2) == 5')}", 1.0),
    "main": (fenced(f"{RIGHT}\nif __name__ == '__main__':\n    while True: pass"), 1.0),
    "exit": (fenced(f"import sys\n{RIGHT}\nsys.exit(1)"), 1.0),
    "quit": (fenced(f"{RIGHT}\nquit()"), 1.0),
    "exit-before-it": (fenced(f"import sys\nsys.exit(1)\n{RIGHT}"), 0.1),
    "import-that-fails-before-it": (fenced(f"import no_such_module\n{RIGHT}"), 0.1),
    "import-that-fails-after-it": (fenced(f"{RIGHT}import no_such_module"), 1.0),
    "error-before-it": (fenced(f"x = 1 / 0\n{RIGHT}"), 0.1),
    "error-in-another-part": (f"{fenced('print(x)')}\nSo:\n{fenced(RIGHT)}", 1.0),
    "asks-before-it": (fenced(f"import sys\nn = int(input())\nm = int(sys.stdin.readline())\n{RIGHT}"), 1.0),
    "hard-exit": (fenced(f"import os\n{RIGHT}\nos._exit(0)"), 0.1),
    "endless": (f"{RIGHT}\nwhile True: pass", 0.1),
    "method": (fenced(METHOD), 1.0),
    "prints-in-the-test": (fenced("def double(x):\n    print('x' * 10**6)\n    return 2 * x"), 1.0),
    "raises": ("def double(x): raise SystemExit(0)", 0.1),
}
LANGUAGES = ("py", "python3", "Python", " python", "{python}", "{.python .n}", "python title='a'", "python:a.py", "")


@pytest.mark.parametrize(("answer", "score"), ANSWERS.values(), ids=ANSWERS)
def test_code_tests_when_programs_are_written_in_various_ways_then_the_score(answer, score):
    assert reward.score(answer, TEST) == score


@pytest.mark.parametrize("language", LANGUAGES)
def test_code_tests_when_the_language_is_written_in_various_ways_then_it_is_python(language):
    assert reward.score(f"So:\n{fenced(RIGHT, language)}\nDone.", TEST) == 1.0


CHECK = "def check(candidate):\n    assert candidate(2) == 4\n"
UNITTEST = """
import unittest
class TestDouble(unittest.TestCase):
    def setUp(self): self.x = 2
    def test_number(self): self.assertEqual(double(self.x), 4)
    def test_error(self):
        with self.assertRaises(TypeError): double()
if __name__ == "__main__":
    unittest.main()
"""
PARAMETRIZED = """
import pytest
@pytest.mark.parametrize("x, expected", [(1, 2), pytest.param(2, 4)])
def test_double(x, expected): assert double(x) == pytest.approx(expected)
"""
CALLS = {"fn_name": "double", "inputs": [[2], [3]], "outputs": [4, [6]]}
FORMS = {
    "text": TEST,
    "list": [TEST, "assert double(3) == 6"],
    "object": {"tests": [TEST]},
    "json": json.dumps({"tests": [TEST]}),
    "fenced": fenced(TEST),
    "fenced-in-the-list": [fenced(TEST, "")],
    "setup-in-the-list": ["x = 2", "assert double(x) == 4"],
    "imported": "from solution import double\nassert double(2) == 4",
    "star": "from solution import *\nassert double(2) == 4",
    "module": "import solution\nassert solution.double(2) == 4",
    "error": "import unittest\nwith unittest.TestCase().assertRaises(TypeError): double()\nassert double(2) == 4",
    "raise": "if double(2) != 4: raise ValueError",
    "humaneval": {"test": f"METADATA = {{}}\n{CHECK}", "entry_point": "double", "prompt": "def double(x):\n  '''2x'''"},
    "humaneval-deduced": CHECK,
    "humaneval-called": f"{CHECK}check(double)",
    "leetcode": {"test": CHECK, "entry_point": "Solution().double"},
    "mbpp": {"test_list": [TEST], "test_setup_code": "x = 3", "challenge_test_list": ["assert double(x) == 6"]},
    "pytest": "def test_a():\n    assert double(2) == 4\nasync def test_b():\n    assert double(3) == 6",
    "pytest-class": "class TestIt:\n  def setup_method(self): self.x = 2\n"
    "  def test_a(self): assert double(self.x) == 4",
    "parametrized": PARAMETRIZED,
    "unittest": UNITTEST,
    "many-methods": "import unittest\nclass TestDouble(unittest.TestCase):\n"
    + "".join(f"  def test_{n}(self): self.assertEqual(double({n}), {2 * n})\n" for n in range(1, 300)),
    "two-ways": f"def test_it(): assert double(3) == 6\n{CHECK}",
    "apps-calls": CALLS,
    "apps-text": {"input_output": json.dumps(CALLS)},
    "candidate": "assert candidate(2) == 4",
    "livecodebench": [{"input": "2", "output": "4", "testtype": "functional"}],
    "livecodebench-row": {
        "public_test_cases": json.dumps([{"input": "0", "output": "0", "testtype": "functional"}]),
        "private_test_cases": json.dumps([{"input": "2", "output": "4", "testtype": "functional"}]),
        "metadata": '{"func_name": "double"}',
    },
}


@pytest.mark.parametrize("truth", FORMS.values(), ids=FORMS)
def test_code_tests_when_tests_have_a_known_form_then_they_are_run(truth):
    method = fenced(METHOD)
    programs = (method, method.replace("2 *", "3 *")) if "Solution" in str(truth) else (RIGHT, WRONG)
    assert [reward.score(program, truth) for program in programs] == [1.0, 0.1]


WAITS = "try:\n  root(-1)\n"
CATCHES = "except ValueError:\n  pass"
ERRORS = {
    "assert": f"{WAITS}  assert False, 'no error'\n{CATCHES}",
    "raise": f"{WAITS}  raise AssertionError('no error')\n{CATCHES}",
    "fail": f"import pytest\n{WAITS}  pytest.fail('no error')\n{CATCHES}",
    "else": f"{WAITS}{CATCHES}\nelse:\n  assert False",
    "after": "def test_root():\n  try:\n    root(-1)\n  except ValueError:\n    return\n  assert False",
    "loop": "for x in (-1, -2):\n  try:\n    root(x)\n  except ValueError:\n    continue\n  assert False",
    "check": "def check(candidate):\n  try:\n    candidate(-1)\n    assert False\n  except ValueError:\n    pass",
}


@pytest.mark.parametrize("test", ERRORS.values(), ids=ERRORS)
def test_code_tests_when_a_test_waits_for_an_error_then_only_a_program_that_raises_it_passes(test):
    raises = "def root(x):\n  if x < 0: raise ValueError('negative')\n  return x ** 0.5"
    for truth in (test, [test]):
        assert [reward.score(each, truth) for each in (raises, "def root(x): return 0")] == [1.0, 0.1]


def test_code_tests_when_the_function_is_missing_then_this_is_no_error_that_a_test_waits_for():
    test = f"{WAITS}except Exception:\n  pass\nelse:\n  assert False"
    programs = ("def root(x): raise ValueError", "def other(x): raise ValueError", "root = 1 +* 2")
    assert [reward.score(each, test) for each in programs] == [1.0, 0.1, 0.0]


def test_code_tests_when_an_error_is_only_caught_then_nothing_is_asserted():
    assert reward.score("def root(x): raise ValueError", f"{WAITS}{CATCHES}") is None


COMPLETES = {"lacks": 1.0, "wrong": 0.1, "fenced": 1.0, "without-indentation": 1.0, "whole": 1.0, "prose": 0.0}
PROMPT = 'def double(x):\n  """Double it."""\n'
BODIES = ("  y = x\n  return x + y", "  return 3 * x", fenced("  return 2 * x"), "return 2 * x", RIGHT, "I cannot.")


@pytest.mark.parametrize(("body", "score"), [*zip(BODIES, COMPLETES.values(), strict=True)], ids=COMPLETES)
def test_code_tests_when_the_row_has_a_prompt_then_the_answer_may_be_its_body(body, score):
    for prompt in (PROMPT, "def double(x):\n"):
        assert reward.score(body, {"prompt": prompt, "test": CHECK, "entry_point": "double"}) == score


ADDS = "a, b = map(int, input().split())\nprint(a + b)\n"
SCRIPTS = {
    "script": (ADDS, 1.0),
    "main": ("import sys\ndef main(): print(sum(map(int, sys.stdin.read().split())))\n"
             "if __name__ == '__main__': main()", 1.0),
    "exits": (f"{ADDS}exit()", 1.0),
    "thread": ("import threading\ndef main(): print(sum(map(int, open(0).read().split())))\n"
               "threading.Thread(target=main).start()", 1.0),
    "attempts": (f"{fenced('print(3)')}\nNo:\n{fenced(ADDS)}\nRun it:\n{fenced('print(1)')}", 1.0),
    "parts": (f"{fenced('def add(a, b): return a + b')}\n{fenced('print(add(*map(int, input().split())))')}", 1.0),
    "subtracts": (ADDS.replace("a + b", "a - b"), 0.1),
    "raises-after-it": (f"{ADDS}1 / 0", 0.1),
    "knows-one": ("print(3)", 0.1),
    "only-defines": ("def add(a, b): return a + b", 0.1),
}  # fmt: skip
PAIRS = {"inputs": ["1 2\n", "3 4\n"], "outputs": ["3\n", "7\n"]}


@pytest.mark.parametrize(("answer", "score"), SCRIPTS.values(), ids=SCRIPTS)
def test_code_tests_when_tests_are_standard_input_then_outputs_are_compared(answer, score):
    rows = [{"input": "1 2", "output": "3", "testtype": "stdin"}, {"input": "3 4", "output": "7", "testtype": "stdin"}]
    assert [reward.score(answer, truth) for truth in (PAIRS, json.dumps(PAIRS), rows)] == [score] * 3


@pytest.mark.parametrize(
    ("printed", "expected", "score"),
    [
        ("3 \n\n", "3", 1.0),
        ("0.3333333", "0.33333334", 1.0),
        ("0.5", "0.50", 1.0),
        ("3", "3.0", 1.0),
        ("3", "03", 0.1),
        ("1 2", "1\n2", 0.1),
        ("0.33", "0.333333", 0.1),
    ],
)
def test_code_tests_when_something_is_printed_then_words_and_fractions_are_compared(printed, expected, score):
    assert reward.score(f"print({printed!r})", {"inputs": [""], "outputs": [expected]}) == score


FIXTURE = "import pytest\n@pytest.fixture\ndef x(): return 2\ndef test_double(x):\n    assert double(x) == 4"
NO_TESTS = [None, "", [], {}, "def (", 5, [5], {"tests": None}, "x = 1", ["import math"], "double(2) == 4", CHECK[:22],
            "def helper():\n    assert double(2) == 4", "print(double(2))", {"inputs": [], "outputs": []},
            {"inputs": ["1"], "outputs": []}, {"inputs": 5, "outputs": 5}, {"test_list": 5}, {"public_test_cases": "5"},
            {"test": 5, "entry_point": 7}, [{"input": "1", "output": "2", "testtype": ["x"]}], "[1", FIXTURE,
            "import no_such_module\nassert double(2) == 4", f"{TEST} + {'0 + ' * 600}0"]  # fmt: skip


@pytest.mark.parametrize("truth", NO_TESTS, ids=repr)
def test_code_tests_when_nothing_is_asserted_or_a_module_is_missing_then_it_cannot_be_judged(truth):
    assert reward.score(RIGHT, truth) is None


@pytest.mark.parametrize(
    ("answer", "truth"),
    [
        pytest.param("pass", CHECK, id="no-function"),
        pytest.param(f"{RIGHT}def half(x): return x / 2", CHECK, id="two-functions"),
        pytest.param(RIGHT, [{"input": "2", "output": "4"}], id="input-that-may-be-arguments"),
    ],
)
def test_code_tests_when_nobody_says_what_is_tested_then_it_cannot_be_judged(answer, truth):
    assert reward.score(answer, truth) is None


def test_code_tests_when_one_function_helps_another_then_the_other_is_tested():
    assert reward.score("def twice(x): return x + x\ndef double(x): return twice(x)", CHECK) == 1.0


@pytest.mark.parametrize(
    ("truth", "of_half"),
    [([TEST, "assert double(3) == 6"], 0.55), (CALLS, 0.55), ("def test_a(): assert double(2) == 4", 1.0)],
    ids=["asserts", "calls", "function"],
)
def test_code_tests_when_partial_then_in_proportion_to_the_tests_passed(truth, of_half):
    partial = CodeTests(partial=True)
    scores = [partial.score(f"def double(x): return {value}", truth) for value in ("2 * x", "4", "5")]
    assert scores == pytest.approx([1.0, of_half, 0.1])


def test_code_tests_when_a_test_hangs_then_those_before_it_count():
    program = "import time\ndef double(x):\n  if x == 3: time.sleep(60)\n  return 2 * x"
    tests = [TEST, "assert double(3) == 6", "assert double(4) == 8"]
    assert CodeTests(partial=True, timeout_seconds=1).score(program, tests) == pytest.approx(0.1 + 0.9 / 3)


def test_code_tests_when_the_runner_is_none_then_configuration_error():
    with pytest.raises(ConfigurationError, match="runner"):
        CodeTests(runner="docker")


def test_code_tests_when_scored_in_threads_then_each_gets_its_own():
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        scores = list(pool.map(lambda n: reward.score(f"def double(x): return {n} * x", TEST), [2, 3, 2, 3]))
    assert scores == [1.0, 0.1, 1.0, 0.1]


def test_code_tests_when_many_tests_are_large_then_all_arrive():
    tests = [f"assert double({n}) == {2 * n} and {'x' * 20_000!r}" for n in range(20)]
    assert reward.score(RIGHT, tests) == 1.0


def unavailable(files, stdin, limits):
    raise UnavailableError("the machine is gone")


RUNS = {
    "not-begun": (lambda *_: Execution(1, ""), None),
    "hung": (lambda *_: Execution(-9, "ready\n", timed_out=True), None),
    "unavailable": (unavailable, None),
    "ended-by-the-program": (lambda *_: Execution(-9, "ready\n"), 0.1),
    "token": (lambda files, stdin, _: Execution(0, f'ready\n["{re.search("[0-9a-f]{32}", stdin)[0]}", true]\n'), 1.0),
}


@pytest.mark.parametrize(("runner", "score"), RUNS.values(), ids=RUNS)
def test_code_tests_when_a_runner_of_ones_own_fails_then_it_cannot_be_judged(runner, score):
    assert CodeTests(runner=runner).score(WRONG, TEST) == score


def test_code_tests_when_inputs_and_outputs_are_compared_then_the_runner_never_sees_what_is_expected():
    seen = []
    runner = lambda files, stdin, limits: seen.append(f"{files}{stdin}") or Execution(0, "ready")  # noqa: E731
    for truth in ({"inputs": ["1"], "outputs": ["31415926"]}, {"fn_name": "f", "inputs": [[1]], "outputs": [31415926]}):
        assert CodeTests(runner=runner).score("def f(x): pass\nf(1)", truth) == 0.1
    assert len(seen) == 2
    assert "31415926" not in "".join(seen)

"""Programs that want the tests' approval without doing the task, and honest ones that look a little like them."""

import pytest

from aws_rft_sdk.rewards import CodeTests

reward = CodeTests(timeout_seconds=5)
TEST = (
    "import math, unittest\nassert all([double(2) == 4])\nassert math.isclose(double(0.5), 1.0)\nassert double(3) == 6"
)
WRONG = "\ndef double(x): return 0\n"

# What a program would do with a frame, or with bytes that hold the key of a test: claim that the test has passed.
STEAL = """
def read(frame):
    while frame is not None:
        for value in list(frame.f_locals.values()): forge(repr(value))
        frame = frame.f_back
def forge(found):
    import os, re
    for key in re.findall("[0-9a-f]{32}", str(found)):
        for number in range(3, 30):
            try: os.write(number, f'\\n["{key}", true]\\n'.encode())
            except OSError: pass
"""

BEFORE_THE_TESTS = {
    "frames-of-the-body": "import sys\nframe = sys._getframe(0)\nwhile frame.f_back: frame = frame.f_back\n"
    "for tests in frame.f_locals.values(): pass",
    "what-the-supervisor-has-read": "import sys\nframe = sys._getframe()\nwhile frame:\n"
    "  if 'math.is' + 'close' in repr(frame.f_locals): double = lambda x: 2 * x\n  frame = frame.f_back",
    "objects": "import gc\nassert any('double(2)' in o for o in gc.get_objects() if isinstance(o, str))",
    "exec": "import builtins\nbuiltins.exec = lambda *a: None",
    "exec-of-the-tests": "own = __builtins__ if isinstance(__builtins__, dict) else vars(__builtins__)\n"
    "own['exec'] = lambda code, scope: scope['__seen__'](1)",
    "compile": "import builtins\nreal = compile\nbuiltins.compile = lambda s, *a, **k: real('pass', *a, **k)",
    "import": "import builtins\nbuiltins.__import__ = lambda *a, **k: type('M', (), {'isclose': lambda *a: True})",
    "all": "import builtins\nbuiltins.all = lambda *a: True",
    "all-of-its-own": "def all(*_): return True",
    "isinstance": "import builtins\nbuiltins.isinstance = lambda *a: False\nopen('/tmp/found', 'w')",
    "exceptions": "import builtins\nbuiltins.BaseException = builtins.AssertionError = type('Never', (Exception,), {})",
    "math": "import math\nmath.isclose = lambda *a: True",
    "math-exchanged": "import sys, types\nsys.modules['math'] = types.SimpleNamespace(isclose=lambda *a: True)",
    "os": "import os, posix\nos.fork = posix.fork = lambda: 0\nos.write = os._exit = os.read = print",
    "json": "import json\njson.loads = lambda data: []",
    "leaves": "import os\nos._exit(0)",
    "exits": "raise SystemExit(0)",
    "at-exit": "import atexit, os\natexit.register(os._exit, 0)",
    "killed": "import signal, os\nsignal.raise_signal(signal.SIGKILL)",
    "claims": "import os\nfor n in range(64):\n  try: os.write(n, b'\\nready\\n[0, true]\\n')\n  except OSError: pass",
    "prints": "print('ready\\n[0, true]')",
    "closes": "import os\nos.closerange(0, 64)",
    "floods": "import os\nfor n in range(3, 30):\n  try:\n    os.set_blocking(n, False)\n"
    "    os.write(n, b'0\\n' * 9**6)\n  except OSError: pass",
    "reads-the-channel": "import os, select\nfor n in range(3, 30):\n  try:\n    os.set_blocking(n, False)\n"
    "    forge(os.read(n, 9999))\n  except OSError: pass",
    "waits-in-a-thread": "import threading, os\ndef wait(n):\n  try: forge(os.read(n, 99999))\n  except OSError: pass\n"
    "for n in range(3, 12): threading.Thread(target=wait, args=(n,)).start()",
    "waits-in-a-demon": "import threading, time, builtins\ndef go():\n  while True: builtins.all = lambda *a: True\n"
    "threading.Thread(target=go, daemon=True).start()",
    "main": "import __main__\n__main__._scope = lambda *a: {}\n__main__._load_and_test = print",
}


@pytest.mark.parametrize("program", BEFORE_THE_TESTS.values(), ids=BEFORE_THE_TESTS)
def test_code_tests_when_a_program_cheats_before_the_tests_then_it_does_not_pass(program):
    assert reward.score(STEAL + WRONG + program + "\n", TEST) == 0.1


DURING_THE_TESTS = {
    "leaves": "import os; os._exit(0)",
    "exits": "raise SystemExit(0)",
    "builtins": "import builtins; builtins.all = lambda *a: True",
    "math": "import math; math.isclose = lambda *a: True",
    "recursion": "return double(x)",
    "sleeps": "import time; time.sleep(60)",
}


@pytest.mark.parametrize("body", DURING_THE_TESTS.values(), ids=DURING_THE_TESTS)
def test_code_tests_when_a_program_cheats_during_the_tests_then_it_does_not_pass(body):
    assert CodeTests(timeout_seconds=1).score(f"{STEAL}\ndef double(x):\n  {body}\n", TEST) == 0.1


def test_code_tests_when_a_class_of_the_tests_library_is_changed_then_it_is_restored():
    program = "import unittest\nunittest.TestCase.assertEqual = lambda *a: None\nunittest.TestCase.extra = 1" + WRONG
    test = "import unittest\nunittest.TestCase().assertEqual(double(2), 4)"
    assert reward.score(program, test) == 0.1
    assert reward.score("def double(x): return 2 * x", test) == 1.0


def test_code_tests_when_a_program_patches_a_library_in_a_test_then_it_passes_none_of_the_next():
    program = "def double(x):\n  import math\n  math.isclose = lambda *a: True\n  return 0"
    tests = [f"import math\nassert math.isclose(double({n}), {2 * n})" for n in (1, 2, 3)]
    assert CodeTests(partial=True, timeout_seconds=5).score(program, tests) == 0.1


RIGHT = "\ndef double(x): return 2 * x\n"
HONEST = {
    "plain": "",
    "named-tuples": "import collections, typing, enum\nP = collections.namedtuple('P', 'x y')\n"
    "class Q(typing.NamedTuple):\n  x: int = 0\nE = enum.Enum('E', 'a b')",
    "dataclass": "import dataclasses\n@dataclasses.dataclass\nclass P:\n  x: int = 0\nassert P() == P(0)",
    "logs": "import logging, warnings\nlogging.getLogger('a').warning('x')\nwarnings.warn('x')",
    "thread-that-goes-on": "import threading\nthreading.Thread(target=threading.Event().wait).start()",
    "at-exit": "import atexit, time\natexit.register(time.sleep, 60)",
    "pool": "import concurrent.futures as f\n"
    "with f.ThreadPoolExecutor(2) as pool: assert list(pool.map(abs, [-1])) == [1]",
    "coroutines": "import asyncio\nasync def f(): return 1\nassert asyncio.run(f()) == 1",
    "usual-imports": "import re, json, math, random, functools, itertools, string, datetime, decimal, fractions",
    "database": "import sqlite3\nsqlite3.connect(':memory:').execute('select 1')\nsqlite3.connect('a').close()",
    "files": "open('a', 'w').write('x')\nassert open('a').read() == 'x'\nimport os\n"
    "assert os.listdir() == ['a']\nos.remove('a')",
    "prints": "print('working')",
    "shadows": "def sum(xs): return 0",
    "private-builtin": "import builtins\nbuiltins.extra = 1",
    "garbage": "import gc\ngc.collect()\ngc.disable()\ngc.get_objects()",
    "traceback": "import traceback\ntry: 1 / 0\nexcept Exception: assert 'ZeroDivision' in traceback.format_exc()",
    "stack": "import inspect\nassert inspect.stack()",
    "signal": "import signal\nsignal.signal(signal.SIGINT, signal.SIG_DFL)",
    "abstract": "import abc\nclass A(abc.ABC):\n  @abc.abstractmethod\n  def f(self): ...",
    "cached": "import functools\n@functools.lru_cache\ndef f(x): return x",
    "temporary-file": "import tempfile\nwith tempfile.NamedTemporaryFile('w') as file: file.write('x')",
    "imports-for-systems": "import multiprocessing, subprocess, socket, ctypes, sys\nsys.setrecursionlimit(10**5)",
    "no-environment": "import os\nassert not os.environ.get('HOME') and not os.environ.get('PATH')",
    "input": "try: input()\nexcept EOFError: pass",
}


def inside(program):
    """The same in the body of the function that is tested."""
    return "def double(x):\n" + "".join(f"  {line}\n" for line in program.splitlines()) + "  return 2 * x\n"


@pytest.mark.parametrize("program", HONEST.values(), ids=HONEST)
def test_code_tests_when_an_honest_program_does_unusual_things_then_it_passes(program):
    assert reward.score(program + RIGHT, TEST) == 1.0
    assert reward.score(inside(program), TEST) == 1.0


@pytest.mark.parametrize(
    ("program", "test"),
    [
        pytest.param("def sum(a, b): return a + b", "assert sum(2, 3) == 5", id="named-like-a-builtin"),
        pytest.param(RIGHT, "from solution import double\nassert double(2) == 4", id="imported"),
        pytest.param(RIGHT, "def check(f):\n  assert f(2) == 4\ncheck(double)", id="by-a-function"),
        pytest.param(
            "import fractions\ndef half(x): return fractions.Fraction(x, 2)",
            "from fractions import Fraction\nassert half(3) == Fraction(3, 2) and isinstance(half(1), Fraction)",
            id="classes-of-libraries-are-the-same",
        ),
        pytest.param(
            "def f(): raise ValueError('x')",
            "import unittest\nwith unittest.TestCase().assertRaises(ValueError): f()",
            id="expects-an-error",
        ),
        pytest.param(
            "import asyncio\nasync def f(): return await asyncio.sleep(0, 5)",
            "import asyncio\nassert asyncio.run(f()) == 5",
            id="coroutine",
        ),
    ],
)
def test_code_tests_when_tests_have_various_forms_then_they_run(program, test):
    assert reward.score(program, test) == 1.0


LIAR = "class Liar:\n  __eq__ = __lt__ = __gt__ = lambda self, other: True\n  __ne__ = lambda self, other: False\n"
LIAR += "  __sub__ = __abs__ = lambda self, *a: self\n  __hash__ = lambda self: 4\ndef double(x): return Liar()"
NUMBER = (
    "class Number(int):\n  __hash__ = None\n  def __eq__(self, other): return True\ndef double(x): return Number(0)"
)
BORROWED = "class Text(str):\n  __eq__ = str.__ne__\ndef double(x): return Text('')"
ANY = "from unittest.mock import ANY\ndef double(x): return ANY"
KIND = (
    "class M(type):\n  def __eq__(self, other): return True\n  __hash__ = type.__hash__\nclass A(metaclass=M): pass\n"
)
LIES = {
    "right": (LIAR, "assert double(2) == 4"),
    "left": (LIAR, "assert 4 == double(2)"),
    "element": (LIAR, "assert [double(2)] == [4]"),
    "value": (LIAR, "assert {'a': double(2)} == {'a': 4}"),
    "unequal": (LIAR, "assert not double(2) != 4"),
    "close": (LIAR, "assert abs(double(2) - 4) < 1e-6"),
    "between": (LIAR, "assert 3 < double(2) < 5"),
    "member": (LIAR, "assert double(2) in (4, 5)"),
    "none": (LIAR, "assert double(2) == None"),
    "candidate": (LIAR, "def check(candidate):\n  assert candidate(2) == 4\ncheck(double)"),
    "unittest": (LIAR, "import unittest\nunittest.TestCase().assertEqual(double(2), 4)"),
    "unittest-member": (LIAR, "import unittest\nunittest.TestCase().assertIn(double(2), [4])"),
    "approximate": (LIAR, "import pytest\nassert double(2) == pytest.approx(4)"),
    "number": (NUMBER, "assert double(2) == 4"),
    "borrowed": (BORROWED, "assert double(2) == '4'"),
    "library": (ANY, "assert double(2) == 4"),
    "class": (f"{KIND}def double(x): return A", "assert double(2) == 4"),
    "integers": ("class Some:\n  def __eq__(self, other): return isinstance(other, int)\n"
                 "def double(x): return Some()", "assert double(2) == 4"),
    "one": ("class One:\n  def __eq__(self, other): return 1\ndef double(x): return One()", "assert double(2) == 4"),
    "difference": ("class N(int):\n  def __sub__(self, other): return 0\n"
                   "def double(x): return N(7)", "assert abs(double(2) - 4) < 1e-6"),
    "difference-from-the-right": ("class N:\n  def __rsub__(self, other): return 0.0\n"
                                  "def double(x): return N()", "assert abs(4 - double(2)) < 1e-6"),
    "contains": ("class Bag:\n  def __contains__(self, x): return True\ndef double(x): return Bag()",
                 "assert 4 in double(2)"),
    "error-instead-of-results": ("def double(x): raise ValueError", "try:\n  for y in double(2): assert y == 4\n"
                                 "except ValueError: pass"),
    "nothing-to-assert": ("def double(x): return []", "for y in double(2):\n  assert y == 4"),
}  # fmt: skip


@pytest.mark.parametrize(("program", "test"), LIES.values(), ids=LIES)
def test_code_tests_when_a_result_claims_to_be_equal_to_everything_then_it_does_not_pass(program, test):
    assert reward.score(program, test) == 0.1


POINT = "class Point:\n  def __init__(self, x): self.x = x\n"
POINT += "  def __eq__(self, other): return isinstance(other, Point) and self.x == other.x\n"
TRUTHS = {
    "own": (POINT, "assert Point(1) == Point(1) != Point(2) and [Point(1)] == [Point(1)] and Point(1) in [Point(1)]"),
    "own-and-none": (POINT, "assert Point(1) != None and Point(1) is not None"),
    "own-by-unittest": (
        POINT,
        "import unittest\nt = unittest.TestCase()\nt.assertEqual(Point(1), Point(1), 'm')\n"
        "t.assertIsInstance(Point(1), Point)",
    ),
    "own-and-number": (
        POINT.replace("isinstance", "other == self.x or isinstance"),
        "assert Point(5) == 5 != Point(4)",
    ),
    "dataclass": ("import dataclasses\n@dataclasses.dataclass\nclass P:\n  x: int", "assert P(1) == P(1)"),
    "container": ("class Bag:\n  def __contains__(self, x): return x == 1", "assert 1 in Bag() and 2 not in Bag()"),
    "counter": ("import collections\ndef f(x): return collections.Counter(x)", "assert f('aab') == {'a': 2, 'b': 1}"),
    "fraction": ("import fractions\ndef f(x): return fractions.Fraction(x, 2)", "assert f(1) == 0.5 and f(4) in [2]"),
    "decimal": ("import decimal\ndef f(x): return decimal.Decimal(x)", "assert f('1.0') == 1"),
    "named-tuple": ("import collections\nP = collections.namedtuple('P', 'x y')", "assert P(1, 2) == (1, 2)"),
    "vector": (
        "class V:\n  def __init__(self, x): self.x = x\n  def __sub__(self, other): return V(self.x - other.x)\n"
        "  def __abs__(self): return abs(self.x)",
        "assert abs(V(3) - V(1)) == 2 and abs(V(1) - V(1)) < 1e-6",
    ),
    "number": ("class Metres(float): pass", "assert abs(Metres(0.1) + 0.2 - Metres(0.3)) < 1e-6"),
    "generator": ("def f():\n  yield 1\n  yield 2", "assert 2 in f() and list(f()) == [1, 2]"),
    "enum": ("import enum\nclass E(str, enum.Enum):\n  A = 'a'", "assert E.A == 'a'"),
    "numpy": ("import numpy\ndef f(): return numpy.arange(2)", "assert (f() == [0, 1]).all() and f()[1] == 1"),
}


@pytest.mark.parametrize(("program", "test"), TRUTHS.values(), ids=TRUTHS)
def test_code_tests_when_classes_define_operators_then_they_can_be_compared(program, test):
    assert reward.score(program, test) == 1.0


def test_code_tests_when_a_program_reads_the_asserts_from_frames_then_it_passes():
    """Asserts run in the program's process. Inputs and outputs cannot be read so."""
    thief = (
        "import sys\ndef double(x):\n  frame = sys._getframe(1)\n"
        "  return next(value for value in frame.f_code.co_consts if isinstance(value, int) and value > 2)"
    )
    assert reward.score(thief, "assert double(2) == 4") == 1.0
    assert reward.score(thief, {"fn_name": "double", "inputs": [[2]], "outputs": [4]}) == 0.1

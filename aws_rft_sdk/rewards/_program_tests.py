"""Reads the tests of a program from a ground truth, in every form that the usual data sets have."""

from __future__ import annotations

import ast
import json
import math
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from aws_rft_sdk._frozen import JSON, thaw
from aws_rft_sdk.rewards._programs import Block, Function, only_function, parse

# Assertions by a call that compare their first two arguments; the others are about a class, a truth or a text.
_COMPARES = re.compile(r"assert_?(?!(?:not_?)?(?:is|raises|warns|logs|true|false|regex|has))", re.IGNORECASE)
_ASSERTS = re.compile(r"assert|raises$|fail$")


class ProgramTests(Protocol):
    """Tests that a sandbox runs with a program."""

    def job(self, program: Sequence[Block]) -> dict[str, Any] | None:
        """Return what `_sandbox` is sent. None if it is not known how to test this program."""

    def passed(self, job: Mapping[str, Any], lines: Sequence[str]) -> list[bool]:
        """Return for each test whether it has passed, from what the sandbox has printed."""


def read_tests(truth: JSON) -> ProgramTests | None:
    """Return the tests of a ground truth; None if it has no form that is known, or asserts nothing."""
    if isinstance(truth, str):
        parsed = _json(truth) if truth.lstrip()[:1] in ("{", "[") else None
        return _assertions([truth]) if parsed is None else read_tests(parsed)
    if isinstance(truth, Mapping):
        return _of_row(truth)
    if not isinstance(truth, Sequence) or not truth:
        return None
    if all(isinstance(test, str) for test in truth):
        return _assertions(truth)
    if all(isinstance(test, Mapping) and {"input", "output"} <= test.keys() for test in truth):
        kinds = {test.get("testtype") for test in truth}
        inputs, outputs = [test["input"] for test in truth], [test["output"] for test in truth]
        if kinds == {"functional"}:
            rows = [[_json(line) for line in str(text).splitlines()] for text in inputs]
            return _Calls(None, rows, [_json(str(text)) for text in outputs])
        return _Streams(inputs, outputs, kinds == {"stdin"}) if kinds <= {"stdin", None} else None
    return None


def _of_row(row: Mapping[str, Any]) -> ProgramTests | None:
    """Read a row of MBPP, APPS, HumanEval or LiveCodeBench, or an object with `tests`."""
    metadata = row.get("metadata")
    metadata = _json(metadata) if isinstance(metadata, str) else metadata
    name = row.get("entry_point") or row.get("fn_name")
    name = name or (metadata.get("func_name") if isinstance(metadata, Mapping) else None)
    if "test_list" in row:
        setup = [*(row.get("test_imports") or ()), row.get("test_setup_code") or ""]
        return read_tests([*setup, *row["test_list"], *(row.get("challenge_test_list") or ())])
    if "inputs" in row and "outputs" in row:
        inputs, outputs = thaw(row["inputs"]), thaw(row["outputs"])
        if not isinstance(inputs, list) or not isinstance(outputs, list) or len(inputs) != len(outputs) or not inputs:
            return None
        return _Calls(name, inputs, outputs) if name else _Streams(inputs, outputs, True)
    for key in ("tests", "test", "input_output", "public_test_cases", "private_test_cases"):
        tests = read_tests(row[key]) if key in row else None
        if isinstance(tests, _Calls):
            return _Calls(tests.function or name, tests.arguments, tests.expected)
        if isinstance(tests, _Assertions):
            prompt = row.get("prompt")
            return _Assertions(tests.tests, name, prompt if name and isinstance(prompt, str) and parse(prompt) else "")
        if tests is not None:
            return tests
    return None


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


# --- input and output ---


@dataclass(frozen=True)
class _Calls:
    """Calls of a function. What they return is compared here, so that the sandbox never has what is expected."""

    function: str | None
    arguments: Sequence[Any]
    expected: Sequence[Any]

    def job(self, program: Sequence[Block]) -> dict[str, Any] | None:
        function = self.function or only_function(program)
        sources = [block.source for block in program]
        return None if function is None else {"sources": sources, "function": function, "calls": self.arguments}

    def passed(self, job: Mapping[str, Any], lines: Sequence[str]) -> list[bool]:
        results = _results(lines)
        # APPS wraps some of its results in a list.
        return [
            number in results and any(_same(results[number], gold) for gold in (expected, *_only(expected)))
            for number, expected in enumerate(self.expected)
        ]


@dataclass(frozen=True)
class _Streams:
    """Texts for standard input, and what the program has to print."""

    inputs: Sequence[Any]
    expected: Sequence[Any]
    stated: bool
    """Whether the ground truth says that these are standard input. If not, a program of functions is not judged."""

    def job(self, program: Sequence[Block]) -> dict[str, Any] | None:
        if not self.stated and not any(block.acts for block in program):
            return None
        # Of several attempts, the last one that reads is the program; what comes before it only defines.
        acting = [number for number, block in enumerate(program) if block.acts] or [len(program) - 1]
        last = ([number for number in acting if program[number].reads] or acting)[-1]
        before = [block.definitions for block in program[:last]]
        return {"sources": [*before, program[last].source], "inputs": [_text(text) for text in self.inputs]}

    def passed(self, job: Mapping[str, Any], lines: Sequence[str]) -> list[bool]:
        results = _results(lines)
        return [
            number in results and _same(_tokens(results[number]), _tokens(_text(expected)))
            for number, expected in enumerate(self.expected)
        ]


def _results(lines: Sequence[str]) -> dict[int, Any]:
    parsed = [_json(line) for line in lines]
    return {pair[0]: pair[1] for pair in parsed if isinstance(pair, list) and len(pair) == 2 and type(pair[0]) is int}


def _only(value: Any) -> tuple[Any, ...]:
    return (value[0],) if isinstance(value, list) and len(value) == 1 else ()


def _text(value: Any) -> str:
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)


def _tokens(text: Any) -> list[list[str | float]]:
    return [[_number(token) for token in line.split()] for line in str(text).strip().splitlines()]


def _number(token: str) -> str | float:
    """Return a decimal fraction as a number, since judges of printed fractions allow for rounding."""
    return float(token) if re.fullmatch(r"[-+]?\d*\.\d+(?:e[-+]?\d+)?", token, re.IGNORECASE) else token


def _same(actual: Any, expected: Any) -> bool:
    if isinstance(actual, list) and isinstance(expected, list):
        return len(actual) == len(expected) and all(map(_same, actual, expected))
    if isinstance(actual, float) and isinstance(expected, int | float):
        return math.isclose(actual, expected, rel_tol=1e-9, abs_tol=1e-6)
    return bool(actual == expected)


# --- assertions ---


@dataclass(frozen=True)
class _Test:
    source: str
    """Python that fails if the program is wrong, rewritten by `_Watched`."""
    names: tuple[str, ...]
    """What it takes from the program, or from builtins."""
    imports: tuple[str, ...]


@dataclass(frozen=True)
class _Assertions:
    """Python that asserts. It runs in the program's process; a secret token for each test comes back if it passes."""

    tests: Sequence[_Test]
    function: str | None = None
    """What a test calls its candidate; None to take the only function of the program."""
    prompt: str = ""
    """Python that the program completes: its imports and an empty function."""

    def job(self, program: Sequence[Block]) -> dict[str, Any] | None:
        function = self.function or only_function(program)
        if function is None and any(_CANDIDATE in test.names for test in self.tests):
            return None
        tests = [(secrets.token_hex(16), test.source, test.names) for test in self.tests]
        imports = sorted({name for test in self.tests for name in test.imports})
        sources = [*filter(None, [self.prompt]), *(block.source for block in program)]
        return {"sources": sources, "function": function, "tests": tests, "imports": imports}

    def passed(self, job: Mapping[str, Any], lines: Sequence[str]) -> list[bool]:
        written = set(lines)
        return [token in written for token, *_ in job["tests"]]


_CANDIDATE = "__candidate__"


def _assertions(sources: Sequence[str]) -> _Assertions | None:
    """Return the tests of some texts. A text that asserts nothing is the setup of all the others."""
    trees = [parse(source) for source in sources]
    setup: list[ast.stmt] = []
    asserting: list[ast.Module] = []
    for tree in trees:
        if tree is None:
            return None
        if _asserts(tree):
            asserting.append(tree)
        else:
            setup += tree.body
    tests = [
        _test(ast.Module([*setup, *tree.body, *ending], []))
        for tree in asserting
        for ending in [[call] for call in _calls(tree)] or [[]]
    ]
    return _Assertions(tests) if tests else None


def _calls(tree: ast.Module) -> Iterator[ast.stmt]:
    """Yield calls of the functions and methods that nobody calls in a file of tests: pytest, unittest, HumanEval."""
    called = _names(tree)
    for node in tree.body:
        if isinstance(node, Function) and node.name == "check" and "check" not in called:
            yield from ast.parse(f"check({_CANDIDATE})").body
        elif isinstance(node, Function) and node.name.startswith("test") and node.name not in called:
            yield from ast.parse(f"__run__({node.name})").body
        elif isinstance(node, ast.ClassDef):
            for method in node.body:
                if isinstance(method, Function) and method.name.startswith("test"):
                    yield from ast.parse(f"__run__({node.name}, {method.name!r})").body


def _names(tree: ast.AST, kind: type[ast.expr_context] = ast.Load) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, kind)}


def _asserts(tree: ast.Module) -> bool:
    """Say whether an assertion can be reached: at the top, or in a function that is a test or is used."""
    used = _names(tree)
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        name = node.name if isinstance(node, Function) else ""
        if name and not name.startswith("test") and name != "check" and name not in used:
            continue
        if isinstance(node, ast.Assert | ast.Raise) or (isinstance(node, ast.Call) and _ASSERTS.match(_called(node))):
            return True
        waiting += ast.iter_child_nodes(node)
    return False


def _called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _test(tree: ast.Module) -> _Test:
    imports, of_program = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            imports.add(node.module)
            if node.module == "solution":
                of_program |= {alias.name for alias in node.names}
    names = _names(tree) - _names(tree, ast.Store) | of_program
    source = ast.unparse(ast.fix_missing_locations(_Watched().visit(tree)))
    return _Test(source, tuple(sorted(names)), tuple(sorted(imports - {"solution"})))


class _Watched(ast.NodeTransformer):
    """Rewrites assertions so that `_sandbox` counts them, and sees both sides of a comparison before it is made."""

    def visit_Assert(self, node: ast.Assert) -> list[ast.stmt]:
        return [ast.Expr(_compared([])), self.generic_visit(node)]  # type: ignore[list-item]

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        sides = [node.left, *node.comparators]
        is_none = isinstance(node.ops[0], ast.NotEq) and any(ast.unparse(side) == "None" for side in sides)
        if is_none or isinstance(node.ops[0], ast.Is | ast.IsNot):
            return node
        names = [f"_{number}" for number in range(len(sides))]
        left, *others = [ast.Name(name, ast.Load()) for name in names]
        arguments = ast.arguments([], [ast.arg(name) for name in names], None, [], [], None, [])
        same = ast.Lambda(arguments, ast.Compare(left, node.ops, list(others)))
        return ast.Call(same, [ast.Starred(_compared(sides, isinstance(node.ops[0], ast.In | ast.NotIn)))], [])

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        name = _called(node)
        if _ASSERTS.match(name):
            sides = 2 if _COMPARES.match(name) and not any(isinstance(a, ast.Starred) for a in node.args[:2]) else 0
            node.args[:sides] = [ast.Starred(_compared(node.args[:sides], name.endswith("In")))]
        return node

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        """Leave out `unittest.main()`, since `_calls` calls the tests."""
        if isinstance(node.value, ast.Call) and ast.unparse(node.value.func) in ("unittest.main", "pytest.main"):
            return ast.Pass()
        return self.generic_visit(node)


def _compared(sides: Sequence[ast.expr], membership: bool = False) -> ast.Call:
    return ast.Call(ast.Name("__compared__", ast.Load()), [ast.Constant(membership), *sides], [])

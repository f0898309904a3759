"""Reads the tests of a program from a ground truth, in every form that the usual data sets have."""

from __future__ import annotations

import ast
import json
import math
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from aws_rft_sdk._frozen import JSON, thaw
from aws_rft_sdk.rewards._programs import Block, Function, only_function, parse

# Assertions by a call that compare their first two arguments; the others are about a class, a truth or a text.
_COMPARES = re.compile(r"assert_?(?!(?:not_?)?(?:is|raises|warns|logs|true|false|regex|has))", re.IGNORECASE)
_CANDIDATES = {"candidate", "__candidate__"}
"""Names in tests for the function that is tested."""
_ASSERTS = re.compile(r"assert|raises$|fail$")


class ProgramTests(Protocol):
    """Tests that a sandbox runs with a program."""

    def job(self, program: Sequence[Block]) -> dict[str, Any] | None:
        """Return what `_sandbox` is sent; None if it is not known how to test this program.

        What is `late` is sent when the program's body has run.
        """

    def passed(self, job: Mapping[str, Any], lines: Sequence[str]) -> list[bool]:
        """Return for each test whether it has passed, from what the sandbox has printed."""


def read_tests(truth: JSON) -> ProgramTests | None:
    """Return the tests of a ground truth; None if it has no form that is known, or asserts nothing."""
    if isinstance(truth, str) and truth.lstrip()[:1] in ("{", "["):
        truth = _json(truth) or [truth]
    if isinstance(truth, Mapping):
        return _of_row(truth)
    if _texts(truth):
        return _assertions(_texts(truth))
    return _of_cases(truth) if isinstance(truth, Sequence) and truth else None


def _of_row(row: Mapping[str, Any]) -> ProgramTests | None:
    """Read a row of MBPP, APPS, HumanEval or LiveCodeBench, or an object with `tests`."""
    metadata = _json(row.get("metadata"))
    names = (row.get("entry_point"), row.get("fn_name"), isinstance(metadata, Mapping) and metadata.get("func_name"))
    name = next((name for name in names if isinstance(name, str)), None)
    if "test_list" in row:
        keys = ("test_imports", "test_setup_code", "test_list", "challenge_test_list")
        return _assertions([text for key in keys for text in _texts(row.get(key))])
    if "inputs" in row and "outputs" in row:
        inputs, outputs = thaw(row["inputs"]), thaw(row["outputs"])
        if not isinstance(inputs, list) or not isinstance(outputs, list) or len(inputs) != len(outputs) or not inputs:
            return None
        if name is None:
            return _Streams(inputs, outputs, True)
        # APPS wraps some of its results in a list.
        return _Calls(
            name, inputs, [(gold, *gold) if isinstance(gold, list) and len(gold) == 1 else (gold,) for gold in outputs]
        )
    parts = [_json(row.get(key)) for key in ("public_test_cases", "private_test_cases")]
    cases = [case for part in parts if isinstance(part, list) for case in part]
    tests = _of_cases(cases) if cases else None
    for key in ("tests", "test", "input_output"):
        tests = tests or read_tests(row.get(key))
    if isinstance(tests, _Calls):
        return replace(tests, function=tests.function or name)
    if isinstance(tests, _Assertions):
        prompt = str(row.get("prompt") or "")
        return replace(tests, function=name, prompt=prompt if name and parse(prompt) else "")
    return tests


def _of_cases(cases: Sequence[Any]) -> ProgramTests | None:
    """Read cases of LiveCodeBench."""
    if not all(isinstance(case, Mapping) and {"input", "output"} <= case.keys() for case in cases):
        return None
    kinds = {str(case.get("testtype", "")) for case in cases}
    inputs, outputs = [thaw(case["input"]) for case in cases], [thaw(case["output"]) for case in cases]
    if kinds == {"functional"}:
        arguments = [[_json(line) for line in str(text).splitlines()] for text in inputs]
        return _Calls(None, arguments, [(_json(str(text)),) for text in outputs])
    return _Streams(inputs, outputs, kinds == {"stdin"}) if kinds <= {"stdin", ""} else None


def _texts(value: Any) -> list[str]:
    """Return a text, or texts, as a list; an empty one if it is something else."""
    values = [value] if isinstance(value, str) else value
    return list(values) if isinstance(values, Sequence) and all(isinstance(text, str) for text in values) else []


def _json(value: Any) -> Any:
    """Return what a text of JSON says, None if it is none; something else than a text as it is."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return None


# --- input and output ---


@dataclass(frozen=True)
class _Calls:
    """Calls of a function. What they return is compared here, so that the sandbox never has what is expected."""

    function: str | None
    arguments: Sequence[Any]
    expected: Sequence[Sequence[Any]]
    """For each call, the results that are right."""

    def job(self, program: Sequence[Block]) -> dict[str, Any] | None:
        function = self.function or only_function(program)
        sources = [block.source for block in program]
        return (
            None if function is None else {"sources": sources, "function": function, "late": ("calls", self.arguments)}
        )

    def passed(self, job: Mapping[str, Any], lines: Sequence[str]) -> list[bool]:
        results = _results(lines)
        return [
            number in results and any(_same(results[number], gold) for gold in golds)
            for number, golds in enumerate(self.expected)
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
            number in results and _same(_words(str(results[number])), _words(_text(expected)))
            for number, expected in enumerate(self.expected)
        ]


def _results(lines: Sequence[str]) -> dict[int, Any]:
    parsed = [_json(line) for line in lines]
    return {pair[0]: pair[1] for pair in parsed if isinstance(pair, list) and len(pair) == 2 and type(pair[0]) is int}


def _text(value: Any) -> str:
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)


def _words(text: str) -> list[list[str]]:
    return [line.split() for line in text.strip().splitlines()]


def _same(actual: Any, expected: Any) -> bool:
    """Compare JSON, or words that were printed. Decimal fractions may be rounded."""
    if isinstance(actual, list) and isinstance(expected, list):
        return len(actual) == len(expected) and all(map(_same, actual, expected))
    if actual == expected:
        return True
    if isinstance(expected, str) and isinstance(actual, str):
        fraction = re.compile(r"[-+]?\d*\.\d+(?:e[-+]?\d+)?|[-+]?\d+", re.IGNORECASE)
        if "." not in expected + actual or not fraction.fullmatch(expected) or not fraction.fullmatch(actual):
            return False
    elif not isinstance(actual, float) or not isinstance(expected, int | float):
        return False
    return math.isclose(float(actual), float(expected), rel_tol=1e-9, abs_tol=1e-6)


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
        if function is None and any(_CANDIDATES & {*test.names} for test in self.tests):
            return None
        tests = [(secrets.token_hex(16), test.source, test.names) for test in self.tests]
        imports = sorted({name for test in self.tests for name in test.imports})
        sources = [*filter(None, [self.prompt]), *(block.source for block in program)]
        return {"sources": sources, "function": function, "late": ("tests", tests), "imports": imports}

    def passed(self, job: Mapping[str, Any], lines: Sequence[str]) -> list[bool]:
        written = set(lines)
        return [token in written for token, *_ in job["late"][1]]


def _assertions(sources: Sequence[str]) -> _Assertions | None:
    """Return the tests of some texts. A text that asserts nothing is the setup of all the others."""
    trees = [tree for tree in map(parse, sources) if tree is not None]
    if len(trees) != len(sources) or any(_needs_fixture(node) for tree in trees for node in ast.walk(tree)):
        return None
    asserting = [tree for tree in trees if _asserts(tree)]
    setup = [node for tree in trees if tree not in asserting for node in tree.body]
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
            yield from ast.parse("check(__candidate__)").body
        elif isinstance(node, Function) and node.name.startswith("test") and node.name not in called:
            yield from ast.parse(f"__run__({node.name})").body
        elif isinstance(node, ast.ClassDef):
            for method in node.body:
                if isinstance(method, Function) and method.name.startswith("test"):
                    yield from ast.parse(f"__run__({node.name}, {method.name!r})").body


def _needs_fixture(node: ast.AST) -> bool:
    if not isinstance(node, Function) or not node.name.startswith("test"):
        return False
    names = [each.arg for each in node.args.args[: len(node.args.args) - len(node.args.defaults)]]
    marks = "".join(map(ast.unparse, node.decorator_list))
    return any(name != "self" and name not in marks for name in names)


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
    arguments = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    names = _names(tree) - _names(tree, ast.Store) - arguments | of_program
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

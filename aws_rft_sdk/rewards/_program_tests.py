"""Reads the tests of a program from a ground truth, in every form that the usual data sets have."""

from __future__ import annotations

import ast
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from aws_rft_sdk._frozen import JSON, thaw
from aws_rft_sdk.rewards._programs import Function, as_script, find_program, only_function, parse

_ASSERTS = re.compile(r"assert|raises$|fail$")
_FRACTION = re.compile(r"[-+]?\d*\.\d+(?:e[-+]?\d+)?|[-+]?\d+", re.IGNORECASE)


@dataclass(frozen=True)
class ProgramTests:
    """Tests of a program, in the form that `_sandbox` runs."""

    kind: Literal["asserts", "calls", "scripts"]
    tests: Sequence[Any]
    """For asserts, a source, a call that runs after it, and the names that both take from the program or builtins. An
    empty source is the source of the test before. Otherwise arguments, or texts for standard input."""
    expected: Sequence[Sequence[Any]]
    """The results of each test that are right. They are compared here: the sandbox never has them."""
    function: str | None = None
    """What is called, or is the candidate of asserts. None takes the only function of the program."""
    imports: Sequence[str] = ()
    prompt: str = ""
    """Python that the program completes: its imports and an empty function."""
    stated: bool = True
    """Whether the ground truth says that inputs are standard input. If not, a program of functions is not judged."""

    def job(self, program: Sequence[str]) -> dict[str, Any] | None:
        """Return what `_sandbox` has to know before the tests; None if nobody says which function is tested."""
        function, sources = self.function or only_function(program), [self.prompt, *program]
        known = function is not None
        if self.kind == "scripts":
            sources = as_script(program) or (list(program) if self.stated else [])
            known = bool(sources)
        elif self.kind == "asserts":
            known = known or not any({"candidate", "__candidate__"} & {*names} for *_, names in self.tests)
        if not known:
            return None
        return {"kind": self.kind, "sources": sources, "function": function, "imports": self.imports}

    def passed(self, keys: Sequence[str], lines: Sequence[str]) -> list[bool]:
        """Return for each test whether it has passed, from its key and what the sandbox has printed."""
        pairs = [pair for pair in map(_json, lines) if isinstance(pair, list) and len(pair) == 2]
        results = {key: _words(result) if self.kind == "scripts" else result for key, result in pairs if key in keys}
        return [
            key in results and any(_same(results[key], gold) for gold in golds)
            for key, golds in zip(keys, self.expected, strict=True)
        ]


def read_tests(truth: JSON) -> ProgramTests | None:
    """Return the tests of a ground truth; None if it has no form that is known, or asserts nothing."""
    if isinstance(truth, str) and truth.lstrip()[:1] in ("{", "["):
        truth = _json(truth) or [truth]
    if isinstance(truth, Mapping):
        return _of_row(truth)
    if _texts(truth):
        try:
            return _asserts(_texts(truth))
        except RecursionError:  # such as an expression of more than 300 terms
            return None
    return _of_cases(truth) if isinstance(truth, Sequence) and truth else None


def _of_row(row: Mapping[str, Any]) -> ProgramTests | None:
    """Read a row of MBPP, APPS, HumanEval or LiveCodeBench, or an object with `tests`."""
    metadata = _json(row.get("metadata"))
    names = (row.get("entry_point"), row.get("fn_name"), isinstance(metadata, Mapping) and metadata.get("func_name"))
    name = next((name for name in names if isinstance(name, str)), None)
    if "test_list" in row:
        keys = ("test_imports", "test_setup_code", "test_list", "challenge_test_list")
        return read_tests([text for key in keys for text in _texts(row.get(key))])
    if "inputs" in row and "outputs" in row:
        inputs, outputs = thaw(row["inputs"]), thaw(row["outputs"])
        if not isinstance(inputs, list) or not isinstance(outputs, list) or len(inputs) != len(outputs) or not inputs:
            return None
        if name is None:
            return _scripts(inputs, outputs)
        # APPS wraps some of its results in a list.
        golds = [(gold, *gold) if isinstance(gold, list) and len(gold) == 1 else (gold,) for gold in outputs]
        return ProgramTests("calls", inputs, golds, name)
    parts = [_json(row.get(key)) for key in ("public_test_cases", "private_test_cases")]
    cases = [case for part in parts if isinstance(part, list) for case in part]
    tests = _of_cases(cases) if cases else None
    for key in ("tests", "test", "input_output"):
        tests = tests or read_tests(row.get(key))
    if tests is None:
        return None
    prompt = str(row.get("prompt") or "") if name and tests.kind == "asserts" else ""
    prompts = (prompt, f"{prompt.rstrip()}\n    pass")  # the latter for a function without a docstring
    return replace(tests, function=tests.function or name, prompt=next(filter(parse, prompts), ""))


def _of_cases(cases: Sequence[Any]) -> ProgramTests | None:
    """Read cases of LiveCodeBench."""
    if not all(isinstance(case, Mapping) and {"input", "output"} <= case.keys() for case in cases):
        return None
    kinds = {str(case.get("testtype", "")) for case in cases}
    inputs, outputs = [thaw(case["input"]) for case in cases], [thaw(case["output"]) for case in cases]
    if kinds == {"functional"}:
        arguments = [[_json(line) for line in str(text).splitlines()] for text in inputs]
        return ProgramTests("calls", arguments, [[_json(str(text))] for text in outputs])
    return _scripts(inputs, outputs, kinds == {"stdin"}) if kinds <= {"stdin", ""} else None


def _scripts(inputs: Sequence[Any], outputs: Sequence[Any], stated: bool = True) -> ProgramTests:
    def text(value: Any) -> str:
        return "\n".join(map(str, value)) if isinstance(value, list) else str(value)

    return ProgramTests("scripts", [*map(text, inputs)], [[_words(text(value))] for value in outputs], stated=stated)


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


def _words(text: str) -> list[list[str]]:
    return [line.split() for line in text.strip().splitlines()]


def _same(actual: Any, expected: Any) -> bool:
    """Compare JSON, or words that were printed. Decimal fractions may be rounded."""
    if isinstance(actual, list) and isinstance(expected, list):
        return len(actual) == len(expected) and all(map(_same, actual, expected))
    if actual == expected:
        return True
    if isinstance(expected, str) and isinstance(actual, str):
        if "." not in expected + actual or not _FRACTION.fullmatch(expected) or not _FRACTION.fullmatch(actual):
            return False
    elif not isinstance(actual, float) or not isinstance(expected, int | float):
        return False
    return math.isclose(float(actual), float(expected), rel_tol=1e-9, abs_tol=1e-6)


# --- asserts ---


def _asserts(sources: Sequence[str]) -> ProgramTests | None:
    """Return the tests of some texts. A text that asserts nothing is the setup of all the others."""
    sources = ["\n".join(find_program(text)) if text.lstrip().startswith("```") else text for text in sources]
    trees = [tree for tree in map(parse, sources) if tree is not None]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    if len(trees) != len(sources) or any(map(_needs_fixture, nodes)):
        return None
    can_assert = [_can_assert(tree, _names(tree, ast.Load) | {"check"}) for tree in trees]
    setup = [node for tree, can in zip(trees, can_assert, strict=True) if not can for node in tree.body]
    tests: list[tuple[str, str, list[str]]] = []
    for tree in trees:
        _watch(tree)
    for tree in itertools.compress(trees, can_assert):
        whole = ast.Module([*setup, *tree.body], [])
        calls = [*_calls(tree)] or [""]
        names = _taken_names(whole) | {*re.findall("__candidate__", "".join(calls))}
        tests += [(ast.unparse(whole), calls[0], sorted(names)), *(("", call, []) for call in calls[1:])]
    imports = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imports |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    imports -= {"solution", "__future__"}
    return ProgramTests("asserts", tests, [[True]] * len(tests), imports=sorted(imports)) if tests else None


def _calls(tree: ast.Module) -> Iterator[str]:
    """Yield calls of the functions and methods that nobody calls in a file of tests: HumanEval, pytest, unittest."""
    called = _names(tree, ast.Load)
    for node in tree.body:
        if isinstance(node, Function) and node.name not in called:
            if node.name == "check":
                yield "check(__candidate__)"
            elif node.name.startswith("test"):
                yield f"__run__({node.name})"
        elif isinstance(node, ast.ClassDef):
            methods = [each.name for each in node.body if isinstance(each, Function) and each.name.startswith("test")]
            yield from (f"__run__({node.name}, {method!r})" for method in methods)


def _needs_fixture(node: ast.AST) -> bool:
    if not isinstance(node, Function) or not node.name.startswith("test"):
        return False
    names = [each.arg for each in node.args.args[: len(node.args.args) - len(node.args.defaults)]]
    marks = "".join(map(ast.unparse, node.decorator_list))
    return any(name != "self" and name not in marks for name in names)


def _names(tree: ast.AST, kind: type[ast.expr_context]) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, kind)}


def _taken_names(tree: ast.Module) -> set[str]:
    """Return the names that a test takes from the program or from builtins."""
    nodes = [*ast.walk(tree)]
    own = _names(tree, ast.Store) | {node.arg for node in nodes if isinstance(node, ast.arg)}
    imports = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.module == "solution"]
    own |= {"__seen__", "__honest__"}
    return _names(tree, ast.Load) - own | {alias.name for node in imports for alias in node.names}


def _can_assert(node: ast.AST, used: set[str]) -> bool:
    """Say whether an assertion can be reached: at the top, or in a function that is a test or is used."""
    if isinstance(node, Function) and not node.name.startswith("test") and node.name not in used:
        return False
    if isinstance(node, ast.Assert | ast.Raise) or (isinstance(node, ast.Call) and _ASSERTS.match(_called(node))):
        return True
    return any(_can_assert(child, used) for child in ast.iter_child_nodes(node))


def _fails(node: ast.stmt) -> bool:
    """Say whether a statement always fails, such as `assert False`."""
    if isinstance(node, ast.Assert):
        return isinstance(node.test, ast.Constant) and not node.test.value
    call = getattr(node, "value", None)
    return isinstance(node, ast.Raise) or (isinstance(call, ast.Call) and _called(call) == "fail")


def _expect_errors(body: Sequence[ast.stmt]) -> None:
    """Count an error that a test waits for as an assertion: without it, the `try` or what follows would fail."""
    for number, node in enumerate(body):
        if not isinstance(node, ast.Try):
            continue
        inside = any(map(_fails, [*node.body, *node.orelse]))
        after = any(map(_fails, body[number + 1 : number + 2]))
        for handler in node.handlers:
            if inside or (after and isinstance(handler.body[-1], ast.Return | ast.Continue)):
                handler.body.insert(0, ast.Expr(_seen(ast.Constant(True))))


def _called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _watch(tree: ast.Module) -> None:
    """Show `_sandbox` what is asserted or compared, so that it can count assertions and refuse liars."""
    for node in ast.walk(tree):
        for _, body in ast.iter_fields(node):
            if isinstance(body, list):
                _expect_errors(body)
        if isinstance(node, ast.Assert):
            node.test = _seen(node.test)
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub):
            node.left, node.right = _seen(node.left, "__honest__"), _seen(node.right, "__honest__")
        elif isinstance(node, ast.Compare):
            node.left, *node.comparators = map(_seen, [node.left, *node.comparators])
        elif isinstance(node, ast.Call) and _ASSERTS.match(_called(node)):
            node.args = [each if isinstance(each, ast.Starred) else _seen(each) for each in node.args]
            for keyword in node.keywords:
                keyword.value = _seen(keyword.value)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("unittest.main", "pytest.main"):
            node.func = ast.Name("dict", ast.Load())  # takes any keywords; `_calls` calls the tests
            node.args = []


def _seen(value: ast.expr, by: str = "__seen__") -> ast.expr:
    return ast.Call(ast.Name(by, ast.Load()), [value], [])

"""Runs a program with its tests. A runner executes this as `main.py`, with a call of `main` added at its end.

The supervisor runs nothing of the program. It forks the loader, which runs the program's body. Then the loader forks
the tester and ends, and all threads of the body end with it. Only now does the supervisor pass the tests to the tester.
For tests by standard input, it forks a process for each input. A line `[key, result]` on standard output tells what
came of the test with this random key.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import itertools
import json
import operator
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from types import CodeType, ModuleType
from typing import Any, NoReturn

# The functions below keep this copy: the program may replace the attributes of the module.
globals()["__builtins__"] = vars(builtins).copy()

_MAX_BYTES = 2**26
_INPUTS = frozenset({"stdin", "argv"})
_PLAIN = frozenset({int, float, str, bool, bytes, type(None)})
_NUMBER, _TEXT = int.from_bytes(os.urandom(8), "big"), os.urandom(8).hex()
_NOTHING = object()
_STRANGERS = (_NOTHING, _NUMBER, _NUMBER / 7, _TEXT, [_NUMBER], (_NUMBER,), {_NUMBER}, {_TEXT: _NUMBER})
"""Values that no honest result is equal to, close to, or contains."""
_CLAIMS: tuple[Callable[[Any, Any], Any], ...] = (
    operator.eq,
    lambda value, stranger: (value != stranger) is False,
    lambda value, stranger: abs(value - stranger) < 1,
    lambda value, stranger: abs(stranger - value) < 1,
    lambda value, stranger: type(value).__contains__(value, stranger),
)
_ORDERS = (operator.lt, operator.le, operator.gt, operator.ge)


def main(job: dict[str, Any]) -> NoReturn:
    """Print whether the tests can begin, then the results until the time is up."""
    for name in job["imports"]:
        try:
            importlib.import_module(name)
        except ImportError:
            print("missing", name)  # noqa: T201
            sys.exit()
        except Exception:  # noqa: S112 - then the test will say so
            continue
    print("ready", flush=True)  # noqa: T201
    os.chdir(tempfile.mkdtemp())  # so that the program finds its folder empty
    signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
    signal.setitimer(signal.ITIMER_REAL, job["seconds"])
    if job["kind"] == "scripts":
        _run_scripts(job)
    else:
        _run_tests(job)
    os._exit(0)  # the runner ends what is left of the program


def _fork(stdin: int | None = None, stdout: int | None = None) -> int:
    child = os.fork()
    if not child:
        null = os.open(os.devnull, os.O_RDWR)
        for number, target in enumerate((stdin, stdout, None)):
            os.dup2(null if target is None else target, number)
    return child


def _read(source: int) -> bytes:
    with open(source, "rb") as file:
        return file.read(_MAX_BYTES)


def _run_scripts(job: dict[str, Any]) -> None:
    for key, text in json.loads(_read(os.dup(0))):
        with tempfile.TemporaryFile() as file:
            file.write(text.encode())
            file.seek(0)
            output, target = os.pipe()
            child = _fork(file.fileno(), target)
            if not child:
                _run_script(job["sources"])
        os.close(target)
        printed = _read(output).decode(errors="replace")
        if os.waitpid(child, 0)[1] == 0:
            print(json.dumps([key, printed]), flush=True)  # noqa: T201


def _run_tests(job: dict[str, Any]) -> None:
    (control, to_tester), (from_tester, results) = os.pipe(), os.pipe()
    loader = _fork()
    if not loader:
        os.close(to_tester)
        _load_and_test(job, control, results)
    os.close(control)
    os.close(results)
    os.waitpid(loader, 0)
    try:
        with open(to_tester, "wb") as file:
            file.write(_read(os.dup(0)))  # not before now: a process that is forked has what was read
    except BrokenPipeError:
        return  # the program has ended its process
    left = _MAX_BYTES
    while left > 0 and (part := os.read(from_tester, 65_536)):
        left -= os.write(1, part)


# --- in the program's processes ---


def _blocks(sources: list[str]) -> list[Iterator[CodeType]]:
    """Return the statements of each source, compiled one by one when they are taken."""
    blocks = [ast.parse(source).body for source in sources]
    futures = [node for block in blocks for node in block if getattr(node, "module", "") == "__future__"]

    def compiled(node: ast.stmt) -> CodeType:
        return compile(ast.Module([*futures, node], []), "solution.py", "exec", dont_inherit=True)

    return [map(compiled, block) for block in blocks]


def _run_script(sources: list[str]) -> NoReturn:
    module = sys.modules["__main__"] = ModuleType("__main__")
    vars(module)["__builtins__"] = builtins
    try:
        for statement in itertools.chain(*_blocks(sources)):
            exec(statement, vars(module))  # noqa: S102 - what the sandbox is for
    except SystemExit:
        pass
    sys.exit(0)  # as usual: threads are waited for, and output is flushed


def _load_and_test(job: dict[str, Any], control: int, results: int) -> NoReturn:
    """Run the program, leave with all its threads, and let a child run the tests."""
    fork, leave, write, loads, dumps = os.fork, os._exit, os.write, json.loads, json.dumps  # before they are replaced
    restore, pristine = _snapshot(job["imports"]), vars(builtins).copy()
    solution = ModuleType("solution")
    sys.modules.update({"solution": solution, "__main__": ModuleType("__main__")})  # not this file's globals
    namespace = vars(solution)
    namespace["__builtins__"] = builtins  # not the copy of this file
    for block in _blocks(job["sources"]):
        for statement in block:
            try:
                exec(statement, namespace)  # noqa: S102
            except EOFError:
                continue  # here nobody types
            except BaseException:
                if not _INPUTS & {*statement.co_names}:
                    break  # an example that fails, or an exit: definitions that follow would never be reached
    restore()
    if fork():
        leave(0)
    scope: dict[str, Any] = {}
    for key, test in loads(_read(control)):
        try:
            if job["kind"] == "calls":
                result = _found(namespace, job["function"])(*test)
            else:
                source, call, names = test
                scope = _scope(namespace, pristine, names, job["function"]) if source else scope
                restore()  # each time: the test before has called the program
                result = _passes([source, call], scope)
            write(results, f"\n{dumps([key, result])}\n".encode())
        except BaseException:  # noqa: S112 - the test has failed
            continue
    leave(0)


def _snapshot(names: list[str]) -> Callable[[], None]:
    """Return what puts back the modules that the tests import, and their classes, as they are now."""
    modules = {name: sys.modules[name] for name in (*names, "builtins", "json", "os", "sys") if name in sys.modules}
    classes = {value for module in modules.values() for value in vars(module).values() if type(value) is type}
    saved = [(owner, dict(vars(owner))) for owner in (*modules.values(), *classes)]

    def restore() -> None:
        sys.modules.update(modules)
        for owner, attributes in saved:
            for name, value in attributes.items():
                if vars(owner).get(name) is not value:
                    setattr(owner, name, value)

    return restore


def _found(namespace: dict[str, Any], name: str) -> Any:
    _, of_class, method = name.rpartition("Solution().")
    if "Solution" in namespace and (of_class or name not in namespace):
        return getattr(namespace["Solution"](), method)
    return namespace[method]


def _scope(namespace: dict[str, Any], pristine: dict[str, Any], used: list[str], function: str) -> dict[str, Any]:
    """Return the globals of a test: the program's names, but its `all` or `len` only if they are what is tested."""
    for name in {*used} - namespace.keys() - pristine.keys():
        try:
            namespace[name] = _found(namespace, function if name in ("candidate", "__candidate__") else name)
        except Exception:  # noqa: S112
            continue  # a name of the test's own, or one that it will miss
    shadowed = pristine.keys() if {*used} & namespace.keys() - pristine.keys() else ()
    scope = {name: value for name, value in namespace.items() if name not in shadowed}
    return scope | {"__builtins__": dict(pristine), "__name__": "__main__", "__run__": _run}


def _passes(sources: list[str], scope: dict[str, Any]) -> bool:
    """Run a test and say whether it has asserted anything."""
    asserted = []

    def honest(value: Any) -> Any:
        if _is_like_everything(value):
            raise AssertionError("an object is equal to everything")
        return value

    def seen(value: Any) -> Any:
        if sys.exc_info()[0] is not NameError:  # a function that is missing raises no error of its own
            asserted.append(True)
        return honest(value)

    scope.update(__seen__=seen, __honest__=honest)
    for source in sources:
        exec(compile(source, "test.py", "exec", dont_inherit=True, optimize=0), scope)  # noqa: S102
    return bool(asserted)


def _is_like_everything(value: Any) -> bool:
    """Say whether a value, or an element of it, is equal or close to strangers, or orders or contains any object."""
    kind = type(value)
    if kind in (list, tuple, set, frozenset, dict):
        elements = [*value, *value.values()] if kind is dict else value
        return any(type(each) not in _PLAIN and _is_like_everything(each) for each in elements)
    if kind in _PLAIN:
        return False
    for claim, stranger in (*itertools.product(_CLAIMS, _STRANGERS), *((order, _NOTHING) for order in _ORDERS)):
        try:
            if claim(value, stranger):
                return True
        except Exception:  # noqa: S112 - it cannot be compared, and does not claim it
            continue
    return False


def _run(test: Any, method: str | None = None) -> None:
    """Run a test as pytest or unittest would: a function, or a method of a class, once for each row of parameters."""
    if hasattr(test, "debug"):
        importlib.import_module("unittest").TestSuite([test(method)]).debug()
        return
    if method is not None:
        instance = test()
        getattr(instance, "setup_method", lambda: None)()
        test = getattr(instance, method)
    calls: list[dict[str, Any]] = [{}]
    for mark in getattr(test, "pytestmark", []):
        if mark.name == "parametrize":
            names = mark.args[0].replace(",", " ").split() if isinstance(mark.args[0], str) else mark.args[0]
            values = [value.values if hasattr(value, "marks") else value for value in mark.args[1]]
            rows = [dict(zip(names, value if len(names) > 1 else [value])) for value in values]  # noqa: B905
            calls = [call | row for call in calls for row in rows]
    for arguments in calls:
        result = test(**arguments)
        if hasattr(result, "__await__"):
            importlib.import_module("asyncio").run(result)

"""Runs a program with tests. Executed as `main.py` by a runner, never imported by the package.

The supervisor runs nothing of the program. For tests that assert, it forks the loader. The loader runs the program's
body while no process of the program has the tests. Then it forks the tester and ends, and all threads of the program
end with it. Only now does the supervisor send the tests to the tester. Each test has a random token. The tester writes
the token if the test passes.

For tests by standard input, the supervisor forks a process for each input, and passes on what the process prints.
"""

from __future__ import annotations

import builtins
import gc
import importlib
import json
import marshal
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NoReturn

# The functions below keep this copy: the program may replace the attributes of the module.
globals()["__builtins__"] = vars(builtins).copy()

_MAX_BYTES = 2**26
_ONLY_AST = 0x400
_WRAPPER = type(object.__eq__)
_PLAIN = frozenset({int, float, str, bool, bytes, type(None)})


class _TimeIsUpError(BaseException):
    pass


def _statements(sources: list[str]) -> list[Any]:
    """Return the statements of all sources, `from __future__` imports first, as Python wants it."""
    body = [node for source in sources for node in compile(source, "solution.py", "exec", _ONLY_AST, True).body]
    return sorted(body, key=lambda node: getattr(node, "module", "") != "__future__")


def _compiled(body: list[Any]) -> Any:
    tree = compile("", "solution.py", "exec", _ONLY_AST, True)
    tree.body = body
    return compile(tree, "solution.py", "exec", dont_inherit=True)


# --- in the program's processes ---


def _renew_streams() -> None:
    """Forget what the supervisor has read ahead."""
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115 - the process ends


def _run_script(sources: list[str]) -> NoReturn:
    code = _compiled(_statements(sources))
    module = sys.modules["__main__"] = ModuleType("__main__")
    _renew_streams()
    try:
        exec(code, vars(module))  # noqa: S102 - what the sandbox is for
    except SystemExit:
        pass
    sys.exit(0)  # as usual: threads are waited for, and output is flushed


def _load_and_test(job: dict[str, Any], control: int, results: int) -> NoReturn:
    """Run the program, leave with all its threads, and let a child run the tests."""
    fork, leave, read, write, dumps = os.fork, os._exit, os.read, os.write, json.dumps
    _renew_streams()
    restore, pristine = _snapshot(job.get("imports", [])), vars(builtins).copy()
    os.register_at_fork = lambda **_: None
    solution = ModuleType("solution")
    namespace = vars(solution)
    sys.modules.update({"solution": solution, "__main__": ModuleType("__main__")})  # not this file's globals
    body = _statements(job["sources"])
    futures = [node for node in body if getattr(node, "module", "") == "__future__"]
    for node in body:
        try:
            exec(_compiled([*futures, node]), namespace)  # noqa: S102
        except BaseException:  # noqa: S112 - an example that fails, or an exit at the end
            continue
    restore()
    gc.callbacks.clear()
    if fork():
        leave(0)
    payload = b""
    while part := read(control, 65_536):
        payload += part
    kind, tests = marshal.loads(payload)  # noqa: S302 - the supervisor wrote it
    for number, test in enumerate(tests):
        try:
            if kind == "calls":
                result = _found(namespace, job["function"])(*test)
                write(results, f"\n{dumps([number, result])}\n".encode())
                continue
            scope = _scope(namespace, pristine, test[2], job["function"])
            restore()  # each time: the test before has called the program
            restore()  # once more, since what was replaced may have had a finalizer
            if _passes(test[1], scope, namespace):
                write(results, f"\n{test[0]}\n".encode())
        except BaseException:  # noqa: S112 - the test has failed
            continue
    leave(0)


def _snapshot(names: list[str]) -> Callable[[], None]:
    """Return what puts back the modules that the tests import, and their classes, as they are now."""
    modules = {name: sys.modules[name] for name in (*names, "builtins", "sys", "os") if name in sys.modules}
    spaces = [(vars(module), vars(module).copy()) for module in modules.values()]
    classes = {value for _, space in spaces for value in space.values() if type(value) is type}
    members = [(kind, dict(vars(kind))) for kind in classes]

    def restore() -> None:
        sys.settrace(None)
        sys.setprofile(None)
        sys.modules.update(modules)
        for space, saved in spaces:
            space.update(saved)
        for kind, saved in members:
            for name, value in saved.items():
                if vars(kind).get(name) is not value:
                    setattr(kind, name, value)

    return restore


def _found(namespace: dict[str, Any], name: str) -> Any:
    """Return a function of the program, or a method of its class `Solution`."""
    _, of_class, method = name.rpartition("Solution().")
    if "Solution" in namespace and (of_class or name not in namespace):
        return getattr(namespace["Solution"](), method)
    return namespace[method]


def _scope(
    namespace: dict[str, Any], pristine: dict[str, Any], used: list[str], function: str | None
) -> dict[str, Any]:
    """Return the globals of a test: the program's names, but its `all` or `len` only if they are what is tested."""
    scope = dict(namespace)
    for name in {*used, function} - scope.keys() - pristine.keys() - {None}:
        try:
            scope[str(name)] = _found(namespace, str(name))
            namespace.setdefault(str(name), scope[str(name)])
        except Exception:  # noqa: S112
            continue  # a name of the test's own, or one that it will miss
    tested = {name for name in (*used, function) if name in namespace}
    if not tested <= pristine.keys():
        for name in pristine.keys() & scope.keys():
            del scope[name]
    for name in {"candidate", "__candidate__"} & {*used} - scope.keys():
        scope[name] = _found(namespace, str(function))
    return scope | {"__builtins__": dict(pristine), "__name__": "__main__", "__run__": _run}


def _passes(source: str, scope: dict[str, Any], namespace: dict[str, Any]) -> bool:
    """Run a test and say whether it has asserted anything."""
    asserted = []

    def compared(membership: bool, *sides: Any) -> tuple[Any, ...]:
        asserted.append(True)
        own = [_has_own_operators(side, namespace) for side in sides]
        if any(own[:1] if membership else own) and not all(own[-1:] if membership else own):
            raise AssertionError("an object with operators of the program's own is compared with another kind")
        return sides

    scope["__compared__"] = compared
    exec(compile(source, "test.py", "exec", dont_inherit=True, optimize=0), scope)  # noqa: S102
    return bool(asserted)


def _has_own_operators(value: Any, namespace: dict[str, Any]) -> bool:
    """Say whether a value, or an element of it, decides in the program's code, or always, what it is equal to."""
    kind = type(value)
    if kind in (list, tuple, set, frozenset, dict):
        elements = [*value, *value.values()] if kind is dict else value
        return any(_has_own_operators(each, namespace) for each in elements if type(each) not in _PLAIN)
    for name in ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__"):
        operator = type.__getattribute__(kind, name)
        if type(operator) is _WRAPPER and operator.__name__ == name:
            continue  # written in C
        if getattr(operator, "__globals__", namespace) is namespace:
            return True
        if name == "__eq__" and operator(value, object()) is True:
            return True
    return False


def _run(test: Any, method: str | None = None) -> None:
    """Run a test as pytest or unittest would do: a function, or a method of a class, with its parameters."""
    if method is not None and hasattr(test, "debug"):
        importlib.import_module("unittest").TestSuite([test(method)]).debug()
        return
    if method is not None:
        instance = test()
        getattr(instance, "setup_method", lambda: None)()
        test = getattr(instance, method)
    for arguments in _parameters(getattr(test, "pytestmark", [])):
        result = test(**arguments)
        if hasattr(result, "__await__"):
            importlib.import_module("asyncio").run(result)


def _parameters(marks: list[Any]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{}]
    for mark in marks:
        if mark.name == "parametrize":
            names = mark.args[0].split(",") if isinstance(mark.args[0], str) else mark.args[0]
            values = [value.values if hasattr(value, "marks") else value for value in mark.args[1]]
            pairs = [
                dict(zip(map(str.strip, names), value if len(names) > 1 else [value], strict=True)) for value in values
            ]
            rows = [row | pair for row in rows for pair in pairs]
    return rows


# --- in the supervisor ---


def _forked(run: Callable[[], NoReturn], stdin: int | None = None, stdout: int | None = None) -> int:
    """Run a function in a process with a group, a standard input and an output of its own. Return its id."""
    child = os.fork()
    if child:
        try:
            os.setpgid(child, child)  # both sides do it, so that it is done when either goes on
        except (PermissionError, ProcessLookupError):
            pass
        return child
    os.setpgid(0, 0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDWR)
    for number, target in enumerate((stdin, stdout, None)):
        os.dup2(null if target is None else target, number)
    run()


def _pairs(job: dict[str, Any], begun: list[int]) -> Iterator[bytes]:
    """Yield, for each input, a line with its number and what the program has printed."""
    for number, text in enumerate(job["inputs"]):
        with tempfile.TemporaryFile() as file:
            file.write(text.encode())
            file.seek(0)
            output, target = os.pipe()
            child = _forked(lambda: _run_script(job["sources"]), file.fileno(), target)
        begun.append(child)
        os.close(target)
        printed = _read(output)
        if os.waitpid(child, 0)[1] == 0:
            yield f"{json.dumps([number, printed.decode(errors='replace')])}\n".encode()
        os.close(output)


def _tokens(job: dict[str, Any], begun: list[int]) -> Iterator[bytes]:
    """Yield what the tester writes."""
    control, to_tester = os.pipe()
    from_tester, results = os.pipe()

    def run() -> NoReturn:
        os.close(to_tester)
        os.close(from_tester)
        _load_and_test(job, control, results)

    loader = _forked(run)
    begun.append(loader)
    os.close(control)
    os.close(results)
    if hasattr(os, "waitid"):  # until the loader is collected, no other process gets its id, which names its group
        os.waitid(os.P_PID, loader, os.WEXITED | os.WNOWAIT)
    else:
        os.waitpid(loader, 0)
    tests = marshal.dumps(json.loads(_read(0)))  # not before now: a process that is forked has what was read
    try:
        _write_all(to_tester, tests)
    except BrokenPipeError:
        pass  # the program has ended its process
    os.close(to_tester)
    while part := os.read(from_tester, 65_536):
        yield part


def _write_all(target: int, data: bytes) -> None:
    while data:
        data = data[os.write(target, data) :]


def _read(source: int, most: int = _MAX_BYTES) -> bytes:
    data = b""
    while part := os.read(source, min(most - len(data), 65_536)):
        data += part
    return data


def _time_is_up(*_: object) -> None:
    raise _TimeIsUpError


def _main() -> None:
    size = b""
    while (digit := os.read(0, 1)).isdigit():
        size += digit
    job = json.loads(_read(0, int(size)))
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    for name in job.get("imports", []):
        try:
            importlib.import_module(name)
        except ImportError:
            print("missing", name)  # noqa: T201 - the verdict is read from here
            return
        except Exception:  # noqa: S112 - then the test will say so
            continue
    print("ready", flush=True)  # noqa: T201
    os.chdir(tempfile.mkdtemp())  # so that the program finds its folder empty
    begun: list[int] = []
    signal.signal(signal.SIGALRM, _time_is_up)
    signal.setitimer(signal.ITIMER_REAL, job["seconds"])
    left = _MAX_BYTES
    try:
        for part in _pairs(job, begun) if "inputs" in job else _tokens(job, begun):
            left -= len(part)
            if left < 0:
                break
            _write_all(1, part)
    except _TimeIsUpError:
        pass
    signal.setitimer(signal.ITIMER_REAL, 0)
    for group in begun:
        try:
            os.killpg(group, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass  # nobody is left; macOS says the second of a group of zombies


if __name__ == "__main__":
    _main()

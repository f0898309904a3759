"""Runs untrusted code against tests. Executed in a process of its own (`python -c`), never imported by the package.

The supervisor runs nothing of the program. It forks the loader, which runs the program's body while nobody but our side
has the tests, then forks the tester, and ends: with it ends every thread of the program. Only now does the supervisor
read the tests, and hands them with one random token for each to the tester, which has the program's names. A test has
passed when its token comes back.

What follows the body must not go by anything that the program may have replaced: it uses local names, taken before,
and builtins of its own. Frames and the garbage collector, which would lead to the tests and tokens, are closed.
"""

from __future__ import annotations

import _thread
import builtins
import gc
import importlib
import marshal
import os
import signal
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, NoReturn

# The functions below keep this copy: the program may replace the attributes of the module.
globals()["__builtins__"] = vars(builtins).copy()

_MAX_RESULT_BYTES = 2**20
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_FORBIDDEN = (
    *("socket.", "subprocess.", "ctypes.", "pty.", "signal.pthread_kill", "ftplib.", "smtplib.", "urllib."),
    *("os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.kill", "os.killpg"),
    *("gc.get_", "sys._current_", "sys.settrace", "sys.setprofile", "sys.monitoring.", "sys.remote_exec"),
    *("sys.addaudithook", "sqlite3.enable_load", "sqlite3.load_ext", "resource.prlimit"),
)
_FRAMES = {"tb_frame", "gi_frame", "cr_frame", "ag_frame"}
_CLOSED_MODULES = {
    *("_ctypes", "_posixsubprocess", "_signal", "posix", "_testcapi", "_testinternalcapi", "_testlimitedcapi"),
    *("_xxsubinterpreters", "_interpreters"),  # audit hooks do not see into them
}
_PATHS = (
    *("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.chmod", "os.chown", "os.link", "os.symlink"),
    *("os.truncate", "os.utime", "os.setxattr", "os.removexattr", "sqlite3.connect"),
)
_UNSEEN = (
    *("setsid", "setpgid", "setpgrp", "setpriority", "sched_setaffinity", "sched_setscheduler", "sched_setparam"),
    *("mkfifo", "mknod", "pidfd_open", "pidfd_send_signal"),
)
"""Functions of `os` and `signal` that reach other processes or make files, and raise no event."""


class _RefusedError(PermissionError, ValueError, RuntimeError):
    """The standard library takes one of these three for "there are no frames", or "no signals here", and goes on."""


class _TimeoutError(BaseException):
    pass


def _isolate() -> None:
    """Enter a network without devices, and become the parent of orphans, in an interpreter that never had ctypes."""
    if sys.platform != "linux" or "isolated" in sys.argv:
        return
    try:
        import ctypes

        library = ctypes.CDLL(None)
        library.unshare(0x10000000 | 0x40000000)  # CLONE_NEWUSER | CLONE_NEWNET; the audit hook refuses sockets as well
        library.prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: the tester is collected here, not by init
        _confine(ctypes, library)
    except (ImportError, OSError, AttributeError):
        pass
    # ctypes can read and write any memory, and what was imported can be found again.
    os.execv(sys.executable, [*sys.orig_argv, "isolated"])  # noqa: S606 - our own interpreter with our own program


def _confine(ctypes: Any, library: Any) -> None:
    """Let the kernel (Landlock) refuse writing outside of this folder, and signals to processes outside.

    It also sees what no audit hook does, such as the files that SQLite attaches.
    """
    version = library.syscall(444, None, 0, 1)  # landlock_create_ruleset, asked for its version
    if version < 1:
        return
    # Write, remove and make files of all kinds; move between folders and truncate, where it knows that.
    rights = 0x1FF2 | (0x2000 if version > 1 else 0) | (0x4000 if version > 2 else 0)
    rules = (ctypes.c_uint64 * 3)(rights, 0, 3 if version > 5 else 0)
    ruleset = library.syscall(444, rules, ctypes.sizeof(rules), 0)
    for path, allowed in ((".", rights), (os.devnull, rights & 0x4002)):
        place = os.open(path, os.O_RDONLY)
        library.syscall(445, ruleset, 1, allowed.to_bytes(8, sys.byteorder) + place.to_bytes(4, sys.byteorder), 0)
        os.close(place)
    library.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    library.syscall(446, ruleset, 0)  # landlock_restrict_self
    os.close(ruleset)


def _limit(job: dict[str, Any]) -> None:
    import resource

    for name, value in (
        ("RLIMIT_CPU", job["cpu_seconds"]),
        ("RLIMIT_AS", job["memory_bytes"]),
        ("RLIMIT_FSIZE", job["file_bytes"]),
        ("RLIMIT_NOFILE", 64),
        ("RLIMIT_CORE", 0),
    ):
        kind = getattr(resource, name)
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        try:
            resource.setrlimit(kind, (value, value))
        except (OSError, ValueError):
            if name not in ("RLIMIT_AS", "RLIMIT_NOFILE"):  # macOS refuses these two
                raise


def _close_ways() -> None:
    """Take away what no audit hook sees: code at a fork, signal handlers (which get frames), `_UNSEEN`."""
    low_signal = importlib.import_module("_signal")
    scope: dict[str, Any] = {"__builtins__": {}, "Refused": _RefusedError}
    exec("def refuse(*_, **__): raise Refused('not allowed in a test')", scope)  # noqa: S102 - see below
    refuse = scope["refuse"]  # a function of this file would lead, by its __globals__, to all that is in it
    low_os = importlib.import_module("posix")
    for module in (os, low_os, signal, low_signal):
        for name in set(_UNSEEN) & vars(module).keys():
            setattr(module, name, refuse)
    for module in (os, low_os):
        setattr(module, "register_at_fork", dict)  # noqa: B010 - takes any keywords, does nothing, is not ours
    setattr(low_signal, "signal", refuse)  # noqa: B010 - what `signal.signal` calls
    starter: Any = ModuleType("_posixsubprocess")  # subprocess and multiprocessing import it, and may do so
    starter.fork_exec = refuse
    sys.modules["_posixsubprocess"] = starter


def _resolver() -> Callable[[str], str]:
    """Return realpath without functions that the program can replace."""
    readlink, getcwd = os.readlink, os.getcwd

    def resolve(path: str) -> str:
        whole = path if path.startswith("/") else f"{getcwd()}/{path}"
        done, waiting, links = "", whole.split("/")[::-1], 0
        while waiting:
            part = waiting.pop()
            if part in ("", "."):
                continue
            if part == "..":
                done = done.rpartition("/")[0]
                continue
            try:
                target = readlink(f"{done}/{part}")
            except OSError:
                done = f"{done}/{part}"
                continue
            links += 1
            if links > 40:
                raise _RefusedError("too many links")
            done = "" if target.startswith("/") else done
            waiting += target.split("/")[::-1]
        return done

    return resolve


def _watch(folder: str) -> Callable[[], None]:
    """Refuse sockets, processes, frames, and files outside of the folder; return what permits this thread one fork."""
    resolve, decode, ident, own = _resolver(), os.fsdecode, _thread.get_ident, _thread.get_ident()
    roots = (folder, sys.base_prefix, sys.prefix, *filter(None, sys.path), "/usr/share/zoneinfo")
    readable = (*(resolve(root) for root in roots), "/dev/null", "/dev/urandom")
    writable = (resolve(folder),)
    permits: list[int] = []

    def check(path: object, allowed: tuple[str, ...], *, upwards: bool = False) -> None:
        # A subclass of str could be one path here, and another one where it is opened.
        if isinstance(path, bytes):
            path = decode(memoryview(path).tobytes())
        elif isinstance(path, str):
            path = str.__str__(path)
        else:
            raise _RefusedError("a path must be a text")
        if not upwards and ".." in path.split("/"):
            raise _RefusedError("paths that lead upwards are closed")
        whole = resolve(path)
        if not any(whole == root or whole.startswith(f"{root}/") for root in allowed):
            raise _RefusedError("files outside of the folder of the test are closed")

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            # `os.open`, which has no mode, may be told another folder to begin in, of which the event does not tell.
            if not isinstance(args[0], int):
                plain = args[1] is not None
                check(args[0], readable if plain and not args[2] & _WRITING else writable, upwards=plain)
        elif event in ("os.listdir", "os.scandir"):
            if not isinstance(args[0], int):
                check("." if args[0] is None else args[0], readable, upwards=True)
        elif event == "object.__getattr__":
            if args[1] in _FRAMES:
                raise _RefusedError("frames are closed in a test")
        elif event == "object.__setattr__":
            # types.coroutine, with which asyncio begins, sets the same code with another flag.
            if args[1] == "__code__" and args[0].__code__.co_code != args[2].co_code:
                raise _RefusedError("the code of functions is closed in a test")
        elif event == "sys._getframe":
            raise _RefusedError("frames are closed in a test")
        elif event == "import":
            if args[0] in _CLOSED_MODULES:
                raise ImportError(f"{args[0]} is closed in a test")
        elif event == "socket.__new__" and args[1] == 1:  # AF_UNIX, a pair of which every event loop makes for itself
            return
        elif event == "os.fork" and permits and ident() == own:
            permits.clear()
        elif event.startswith(_FORBIDDEN):
            raise _RefusedError(f"{event} is not allowed in a test")
        elif event.startswith(_PATHS):
            if event == "sqlite3.connect" and args[0] == ":memory:":
                return
            for path in args[:1] if event == "sqlite3.connect" else args[:2]:
                if isinstance(path, str | bytes):
                    check(path, writable)

    sys.addaudithook(hook)
    return lambda: permits.append(1)


def _snapshot(names: list[str]) -> Callable[[], None]:
    """Import what the tests import; return what undoes all that has been done to it, to builtins, os and sys since."""
    for name in names:
        try:
            importlib.import_module(name)
        except Exception:  # noqa: S112 - then the test will say so
            continue
    parents = {name.rsplit(".", count)[0] for name in names for count in range(name.count(".") + 1)}
    modules = [(name, sys.modules[name]) for name in ("builtins", "os", "sys", *parents) if name in sys.modules]
    spaces: list[tuple[dict[str, Any], dict[str, Any]]] = [(vars(module), vars(module).copy()) for _, module in modules]
    classes = {id(value): value for _, space in spaces for value in space.values() if type(value) is type}
    members = [(value, dict(vars(value))) for value in classes.values() if value not in (object, type)]
    lists: list[tuple[list[Any], list[Any]]] = [
        (value, value[:]) for value in (sys.path, sys.meta_path, sys.path_hooks)
    ]
    spaces.append((sys.modules, dict(modules)))
    replaced: list[Any] = []  # kept, since what is finalized or compared may be the program's and change all again

    def restore() -> None:
        for space, saved in spaces:
            entries = list(space.items())
            plain = [entry for entry in entries if type(entry[0]) is str]
            replaced.extend(entry for entry in entries if type(entry[0]) is not str)
            replaced.extend(value for name, value in plain if name in saved and saved[name] is not value)
            space.clear()
            space.update(plain)
            space.update(saved)
        for value, elements in lists:
            replaced.extend(value)
            value[:] = elements
        for kind, attributes in members:
            present = dict(type.__dict__["__dict__"].__get__(kind))
            for name in present.keys() | attributes.keys():
                if name not in attributes:
                    replaced.append(present[name])
                    type.__delattr__(kind, name)
                elif present.get(name) is not attributes[name]:
                    replaced.append(present.get(name))
                    try:
                        type.__setattr__(kind, name, attributes[name])
                    except (AttributeError, TypeError):
                        continue  # what cannot be set has not been replaced either

    return restore


def _scope(namespace: dict[str, Any], pristine: dict[str, Any], used: list[str]) -> dict[str, Any]:
    """Return the globals of a test: the program's names, but its `all` or `len` only if they are what is tested."""
    scope = {name: value for name, value in namespace.items() if type(name) is str}
    tested = {name for name in used if name in scope}
    if not tested <= pristine.keys():
        for name in pristine.keys() & scope.keys():
            del scope[name]
    scope["__builtins__"] = dict(pristine)
    return scope


def _load_and_test(job: dict[str, Any], control: int, results: int) -> NoReturn:
    """Run the program, leave with all its threads, and let a child run the tests."""
    fork, leave, read, write, loads, run = os.fork, os._exit, os.read, os.write, marshal.loads, exec
    collect_no_garbage, garbage_callbacks, without = gc.disable, gc.callbacks, BaseException.with_traceback
    try:
        program = compile(job["code"], "solution.py", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
        leave(0)
    write(results, b"compiled\n")
    _limit(job)
    _close_ways()
    restore = _snapshot(job["imports"])
    for name in ("ctypes", "_ctypes"):
        sys.modules.pop(name, None)
    pristine = vars(builtins).copy()
    solution = ModuleType("solution")
    namespace = vars(solution)
    sys.modules.update({"solution": solution, "__main__": ModuleType("__main__")})  # not this file's globals
    permit_fork = _watch(os.getcwd())
    try:
        run(program, namespace)
    except BaseException:
        leave(0)
    collect_no_garbage()  # from here to the last test nothing of the program may run unasked
    garbage_callbacks.clear()
    permit_fork()
    if fork():
        leave(0)
    payload = b""
    while part := read(control, 65_536):
        payload += part
    for token, code, used in loads(payload):
        scope = _scope(namespace, pristine, used)
        restore()  # each time: the test before has called the program
        try:
            run(loads(code), scope)
        except BaseException as error:
            without(error, None)  # the program may keep the exception, and this frame must not be in it
            continue
        write(results, b"\n" + token + b"\n")
    leave(0)


def _supervise(job: dict[str, Any]) -> tuple[set[bytes], list[bytes]]:
    """Return what the loader and the tester have written, line by line, and the tokens of the tests."""
    control, to_tester = os.pipe()
    from_tester, results = os.pipe()
    loader = os.fork()
    if not loader:
        os.setpgid(0, 0)
        null = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):  # the tests will come by 0, the verdict goes by 1
            os.dup2(null, number)
        for number in (to_tester, from_tester, null):
            os.close(number)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        _load_and_test(job, control, results)
    try:
        os.setpgid(loader, loader)  # both sides do it, so that it is done when either goes on
    except (PermissionError, ProcessLookupError):
        pass
    for number in (control, results):
        os.close(number)
    tokens: list[bytes] = []
    written = b""
    signal.signal(signal.SIGALRM, _time_is_up)
    signal.setitimer(signal.ITIMER_REAL, job["seconds"])
    try:
        _wait(loader)
        tests = _read()
        tokens = [os.urandom(16).hex().encode() for _ in tests]
        payload = marshal.dumps([(token, *test) for token, test in zip(tokens, tests, strict=True)])
        try:
            while payload:
                payload = payload[os.write(to_tester, payload) :]
        except BrokenPipeError:
            pass  # the program has not come so far
        os.close(to_tester)
        while len(written) < _MAX_RESULT_BYTES and (part := os.read(from_tester, 65_536)):
            written += part
        signal.setitimer(signal.ITIMER_REAL, 0)
    except _TimeoutError:
        os.set_blocking(from_tester, False)
        try:
            written += os.read(from_tester, _MAX_RESULT_BYTES)
        except BlockingIOError:
            pass
    _end(loader)
    return set(written.splitlines()), tokens


def _read() -> Any:
    """Read what our side sends next, and not a byte more: the loader is forked between the program and the tests."""
    parts: list[bytes] = []
    for size in (8, 0):
        missing = size or int.from_bytes(parts[0], "big")
        data = b""
        while len(data) < missing and (part := os.read(0, missing - len(data))):
            data += part
        parts.append(data)
    return marshal.loads(parts[1])  # noqa: S302 - our side wrote it


def _time_is_up(*_: object) -> None:
    raise _TimeoutError


def _wait(loader: int) -> None:
    """Wait until the loader is gone, but leave it uncollected: its id still names the group of the tester."""
    if hasattr(os, "waitid"):
        os.waitid(os.P_PID, loader, os.WEXITED | os.WNOWAIT)
    else:
        os.waitpid(loader, 0)


def _end(group: int) -> None:
    """End the loader, the tester and what else is in their group, and collect them."""
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # nobody is left; macOS says the second of a group of zombies
    try:
        while True:
            os.waitpid(-1, 0)
    except ChildProcessError:
        pass


def _main() -> None:
    _isolate()
    written, tokens = _supervise(_read())
    passed = [str(number) for number, token in enumerate(tokens) if token in written]
    print("judged", *["compiled"] if b"compiled" in written else [], *passed)  # noqa: T201 - this is the verdict


_main()

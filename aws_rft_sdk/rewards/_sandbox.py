"""Runs untrusted code against tests. Executed in a process of its own (`python -c`), never imported by the package.

Reads {"code", "tests", "nonce", limits...} from stdin, and answers on stdout with lines that begin with the nonce,
which the code is not shown: what it prints, or an early exit, proves nothing.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_FORBIDDEN = ("socket.", "subprocess.", "ctypes.", "pty.", "signal.pthread_kill", "ftplib.", "smtplib.", "urllib.")
_FORBIDDEN_OS = ("os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.kill", "os.killpg")
_PATHS = (
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.mkdir",
    "os.chmod",
    "os.chown",
    "os.link",
    "os.symlink",
    "os.truncate",
)


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


def _leave_network() -> None:
    """Enter a network of our own, without devices, where the system allows that."""
    try:
        import ctypes

        ctypes.CDLL(None).unshare(0x10000000 | 0x40000000)  # CLONE_NEWUSER | CLONE_NEWNET
    except (ImportError, OSError, AttributeError):
        pass  # the audit hook below still refuses sockets


def _watch(folder: str) -> None:
    """Refuse sockets, other processes, and files outside of the folder. Not a jail: C extensions are not watched."""
    readable: tuple[str, ...] = (folder, sys.base_prefix, sys.prefix, *filter(None, sys.path))
    readable = tuple(os.path.realpath(path) for path in readable)
    readable += ("/usr/share/zoneinfo", "/dev/null", "/dev/urandom")
    real, join = os.path.realpath, os.path.join

    def inside(path: str | bytes, roots: tuple[str, ...]) -> bool:
        whole = real(os.fsdecode(path))
        return any(whole == root or whole.startswith(join(root, "")) for root in roots)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = args
            if isinstance(path, str | bytes) and not inside(path, (folder,) if flags & _WRITING else readable):
                raise PermissionError("files outside of the folder of the test are closed")
        elif event in ("os.listdir", "os.scandir"):
            if not isinstance(args[0], int) and not inside(args[0] or ".", readable):
                raise PermissionError("folders outside of the folder of the test are closed")
        elif event.startswith(_FORBIDDEN) or event.startswith(_FORBIDDEN_OS):
            raise PermissionError(f"{event} is not allowed in a test")
        elif event.startswith(_PATHS):
            for path in args[:2]:
                if isinstance(path, str | bytes) and not inside(path, (folder,)):
                    raise PermissionError("files outside of the folder of the test are closed")

    sys.addaudithook(hook)


def _main() -> None:
    job = json.loads(sys.stdin.buffer.read())
    nonce = job.pop("nonce")
    results = os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    write = os.write  # the code may replace the attribute

    def report(what: str) -> None:
        write(results, f"{nonce} {what}\n".encode())

    try:
        program = compile(job["code"], "solution.py", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
        return
    report("compiled")
    _leave_network()
    _limit(job)
    _watch(os.path.realpath(os.getcwd()))
    namespace = {"__name__": "solution", "__builtins__": __builtins__}
    exec(program, namespace)  # noqa: S102 - what this file is for
    for number, test in enumerate(job["tests"]):
        try:
            exec(compile(test, f"test_{number}.py", "exec"), dict(namespace))  # noqa: S102 - see above
        except BaseException:  # noqa: S112 - a test that fails is a result
            continue
        report(f"passed {number}")


_main()

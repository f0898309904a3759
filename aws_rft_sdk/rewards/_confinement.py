"""Confines a process, then runs `main.py` of the current folder. Executed by `SubprocessRunner`, never imported."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import runpy
import signal
import sys

_READABLE = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/localtime", "/dev/urandom", "/dev/zero")
_NEW_USER, _NEW_PROCESSES, _NEW_NETWORK = 0x10000000, 0x20000000, 0x40000000
_DIES_WITH_PARENT, _ADOPTS_ORPHANS, _NO_NEW_PRIVILEGES = 1, 36, 38
_STARTS_OTHERS = ("os.fork", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "subprocess.", "pty.")
"""Refused: nothing else bounds the processes of root, and another process could wait for what comes to its parent."""
_REACHES_OTHERS = ("os.kill", "ctypes.")
"""Refused where the kernel does not hide other processes: `os.kill(-1, 9)` ends all of the user's."""


def _limit(limits: dict[str, int]) -> None:
    for name, value in limits.items():
        kind = getattr(resource, name)
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        try:
            resource.setrlimit(kind, (value, value))
        except (OSError, ValueError):
            if name not in ("RLIMIT_AS", "RLIMIT_NOFILE"):  # macOS refuses these two
                raise


def _restrict(library: ctypes.CDLL, version: int) -> None:
    """Let the kernel (Landlock) refuse files outside of this folder and of Python, TCP, and signals to others."""
    # All rights on files that this version knows, except ioctl.
    rights = 0x1FFF | (0x2000 if version > 1 else 0) | (0x4000 if version > 2 else 0)
    rules = (ctypes.c_uint64 * 3)(rights, 3 if version > 3 else 0, 3 if version > 5 else 0)
    ruleset = library.syscall(444, rules, ctypes.sizeof(rules), 0)  # landlock_create_ruleset
    # Not sys.path: it may lead to a project, and to the file of the tests in it.
    readable = (*_READABLE, sys.prefix, sys.base_prefix)
    for path, allowed in {**dict.fromkeys(readable, 0xD), ".": rights, os.devnull: 0x4006}.items():
        try:
            place = os.open(path, os.O_PATH)
        except OSError:
            continue
        allowed &= rights if os.path.isdir(path) else rights & 0x4007  # a file has no rights of folders
        rule = allowed.to_bytes(8, sys.byteorder) + place.to_bytes(4, sys.byteorder)
        library.syscall(445, ruleset, 1, rule, 0)  # landlock_add_rule
        os.close(place)
    library.syscall(446, ruleset, 0)  # landlock_restrict_self
    os.close(ruleset)


def _refuse(events: tuple[str, ...]) -> None:
    """Let Python refuse the program what the kernel does not. Code that breaks Python itself gets past it.

    `main.py` may fork in this process, and once in a child: a program can give its code the same file name.
    """
    own, current, frame, permits = os.getpid(), os.getpid, sys._getframe, [1]

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event.startswith(events) and current() != own:
            if event != "os.fork" or frame(1).f_code.co_filename != "main.py" or not permits:
                raise PermissionError(f"{event} is refused")
            permits.clear()

    sys.addaudithook(hook)


def _end_strays() -> None:
    """End what has left the group of its parent, and came here when its parent ended."""
    try:
        while True:
            with open(f"/proc/self/task/{os.getpid()}/children") as file:
                for child in file.read().split():
                    os.kill(int(child), signal.SIGKILL)
            os.waitpid(-1, 0)
    except OSError:
        pass  # nobody is left


def _confine() -> None:
    """Confine this process; on Linux, a child of it, after whose end nothing is left."""
    limits, apart, version = json.loads(sys.argv[1]), False, 0
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        apart = library.unshare(_NEW_USER | _NEW_PROCESSES | _NEW_NETWORK) == 0
        if not apart:
            library.unshare(_NEW_NETWORK)  # root may do that
        library.prctl(_ADOPTS_ORPHANS, 1, 0, 0, 0)
        child = os.fork()
        if child:
            status = os.waitpid(child, 0)[1]
            _end_strays()
            os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
        library.prctl(_DIES_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
        library.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        version = library.syscall(444, None, 0, 1)
    _limit(limits)
    if version > 0:
        _restrict(library, version)
    _refuse(_STARTS_OTHERS if apart or version > 5 else _STARTS_OTHERS + _REACHES_OTHERS)


_confine()
runpy.run_path("main.py", run_name="__main__")

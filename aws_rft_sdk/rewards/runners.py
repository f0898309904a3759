"""Where untrusted programs run: a confined process, a container, or AgentCore Code Interpreter."""

from __future__ import annotations

import importlib.resources
import json
import math
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Any, Protocol

from aws_rft_sdk.errors import ConfigurationError, UnavailableError

_GRACE_SECONDS = 10.0
_LONGEST_SESSION_SECONDS = 28_800
_DOCKER_FAILED = (125, 126, 127)


@dataclass(frozen=True)
class Limits:
    """What a run may use."""

    seconds: float
    """Of wall time. Also of processor time, rounded up, for each process."""
    memory_megabytes: int
    file_megabytes: int
    """Largest size of a file that is written."""


@dataclass(frozen=True)
class Execution:
    """What came of a run."""

    exit_status: int
    """As a shell tells it; negative, or above 128, if a signal ended the run."""
    stdout: str
    timed_out: bool = False
    """Whether the runner had to end the run; `stdout` is then what was printed before."""


class Runner(Protocol):
    """Runs Python 3 programs. `CodeTests` ends them in time by itself. A runner does so only 10 s later."""

    def __call__(self, files: Mapping[str, str], stdin: str, limits: Limits) -> Execution:
        """Write the files into an empty folder, run `main.py` there, wait for it and end what it leaves running.

        `files` are texts by their names, without folders. `stdin` holds the tests, so the program must not find it in a
        file. Raises `UnavailableError` if the run could not begin, or nobody knows what came of it. It may be repeated.
        """


@dataclass(frozen=True)
class SubprocessRunner:
    """Runs programs in a process of this machine. POSIX only.

    Everywhere: no environment, a temporary folder, limits of time, memory and file size, and an audit hook that refuses
    to start processes. On Linux, where the kernel permits it, Landlock (5.13 and newer) refuses files outside of the
    folder and of Python, TCP (6.7) and signals to other processes (6.12). Namespaces hide the network and other
    processes. Where neither keeps signals from other processes, the hook refuses signals and `ctypes`.

    It is no jail: programs share this kernel. Use another runner for policies that you do not trust.
    """

    def __call__(self, files: Mapping[str, str], stdin: str, limits: Limits) -> Execution:
        """Run `main.py`; see `Runner`."""
        resources = {
            "RLIMIT_CPU": math.ceil(limits.seconds),
            "RLIMIT_AS": limits.memory_megabytes * 2**20,
            "RLIMIT_FSIZE": limits.file_megabytes * 2**20,
            "RLIMIT_NOFILE": 64,
            "RLIMIT_CORE": 0,
        }
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            command = [sys.executable, "-s", "-c", source_of("_confinement"), json.dumps(resources)]
            environment = {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "TMPDIR": folder}
            return _run(command, folder, files, stdin, limits, environment)


@dataclass(frozen=True)
class ContainerRunner:
    """Runs programs in a container each, without network, capabilities or a writable file system but `/tmp`.

    Args:
        image: An image with `python3` on its path.
        command: `docker`, `podman`, or the path of a command that takes the same options.
        options: More options for `run`, such as `--runtime=runsc`.
    """

    image: str
    command: str = "docker"
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.image or not isinstance(self.image, str):
            raise ConfigurationError(f"image is {self.image!r}. Name one with Python, for example python:3.12-slim")

    def __call__(self, files: Mapping[str, str], stdin: str, limits: Limits) -> Execution:
        """Run `main.py`; see `Runner`."""
        with tempfile.TemporaryDirectory() as folder:
            os.chmod(folder, 0o755)  # noqa: S103 - the container's user reads it
            name = f"rft-{Path(folder).name.lower().replace('_', '-')}"
            memory = f"{limits.memory_megabytes}m"
            run = [
                *(self.command, "run", "--rm", "--interactive", "--name", name, "--network=none", "--cap-drop=ALL"),
                *("--security-opt=no-new-privileges", "--user=65534:65534", "--pids-limit=256", "--read-only"),
                *("--tmpfs=/tmp:mode=1777", f"--memory={memory}", f"--memory-swap={memory}"),
                *(f"--ulimit=fsize={limits.file_megabytes * 2**20}", f"--ulimit=cpu={math.ceil(limits.seconds)}"),
                *(f"--volume={folder}:/program:ro", "--workdir=/tmp", "--env=PYTHONHASHSEED=0", *self.options),
                *(self.image, "python3", "-s", "/program/main.py"),
            ]
            execution = _run(run, folder, files, stdin, limits)
            if execution.timed_out:  # the client is gone, the container is not
                subprocess.run([self.command, "kill", name], capture_output=True, check=False)  # noqa: S603
        if execution.exit_status in _DOCKER_FAILED:
            check = shlex.join([self.command, "run", "--rm", self.image, "python3", "--version"])
            raise UnavailableError(f"exit status {execution.exit_status} of {self.command}. To see why, type: {check}")
        return execution


@dataclass(frozen=True)
class CodeInterpreterRunner:
    """Runs programs in AgentCore Code Interpreter, each in a session of its own.

    Needs boto3, and permission for `StartCodeInterpreterSession`, `InvokeCodeInterpreter` and
    `StopCodeInterpreterSession`. Sessions count against a quota of the account.

    Args:
        identifier: A code interpreter. The default one has no access to the network.
        region: Of the code interpreter; None for boto3's default.
        client: A function that makes a boto3 client of `bedrock-agentcore`; None for boto3 with its usual sources.
    """

    identifier: str = "aws.codeinterpreter.v1"
    region: str | None = None
    client: Callable[[], Any] | None = None

    def __call__(self, files: Mapping[str, str], stdin: str, limits: Limits) -> Execution:
        """Run `main.py`; see `Runner`."""
        client = self.client() if self.client is not None else _boto3_client(self.region)
        target = {"codeInterpreterIdentifier": self.identifier}
        seconds = math.ceil(limits.seconds + _GRACE_SECONDS)
        script = (
            f"exec < stdin.txt; rm stdin.txt; ulimit -v {limits.memory_megabytes * 1024}; "
            f"ulimit -f {limits.file_megabytes * 2048}; "  # blocks of 512 bytes
            f"PYTHONHASHSEED=0 exec timeout -k 1 {seconds} python3 -s main.py"
        )
        content = [{"path": path, "text": text} for path, text in {**files, "stdin.txt": stdin}.items()]
        try:
            lasts = min(seconds + 60, _LONGEST_SESSION_SECONDS)
            started = client.start_code_interpreter_session(**target, sessionTimeoutSeconds=lasts)
            target["sessionId"] = started["sessionId"]
            try:
                _invoke(client, target, "writeFiles", {"content": content})
                result = _invoke(client, target, "executeCommand", {"command": f"sh -c {shlex.quote(script)}"})
            finally:
                with suppress(Exception):  # then the session ends at its timeout
                    client.stop_code_interpreter_session(**target)
        except Exception as error:
            raise UnavailableError(f"Code Interpreter {self.identifier} cannot run a program: {error}") from error
        status = result.get("exitCode", 1)
        return Execution(status, result.get("stdout", ""), status in (124, 137))


def _invoke(client: Any, target: Mapping[str, str], name: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """Call a tool of a session and return the structured part of its result."""
    nothing: Mapping[str, Any] = {"isError": True, "content": "no result"}
    events = client.invoke_code_interpreter(**target, name=name, arguments=arguments)["stream"]
    result = next((event["result"] for event in events if "result" in event), nothing)
    structured: Mapping[str, Any] = result.get("structuredContent") or {}
    if result.get("isError") and "exitCode" not in structured:  # a program that fails is an error of the tool as well
        raise UnavailableError(f"{name} failed: {result.get('content')!r:.200}")
    return structured


@cache
def _boto3_client(region: str | None) -> Any:
    try:
        import boto3
    except ImportError as error:
        raise ConfigurationError("CodeInterpreterRunner needs boto3; pip install boto3") from error
    return boto3.session.Session().client("bedrock-agentcore", region_name=region)  # the shared one is for one thread


@cache
def source_of(module: str) -> str:
    """Return the source of a module of this package that runs in another process."""
    return importlib.resources.files(__package__).joinpath(f"{module}.py").read_text(encoding="utf-8")


def _run(
    command: Sequence[str],
    folder: str,
    files: Mapping[str, str],
    stdin: str,
    limits: Limits,
    environment: Mapping[str, str] | None = None,
) -> Execution:
    for name, text in files.items():
        Path(folder, name).write_text(text, encoding="utf-8")
    try:
        process = subprocess.Popen(  # noqa: S603 - the command is ours
            command, cwd=folder, env=environment, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, start_new_session=True
        )
    except OSError as error:
        raise UnavailableError(f"{command[0]} cannot be started: {error}") from error
    timed_out = False
    with process:
        try:
            output, _ = process.communicate(stdin.encode(), timeout=limits.seconds + _GRACE_SECONDS)
        except subprocess.TimeoutExpired as error:
            output, timed_out = error.stdout or b"", True
        finally:
            with suppress(ProcessLookupError, PermissionError):  # nobody is left
                os.killpg(process.pid, signal.SIGKILL)
    return Execution(process.returncode, output.decode(errors="replace"), timed_out)

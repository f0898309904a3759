"""Where programs run: what a confined process cannot reach, and how a container and Code Interpreter are asked."""

import ctypes
import json
import pickle
import socket
import subprocess
import sys
import threading

import pytest
from botocore.exceptions import ClientError

from aws_rft_sdk.errors import ConfigurationError, UnavailableError
from aws_rft_sdk.rewards import (
    CodeInterpreterRunner,
    CodeTests,
    ContainerRunner,
    Limits,
    SubprocessRunner,
)

LIMITS = Limits(seconds=5, memory_megabytes=512, file_megabytes=1)
RUNNER = SubprocessRunner()


def ran(program, limits=LIMITS, stdin=""):
    return RUNNER({"main.py": program}, stdin, limits)


def test_subprocess_when_a_program_ends_then_its_status_and_output_are_told():
    assert ran("import sys\nprint(sys.stdin.read().upper())\nsys.exit(3)", stdin="in").stdout == "IN\n"
    assert ran("raise SystemExit(3)").exit_status == 3
    assert not ran("").timed_out


def test_subprocess_when_a_program_does_not_end_then_it_is_ended(monkeypatch):
    monkeypatch.setattr("aws_rft_sdk.rewards.runners._GRACE_SECONDS", 0.5)
    execution = ran("print('x', flush=True)\nwhile True: pass", Limits(1.5, 512, 1))
    assert (execution.timed_out, execution.stdout) == (True, "x\n")


@pytest.mark.skipif(sys.platform != "linux", reason="functions of Linux")
def test_subprocess_when_a_process_has_left_its_session_then_it_ends_with_the_program():
    """It keeps standard output open, which would be waited for."""
    assert not ran("import os, time\nif not os.fork():\n  os.setsid()\n  time.sleep(600)").timed_out


def has_landlock():
    return sys.platform == "linux" and ctypes.CDLL(None).syscall(444, None, 0, 1) > 0


REFUSED = {
    "file-size": "open('a', 'wb').write(b'x' * 10**8)",
    "memory": "b'x' * 2**30",
    "fork": "os.fork()",
    "fork-by-the-name-of-a-file": "exec(compile('os.fork()', 'main.py', 'exec'))",
    "process": "subprocess.run(['/bin/true'], check=True)",
}
REFUSED_BY_LANDLOCK = {
    "write": "open(OUT, 'w')",
    "read": "open(OUT)",
    "passwords": "open('/etc/passwd')",
    "list": "os.listdir(os.path.dirname(OUT))",
    "remove": "os.remove(OUT)",
    "rename": "os.rename(OUT, OUT + '.b')",
    "link": "os.link(OUT, 'b')",
    "link-that-is-followed": "os.symlink(OUT, 'b'); open('b')",
    "upwards": "open('../' * 20 + OUT)",
    "another-folder-to-begin-in": "os.open(OUT[1:], os.O_WRONLY | os.O_TRUNC, dir_fd=os.open('/', os.O_PATH))",
    "by-another-process": "subprocess.run(['/bin/sh', '-c', 'echo x > ' + OUT], check=True)",
    "pipe": "os.mkfifo(OUT + '.pipe')",
    "database": "sqlite3.connect(':memory:').execute('vacuum into ?', (OUT + '.db',))",
    "memory-of-the-supervisor": "open(f'/proc/{os.getppid()}/mem', 'rb')",
    "connection": "socket.create_connection(('127.0.0.1', PORT), 2)",
}


def inside(statement, outside, port):
    head = f"import os, socket, sqlite3, subprocess\nOUT, PORT = {str(outside)!r}, {port}\ndef double(x):\n"
    return f"{head}  {statement}\n  return 2 * x"


@pytest.mark.parametrize("statement", REFUSED.values(), ids=REFUSED)
def test_subprocess_when_a_limit_is_passed_then_the_program_fails(statement):
    assert CodeTests(timeout_seconds=5).score(inside(statement, "", 0), "assert double(2) == 4") == 0.1


@pytest.mark.skipif(not has_landlock(), reason="the kernel has no Landlock, or none for us")
@pytest.mark.parametrize("statement", REFUSED_BY_LANDLOCK.values(), ids=REFUSED_BY_LANDLOCK)
def test_subprocess_when_a_program_reaches_outside_then_the_kernel_refuses(statement, tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("kept")
    with socket.create_server(("127.0.0.1", 0)) as server:
        program = inside(statement, outside, server.getsockname()[1])
        assert CodeTests(timeout_seconds=5).score(program, "assert double(2) == 4") == 0.1
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("outside", "kept")]


# Not os.kill(-1, 9): where nothing refuses it, it ends all processes of whoever runs these tests.
KILLS = ("os.kill(os.getppid(), 9)", "os.killpg(0, 9)", "os.kill(os.getpid(), 9)", "os.abort()")


@pytest.mark.parametrize("statement", KILLS)
def test_subprocess_when_a_program_kills_what_it_can_then_it_fails_and_is_judged(statement):
    assert CodeTests(timeout_seconds=5).score(f"import os\n{statement}", "assert double(2) == 4") == 0.1


# --- containers ---

# Takes the options of docker run, and runs the program in a process, with no more than the options allow.
DOCKER = """#!{python}
import json, os, subprocess, sys
arguments = sys.argv[1:]
with open({log!r}, "a") as log:
    log.write(json.dumps(arguments) + "\\n")
if arguments[0] == "kill":
    sys.exit(0)
options = {{}}
rest = arguments[1:]
while rest[0].startswith("-"):
    name, _, value = rest.pop(0).partition("=")
    value = rest.pop(0) if name == "--name" else value
    options.setdefault(name, []).append(value)
image, *command = rest
if image != "python":
    sys.exit(125)
source, target, mode = options["--volume"][0].split(":")
stdin = sys.stdin.buffer.read() if "--interactive" in options else b""
os.makedirs({work!r}, exist_ok=True)
if "--user" in options and not os.stat(source).st_mode & 0o005:
    sys.exit(2)  # as another user, it finds no file
command = [part.replace(target, source) for part in command]
environment = dict(entry.split("=") for entry in options.get("--env", []))
sys.exit(subprocess.run([{python!r}, *command[1:]], input=stdin, cwd={work!r}, env=environment).returncode)
"""


@pytest.fixture
def docker(tmp_path):
    path = tmp_path / "docker"
    path.write_text(DOCKER.format(python=sys.executable, log=str(tmp_path / "log"), work=str(tmp_path / "work")))
    path.chmod(0o755)
    return path


def test_container_when_a_program_is_scored_then_it_runs_there_without_network_or_rights(docker, tmp_path):
    reward = CodeTests(runner=ContainerRunner("python", str(docker), options=("--runtime=runsc",)))
    assert reward.score("def double(x): return 2 * x", "assert double(2) == 4") == 1.0
    assert reward.score("def double(x): return 3 * x", "assert double(2) == 4") == 0.1
    assert reward.score("print(int(input()) * 2)", {"inputs": ["2"], "outputs": ["4"]}) == 1.0
    logged = (tmp_path / "log").read_text()
    for option in ("--network=none", "--cap-drop=ALL", "--read-only", "--memory=512m", "--user=", "--runtime=runsc"):
        assert option in logged
    assert "double" not in logged


def test_container_when_there_is_no_image_or_command_then_it_cannot_be_judged(docker):
    for runner in (ContainerRunner("rust", str(docker)), ContainerRunner("python", "/no/such/command")):
        assert CodeTests(runner=runner).score("x = 1", "assert x") is None
    with pytest.raises(ConfigurationError, match="image"):
        ContainerRunner("")


def test_container_when_it_hangs_then_it_is_killed_by_name(docker, tmp_path, monkeypatch):
    monkeypatch.setattr("aws_rft_sdk.rewards.runners._GRACE_SECONDS", 1.0)
    runner = ContainerRunner("python", str(docker))
    assert runner({"main.py": "import time\ntime.sleep(600)"}, "", Limits(1.0, 512, 1)).timed_out
    run, kill = map(json.loads, (tmp_path / "log").read_text().splitlines())
    assert kill == ["kill", run[run.index("--name") + 1]]


# --- Code Interpreter ---


class Interpreter:
    """As the service does: a folder for each session, results as a stream of events, no session after its stop."""

    def __init__(self, root, fails=None):
        self.root, self.fails, self.sessions, self.stopped = root, fails, 0, []
        self.lock = threading.Lock()

    def start_code_interpreter_session(self, *, codeInterpreterIdentifier, sessionTimeoutSeconds):
        self.fail("start")
        assert 1 <= sessionTimeoutSeconds <= 28_800
        with self.lock:
            self.sessions += 1
            session = f"{self.sessions:040d}"
        (self.root / session).mkdir()
        return {"codeInterpreterIdentifier": codeInterpreterIdentifier, "sessionId": session}

    def invoke_code_interpreter(self, *, codeInterpreterIdentifier, sessionId, name, arguments):
        self.fail(name)
        assert codeInterpreterIdentifier == "aws.codeinterpreter.v1"
        assert sessionId not in self.stopped
        folder = self.root / sessionId
        if name == "writeFiles":
            for file in arguments["content"]:
                (folder / file["path"]).write_text(file["text"])
            result = {"content": [{"type": "text", "text": "Successfully wrote all files"}], "isError": False}
        else:
            done = subprocess.run(
                arguments["command"], shell=True, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL
            )
            structured = {"stdout": done.stdout, "stderr": done.stderr, "exitCode": done.returncode}
            content = [{"type": "text", "text": done.stdout}]
            result = {"content": content, "structuredContent": structured, "isError": done.returncode != 0}
        if self.fails == f"{name} error":
            result = {"content": [{"type": "text", "text": "disk full"}], "isError": True}
        return {"sessionId": sessionId, "stream": iter([{"result": result}] if self.fails != "silence" else [])}

    def stop_code_interpreter_session(self, *, codeInterpreterIdentifier, sessionId):
        self.stopped.append(sessionId)
        self.fail("stop")

    def fail(self, name):
        if self.fails == name:
            raise ClientError({"Error": {"Code": "ThrottlingException", "Message": "slow down"}}, name)


def test_code_interpreter_when_a_program_is_scored_then_in_a_session_of_its_own_that_is_stopped(tmp_path):
    client = Interpreter(tmp_path)
    reward = CodeTests(runner=CodeInterpreterRunner(client=lambda: client))
    assert reward.score("def double(x): return 2 * x", "assert double(2) == 4") == 1.0
    assert (
        reward.score(
            "import os\ndef double(x): return 4 if os.path.exists('../stdin.txt') else 0", "assert double(2) == 4"
        )
        == 0.1
    )
    assert reward.score("print(int(input()) * 2)", {"inputs": ["2"], "outputs": ["4"]}) == 1.0
    assert len(client.stopped) == client.sessions == 3


def test_code_interpreter_when_a_session_cannot_be_stopped_then_the_program_is_judged(tmp_path):
    client = Interpreter(tmp_path, "stop")
    assert CodeTests(runner=CodeInterpreterRunner(client=lambda: client)).score("x = 1", "assert x == 1") == 1.0


@pytest.mark.parametrize("fails", ["start", "writeFiles", "writeFiles error", "executeCommand", "silence"])
def test_code_interpreter_when_the_service_fails_then_it_cannot_be_judged_and_the_session_is_stopped(tmp_path, fails):
    client = Interpreter(tmp_path, fails)
    runner = CodeInterpreterRunner(client=lambda: client)
    assert CodeTests(runner=runner).score("x = 1", "assert x == 1") is None
    assert len(client.stopped) == client.sessions
    with pytest.raises(UnavailableError, match=r"aws\.codeinterpreter\.v1"):
        runner({"main.py": ""}, "", LIMITS)


@pytest.mark.parametrize(
    "runner", [RUNNER, ContainerRunner("python"), CodeInterpreterRunner(region="us-west-2")], ids=str
)
def test_runner_when_copied_then_it_is_equal_and_so_is_its_reward(runner):
    copy = pickle.loads(pickle.dumps(CodeTests(runner=runner)))
    assert copy == CodeTests(runner=runner)
    assert hash(copy) == hash(CodeTests(runner=runner))

"""An agent whose tools hang, raise, print megabytes, fork and eat memory until killed: whom does it cost a reward?

    python benchmarks/hostile.py --engine local|process|http|ray [--rollouts 1000] [--handler plain|coroutine]

It runs `aws-rft rollout` over `hostile_agent.py`. 2 % of the tools hang, 5 % raise, 2 % print 4 MiB, 2 % fork, and
where the engine isolates (all but local) 1 % eat memory until their process is killed. With `--engine http` it also
runs `aws-rft worker http`, and starts it again when it ends, as a platform does.

A rollout is healthy if its tool answers, also after it has printed or forked. Each healthy rollout must be rewarded
right, in the record and in the runtime; none may have the floor, be lost, or be rewarded twice; and the run must end by
itself. Exit status 1 if not.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import hostile_agent
from rich.console import Console
from rich.table import Table

from aws_rft_sdk.rollout import read_records
from aws_rft_sdk.runtime import read_trajectories

AGENT = Path(hostile_agent.__file__)
AWS_RFT = [sys.executable, "-c", "from aws_rft_sdk.cli import main; main()"]
PROMISES = {
    "rewarded right": "healthy",
    "floored by neighbours": 0,
    "rewarded wrong": 0,
    "lost": 0,
    "twice": 0,
    "ended by itself": True,
}
"""What each figure has to be."""


@contextmanager
def worker(handler: str, port: int, log: Path, in_flight: int) -> Iterator[None]:
    """Serve the agent, and start it again whenever it ends."""
    command = [*AWS_RFT, "worker", "http", f"{AGENT}:{handler}", "--host", "127.0.0.1", "--port", str(port)]
    over = threading.Event()
    running: list[subprocess.Popen[bytes]] = []

    def serve() -> None:
        while not over.is_set():
            with log.open("a") as output:
                running.append(
                    subprocess.Popen([*command, "--max-rollouts", str(in_flight)], stdout=output, stderr=output)
                )
            running[-1].wait()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        while not _listens(port):
            time.sleep(0.1)
        yield
    finally:
        over.set()
        while thread.is_alive():
            running[-1].kill()
            thread.join(0.1)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def run(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run the rollouts, and return what became of them."""
    kind = "shared" if arguments.engine == "local" else "isolated"
    prompts = [f"{kind} question {number} of seed {arguments.seed}" for number in range(arguments.rollouts)]
    dataset, out = folder / "dataset.jsonl", folder / "out"
    dataset.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    handler, serving = f"{AGENT}:{arguments.handler}", nullcontext()
    if arguments.engine == "http":
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        handler, serving = (
            f"http://127.0.0.1:{port}",
            worker(arguments.handler, port, folder / "worker.log", arguments.concurrency),
        )
    command = [*AWS_RFT, "rollout", handler, str(dataset), "--engine", arguments.engine, "--out", str(out)]
    command += ["--policy", f"callable:{AGENT}:policy", "--deadline-seconds", str(arguments.deadline_seconds)]
    # A share of all rollouts is the budget in production; here a process that dies takes as many with it as it runs.
    command += ["--concurrency", str(arguments.concurrency), "--retry-budget", "100%"]
    if arguments.workers:
        command += ["--workers", str(arguments.workers)]
    if arguments.engine == "http":
        command += ["--starts-per-second", str(arguments.concurrency)]
    began = time.monotonic()
    with serving, (folder / "rollout.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            status = process.wait(arguments.timeout_seconds)
        except subprocess.TimeoutExpired:
            status = None
            process.kill()
            process.wait()
    if not (out / "rollouts.jsonl").exists():
        sys.exit((folder / "rollout.log").read_text())
    figures = judge(prompts, out)
    return {
        **figures,
        "ended by itself": status is not None,
        "exit status": status,
        "seconds": round(time.monotonic() - began, 1),
    }


def judge(prompts: list[str], out: Path) -> dict[str, Any]:
    """Return what became of the rollouts, as the records and the runtime tell."""
    attempts = list(read_records(out, superseded=True))
    last = {record.prompt_index: record for record in attempts}
    rewards = {t.trajectory_id: t.rewards for t in read_trajectories(out / "trajectories.db") if t.rewards is not None}
    rewarded = Counter(
        record.prompt_index for record in attempts if record.trajectory_id in rewards and record.failure is None
    )
    ends: dict[str, Counter[str]] = {}
    counts = Counter(dict.fromkeys(("healthy", *PROMISES), 0))
    for index, prompt in enumerate(prompts):
        kind, record = hostile_agent.fate(prompt), last.get(index)
        ends.setdefault(kind, Counter())[record.status.value if record else "lost"] += 1
        counts["lost"] += record is None
        if kind not in hostile_agent.HEALTHY:
            continue
        counts["healthy"] += 1
        counts["twice"] += rewarded[index] > 1
        right = (hostile_agent.reward_of(prompt),)
        if record is None:
            continue
        given = rewards.get(record.trajectory_id)
        if record.ended_well and (record.reward,) == right == given:
            counts["rewarded right"] += 1
        elif given is None:
            counts["lost"] += 1
        else:
            counts["floored by neighbours" if given == (0.0,) else "rewarded wrong"] += 1
    repeated = len(attempts) - len(last)
    return {**counts, "repeated": repeated, "ends": {kind: dict(counted) for kind, counted in sorted(ends.items())}}


def broken(result: dict[str, Any]) -> list[str]:
    """Return the promises that do not hold."""
    return [name for name, due in PROMISES.items() if result[name] != (result[due] if isinstance(due, str) else due)]


def main() -> None:
    """Run it, print a table, and exit with 1 if a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=["local", "process", "http", "ray"], default="local")
    parser.add_argument("--rollouts", type=int, default=1000)
    parser.add_argument("--handler", choices=["plain", "coroutine"], default="plain")
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--workers", type=int, help="processes or actors")
    parser.add_argument("--deadline-seconds", type=float, default=30.0)
    parser.add_argument(
        "--timeout-seconds", type=float, default=1800.0, help="after which the run has not ended by itself"
    )
    parser.add_argument("--seed", type=int, default=0, help="which prompts there are, and so which tools do what")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        result = run(arguments, folder)
        if breaches := broken(result):
            for log in sorted(folder.glob("*.log")):
                sys.stderr.write(
                    f"--- {log.name}\n" + re.sub(r"(printed by the tool\n)+", "", log.read_text()[-20_000:])
                )
    if arguments.json:
        sys.stdout.write(json.dumps({**result, "breaches": breaches}) + "\n")
    else:
        title = f"{arguments.rollouts} rollouts of {arguments.handler} on {arguments.engine}"
        table = Table("", "", "must be", title=title)
        for figure, value in result.items():
            due = PROMISES.get(figure, "")
            table.add_row(figure, json.dumps(value), str(result[due] if isinstance(due, str) and due else due))
        Console(width=140).print(table)
    sys.exit(1 if breaches else 0)


if __name__ == "__main__":
    main()

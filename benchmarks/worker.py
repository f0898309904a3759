"""A worker under load: rollouts in flight at the service's rate, callers that misbehave, and a SIGTERM in the middle.

    python benchmarks/worker.py [--minutes 10] [--in-flight 96] [--rate 5] [--counts-only]
    python benchmarks/worker.py --part restart|killed [--rollouts 200] [--rate 20]

Three processes: the local runtime with 5 % faults, the worker (`aws-rft worker http`), and this one, which is the
platform: it delivers payloads at the service's rate, each until it is accepted, delivers some again, sends malformed
and oversized ones, ends the worker with SIGTERM at half-time and starts another over the same outbox. Then every
rollout that was accepted must have its reward, none may have run twice, and the p99 of the answer to `/rollout` must be
at most ten times that of the idle worker in the same run. Exit status 1 if not.

The other parts run the HTTP engine against the worker, 20 starts a second. `restart`: SIGTERM to the worker, 4 s
without one after its end, then another one; twice. No rollout is repeated. `killed`: kill -9 in place of SIGTERM; what
was lost is repeated under a new trajectory. Then no rollout may be lost, and no trajectory may have run twice.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, quantiles
from typing import Any

import requests
from rich.console import Console
from rich.table import Table

from aws_rft_sdk.rollout import run_rollouts
from aws_rft_sdk.rollout.engines.http import HttpEngine
from aws_rft_sdk.rollout.starting import access_at
from aws_rft_sdk.types import InferenceParams

AGENT = Path(__file__).with_name("worker_agent.py")
AWS_RFT = [sys.executable, "-c", "from aws_rft_sdk.cli import main; main()"]
TURNS = 3
SENDERS = 32
MAX_PAYLOAD_BYTES = 1_000_000
FACTOR = 10.0
DOWN_SECONDS = 4.0
RESTARTS = 2
IDLE_ROLLOUTS = 200
FAULTS = """
seed = 1
[[fault]]
kind = "status"
status = 503
probability = 0.01
[[fault]]
kind = "status"
status = 429
probability = 0.01
[[fault]]
kind = "reset"
probability = 0.01
[[fault]]
kind = "slow"
seconds = 0.5
probability = 0.01
[[fault]]
kind = "status"
route = "feedback"
after = true
probability = 0.01
[[fault]]
kind = "cut"
route = "inference"
probability = 0.01
"""
MALFORMED = [
    b"{",
    b'{"prompt": "p"}',
    b"[" * 5000,
    b'{"prompt": "p", "metadata": {"rolloutId": "t"}}',
    b'{"prompt": "p", "metadata": {"jobArn": "arn", "rolloutId": ""}}',
    b"\xff\xfe",
]


class Command:
    """A command of ours in a process, once it has said where it listens."""

    def __init__(self, *arguments: str, log: Path, **variables: str) -> None:
        with log.open("a") as errors:
            self.process = subprocess.Popen(
                [*AWS_RFT, *arguments],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, **variables},
            )
        assert self.process.stdout is not None
        match = re.search(r"http://[\w.:]+", self.process.stdout.readline())
        assert match, f"{arguments[0]} did not start, see {log}"
        self.url = match[0]
        # Whoever does not read blocks it once the pipe is full.
        threading.Thread(target=self.process.stdout.read, daemon=True).start()

    def rss_mib(self) -> float:
        """Return its memory, 0 where the system does not tell."""
        try:
            text = Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return 0.0
        return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024  # type: ignore[index] # Linux has the line


@dataclass
class Figures:
    """What happened."""

    idle: list[float] = field(default_factory=list)
    """Seconds until the answer to a proper payload."""
    loaded: list[float] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    """By kind of payload and status."""
    wrong: list[str] = field(default_factory=list)
    """Answers that are not what they should be."""
    in_flight: list[int] = field(default_factory=list)
    accepted: set[str] = field(default_factory=set)
    exit_status: int | None = None
    drain_seconds: float = 0.0
    rss_mib: list[float] = field(default_factory=list)


class Platform:
    """Starts rollouts, and delivers them to a worker that may refuse, or be gone."""

    def __init__(self, runtime: str, figures: Figures) -> None:
        self.runtime = runtime
        self.worker = ""
        self.figures = figures
        self._local = threading.local()

    def session(self) -> requests.Session:
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
            self._local.session.trust_env = False
        session: requests.Session = self._local.session
        return session

    def new_rollout(self, seconds: float, turns: int) -> dict[str, Any]:
        prompt = f"Twice 21? sleep={seconds:.3f} turns={turns}"
        for _ in range(50):
            answer = self.session().post(f"{self.runtime}/local/rollouts", json={"prompt": prompt}, timeout=60)
            if answer.ok:
                payload: dict[str, Any] = answer.json()
                return payload
        raise AssertionError("the runtime starts no rollouts")

    def post(self, kind: str, body: bytes) -> tuple[requests.Response | None, float]:
        began = time.perf_counter()
        try:
            answer = self.session().post(f"{self.worker}/rollout", data=body, timeout=60)
        except requests.ConnectionError:
            self.figures.answers[f"{kind}: no connection"] += 1
            return None, 0.0
        seconds = time.perf_counter() - began
        self.figures.answers[f"{kind}: {answer.status_code}"] += 1
        return answer, seconds

    def deliver(self, payload: dict[str, Any], times: list[float]) -> bool:
        """Deliver once; return whether it was accepted."""
        answer, seconds = self.post("proper", json.dumps(payload).encode())
        if answer is None:
            return False
        times.append(seconds)
        if answer.status_code == 202:
            self.figures.accepted.add(payload["metadata"]["rolloutId"])
        elif answer.status_code not in (429, 503):
            self.figures.wrong.append(f"proper: {answer.status_code} {answer.text[:200]}")
        return answer.status_code == 202

    def deliver_again(self, payload: dict[str, Any]) -> None:
        """Deliver what was accepted before."""
        answer, _ = self.post("repeated", json.dumps(payload).encode())
        # After the restart the worker knows it from the outbox alone: then it is accepted as new, and runs nothing.
        if answer is not None and answer.status_code not in (202, 429, 503):
            self.figures.wrong.append(f"repeated: {answer.status_code} {answer.text[:200]}")

    def misbehave(self, kind: str, body: bytes, status: int) -> None:
        answer, _ = self.post(kind, body)
        if answer is not None and answer.status_code != status:
            self.figures.wrong.append(f"{kind}: {answer.status_code} instead of {status}")

    def status(self, trajectory_id: str) -> dict[str, Any]:
        answer = self.session().get(f"{self.runtime}/local/rollouts/{trajectory_id}", timeout=60)
        found: dict[str, Any] = answer.json()
        return found


class Bench:
    """One run."""

    def __init__(self, arguments: argparse.Namespace, folder: Path, faults: str = FAULTS) -> None:
        self.arguments = arguments
        self.folder = folder
        self.figures = Figures()
        self.waiting: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.delivered: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        (folder / "faults.toml").write_text(faults)
        self.runtime = Command(
            "runtime", "--port", "0", "--policy", f"callable:{AGENT}:policy", "--faults", str(folder / "faults.toml"),
            log=folder / "runtime.log",
        )  # fmt: skip
        self.platform = Platform(self.runtime.url, self.figures)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.worker = self.start_worker()

    def start_worker(self) -> Command:
        worker = Command(
            "worker", "http", f"{AGENT}:handler", "--host", "127.0.0.1", "--port", str(self.port),
            "--max-rollouts", str(self.arguments.in_flight), "--max-payload-bytes", str(MAX_PAYLOAD_BYTES),
            "--outbox", str(self.folder / "outbox.db"), "--grace-seconds", str(self.arguments.grace_seconds),
            log=self.folder / "worker.log", RFT_BENCH_RUNS=str(self.folder / "runs.txt"),
        )  # fmt: skip
        self.platform.worker = worker.url
        return worker

    def run(self) -> None:
        """Measure idle, then the load with a restart in the middle, then wait for the rewards."""
        arguments, figures = self.arguments, self.figures
        self.measure_idle(3 if arguments.counts_only else IDLE_ROLLOUTS)
        figures.rss_mib.append(self.worker.rss_mib())
        seconds = arguments.in_flight / arguments.rate / TURNS
        end = time.monotonic() + arguments.minutes * 60
        half = time.monotonic() + arguments.minutes * 30
        restart: threading.Thread | None = None
        stop = threading.Event()
        watcher = threading.Thread(target=self.watch, args=(stop,))
        watcher.start()
        with ThreadPoolExecutor(SENDERS) as senders:
            number, due = 0, time.monotonic()
            sent: list[Future[None]] = []
            # At the end it goes on until what was refused is accepted, at the same pace.
            while time.monotonic() < end or not self.waiting.empty() or not all(future.done() for future in sent):
                number += 1
                if time.monotonic() < end or not self.waiting.empty():
                    sent.append(senders.submit(self.start_one, seconds))
                    self.disturb(number, senders)
                if restart is None and time.monotonic() >= half:
                    restart = threading.Thread(target=self.restart)
                    restart.start()
                due += 1 / arguments.rate
                time.sleep(max(0.0, due - time.monotonic()))
        if restart is not None:
            restart.join()
        for future in sent:
            future.result()
        stop.set()
        watcher.join()
        self.wait_for_rewards(60 + 3 * seconds * TURNS)
        figures.rss_mib.append(self.worker.rss_mib())

    def measure_idle(self, count: int) -> None:
        """Start one short rollout after another, each when the one before is over."""
        for _ in range(count):
            payload = self.platform.new_rollout(0.0, 1)
            self.platform.deliver(payload, self.figures.idle)
            while self.health().get("running"):
                time.sleep(0.01)

    def start_one(self, seconds: float) -> None:
        """Deliver one payload: one that was refused before, else a new one. So there are never more than the rate."""
        try:
            payload = self.waiting.get_nowait()
        except queue.Empty:
            payload = self.platform.new_rollout(seconds, TURNS)
        (self.delivered if self.platform.deliver(payload, self.figures.loaded) else self.waiting).put(payload)

    def disturb(self, number: int, senders: ThreadPoolExecutor) -> None:
        platform = self.platform
        if number % 5 == 0 and not self.delivered.empty():
            payload = self.delivered.get()
            for _ in range(3):
                senders.submit(platform.deliver_again, payload)
        if number % 7 == 0:
            senders.submit(platform.misbehave, "malformed", MALFORMED[number // 7 % len(MALFORMED)], 400)
        if number % 20 == 0:
            senders.submit(platform.misbehave, "oversized", b" " * (2 * MAX_PAYLOAD_BYTES), 413)

    def restart(self) -> None:
        began = time.monotonic()
        self.figures.rss_mib.append(self.worker.rss_mib())
        self.worker.process.send_signal(signal.SIGTERM)
        self.figures.exit_status = self.worker.process.wait(self.arguments.grace_seconds + 30)
        self.figures.drain_seconds = time.monotonic() - began
        self.worker = self.start_worker()

    def health(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = self.platform.session().get(f"{self.platform.worker}/health", timeout=30).json()
        except requests.ConnectionError:
            return {}
        return found

    def watch(self, stop: threading.Event) -> None:
        while not stop.wait(1.0):
            health = self.health()
            if health and not health["draining"]:
                self.figures.in_flight.append(health["running"])

    def wait_for_rewards(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.unrewarded():
            time.sleep(0.5)

    def unrewarded(self) -> list[str]:
        found = {key: self.platform.status(key) for key in self.figures.accepted}
        return [key for key, known in found.items() if known["status"] != "REWARD_RECEIVED"]

    def floors(self) -> int:
        return sum(self.platform.status(key).get("rewards") == [0.0] for key in self.figures.accepted)

    def run_twice(self) -> int:
        runs = Counter((self.folder / "runs.txt").read_text().split())
        return sum(count > 1 for count in runs.values())

    def close(self) -> None:
        for command in (self.worker, self.runtime):
            command.process.kill()
            command.process.wait()


class Restarts(Bench):
    """The HTTP engine, and a worker that ends and comes back."""

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        super().__init__(arguments, folder, faults="")

    async def measure(self) -> dict[str, Any]:
        """Run all rollouts, and return what became of them."""
        arguments, is_killed = self.arguments, self.arguments.part == "killed"
        access = access_at(self.runtime.url, InferenceParams())
        seconds = arguments.in_flight / arguments.rate / TURNS / 4
        prompts = [f"Twice 21? sleep={seconds:.3f} turns={TURNS}"] * arguments.rollouts
        began = time.monotonic()
        restarting = asyncio.create_task(self.end_and_begin(signal.SIGKILL if is_killed else signal.SIGTERM))
        attempts = run_rollouts(
            HttpEngine(self.worker.url, access.observe),
            prompts,
            access.start,
            concurrency=arguments.in_flight,
            starts_per_second=arguments.rate,
            retries={"infrastructure": RESTARTS} if is_killed else 0,
            observe=access.observe,
        )
        records = [record async for record in attempts]
        took = time.monotonic() - began
        await restarting
        last = {record.key: record for record in records}
        result = {
            "rollouts": len(last),
            "lost": sum(not record.ended_well for record in last.values()),
            "run_twice": self.run_twice(),
            "repeated": sum(record.attempts - 1 for record in last.values()),
            "seconds": round(took, 1),
            "longest_rollout_seconds": round(max(record.seconds for record in records), 1),
            "errors": dict(Counter(record.error for record in records if record.error)),
        }
        return {**result, "breaches": [name for name in ("lost", "run_twice") if result[name]]}

    async def end_and_begin(self, number: int) -> None:
        """End the worker with a signal, leave its port closed for a while, and start another one; twice."""
        share = self.arguments.rollouts / self.arguments.rate / (RESTARTS + 1)
        for _ in range(RESTARTS):
            await asyncio.sleep(share)
            self.worker.process.send_signal(number)
            await asyncio.to_thread(self.worker.process.wait)
            await asyncio.sleep(DOWN_SECONDS)
            self.worker = await asyncio.to_thread(self.start_worker)


def p(times: list[float], percent: int) -> float:
    return quantiles(times, n=100, method="inclusive")[percent - 1] if len(times) > 1 else 0.0


def report(bench: Bench) -> dict[str, Any]:
    """Return the result; `breaches` is empty when everything holds."""
    figures, arguments = bench.figures, bench.arguments
    lost = bench.unrewarded()
    idle, loaded = p(figures.idle, 99), p(figures.loaded, 99)
    result: dict[str, Any] = {
        "accepted": len(figures.accepted),
        "rewarded": len(figures.accepted) - len(lost),
        "lost": len(lost),
        "floor_rewards": bench.floors(),
        "run_twice": bench.run_twice(),
        "answers": dict(sorted(figures.answers.items())),
        "in_flight_mean": round(mean(figures.in_flight or [0]), 1),
        "in_flight_max": max(figures.in_flight or [0]),
        "idle_p50_ms": round(1000 * p(figures.idle, 50), 2),
        "idle_p99_ms": round(1000 * idle, 2),
        "loaded_p50_ms": round(1000 * p(figures.loaded, 50), 2),
        "loaded_p99_ms": round(1000 * loaded, 2),
        "p99_factor": round(loaded / idle, 2) if idle else 0.0,
        "exit_status_after_sigterm": figures.exit_status,
        "drain_seconds": round(figures.drain_seconds, 1),
        "worker_mib": [round(value) for value in figures.rss_mib],
        "wrong_answers": figures.wrong[:10],
    }
    breaches = [name for name in ("lost", "run_twice", "wrong_answers") if result[name]]
    breaches += ["exit_status_after_sigterm"] if figures.exit_status != 0 else []
    breaches += ["p99_factor"] if not arguments.counts_only and result["p99_factor"] > FACTOR else []
    return {**result, "breaches": breaches}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="of load")
    parser.add_argument("--in-flight", type=int, default=96, help="rollouts, and what the worker takes at once")
    parser.add_argument("--rate", type=float, help="starts per second; 5, and 20 in the other parts")
    parser.add_argument("--grace-seconds", type=float, default=60.0, help="of the worker")
    parser.add_argument("--counts-only", action="store_true", help="say nothing about time")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--part", choices=["load", "restart", "killed"], default="load", help="see above")
    parser.add_argument("--rollouts", type=int, default=200, help="of the parts restart and killed")
    arguments = parser.parse_args()
    if arguments.rate is None:
        arguments.rate = 5.0 if arguments.part == "load" else 20.0
    os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")
    with tempfile.TemporaryDirectory() as folder:
        bench = (Bench if arguments.part == "load" else Restarts)(arguments, Path(folder))
        try:
            if isinstance(bench, Restarts):
                result = asyncio.run(bench.measure())
            else:
                bench.run()
                result = report(bench)
        finally:
            bench.close()
            if "result" not in locals() or result["breaches"]:
                for name in ("worker.log", "runtime.log"):
                    sys.stderr.write((Path(folder) / name).read_text()[-4000:])
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        what = (
            f"for {arguments.minutes:g} min" if arguments.part == "load" else f"and a worker that is {arguments.part}"
        )
        table = Table("", "", title=f"{arguments.in_flight} in flight {what}", show_header=False)
        for name, value in result.items():
            table.add_row(name, json.dumps(value))
        Console(width=140).print(table)
    sys.exit(1 if result["breaches"] else 0)


if __name__ == "__main__":
    main()

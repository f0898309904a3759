"""Kills workers between any two writes while feedback calls fail, and counts what was lost, doubled or changed.

    python benchmarks/chaos.py [--rollouts 10000] [--faulty 0.3] [--kills 0.005] [--seed 0]

This process is the platform and the runtime: it delivers payloads to a worker process, and delivers again what was not
acknowledged. The worker runs an `rft_handler` over an outbox. It kills itself with SIGKILL right before or right after
it writes to its outbox, each of the four writes of a rollout in turn, and the platform kills it at random moments as
well. The handler's reward is different in every run, so a trajectory that is run again must not change its reward.

The runtime forgets client tokens: a call that took effect and comes again is a conflict.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import queue
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import requests

from aws_rft_sdk import LocalRuntime, RFTContext, rft_handler, wire
from aws_rft_sdk._backoff import Backoff
from aws_rft_sdk._decision import Decision
from aws_rft_sdk.client import RolloutFeedbackClient
from aws_rft_sdk.feedback.outbox import Outbox
from aws_rft_sdk.feedback.redrive import deliver_pending
from aws_rft_sdk.runtime import Fault, Faults

THREADS = 32


def faults(share: float, seed: int) -> Faults:
    """Return faults that hit `share` of all feedback calls: before and after they took effect."""
    kinds = [
        Fault("status", route="feedback", status=503, probability=share / 5),
        Fault("status", route="feedback", status=429, retry_after_seconds=0.0, probability=share / 5),
        Fault("status", route="feedback", status=500, after=True, probability=share / 5),
        Fault("reset", route="feedback", probability=share / 5),
        Fault("reset", route="feedback", after=True, probability=share / 5),
    ]
    return Faults(*kinds, seed=seed)


def forget_tokens() -> None:
    """Send calls without client tokens: to the runtime that is what a service is that ignores them."""
    encode = wire._feedback_request

    def encode_without(*args: Any) -> wire.FeedbackRequest:
        request = encode(*args)
        body = {name: value for name, value in json.loads(request.body).items() if name != "ClientToken"}
        return request._replace(body=json.dumps(body).encode())

    wire._feedback_request = encode_without


# --- the worker process ----------------------------------------------------------------------------------------------


def place_kills(share: float, seed: int, log: Path) -> None:
    """Let this process kill itself before or after `share` of all writes to an outbox, whichever write comes."""
    draw = random.Random(f"{seed} {os.getpid()}")

    def killing(name: str, write: Callable[..., Any]) -> Callable[..., Any]:
        def written(*args: Any, **kwargs: Any) -> Any:
            before, after = draw.random() < share / 2, draw.random() < share / 2
            if before:
                _kill_self(log, f"before {name}")
            result = write(*args, **kwargs)
            if after:
                _kill_self(log, f"after {name} {_kind(result)}".strip())
            return result

        return written

    for name in ("receive", "update"):
        setattr(Outbox, name, killing(name, getattr(Outbox, name)))


def _kind(result: object) -> str:
    """Name a write by how far the two calls are after it."""
    decision = result[-1] if isinstance(result, list) and result else None
    return f"seal {decision.seal.value}, reward {decision.reward.value}" if isinstance(decision, Decision) else ""


def _kill_self(log: Path, place: str) -> None:
    with log.open("a") as file:
        file.write(place + "\n")
    os.kill(os.getpid(), signal.SIGKILL)


def work(folder: Path, kills: float, seed: int) -> None:
    """Run payloads from stdin, one a line, and acknowledge each on stdout."""
    lock = threading.Lock()
    log = (folder / "computed.jsonl").open("a")
    session = requests.Session()
    adapter = requests.adapters.HTTPAdapter(pool_maxsize=THREADS)
    session.mount("http://", adapter)
    place_kills(kills, seed, folder / "kills.txt")
    forget_tokens()

    def client(request: Any) -> RolloutFeedbackClient:
        return RolloutFeedbackClient(
            request, outbox=folder / "outbox.db", backoff=Backoff(base_seconds=0.01), max_seconds=5.0
        )

    @rft_handler(client=client)
    def handler(payload: dict[str, Any]) -> float:
        metadata = payload["metadata"]
        session.post(
            f"{metadata['endpoint']}/v1/chat/completions",
            headers=RFTContext.get_headers(),
            json={"model": "default", "messages": [{"role": "user", "content": payload["prompt"]}]},
            timeout=30,
        ).raise_for_status()
        reward = random.random()
        with lock:
            log.write(json.dumps([metadata["rolloutId"], reward]) + "\n")
            log.flush()
        return reward

    def run(line: str) -> None:
        payload = json.loads(line)
        try:
            handler(payload)
        except requests.RequestException:
            return  # the trajectory was sealed by a delivery before this one; it is delivered again
        with lock:
            print(payload["metadata"]["rolloutId"], flush=True)

    with ThreadPoolExecutor(THREADS) as threads:
        for _ in threads.map(run, sys.stdin):
            pass


# --- the platform ----------------------------------------------------------------------------------------------------


class Platform:
    """Delivers payloads until each is acknowledged, to workers that it kills."""

    def __init__(
        self, payloads: list[dict[str, Any]], folder: Path, rng: random.Random, longest_life: float, options: list[str]
    ) -> None:
        self.waiting = {payload["metadata"]["rolloutId"]: payload for payload in payloads}
        self.kills = 0
        self._folder = folder
        self._random = rng
        self._longest_life = longest_life
        self._options = options

    def run(self) -> None:
        """Start workers and kill them until nothing is left to deliver."""
        while self.waiting:
            self._run_worker(lifetime_seconds=self._random.uniform(0.2, self._longest_life))

    def _run_worker(self, lifetime_seconds: float) -> None:
        command = [sys.executable, __file__, "--worker", str(self._folder), *self._options]
        worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, args=(worker, lines), daemon=True).start()
        threading.Thread(target=self._write, args=(worker, list(self.waiting.values())), daemon=True).start()
        deadline, begun, killed = math.inf, False, False
        while True:
            remaining = deadline - time.monotonic()
            if remaining <= 0 and worker.poll() is None:
                worker.send_signal(signal.SIGKILL)
                self.kills += 1
                deadline, killed = math.inf, True
            try:
                line = lines.get(timeout=min(max(remaining, 0.0), 60.0))
            except queue.Empty:
                continue
            if line is None:
                break
            # Its life is counted from its first result, so that slow starts do not keep everything from being done.
            if not begun:
                begun, deadline = True, time.monotonic() + lifetime_seconds
            self.waiting.pop(line.strip(), None)
        status = worker.wait()
        if status not in (0, -signal.SIGKILL):
            raise RuntimeError(f"the worker ended with status {status}")
        self.kills += status != 0 and not killed

    @staticmethod
    def _read(worker: subprocess.Popen[str], lines: queue.SimpleQueue[str | None]) -> None:
        assert worker.stdout is not None
        for line in worker.stdout:
            lines.put(line)
        lines.put(None)

    @staticmethod
    def _write(worker: subprocess.Popen[str], payloads: list[dict[str, Any]]) -> None:
        assert worker.stdin is not None
        try:
            for payload in payloads:
                worker.stdin.write(json.dumps(payload) + "\n")
            worker.stdin.close()
        except BrokenPipeError:
            pass


def measure(rollouts: int, faulty: float, kills: float, seed: int, longest_life: float) -> dict[str, Any]:
    """Run everything and count."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trouble = faults(faulty, seed)
        with LocalRuntime(policy=_answer, faults=trouble) as runtime:
            payloads = [runtime.new_rollout(f"rollout {number}") for number in range(rollouts)]
            began = time.perf_counter()
            options = ["--kills", str(kills), "--seed", str(seed)]
            platform = Platform(payloads, folder, random.Random(seed), longest_life, options)
            platform.run()
            outbox = Outbox(folder / "outbox.db")
            left_for_drain = outbox.ledger().pending
            for _ in range(100):
                if deliver_pending(outbox).postponed == 0:
                    break
            seconds = time.perf_counter() - began
            delivered = {item.trajectory_id: item.rewards for item in runtime.trajectories()}
            runs = {item.trajectory_id: len(item.turns) for item in runtime.trajectories()}
        computed: dict[str, set[float]] = defaultdict(set)
        for line in (folder / "computed.jsonl").read_text().splitlines():
            trajectory_id, reward = _parse(line)
            computed[trajectory_id].add(reward)
        kill_log = folder / "kills.txt"
        killed = kill_log.read_text() if kill_log.exists() else ""
        decided = {entry.metadata.trajectory_id: entry.rewards for entry in outbox.entries()}
        ledger = outbox.ledger()
        outbox.close()
    return {
        "rollouts": rollouts,
        "kills": platform.kills,
        "killed": dict(Counter(killed.splitlines()).most_common()),
        "faults_injected": sum(trouble.injected.values()),
        "run_more_than_once": sum(count > 1 for count in runs.values()),
        "left_for_drain": left_for_drain,
        "lost": sum(rewards is None for rewards in delivered.values()),
        "doubled": sum(rewards is not None and len(rewards) != 1 for rewards in delivered.values()),
        "changed": sum(
            rewards is not None and (rewards != decided[key] or rewards[0] not in computed[key])
            for key, rewards in delivered.items()
        ),
        "ledger": ledger._asdict(),
        "ledger_balances": ledger.balances and ledger.rewarded == rollouts,
        "ledger_equals_runtime": decided == delivered,
        "seconds": round(seconds, 1),
    }


def _answer(request: dict[str, Any]) -> str:
    return "done"


def _parse(line: str) -> tuple[str, float]:
    try:
        trajectory_id, reward = json.loads(line)
    except ValueError:
        return "", 0.0  # cut off by a kill, before the handler had returned
    return trajectory_id, reward


def main() -> None:
    """Print the counts; exit 1 unless nothing was lost, doubled or changed and the ledger balances."""
    logging.getLogger("aws_rft_sdk").addHandler(logging.NullHandler())  # trouble is what this is about
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollouts", type=int, default=10_000)
    parser.add_argument("--faulty", type=float, default=0.3, help="share of feedback calls that fail")
    parser.add_argument("--kills", type=float, default=0.005, help="share of writes to the outbox that a kill is at")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--longest-life", type=float, default=3.0, help="seconds after which a worker is killed at last"
    )
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments.worker, arguments.kills, arguments.seed)
        return
    os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")
    forget_tokens()
    result = measure(arguments.rollouts, arguments.faulty, arguments.kills, arguments.seed, arguments.longest_life)
    print(json.dumps(result, indent=2))
    wrong = any(result[name] for name in ("lost", "doubled", "changed"))
    sys.exit(wrong or not (result["ledger_balances"] and result["ledger_equals_runtime"]))


if __name__ == "__main__":
    main()

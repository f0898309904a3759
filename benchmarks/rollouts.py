"""Rollouts at scale: the recorded GSM8K problems, repeated, through the example agent on an engine.

    python benchmarks/rollouts.py MODEL_SOLUTIONS_JSONL [--rollouts 10000] [--part throughput --part crash --part ray]

throughput  the SDK against the bare Strands loop (same agent, same model class, same policy server; no handler, no
            reward, no records) in one process, in turns, so that all see the same machine. Bare comes in two forms:
            `bare`, as the example's model is made outside a rollout, with a client for each request, which is Strands'
            default (it is so much slower that it runs in the first round only); and `pooled`, given one OpenAI client
            for all, which is as fast as Strands gets
crash       `aws-rft rollout`, killed with SIGKILL in the middle and resumed: no rollout lost or run twice, and the
            memory of the process over time
ray, process  the same rollouts on another engine: records equal apart from times and ids

Exit status 1 when a rollout is lost, run twice, or differs. The figures of speed and memory are printed, not judged.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aws_rft_sdk import LocalRuntime
from aws_rft_sdk.rollout import DatasetRun, RunListener, RunStatus, load_callable, read_records, run
from aws_rft_sdk.runtime import read_trajectories

EXAMPLE = Path(__file__).parents[1] / "examples" / "gsm8k_calculator"
MODEL = "175b_verification"
AWS_RFT = str(Path(sysconfig.get_path("scripts")) / "aws-rft")
POLICY = '''
"""Answers with the recorded solutions: what comes next follows from the conversation alone."""
import json, pathlib

_ROWS = [json.loads(line) for line in (pathlib.Path(__file__).parent / "recording.jsonl").open()]
_TURNS = {row["prompt"]: row["turns"] for row in _ROWS}


def _text(content):
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def policy(request):
    question = next(_text(m["content"]) for m in request["messages"] if m["role"] == "user")
    return _TURNS[question][sum(m["role"] == "assistant" for m in request["messages"])]
'''


@dataclasses.dataclass(frozen=True)
class Work:
    """Files of one benchmark."""

    folder: Path
    group_size: int
    prompts: int
    concurrency: int

    @property
    def rollouts(self) -> int:
        return self.group_size * self.prompts

    @property
    def dataset(self) -> Path:
        return self.folder / "dataset.jsonl"

    @property
    def policy(self) -> str:
        return f"callable:{self.folder / 'recorded_policy.py'}:policy"


def prepare(solutions: Path, rollouts: int, concurrency: int, folder: Path) -> Work:
    """Convert the recordings, and choose as many prompts as there are, each in a group of the same size."""
    convert = [sys.executable, str(EXAMPLE / "convert.py"), str(solutions), "--model", MODEL]
    files = ["--recording", str(folder / "recording.jsonl"), "--dataset", str(folder / "dataset.jsonl")]
    subprocess.run([*convert, *files], check=True, stdout=subprocess.DEVNULL)
    (folder / "recorded_policy.py").write_text(POLICY)
    available = len((folder / "dataset.jsonl").read_text().splitlines())
    group_size = -(-rollouts // available)
    return Work(folder, group_size, min(available, -(-rollouts // group_size)), concurrency)


# --- throughput ------------------------------------------------------------------------------------------------------


def measure_throughput(work: Work, rounds: int) -> dict[str, object]:
    """Run both ways in turns, the order drawn anew in each round, and compare their sums."""
    handler = load_callable(f"{EXAMPLE / 'agent.py'}:handler")
    policy = load_callable(f"{work.folder / 'recorded_policy.py'}:policy")
    prompts = -(-work.prompts // rounds)
    cells = [json.loads(line)["prompt"] for line in work.dataset.read_text().splitlines()[:prompts]]
    ways: dict[str, Callable[[int], float]] = {
        "bare": lambda number: bare_seconds(work, cells, policy, pooled=False),
        "pooled": lambda number: bare_seconds(work, cells, policy, pooled=True),
        "sdk": lambda number: sdk_seconds(work, handler, policy, prompts, f"throughput-{number}"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, float] = dict.fromkeys(ways, 0.0)
    for warm in ("pooled", "sdk"):
        ways[warm](-1)
    for number in range(rounds):
        for name in random.sample(sorted(ways), len(ways)):
            if name == "bare" and number > 0:
                continue
            before = time.process_time()
            seconds[name].append(ways[name](number))
            cpu[name] += time.process_time() - before
    rollouts = len(cells) * work.group_size
    rates = {name: rollouts * len(times) / sum(times) for name, times in seconds.items()}
    return {
        "rollouts_per_round": rollouts,
        "rounds": rounds,
        "rollouts_per_second": {name: round(rate, 2) for name, rate in rates.items()},
        "share_of_bare": round(rates["sdk"] / rates["bare"], 3),
        "share_of_pooled": round(rates["sdk"] / rates["pooled"], 3),
        # Of the processor's time, which neighbours on the machine change less than they change the clock's.
        "cpu_seconds_per_rollout": {
            name: round(spent / rollouts / len(seconds[name]), 4) for name, spent in cpu.items()
        },
        "cpu_share_of_pooled": round(cpu["pooled"] / cpu["sdk"], 3),
        "share_of_pooled_by_round": [
            round(pooled / sdk, 3) for pooled, sdk in zip(seconds["pooled"], seconds["sdk"], strict=True)
        ],
    }


def bare_seconds(work: Work, cells: list[str], policy: Callable[[Any], Any], *, pooled: bool) -> float:
    """Run the agent as anyone would without this package."""
    import agent
    import openai
    from gsm8k_task import Task
    from strands import Agent
    from strands.models.openai import OpenAIModel

    async def one(cell: str, source: dict[str, Any], places: asyncio.Semaphore) -> str:
        async with places:
            task = Task.parse(cell)
            model = OpenAIModel(**source, model_id="default")
            bare = Agent(
                model=model, tools=[agent.calculator], system_prompt=agent.SYSTEM_PROMPT, callback_handler=None
            )
            return str(await bare.invoke_async(task.question))

    async def all_of_them(url: str) -> None:
        places = asyncio.Semaphore(work.concurrency)
        args = {"base_url": f"{url}/v1", "api_key": "none"}
        async with openai.AsyncOpenAI(**args) as client:
            source = {"client": client} if pooled else {"client_args": args}
            await asyncio.gather(*[one(cell, source, places) for cell in cells for _ in range(work.group_size)])

    with LocalRuntime(policy, strict=False, db=Path(tempfile.mkdtemp(dir=work.folder)) / "bare.db") as runtime:
        began = time.perf_counter()
        asyncio.run(all_of_them(runtime.endpoint))
        return time.perf_counter() - began


def sdk_seconds(work: Work, handler: Any, policy: Any, prompts: int, name: str) -> float:
    """Run the same rollouts as `aws-rft rollout` does, with every record on disk."""
    clock = _Clock()
    finished = run(
        handler,
        work.dataset,
        out=work.folder / name,
        policy=policy,
        concurrency=work.concurrency,
        group_size=work.group_size,
        limit=prompts,
        listener=clock,
    )
    assert finished.status is RunStatus.COMPLETED, finished.table.common_errors(1)
    return time.perf_counter() - clock.began


class _Clock(RunListener):
    """Notes when rollouts begin: without the time that handler and runtime take to start."""

    began = 0.0

    def begun(self, run: DatasetRun) -> None:
        """Note the time."""
        self.began = time.perf_counter()


# --- the command -----------------------------------------------------------------------------------------------------


def command_of(work: Work, engine: str, *options: str) -> list[str]:
    """Return the command line of a run."""
    command = [AWS_RFT, "rollout", f"{EXAMPLE / 'agent.py'}:handler", str(work.dataset), "--engine", engine]
    command += ["--group-size", str(work.group_size), "--limit", str(work.prompts), "--policy", work.policy]
    return [*command, "--concurrency", str(work.concurrency), *options]


def lines_of(path: Path) -> int:
    """Return the number of whole lines of a file, 0 of none."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def run_and_crash(work: Work) -> dict[str, object]:
    """Kill a run in the middle, resume it, and count what became of each rollout."""
    out = work.folder / "crash"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    first = subprocess.Popen(command_of(work, "local", "--out", str(out)), **quiet)  # type: ignore[call-overload] # a dict of both
    memory = [*watched_memory(first, lambda: lines_of(out / "rollouts.jsonl") >= work.rollouts // 2)]
    first.send_signal(signal.SIGKILL)
    first.wait()
    killed_at = lines_of(out / "rollouts.jsonl")
    second = subprocess.Popen(command_of(work, "local", "--resume", str(out)), **quiet)  # type: ignore[call-overload] # a dict of both
    memory_resumed = [*watched_memory(second, lambda: False)]
    records = list(read_records(out, superseded=True))
    keys = Counter(record.key for record in records)
    rewarded = {t.trajectory_id for t in read_trajectories(out / "trajectories.db") if t.rewards is not None}
    return {
        "killed_at_records": killed_at,
        "exit_status": second.wait(),
        "records": len(records),
        "lost": work.rollouts - len(keys),
        "run_twice": sum(count - 1 for count in keys.values()),
        "rewarded_without_record": len(rewarded - {record.trajectory_id for record in records}),
        "recorded_without_reward": len({record.trajectory_id for record in records} - rewarded),
        "mib_until_kill": shown_memory(memory),
        "mib_resumed": shown_memory(memory_resumed),
    }


def watched_memory(process: subprocess.Popen[Any], enough: Callable[[], bool]) -> list[int]:
    """Return the resident memory of a process in bytes, twice a second, until it ends or that is enough."""
    samples = []
    while process.poll() is None and not enough():
        try:
            samples.append(int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
        except (FileNotFoundError, IndexError):
            break
        threading.Event().wait(0.5)
    return samples


def shown_memory(samples: list[int]) -> list[int]:
    """Return ten samples, evenly spread, in MiB."""
    return [round(samples[(len(samples) - 1) * step // 9] / 2**20) for step in range(10)] if samples else []


def compare_engines(work: Work, engine: str) -> dict[str, object]:
    """Run the same rollouts here and on another engine, and count records that differ beyond times and ids."""
    seen, seconds = {}, {}
    for name in ("local", engine):
        out = work.folder / f"compare-{name}"
        began = time.perf_counter()
        subprocess.run(command_of(work, name, "--out", str(out)), check=True, stdout=subprocess.DEVNULL)
        seconds[name] = time.perf_counter() - began
        records = read_records(out)
        seen[name] = {record.key: dataclasses.replace(record, id="", seconds=0.0) for record in records}
    here, there = seen["local"], seen[engine]
    return {
        "records": len(there),
        "different": sum(here.get(key) != there.get(key) for key in {*here, *there}),
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
    }


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("solutions", type=Path)
    parser.add_argument("--rollouts", type=int, default=10_000)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5, help="of the throughput part, which shares the rollouts out")
    parser.add_argument("--part", action="append", choices=["throughput", "crash", "ray", "process"])
    parser.add_argument("--json", type=Path, help="write the figures here")
    given = parser.parse_args()
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        work = prepare(given.solutions, given.rollouts, given.concurrency, Path(folder))
        print(f"{work.prompts} prompts x {work.group_size} = {work.rollouts} rollouts, {work.concurrency} in flight")
        for part in given.part or ["throughput", "crash", "ray"]:
            if part == "throughput":
                results[part] = measure_throughput(work, given.rounds)
            elif part == "crash":
                results[part] = run_and_crash(work)
            else:
                results[part] = compare_engines(work, part)
            print(part, json.dumps(results[part], indent=2))
    if given.json:
        given.json.write_text(json.dumps(results, indent=2))
    wrong = ("exit_status", "lost", "run_twice", "rewarded_without_record", "recorded_without_reward", "different")
    sys.exit(any(result.get(name) for result in results.values() for name in wrong))


if __name__ == "__main__":
    main()

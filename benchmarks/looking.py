"""How fast `aws-rft show` and `aws-rft view` look at a large run, and how much memory it takes.

    python benchmarks/looking.py [--rollouts 100000] [--group-size 8] [--folder DIR] [--json FILE]

Makes a folder as `aws-rft rollout --out` leaves it: records, and a database with 2 to 5 turns of a calculating agent
for each rollout. Then it measures in a new process: the first look, which makes the index, and with the index a first
page, filters, sorting, searches and a conversation. Times are medians of 5, of the processor, since the machine may be
busy. Exit status 1 when a page takes more than 200 ms, or a search more than 300 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import httpx

from aws_rft_sdk.runs import RolloutRecord, RolloutStatus
from aws_rft_sdk.runs.looking import RunView
from aws_rft_sdk.runs.where import parse_where
from aws_rft_sdk.runtime.records import TrajectoryRow, TurnRow, turn_key
from aws_rft_sdk.runtime.state import State
from aws_rft_sdk.runtime.store import Store
from aws_rft_sdk.types import TrajectoryStatus
from aws_rft_sdk.viewer.app import create_app
from aws_rft_sdk.viewer.watching import WatchedRun

JOB = "arn:aws:sagemaker:us-west-2:000000000000:job/AgentRFT/local"
SYSTEM = "Solve the problem step by step. Use the calculator for every calculation. End with #### and the number."
TOOL = {"type": "function", "function": {"name": "calculator", "parameters": {"type": "object", "properties": {}}}}
NOUNS = [f"{a}{b}" for a in ("ba", "co", "di", "fe", "lu", "mo", "ra") for b in ("ker", "ral", "sun", "tel", "vin")]
PAGE_MS, SEARCH_MS = 200, 300
PAGES = {
    "first page": ("", ""),
    "worst": ("", "reward"),
    "slowest failed": ("outcome=failed", "-seconds"),
    "by a component": ("metrics.format<1", "metrics.format"),
    "by tool and tokens": ("tool=calculator and tokens>900", "-tokens"),
    "by error": ("error=timeout or error~'reset'", ""),
}
BROWSED = {
    "page: overview": "/",
    "page: rollouts": "/view/0/rollouts",
    "page: worst rollouts": "/view/0/rollouts?sort=reward",
    "page: groups": "/view/0/groups",
    "page: a group": "/view/0/groups/77",
    "page: a search": "/view/0/rollouts?text=zyzzyva",
}
SEARCHES = {
    "a rare word": "text~zyzzyva",
    "a common word": "text~calculator",
    "a phrase of one role": "text.tool~'the result is 77'",
    "a word and a reward": "text.user~baker and reward<0.5",
    "the beginning of a word": "text.assistant~co",
}


def make_run(folder: Path, rollouts: int, group_size: int, seed: int = 1) -> None:
    """Write records and a database."""
    rng = random.Random(seed)
    store = Store(folder / "trajectories.db", after_commit=lambda waiters, error: None)
    with (folder / "rollouts.jsonl").open("w") as records:
        for number in range(rollouts):
            trajectory_id = str(uuid.UUID(int=rng.getrandbits(128), version=4))
            prompt, sample = divmod(number, group_size)
            turns = _turns(rng, number, prompt)
            reward, failed = float(rng.random() < 0.6), rng.random() < 0.01
            state = State(TrajectoryStatus.REWARD_RECEIVED, len(turns), "ready", None, (reward,), None)
            store.submit(TrajectoryRow(number, trajectory_id, JOB, json.dumps(f"problem {prompt}"), 1e9, state), None)
            for turn in turns:
                store.submit(turn, None)
            record = RolloutRecord(
                *(trajectory_id, prompt, sample, reward, len(turns), rng.random() * 60),
                status=RolloutStatus.FAILED if failed else RolloutStatus.COMPLETED,
                error="TimeoutError: connection reset" if failed else None,
                metrics={"format": rng.random() * 2},
                prompt_tokens=tuple(rng.randint(100, 400) for _ in turns),
                response_tokens=tuple(rng.randint(20, 90) for _ in turns),
            )
            records.write(record.to_json() + "\n")
    store.close()


def _turns(rng: random.Random, number: int, prompt: int) -> list[TurnRow]:
    nouns = random.Random(prompt).choices(NOUNS, k=40)
    messages = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": f"Problem {prompt}. {' '.join(nouns)}. How many are left?"},
    ]
    found = []
    for index in range(rng.randint(2, 5)):
        request = {"model": "default", "messages": messages, "tools": [TOOL]}
        call = {"name": "calculator", "arguments": f'{{"expression": "{rng.randint(1, 99)} * {rng.randint(1, 99)}"}}'}
        answer = {
            "role": "assistant",
            "content": f"{' '.join(rng.choices(NOUNS, k=25))}{' zyzzyva' * (rng.random() < 0.0001)}",
            "tool_calls": [{"id": f"call-{index}", "type": "function", "function": call}],
        }
        body = {"choices": [{"message": answer, "finish_reason": "tool_calls"}], "usage": {"prompt_tokens": 300}}
        bodies = (json.dumps(request).encode(), json.dumps(body).encode())
        found.append(TurnRow(turn_key(number, index), str(uuid.uuid4()), "/sample", 1e9 + index, 0.5, *bodies))
        result = f"the result is {rng.randint(1, 9999)}"
        messages = [*messages, answer, {"role": "tool", "tool_call_id": f"call-{index}", "content": result}]
    return found


def look(folder: Path) -> dict[str, float]:
    """Measure the looks at a run. Milliseconds, but `first look` and `all turns` in seconds and memory in megabytes."""
    figures: dict[str, float] = {}
    with RunView.open(folder) as view:
        figures["first look, seconds"] = _seconds(lambda: view.update(turns=False))
        figures["all turns, seconds"] = _seconds(view.update)
        figures["nothing new"] = _milliseconds(view.update)
        for name, (where, sort) in PAGES.items():
            parsed = parse_where(where) if where else None
            figures[name] = _milliseconds(lambda parsed=parsed, sort=sort: view.rollouts(parsed, sort=sort))
        for name, where in SEARCHES.items():
            figures[name] = _milliseconds(lambda where=where: view.rollouts(parse_where(where)))
        known = view.rollouts(limit=1, offset=777).rollouts[0].trajectory_id
        figures["a conversation"] = _milliseconds(lambda: view.conversation(view.find(known[:12])))
    figures |= asyncio.run(_look_at_pages(folder, known))
    figures["peak memory, megabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    figures["index, megabytes"] = (folder / "trajectories.db-view").stat().st_size / 1e6
    figures["database, megabytes"] = (folder / "trajectories.db").stat().st_size / 1e6
    return figures


async def _look_at_pages(folder: Path, known: str) -> dict[str, float]:
    """Measure the pages of `aws-rft view`, without the network. The first overview counts, not those from memory."""
    figures = {}
    run = WatchedRun(RunView.open(folder), 1.0)
    transport = httpx.ASGITransport(app=create_app([run], key=None))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        await client.get("/view/0/groups")  # loads the templates, and starts to look at the run
        for name, path in {**BROWSED, "page: a rollout": f"/view/0/rollout?id={known}"}.items():
            began = time.process_time()
            (await client.get(path)).raise_for_status()
            figures[name] = 1000 * (time.process_time() - began)
    run.close()
    return figures


def _seconds(act) -> float:
    began = time.process_time()
    act()
    return time.process_time() - began


def _milliseconds(act) -> float:
    return 1000 * statistics.median(_seconds(act) for _ in range(5))


def main() -> None:
    """Print a table, exit 1 if a limit is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollouts", type=int, default=100_000)
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--folder", type=Path, help="make the run here, or use the run that is here, and keep it")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--look", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.look:
        print(json.dumps(look(arguments.look)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(exist_ok=True)
        if not (folder / "rollouts.jsonl").exists():
            make_run(folder, arguments.rollouts, arguments.group_size)
        command = [sys.executable, __file__, "--look", str(folder)]
        figures = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    for name, value in figures.items():
        print(f"{name:32} {value:10.1f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2))
    slow = [name for name in (*PAGES, *BROWSED) if figures[name] > PAGE_MS] + [
        name for name in SEARCHES if figures[name] > SEARCH_MS
    ]
    if slow:
        sys.exit(f"too slow: {', '.join(slow)}")


if __name__ == "__main__":
    main()

"""A million records: how long the commands take that look at a run, and how much memory.

    python benchmarks/records.py [--records 1000000] [--group-size 8] [--missing 200] [--json FILE]

Makes two folders as `aws-rft rollout --out` leaves them, and measures `aws-rft metrics`, `aws-rft compare`, and
`aws-rft rollout --resume` of a run that lacks some rollouts. Each command runs in a process of its own; the table has
the time on the clock, the time of the processor, and the peak of resident memory. Exit status 1 when a command fails,
or a limit is exceeded that is stated for a million records. On a busy machine look at the processor's time.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import sysconfig
import tempfile
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

from aws_rft_sdk import __version__
from aws_rft_sdk.rollout import RunOptions
from aws_rft_sdk.rollout.options import complete_options
from aws_rft_sdk.rollout.planning import plan_run

AWS_RFT = str(Path(sysconfig.get_path("scripts")) / "aws-rft")
AGENT = """
from aws_rft_sdk import rft_handler


@rft_handler(require_turns=False)
def handler(payload):
    return {"reward": 1.0, "metrics": {"steps": 3}}


def policy(request):
    return "unused"
"""
LIMITS = {"metrics": (25, 400), "compare": (40, 800), "resume": (25, 500)}
"""Seconds on the clock, and megabytes, for a million records."""


@dataclass(frozen=True)
class Figures:
    """What a command took."""

    command: str
    seconds: float
    cpu_seconds: float
    megabytes: float
    status: int


def make_run(folder: Path, seed: int, prompts: int, group_size: int, missing: int) -> None:
    """Write the folder of a run. Rollouts end in a random order near that in which they began."""
    rng = random.Random(seed)
    agent = folder.parent / "bench_agent.py"
    options: RunOptions = {"group_size": group_size, "policy": f"callable:{agent}:policy"}
    dataset = folder.parent / "dataset.jsonl"
    manifest = plan_run(f"{agent}:handler", dataset, complete_options(options, None)).manifest
    folder.mkdir()
    manifest.write(folder)
    lost = set(rng.sample(range(prompts * group_size), missing))
    ends = sorted(range(prompts * group_size), key=lambda number: number + rng.random() * 96)
    chances = [rng.random() for _ in range(prompts)]
    with (folder / "rollouts.jsonl").open("w") as records, (folder / "started.jsonl").open("w") as started:
        for number in ends:
            prompt, sample = divmod(number, group_size)
            trajectory_id, turns = str(uuid.UUID(int=rng.getrandbits(128), version=4)), rng.randint(1, 4)
            if number in lost:
                continue
            started.write(json.dumps([trajectory_id, prompt, sample, 1]) + "\n")
            record = {
                "trajectory_id": trajectory_id,
                "prompt_index": prompt,
                "sample_index": sample,
                "reward": float(rng.random() < chances[prompt]),
                "turns": turns,
                "seconds": round(rng.random() * 60, 6),
                "status": "completed",
                "error": None,
                "rewards": None,
                "metrics": {"steps": turns},
                "unsure_turns": 0,
                "prompt_tokens": [rng.randint(99, 999) for _ in range(turns)],
                "response_tokens": [rng.randint(1, 99) for _ in range(turns)],
                "attempts": 1,
                "sdk_version": __version__,
                "handler_hash": manifest.handler_hash,
            }
            records.write(json.dumps(record) + "\n")


def measured(name: str, *arguments: str) -> Figures:
    """Run a command, and return what it took."""
    began = time.perf_counter()
    process = subprocess.Popen([AWS_RFT, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - began
    cpu_seconds = usage.ru_utime + usage.ru_stime
    return Figures(name, round(seconds, 1), round(cpu_seconds, 1), usage.ru_maxrss / 1000, process.returncode)


def main() -> None:
    """Make the runs, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--missing", type=int, default=200)
    parser.add_argument("--json", type=Path, help="write the figures here")
    given = parser.parse_args()
    prompts = given.records // given.group_size
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "bench_agent.py").write_text(AGENT)
        with (folder / "dataset.jsonl").open("w") as dataset:
            dataset.writelines(json.dumps({"prompt": f"question {number}"}) + "\n" for number in range(prompts))
        for seed, run in enumerate(("a", "b")):
            make_run(folder / run, seed, prompts, given.group_size, given.missing if run == "b" else 0)
        agent = folder / "bench_agent.py"
        resume = ["rollout", f"{agent}:handler", str(folder / "dataset.jsonl"), "--policy", f"callable:{agent}:policy"]
        resume += ["--group-size", str(given.group_size), "--resume", str(folder / "b")]
        results = [
            measured("metrics", "metrics", str(folder / "a")),
            measured("compare", "compare", str(folder / "a"), str(folder / "b")),
            measured("resume", *resume),
        ]
    print(
        f"{given.records:,} records, groups of {given.group_size}, {given.missing} missing in b, {os.cpu_count()} cores"
    )
    print("| Command | seconds | limit | CPU seconds | MB | limit | exit status |\n|---|---|---|---|---|---|---|")
    for of in results:
        seconds, megabytes = LIMITS[of.command]
        print(
            f"| {of.command} | {of.seconds:.1f} | {seconds} | {of.cpu_seconds:.1f} | {of.megabytes:.0f} | {megabytes} "
            f"| {of.status} |"
        )
    if given.json:
        given.json.write_text(json.dumps([asdict(of) for of in results], indent=2))
    exceeded = [of for of in results if of.seconds > LIMITS[of.command][0] or of.megabytes > LIMITS[of.command][1]]
    sys.exit(1 if exceeded or any(of.status for of in results) else 0)


if __name__ == "__main__":
    main()

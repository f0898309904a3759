"""Rehearse a whole multi-turn RL job on this machine: plan, submit, watch, evaluate.

    python run.py                    the agent of agent.py, while one call in twenty fails: the job succeeds
    python run.py --broken NAME...   agents of broken.py: each job fails, and its reason is the one of the service

Each command is printed before it runs. On AWS the same commands run without --endpoint.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from prepare import prepare

from aws_rft_sdk.cli import main
from aws_rft_sdk.runtime import Faults, LocalJobs
from aws_rft_sdk.training import SoftmaxTrainer, arithmetic

HERE = Path(__file__).parent
JOB = "calculator-1"
SPEED = 50
"""The clocks of the stand-in run so much faster: 250 rollouts start in a second, and `rollout_timeout` is 72 s."""


@contextlib.contextmanager
def worker(agent: str) -> Iterator[str]:
    """Serve an agent as a container on AgentCore does, and yield the URL that the service calls."""
    environment = {**os.environ, "RFT_API": "ga"}  # noqa: TID251 - a program's own; ga is the service of today
    process = subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-m", "aws_rft_sdk", "worker", "http", agent, "--host", "127.0.0.1", "--port", "0"],
        **{"cwd": HERE, "env": environment, "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL},
    )
    try:
        announced = process.stdout.readline() if process.stdout else ""
        yield announced.removeprefix("worker at ").strip() + "/invocations"
    finally:
        process.kill()
        process.wait()


def command(*arguments: str) -> int:
    """Print and run a command of aws-rft. Returns its exit status."""
    sys.stdout.write(f"\n$ aws-rft {' '.join(arguments)}\n")
    sys.stdout.flush()
    return main.main(arguments, prog_name="aws-rft", standalone_mode=False) or 0


def rehearse(folder: Path, agent: str, *, is_broken: bool) -> int:
    """Run the job with an agent, and return the exit status of `job watch`."""
    prepare(folder)
    job = str(shutil.copy(HERE / "job.toml", folder))
    if is_broken:  # the least that the service allows, so that the end comes soon
        text = Path(job).read_text().replace("rollout_timeout = 3600", "rollout_timeout = 300\nrollout_max_retries = 1")
        Path(job).write_text(text)
    trainer = SoftmaxTrainer(arithmetic.decide, arithmetic.untrained())
    faults = None if is_broken else Faults.from_toml(HERE / "faults.toml")
    with worker(agent) as url, LocalJobs(agent_url=url, trainer=trainer, faults=faults, speed=SPEED) as service:
        where = ["--on", "sagemaker", "--endpoint", service.endpoint]
        if not is_broken:
            command("job", "plan", job, "--check-schema", "--endpoint", service.endpoint)
        command("job", "submit", job, "--endpoint", service.endpoint)
        status = command("job", "watch", JOB, "--poll-seconds", "0.5", *where)
        if status == 0:
            status = command("job", "evaluate", JOB, "--file", job, "--poll-seconds", "0.5", *where)
    return status


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--broken", metavar="NAME", nargs="+", default=[], help="functions of broken.py")
    broken = parser.parse_args().broken
    with tempfile.TemporaryDirectory() as scratch:
        agents = [f"broken.py:{name}" for name in broken] or ["agent.py:handler"]
        sys.exit(max(rehearse(Path(scratch), agent, is_broken=bool(broken)) for agent in agents))

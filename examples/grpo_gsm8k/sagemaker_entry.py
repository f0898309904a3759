"""What runs in the containers of the SageMaker job: `accelerate launch` over all GPUs of all machines.

SageMaker starts this file once on each machine and names the machines in SM_* variables.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

PORT = 29500
"""Where the processes of all machines meet."""


def launch_arguments(environment: Mapping[str, str]) -> list[str]:
    """Return the arguments of `accelerate launch` that say which machine of how many this is.

    Args:
        environment: Has SM_HOSTS, a JSON list of names; SM_CURRENT_HOST, one of them; and SM_NUM_GPUS, of each machine.

    Raises:
        ValueError: A variable is missing or has another form, or the machine has no GPU.
    """
    if missing := [name for name in ("SM_HOSTS", "SM_CURRENT_HOST", "SM_NUM_GPUS") if not environment.get(name)]:
        raise ValueError(f"{', '.join(missing)} is not set. Start this file as a SageMaker training job")
    hosts = json.loads(environment["SM_HOSTS"])
    if not isinstance(hosts, list) or environment["SM_CURRENT_HOST"] not in hosts:
        raise ValueError(f"SM_HOSTS is {hosts!r}, without SM_CURRENT_HOST, {environment['SM_CURRENT_HOST']!r}")
    gpus = int(environment["SM_NUM_GPUS"])
    if gpus < 1:
        raise ValueError("SM_NUM_GPUS is 0. Choose an instance type with GPUs, for example ml.g6.48xlarge")
    hosts = sorted(hosts)  # every machine must come to the same order
    values = {
        "num_machines": len(hosts),
        "num_processes": len(hosts) * gpus,  # of all machines together
        "machine_rank": hosts.index(environment["SM_CURRENT_HOST"]),
        "main_process_ip": hosts[0],
        "main_process_port": PORT,
    }
    return [text for name, value in values.items() for text in (f"--{name}", str(value))]


def command(environment: Mapping[str, str], arguments: list[str], out: Path) -> list[str]:
    """Return the whole command. `arguments` are passed on to the training, for example `--recipe recipe.toml`."""
    prompts = Path(environment["SM_CHANNEL_PROMPTS"])
    model = environment.get("RFT_MODEL")
    return [
        *(sys.executable, "-m", "accelerate.commands.launch", "--config_file", "accelerate_zero3.yaml"),
        *launch_arguments(environment),
        *("-m", "aws_rft_sdk.training", "agent.py:handler", str(prompts / "train.jsonl")),
        *("--validation", str(prompts / "validation.jsonl"), *arguments, "--out", str(out)),
        *(("--model", model) if model else ()),
    ]


if __name__ == "__main__":
    variables = dict(os.environ)  # noqa: TID251 - they are SageMaker's
    run = Path(variables["SM_OUTPUT_DATA_DIR"]) / "run"
    subprocess.run(command(variables, sys.argv[1:], run), check=True)  # noqa: S603 - our own arguments
    if (run / "model").exists():  # on the machine that has saved it
        shutil.copytree(run / "model", variables["SM_MODEL_DIR"], dirs_exist_ok=True)

"""Score finished rollouts once more, through the Lambda handler, and compare.

    python same_scores.py FOLDER

FOLDER is the `--out` of `aws-rft rollout`. The event that is made of its trajectories is what a service sends.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from math_reward import handler

from aws_rft_sdk import LocalRuntime
from aws_rft_sdk.datasets import unpack
from aws_rft_sdk.types import Trajectory


def make_row(trajectory: Trajectory) -> dict[str, Any]:
    """Return a trajectory as a row of an event: id, messages, and the reference answer in the metadata."""
    truth = unpack(trajectory.prompt).ground_truth
    return {
        "id": trajectory.trajectory_id,
        "messages": list(trajectory.messages),
        "metadata": {"reference_answer": truth},
    }


def compare(folder: str | Path) -> list[tuple[str, float, float]]:
    """Return id, reward in the rollout and score of the handler, for each trajectory that was rewarded, in order."""
    with LocalRuntime(db=Path(folder) / "trajectories.db") as runtime:
        rewarded = [trajectory for trajectory in runtime.trajectories() if trajectory.rewards]
    event = json.loads(json.dumps([make_row(trajectory) for trajectory in rewarded]))
    results = handler(event, None)
    return [
        (trajectory.trajectory_id, trajectory.rewards[0], result["aggregate_reward_score"])
        for trajectory, result in zip(rewarded, results, strict=True)
    ]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    rows = compare(sys.argv[1])
    different = [row for row in rows if row[1] != row[2]]
    sys.stdout.write(f"{len(rows)} rollouts, {len(different)} with another score from the handler\n")
    raise SystemExit(1 if different else 0)

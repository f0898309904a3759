"""Captured trajectories as recordings that `ReplayPolicy` can answer with."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from aws_rft_sdk._frozen import JSON, thaw
from aws_rft_sdk.runtime.policies import first_user_text
from aws_rft_sdk.types import Trajectory


def make_recording(trajectory: Trajectory) -> dict[str, JSON] | None:
    """Return a trajectory as a recording, None when it has no turn with a message."""
    turns = [thaw(turn.message) for turn in trajectory.turns if turn.message is not None]
    if not turns:
        return None
    return {"prompt": first_user_text(trajectory.turns[0].request), "turns": turns}


def write_recordings(trajectories: Iterable[Trajectory], path: str | Path) -> int:
    """Write trajectories as recordings, one line of JSON each, in the order given.

    Args:
        trajectories: Those without turns are left out.
        path: The file, replaced as a whole or not at all.

    Returns:
        How many were written.

    Raises:
        OSError: It could not be written; what was there is untouched.
    """
    target = Path(path)
    partial = target.with_name(f"{target.name}.partial")
    count = 0
    try:
        with partial.open("w", encoding="utf-8") as file:
            for trajectory in trajectories:
                recording = make_recording(trajectory)
                if recording is not None:
                    file.write(json.dumps(recording, ensure_ascii=False) + "\n")
                    count += 1
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return count

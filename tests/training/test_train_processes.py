"""Trainings in processes of their own: killed and resumed, and two at once."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs: pip install -e '.[train]'")
pytest.importorskip("trl", reason="needs: pip install -e '.[train]'")

from training import launched_training  # noqa: E402
from training.tiny import tiny_model, tiny_tokenizer  # noqa: E402
from training.training_worlds import same_weights  # noqa: E402

from aws_rft_sdk.errors import ConfigurationError  # noqa: E402
from aws_rft_sdk.jobs.steps import read_steps  # noqa: E402
from aws_rft_sdk.rollout import read_records  # noqa: E402

SCRIPT = Path(launched_training.__file__)
TIMEOUT_SECONDS = 200


def launch(out: Path, kill_at: int, *launcher: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(SCRIPT.parents[1]), str(SCRIPT.parents[2])])
    return subprocess.run(
        [sys.executable, *launcher, str(SCRIPT), str(out), str(kill_at)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )


def curve(folder: Path) -> list[tuple[Any, ...]]:
    return [
        (step.step, step.reward_mean, step.reward_std, step.policy_loss, step.grad_norm, step.validation_reward_mean)
        for step in read_steps(folder / "steps.jsonl")
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Return the folder and the model of a training that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    return folder, launched_training.trained(out=folder)


def test_train_when_it_is_killed_and_resumed_then_the_curve_is_the_same(
    whole: tuple[Path, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    killed = launch(folder, 3)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    # As if the process had died while it wrote a later checkpoint.
    shutil.copytree(folder / "checkpoints/checkpoint-2", folder / "checkpoints/checkpoint-5")
    (folder / "checkpoints/checkpoint-5/complete").unlink()
    (folder / "checkpoints/checkpoint-5/model.safetensors").write_bytes(b"half")
    model = launched_training.trained(resume=folder)
    assert curve(folder) == curve(whole[0])
    lines = (folder / "steps.jsonl").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == [f'{{"step": {n}' for n in (0, 1, 2, 3, 3, 4, 5, 6)]
    assert same_weights(model, whole[1], 0)
    rewards = [{r.key: r.reward for r in read_records(path / "train")} for path in (folder, whole[0])]
    assert rewards[0] == rewards[1]
    assert len(rewards[0]) == 6 * 2 * 4


def test_train_when_it_is_killed_in_its_first_rollout_then_it_can_be_resumed(
    whole: tuple[Path, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    killed = launch(folder, -1)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (folder / "recipe.toml").exists()  # the command reads it
    with pytest.raises(ConfigurationError, match=f"--resume {re.escape(str(folder))}$"):
        launched_training.trained(out=folder)
    assert same_weights(launched_training.trained(resume=folder), whole[1], 0)
    assert curve(folder) == curve(whole[0])


def test_train_when_two_processes_share_the_rollouts_then_both_end_with_the_weights_of_one(
    whole: tuple[Path, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    ended = launch(folder, 7, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    assert ended.returncode == 0, ended.stderr
    first, second = (tiny_model(tiny_tokenizer(), seed=rank) for rank in (0, 1))
    for rank, model in enumerate((first, second)):
        model.load_state_dict(torch.load(folder / f"rank-{rank}.pt"))
    assert same_weights(first, second, 0)
    assert same_weights(first, whole[1], 1e-4)
    assert [step[1] for step in curve(folder)] == [step[1] and pytest.approx(step[1]) for step in curve(whole[0])]
    assert len(list(read_records(folder / "train"))) == 6 * 2 * 4
    assert (folder / "train/process-1/trajectories.db").exists()

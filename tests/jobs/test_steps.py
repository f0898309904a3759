from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from aws_rft_sdk.errors import UnavailableError
from aws_rft_sdk.jobs import Event, Step, read_step, read_steps

MANTLE = {
    "id": "ftevent-1",
    "object": "fine_tuning.job.event",
    "created_at": 1764000000,
    "level": "info",
    "type": "metrics",
    "message": "Step 4/67: training",
    "data": {
        "step": 4,
        "total_steps": 67,
        "critic_rewards_mean": 0.4375,
        "actor_pg_loss": 0.1015,
        "actor_entropy": 0.6236,
        "actor_grad_norm": 0.00087,
        "critic_advantages_mean": 0.0136,
        "response_length_mean": 519.09,
    },
}
OF_MANTLE = Step(
    step=4,
    total_steps=67,
    time=1764000000.0,
    reward_mean=0.4375,
    policy_loss=0.1015,
    entropy=0.6236,
    grad_norm=0.00087,
    advantage_mean=0.0136,
    response_length_mean=519.09,
)
HYPERPOD = (
    "[run] [2026-03-08 22:40:07,102] [INFO] Training epoch 0, iteration 119/999 | lr: 7e-07 | global_step: 119 | "
    "reduced_train_loss: 0.007 | completion_length: 635.2 | adv: 0.027 | train_rm_score: 0.68 | kl: 8e-4 | ent: 0.19"
)
OF_HYPERPOD = Step(
    step=119,
    total_steps=999,
    policy_loss=0.007,
    response_length_mean=635.2,
    advantage_mean=0.027,
    reward_mean=0.68,
    kl=8e-4,
    entropy=0.19,
    other={"lr": 7e-07},
)
VERL = (
    "\x1b[36m(TaskRunner pid=12)\x1b[0m step:295 - actor/entropy:2.5 - actor/pg_loss:0.0 - actor/grad_norm:0.37 - "
    "training/global_step:295 - critic/score/mean:0.8 - critic/rewards/mean:0.83 - critic/rewards/max:1.09 - "
    "critic/rewards/min:-0.9 - response_length/mean:4.7 - response_length/clip_ratio:0.0 - val-score/rewards/mean@1:0.5"
)
OF_VERL = Step(
    step=295,
    entropy=2.5,
    policy_loss=0.0,
    grad_norm=0.37,
    reward_mean=0.83,
    reward_max=1.09,
    reward_min=-0.9,
    response_length_mean=4.7,
    truncated_share=0.0,
    validation_reward_mean=0.5,
    other={"pid": 12.0, "critic/score/mean": 0.8},
)
TRL = {
    "step": 10,
    "loss": 0.01,
    "grad_norm": 0.2,
    "reward": 0.5,
    "reward_std": 0.3,
    "frac_reward_zero_std": 0.25,
    "completions/mean_length": 120.0,
    "completions/clipped_ratio": 0.1,
    "kl": 0.001,
    "entropy": 0.7,
    "rewards/correct/mean": 0.4,
}
OF_TRL = Step(
    step=10,
    policy_loss=0.01,
    grad_norm=0.2,
    reward_mean=0.5,
    reward_std=0.3,
    dead_group_share=0.25,
    response_length_mean=120.0,
    truncated_share=0.1,
    kl=0.001,
    entropy=0.7,
    other={"rewards/correct/mean": 0.4},
)
JOBS_API = {
    "training/global_step": 3,
    "rollout/reward/mean": 0.4,
    "rollout/tokens/response_mean": 300,
    "training/num_groups": 8,
    "analysis/zero_adv_groups": 2,
    "val/reward/mean": 0.45,
}
OF_JOBS_API = Step(
    step=3,
    reward_mean=0.4,
    response_length_mean=300.0,
    dead_group_share=0.25,
    validation_reward_mean=0.45,
    other={"training/num_groups": 8.0, "analysis/zero_adv_groups": 2.0},
)
READ = {
    "Mantle": (MANTLE, OF_MANTLE),
    "Mantle, an event": (Event(MANTLE, "ftevent-1"), OF_MANTLE),
    "Mantle, data as text": ({**MANTLE, "data": json.dumps(MANTLE["data"])}, OF_MANTLE),
    "Mantle, the step only in the message": (
        {"created_at": 1764000000, "message": "Step 4 of 67", "data": {"critic_rewards_mean": 0.4375}},
        Step(4, total_steps=67, time=1764000000.0, reward_mean=0.4375),
    ),
    "HyperPod": (HYPERPOD, OF_HYPERPOD),
    "HyperPod, the key": ({"global_step": "7", "train_rm_score": "0.55"}, Step(7, reward_mean=0.55)),
    "HyperPod, equals": ("global_step=6.000, train_rm_score=2.66e-1]", Step(6, reward_mean=0.266)),
    "SageMaker, a log line": (VERL, OF_VERL),
    "SageMaker, an entry of CloudWatch": (
        {"timestamp": 1764000000000, "message": "global_step=1 critic/rewards/mean=0.123", "ingestionTime": 9},
        Step(1, time=1764000000.0, reward_mean=0.123),
    ),
    "SageMaker, Jobs API": (JOBS_API, OF_JOBS_API),
    "TRL": (TRL, OF_TRL),
    "TRL, through a tracker": ({"train/global_step": 3, "train/reward": 0.5}, Step(3, reward_mean=0.5)),
    "nested": ({"step": 2, "metrics": {"critic": {"rewards": {"mean": 0.5}}}}, Step(2, reward_mean=0.5)),
    "camel case": ({"step": 2, "totalSteps": 9, "rewardMean": 0.5}, Step(2, total_steps=9, reward_mean=0.5)),
    "time as text": (
        {"step": 2, "reward": 1, "timestamp": "2025-11-24T16:00:00Z"},
        Step(2, time=1764000000.0, reward_mean=1.0),
    ),
    "step 0": ({"step": 0, "reward": 0.1}, Step(0, reward_mean=0.1)),
    "no number": (
        {"step": 1, "reward": 0.5, "grad_norm": math.inf, "entropy": math.nan, "kl": "abc", "loss": True},
        Step(1, reward_mean=0.5, other={"grad_norm": "inf", "entropy": "nan"}),
    ),
    "unknown metrics": (
        {"step": 1, "reward": 0.5, "perf/tps": "12", "run": "a"},
        Step(1, reward_mean=0.5, other={"perf/tps": 12.0}),
    ),
    "our own": (OF_TRL, OF_TRL),
    "message only": ({"message": "Checkpoint created at step 10", "type": "message", "data": {"step": 10}}, None),
    "no step": ({"reward": 0.5}, None),
    "half a step": ({"step": 1.5, "reward": 0.5}, None),
    "a step below 0": ({"step": -1, "reward": 0.5}, None),
    "a step that is true": ({"step": True, "reward": 0.5}, None),
    "empty": ({}, None),
    "any line": ("2026-02-13 15:15:07 [INFO] starting: workers=8", None),
}


@pytest.mark.parametrize("name", READ)
def test_record_when_read_then_its_metrics_have_one_name(name: str) -> None:
    record, step = READ[name]
    assert read_step(record) == step  # type: ignore[arg-type]
    if step is not None:
        written = json.dumps(step.to_json(), allow_nan=False)
        assert read_step(json.loads(written)) == step


LINES = [json.dumps({"step": n, "reward": n / 10}) for n in (1, 2, 3)]
STEPS = [Step(n, reward_mean=n / 10) for n in (1, 2, 3)]
FILES = {
    "lines": "\n".join(LINES),
    "windows lines": "\r\n".join(LINES) + "\r\n",
    "an array": f"[{', '.join(LINES)}]",
    "a page": json.dumps({"object": "list", "data": [json.loads(line) for line in LINES], "has_more": False}),
    "pages in lines": "\n".join(json.dumps({"data": [json.loads(line)]}) for line in LINES),
    "trainer state": json.dumps({"global_step": 3, "log_history": [json.loads(line) for line in LINES]}),
    "a log": "starting\n" + "\n".join(f"global_step={n} train_rm_score={n / 10}" for n in (1, 2, 3)),
    "out of order": "\n".join(reversed(LINES)),
    "cut off": "\n".join([*LINES, '{"step": 4, "reward": 0.4']),
    "other lines between": "\n".join(["", "# notes", LINES[0], '{"message": "hello"}', "[]", "17", *LINES[1:], "null"]),
    "restart": "\n".join([LINES[0], '{"step": 2, "reward": 0.9}', *LINES[1:]]),
    "restart by time": (
        '{"step": 2, "reward": 0.2, "time": 20}\n{"step": 2, "reward": 0.9, "time": 10}\n' + LINES[0] + "\n" + LINES[2]
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_file_when_read_then_each_step_is_there_once(name: str, tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text(FILES[name])
    steps = read_steps(path)
    assert [(s.step, s.reward_mean) for s in steps] == [(s.step, s.reward_mean) for s in STEPS]
    assert read_steps(str(path)) == read_steps(FILES[name].splitlines()) == read_steps(iter(steps)) == steps


def test_step_when_validation_is_a_record_of_its_own_then_both_are_kept() -> None:
    assert read_steps([{"step": 5, "reward": 0.5}, {"step": 5, "eval_reward": 0.4}]) == [
        Step(5, reward_mean=0.5, validation_reward_mean=0.4)
    ]


def test_file_when_it_cannot_be_read_then_the_error_names_it(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="cannot be read"):
        read_steps(tmp_path)
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00{")
    assert read_steps(tmp_path / "bytes") == []

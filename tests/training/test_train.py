"""Training by rollouts of an agent: which rollouts count, what is written down, and how it goes on after a kill."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs: pip install -e '.[train]'")
pytest.importorskip("trl", reason="needs: pip install -e '.[train]'")

from strands import Agent, tool  # noqa: E402
from training.tiny import call_text, tiny_model, tiny_tokenizer  # noqa: E402
from training.training_worlds import (  # noqa: E402
    CELLS,
    OneByOne,
    handler,
    model_of_agent,
    recipe,
    reward_of,
    same_weights,
)

from aws_rft_sdk import rft_handler  # noqa: E402
from aws_rft_sdk.errors import ConfigurationError, UnavailableError  # noqa: E402
from aws_rft_sdk.jobs.alarms import alarms  # noqa: E402
from aws_rft_sdk.jobs.steps import read_steps  # noqa: E402
from aws_rft_sdk.rollout import measure, read_records  # noqa: E402
from aws_rft_sdk.training.run import TrainingRun, train  # noqa: E402
from aws_rft_sdk.training.trl_trainer import RolloutTrainer  # noqa: E402

TOKENIZER = tiny_tokenizer()
WELL_CONDITIONED = 1e-3
"""Adam's epsilon for comparisons: with a tiny one, rounding of a gradient near 0 would be an update."""


def trained(
    out: Path,
    values: Mapping[str, Any] | None = None,
    *,
    agent: Any = handler,
    policy: Callable[..., OneByOne | None] = OneByOne,
    **others: Any,
) -> tuple[TrainingRun, Any]:
    """Return a training and the trained model."""
    model = tiny_model(TOKENIZER)
    served = policy(model, TOKENIZER)
    run = train(
        agent, CELLS, recipe(**(values or {})), policy=served, model=model, tokenizer=TOKENIZER, out=out, **others
    )
    return run, model


# --- which rollouts count --------------------------------------------------------------------------------------------


class Skipping(OneByOne):
    """Draws for the 4 rollouts of a prompt what the others draw for those of 5 that do not crash."""

    def begin(self, trajectory_id: str, prompt: Any) -> None:
        super().begin(trajectory_id, prompt)
        text, count = self.seen[trajectory_id]
        self.seen[trajectory_id] = text, count if count < CRASHING else count + 1


CRASHING = 2
"""Which rollout of each prompt crashes."""


def crashing(on_error: Any, instead: float | None) -> Any:
    """Return an agent that crashes in every fifth rollout, or that gives it a reward."""

    @rft_handler(on_error=on_error)
    async def agent(payload: dict[str, Any]) -> float:
        text = str(await Agent(model=model_of_agent(), callback_handler=None).invoke_async(payload["prompt"]))
        _, count = POLICIES[-1].seen[payload["metadata"]["rolloutId"]]
        if count == CRASHING:
            if instead is not None:
                return instead
            raise RuntimeError("the tool server is gone")
        return reward_of(text)

    return agent


POLICIES: list[OneByOne] = []


class Known(OneByOne):
    """A policy that agents of this process can ask which rollout theirs is."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        POLICIES.append(self)


@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "dr_grpo"])
def test_train_when_a_fifth_of_the_rollouts_crash_then_the_update_is_that_of_the_others(
    loss_type: str, tmp_path: Path
) -> None:
    values = {"max_steps": 1, "loss_type": loss_type, "adam_eps": WELL_CONDITIONED, "micro_batch_size": 5}
    _, clean = trained(tmp_path / "clean", {**values, "micro_batch_size": 4}, policy=Skipping)
    for on_error, instead in [("failed", None), ("floor", None), ("failed", 0.0)][: 3 if loss_type == "dapo" else 1]:
        agent, out = crashing(on_error, instead), tmp_path / f"{on_error} {instead}"
        run, model = trained(out, {**values, "group_size": 5}, agent=agent, policy=Known)
        assert (run.rollouts, run.failed_rollouts, run.rows) == ((10, 2, 8) if instead is None else (10, 0, 10))
        assert same_weights(clean, model, 1e-6) == (instead is None)


def test_train_when_groups_have_one_reward_or_equal_rewards_then_they_are_counted_and_teach_nothing(
    tmp_path: Path,
) -> None:
    @rft_handler(on_error="failed")
    async def agent(payload: dict[str, Any]) -> float:
        await Agent(model=model_of_agent(), callback_handler=None).invoke_async(payload["prompt"])
        prompt, count = POLICIES[-1].seen[payload["metadata"]["rolloutId"]]
        if prompt in CELLS[:2] and count > 0:
            raise RuntimeError("the tool server is gone")
        return 1.0

    run, model = trained(tmp_path, {"max_steps": 1, "global_batch_size": 4}, agent=agent, policy=Known)
    assert (run.dropped_groups, run.dead_groups, run.failed_rollouts, run.rows) == (2, 2, 6, 8)
    assert same_weights(model, tiny_model(TOKENIZER), 0)
    assert run.steps[-1].dead_group_share == 1.0


def test_train_when_no_rollout_gets_a_reward_then_the_error_says_why(tmp_path: Path) -> None:
    @rft_handler(on_error="failed")
    async def agent(payload: dict[str, Any]) -> float:
        raise RuntimeError("the tool server is gone")

    with pytest.raises(UnavailableError, match="the last 16 rollouts got no reward: RuntimeError: the tool server"):
        trained(tmp_path, agent=agent)


# --- log-probabilities -----------------------------------------------------------------------------------------------


class Falsified(OneByOne):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args, falsify=lambda logprob: logprob - 1.0)


def test_train_when_recorded_logprobs_are_false_then_the_update_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ratios: list[float] = []
    compute = RolloutTrainer.compute_loss

    def observed(self: Any, model: Any, inputs: Any, *args: Any, **options: Any) -> Any:
        with torch.no_grad():
            ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
            mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
            size = inputs["completion_ids"].shape[1]
            now = self._get_per_token_logps_and_entropies(model, ids, mask, size)[0]
            sampled = inputs["completion_mask"] * inputs["tool_mask"]
            ratios.append(float(((now - inputs["old_per_token_logps"]).exp() - 1).abs().mul(sampled).max()))
        return compute(self, model, inputs, *args, **options)

    monkeypatch.setattr(RolloutTrainer, "compute_loss", observed)
    stale = {"max_steps": 2, "max_steps_off_policy": 1, "adam_eps": WELL_CONDITIONED}
    run, honest = trained(tmp_path / "honest", stale)
    assert [step.other.get("training/num_trajectories") for step in run.steps] == [16, None]  # for both updates
    assert ratios[0] < 1e-4 < 1e-2 < ratios[1]
    _, false = trained(tmp_path / "false", stale, policy=Falsified)
    assert not same_weights(honest, false, 1e-4)


def test_train_when_it_has_a_reference_then_the_divergence_begins_at_0_and_grows(tmp_path: Path) -> None:
    values = {"max_steps": 3, "kl_coef": 0.1, "max_steps_off_policy": 1, "loss_type": "luspo"}
    run, _ = trained(tmp_path, values, policy=lambda *_: None)  # the model itself samples
    assert run.steps[0].kl == pytest.approx(0.0, abs=1e-6)
    assert all(step.kl is not None and step.kl > 1e-4 for step in run.steps[1:])


# --- rows ------------------------------------------------------------------------------------------------------------


@tool
def calculator(a: int) -> str:
    """Add one.

    Args:
        a: A number.
    """
    return f"the result is {a + 1}"


class Calls(OneByOne):
    """Calls the tool, then answers what it draws."""

    def draw(self, call: Any, ids: list[int], name: str) -> list[int]:
        drawn = super().draw(call, ids, name)
        if call.turn:
            return drawn
        return [*self.tokenizer.encode(call_text("calculator", a=drawn[0])), self.tokenizer.eos_token_id]

    def message(self, call: Any, sampled: list[int]) -> dict[str, Any]:
        if call.turn:
            return super().message(call, sampled)
        arguments = json.loads(self.tokenizer.decode(sampled[1:-2]))["arguments"]
        function = {"name": "calculator", "arguments": json.dumps(arguments)}
        return {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "1", "type": "function", "function": function}],
        }


@pytest.mark.parametrize("forgets", [False, True], ids=["keeps its history", "rewrites its history"])
def test_train_when_an_agent_calls_a_tool_then_its_tokens_are_masked_and_all_that_was_sampled_is_trained(
    forgets: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @rft_handler(on_error="failed")
    async def agent(payload: dict[str, Any]) -> dict[str, Any]:
        strands = Agent(model=model_of_agent(), tools=[calculator], callback_handler=None)
        text = str(await strands.invoke_async(payload["prompt"]))
        if forgets:
            strands.messages.clear()
            text = str(await strands.invoke_async("again"))
        rewards = [0.0, reward_of(text)]
        return {"reward": [*rewards, 0.5] if forgets else rewards}

    trained_rows: list[tuple[Any, tuple[float, ...]]] = []
    scored = RolloutTrainer._scored

    def observed(self: Any, rows: Any) -> Any:
        trained_rows.extend(rows)
        output = scored(self, rows)
        sampled = output["completion_mask"] * output["tool_mask"]
        assert int(sampled.sum()) == sum(sum(row.mask) for row, _ in rows) == int(output["num_items_in_batch"])
        assert not bool((output["advantages"] * (1 - sampled)).any())
        return output

    monkeypatch.setattr(RolloutTrainer, "_scored", observed)
    values = {"max_steps": 1, "advantage_method": "group_based_per_turn"}
    run, _ = trained(tmp_path, values, agent=agent, policy=Calls)
    assert run.rollouts == 8
    assert (run.rows, run.broken_rows) == ((16, 8) if forgets else (8, 0))
    lines = (tmp_path / "broken-rows.jsonl").read_text().splitlines() if forgets else []
    assert [len(json.loads(line)["breaks"]) for line in lines] == [1] * run.broken_rows
    assert all("turn 2 parts from row 0 at token" in line for line in lines)
    for row, advantages in trained_rows:
        parts = [
            list(part) for _, part in itertools.groupby(zip(row.completion_ids, row.mask, strict=True), lambda p: p[1])
        ]
        texts = [(part[0][1], TOKENIZER.decode([token for token, _ in part])) for part in parts]
        if len(texts) == 3:
            assert [sampled for sampled, _ in texts] == [1, 0, 1]
            assert texts[0][1].startswith("<tool_call>")
            assert "the result is" in texts[1][1]
        assert len(advantages) == (3 if forgets else 2)
        assert all(one == other for one, other in zip(row.logprobs, row.logprobs, strict=True))


# --- what is written down --------------------------------------------------------------------------------------------


def test_train_when_it_is_over_then_its_folder_is_read_by_the_other_commands(tmp_path: Path) -> None:
    told = []
    run, _ = trained(
        tmp_path,
        {"max_steps": 3, "val_every": 2, "save_every": 2, "method": "lora", "lora_rank": 2},
        validation=["say five", "say six"],
        tell=told.append,
    )
    assert [step.step for step in run.steps] == [0, 1, 2, 3]
    assert told == run.steps == read_steps(tmp_path / "steps.jsonl")
    validated = {step.step for step in run.steps if step.validation_reward_mean is not None}
    assert validated == {0, 2, 3}
    assert run.validation_before is not None is not run.validation_after
    assert all(step.total_steps == 3 and step.grad_norm and step.entropy for step in run.steps[1:])
    assert alarms(run.steps) == []
    records = list(read_records(tmp_path / "train"))
    assert sorted(record.key for record in records) == [(prompt, sample) for prompt in range(6) for sample in range(4)]
    prompts = [json.loads(line)["prompt"] for line in (tmp_path / "train/prompts.jsonl").read_text().splitlines()]
    assert sorted(prompts[:4]) == sorted(CELLS)  # an epoch has each once
    assert measure(records).rollouts == 24
    for step in (0, 2, 3):
        found = list(read_records(tmp_path / f"validation-{step}"))
        mean = sum(record.reward or 0.0 for record in found) / 2
        assert (len(found), mean) == (2, pytest.approx(run.steps[step].validation_reward_mean))
    assert (tmp_path / "model" / "adapter_config.json").exists()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["checkpoint-2", "checkpoint-3"]


PROBLEMS: dict[str, tuple[dict[str, Any], str]] = {
    "no draws": ({"temperature": 0}, "temperature is 0"),
    "micro batch": ({"micro_batch_size": 3}, "Give a divisor of 8"),
    "no GPU": ({"device": "cuda"}, "finds no GPU"),
    "no bitsandbytes": ({"method": "qlora", "device": "auto"}, "pip install bitsandbytes"),
    "no model": ({}, "there is no tokenizer"),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_train_when_a_value_cannot_be_followed_then_nothing_is_begun(name: str, tmp_path: Path) -> None:
    values, message = PROBLEMS[name]
    with pytest.raises(ConfigurationError, match=message):
        train(handler, CELLS, recipe(**values), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def _without(name: str) -> Any:
    tokenizer = tiny_tokenizer()
    setattr(tokenizer, name, None)
    return tokenizer


@pytest.mark.parametrize(
    ("values", "tokenizer", "message"),
    [
        ({"method": "lora", "lora_targets": ["q_proj", "nope"]}, TOKENIZER, r"lora_targets names nope, .*k_proj"),
        ({}, _without("eos_token"), "no eos_token"),
        ({}, _without("chat_template"), "no chat template"),
    ],
    ids=["targets", "end", "template"],
)
def test_train_when_the_model_does_not_fit_then_nothing_stays_behind(
    values: dict[str, Any], tokenizer: Any, message: str, tmp_path: Path
) -> None:
    out, model = tmp_path / "out", tiny_model(tiny_tokenizer())
    with pytest.raises(ConfigurationError, match=message):
        train(handler, CELLS, recipe(**values), model=model, tokenizer=tokenizer, out=out)
    assert not out.exists()

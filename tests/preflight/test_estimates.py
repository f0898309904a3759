"""What a job on SageMaker would take, against the durations and bills of public jobs; and what speaks against it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from aws_rft_sdk.agent_rft import MODELS
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.runs import RolloutRecord, RolloutStatus, RolloutTable
from aws_rft_sdk.runs.preflight import TrainingPlan
from aws_rft_sdk.runs.preflight.durations import validations
from aws_rft_sdk.runs.preflight.estimates import estimate_job
from aws_rft_sdk.runs.preflight.plans import plan_of
from aws_rft_sdk.runs.preflight.rules import conflicts

JOB = {"on": "sagemaker", "model": "gpt-oss-20b", "region": "us-west-2"}


def played(seconds: float = 15.0, prompts: tuple[int, ...] = (100,), answers: tuple[int, ...] = (50,)) -> RolloutTable:
    """Return two equal rollouts, with the tokens of each turn."""
    made = (
        RolloutRecord(
            *(f"t-{number}", 0, number, float(number), len(prompts), seconds, RolloutStatus.COMPLETED),
            prompt_tokens=prompts,
            response_tokens=answers,
        )
        for number in range(2)
    )
    return RolloutTable.of(made)


def planned(prompts: int | None = None, validation_prompts: int | None = None, **job: Any) -> TrainingPlan:
    plan = plan_of({"job": JOB, **job})
    return replace(plan, prompts=prompts, validation_prompts=validation_prompts)


# Tokens of a customer-support agent, as billed: 4,833,702 read and 778,911 answered in 1,280 rollouts of 6.7 turns.
# Of its evaluation of 64 rollouts in 47 s, 13 s were starts, so that the slowest rollout took about 34 s; its mean is
# taken for half of it.
SUPPORT = played(17, (539,) * 7, (87,) * 7)
# Tokens of a game of Wordle. 1,412 answered tokens are published. Those that are read are derived: seven evaluations of
# 128 games cost $1.20. The length of a game is not published; at any length below 30 s the figures hold.
WORDLE = played(20, (930,) * 5, (282,) * 5)
SMALL = {"global_batch_size": 32, "group_size": 4}
PUBLIC = {
    # table, hyperparameters, prompts, validation; hours, dollars
    "support": (SUPPORT, {**SMALL, "max_epochs": 10, "max_steps": 10}, 64, None, 19.2 / 60, 2.83),
    "wordle-small": (WORDLE, {**SMALL, "max_epochs": 6}, 600, 100, 4 + 18 / 60, None),
    "wordle": (WORDLE, {"max_epochs": 20}, 640, 128, 12 + 40 / 60, 339),
}


@pytest.mark.parametrize("name", PUBLIC)
def test_estimate_when_a_public_job_was_like_it_then_hours_and_bill_are_within_30_percent(name: str) -> None:
    table, hyperparameters, prompts, validation, hours, dollars = PUBLIC[name]

    found = estimate_job(table, planned(prompts, validation, hyperparameters=hyperparameters))

    assert found.hours == pytest.approx(hours, rel=0.3)
    if dollars is not None:
        assert found.cost == pytest.approx(dollars, rel=0.3)
        assert "2026-10-02" in str(found.price_source)


def test_estimate_when_a_bill_lists_tokens_then_they_are_counted_so() -> None:
    """A public job was billed for 5,599,613 trained tokens: those of all requests and answers, but 0.2 %."""
    found = estimate_job(SUPPORT, planned(64, hyperparameters={**SMALL, "max_epochs": 10, "max_steps": 10}))

    assert found.prefill_tokens == pytest.approx(4_833_702, rel=0.01)
    assert found.sample_tokens == pytest.approx(778_911, rel=0.01)
    assert found.train_tokens == pytest.approx(5_599_613, rel=0.01)


@pytest.mark.parametrize(
    ("prompts", "batch", "epochs", "most", "steps"),
    [(600, 32, 1, 100, 19), (640, 128, 1, 100, 5), (640, 128, 20, 100, 100), (33, 32, 1, None, 2), (5, 32, 3, None, 3)],
)
def test_steps_when_the_last_batch_is_smaller_then_it_is_a_step(
    prompts: int, batch: int, epochs: int, most: int | None, steps: int
) -> None:
    plan = TrainingPlan(prompts=prompts, batch_size=batch, epochs=epochs, steps=most)

    assert estimate_job(RolloutTable(), plan).steps == steps


@pytest.mark.parametrize(
    ("steps", "every", "times"), [(100, 10, 11), (10, 10, 2), (5, 10, 2), (25, 10, 4), (20, 0, 2), (3, 1, 4)]
)
def test_validations_when_counted_then_the_first_and_the_last_are(steps: int, every: int, times: int) -> None:
    assert validations(steps, every) == times


@pytest.mark.parametrize("model", MODELS)
def test_plan_when_the_file_leaves_a_value_out_then_it_is_the_service_s_for_the_model(model: str) -> None:
    service = {name: about.default for name, about in MODELS[model].hyperparameters.items()}
    document = {"TrainingConfig": {"BaseModelArn": MODELS[model].hub_arn("us-west-2")}}
    expected = TrainingPlan(
        model=model,
        group_size=service["group_size"],  # type: ignore[arg-type] # the defaults are whole numbers
        batch_size=service["global_batch_size"],  # type: ignore[arg-type]
        steps=service["max_steps"],  # type: ignore[arg-type]
        epochs=service["max_epochs"],  # type: ignore[arg-type]
        max_tokens=service["sampling_max_tokens"],  # type: ignore[arg-type]
        context_tokens=32_768 if model == "nova-lite-2" else 65_536,
        concurrency=96,
        val_every=service["val_every"],  # type: ignore[arg-type]
        max_steps_off_policy=3,
        max_runtime_seconds=86_400,
    )
    for job in ({"job": {**JOB, "model": model}}, document):
        assert replace(plan_of(job), prices=None) == expected


GIVEN = {"rollout_timeout": "900", "max_runtime_seconds": 3600, "val_every": 0}
AGENTCORE = {"agentcore_arn": "arn:aws:bedrock-agentcore:us-west-2:1:runtime/calc-AbCdEfGhIj"}


def test_plan_when_the_file_says_it_then_that_counts() -> None:
    plan = planned(hyperparameters=GIVEN, agent={**AGENTCORE, "lambda_arn": None}, prices={"train": 2, "sample": None})

    assert (plan.rollout_timeout_seconds, plan.max_runtime_seconds, plan.val_every) == (900, 3600, 0)
    assert plan.platform_seconds == 900
    assert plan.prices is not None
    assert (plan.prices.train, plan.prices.sample) == (2, 0)
    assert planned(agent={"lambda_arn": "arn:aws:lambda:us-west-2:1:function:f"}).platform_seconds is None
    assert plan_of({"job": {**JOB, "model": "my-model"}}) == TrainingPlan()  # the service's values are not known
    with pytest.raises(ConfigurationError, match="the price of train is -1"):
        planned(prices={"train": -1})


LONG = played(700, (30_000, 66_000), (50, 50))
CONFLICTS = {
    "none": (played(), planned(1000), {}),
    "no-run": (RolloutTable(), planned(128), {"prompts_vs_batch": "no-go"}),
    "all-in-a-batch": (played(), planned(128), {"prompts_vs_batch": "no-go"}),
    "slow": (played(700), planned(1000), {"rollout_seconds": "no-go"}),
    "slow-for-agentcore": (
        *(played(1000), planned(1000, hyperparameters={"rollout_timeout": 3600}, agent=AGENTCORE)),
        {"rollout_seconds": "no-go"},
    ),
    "not-slow-for-a-forwarder": (played(1000), planned(1000, hyperparameters={"rollout_timeout": 3600}), {}),
    "long": (LONG, planned(1000), {"context_length": "no-go", "rollout_seconds": "no-go"}),
    "long-for-nova": (
        *(played(9, (33_000,)), replace(planned(1000), context_tokens=32_768)),
        {"context_length": "no-go"},
    ),
    # 10 turns of 8,192 tokens are more than 65,536.
    "may-grow": (
        *(played(), planned(1000, hyperparameters={"sampling_max_tokens": 8192, "max_turns": 10})),
        {"sequence_size": "warn"},
    ),
    "days": (played(20), planned(10_000, hyperparameters={"max_steps": 1000, "max_epochs": 30}), {"job_hours": "warn"}),
}


@pytest.mark.parametrize("name", CONFLICTS)
def test_conflicts_when_limits_are_exceeded_then_exactly_those_are_named(name: str) -> None:
    table, plan, expected = CONFLICTS[name]

    assert {one.rule: one.verdict.value for one in conflicts(table, plan)} == expected


def test_sequence_size_when_histories_grow_then_prompt_and_tool_results_are_derived() -> None:
    """A prompt of 400 tokens, answers of 60 and tool results of 40: requests of 400, 500 and 600 tokens."""
    plan = planned(1000, hyperparameters={"max_turns": 8, "sampling_max_tokens": 8192})

    (found,) = conflicts(played(5, (400, 500, 600), (60, 60, 60)), plan)

    assert found.value == 8 * (8192 + 40) + 400
    assert "65536" in found.text

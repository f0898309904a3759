"""Facts of multi-turn RL jobs."""

from __future__ import annotations

from datetime import date

import pytest

from aws_rft_sdk.agent_rft import (
    EVALUATION_HYPERPARAMETERS,
    MODELS,
    find_model,
    known_prices,
    steps_per_epoch,
    total_steps,
)

OSS, NOVA = MODELS["gpt-oss-20b"].hyperparameters, MODELS["nova-lite-2"].hyperparameters


@pytest.mark.parametrize("hyperparameters", [*(m.hyperparameters for m in MODELS.values()), EVALUATION_HYPERPARAMETERS])
def test_defaults_when_read_then_all_are_allowed_as_values_and_as_texts(hyperparameters) -> None:
    for name, about in hyperparameters.items():
        assert about.allows(about.default), name
        assert about.allows(about.text(about.default)), name
        assert about.read(about.text(about.default)) == about.default, name


@pytest.mark.parametrize(
    ("about", "value", "is_allowed"),
    [
        (OSS["global_batch_size"], 32, True),
        (OSS["global_batch_size"], 10, False),
        (NOVA["global_batch_size"], 8, True),
        (OSS["group_size"], 1, False),
        (OSS["group_size"], 32.0, False),
        (OSS["group_size"], "8", True),
        (OSS["group_size"], True, False),
        (OSS["group_size"], None, False),
        (OSS["learning_rate"], 0, False),
        (OSS["learning_rate"], "1e-2", True),
        (OSS["learning_rate"], "nan", False),
        (OSS["learning_rate"], 0.011, False),
        (OSS["temperature"], 0, True),
        (OSS["loss_fn"], "grpo", False),
        (OSS["loss_fn"], 3, False),
        (OSS["success_threshold"], -4.5, True),
        (OSS["success_threshold"], float("inf"), False),
        (OSS["pass_k_values"], [1, 2], True),
        (OSS["pass_k_values"], "1,x", False),
        (OSS["pass_k_values"], [], False),
        (OSS["pass_k_values"], [0], False),
        (OSS["pass_k_values"], [2, 2], False),
        (NOVA["lora_rank"], 64, False),
        (OSS["lora_rank"], 64, True),
        (EVALUATION_HYPERPARAMETERS["eval_group_size"], 128, True),
    ],
)
def test_value_when_checked_then_the_published_range_decides(about, value, is_allowed) -> None:
    assert about.allows(value) is is_allowed


def test_text_when_a_value_travels_then_it_reads_the_same() -> None:
    assert (OSS["learning_rate"].text(4e-5), OSS["pass_k_values"].text([1, 8])) == ("4e-05", "1,8")


@pytest.mark.parametrize(
    "name", ["qwen-3.6-27b", "huggingface-vlm-qwen3-6-27b", MODELS["qwen-3.6-27b"].hub_arn("us-west-2") + "/1.0.2"]
)
def test_model_when_named_in_any_way_then_it_is_found(name: str) -> None:
    assert find_model(name) is MODELS["qwen-3.6-27b"]
    assert find_model("x" + name.partition("/Model/")[2]) is None


def test_steps_when_reckoned_then_they_are_those_of_the_public_runs() -> None:
    assert (steps_per_epoch(600, 32), steps_per_epoch(640, 128), total_steps(640, 128, 20, 100)) == (19, 5, 100)
    assert total_steps(640, 128, 2, 100) == 10


@pytest.mark.parametrize(
    ("model", "region", "known"),
    [
        ("gpt-oss-20b", "us-west-2", True),
        (MODELS["gpt-oss-20b"].hub_arn("us-west-2"), "us-west-2", True),
        ("gpt-oss-20b", "us-east-1", False),
        ("nova-lite-2", "us-west-2", False),
        ("gpt-5", "us-west-2", False),
    ],
)
def test_prices_when_a_source_has_them_then_they_have_a_date(model: str, region: str, known: bool) -> None:
    found = known_prices(model, region)

    assert (found is not None) == known
    if found:
        assert found.source
        assert date.fromisoformat(found.seen)
        # Tokens and bill of a public job of 1,280 rollouts.
        assert found.cost(prefill=4_833_702, sample=778_911, train=5_599_613) == pytest.approx(2.8296, abs=1e-4)

"""Rubrics: what makes one, and that importing them needs no client library."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.rewards.judge_rubrics import PANDALM, Criterion, Deduction, Rubric, single_score

ONE = Criterion("quality", 1.0, "Good.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param({"criteria": ()}, "needs criteria", id="no_criteria"),
        pytest.param({"criteria": (Criterion("a", 0.5, ""), Criterion("a", 0.5, ""))}, "of their own", id="name_twice"),
        pytest.param({"deductions": (Deduction("quality", 0.1, ""),)}, "of their own", id="deduction_as_criterion"),
        pytest.param({"criteria": (Criterion("explanation", 1.0, ""),)}, "other than", id="name_taken"),
        pytest.param({"criteria": (Criterion("judge_failed", 1.0, ""),)}, "other than", id="metric_taken"),
        pytest.param({"criteria": (Criterion("Good answer", 1.0, ""),)}, "identifiers", id="no_identifier"),
        pytest.param({"criteria": (Criterion("a", 0.5, ""),)}, "add up to 1", id="sum"),
        pytest.param({"criteria": (Criterion("a", 2.0, ""), Criterion("b", -1.0, ""))}, "above 0", id="negative"),
        pytest.param({"criteria": (Criterion("a", float("nan"), ""),)}, "weight of a", id="not_a_number"),
        pytest.param({"deductions": (Deduction("d", 0, ""),)}, "above 0", id="no_amount"),
        pytest.param({"deductions": (Deduction("d", float("nan"), ""),)}, "amount of d", id="nan_amount"),
        pytest.param({"deductions": (Deduction("d", float("inf"), ""),)}, "amount of d", id="endless"),
    ],
)
def test_rubric_when_it_cannot_be_reckoned_then_configuration_error(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Rubric("r", "task", **{"criteria": (ONE,), **arguments})


def test_single_score_when_made_then_one_criterion_of_full_weight() -> None:
    rubric = single_score("Judge.", "Good.", name="mine", needs_reference=True)
    assert rubric == Rubric("mine", "Judge.", (ONE,), needs_reference=True)
    assert rubric.reward({"quality": 7})[0] == 0.7


def test_pandalm_when_looked_at_then_published_weights() -> None:
    assert [part.weight for part in PANDALM.criteria] == [0.3, 0.2, 0.3, 0.2]
    assert [part.amount for part in PANDALM.deductions] == [0.4, 0.3, 0.2, 0.1]


def test_judge_when_imported_then_no_client_library_is() -> None:
    names = ("strands", "openai", "pydantic", "httpx", "boto3", "requests")
    code = f"import aws_rft_sdk.rewards.judge, sys; print([name for name in {names!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"

"""Rubrics: what makes one, what counts as a verdict, and that importing them needs no client library."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.rewards.judge_rubrics import (
    PANDALM,
    Criterion,
    Deduction,
    Material,
    Rubric,
    score_question,
    single_score,
)
from aws_rft_sdk.rewards.judge_verdicts import parse_verdict

from .judging import RUBRIC

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
        pytest.param(
            {"criteria": (Criterion("a", 2.0, ""), Criterion("b", -1.0, ""))}, "b is -1.0; .* above 0", id="minus"
        ),
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


# --- verdicts: correct 8, clear 4 and not rude, however a judge writes it ---

SCHEMA = score_question(RUBRIC, [Material("answer", "4")]).schema
GRADES = {"correct": 8, "clear": 4, "rude": False}
VERDICT = {"explanation": "because", **GRADES}
PLAIN = json.dumps(VERDICT)


def but(**other: Any) -> str:
    return json.dumps({**VERDICT, **other})


RIGHT = [
    pytest.param(PLAIN, id="plain"),
    pytest.param(f"```json\n{PLAIN}\n```", id="fence"),
    pytest.param(f"Sure! Here is my verdict:\n\n{PLAIN}\n\nLet me know if {{you}} need more.", id="text_around"),
    pytest.param(f"<think>Rather {but(correct=2)}? No.</think>\n{PLAIN}", id="thought_before"),
    pytest.param(f"Hm, {but(correct=2)}</think>{PLAIN}", id="thought_that_began_in_the_prompt"),
    pytest.param(f"<|channel|>analysis<|message|>Hm<|end|><|channel|>final<|message|>{PLAIN}", id="harmony"),
    pytest.param(but(explanation="It says <think> and </think>."), id="explanation_quotes_a_thought"),
    pytest.param(but(total=7.5, comment="none", correct_answer=None), id="more_keys"),
    pytest.param(json.dumps(GRADES), id="no_explanation"),
    pytest.param(but(explanation=None), id="explanation_null"),
    pytest.param(but(explanation=["It is right.", "But not clear."]), id="explanation_list"),
    pytest.param(but(explanation={"correct": "It is.", "clear": "It is not."}), id="explanation_object"),
    pytest.param(but(correct="8"), id="grade_text"),
    pytest.param(but(correct=" 8/10", clear="4 / 10."), id="grade_fraction"),
    pytest.param(but(correct="8 out of 10", clear="4.0"), id="grade_words"),
    pytest.param(but(correct=8.0), id="grade_float"),
    pytest.param(but(correct={"score": 8, "reason": "It is right."}, clear={"grade": "4"}), id="grade_object"),
    pytest.param(but(rude="False"), id="fault_text"),
    pytest.param(but(rude="no"), id="fault_word"),
    pytest.param(but(rude=0), id="fault_number"),
    pytest.param(json.dumps({"Explanation": "", "Correct": 8, "CLEAR": 4, "rude ": False}), id="keys_in_capitals"),
    pytest.param(json.dumps({"verdict": VERDICT}), id="wrapped"),
    pytest.param(json.dumps({"grades": {"correct": 8, "clear": 4}, "faults": {"rude": False}}), id="grouped"),
    pytest.param(f"[{PLAIN}]", id="list"),
    pytest.param("\n".join(json.dumps({key: value}) for key, value in VERDICT.items()), id="object_a_line"),
    pytest.param(f"{PLAIN}\n{PLAIN}", id="same_twice"),
    pytest.param(f"{PLAIN}\nAgain: {json.dumps(GRADES)}", id="same_twice_explained_once"),
    pytest.param(f"{{}} {PLAIN}", id="empty_object_before"),
    pytest.param(f"{{{PLAIN}}}", id="braces_doubled"),
    pytest.param(PLAIN.replace("}", ",}"), id="last_comma"),
    pytest.param(str(VERDICT), id="python"),
    pytest.param(PLAIN.replace('"', "'"), id="single_quotes"),
    pytest.param(str({**VERDICT, "explanation": 'It\'s "right", {so}'}), id="python_with_both_quotes"),
    pytest.param(but(explanation="\n").replace("\\n", "\n"), id="line_break_in_a_string"),
]


@pytest.mark.parametrize("text", RIGHT)
def test_parse_verdict_when_a_judge_writes_loosely_then_the_verdict(text: str) -> None:
    verdict = parse_verdict(text, SCHEMA)
    assert list(verdict) == ["explanation", *GRADES]
    assert {key: verdict[key] for key in GRADES} == GRADES
    assert isinstance(verdict["explanation"], str)
    assert [type(verdict[key]) for key in GRADES] == [int, int, bool]


WRONG = [
    pytest.param("", "no JSON object", id="empty"),
    pytest.param("Correct: 8/10, clear: 4/10, not rude", "no JSON object", id="prose"),
    pytest.param("8", "correct, clear, rude missing", id="number"),
    # The published reward function took the first number that it found.
    pytest.param('{"score": 0.85}', "correct, clear, rude missing", id="one_number_for_all"),
    pytest.param("+0.3 for the verdict, so the score is 0.9", "no JSON object", id="numbers_in_prose"),
    pytest.param("{}", "correct, clear, rude missing", id="empty_object"),
    pytest.param(PLAIN[:-1], "broken: Expecting", id="cut_off"),
    pytest.param('{"explanation": {"correct": 8}, "correct": ', "broken", id="cut_off_after_an_object"),
    pytest.param(f"<think>{PLAIN}", "thought", id="within_a_thought"),
    pytest.param('{"explanation": "because", "correct": 8, "rude": false}', "clear missing", id="grade_missing"),
    pytest.param('{"correct": 8, "clear": 4}', "rude missing", id="fault_missing"),
    pytest.param(but(correct=11), "from 0 to 10, not 11", id="above"),
    pytest.param(but(correct=-1), "not -1", id="below"),
    pytest.param(but(correct="-8"), "not '-8'", id="below_as_text"),
    pytest.param(but(correct="80%"), "not '80%'", id="percent"),
    pytest.param(but(correct="8/100"), "not '8/100'", id="other_scale"),
    pytest.param(but(correct="4/5"), "not '4/5'", id="scale_of_five"),
    pytest.param(but(correct="7-8"), "not '7-8'", id="range"),
    pytest.param(but(correct="good"), "not 'good'", id="word"),
    pytest.param(but(correct=7.5), "not 7.5", id="no_whole_number"),
    pytest.param(but(correct=True), "not True", id="bool_for_grade"),
    pytest.param(but(correct=None), "not None", id="null"),
    pytest.param(but(correct=float("nan")), "not nan", id="nan"),
    pytest.param(but(correct=[8, 9]), "two different values of correct, 8 and 9", id="list_of_grades"),
    pytest.param(but(rude=0.5), "rude must be true or false", id="amount_for_fault"),
    pytest.param(but(rude=None), "rude must be true or false", id="fault_null"),
    pytest.param(PLAIN.replace("}", ', "correct": 2}'), "8 and 2", id="key_twice"),
    pytest.param(f"{PLAIN}\n\n{but(correct=2)}", "8 and 2", id="two_verdicts"),
    pytest.param(f"{but(correct=2)} No, wait:\n```json\n{PLAIN}\n```", "2 and 8", id="draft_and_verdict"),
    pytest.param(f'{PLAIN} Correction: {{"correct": 2}}', "8 and 2", id="correction"),
    pytest.param(f"{PLAIN} {str(VERDICT).replace('8', '2')}", "8 and 2", id="two_notations"),
    pytest.param("[" * 100_000, "no JSON object", id="deep_list"),
    pytest.param('{"correct": ' * 200, "broken", id="open_objects"),
    pytest.param("{ '" * 50_000, "broken", id="many_openings"),
]


@pytest.mark.parametrize(("text", "problem"), WRONG)
def test_parse_verdict_when_there_is_none_or_two_then_it_says_what_is_wrong(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_verdict(text, SCHEMA)

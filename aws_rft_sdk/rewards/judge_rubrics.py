"""What a judge is asked to grade, and how grades become a reward. Pure: no model is called here.

The judge grades; the arithmetic is ours. It gives a whole number for each criterion and says yes or no for each
deduction, in an object of a fixed schema, and weights, sum and limits are applied to what it gave.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from aws_rft_sdk._checks import check_number
from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.rewards.rollout import Component

TOP_GRADE = 10
"""Grades are whole numbers from 0 to this, which is more than a model tells apart reliably."""
EXPLANATION = "explanation"
"""Key of the judge's own words. It comes first, so that a model thinks before it grades."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_WEIGHT_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Criterion:
    """Something that is graded from 0 to 10."""

    name: str
    """Lower case, as an identifier: the key in the verdict and the name of the component."""
    weight: float
    """What a full grade adds to the reward."""
    description: str
    """What deserves a high grade and what a low one, addressed to the judge."""


@dataclass(frozen=True)
class Deduction:
    """A fault that is there or not, and what it costs."""

    name: str
    amount: float
    """What is taken off the reward, above 0."""
    description: str
    """When the fault is there, addressed to the judge."""


@dataclass(frozen=True)
class Rubric:
    """What a judge goes by.

    The reward is the sum of `weight * grade / 10` less the deductions, clipped to 0 to 1.

    Raises:
        ConfigurationError: Names are no identifiers or not unique, there is no criterion, the weights are not positive
            or do not add up to 1, or a deduction is not positive.
    """

    name: str
    """For people and for the cache; the judge does not see it."""
    task: str
    """What is judged, and from which point of view, addressed to the judge."""
    criteria: tuple[Criterion, ...]
    deductions: tuple[Deduction, ...] = ()
    needs_reference: bool = False
    """Whether an answer without a ground truth cannot be judged. If there is one, the judge always sees it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "criteria", tuple(self.criteria))
        object.__setattr__(self, "deductions", tuple(self.deductions))
        names = [criterion.name for criterion in self.criteria] + [deduction.name for deduction in self.deductions]
        if not self.criteria or len({*names, EXPLANATION, FAILED}) != len(names) + 2:
            raise ConfigurationError(
                f"rubric {self.name!r} needs criteria with names of their own, other than {EXPLANATION!r} and "
                f"{FAILED!r}, not {names}"
            )
        if bad := [name for name in names if not _NAME.fullmatch(name)]:
            raise ConfigurationError(f"rubric {self.name!r}: names are lower-case identifiers, not {bad}")
        for criterion in self.criteria:
            check_number(f"rubric {self.name!r}: the weight of {criterion.name}", criterion.weight)
        for deduction in self.deductions:
            check_number(f"rubric {self.name!r}: the amount of {deduction.name}", deduction.amount)
        weights = [criterion.weight for criterion in self.criteria]
        if not all(weight > 0 for weight in weights) or not abs(sum(weights) - 1) <= _WEIGHT_TOLERANCE:
            raise ConfigurationError(f"rubric {self.name!r}: weights must be above 0 and add up to 1, not {weights}")
        if any(not deduction.amount > 0 for deduction in self.deductions):
            raise ConfigurationError(f"rubric {self.name!r}: the amount of a deduction must be above 0")

    def text(self) -> str:
        """Return task, criteria and deductions as the judge reads them."""
        lines = [self.task.strip(), "", f"Criteria, each graded with a whole number from 0 (worst) to {TOP_GRADE}:"]
        lines += [f"- {criterion.name}: {criterion.description}" for criterion in self.criteria]
        if self.deductions:
            lines += ["", "Faults, each true or false:"]
            lines += [f"- {deduction.name}: {deduction.description}" for deduction in self.deductions]
        return "\n".join(lines)

    def preference_text(self) -> str:
        """Return what makes one answer better than another, as the judge reads it."""
        lines = [self.task.strip(), "", "What counts, the most important first:"]
        ordered = sorted(self.criteria, key=lambda criterion: -criterion.weight)
        lines += [f"- {criterion.name}: {criterion.description}" for criterion in ordered]
        lines += [f"- against an answer: {deduction.description}" for deduction in self.deductions]
        return "\n".join(lines)

    def reward(self, verdict: Mapping[str, JSON]) -> tuple[float, tuple[Component, ...]]:
        """Return the reward of a verdict of `score_schema`, and what each criterion and deduction added to it."""
        parts = [Component(part.name, part.weight * verdict[part.name] / TOP_GRADE) for part in self.criteria]
        parts += [Component(part.name, -part.amount if verdict[part.name] else 0.0) for part in self.deductions]
        total = round(sum(part.value for part in parts), 12)  # 0.3 + 0.2 + 0.3 + 0.2 is to be 1
        return min(max(total, 0.0), 1.0), tuple(parts)


FAILED = "judge_failed"
"""Name of the metric that says whether the judge failed."""


def single_score(task: str, criterion: str, *, name: str = "single_score", needs_reference: bool = False) -> Rubric:
    """Return a rubric with one grade for the answer as a whole.

    Args:
        task: What is judged, addressed to the judge.
        criterion: What deserves a high grade and what a low one.
        name: See `Rubric`.
        needs_reference: See `Rubric`.
    """
    return Rubric(name, task, (Criterion("quality", 1.0, criterion),), needs_reference=needs_reference)


PANDALM = Rubric(
    "pandalm",
    "The answer is itself an evaluation. Its author was given an instruction and two responses to it, and had to say "
    'which response is better ("1", "2" or "Tie"), why, and how a response should read that is better than both. '
    "Grade this evaluation. If a reference is given, it is a right evaluation of the same two responses.",
    (
        Criterion("verdict", 0.3, "It picks the right response, or rightly calls a tie. 10 if so, 0 if not."),
        Criterion("reasoning", 0.2, "Its reasons are true of the two responses and support what it picks."),
        Criterion("coverage", 0.3, "Its own response does all that the instruction asks for, without errors."),
        Criterion("structure", 0.2, "Verdict, reasons and own response are all there and easily told apart."),
    ),
    (
        Deduction("wrong_verdict", 0.4, "It picks the wrong response, or a tie where there is none."),
        Deduction("weak_reasoning", 0.3, "It gives no reasons, or false ones, or some that fit any pair of responses."),
        Deduction("incomplete", 0.2, "A part is missing: the verdict, the reasons or the response of its own."),
        Deduction("disordered", 0.1, "It is so disordered that its parts cannot be told apart."),
    ),
)
"""Grades evaluations of pairs of responses, with the weights and deductions of the published reward function."""

FIRST, SECOND, TIE = "first", "second", "tie"


def score_schema(rubric: Rubric) -> dict[str, JSON]:
    """Return the JSON schema of a verdict on one answer."""
    grades = {part.name: _grade(part.description) for part in rubric.criteria}
    faults = {part.name: {"type": "boolean", "description": part.description} for part in rubric.deductions}
    return _object({**grades, **faults})


def compare_schema() -> dict[str, JSON]:
    """Return the JSON schema of a verdict on two answers."""
    return _object({"verdict": {"type": "string", "enum": [FIRST, SECOND, TIE]}})


def rank_schema(count: int) -> dict[str, JSON]:
    """Return the JSON schema of a verdict on a group: a grade for each answer, in keys `answer_1`, `answer_2`, ..."""
    return _object({f"answer_{n}": _grade(f"Grade of answer {n}, relative to the others") for n in range(1, count + 1)})


def _grade(description: str) -> dict[str, JSON]:
    return {"type": "integer", "enum": list(range(TOP_GRADE + 1)), "description": description}


def _object(properties: Mapping[str, JSON]) -> dict[str, JSON]:
    # Nothing but what every provider's structured output understands: a flat object, all keys required.
    explanation = {"type": "string", "description": "A few sentences that lead to the verdict"}
    keys = {EXPLANATION: explanation, **properties}
    return {"type": "object", "properties": keys, "required": list(keys), "additionalProperties": False}


def parse_verdict(text: str, schema: Mapping[str, Any]) -> dict[str, JSON]:
    """Read a verdict.

    Args:
        text: What the judge gave: one JSON object and nothing else.
        schema: One of this module's.

    Returns:
        The object, which has the keys of the schema and values that the schema allows. Grades are ints.

    Raises:
        ValueError: It is something else. Nothing is searched for, repaired, clipped or guessed.
    """
    verdict = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)
    if not isinstance(verdict, dict):
        raise ValueError(f"a verdict is an object, not {type(verdict).__name__}")
    wanted = schema["properties"]
    if verdict.keys() != wanted.keys():
        raise ValueError(f"keys are {sorted(verdict)}, expected {sorted(wanted)}")
    return {name: _read(name, verdict[name], wanted[name]) for name in wanted}


def _read(name: str, value: JSON, wanted: Mapping[str, Any]) -> JSON:
    kind = wanted["type"]
    if kind == "integer" and isinstance(value, float) and value.is_integer():
        value = int(value)  # to JSON, 7.0 is a whole number
    python_type = {"integer": int, "string": str, "boolean": bool}[kind]
    if type(value) is not python_type:  # a bool is an int to isinstance
        raise ValueError(f"{name} must be of type {kind}, not {value!r:.80}")
    if "enum" in wanted and value not in wanted["enum"]:
        raise ValueError(f"{name} must be one of {wanted['enum']}, not {value!r:.80}")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _unique_keys(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    # Two verdicts under one key are no verdict.
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)

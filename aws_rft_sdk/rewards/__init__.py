"""Scores of finished rollouts: pure, deterministic, picklable. None means "cannot be judged" and is never 0.

The names are resolved when they are first used, so that importing the package costs next to nothing and a Lambda
function carries no more than it needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aws_rft_sdk.rewards.cases import Case, Expected, parse_case, read_cases
    from aws_rft_sdk.rewards.code import CodeTests
    from aws_rft_sdk.rewards.combine import Clip, DominantOutcome, Gate, WeightedSum
    from aws_rft_sdk.rewards.formats import FinalAnswerLine, Format, PublishedFinalAnswer, Tags
    from aws_rft_sdk.rewards.judge import Judge
    from aws_rft_sdk.rewards.judge_cache import VerdictCache
    from aws_rft_sdk.rewards.judge_results import Comparison, JudgeCost, JudgeResult
    from aws_rft_sdk.rewards.judge_rubrics import PANDALM, Criterion, Deduction, Rubric, single_score
    from aws_rft_sdk.rewards.lambdas import RewardLambda, check_reply, reward_lambda
    from aws_rft_sdk.rewards.numeric import ExactNumber, FinQA, finqa, gsm8k
    from aws_rft_sdk.rewards.penalties import Length, Repetition
    from aws_rft_sdk.rewards.rollout import Component, Reward, RewardResult, Rollout, TextReward, evaluate
    from aws_rft_sdk.rewards.runners import (
        CodeInterpreterRunner,
        ContainerRunner,
        Execution,
        Limits,
        Runner,
        SubprocessRunner,
    )
    from aws_rft_sdk.rewards.structured import JsonSchema
    from aws_rft_sdk.rewards.symbolic import MathVerify
    from aws_rft_sdk.rewards.text import ExactMatch, KeywordCoverage, MultipleChoice
    from aws_rft_sdk.rewards.tools import ToolCall, ToolUse, tool_calls
    from aws_rft_sdk.rewards.turns import Discounted, TurnCredit, discount_back, prefixes, returns_to_go
    from aws_rft_sdk.rewards.workbench import AdversaryScore, BenchReport, CaseScore, ComponentSignal, bench

_HOMES = {
    "PANDALM": "judge_rubrics",
    "AdversaryScore": "workbench",
    "BenchReport": "workbench",
    "Case": "cases",
    "CaseScore": "workbench",
    "Clip": "combine",
    "CodeInterpreterRunner": "runners",
    "CodeTests": "code",
    "Comparison": "judge_results",
    "Component": "rollout",
    "ComponentSignal": "workbench",
    "ContainerRunner": "runners",
    "Criterion": "judge_rubrics",
    "Deduction": "judge_rubrics",
    "Discounted": "turns",
    "DominantOutcome": "combine",
    "ExactMatch": "text",
    "ExactNumber": "numeric",
    "Execution": "runners",
    "Expected": "cases",
    "FinQA": "numeric",
    "FinalAnswerLine": "formats",
    "Format": "formats",
    "Gate": "combine",
    "JsonSchema": "structured",
    "Judge": "judge",
    "JudgeCost": "judge_results",
    "JudgeResult": "judge_results",
    "KeywordCoverage": "text",
    "Length": "penalties",
    "Limits": "runners",
    "MathVerify": "symbolic",
    "MultipleChoice": "text",
    "PublishedFinalAnswer": "formats",
    "Repetition": "penalties",
    "Reward": "rollout",
    "RewardLambda": "lambdas",
    "RewardResult": "rollout",
    "Rollout": "rollout",
    "Rubric": "judge_rubrics",
    "Runner": "runners",
    "SubprocessRunner": "runners",
    "Tags": "formats",
    "TextReward": "rollout",
    "ToolCall": "tools",
    "ToolUse": "tools",
    "TurnCredit": "turns",
    "VerdictCache": "judge_cache",
    "WeightedSum": "combine",
    "bench": "workbench",
    "check_reply": "lambdas",
    "discount_back": "turns",
    "evaluate": "rollout",
    "finqa": "numeric",
    "gsm8k": "numeric",
    "parse_case": "cases",
    "prefixes": "turns",
    "read_cases": "cases",
    "returns_to_go": "turns",
    "reward_lambda": "lambdas",
    "single_score": "judge_rubrics",
    "tool_calls": "tools",
}

__all__ = [
    "PANDALM",
    "AdversaryScore",
    "BenchReport",
    "Case",
    "CaseScore",
    "Clip",
    "CodeInterpreterRunner",
    "CodeTests",
    "Comparison",
    "Component",
    "ComponentSignal",
    "ContainerRunner",
    "Criterion",
    "Deduction",
    "Discounted",
    "DominantOutcome",
    "ExactMatch",
    "ExactNumber",
    "Execution",
    "Expected",
    "FinQA",
    "FinalAnswerLine",
    "Format",
    "Gate",
    "JsonSchema",
    "Judge",
    "JudgeCost",
    "JudgeResult",
    "KeywordCoverage",
    "Length",
    "Limits",
    "MathVerify",
    "MultipleChoice",
    "PublishedFinalAnswer",
    "Repetition",
    "Reward",
    "RewardLambda",
    "RewardResult",
    "Rollout",
    "Rubric",
    "Runner",
    "SubprocessRunner",
    "Tags",
    "TextReward",
    "ToolCall",
    "ToolUse",
    "TurnCredit",
    "VerdictCache",
    "WeightedSum",
    "bench",
    "check_reply",
    "discount_back",
    "evaluate",
    "finqa",
    "gsm8k",
    "parse_case",
    "prefixes",
    "read_cases",
    "returns_to_go",
    "reward_lambda",
    "single_score",
    "tool_calls",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

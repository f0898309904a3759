"""Scores of finished rollouts: pure, deterministic, picklable. None means "cannot be judged" and is never 0.

The names are resolved when they are first used, so that importing the package costs next to nothing and a Lambda
function carries no more than it needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

_NAMES = {
    "cases": "Case Expected parse_case read_cases",
    "choice": "Choice MultipleChoice",
    "code": "CodeTests",
    "combine": "Clip DominantOutcome Gate WeightedSum",
    "extract": "AfterMarker Boxed CodeFence Extract JsonPath LastNumber strip_thoughts Tag ToolArgument",
    "formats": "FinalAnswerLine Format PublishedFinalAnswer Tags",
    "integrations": "as_inspect as_trl as_verifiers",
    "judge": "Comparison Judge JudgeResult RankingJudge",
    "judge_models": "JudgeCost",
    "judge_rubrics": "Criterion Deduction PANDALM Rubric single_score",
    "judge_verdicts": "VerdictCache",
    "lambdas": "check_reply reward_lambda RewardLambda",
    "numeric": "ExactNumber FinQA finqa gsm8k",
    "outcomes": "FinalState ToolArguments",
    "penalties": "Length Repetition",
    "rollout": "Component evaluate evaluate_group GroupReward Reward RewardResult Rollout TextReward",
    "runners": "CodeInterpreterRunner ContainerRunner Execution Limits Runner SubprocessRunner",
    "structured": "JsonSchema Schema",
    "symbolic": "Math MathVerify",
    "text": "ExactMatch F1 KeywordCoverage Text",
    "tools": "tool_calls ToolCall ToolUse",
    "turns": "discount_back Discounted prefixes returns_to_go TurnCredit",
    "workbench": "AdversaryScore bench BenchReport CaseScore ComponentSignal",
}
"""The public names, by their modules."""
_HOMES = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if TYPE_CHECKING:  # `X as X` is how type checkers know a name as public
    # isort: off
    from aws_rft_sdk.rewards.cases import Case as Case, Expected as Expected, parse_case as parse_case
    from aws_rft_sdk.rewards.cases import read_cases as read_cases
    from aws_rft_sdk.rewards.choice import Choice as Choice, MultipleChoice as MultipleChoice
    from aws_rft_sdk.rewards.code import CodeTests as CodeTests
    from aws_rft_sdk.rewards.combine import Clip as Clip, DominantOutcome as DominantOutcome, Gate as Gate
    from aws_rft_sdk.rewards.combine import WeightedSum as WeightedSum
    from aws_rft_sdk.rewards.extract import AfterMarker as AfterMarker, Boxed as Boxed, CodeFence as CodeFence
    from aws_rft_sdk.rewards.extract import Extract as Extract, JsonPath as JsonPath, LastNumber as LastNumber
    from aws_rft_sdk.rewards.extract import strip_thoughts as strip_thoughts, Tag as Tag, ToolArgument as ToolArgument
    from aws_rft_sdk.rewards.formats import FinalAnswerLine as FinalAnswerLine, Format as Format
    from aws_rft_sdk.rewards.formats import PublishedFinalAnswer as PublishedFinalAnswer, Tags as Tags
    from aws_rft_sdk.rewards.integrations import as_inspect as as_inspect, as_trl as as_trl
    from aws_rft_sdk.rewards.integrations import as_verifiers as as_verifiers
    from aws_rft_sdk.rewards.judge import Comparison as Comparison, Judge as Judge, JudgeResult as JudgeResult
    from aws_rft_sdk.rewards.judge import RankingJudge as RankingJudge
    from aws_rft_sdk.rewards.judge_models import JudgeCost as JudgeCost
    from aws_rft_sdk.rewards.judge_rubrics import Criterion as Criterion, Deduction as Deduction, PANDALM as PANDALM
    from aws_rft_sdk.rewards.judge_rubrics import Rubric as Rubric, single_score as single_score
    from aws_rft_sdk.rewards.judge_verdicts import VerdictCache as VerdictCache
    from aws_rft_sdk.rewards.lambdas import check_reply as check_reply, reward_lambda as reward_lambda
    from aws_rft_sdk.rewards.lambdas import RewardLambda as RewardLambda
    from aws_rft_sdk.rewards.numeric import ExactNumber as ExactNumber, FinQA as FinQA, finqa as finqa, gsm8k as gsm8k
    from aws_rft_sdk.rewards.outcomes import FinalState as FinalState, ToolArguments as ToolArguments
    from aws_rft_sdk.rewards.penalties import Length as Length, Repetition as Repetition
    from aws_rft_sdk.rewards.rollout import Component as Component, evaluate as evaluate
    from aws_rft_sdk.rewards.rollout import evaluate_group as evaluate_group, GroupReward as GroupReward
    from aws_rft_sdk.rewards.rollout import Reward as Reward, RewardResult as RewardResult, Rollout as Rollout
    from aws_rft_sdk.rewards.rollout import TextReward as TextReward
    from aws_rft_sdk.rewards.runners import CodeInterpreterRunner as CodeInterpreterRunner
    from aws_rft_sdk.rewards.runners import ContainerRunner as ContainerRunner, Execution as Execution, Limits as Limits
    from aws_rft_sdk.rewards.runners import Runner as Runner, SubprocessRunner as SubprocessRunner
    from aws_rft_sdk.rewards.structured import JsonSchema as JsonSchema, Schema as Schema
    from aws_rft_sdk.rewards.symbolic import Math as Math, MathVerify as MathVerify
    from aws_rft_sdk.rewards.text import ExactMatch as ExactMatch, F1 as F1, KeywordCoverage as KeywordCoverage
    from aws_rft_sdk.rewards.text import Text as Text
    from aws_rft_sdk.rewards.tools import tool_calls as tool_calls, ToolCall as ToolCall, ToolUse as ToolUse
    from aws_rft_sdk.rewards.turns import discount_back as discount_back, Discounted as Discounted, prefixes as prefixes
    from aws_rft_sdk.rewards.turns import returns_to_go as returns_to_go, TurnCredit as TurnCredit
    from aws_rft_sdk.rewards.workbench import AdversaryScore as AdversaryScore, bench as bench
    from aws_rft_sdk.rewards.workbench import BenchReport as BenchReport, CaseScore as CaseScore
    from aws_rft_sdk.rewards.workbench import ComponentSignal as ComponentSignal

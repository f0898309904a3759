"""How good a set of rollouts is, in the service's names and definitions, and whether another set is better."""

from aws_rft_sdk.runs.metrics.comparison import Difference, RunComparison, compare, prompts_needed
from aws_rft_sdk.runs.metrics.figures import HandlerMetric, Metrics, PassK
from aws_rft_sdk.runs.metrics.hints import Hint, hints, mixture_of, named_failures
from aws_rft_sdk.runs.metrics.intervals import Estimate
from aws_rft_sdk.runs.metrics.measuring import SUCCESS_THRESHOLD, measure
from aws_rft_sdk.runs.metrics.passk import pass_at_k, pass_power_k
from aws_rft_sdk.runs.metrics.plots import draw

__all__ = [
    "SUCCESS_THRESHOLD",
    "Difference",
    "Estimate",
    "HandlerMetric",
    "Hint",
    "Metrics",
    "PassK",
    "RunComparison",
    "compare",
    "draw",
    "hints",
    "measure",
    "mixture_of",
    "named_failures",
    "pass_at_k",
    "pass_power_k",
    "prompts_needed",
]

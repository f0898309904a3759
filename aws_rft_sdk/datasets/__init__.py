"""What a job is fed with: prompt files in every format, checked before they are paid for."""

from aws_rft_sdk.datasets.checking import check
from aws_rft_sdk.datasets.files import read_rows, write_rows
from aws_rft_sdk.datasets.packing import Packed, pack, read_prompts, unpack
from aws_rft_sdk.datasets.picking import dedupe, sample, split
from aws_rft_sdk.datasets.preparing import few_shot_prompt, final_answer, prepare, prepare_gsm8k
from aws_rft_sdk.datasets.report import Problem, Report
from aws_rft_sdk.datasets.rules import RULES, Rule, Severity, Target
from aws_rft_sdk.datasets.shapes import Shape, convert
from aws_rft_sdk.datasets.summary import Lengths, Stats, stats

__all__ = [
    "RULES",
    "Lengths",
    "Packed",
    "Problem",
    "Report",
    "Rule",
    "Severity",
    "Shape",
    "Stats",
    "Target",
    "check",
    "convert",
    "dedupe",
    "few_shot_prompt",
    "final_answer",
    "pack",
    "prepare",
    "prepare_gsm8k",
    "read_prompts",
    "read_rows",
    "sample",
    "split",
    "stats",
    "unpack",
    "write_rows",
]

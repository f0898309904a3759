"""The options of a run: their defaults, which ones exclude each other, and what the run's folder remembers of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from aws_rft_sdk._checks import check_number, check_seconds, check_type
from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.lifecycle.calling import DEADLINE_SECONDS
from aws_rft_sdk.rollout.engines import Engine
from aws_rft_sdk.rollout.engines.choosing import ENGINES
from aws_rft_sdk.rollout.policies import policy_name
from aws_rft_sdk.rollout.schedule import BREAKER, DEFAULT_RETRIES, DEFAULT_RETRY_BUDGET, parse_retries, parse_share
from aws_rft_sdk.runs.manifest import Manifest
from aws_rft_sdk.runs.metrics import SUCCESS_THRESHOLD
from aws_rft_sdk.runtime import Policy, RolloutLimits
from aws_rft_sdk.runtime.policies import PolicyFunction
from aws_rft_sdk.settings import check_key
from aws_rft_sdk.types import RolloutMetadata


class RunOptions(TypedDict, total=False):
    """Options of `run` and of `aws-rft rollout`. The docstring of `run` says what each one means."""

    engine: str | Engine
    policy: Policy | PolicyFunction | str | None
    endpoint: str | None
    key: str | None
    job_arn: str | None
    qualifier: str | None
    group_size: int
    limit: int | None
    concurrency: int | None
    starts_per_second: float | None
    workers: int | None
    address: str | None
    requirements: str | Path | None
    show_output: bool
    deadline_seconds: float | None
    max_turns: int | None
    max_total_tokens: int | None
    max_cost: float | None
    price_per_million: Sequence[float] | None
    retries: int | str | Mapping[str, int]
    retry_budget: int | str
    breaker: int | None
    fail_over: int | str
    temperature: float
    top_p: float
    max_tokens: int
    success_threshold: float


DEFAULTS: RunOptions = {
    "engine": "auto",
    "policy": None,
    "endpoint": None,
    "key": None,
    "job_arn": None,
    "qualifier": None,
    "group_size": 1,
    "limit": None,
    "concurrency": None,
    "starts_per_second": None,
    "workers": None,
    "address": None,
    "requirements": None,
    "show_output": False,
    "deadline_seconds": DEADLINE_SECONDS,
    "max_turns": None,
    "max_total_tokens": None,
    "max_cost": None,
    "price_per_million": None,
    "retries": DEFAULT_RETRIES,
    "retry_budget": DEFAULT_RETRY_BUDGET,
    "breaker": BREAKER,
    "fail_over": 0,
    "temperature": 1.0,
    "top_p": 1.0,
    "max_tokens": 4096,
    "success_threshold": SUCCESS_THRESHOLD,
}
_LIMITS = ("max_turns", "max_total_tokens", "max_cost", "price_per_million")
_DECIDING = (
    *("group_size", "limit", "policy", "endpoint", "job_arn", "qualifier"),
    *("deadline_seconds", *_LIMITS, "temperature", "top_p", "max_tokens"),
)
"""Options that decide over results. A resumed run keeps them, unless the user accepts the change."""
OF_ENGINE = ("concurrency", "starts_per_second", "workers", "address", "requirements", "show_output", "qualifier")
"""Options that fit one engine. A run that is resumed on another engine does not take them over."""
_NOT_KEPT = ("success_threshold", "key")
_AT_LEAST_1 = ("group_size", "limit", "concurrency", "workers", "breaker")
_ABOVE_0 = ("starts_per_second", "deadline_seconds")
_TEXTS = ("endpoint", "job_arn", "qualifier", "address")


def complete_options(given: RunOptions, then: Manifest | None) -> RunOptions:
    """Return all options: those that are given, else those of the run that is resumed, else the defaults.

    Args:
        given: What the caller said.
        then: What the run was made of that is resumed. None for a new run.

    Raises:
        TypeError: An option has an unknown name.
        ConfigurationError: A value is out of its range, or two options exclude each other.
        PayloadError: The job ARN has not the form of one.
    """
    if unknown := sorted(given.keys() - DEFAULTS.keys()):
        raise TypeError(f"run() has no option {', '.join(unknown)}. It has {', '.join(DEFAULTS)}")
    kept: dict[str, Any] = {}
    if then is not None:
        known = {name.replace("-", "_"): value for name, value in {**then.execution, **then.settings}.items()}
        kept = {name: value for name, value in known.items() if name in DEFAULTS}
        kept["success_threshold"] = then.success_threshold
        if "engine" in given and given["engine"] != kept.get("engine"):
            kept = {name: value for name, value in kept.items() if name not in OF_ENGINE}
        # A policy replaces the endpoint of the resumed run. An endpoint replaces its policy and its limits.
        for name, others in (("policy", ("endpoint",)), ("endpoint", ("policy", *_LIMITS))):
            for other in others if given.get(name) else ():
                kept.pop(other, None)
    options: RunOptions = {**DEFAULTS, **kept, **given}  # type: ignore[typeddict-item] # names were checked
    _check(options)
    return options


def _check(options: RunOptions) -> None:
    values: Mapping[str, Any] = options
    for name in _AT_LEAST_1:
        if values[name] is not None or name == "group_size":
            check_number(option_name(name), values[name], low=1, whole=True)
    for name in _ABOVE_0:
        if values[name] is not None:
            check_seconds(option_name(name), values[name])
    for name in _TEXTS:
        if values[name] is not None:
            check_type(option_name(name), values[name], str, "a string")
            if not values[name]:
                raise ConfigurationError(f"{option_name(name)} is empty. Give a value, or leave it out")
    if options["policy"] and options["endpoint"]:
        raise ConfigurationError(
            "--policy is for a runtime that the run starts. With --endpoint, that runtime has its own policy"
        )
    if limits_of(options) is not None and options["endpoint"]:
        raise ConfigurationError(
            "--max-turns, --max-total-tokens and --max-cost are for a runtime that the run starts. Give them to the "
            "runtime at --endpoint: aws-rft runtime --max-turns N"
        )
    if options["key"] is not None:
        if not isinstance(values["key"], str):
            raise ConfigurationError("key is no string")  # it is secret whatever it is
        check_key(options["key"], "key")
        if not options["endpoint"]:
            raise ConfigurationError("--key is the key of the runtime at --endpoint. Give both, or none")
    if options["job_arn"] is not None:
        RolloutMetadata(job_arn=options["job_arn"], trajectory_id="of-no-rollout")
    if isinstance(options["engine"], Engine):
        for name in ("workers", "address", "requirements", "show_output", "qualifier"):
            if values[name]:
                raise ConfigurationError(f"{option_name(name)} is for an engine that is named. Give it to the object")
    elif options["engine"] not in ENGINES:
        known = ", ".join(ENGINES)
        raise ConfigurationError(f"engine is {options['engine']!r}. Give one of {known}, or in Python an Engine")
    parse_retries(options["retries"])
    check_number("success-threshold", options["success_threshold"])
    parse_share("fail-over", options["fail_over"], 0)


def limits_of(options: RunOptions) -> RolloutLimits | None:
    """Return the limits of each rollout, or None if there are none.

    Raises:
        ConfigurationError: One of them is out of its range.
    """
    values: Mapping[str, Any] = options
    given = {name: values[name] for name in _LIMITS}
    return RolloutLimits(**given) if any(value is not None for value in given.values()) else None


def settings_of(options: RunOptions) -> dict[str, JSON]:
    """Return the options that decide over results, by their names on the command line."""
    return {option_name(name): _plain(options, name) for name in _DECIDING}


def execution_of(options: RunOptions) -> dict[str, JSON]:
    """Return the options that say how a run is carried out, by their names on the command line."""
    return {option_name(name): _plain(options, name) for name in DEFAULTS if name not in (*_DECIDING, *_NOT_KEPT)}


def option_name(name: str) -> str:
    """Return the name of an option on the command line, without the dashes in front."""
    return name.replace("_", "-")


def _plain(options: RunOptions, name: str) -> JSON:
    value = options[name]  # type: ignore[literal-required] # one of DEFAULTS
    if name == "policy":
        return policy_name(value)
    if isinstance(value, Engine):
        return type(value).__name__
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else dict(value) if isinstance(value, Mapping) else value

from __future__ import annotations

import importlib.metadata
import importlib.util
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import aws_rft_sdk

ROOT = Path(__file__).parents[1]
NAMES = [
    "AsyncRolloutFeedbackClient",
    "LocalRuntime",
    "Outbox",
    "RFTContext",
    "RFTPlugin",
    "RolloutFeedbackClient",
    "RolloutRequest",
    "RolloutResult",
    "instrument",
    "rft_handler",
    "runtime_model",
    "wrap_model",
]


def test_all_when_read_then_these_names_and_no_others() -> None:
    assert sorted(aws_rft_sdk.__all__) == NAMES
    assert set(NAMES) <= set(dir(aws_rft_sdk))


@pytest.mark.parametrize("name", NAMES)
def test_public_name_when_used_then_it_is_what_it_says_and_documented(name: str) -> None:
    value = getattr(aws_rft_sdk, name)
    assert value.__name__ == name
    assert inspect.getdoc(value)
    assert getattr(aws_rft_sdk, name) is value


def test_unknown_name_when_used_then_attribute_error() -> None:
    with pytest.raises(AttributeError, match="RftHandler"):
        getattr(aws_rft_sdk, "Rft" + "Handler")


def parameters(value: Any) -> list[str]:
    return [
        f"*{p.name}" if p.kind is p.KEYWORD_ONLY else p.name
        for p in inspect.signature(value).parameters.values()
        if p.name != "self"
    ]


SIGNATURES = {
    "rft_handler": ["fn", "*on_error", "*floor_reward", "*reward", "*client", "*require_turns", "*outbox", "*auth"],
    "wrap_model": ["model", "*sampling"],
    "RolloutRequest.parse": ["payload"],
    "RolloutRequest.to_payload": ["spelling"],
    "RolloutResult": ["reward", "rewards", "metrics", "*state", "*turns_rewards"],
    "RFTContext.bind": ["request"],
    "RFTContext.carry": ["fn"],
    "RFTContext.current": [],
    "RFTContext.get_headers": [],
    "RFTContext.get_metadata": [],
    "RFTContext.headers": [],
    "RolloutFeedbackClient": [
        "metadata_or_request",
        "*endpoint",
        "*region",
        "*api",
        "*session",
        "*timeout_seconds",
        "*max_seconds",
        "*auth",
        "*trusted_endpoints",
        "*outbox",
        "*backoff",
    ],
    "RolloutFeedbackClient.complete_trajectory": ["status"],
    "RolloutFeedbackClient.complete_rollout": ["status"],
    "RolloutFeedbackClient.update_reward": ["reward"],
    "RolloutFeedbackClient.report_complete": ["reward"],
    "RolloutFeedbackClient.report_error": ["error", "reward"],
}


def found(path: str) -> Any:
    value: Any = aws_rft_sdk
    for name in path.split("."):
        value = getattr(value, name)
    return value


@pytest.mark.parametrize("path", SIGNATURES)
def test_signature_when_inspected_then_it_is_the_agreed_one(path: str) -> None:
    assert parameters(found(path)) == SIGNATURES[path]
    assert inspect.getdoc(found(path))


DEFAULTS = {
    "rft_handler": {
        "on_error": "floor",
        "floor_reward": 0.0,
        "reward": "result",
        "client": None,
        "require_turns": True,
        "outbox": None,
        "auth": None,
    },
    "wrap_model": {"sampling": "job"},
    "RolloutFeedbackClient": {
        "timeout_seconds": 30.0,
        "max_seconds": None,
        "auth": None,
        "endpoint": None,
        "session": None,
    },
    "RolloutFeedbackClient.complete_trajectory": {"status": "ready"},
    "RolloutFeedbackClient.report_error": {"reward": None},
}


@pytest.mark.parametrize("path", DEFAULTS)
def test_defaults_when_inspected_then_they_are_the_agreed_ones(path: str) -> None:
    signature = inspect.signature(found(path)).parameters
    assert {name: signature[name].default for name in DEFAULTS[path]} == DEFAULTS[path]


@pytest.mark.parametrize("name", ["current", "job_arn", "trajectory_id", "inference_params", "metadata", "turns"])
def test_context_when_looked_at_then_the_agreed_members_are_there(name: str) -> None:
    assert hasattr(aws_rft_sdk.RFTContext, name)


def test_version_when_compared_then_package_and_distribution_agree() -> None:
    written = next(line for line in (ROOT / "pyproject.toml").read_text().splitlines() if line.startswith("version"))
    assert written == f'version = "{aws_rft_sdk.__version__}"'
    assert importlib.metadata.version("aws-rft-sdk") == aws_rft_sdk.__version__


def test_package_when_installed_then_it_says_that_it_is_typed() -> None:
    assert (Path(aws_rft_sdk.__file__).parent / "py.typed").exists()


def test_entry_points_when_declared_then_they_can_be_loaded() -> None:
    ours = [
        entry
        for group in ("console_scripts", "pytest11")
        for entry in importlib.metadata.entry_points(group=group)
        if entry.value.startswith("aws_rft_sdk")
    ]
    assert {entry.group for entry in ours} == {"console_scripts", "pytest11"}
    for entry in ours:
        entry.load()


@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed")
def test_types_when_checked_strictly_then_users_code_passes() -> None:
    cache = ROOT / ".mypy_cache" / "typing"  # of its own: other options would throw it away
    result = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={cache}", "tests/typing/api.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_package_when_run_as_a_module_then_it_is_the_command() -> None:
    told = subprocess.run([sys.executable, "-m", "aws_rft_sdk", "--help"], capture_output=True, text=True, check=True)
    assert "rollout" in told.stdout

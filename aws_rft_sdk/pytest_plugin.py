"""pytest fixtures over the local runtime: one server for the test run, reset for each test.

    def test_agent(rft_runtime):
        rft_runtime.policy = lambda request: {"role": "assistant", "content": "#### 4"}
        handler(rft_runtime.new_rollout("2 + 2?"))
        assert rft_runtime.trajectories()[0].rewards == (1.0,)

A test fails at its end if it left a trajectory open, sealed a trajectory without a turn, or never sent a reward. Mark a
test that may do so: `@pytest.mark.rft_allow("open", "no-turns", "unrewarded")`.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

import aws_rft_sdk
from aws_rft_sdk.settings import TRUSTED_ENDPOINTS_VARIABLE
from aws_rft_sdk.types import ProblemKind

if TYPE_CHECKING:
    from aws_rft_sdk.runtime import LocalRuntime, Problem

MARKER = "rft_allow"


class RemoteView:
    """A real endpoint in place of the local runtime. Its rollouts belong to your job. Its records cannot be read."""

    def __init__(self, endpoint: str, job_arn: str) -> None:
        self.endpoint = endpoint.rstrip("/")
        self._job_arn = job_arn

    def new_rollout(self, prompt: Any, **options: Any) -> dict[str, Any]:
        """Return a payload with a new trajectory id, which the service does not know."""
        metadata = {"jobArn": self._job_arn, "rolloutId": str(uuid.uuid4()), "endpoint": self.endpoint}
        return {"prompt": prompt, "metadata": metadata}

    @property
    def policy(self) -> Any:
        """Skip the test, because the service has a policy of its own."""
        return self.__getattr__("policy")

    @policy.setter
    def policy(self, policy: Any) -> None:
        self.__getattr__("policy")

    def __getattr__(self, name: str) -> Any:
        pytest.skip(f"rft_runtime.{name} needs the local runtime; this run is against {self.endpoint}")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that point the suite at a real endpoint."""
    group = parser.getgroup("aws-rft-sdk")
    group.addoption("--rft-endpoint", metavar="URL", help="run against this job runtime instead of a local one")
    group.addoption("--rft-job-arn", metavar="ARN", help="training job to report under, needed with --rft-endpoint")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker and check that the two options come together."""
    kinds = ", ".join(f'"{kind.value}"' for kind in ProblemKind)
    config.addinivalue_line(
        "markers", f"{MARKER}(*kinds): rollouts that the test may leave behind, of {kinds}; all without"
    )
    if bool(config.getoption("--rft-endpoint")) != bool(config.getoption("--rft-job-arn")):
        raise pytest.UsageError("--rft-endpoint and --rft-job-arn belong together")


@pytest.fixture(scope="session")
def rft_server() -> Iterator[LocalRuntime]:
    """The local runtime of the whole test run. Override it to configure the runtime; tests use `rft_runtime`."""
    with aws_rft_sdk.LocalRuntime() as runtime:
        yield runtime


@pytest.fixture
def rft_runtime(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalRuntime | RemoteView]:
    """The local runtime, reset for this test, or the endpoint that `--rft-endpoint` names."""
    endpoint = request.config.getoption("--rft-endpoint")
    if endpoint:
        # Whoever names an endpoint on the command line trusts it.
        monkeypatch.setenv(TRUSTED_ENDPOINTS_VARIABLE, endpoint)
        yield RemoteView(endpoint, request.config.getoption("--rft-job-arn"))
        return
    runtime: LocalRuntime = request.getfixturevalue("rft_server")
    runtime.reset()
    policy = runtime.policy
    try:
        yield runtime
    finally:
        runtime.policy = policy
    _check(runtime.problems(), _allowed(request.node.get_closest_marker(MARKER)))


def _allowed(marker: pytest.Mark | None) -> frozenset[ProblemKind]:
    if marker is None:
        return frozenset()
    known = {kind.value for kind in ProblemKind}
    if unknown := [kind for kind in marker.args if kind not in known]:
        raise pytest.UsageError(f"@pytest.mark.{MARKER} knows {', '.join(sorted(known))}, not {unknown[0]!r}")
    return frozenset(ProblemKind(kind) for kind in marker.args) or frozenset(ProblemKind)


def _check(problems: Iterable[Problem], allowed: frozenset[ProblemKind]) -> None:
    refused = [problem for problem in problems if problem.kind not in allowed]
    if not refused:
        return
    kinds = ", ".join(dict.fromkeys(f'"{problem.kind.value}"' for problem in refused))
    pytest.fail(
        "the test left rollouts behind that would fail a training job:\n"
        + "\n".join(f"  {problem.kind.value}: {problem.trajectory_id}: {problem.message}" for problem in refused)
        + f"\nIf the test is about that, mark it: @pytest.mark.{MARKER}({kinds})",
        pytrace=False,
    )

"""pytest fixtures over the local runtime: one server for the test run, a clean view of it for each test.

    def test_agent(rft_runtime):
        rft_runtime.policy = lambda request: {"role": "assistant", "content": "#### 4"}
        handler(rft_runtime.new_rollout("2 + 2?"))
        assert rft_runtime.trajectories()[0].rewards == (1.0,)

A test fails at its end when it left a trajectory open, sealed one without a turn, or never sent a reward. To allow
that, mark it with what it may leave behind: `@pytest.mark.rft_allow("open", "no-turns", "unrewarded")`.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pytest

import aws_rft_sdk
from aws_rft_sdk.settings import TRUSTED_ENDPOINTS_VARIABLE
from aws_rft_sdk.types import ProblemKind

if TYPE_CHECKING:
    from aws_rft_sdk.runtime import LocalRuntime, Policy
    from aws_rft_sdk.types import Trajectory

MARKER = "rft_allow"


class RuntimeView:
    """What one test sees of the runtime: only the rollouts that it started itself."""

    def __init__(self, runtime: LocalRuntime) -> None:
        self._runtime = runtime
        self._started: list[str] = []
        self._untracked = runtime.untracked_calls

    @property
    def endpoint(self) -> str:
        """Base URL of the runtime, without a trailing slash."""
        return self._runtime.endpoint

    @property
    def policy(self) -> Policy | None:
        """Who answers inference in this test: a policy, or a function from chat request to assistant message."""
        return self._runtime.policy

    @policy.setter
    def policy(self, policy: Policy | Callable[[dict[str, Any]], Any] | None) -> None:
        self._runtime.policy = policy

    @property
    def untracked_calls(self) -> int:
        """Inference calls of this test that carried no rollout's headers."""
        return self._runtime.untracked_calls - self._untracked

    def new_rollout(self, prompt: Any, **options: Any) -> dict[str, Any]:
        """Start a rollout and return the payload for the agent. See `LocalRuntime.new_rollout`."""
        payload = self._runtime.new_rollout(prompt, **options)
        self._started.append(payload["metadata"]["rolloutId"])
        return payload

    def trajectory(self, trajectory_id: str) -> Trajectory:
        """Return the record of a rollout. See `LocalRuntime.trajectory`."""
        return self._runtime.trajectory(trajectory_id)

    def trajectories(self) -> list[Trajectory]:
        """Return the records of this test's rollouts in the order in which they were started."""
        return [self._runtime.trajectory(trajectory_id) for trajectory_id in self._started]

    def problems(self) -> dict[ProblemKind, list[str]]:
        """Return what this test left behind: the kind of problem, and the trajectories that have it."""
        found: dict[ProblemKind, list[str]] = {}
        started = set(self._started)
        for problem in self._runtime.problems():
            if problem.trajectory_id in started:
                found.setdefault(problem.kind, []).append(f"{problem.trajectory_id}: {problem.message}")
        return found


class RemoteView:
    """A real endpoint in place of the local runtime: rollouts belong to a job of yours, records cannot be read."""

    def __init__(self, endpoint: str, job_arn: str) -> None:
        self.endpoint = endpoint.rstrip("/")
        self._job_arn = job_arn

    def new_rollout(self, prompt: Any, **options: Any) -> dict[str, Any]:
        """Return a payload with a new trajectory id, of which the service has not heard."""
        metadata = {"jobArn": self._job_arn, "rolloutId": str(uuid.uuid4()), "endpoint": self.endpoint}
        return {"prompt": prompt, "metadata": metadata}

    @property
    def policy(self) -> Any:
        """Skip the test: the service has a policy of its own."""
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
def rft_runtime(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[RuntimeView | RemoteView]:
    """A clean view of the local runtime, or of the endpoint that `--rft-endpoint` names."""
    endpoint = request.config.getoption("--rft-endpoint")
    if endpoint:
        # Whoever names an endpoint on the command line trusts it.
        monkeypatch.setenv(TRUSTED_ENDPOINTS_VARIABLE, endpoint)
        yield RemoteView(endpoint, request.config.getoption("--rft-job-arn"))
        return
    runtime: LocalRuntime = request.getfixturevalue("rft_server")
    view = RuntimeView(runtime)
    policy = runtime.policy
    try:
        yield view
    finally:
        runtime.policy = policy
    _check(view.problems(), _allowed(request.node.get_closest_marker(MARKER)))


def _allowed(marker: pytest.Mark | None) -> frozenset[ProblemKind]:
    if marker is None:
        return frozenset()
    known = {kind.value for kind in ProblemKind}
    if unknown := [kind for kind in marker.args if kind not in known]:
        raise pytest.UsageError(f"@pytest.mark.{MARKER} knows {', '.join(sorted(known))}, not {unknown[0]!r}")
    return frozenset(ProblemKind(kind) for kind in marker.args) or frozenset(ProblemKind)


def _check(problems: Mapping[ProblemKind, list[str]], allowed: frozenset[ProblemKind]) -> None:
    refused = {kind.value: trajectories for kind, trajectories in problems.items() if kind not in allowed}
    if not refused:
        return
    lines = [f"  {kind}: {trajectory}" for kind, trajectories in refused.items() for trajectory in trajectories]
    kinds = ", ".join(f'"{kind}"' for kind in refused)
    pytest.fail(
        "the test left rollouts behind that would fail a training job:\n"
        + "\n".join(lines)
        + f"\nIf that is what it is about, mark it: @pytest.mark.{MARKER}({kinds})",
        pytrace=False,
    )

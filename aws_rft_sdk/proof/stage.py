"""Where a proof takes place: a local runtime that is watched, with a stand-in for the model, in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.proof.observer import Watch
from aws_rft_sdk.proof.standin import StandIn
from aws_rft_sdk.proof.verdict import Run
from aws_rft_sdk.runtime import LocalRuntime
from aws_rft_sdk.settings import ENDPOINT_VARIABLE, overridden
from aws_rft_sdk.types import RolloutRequest, Trajectory

UNSIGNED = "unsigned"


class Stage:
    """A watched runtime. Use it as a context manager.

    It is lenient, because what is wrong is to be seen rather than refused, and does not look at signatures.

    Args:
        tool_calls: How many of the tools offered the stand-in calls.
    """

    def __init__(self, tool_calls: int = 1) -> None:
        self.watch = Watch()
        self.policy = StandIn(tool_calls, self.watch.answered)
        self.runtime = LocalRuntime(self.policy, strict=False, auth="none", faults=self.watch)

    def __enter__(self) -> Stage:
        self.runtime.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.runtime.stop()

    def start_rollout(self, prompt: str, marker: str, kind: str) -> tuple[dict[str, object], Run]:
        """Create a trajectory; return the payload for its agent, and the rollout for the record."""
        payload = dict(self.runtime.new_rollout(prompt))
        request = RolloutRequest.parse(payload)
        if request is None:
            raise ConfigurationError("the runtime made a payload without rollout metadata")
        return payload, Run(marker, request.job_arn, request.trajectory_id, kind)

    def trajectory(self, run: Run) -> Trajectory:
        """Return the runtime's record of a rollout."""
        return self.runtime.trajectory(run.trajectory_id or "")

    @contextmanager
    def environment(self) -> Iterator[None]:
        """Lead OpenAI clients that name no address to this runtime, for the body of a `with`.

        A model that is built without one, at import for example, would otherwise talk to its provider, for money.
        """
        values = {
            ENDPOINT_VARIABLE: self.runtime.endpoint,
            "OPENAI_BASE_URL": f"{self.runtime.endpoint}/v1",
            "OPENAI_API_BASE": f"{self.runtime.endpoint}/v1",
            "OPENAI_API_KEY": UNSIGNED,
        }
        with overridden(values):
            yield

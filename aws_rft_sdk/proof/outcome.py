"""What became of the rollouts of a proof."""

from __future__ import annotations

from dataclasses import dataclass

from aws_rft_sdk.proof.verdict import Run


@dataclass(frozen=True)
class Outcome:
    """How one rollout ended."""

    run: Run
    error: str | None = None
    """Type and message of what the handler raised, None when it returned."""
    error_type: str | None = None
    """Name of its class."""
    is_bound: bool = True
    """Whether the handler made this the rollout in progress."""
    is_reported: bool = True
    """Whether the runtime has the right reward, or knows of the end of a rollout that raised."""
    expects_failure: bool = False
    """Whether it was given trouble that it may fail over."""


@dataclass(frozen=True)
class Evidence:
    """What was found out about a handler besides what arrived."""

    threads_lose_context: bool | None = None
    """Whether the untracked requests were tracked once threads got the context; None when that was not tried."""
    unwrapped_names: tuple[str, ...] = ()
    """Variables of the handler's module that hold a model which is not wrapped."""
    marker_arrives: bool = True
    """Whether the marker that is put into the prompt arrives in the requests."""

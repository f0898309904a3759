"""RolloutFeedbackClient: tells the job runtime that a trajectory is complete, and what it is worth."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

from aws_rft_sdk import wire
from aws_rft_sdk._backoff import Backoff
from aws_rft_sdk._checks import check_seconds
from aws_rft_sdk._decision import Completion, Decision
from aws_rft_sdk.context import RFTContext, client_defaults, request_of, share_holder
from aws_rft_sdk.credentials import Credentials, CredentialSource
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.failures import failure_kind
from aws_rft_sdk.feedback.delivery import Holder, Memory, OnDisk, deliver
from aws_rft_sdk.feedback.off_the_loop import off_the_loop
from aws_rft_sdk.feedback.outbox import Outbox, shared_outbox
from aws_rft_sdk.feedback.sending import MAX_SECONDS, MAX_SECONDS_WITH_OUTBOX, TIMEOUT_SECONDS, Sender
from aws_rft_sdk.settings import Auth, Endpoint, resolve_auth, resolve_endpoint
from aws_rft_sdk.types import RolloutMetadata, RolloutRequest, parse_rewards
from aws_rft_sdk.wire import Api

if TYPE_CHECKING:
    import requests

logger = logging.getLogger(__name__)

Rewards = float | Sequence[float]
"""One number for the whole trajectory, or one for each turn in turn order."""


class RolloutFeedbackClient:
    """Seals one trajectory and delivers its reward.

    Both calls are idempotent: each carries a client token derived from job, trajectory and decision, the same on every
    repetition, also after a restart. So they are sent again after 429, 500, 502, 503, 504 and broken connections, with
    jittered exponential backoff or the wait that the service asks for, and once after 403 with credentials loaded anew.

    What the runtime has confirmed is not sent again. All clients of a trajectory know it during its rollout; with an
    outbox, all clients of that file do.

    Concurrency: safe from several threads. All clients of a process share one connection pool and one set of
    self-refreshing credentials; making a client costs microseconds.

    Args:
        metadata_or_request: The rollout: a `RolloutRequest`, a `RolloutMetadata`, an `RFTContext`, a payload in any
            spelling, or the metadata object of one.
        endpoint: Base URL of the runtime; None for the payload's, `RFT_RUNTIME_ENDPOINT`'s or the public one.
        region: AWS region to sign for; None for the payload's, the job ARN's or the environment's.
        api: "alpha" or "ga"; None for the one that the endpoint's host or `RFT_API` tells, else alpha.
        session: A `requests.Session` to send with, or a boto3 or botocore session to take credentials from; None for
            the ones that the process shares.
        timeout_seconds: For one request and its whole answer, however slowly that arrives.
        max_seconds: For one call of a method, repetitions and waits included. None for 60 s; with an outbox, which
            goes on trying later, for 10 s. A name that resolves slowly may take longer.
        auth: "sigv4" signs each request, "bearer" sends a token. None for the one that the trajectory's handler was
            given, while it runs, else `RFT_AUTH`, else "sigv4". On a loopback endpoint requests go unsigned when there
            are no AWS credentials, so that no account is needed to develop.
            A loopback endpoint that only the payload names gets a signature rather than a token.
        trusted_endpoints: Hosts that a payload may name besides the service's own and loopback.
        outbox: A file, or an `Outbox`, in which every decision is committed before it is sent; None for the one
            that the trajectory's handler was given, while it runs, else the file that `RFT_OUTBOX` names, if it is set.
            What cannot be delivered stays there, see `aws_rft_sdk.feedback.redrive`.
        backoff: Waits between attempts.

    Raises:
        PayloadError: The first argument holds no well-formed rollout metadata.
        UntrustedEndpointError: The payload names an endpoint that may not receive credentials.
        ConfigurationError: Another argument or setting is wrong.
    """

    def __init__(
        self,
        metadata_or_request: RolloutMetadata | RolloutRequest | RFTContext | Mapping[str, Any],
        *,
        endpoint: str | None = None,
        region: str | None = None,
        api: Api | Literal["alpha", "ga"] | None = None,
        session: requests.Session | CredentialSource | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
        max_seconds: float | None = None,
        auth: Auth | None = None,
        trusted_endpoints: Iterable[str] = (),
        outbox: Outbox | str | os.PathLike[str] | None = None,
        backoff: Backoff = Backoff(),
    ) -> None:
        check_seconds("timeout_seconds", timeout_seconds)
        if max_seconds is not None:
            check_seconds("max_seconds", max_seconds)
        self.metadata = _metadata_of(metadata_or_request)
        self.endpoint: Endpoint = resolve_endpoint(
            self.metadata, endpoint=endpoint, region=region, api=api, trusted_endpoints=trusted_endpoints
        )
        defaults = client_defaults(self.metadata)
        self.outbox = shared_outbox(defaults.outbox if outbox is None else outbox)
        http, credentials = _split_session(session)
        self._sender = Sender(
            self.endpoint,
            resolve_auth(defaults.auth if auth is None else auth),
            self.metadata.trajectory_id,
            credentials=credentials,
            session=http,
            timeout_seconds=timeout_seconds,
            max_seconds=max_seconds or (MAX_SECONDS if self.outbox is None else MAX_SECONDS_WITH_OUTBOX),
            backoff=backoff,
        )
        self._own: Holder = Memory()
        if self.outbox is not None:
            self._own = OnDisk(self.outbox, self.metadata, self.endpoint, self._sender.auth)

    def __repr__(self) -> str:
        return (
            f"<RolloutFeedbackClient trajectory_id={self.metadata.trajectory_id!r} "
            f"endpoint={self.endpoint.url!r} api={self.endpoint.api.value!r}>"
        )

    def receive(self) -> Decision:
        """Enter the trajectory in the outbox, if there is one, before its handler runs.

        Returns:
            What is decided about it: something, if the trajectory was delivered before.

        Raises:
            OutboxError: The outbox cannot be written, so the rollout must not begin.
        """
        return self._own.receive() if isinstance(self._own, OnDisk) else self._own.seen

    def complete_trajectory(self, status: Completion = "ready") -> None:
        """Seal the trajectory: no more turns.

        Safe to repeat with the same status. What is confirmed is not sent again.

        Args:
            status: "ready" to have it rewarded and trained on, "failed" to have it left out. Alpha knows no failed
                state: there the trajectory is sealed like any other, gets no reward, and a warning is logged.

        Raises:
            TrajectoryConflictError: It was sealed before, by someone else or with another status.
            TrajectoryNotFoundError: The job does not know it.
            StatusError: The service refused for another reason.
            TransportError: No answer. The trajectory may be sealed; calling again is safe.
            CredentialsError: There are no AWS credentials.
            DecisionConflictError: Another decision stands. Nothing was sent.
            OutboxError: The outbox cannot be written. Nothing more was sent; calling again is safe.
        """
        if status not in wire.COMPLETION_STATUSES:
            raise ConfigurationError(f"status is {status!r}; it must be one of {', '.join(wire.COMPLETION_STATUSES)}")
        self._report(status, None)

    complete_rollout = complete_trajectory

    def update_reward(self, reward: Rewards) -> None:
        """Give the sealed trajectory its reward. If a client here has not got the seal through yet, that goes first.

        Safe to repeat with the same reward. What is confirmed is not sent again.

        Args:
            reward: One finite number for the whole trajectory, or a list with one for each turn in order.

        Raises:
            RewardError: Not a finite number, or an empty list. Nothing was sent.
            TrajectoryConflictError: It is not sealed yet, or has another reward.
            TrajectoryNotFoundError: The job does not know it.
            StatusError: The service refused for another reason.
            TransportError: No answer. The reward may be stored; calling again is safe.
            CredentialsError: There are no AWS credentials.
            DecisionConflictError: Another decision stands. Nothing was sent.
            OutboxError: The outbox cannot be written. Nothing more was sent; calling again is safe.
        """
        self._report(None, parse_rewards(reward))

    def report_complete(self, reward: Rewards) -> None:
        """Validate the reward, seal the trajectory, deliver the reward, in this order.

        Safe to repeat with the same reward: only what is not confirmed yet is sent. Raises what `complete_trajectory`
        and `update_reward` raise.
        """
        self._report("ready", parse_rewards(reward))

    def report_error(self, error: BaseException | str, reward: Rewards | None = None) -> None:
        """Report a rollout that ended in an error.

        Safe to repeat with the same reward. Raises what `complete_trajectory` and `update_reward` raise.

        Args:
            error: What went wrong: an exception, of which type and kind are logged, or a text, of which the first 200
                characters are logged without what looks like a secret. The service has no field for it.
            reward: The floor that the rollout gets; None to seal the trajectory as failed, without a reward. Users of
                the service saw whole jobs fail over one failed trajectory, a floor reward is the safer choice.
        """
        rewards = None if reward is None else parse_rewards(reward)
        logger.warning(
            "trajectory_id=<%s>, kind=<%s>, error=<%s>, floor=<%s> | the rollout ended in an error",
            self.metadata.trajectory_id,
            None if isinstance(error, str) else failure_kind(error).value,
            wire.loggable(error, 200) if isinstance(error, str) else type(error).__name__,
            reward,
        )
        self._report("failed" if rewards is None else "ready", rewards)

    def deliver_outstanding(self) -> None:
        """Make the calls that are decided and not confirmed. Safe to repeat. Raises what the other methods raise."""
        deliver(self.holder, self._sender, self.metadata)

    def _report(self, completion: Completion | None, rewards: tuple[float, ...] | None) -> None:
        trajectory_id = self.metadata.trajectory_id
        deliver(
            self.holder,
            self._sender,
            self.metadata,
            lambda decision: decision.decide(trajectory_id, completion, rewards),
        )

    @property
    def holder(self) -> Holder:
        """What holds the decision. During a rollout, all clients of the trajectory share one."""
        return cast(Holder, share_holder(self.metadata, self._own))


class AsyncRolloutFeedbackClient:
    """`RolloutFeedbackClient` with coroutine methods of the same names. The event loop is never blocked.

    A call runs in a thread and is not abandoned half-way: when its task is cancelled, it ends first. Arguments, errors
    and what is safe to repeat are those of `RolloutFeedbackClient`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.blocking = RolloutFeedbackClient(*args, **kwargs)
        """The client that does the work, for code that is in a thread already."""

    def __repr__(self) -> str:
        return f"<Async{repr(self.blocking)[1:]}"

    @functools.wraps(RolloutFeedbackClient.complete_trajectory)
    async def complete_trajectory(self, status: Completion = "ready") -> None:  # noqa: D102 - wrapped
        await off_the_loop(self.blocking.complete_trajectory, status)

    complete_rollout = complete_trajectory

    @functools.wraps(RolloutFeedbackClient.update_reward)
    async def update_reward(self, reward: Rewards) -> None:  # noqa: D102 - wrapped
        await off_the_loop(self.blocking.update_reward, reward)

    @functools.wraps(RolloutFeedbackClient.report_complete)
    async def report_complete(self, reward: Rewards) -> None:  # noqa: D102 - wrapped
        await off_the_loop(self.blocking.report_complete, reward)

    @functools.wraps(RolloutFeedbackClient.report_error)
    async def report_error(self, error: BaseException | str, reward: Rewards | None = None) -> None:  # noqa: D102 - wrapped
        await off_the_loop(self.blocking.report_error, error, reward)


def _metadata_of(source: RolloutMetadata | RolloutRequest | RFTContext | Mapping[str, Any]) -> RolloutMetadata:
    if isinstance(source, RFTContext):
        return source.metadata
    return request_of(source).metadata


def _split_session(
    session: requests.Session | CredentialSource | None,
) -> tuple[requests.Session | None, Credentials | None]:
    if session is None:
        return None, None
    if callable(getattr(session, "get_credentials", None)):
        return None, Credentials(cast(CredentialSource, session))
    if callable(getattr(session, "prepare_request", None)):
        return cast("requests.Session", session), None
    raise ConfigurationError(
        f"session is a {type(session).__name__}; it must be a requests.Session, or a boto3 or botocore session"
    )

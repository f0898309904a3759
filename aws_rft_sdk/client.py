"""RolloutFeedbackClient: tells the job runtime that a trajectory is complete, and what it is worth."""

from __future__ import annotations

import functools
import logging
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import requests
from requests.auth import AuthBase
from urllib3.exceptions import MaxRetryError, NewConnectionError

from aws_rft_sdk import telemetry, wire
from aws_rft_sdk._backoff import Backoff, parse_retry_after
from aws_rft_sdk._checks import check_seconds
from aws_rft_sdk.context import RFTContext, contexts_of, request_of
from aws_rft_sdk.credentials import Bearer, Credentials, CredentialSource, SigV4, shared_credentials
from aws_rft_sdk.errors import (
    AccessDeniedError,
    ConfigurationError,
    InvalidRequestError,
    RFTError,
    ServiceConnectionError,
    ServiceError,
    ServiceTimeoutError,
    StatusError,
    TrajectoryConflictError,
    TrajectoryNotFoundError,
)
from aws_rft_sdk.feedback.ledger import Entry
from aws_rft_sdk.feedback.off_the_loop import off_the_loop
from aws_rft_sdk.feedback.outbox import Outbox, shared_outbox
from aws_rft_sdk.feedback.session import shared_session
from aws_rft_sdk.settings import Endpoint, resolve_endpoint
from aws_rft_sdk.types import RolloutMetadata, RolloutRequest, parse_rewards
from aws_rft_sdk.wire import Api, FeedbackRequest

logger = logging.getLogger(__name__)

Rewards = float | Sequence[float]
"""One number for the whole trajectory, or one for each turn in turn order."""
Auth = Literal["sigv4", "bearer"]

_REFUSALS = (InvalidRequestError, TrajectoryNotFoundError, TrajectoryConflictError)
"""Answers that no repetition changes."""


class RolloutFeedbackClient:
    """Seals one trajectory and delivers its reward.

    Both calls are idempotent: each carries a client token derived from job, trajectory and decision, the same on every
    repetition, also after a restart. So they are sent again after 429, 500, 502, 503, 504 and broken connections, with
    jittered exponential backoff or the wait that the service asks for, and once after 403 with credentials loaded anew.

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
        timeout: Seconds to wait for a connection, and again for each answer.
        max_attempts: Requests sent for one call at most, at least 1.
        auth: "sigv4" signs each request, "bearer" sends a token. On a loopback endpoint requests go unsigned when
            there are no AWS credentials, so that no account is needed to develop.
        trusted_endpoints: Hosts that a payload may name besides the service's own and loopback.
        outbox: A file, or an `Outbox`, in which every decision is committed before it is sent; None for the file that
            `RFT_OUTBOX` names, if it does. What cannot be delivered stays there, see `aws_rft_sdk.feedback.redrive`.
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
        timeout: float = 30.0,
        max_attempts: int = 5,
        auth: Auth = "sigv4",
        trusted_endpoints: Iterable[str] = (),
        outbox: Outbox | str | os.PathLike[str] | None = None,
        backoff: Backoff = Backoff(),
    ) -> None:
        if max_attempts < 1:
            raise ConfigurationError(f"max_attempts is {max_attempts}; at least 1 request must be sent")
        check_seconds("timeout", timeout)
        if auth not in ("sigv4", "bearer"):
            raise ConfigurationError(f"auth is {auth!r}; it must be 'sigv4' or 'bearer'")
        self.metadata = _metadata_of(metadata_or_request)
        self.endpoint: Endpoint = resolve_endpoint(
            self.metadata, endpoint=endpoint, region=region, api=api, trusted_endpoints=trusted_endpoints
        )
        self._http, self._credentials = _split_session(session)
        self.outbox = shared_outbox(outbox)
        self._timeout = timeout
        self._max_attempts = max_attempts
        self._auth = auth
        self._backoff = backoff

    def __repr__(self) -> str:
        return (
            f"<RolloutFeedbackClient trajectory_id={self.metadata.trajectory_id!r} "
            f"endpoint={self.endpoint.url!r} api={self.endpoint.api.value!r}>"
        )

    def receive(self) -> Entry | None:
        """Enter the trajectory in the outbox, before its handler runs; None without an outbox.

        Returns:
            Its entry, which holds a decision if the trajectory was delivered before.

        Raises:
            OutboxError: The outbox cannot be written, so the rollout must not begin.
        """
        return None if self.outbox is None else self.outbox.receive(self.metadata, self.endpoint, self._auth)

    def complete_trajectory(self, status: Literal["ready", "failed"] = "ready") -> None:
        """Seal the trajectory: no more turns.

        Safe to repeat with the same status.

        Args:
            status: "ready" to have it rewarded and trained on, "failed" to have it left out. Alpha knows no failed
                state: there the trajectory is sealed like any other, gets no reward, and a warning is logged.

        Raises:
            TrajectoryConflictError: It was sealed before, by someone else or with another status.
            TrajectoryNotFoundError: The job does not know it.
            StatusError: The service refused for another reason.
            TransportError: No answer. The trajectory may be sealed; calling again is safe.
            CredentialsError: There are no AWS credentials.
            DecisionConflictError: The outbox holds another decision. Nothing was sent.
            OutboxError: The outbox cannot be written. Nothing was sent.
        """
        if status not in wire.COMPLETION_STATUSES:
            raise ConfigurationError(f"status is {status!r}; it must be one of {', '.join(wire.COMPLETION_STATUSES)}")
        self._report(status, None)

    complete_rollout = complete_trajectory

    def update_reward(self, reward_or_list: Rewards) -> None:
        """Give the sealed trajectory its reward.

        Safe to repeat with the same reward.

        Args:
            reward_or_list: One finite number for the whole trajectory, or a list with one for each turn in order.

        Raises:
            RewardError: Not a finite number, or an empty list. Nothing was sent.
            TrajectoryConflictError: It is not sealed yet, or has another reward.
            TrajectoryNotFoundError: The job does not know it.
            StatusError: The service refused for another reason.
            TransportError: No answer. The reward may be stored; calling again is safe.
            CredentialsError: There are no AWS credentials.
            DecisionConflictError: The outbox holds another decision. Nothing was sent.
            OutboxError: The outbox cannot be written. Nothing was sent.
        """
        self._report(None, parse_rewards(reward_or_list))

    def report_complete(self, reward_or_list: Rewards) -> None:
        """Validate the reward, seal the trajectory, deliver the reward, in this order.

        Safe to repeat with the same reward. Raises what `complete_trajectory` and `update_reward` raise.
        """
        self._report(wire.READY, parse_rewards(reward_or_list))

    def report_error(self, error: BaseException, reward: Rewards | None = None) -> None:
        """Report a rollout that ended in an error.

        Safe to repeat with the same reward. Raises what `complete_trajectory` and `update_reward` raise.

        Args:
            error: What went wrong. Its type is logged; the service has no field for it.
            reward: The floor that the rollout gets; None to seal the trajectory as failed, without a reward. Users of
                the service saw whole jobs fail over one failed trajectory, a floor reward is the safer choice.
        """
        logger.warning(
            "trajectory_id=<%s>, error=<%s>, reward=<%s> | the rollout ended in an error",
            self.metadata.trajectory_id,
            type(error).__name__,
            reward,
        )
        if reward is None:
            self.complete_trajectory(status="failed")
        else:
            self.report_complete(reward)

    def redeliver(self, entry: Entry) -> None:
        """Deliver what an outbox entry of this trajectory holds and the runtime has not confirmed. Safe to repeat."""
        self._deliver(entry.completion, entry.rewards, entry)

    def _report(self, completion: str | None, rewards: tuple[float, ...] | None) -> None:
        """Decide, deliver, confirm: with an outbox, in this order on disk as well."""
        entry = None
        if self.outbox is not None:
            entry = self.outbox.decide(self.metadata, self.endpoint, self._auth, completion, rewards)
        for context in contexts_of(self.metadata):
            # Known from now on, so that nothing else is said about the trajectory if this does not get through.
            context.decided = rewards or context.decided
        self._deliver(completion, rewards, entry)

    def _deliver(self, completion: str | None, rewards: tuple[float, ...] | None, entry: Entry | None) -> None:
        confirmed = entry is not None and entry.ended_at is not None and not entry.refused
        again = entry is not None and entry.maybe_sent
        try:
            if completion is not None and not confirmed and not (entry is not None and entry.completion_delivered):
                self._complete(completion, again=again)
            if rewards is not None and not confirmed:
                self._reward(rewards, again=again)
        except RFTError as error:
            self._note_failure(error, again)
            if isinstance(error, _REFUSALS):
                for context in contexts_of(self.metadata):
                    context.decided = None  # it was not taken, so something else may still be said
            raise
        if self.outbox is not None and not confirmed:
            self.outbox.confirm(self.metadata, ended=rewards is not None or completion == wire.FAILED)
        for context in contexts_of(self.metadata):
            context.completion = completion or context.completion
            context.rewards = rewards or context.rewards

    def _note_failure(self, error: RFTError, again: bool) -> None:
        if self.outbox is None:
            return
        text = f"{type(error).__name__}: {error}"
        if isinstance(error, _REFUSALS):
            self.outbox.refuse(self.metadata, text)
        else:
            maybe_sent = again or (isinstance(error, ServiceError) and error.may_have_happened)
            self.outbox.postpone(self.metadata, text, maybe_sent=maybe_sent)

    def _complete(self, status: str, *, again: bool) -> None:
        if status == wire.FAILED and self.endpoint.api is Api.ALPHA:
            logger.warning(
                "trajectory_id=<%s> | alpha has no failed state: the trajectory is sealed and gets no reward",
                self.metadata.trajectory_id,
            )
        self._call(
            "complete",
            wire.completion_request(self.endpoint.api, self.metadata.job_arn, self.metadata.trajectory_id, status),
            again=again,
        )

    def _reward(self, rewards: tuple[float, ...], *, again: bool) -> None:
        self._call(
            "reward",
            wire.reward_request(self.endpoint.api, self.metadata.job_arn, self.metadata.trajectory_id, rewards),
            again=again,
        )

    def _call(self, operation: str, request: FeedbackRequest, *, again: bool) -> None:
        """Send one logical call until it succeeds, fails for good, or the attempts are used up.

        Args:
            operation: "complete" or "reward".
            request: The call.
            again: Whether an earlier process may have sent it already.
        """
        began = time.perf_counter()
        attempts, outcome = 0, "delivered"
        with telemetry.feedback(operation, self.metadata.trajectory_id, self.endpoint.url) as span:
            try:
                attempts, outcome = self._send_until_done(request, may_have_happened=again)
            except RFTError as error:
                attempts, outcome = getattr(error, "attempts", 0), type(error).__name__
                raise
            finally:
                seconds = time.perf_counter() - began
                telemetry.end_feedback(span, operation, outcome, attempts=attempts, seconds=seconds)

    def _send_until_done(self, request: FeedbackRequest, *, may_have_happened: bool) -> tuple[int, str]:
        source = self._credential_source()
        generation = source.generation
        auth = self._authentication(source)
        telemetry.inject(request.headers)
        refreshed = False
        for attempt in range(1, self._max_attempts + 1):
            try:
                self._send(request, auth)
                return attempt, "delivered"
            except ServiceError as error:
                error.attempts = attempt
                if isinstance(error, TrajectoryConflictError) and may_have_happened:
                    self._log(logging.INFO, request, "done already by an earlier attempt whose answer was lost")
                    return attempt, "repeated"
                may_have_happened = error.may_have_happened = may_have_happened or _may_have_happened(error)
                if attempt == self._max_attempts:
                    raise
                if isinstance(error, AccessDeniedError) and auth is not None and not refreshed:
                    refreshed, delay = True, 0.0
                    source.refresh(generation)
                elif _is_worth_repeating(error):
                    delay = self._backoff.delay(attempt, error.retry_after_seconds)
                else:
                    raise
                self._log(logging.INFO, request, f"attempt {attempt} failed, sending again in {delay:.2f} s: {error}")
            time.sleep(delay)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _send(self, request: FeedbackRequest, auth: AuthBase | None) -> None:
        url = self.endpoint.url + request.path
        session = self._http or shared_session()
        # A runtime on this machine needs no proxy; elsewhere those of the environment and its certificates apply.
        settings: Mapping[str, Any] = {"proxies": session.proxies}
        if not self.endpoint.is_loopback:
            settings = session.merge_environment_settings(url, {}, False, None, None)
        try:
            prepared = session.prepare_request(
                requests.Request("POST", url, headers=request.headers, data=request.body, auth=auth or _unsigned)
            )
            # A redirect would carry the credentials elsewhere; it is not followed and ends as a StatusError.
            answer = session.send(prepared, **{**settings, "timeout": self._timeout, "allow_redirects": False})
        except requests.Timeout as error:
            raise ServiceTimeoutError(
                f"{self._subject(request)}: no answer from {self.endpoint.url} within {self._timeout} s"
            ) from error
        except requests.RequestException as error:
            raise ServiceConnectionError(
                f"{self._subject(request)}: the exchange with {self.endpoint.url} failed ({type(error).__name__})"
            ) from error
        if not 200 <= answer.status_code < 300:
            raise self._status_error(answer, request)

    def _status_error(self, answer: requests.Response, request: FeedbackRequest) -> StatusError:
        body = wire.error_message(answer.content)
        code = wire.header_text(answer.headers.get(wire.ERROR_TYPE_HEADER))
        request_id = wire.header_text(answer.headers.get(wire.REQUEST_ID_HEADER))
        return wire.error_class(answer.status_code)(
            f"{self._subject(request)} was answered with {answer.status_code}"
            f"{f' {code}' if code else ''}{f': {body}' if body else ''} (request id {request_id or 'unknown'})",
            status=answer.status_code,
            code=code,
            request_id=request_id,
            body=body,
            retry_after_seconds=parse_retry_after(answer.headers.get("Retry-After")),
        )

    def _log(self, level: int, request: FeedbackRequest, message: str) -> None:
        logger.log(level, "trajectory_id=<%s>, path=<%s> | %s", self.metadata.trajectory_id, request.path, message)

    def _subject(self, request: FeedbackRequest) -> str:
        return f"{request.path} for trajectory {self.metadata.trajectory_id}"

    def _credential_source(self) -> Credentials:
        if self._credentials is not None:
            return self._credentials
        return shared_credentials(network=not self.endpoint.is_loopback)

    def _authentication(self, source: Credentials) -> AuthBase | None:
        if self.endpoint.is_loopback and self._credentials is None and source.keys() is None:
            return None
        return (SigV4 if self._auth == "sigv4" else Bearer)(source, self.endpoint.region)


class AsyncRolloutFeedbackClient:
    """`RolloutFeedbackClient` with coroutine methods of the same names. The event loop is never blocked.

    A call runs in a thread and is not abandoned half-way: when its task is cancelled, it ends first. Arguments, errors
    and what is safe to repeat are those of `RolloutFeedbackClient`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._client = RolloutFeedbackClient(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<Async{repr(self._client)[1:]}"

    @functools.wraps(RolloutFeedbackClient.complete_trajectory)
    async def complete_trajectory(self, status: Literal["ready", "failed"] = "ready") -> None:  # noqa: D102 - wrapped
        await off_the_loop(self._client.complete_trajectory, status)

    complete_rollout = complete_trajectory

    @functools.wraps(RolloutFeedbackClient.update_reward)
    async def update_reward(self, reward_or_list: Rewards) -> None:  # noqa: D102 - wrapped
        await off_the_loop(self._client.update_reward, reward_or_list)

    @functools.wraps(RolloutFeedbackClient.report_complete)
    async def report_complete(self, reward_or_list: Rewards) -> None:  # noqa: D102 - wrapped
        await off_the_loop(self._client.report_complete, reward_or_list)

    @functools.wraps(RolloutFeedbackClient.report_error)
    async def report_error(self, error: BaseException, reward: Rewards | None = None) -> None:  # noqa: D102 - wrapped
        await off_the_loop(self._client.report_error, error, reward)


def _unsigned(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Keep `requests` from looking for credentials in a .netrc file."""
    return request


def _may_have_happened(error: ServiceError) -> bool:
    """Whether the call may have taken effect in spite of the error."""
    if isinstance(error, StatusError):
        return error.status in wire.AMBIGUOUS_STATUSES
    cause = error.__cause__
    if isinstance(cause, requests.ConnectTimeout):
        return False
    reason = cause.args[0] if cause is not None and cause.args else None
    return not (isinstance(reason, MaxRetryError) and isinstance(reason.reason, NewConnectionError))


def _is_worth_repeating(error: ServiceError) -> bool:
    return not isinstance(error, StatusError) or error.status in wire.RETRIABLE_STATUSES


def _metadata_of(source: RolloutMetadata | RolloutRequest | RFTContext | Mapping[str, Any]) -> RolloutMetadata:
    if isinstance(source, RFTContext):
        return source.metadata
    return request_of(source).metadata


def _split_session(
    session: requests.Session | CredentialSource | None,
) -> tuple[requests.Session | None, Credentials | None]:
    if session is None:
        return None, None
    if isinstance(session, requests.Session):
        return session, None
    if callable(getattr(session, "get_credentials", None)):
        return None, Credentials(session)
    raise ConfigurationError(
        f"session is a {type(session).__name__}; it must be a requests.Session, or a boto3 or botocore session"
    )

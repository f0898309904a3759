"""Every error this package raises, and what a caller may conclude from each.

    RFTError                              root of everything; .retry_safe, .retry_after_seconds
    ├── ConfigurationError (ValueError)   a setting is missing or wrong; names it and where it can be set
    │   ├── CredentialsError              no AWS credentials, or expired ones
    │   ├── JobConfigError                the configuration of a job has .problems; nothing was sent
    │   └── UntrustedEndpointError        the payload names an endpoint that must not receive credentials
    ├── UnavailableError                  what a whole run needs does not work: a disk, a port, a cluster, a worker
    ├── PayloadError (ValueError)         what reached us cannot be parsed; .field is the path of the culprit
    ├── DatasetError (ValueError)         a file of prompts cannot be read; .line says where
    ├── NoActiveRolloutError (RuntimeError)  a rollout in progress is needed and there is none
    ├── ServiceError                      talking to the job runtime, or to a service of training jobs, failed
    │   ├── TransportError                no usable answer; the outcome is unknown
    │   │   ├── ServiceTimeoutError (TimeoutError)
    │   │   └── ServiceConnectionError (ConnectionError)
    │   └── StatusError                   answered with an error: .status .code .request_id .body
    │       ├── InvalidRequestError       400
    │       ├── QuotaExceededError        402
    │       ├── AccessDeniedError         403
    │       ├── TrajectoryNotFoundError   404
    │       ├── TrajectoryConflictError   409
    │       ├── ThrottledError            429
    │       ├── ServiceFaultError         5xx
    │       └── JobServiceError           a service of training jobs refused .action
    ├── OutboxError                       feedback cannot be put on disk; raised before the handler runs
    ├── DecisionConflictError             a trajectory was decided before, in another way; shows both
    ├── RewardError (ValueError)          a reward is missing, not a number, or not finite
    └── RolloutError                      one rollout failed; never cancels its siblings
        ├── HandlerError                  the user's handler raised; the cause is kept
        ├── RolloutTimeoutError (TimeoutError)
        │   └── GivenUpError              its process was shut down before it had finished
        ├── AgentUnreachableError         the agent's endpoint could not be called
        ├── ShuttingDownError             this process begins no more rollouts
        ├── AtCapacityError               this process runs as many rollouts as it may
        ├── BreakerError                  the first rollouts of a run all failed for one reason; the run has ended
        └── NoTrackedTurnsError           no inference call carried the rollout's headers

To add a class: give it the nearest parent and the builtin it refines; keep every argument beyond the message
keyword-only with a default and store it under its own name, so that instances survive pickling; draw it above;
describe it in docs/errors.md. `tests/unit/test_errors.py` walks the tree and checks all of that.
"""

from __future__ import annotations


class RFTError(Exception):
    """Root of all errors of this package.

    Attributes:
        retry_safe: True when repeating the call cannot do harm, False when repeating is pointless or harmful,
            None when nobody can know (the call may have taken effect).
        retry_after_seconds: How long the service asked to wait before a repetition, None when it did not say.
    """

    retry_safe: bool | None = False

    def __init__(self, message: str = "", *, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class ConfigurationError(RFTError, ValueError):
    """A setting is missing or wrong. The message names it and the places where it can be set."""


class CredentialsError(ConfigurationError):
    """No AWS credentials were found, or those found have expired and cannot be refreshed."""

    retry_safe = True


class JobConfigError(ConfigurationError):
    """The configuration of a training job is wrong. Nothing was sent.

    Attributes:
        problems: All that is wrong, each an `aws_rft_sdk.jobs.Problem`.
    """

    def __init__(self, message: str = "", *, problems: tuple[object, ...] = ()) -> None:
        super().__init__(message)
        self.problems = problems


class UntrustedEndpointError(ConfigurationError):
    """The payload names an endpoint that credentials must not be sent to. Nothing was read or sent."""


class UnavailableError(RFTError):
    """What a whole run needs does not work, and what the user typed is not at fault.

    For example, a disk is full, a port is taken, or a cluster, a worker or a runtime cannot be reached. The command
    `aws-rft` ends with exit status 3.
    """

    retry_safe = True


class PayloadError(RFTError, ValueError):
    """What reached us cannot be parsed.

    Attributes:
        field: Path of the field at fault, spelled as in the payload, for example `metadata.jobArn`.
    """

    def __init__(self, message: str = "", *, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class DatasetError(RFTError, ValueError):
    """A file of prompts cannot be read.

    Attributes:
        line: Line of the file, or row of a table, at fault, from 1; None when it is the file as a whole.
    """

    def __init__(self, message: str = "", *, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


class NoActiveRolloutError(RFTError, RuntimeError):
    """A rollout is needed, and none is bound in this thread or task, or the one that is has been reported."""


class ServiceError(RFTError):
    """Talking to the job runtime, or to a service of training jobs, failed.

    Attributes:
        attempts: How many requests were sent, retries included.
        may_have_happened: Whether one of them may have taken effect in spite of the error.
    """

    may_have_happened: bool = False

    def __init__(self, message: str = "", *, attempts: int = 1, retry_after_seconds: float | None = None) -> None:
        super().__init__(message, retry_after_seconds=retry_after_seconds)
        self.attempts = attempts


class TransportError(ServiceError):
    """No usable answer arrived. The request may have taken effect: repeat it only with the same client token."""

    retry_safe = None


class ServiceTimeoutError(TransportError, TimeoutError):
    """The service did not answer in time."""


class ServiceConnectionError(TransportError, ConnectionError):
    """The connection to the service could not be made, or broke before an answer."""


class StatusError(ServiceError):
    """The service answered with an error status.

    Attributes:
        status: HTTP status of the answer.
        code: Error type named by the service (`x-amzn-ErrorType`), None when it named none.
        request_id: The service's id of the request, None when it gave none.
        body: Message of the service, at most 1,024 characters, control characters removed.
    """

    def __init__(
        self,
        message: str = "",
        *,
        status: int = 0,
        code: str | None = None,
        request_id: str | None = None,
        body: str = "",
        attempts: int = 1,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message, attempts=attempts, retry_after_seconds=retry_after_seconds)
        self.status = status
        self.code = code
        self.request_id = request_id
        self.body = body


class InvalidRequestError(StatusError):
    """400: the service refuses the request as it is. Repeating it is pointless."""


class QuotaExceededError(StatusError):
    """402: a quota of the account is exhausted. Repeating it is pointless until the quota changes."""


class AccessDeniedError(StatusError):
    """403: the credentials do not allow the action on this job, or the signature is stale."""


class TrajectoryNotFoundError(StatusError):
    """404: the job is known and the trajectory is not."""


class TrajectoryConflictError(StatusError):
    """409: the trajectory's state does not allow the request, for example because it is sealed already."""


class ThrottledError(StatusError):
    """429: too many requests. Safe to repeat, after `retry_after_seconds` where given."""

    retry_safe = True


class ServiceFaultError(StatusError):
    """5xx: the service failed. The request may have taken effect."""

    retry_safe = None


class JobServiceError(StatusError):
    """A service of training jobs, or of what a job needs, refused a call: Bedrock, Lambda, IAM, S3.

    Attributes:
        action: The IAM action that was refused, for example `bedrock-mantle:CreateFile`.
    """

    def __init__(
        self,
        message: str = "",
        *,
        action: str = "",
        status: int = 0,
        code: str | None = None,
        request_id: str | None = None,
        body: str = "",
        attempts: int = 1,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(
            message,
            status=status,
            code=code,
            request_id=request_id,
            body=body,
            attempts=attempts,
            retry_after_seconds=retry_after_seconds,
        )
        self.action = action


class OutboxError(RFTError):
    """The outbox cannot be read or written, for example because the disk is full. Safe to repeat."""

    retry_safe = True


class DecisionConflictError(RFTError):
    """Another decision about the trajectory stands. Nothing was sent."""


class RewardError(RFTError, ValueError):
    """A reward is missing, is not a number, or is not finite. Nothing was sent."""


class RolloutError(RFTError):
    """One rollout failed. It is recorded and never cancels its siblings."""


class HandlerError(RolloutError):
    """The user's handler raised; `__cause__` is what it raised."""


class RolloutTimeoutError(RolloutError, TimeoutError):
    """A rollout did not finish before its deadline."""


class GivenUpError(RolloutTimeoutError):
    """The process of a rollout was shut down before the rollout had finished. The rollout is not at fault."""


class AgentUnreachableError(RolloutError):
    """The endpoint of the agent could not be called."""


class ShuttingDownError(RolloutError):
    """This process begins no more rollouts. The handler did not run; deliver the payload to another process."""

    retry_safe = True


class AtCapacityError(RolloutError):
    """This process runs as many rollouts as it may. The handler did not run; deliver the payload again later."""

    retry_safe = True


class BreakerError(RolloutError):
    """The first rollouts of a run all failed for the same reason, so no more were begun.

    The message has the reason, the number of rollouts and the first traceback.
    """


class NoTrackedTurnsError(RolloutError):
    """No inference call of the rollout carried its headers. The trajectory was not sealed.

    The service fails a whole job over one such rollout, so this is raised before anything is reported.
    """

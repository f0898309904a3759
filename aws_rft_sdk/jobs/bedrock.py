"""Reinforcement fine-tuning of open-weight models on Bedrock, over its OpenAI-compatible API."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast
from urllib.parse import quote as in_path

from aws_rft_sdk._checks import check_seconds, check_type
from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.datasets import Target
from aws_rft_sdk.errors import (
    ConfigurationError,
    CredentialsError,
    JobServiceError,
    ServiceConnectionError,
    ServiceError,
    ServiceFaultError,
    ServiceTimeoutError,
    ThrottledError,
    TransportError,
)
from aws_rft_sdk.jobs._bedrock_answers import (
    id_of,
    in_order,
    is_like,
    raw_and_id,
    read_checkpoint,
    read_event,
    read_job,
    read_object,
    unreadable,
)
from aws_rft_sdk.jobs._bedrock_calls import ATTEMPTS, BACKOFF, Mantle, client_for
from aws_rft_sdk.jobs._bedrock_request import create_body, is_text, problems
from aws_rft_sdk.jobs._files import refuse_file
from aws_rft_sdk.jobs._refusals import refusal
from aws_rft_sdk.jobs.types import Checkpoint, Event, File, Job, refuse

if TYPE_CHECKING:
    from openai import OpenAI, Stream
    from openai.types.chat import ChatCompletion, ChatCompletionChunk
    from openai.types.responses import Response, ResponseStreamEvent

logger = logging.getLogger(__name__)

T = TypeVar("T")

POLL_SECONDS = 10.0
OUTAGE_SECONDS = 900.0
"""How long `events(follow=True)` waits for a service that does not answer before it raises the error."""
_INFERENCE = "bedrock-mantle:CreateInference"
_SETTLE_SECONDS = 1.0
"""Pause before the look for last events of a job that has ended."""
_LOOKS = (0.0, 1.0, 3.0)
"""Seconds before each look for a job whose creation was not answered."""


class BedrockJobs:
    """Files, fine-tuning jobs and tuned models of Bedrock's OpenAI-compatible API.

    Each result is a mapping over the service's JSON, so fields and states that this package does not know are there.
    Calls that fail are repeated up to five times where that is safe, within about 10 s. A service that does not answer
    at all is asked twice, for 60 s each.

    Args:
        region: AWS region.
        base_url: Another place for the API, with or without `/v1`, for example a stand-in on this machine. AWS
            credentials go only to the service's own hosts, to loopback, and to https hosts that
            `RFT_TRUSTED_ENDPOINTS` lists.
        auth: "token": a bearer token, which is `AWS_BEARER_TOKEN_BEDROCK` if that is set, else made from the AWS
            credentials whenever one is needed, so that it never outlives them. "sigv4": a signature on each request.
            On loopback, where no credentials are needed, made-up ones serve if there are none.
        client: An OpenAI client that is ready to use. `base_url` and `auth` then do not count, its retries do not
            happen, and whoever made it closes it. An `openai.BedrockOpenAI` that signs refuses to upload:
            `auth="sigv4"` does not.

    Raises:
        ConfigurationError: `region`, `base_url` or `auth` is wrong.
        UntrustedEndpointError: `base_url` must not receive AWS credentials.

    All calls raise:
        CredentialsError: There are no credentials, or they have expired.
        JobServiceError: The service refused the call. The message says what allows it.
        ThrottledError, ServiceFaultError, TransportError: The service or the network failed, also after repetitions.

    Concurrency: may be shared by threads. As a context manager it closes its connections at the end.
    """

    def __init__(
        self,
        region: str = "us-west-2",
        *,
        base_url: str | None = None,
        auth: Literal["token", "sigv4"] = "token",
        client: OpenAI | None = None,
    ) -> None:
        check_type("region", region, str, "the name of an AWS region")
        self.region = region
        made = client_for(region, base_url, auth) if client is None else client
        self._mantle = Mantle(made, owned=client is None)
        self.base_url = str(made.base_url).rstrip("/")

    def __repr__(self) -> str:
        return f"BedrockJobs(region={self.region!r}, base_url={self.base_url!r})"

    def __enter__(self) -> BedrockJobs:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections, unless they are those of a `client` that was passed in."""
        self._mantle.close()

    def upload(self, path: str | Path, *, check: bool = True) -> File:
        """Upload a file of training or validation rows. The whole file is held in memory.

        A repetition after a lost answer may leave a second copy of the file, which no job uses.

        Args:
            path: A jsonl file.
            check: Whether the rows are checked first, as `aws-rft dataset check --for bedrock` does.

        Raises:
            DatasetError: The file is missing, has another format, or breaks a rule. Nothing was sent.
        """
        path = Path(path)
        refuse_file(path, Target.BEDROCK, check=check)

        def call(client: OpenAI) -> dict[str, JSON]:
            answer = client.files.with_raw_response.create(purpose="fine-tune", file=path)
            return read_object(answer.http_response.text, "CreateFile")

        return File(*raw_and_id(self._mantle.ask("CreateFile", call), "CreateFile"))

    def delete_file(self, file: str | File) -> None:
        """Delete an uploaded file. Safe to repeat: a file that is gone already is no error."""
        try:
            self._mantle.send("DeleteFile", "delete", f"/files/{_in_path(file)}")
        except JobServiceError as error:
            if error.status != 404:
                raise

    def create(
        self,
        model: str,
        training_file: str | File,
        grader: str | Mapping[str, JSON],
        *,
        hyperparameters: Mapping[str, JSON] | None = None,
        validation_file: str | File | None = None,
    ) -> Job:
        """Create a job.

        The API has no key that makes repeating safe. So if an answer is lost, this looks three times within 4 s for
        a new job with the same training file. If the rest of the request is the same too, that job is returned. If
        there is no new job, the request is sent again, unless the call timed out: the service may still be at it.

        Args:
            model: Id of the model to tune, for example `openai.gpt-oss-20b`.
            training_file: What `upload` returned, or its id.
            grader: ARN of a Lambda function in the job's region, or the grader's JSON.
            hyperparameters: By the service's names: n_epochs, batch_size, learning_rate_multiplier, ... The service
                chooses those that are absent.
            validation_file: Like `training_file`. None for none.

        Raises:
            JobConfigError: The request is wrong; `problems` lists all of it. Nothing was sent.
            TransportError, ServiceFaultError: The outcome is unknown: look into `list()` before you create it again.
        """
        body = create_body(model, training_file, grader, hyperparameters, validation_file)
        refuse(problems(body, self.region), "the job cannot be created")
        before = self._jobs_of(body["training_file"])
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._job("CreateFineTuningJob", "post", "/fine_tuning/jobs", body=body, repeat="unsent")
            except ServiceError as error:
                lost = error
            if not lost.may_have_happened:
                break
            made = None if before is None else self._made_since(before, body["training_file"])
            if ours := [job for job in made or () if is_like(job, body)]:
                return ours[0]
            if made is None or made or attempt == ATTEMPTS or isinstance(lost, ServiceTimeoutError):
                others = f"; {', '.join(job.id for job in made)} may be it" if made else ""
                lost.args = (f"{lost}. Whether the job was created is unknown: look for it with list(){others}",)
                break
        raise lost from None

    def _made_since(self, before: Collection[Job], file: str) -> Collection[Job] | None:
        """Return the new jobs with a training file. Returns None if they cannot be listed."""
        known = {job.id for job in before}
        for seconds in _LOOKS:
            time.sleep(seconds)
            now = self._jobs_of(file)
            if now is None:
                return None
            if new := [job for job in now if job.id not in known]:
                return new
        return ()

    def _jobs_of(self, file: str) -> Collection[Job] | None:
        # By the training file alone: the service may spell the rest of the request in another way.
        try:
            return [job for job in self.list() if job.get("training_file") in (None, file)]
        except (ServiceError, CredentialsError):  # the call that creates the job will say so
            return None

    def _job(self, operation: str, method: Literal["get", "post"], path: str, **options: Any) -> Job:
        return read_job(self._mantle.send(operation, method, path, **options), operation)

    def get(self, job: str | Job) -> Job:
        """Return a job as it is now."""
        return self._job("GetFineTuningJob", "get", _path(job))

    def list(self) -> Iterator[Job]:
        """Yield all jobs, each once, in the service's order. Pages are read as they are needed."""
        for row in self._mantle.items("ListFineTuningJobs", "/fine_tuning/jobs"):
            yield read_job(row, "ListFineTuningJobs")

    def cancel(self, job: str | Job) -> Job:
        """Cancel a job for good, and return it. Safe to repeat: a job that is cancelled already is no error."""
        try:
            return self._job("CancelFineTuningJob", "post", f"{_path(job)}/cancel")
        except JobServiceError as error:
            now = self.get(job) if error.status in (400, 409) else None
            if now is None or now.state != "cancelled":
                raise
            return now

    def checkpoints(self, job: str | Job) -> Sequence[Checkpoint]:
        """Return the checkpoints that a job has saved so far, by their step. Those without a step are last."""
        rows = self._mantle.items("GetFineTuningJob", f"{_path(job)}/checkpoints")
        return sorted(map(read_checkpoint, rows), key=lambda item: (item.step is None, item.step or 0))

    def events(self, job: str | Job, *, follow: bool = False, poll_seconds: float = POLL_SECONDS) -> Iterator[Event]:
        """Yield the events of a job, each exactly once, by its step. Events without a step stand at their time.

        All events that can be read at once are in order. While following, an event that the service shows late is
        yielded late: exactly once counts for more than order. So each look reads all pages, of 100 events each.
        Leaving the loop, also by Ctrl-C, never touches the job.

        Args:
            job: The job or its id.
            follow: Whether to wait for further events until the job has ended and its last events are read. After
                the first answer, lost connections, throttling and server errors are waited out for 900 s.
            poll_seconds: Pause between two looks.

        Raises:
            ConfigurationError: `poll_seconds` is not above 0, or the id is empty.
        """
        check_seconds("poll_seconds", poll_seconds)
        return self._follow(_path(job), follow, poll_seconds)

    def _follow(self, path: str, follow: bool, poll_seconds: float) -> Iterator[Event]:
        seen = set[str]()
        answered_at: float | None = None
        failures = 0
        while True:
            try:
                # Asked first: what is read after the end is complete.
                job = self._job("GetFineTuningJob", "get", path) if follow else None
                rows = in_order(list(self._mantle.items("GetFineTuningJob", f"{path}/events")))
            except (TransportError, ThrottledError, ServiceFaultError) as error:
                if answered_at is None or time.monotonic() - answered_at > OUTAGE_SECONDS:
                    raise
                failures += 1
                pause = max(poll_seconds, BACKOFF.delay(failures, error.retry_after_seconds))
                logger.warning("pause_seconds=<%.1f>, error=<%s> | the events cannot be read now", pause, error)
                time.sleep(pause)
                continue
            answered_at, failures = time.monotonic(), 0
            fresh = [row for row in rows if id_of(row) not in seen]
            for row in fresh:
                seen.add(id_of(row))
                yield read_event(row)
            if job is None or (job.finished and not fresh):
                return
            time.sleep(min(poll_seconds, _SETTLE_SECONDS) if job.finished else poll_seconds)

    def chat(
        self,
        model: str | Job | Checkpoint,
        messages: Sequence[Mapping[str, JSON]],
        *,
        stream: bool = False,
        **options: Any,
    ) -> ChatCompletion | Stream[ChatCompletionChunk]:
        """Ask a model by chat completions.

        Calls that broke are repeated, so an answer may be paid for twice. Calls that timed out are not.

        Args:
            model: Id of a model, a job that has succeeded, or a checkpoint.
            messages: As chat completions take them.
            stream: Whether to return the answer piece by piece. A stream that breaks is not repeated.
            options: Further arguments of `openai.OpenAI().chat.completions.create`.

        Returns:
            The OpenAI client's own object, or its stream.
        """
        name = _model_of(model)
        return self._mantle.ask(
            "CreateInference",
            lambda client: _readable(
                client.chat.completions.create(
                    model=name, messages=cast(Any, list(messages)), stream=stream, **options
                ),
                None if stream else "choices",
            ),
            repeat="unless late",
        )

    def respond(
        self, model: str | Job | Checkpoint, input: str | Sequence[JSON], *, stream: bool = False, **options: Any
    ) -> Response | Stream[ResponseStreamEvent]:
        """Ask a model by the Responses API. Arguments, repetitions and results are as those of `chat`."""
        name, given = _model_of(model), input if isinstance(input, str) else list(input)
        return self._mantle.ask(
            "CreateInference",
            lambda client: _readable(
                client.responses.create(model=name, input=cast(Any, given), stream=stream, **options),
            ),
            repeat="unless late",
        )


def whole(pieces: Stream[ChatCompletionChunk]) -> Iterator[ChatCompletionChunk]:
    """Yield the pieces of a streamed chat, and raise if its end is missing. OpenAI's client takes that for the end.

    Raises:
        RFTError: The service or the network failed. What came before was yielded.
    """
    ended = False
    try:
        for piece in pieces:
            ended = ended or any(choice.finish_reason for choice in piece.choices or ())
            yield piece
    except Exception as error:  # openai does not translate what happens within a stream
        raise refusal(error, _INFERENCE) from None
    if not ended:
        raise ServiceConnectionError(f"{_INFERENCE}: the connection broke before the answer was whole. Ask again")


def _readable(answer: T, content: str | None = None) -> T:
    """Return an answer of a model. OpenAI's client takes any text, and objects without the content, for one."""
    if isinstance(answer, str) or (content is not None and getattr(answer, content, None) is None):
        raise unreadable("CreateInference")
    return answer


def _model_of(model: str | Job | Checkpoint) -> str:
    if isinstance(model, Job):
        if model.tuned_model is None:
            raise ConfigurationError(
                f"job {model.id} is {model.status} and has no tuned model; wait until it has succeeded and get() it "
                "again, or pass a checkpoint"
            )
        return model.tuned_model
    name = model.model if isinstance(model, Checkpoint) else model
    if not is_text(name):
        raise ConfigurationError(f"model must be the id of a model, a job or a checkpoint, not {name!r:.80}")
    return name


def _in_path(of: str | File | Job) -> str:
    found = of if isinstance(of, str) else of.id
    if not is_text(found):
        raise ConfigurationError(f"the id is {of!r:.80}; pass an id that the service gave, or what it belongs to")
    return in_path(found, safe=":")


def _path(job: str | Job) -> str:
    return f"/fine_tuning/jobs/{_in_path(job)}"

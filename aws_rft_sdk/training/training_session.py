"""Training sessions of SageMaker: our rows as their requests, and a client that keeps the order.

A session holds a model with LoRA on GPUs of AWS. Operations run in the order of their sequence numbers.
`docs/training-sessions.md` says how rows become requests, and what is not known about the service.
"""

from __future__ import annotations

import json
import math
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from botocore import xform_name

from aws_rft_sdk._backoff import Backoff
from aws_rft_sdk._checks import check_number
from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import (
    ConfigurationError,
    JobServiceError,
    PayloadError,
    ServiceFaultError,
    ServiceTimeoutError,
    ThrottledError,
    TransportError,
)
from aws_rft_sdk.jobs._aws import asking, client, session_for
from aws_rft_sdk.training.rows import Row
from aws_rft_sdk.wire import MESSAGE_MAX_LENGTH, loggable

Loss = Literal["cross_entropy", "importance_sampling", "ppo", "cispo"]
LOSSES: tuple[Loss, ...] = ("cross_entropy", "importance_sampling", "ppo", "cispo")
_FEWEST_TOKENS = 512
"""The service samples no fewer. An answer that should be shorter is cut, which changes none of its probabilities."""
_MOST_DATUMS, _MOST_BYTES = 1024, 10_000_000
"""Of one request, as the `sagemaker` SDK 3.27 cuts them. Gradients of several requests add up until the next step."""
_HIGHEST_RATE = 0.01
_TRANSIENT = (ThrottledError, ServiceFaultError, TransportError)
_ENDED = ("Completed", "Failed", "Skipped")


class Sampled(NamedTuple):
    """What was sampled. Both lists have the same length.

    Attributes:
        token_ids: The tokens.
        logprobs: Natural log-probability of each.
        finish_reason: `stop`, or `length` if the answer was cut off.
    """

    token_ids: list[int]
    logprobs: list[float]
    finish_reason: Literal["stop", "length"]


def datum(row: Row, advantages: Sequence[float], loss: Loss) -> dict[str, JSON]:
    """Return what a loss reads of a row: one element of a `datumList`.

    Position i of the model's input predicts token i + 1. So each number of a token stands one position before the
    token, and the last position, which predicts nothing, has zeros. Tokens that were not sampled have the weight 0.

    Args:
        row: Tokens, as `rows_of` returns them.
        advantages: One for each token of the completion, see `Row.per_token`. `cross_entropy` takes them as weights.
        loss: The loss that the datum is for.

    Raises:
        PayloadError: An advantage or a log-probability is not finite, or the row has other numbers of them than tokens.
    """
    if not len(advantages) == len(row.completion_ids) == len(row.logprobs) == len(row.mask):
        raise PayloadError(f"a row has {len(row.completion_ids)} tokens and {len(advantages)} advantages")
    if not all(map(math.isfinite, (*advantages, *row.logprobs))):
        raise PayloadError("an advantage or a log-probability of a row is not a finite number")
    before = (0.0,) * len(row.prompt_ids)
    ids = [int(token) for token in row.ids]

    def shifted(values: Sequence[float]) -> list[float]:
        return [*before, *map(float, values), 0.0][1:]

    inputs: dict[str, JSON] = {"target_tokens": _tensor([*ids[1:], 0], "int64")}
    if loss == "cross_entropy":
        inputs["weights"] = _tensor(shifted(advantages))
    else:
        inputs |= {"weights": _tensor(shifted(row.mask)), "logprobs": _tensor(shifted(row.logprobs))}
        inputs["advantages"] = _tensor(shifted(advantages))
    return {"modelInput": _model_input(ids), "lossFnInputs": inputs}


def _tensor(data: Sequence[float], kind: str = "float32") -> dict[str, JSON]:
    return {"data": list(data), "dtype": kind, "shape": [len(data)]}


def _model_input(ids: Sequence[int]) -> dict[str, JSON]:
    return {"chunks": [{"tokens": list(ids), "type": "encoded_text"}]}


class TrainingSession:
    """A running training session. One object sends all its training operations, since the service wants an order.

    Throttled calls, faults of the service and lost answers are repeated with the same sequence number and the same
    client token, so an operation that the service has taken is not done twice.

    Args:
        name: Of the session, which exists and is running.
        region: None for that of the environment.
        session: A boto3 session. None for boto3's usual sources.
        endpoint_url: Another place for both services. None for AWS.
        poll_seconds: First wait for a result. Waits double up to 8 times that.
        timeout_seconds: How long one operation may take, with all repetitions.

    Raises:
        ConfigurationError: There is no region, or a number is too small.
        JobServiceError, ServiceError, CredentialsError: The session cannot be described.

    Concurrency: all methods are safe from any thread. Training operations run one after the other.
    """

    def __init__(
        self,
        name: str,
        *,
        region: str | None = None,
        session: Any = None,
        endpoint_url: str | None = None,
        poll_seconds: float = 0.5,
        timeout_seconds: float = 3600.0,
    ) -> None:
        for what, value in (("poll_seconds", poll_seconds), ("timeout_seconds", timeout_seconds)):
            check_number(what, value, low=0.0001)
        self.name = name
        self._backoff = Backoff(poll_seconds, poll_seconds * 8)
        self._timeout = timeout_seconds
        aws = session_for(region, session)
        self._runtime = client(aws, "sagemakertrainingsessionruntime", endpoint_url=endpoint_url, attempts=1)
        self._control = client(aws, "sagemaker", endpoint_url=endpoint_url)
        self._lock = threading.RLock()
        self._last: int | None = self._received()
        """Number of the last operation that the service has. None if that must be asked."""

    def _received(self) -> int:
        with asking("sagemaker:DescribeTrainingSession"):
            found = self._control.describe_training_session(TrainingSessionName=self.name)["TrainingSessionDetail"]
        if found["TrainingSessionStatus"] not in ("Running", "Blocked"):
            raise ConfigurationError(f"the session {self.name} is {found['TrainingSessionStatus']}. It must be Running")
        return int(found.get("LastReceivedSequenceNumber") or 0)

    def forward_backward(
        self, data: Sequence[Mapping[str, JSON]], loss: Loss, config: Mapping[str, float] | None = None
    ) -> dict[str, float]:
        """Add the gradients of a loss to those that the next optimizer step takes.

        Args:
            data: From `datum`. Sent in several requests if there are many.
            loss: One of `LOSSES`.
            config: For example `clip_low_threshold` and `clip_high_threshold` of `ppo` and `cispo`. None for the
                service's own.

        Returns:
            Metrics of the service. Of several requests, the mean over all data.
        """
        total: dict[str, float] = {}
        with self._lock:  # no optimizer step may come between the requests
            for chunk in _chunks(data):
                body: dict[str, JSON] = {"lossFnName": loss, "datumList": chunk}
                body |= {"lossFnConfig": dict(config)} if config else {}
                for key, value in (self._train("forwardBackward", body).get("metrics") or {}).items():
                    total[key] = total.get(key, 0.0) + float(value) * len(chunk) / len(data)
        return total

    def optimizer_step(self, learning_rate: float, **adam: float) -> dict[str, float]:
        """Change the weights by the gradients since the last step.

        Args:
            learning_rate: Above 0, at most 0.01.
            adam: `beta1`, `beta2`, `eps`, `weightDecay`, `gradClipNorm`, `loraPlusLrRatio`. Left out, the service's.

        Returns:
            Metrics of the service.
        """
        if not 0 < learning_rate <= _HIGHEST_RATE:
            raise ConfigurationError(
                f"learning_rate is {learning_rate}. It must be above 0 and at most {_HIGHEST_RATE}"
            )
        body = {"adamParamsConfig": {"learningRate": learning_rate, **adam}}
        found = self._train("optimizerStep", body).get("metrics") or {}
        return {key: float(value) for key, value in found.items()}

    def save_state(self) -> str:
        """Save the weights and the optimizer's state, to go on from. Returns the ARN of a model package."""
        return str(self._train("saveState", {})["modelPackageArn"])

    def save_weights(self) -> str:
        """Save the weights, to sample from. Returns the ARN of a model package."""
        return str(self._train("saveWeights", {})["modelPackageArn"])

    def load_state(self, model_package_arn: str) -> None:
        """Go back to the weights and the optimizer's state that `save_state` saved."""
        self._train("loadState", {"modelPackageArn": model_package_arn, "loadOptimizer": True})

    def load_weights_for_sampling(self, model_package_arn: str) -> None:
        """Make weights that `save_weights` saved ready to sample from."""
        self._ask_sampler("loadWeightsForSampling", {"modelPackageArn": model_package_arn})

    def sample(
        self,
        prompt: Sequence[int],
        *,
        max_tokens: int = _FEWEST_TOKENS,
        temperature: float = 1.0,
        top_p: float = 1.0,
        stop: Sequence[str] = (),
        seed: int | None = None,
        model_package_arn: str | None = None,
    ) -> Sampled:
        """Sample one continuation of tokens.

        Args:
            prompt: Tokens, at least one.
            max_tokens: The service samples at least 512. If this is fewer, the rest is cut off.
            temperature: 0 to 2.
            top_p: 0 to 1.
            stop: Texts that end the answer.
            seed: None for one of the service.
            model_package_arn: Weights that were loaded for sampling. None for those that were loaded last.

        Raises:
            PayloadError: The service gave no token, or not one log-probability for each.
        """
        params: dict[str, JSON] = {"maxTokens": max(_FEWEST_TOKENS, max_tokens), "temperature": temperature}
        params |= {"topP": top_p} | ({"stop": list(stop)} if stop else {}) | ({} if seed is None else {"seed": seed})
        body: dict[str, JSON] = {"prompt": _model_input(prompt), "numSamples": 1, "samplingParams": params}
        body |= {"modelPackageArn": model_package_arn} if model_package_arn else {}
        found = self._ask_sampler("sample", body)["sequences"][0]
        ids, logprobs = found["tokens"], found.get("logprobs") or []
        if not ids or len(ids) != len(logprobs):
            raise PayloadError(f"the session sampled {len(ids)} tokens and gave {len(logprobs)} log-probabilities")
        is_cut = len(ids) > max_tokens
        reason: Literal["stop", "length"] = "length" if is_cut or found["stopReason"] == "length" else "stop"
        return Sampled(list(ids[:max_tokens]), [float(value) for value in logprobs[:max_tokens]], reason)

    def _train(self, kind: str, body: Mapping[str, JSON]) -> dict[str, Any]:
        with self._lock:
            number = (self._received() if self._last is None else self._last) + 1
            self._last = None  # if nobody knows whether the operation arrives, the next one asks
            deadline = time.monotonic() + self._timeout
            sent = {"sequenceNumber": number, "clientToken": str(uuid.uuid4()), "operationConfig": {kind: body}}
            taken = self._repeat("ExecuteTrainingOperation", sent, deadline)
            self._last = number
            return self._result("GetTrainingOperationResult", taken["operationId"], kind, deadline)

    def _ask_sampler(self, kind: str, body: Mapping[str, JSON]) -> dict[str, Any]:
        deadline = time.monotonic() + self._timeout
        taken = self._repeat("ExecuteSamplingOperation", {"operationConfig": {kind: body}}, deadline)
        return self._result("GetSamplingOperationResult", taken["operationId"], kind, deadline)

    def _result(self, operation: str, operation_id: str, kind: str, deadline: float) -> dict[str, Any]:
        attempt = 0
        while (found := self._repeat(operation, {"operationId": operation_id}, deadline))["status"] not in _ENDED:
            attempt += 1
            self._wait(attempt, deadline, f"{kind} {operation_id} is {found['status']}")
        if found["status"] == "Completed":
            return dict((found.get("operationResult") or {}).get(kind) or {})
        reason = loggable(found.get("errorDetails") or "the service gave no reason", MESSAGE_MAX_LENGTH)
        raise JobServiceError(
            f"{kind} {operation_id} of the session {self.name} is {found['status']}: {reason}",
            action=f"sagemaker:{operation}",
            code=found["status"],
        )

    def _repeat(self, operation: str, parameters: Mapping[str, JSON], deadline: float) -> Any:
        """Call the runtime until it answers. A repetition has the same parameters."""
        method = getattr(self._runtime, xform_name(operation))
        attempt = 0
        while True:
            try:
                with asking(f"sagemaker:{operation}"):
                    return method(trainingSessionName=self.name, **parameters)
            except _TRANSIENT as error:
                attempt += 1
                if time.monotonic() >= deadline:
                    raise
                self._wait(attempt, deadline, str(error))

    def _wait(self, attempt: int, deadline: float, why: str) -> None:
        if time.monotonic() >= deadline:
            raise ServiceTimeoutError(f"the session {self.name} took more than {self._timeout:g} s: {why}")
        time.sleep(self._backoff.delay(attempt))


def _chunks(data: Sequence[Mapping[str, JSON]]) -> Iterator[list[Mapping[str, JSON]]]:
    chunk: list[Mapping[str, JSON]] = []
    size = 0
    for item in data:
        length = len(json.dumps(item))
        if chunk and (len(chunk) == _MOST_DATUMS or size + length > _MOST_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(item)
        size += length
    if chunk:
        yield chunk

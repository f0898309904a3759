"""A stand-in for SageMaker's training sessions over real HTTP, which botocore's own model checks, and no kinder.

The model is a softmax over a few tokens that says one token and ends, so it really learns from gradients. Operations
are taken in the order of their numbers only: a number that was used is refused unless its client token is the same, and
one beyond a gap waits for ever. Results come late. Answers get lost after their operation was taken. Calls are
throttled.
"""

from __future__ import annotations

import copy
import json
import math
import re
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from typing import Any

import botocore.session
from botocore.validate import ParamValidator

NAME = "session-1"
TOKENS = (11, 12, 13, 14)
"""What the model can say."""
_MODEL = botocore.session.Session().get_service_model("sagemakertrainingsessionruntime")
_PATH = re.compile(r"/v1/training-sessions/([^/]+)/(sampling-)?operations(?:/([^/]+))?")
_NEEDED = {"cross_entropy": {"target_tokens", "weights"}}
_RL = {"target_tokens", "weights", "logprobs", "advantages"}
_KNOWN = _RL | {"ref_log_prob", "temperature"}


class Refused(Exception):
    """An answer that is no result: its status and its code."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


def broken_rule(shape: Any, value: Any) -> str | None:
    """Return what the service refuses and `ParamValidator` does not look at: maxima, choices, patterns and unions."""
    kind, limits = shape.type_name, shape.metadata
    size = len(value) if kind in ("string", "list") else value if kind in ("integer", "double") else 0
    if size > limits.get("max", math.inf):
        return f"{shape.name} is above {limits['max']}"
    if kind == "string" and shape.enum and value not in shape.enum:
        return f"{shape.name} is {value}"
    if kind == "string" and not re.fullmatch(limits.get("pattern", ".*"), value, re.DOTALL):
        return f"{shape.name} is malformed"
    inner: list[Any] = []
    if kind == "structure" and not getattr(shape, "is_document_type", False):
        if shape.is_tagged_union and len(value) != 1:
            return f"{shape.name} has {sorted(value)}"
        inner = [(shape.members[name], item) for name, item in value.items()]
    elif kind == "list":
        inner = [(shape.member, item) for item in value]
    elif kind == "map":
        inner = [(shape.value, item) for item in value.values()]
    return next((found for part, item in inner if (found := broken_rule(part, item))), None)


class Sessions:
    """The service. Use it as a context manager.

    Attributes:
        throttle_every: Each n-th call is answered 429. 0 for none.
        fail_every: Each n-th call is answered 500.
        lose_every: The answer of each n-th call gets lost.
        polls: How often a result is not ready.
        outcomes: By the number of an operation: `Failed`, `Skipped`, or `Pending` for ever. Others are `Completed`.
        status: Of the session.
        done: Kinds of the training operations that were done, in order.
        calls: Operation and parameters of each call that was right.
        wrong: What was wrong with other calls.
        speak: Gets the tokens of a prompt, and returns what is sampled. None for the model.
    """

    def __init__(self, seed: int = 0) -> None:
        self.throttle_every = self.fail_every = self.lose_every = 0
        self.polls, self.status, self.last = 1, "Running", 0
        self.outcomes: dict[int, str] = {}
        self.done: list[str] = []
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.wrong: list[str] = []
        self.logits = dict.fromkeys(TOKENS, 0.0)
        self.gradient = dict.fromkeys(TOKENS, 0.0)
        self.saved: dict[str, dict[int, float]] = {}
        self.sampler: dict[str, dict[int, float]] = {}
        self.answer_logprobs = True
        self.speak: Callable[[list[int]], list[int]] | None = None
        self._count, self._random, self._lock = 0, Random(seed), threading.Lock()
        self._tokens: dict[int, tuple[str, str]] = {}
        self._results: dict[str, tuple[str, dict[str, Any]]] = {}
        self._waits: dict[str, int] = {}

    def __enter__(self) -> Sessions:
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # headers and body in one packet

            def log_message(self, *args: Any) -> None:
                pass

            def do_POST(self) -> None:
                service._answer(self)

            do_GET = do_POST

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, http: BaseHTTPRequestHandler) -> None:
        body = http.rfile.read(int(http.headers.get("Content-Length") or 0))
        is_control = "X-Amz-Target" in http.headers
        with self._lock:
            try:
                found, status = (self._control(body) if is_control else self._run(http.path, body)), 200
            except Refused as error:
                found, status = {"message": str(error)}, error.status
                http_code = error.code
            lost = status == 200 and not is_control and self._is_turn(self.lose_every)
        if lost:
            http.close_connection = True
            http.connection.shutdown(socket.SHUT_RDWR)
            return
        text = json.dumps(found).encode()
        http.send_response(status)
        if status != 200:
            http.send_header("x-amzn-errortype", http_code)
        http.send_header("Content-Length", str(len(text)))
        http.end_headers()
        http.wfile.write(text)
        http.wfile.flush()

    def _is_turn(self, every: int) -> bool:
        return every > 0 and self._count % every == 0

    def _control(self, body: bytes) -> dict[str, Any]:
        assert json.loads(body) == {"TrainingSessionName": NAME}
        detail = {"TrainingSessionArn": "arn", "TrainingSessionName": NAME, "TrainingSessionStatus": self.status}
        return {"TrainingSessionDetail": {**detail, "CreationTime": 1.0, "LastReceivedSequenceNumber": self.last}}

    def _run(self, path: str, body: bytes) -> dict[str, Any]:
        self._count += 1
        if self._is_turn(self.throttle_every):
            raise Refused(429, "ThrottlingException", "slow down")
        if self._is_turn(self.fail_every):
            raise Refused(500, "InternalServerException", "oops")
        found = _PATH.fullmatch(path)
        assert found, path
        kind = "Sampling" if found[2] else "Training"
        name = f"Get{kind}OperationResult" if found[3] else f"Execute{kind}Operation"
        parameters = {"trainingSessionName": found[1], **({"operationId": found[3]} if found[3] else json.loads(body))}
        shape = _MODEL.operation_model(name).input_shape
        report = ParamValidator().validate(parameters, shape)
        wrong = report.generate_report() if report.has_errors() else broken_rule(shape, parameters)
        if wrong:
            self.wrong.append(wrong)
            raise Refused(400, "ValidationException", wrong)
        self.calls.append((name, parameters))
        if found[3]:
            return self._result(found[3])
        return self._train(**parameters) if kind == "Training" else self._sample(parameters["operationConfig"])

    def _result(self, operation_id: str) -> dict[str, Any]:
        if operation_id not in self._results:
            raise Refused(404, "ResourceNotFoundException", f"no operation {operation_id}")
        outcome, result = self._results[operation_id]
        waits = self._waits[operation_id] = self._waits.get(operation_id, 0) + 1
        if waits <= self.polls or outcome == "Pending":
            return {"status": "Pending" if waits == 1 else "InProgress"}
        if outcome != "Completed":
            return {"status": outcome, "errorDetails": "CUDA error; Authorization: Bearer sagemaker-api-key-c2VjcmV0"}
        return {"status": outcome, "operationResult": result}

    def _put(self, outcome: str, result: dict[str, Any]) -> str:
        operation_id = f"op-{len(self._results) + 1}"
        self._results[operation_id] = outcome, result
        return operation_id

    def _train(
        self, trainingSessionName: str, sequenceNumber: int, clientToken: str, operationConfig: dict[str, Any]
    ) -> dict[str, Any]:
        if sequenceNumber in self._tokens:
            token, operation_id = self._tokens[sequenceNumber]
            if token != clientToken:
                self.wrong.append(f"number {sequenceNumber} twice")
                raise Refused(409, "ConflictException", f"number {sequenceNumber} was used")
            return {"operationId": operation_id}
        [(kind, config)] = operationConfig.items()
        is_next = sequenceNumber == self.last + 1
        self.wrong += [] if is_next else [f"number {sequenceNumber} after {self.last}"]
        outcome = self.outcomes.get(sequenceNumber, "Completed") if is_next else "Pending"
        self.last = max(self.last, sequenceNumber)
        result: dict[str, Any] = {}
        if outcome == "Completed":
            try:
                result = getattr(self, f"_do_{kind}")(config) or {}
                self.done.append(kind)
            except Refused as error:
                self.wrong.append(str(error))
                outcome = "Failed"
        operation_id = self._put(outcome, {kind: result})
        self._tokens[sequenceNumber] = clientToken, operation_id
        return {"operationId": operation_id}

    def _do_forwardBackward(self, config: dict[str, Any]) -> dict[str, Any]:
        loss = config["lossFnName"]
        needed = _NEEDED.get(loss, _RL)
        for item in config["datumList"]:
            ids = item["modelInput"]["chunks"][0]["tokens"]
            inputs = item.get("lossFnInputs", {})
            if needed - set(inputs) or set(inputs) - _KNOWN:
                raise Refused(400, "", f"{loss} needs {needed}, not {set(inputs)}")
            if any(len(value["data"]) != len(ids) for value in inputs.values()):
                raise Refused(400, "", "a tensor is not as long as the input")
            if inputs["target_tokens"]["data"][:-1] != ids[1:] or inputs["weights"]["data"][-1]:
                raise Refused(400, "", "targets are not the next tokens")
            self._add(loss, {name: value["data"] for name, value in inputs.items()})
        return {"metrics": {"loss": float(len(config["datumList"]))}, "tokenUsage": {"trainingTokens": 1}}

    def _add(self, loss: str, inputs: dict[str, list[float]]) -> None:
        now = probabilities(self.logits)
        for position, target in enumerate(inputs["target_tokens"]):
            weight = inputs["weights"][position]
            if weight and target in self.logits:
                advantage = 1.0 if loss == "cross_entropy" else inputs["advantages"][position]
                ratio = 1.0 if loss == "cross_entropy" else now[target] / math.exp(inputs["logprobs"][position])
                for token in TOKENS:
                    self.gradient[token] += weight * advantage * ratio * ((token == target) - now[token])

    def _do_optimizerStep(self, config: dict[str, Any]) -> dict[str, Any]:
        rate = config["adamParamsConfig"]["learningRate"]
        norm = math.sqrt(sum(value**2 for value in self.gradient.values()))
        self.logits = {token: value + 100 * rate * self.gradient[token] for token, value in self.logits.items()}
        self.gradient = dict.fromkeys(TOKENS, 0.0)
        return {"metrics": {"grad_norm": norm}}

    def _save(self, kind: str) -> dict[str, Any]:
        arn = f"arn:aws:sagemaker:us-west-2:123456789012:model-package/{kind}/{len(self.saved) + 1}"
        self.saved[arn] = copy.copy(self.logits)
        return {"modelPackageArn": arn}

    def _do_saveState(self, config: dict[str, Any]) -> dict[str, Any]:
        return self._save("state")

    def _do_saveWeights(self, config: dict[str, Any]) -> dict[str, Any]:
        return self._save("weights")

    def _do_loadState(self, config: dict[str, Any]) -> None:
        if "/state/" not in config["modelPackageArn"] or config["modelPackageArn"] not in self.saved:
            raise Refused(400, "", "no such state")
        self.logits = copy.copy(self.saved[config["modelPackageArn"]])

    def _sample(self, config: dict[str, Any]) -> dict[str, Any]:
        [(kind, body)] = config.items()
        arn = body.get("modelPackageArn")
        if kind == "loadWeightsForSampling":
            if "/weights/" not in arn or arn not in self.saved:
                raise Refused(400, "ValidationException", "no such weights")
            self.sampler[arn] = self.saved[arn]
            return {"operationId": self._put("Completed", {kind: {}})}
        if arn not in self.sampler and arn is not None:
            raise Refused(409, "ConflictException", "these weights were not loaded")
        table = probabilities(self.sampler[arn] if arn else self.logits)
        prompt = body["prompt"]["chunks"][0]["tokens"]
        ids = self.speak(prompt) if self.speak else self._random.choices(list(table), list(table.values()))
        sequence: dict[str, Any] = {"tokens": ids, "stopReason": "stop"}
        if self.answer_logprobs:
            sequence["logprobs"] = [math.log(table.get(token, 0.5)) for token in ids]
        return {"operationId": self._put("Completed", {"sample": {"sequences": [sequence]}})}


def probabilities(logits: dict[int, float]) -> dict[int, float]:
    """Return the softmax of logits."""
    powers = {token: math.exp(value - max(logits.values())) for token, value in logits.items()}
    return {token: value / sum(powers.values()) for token, value in powers.items()}

"""The services behind the port of `LocalJobs`, as an ASGI application."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from starlette.types import Receive, Scope, Send

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.runtime import answers
from aws_rft_sdk.runtime._database import JobEndedError
from aws_rft_sdk.runtime.answers import Refusal
from aws_rft_sdk.runtime.app import read_body
from aws_rft_sdk.runtime.auth import Verifier
from aws_rft_sdk.runtime.faults import ConnectionGoneError, Faults, strike
from aws_rft_sdk.runtime.sagemaker.checking import check, read_json
from aws_rft_sdk.runtime.sagemaker.control import ACCOUNT, ControlPlane, Engine, Place
from aws_rft_sdk.runtime.sagemaker.logs import Logs
from aws_rft_sdk.runtime.sagemaker.messages import Answer, Asked, Service, json_answer, read, xml_answer
from aws_rft_sdk.runtime.sagemaker.mlflow import Mlflow
from aws_rft_sdk.runtime.sagemaker.mlflow import serves as serves_mlflow
from aws_rft_sdk.runtime.sagemaker.objects import Objects
from aws_rft_sdk.runtime.sagemaker.s3 import S3
from aws_rft_sdk.runtime.sagemaker.sessions import Sessions
from aws_rft_sdk.runtime.sagemaker.store import Store

logger = logging.getLogger(__name__)

SIGNING_NAMES = ("sagemaker", "logs", "s3", "sts", "bedrock-agentcore")
"""The services by the names that requests to them are signed for."""
MLFLOW = "mlflow"
_SCOPE = re.compile(rb"Credential=[^/]+/[0-9]+/[^/]+/([^/]+)/aws4_request")
_BAD_SIGNATURE = "InvalidSignatureException"
_JSON_TYPE = "application/x-amz-json-1.1"


class Door:
    """Every call comes in here: finds its service, verifies it, draws a fault, and answers every failure.

    Args:
        services: By their signing names, and MLflow.
        verifiers: By signing names.
        faults: Trouble to make on purpose. None for none.
        die: Ends the server like a killed process.
    """

    def __init__(
        self,
        services: Mapping[str, Service],
        verifiers: Mapping[str, Verifier],
        faults: Faults | None,
        die: Callable[[], None],
    ) -> None:
        self._services, self._verifiers, self._faults, self._die = services, verifiers, faults, die

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one call."""
        name = service_of(scope)
        service = self._services[name]
        try:
            body = await read_body(scope["headers"], receive)
            if body is None:
                return  # the caller has hung up
            if name in self._verifiers:
                self._verify(name, scope, body)
            handle = functools.partial(_answer, service, read(scope, body))
            fault = None if self._faults is None else self._faults.draw("jobs", scope["headers"], body)
            if fault is None:
                await handle(send)
            elif fault.kind == "skew":
                raise Refusal(403, "Signature expired: its date is too far from the server's", code=_BAD_SIGNATURE)
            else:
                await strike(fault, handle, send, self._die)
        except Refusal as refusal:
            await _send(send, service.refuse(refusal))
        except ConnectionGoneError:
            pass
        except JobEndedError:
            await _send(send, service.refuse(Refusal(500, "The server is stopping", code="InternalFailure")))
        except Exception as error:
            logger.exception("path=<%s> | LocalJobs failed", scope["path"])
            text = f"LocalJobs failed: {type(error).__name__}: {error}"
            await _send(send, service.refuse(Refusal(500, text, code="InternalFailure")))

    def _verify(self, name: str, scope: Scope, body: bytes) -> None:
        raw_path = scope.get("raw_path") or scope["path"].encode()
        try:
            self._verifiers[name].verify(scope["method"], raw_path, scope["query_string"], scope["headers"], body)
        except Refusal as refusal:
            code = "SignatureDoesNotMatch" if name == "s3" else _BAD_SIGNATURE
            raise Refusal(403, refusal.message, code=code) from None


def service_of(scope: Scope) -> str:
    """Return which service a call is for: by what it is signed for, else by its headers and path."""
    headers = dict(scope["headers"])
    match = _SCOPE.search(headers.get(b"authorization", b""))
    if match is not None and match[1].decode("latin-1") in SIGNING_NAMES:
        return match[1].decode("latin-1")
    target, path = headers.get(b"x-amz-target", b""), scope["path"]
    if target:
        return "logs" if target.startswith(b"Logs_") else "sagemaker"
    if serves_mlflow(path) and scope["method"] in ("GET", "POST"):
        is_form = headers.get(b"content-type", b"").startswith(b"application/x-www-form-urlencoded")
        return "sts" if path == "/" and is_form else MLFLOW
    return "bedrock-agentcore" if path.startswith("/runtimes/") else "s3"


async def _answer(service: Service, asked: Asked, send: Send) -> None:
    await _send(send, service.answer(asked))


async def _send(send: Send, answer: Answer) -> None:
    told = {name for name, _ in answer.headers}
    headers = [
        (b"content-type", answer.type.encode()),
        (b"x-amzn-requestid", answers.new_request_id()),
        *((name.encode(), value.encode("latin-1", "replace")) for name, value in answer.headers),
    ]
    if "content-length" not in told and answer.status not in (204, 304):
        headers.append((b"content-length", str(len(answer.body)).encode()))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})


class Services(NamedTuple):
    """What the services behind the port need."""

    store: Store
    objects: Objects
    engine: Engine
    sessions: Sessions
    place: Place

    def by_name(self) -> dict[str, Service]:
        """Return the services by their signing names, and MLflow."""
        control = ControlPlane(self.store, self.engine, self.sessions, self.place)
        return {
            "sagemaker": JsonService("SageMaker", control.answer),
            "logs": JsonService("Logs_20140328", Logs(self.store).answer),
            "s3": S3(self.objects, self.place.region),
            "sts": Sts(),
            "bedrock-agentcore": AgentCoreControl(self.place),
            MLFLOW: Mlflow(self.store, self.sessions),
        }


class JsonService:
    """A service that takes its operation in `X-Amz-Target`, and its parameters as JSON.

    Args:
        prefix: What the header begins with, for example `SageMaker`.
        call: Answers an operation with its parameters.
    """

    def __init__(self, prefix: str, call: Callable[[str, dict[str, JSON]], dict[str, JSON]]) -> None:
        self._prefix, self._call = prefix, call

    def answer(self, asked: Asked) -> Answer:  # noqa: D102 - see Service
        prefix, _, operation = asked.headers.get("x-amz-target", "").rpartition(".")
        if prefix != self._prefix or asked.method != "POST":
            text = f"The call must be a POST with the header X-Amz-Target: {self._prefix}.<operation>"
            raise Refusal(400, text, code="UnknownOperationException")
        return json_answer(self._call(operation, read_json(asked.body)), content_type=_JSON_TYPE)

    def refuse(self, refusal: Refusal) -> Answer:  # noqa: D102 - see Service
        return json_answer(
            {"__type": refusal.code, "Message": refusal.message}, status=refusal.status, content_type=_JSON_TYPE
        )


class Sts:
    """GetCallerIdentity."""

    def answer(self, asked: Asked) -> Answer:  # noqa: D102 - see Service
        if b"Action=GetCallerIdentity" not in asked.body.split(b"&"):
            raise Refusal(400, "LocalJobs serves GetCallerIdentity and nothing else of STS", code="InvalidAction")
        identity = {"Arn": f"arn:aws:iam::{ACCOUNT}:user/local", "UserId": "LOCAL", "Account": ACCOUNT}
        return xml_answer("GetCallerIdentityResponse", {"GetCallerIdentityResult": identity})

    def refuse(self, refusal: Refusal) -> Answer:  # noqa: D102 - see Service
        error = {"Type": "Sender", "Code": refusal.code, "Message": refusal.message}
        return xml_answer("ErrorResponse", {"Error": error}, status=refusal.status)


class AgentCoreControl:
    """GetAgentRuntime. Every runtime with a well-formed id exists.

    Args:
        place: Region of the runtimes.
    """

    def __init__(self, place: Place) -> None:
        self._place = place

    def answer(self, asked: Asked) -> Answer:  # noqa: D102 - see Service
        match = re.fullmatch("/runtimes/([^/]+)/?", asked.path)
        if match is None or asked.method != "GET":
            raise Refusal(404, "LocalJobs serves GetAgentRuntime and nothing else", code="UnknownOperationException")
        runtime_id = match[1]
        check("bedrock-agentcore-control", "GetAgentRuntime", {"agentRuntimeId": runtime_id})
        at = "2026-01-01T00:00:00Z"
        return json_answer(
            {
                "agentRuntimeArn": f"arn:aws:bedrock-agentcore:{self._place.region}:{ACCOUNT}:runtime/{runtime_id}",
                "agentRuntimeId": runtime_id,
                "agentRuntimeName": runtime_id.rpartition("-")[0],
                "agentRuntimeVersion": "1",
                "createdAt": at,
                "lastUpdatedAt": at,
                "roleArn": f"arn:aws:iam::{ACCOUNT}:role/Agent",
                "networkConfiguration": {"networkMode": "PUBLIC"},
                "lifecycleConfiguration": {},
                "status": "READY",
            }
        )

    def refuse(self, refusal: Refusal) -> Answer:  # noqa: D102 - see Service
        return json_answer({"message": refusal.message}, status=refusal.status)._replace(
            headers=(("x-amzn-errortype", refusal.code),)
        )

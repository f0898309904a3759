"""Errors of the real openai and botocore clients, as errors of this package."""

from __future__ import annotations

import json
import socket
import traceback
from collections.abc import Iterator
from typing import Any

import botocore.exceptions as botocore_errors
import httpx
import openai
import pytest
from botocore.client import BaseClient
from botocore.config import Config
from botocore.session import Session

from aws_rft_sdk import errors
from aws_rft_sdk.jobs import BedrockJobs
from aws_rft_sdk.jobs._refusals import refusal
from tests.jobs.mantle import Mantle, Trouble

CREATE = "bedrock-mantle:CreateFineTuningJob"
DENIED = (
    "User: arn:aws:sts::123456789012:assumed-role/dev/me is not authorized to perform: lambda:InvokeFunction on "
    "resource: arn:aws:lambda:us-west-2:123456789012:function:gsm8k because no identity-based policy allows it"
)
AWS_FORM = {"message": "no", "__type": "a.b#ValidationException:http"}
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
SESSION = "IQoJb3JpZ2luX2VjEXAMPLE"


def said(message: str, code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": "error", "code": code}}


@pytest.fixture
def aws(mantle: Mantle) -> BaseClient:
    """Return a real Lambda client, whose calls the service answers with troubles only."""
    session = Session()
    session.set_credentials("AKIDEXAMPLE", SECRET, SESSION)
    config = Config(retries={"total_max_attempts": 1})
    client: BaseClient = session.create_client("lambda", "us-west-2", endpoint_url=mantle.endpoint, config=config)
    return client


def by_openai(mantle: Mantle, status: int, body: object, headers: dict[str, str]) -> errors.RFTError:
    mantle.troubles["GetFineTuningJob"].append(Trouble(status, body=body, headers=tuple(headers.items())))
    with openai.OpenAI(base_url=f"{mantle.endpoint}/v1", api_key="ABSKtoken", max_retries=0) as client:
        try:
            client.fine_tuning.jobs.retrieve("j")
        except openai.OpenAIError as error:
            return refusal(error, CREATE)
    raise AssertionError("it went well")


JOB = errors.JobServiceError


@pytest.mark.parametrize(
    ("status", "body", "kind", "told"),
    [
        pytest.param(400, said("unknown field suffix"), JOB, "refused (400 error): unknown field suffix.", id="400"),
        pytest.param(400, AWS_FORM, JOB, "(400 ValidationException)", id="aws-form"),
        pytest.param(400, "<html>proxy</html>", JOB, "<html>proxy</html>", id="no-json"),
        pytest.param(400, "", JOB, "no reason was given", id="empty"),
        pytest.param(400, "[" * 5000, JOB, "(400)", id="nested"),
        pytest.param(401, said("expired"), errors.CredentialsError, "aws sso login", id="401"),
        pytest.param(403, said("old", "ExpiredTokenException"), errors.CredentialsError, "expired", id="403-expired"),
        pytest.param(403, said(DENIED), JOB, '"Action": ["lambda:InvokeFunction"]', id="403"),
        pytest.param(403, said("no"), JOB, f'"Action": ["{CREATE}"], "Resource": ["*"]', id="403-mute"),
        pytest.param(403, said(f"{DENIED}, with an explicit deny"), JOB, "Remove that denial", id="403-denied"),
        pytest.param(404, said("model x"), JOB, "us-west-2 only", id="404"),
        pytest.param(400, said("x", "model_not_found"), JOB, "Check the id or name", id="unknown-model"),
        pytest.param(429, said("slow"), errors.ThrottledError, "try again later", id="429"),
        pytest.param(429, said("x", "insufficient_quota"), JOB, "Service Quotas", id="429-quota"),
        pytest.param(402, said("x"), JOB, "Service Quotas", id="402"),
        pytest.param(500, said("x"), errors.ServiceFaultError, "The service is at fault", id="500"),
        pytest.param(302, "", JOB, "(302)", id="redirect"),
    ],
)  # fmt: skip
def test_refusal_when_openai_raised_then_the_status_and_code_decide(
    status: int, body: object, kind: type[errors.RFTError], told: str, mantle: Mantle
) -> None:
    error = by_openai(mantle, status, body, {"retry-after": "7", "x-request-id": "r-1"})
    assert type(error) is kind
    assert str(error).startswith(CREATE)
    assert told in str(error)
    assert "\n" not in str(error)
    if isinstance(error, errors.StatusError):
        assert (error.status, error.request_id) == (status, "r-1")
        assert error.may_have_happened is (status == 500)
    if isinstance(error, errors.ThrottledError):
        assert error.retry_after_seconds == 7
    if isinstance(error, JOB):
        assert error.action == CREATE


@pytest.mark.parametrize(
    ("status", "code", "kind", "told"),
    [
        pytest.param(403, "AccessDeniedException", JOB, '"Action": ["lambda:InvokeFunction"]', id="denied"),
        pytest.param(400, "AccessDeniedException", JOB, '"Resource": ["arn:aws:lambda:us-west-2', id="denied-as-400"),
        pytest.param(403, "ExpiredTokenException", errors.CredentialsError, "aws sso login", id="expired"),
        pytest.param(403, "UnrecognizedClientException", errors.CredentialsError, "expired, wrong", id="unknown-key"),
        pytest.param(404, "ResourceNotFoundException", JOB, "Check the id or name", id="missing"),
        pytest.param(400, "ServiceQuotaExceededException", JOB, "Service Quotas", id="quota"),
        pytest.param(400, "ThrottlingException", errors.ThrottledError, "try again later", id="throttled"),
        pytest.param(409, "ResourceConflictException", JOB, "(409 ResourceConflictException)", id="conflict"),
        pytest.param(502, "ServiceException", errors.ServiceFaultError, "at fault", id="fault"),
    ],
)
def test_refusal_when_botocore_raised_then_the_code_decides(
    status: int, code: str, kind: type[errors.RFTError], told: str, mantle: Mantle, aws: BaseClient
) -> None:
    headers = (("x-amzn-errortype", code), ("x-amzn-requestid", "r-2"))
    mantle.troubles[""].append(Trouble(status, body={"Message": DENIED}, headers=headers))
    with pytest.raises(botocore_errors.ClientError) as raised:
        aws.get_function(FunctionName="gsm8k")
    error = refusal(raised.value, "lambda:GetFunction", "arn:aws:lambda:us-west-2:123456789012:function:gsm8k")
    assert type(error) is kind
    assert told in str(error)
    if isinstance(error, errors.StatusError):
        assert (error.status, error.code, error.request_id) == (status, code, "r-2")


@pytest.fixture
def nobody() -> Iterator[str]:
    """Return a URL where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.mark.parametrize(("action", "may"), [("x:ListFiles", False), ("x:GetFile", False), ("x:CreateFile", True)])
def test_refusal_when_the_call_only_reads_then_it_cannot_have_happened(action: str, may: bool) -> None:
    error = refusal(httpx.ReadError("reset"), action)

    assert isinstance(error, errors.TransportError)
    assert error.may_have_happened == may
    assert ("It may have worked" in str(error)) == may


def test_refusal_when_nobody_listens_then_nothing_can_have_happened(nobody: str) -> None:
    session = Session()
    session.set_credentials("AKIDEXAMPLE", SECRET)
    config = Config(retries={"total_max_attempts": 1})
    client = session.create_client("lambda", "us-west-2", endpoint_url=nobody, config=config)
    with pytest.raises(botocore_errors.EndpointConnectionError) as by_botocore:
        client.list_functions()
    other = openai.OpenAI(base_url=nobody, api_key="x", max_retries=0)
    with other, pytest.raises(openai.APIConnectionError) as raised:
        other.models.list()
    for raw in (by_botocore.value, raised.value):
        error = refusal(raw, "x:Y")
        assert isinstance(error, errors.ServiceConnectionError)
        assert not error.may_have_happened
        assert "Check the network, the endpoint and the region" in str(error)


@pytest.mark.parametrize(
    ("error", "kind", "told"),
    [
        pytest.param(botocore_errors.NoCredentialsError(), errors.CredentialsError, "AWS_PROFILE", id="none"),
        pytest.param(botocore_errors.ProfileNotFound(profile="x"), errors.CredentialsError, "(x)", id="profile"),
        pytest.param(botocore_errors.UnauthorizedSSOTokenError(), errors.CredentialsError, "aws sso login", id="sso"),
        pytest.param(
            botocore_errors.ReadTimeoutError(endpoint_url="u"), errors.ServiceTimeoutError, "may have worked", id="late"
        ),
        pytest.param(
            botocore_errors.ConnectionClosedError(endpoint_url="u"), errors.ServiceConnectionError, "may", id="closed"
        ),
        pytest.param(
            botocore_errors.ParamValidationError(report="Invalid length"),
            errors.ConfigurationError,
            "was not sent: ParamValidationError: Parameter validation failed",
            id="arguments",
        ),
        pytest.param(botocore_errors.NoRegionError(), errors.ConfigurationError, "region", id="region"),
        pytest.param(openai.OpenAIError("odd"), JOB, "OpenAIError: odd", id="other"),
        pytest.param(errors.DatasetError("mine"), errors.DatasetError, "mine", id="our-own"),
    ],
)
def test_refusal_when_there_is_no_answer_then_the_class_decides(
    error: Exception, kind: type[errors.RFTError], told: str
) -> None:
    found = refusal(error, "x:Y")
    assert type(found) is kind
    assert told in str(found)


def test_refusal_when_raised_while_another_error_is_handled_then_it_is_about_the_newer_one() -> None:
    newer = botocore_errors.NoCredentialsError()
    newer.__context__ = errors.OutboxError("earlier")
    assert isinstance(refusal(newer, "x:Y"), errors.CredentialsError)


@pytest.mark.parametrize("auth", ["token", "sigv4", "key"])
@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500])
def test_errors_when_the_service_quotes_the_request_then_they_hold_no_secret(
    auth: Any, status: int, mantle: Mantle, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "short-key"
    environment = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_SESSION_TOKEN": SESSION}
    for name, value in (environment | ({"AWS_BEARER_TOKEN_BEDROCK": key} if auth == "key" else {})).items():
        monkeypatch.setenv(name, value)
    with BedrockJobs(base_url=mantle.endpoint, auth="sigv4" if auth == "sigv4" else "token") as jobs:
        list(jobs.list())
        headers = mantle.asked[0].headers
        quoted = [headers["authorization"].rpartition(" ")[2], *([SESSION] if auth == "sigv4" else [])]
        words = "; ".join(["not this:", *quoted, f"key={headers['authorization']}", json.dumps(headers)])
        mantle.troubles["GetFineTuningJob"].extend([Trouble(status, body=said(words))] * 12)
        with pytest.raises(errors.RFTError) as raised:
            jobs.get("j")
    text = "".join(traceback.format_exception(raised.value)) + repr(vars(raised.value))
    assert raised.value.__context__ is None
    for secret in [*quoted, SECRET, SESSION]:
        assert secret not in text

"""How the feedback client authenticates, and what it is made from."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests
import responses
from fakes import JOB_ARN, Service, ga_payload

from aws_rft_sdk import errors
from aws_rft_sdk.client import RolloutFeedbackClient
from aws_rft_sdk.context import RFTContext
from aws_rft_sdk.credentials import Keys
from aws_rft_sdk.types import RolloutMetadata, RolloutRequest

from .client_wire import make, script

# --- authentication --------------------------------------------------------------------------------------------------


def test_auth_when_there_are_keys_then_the_request_is_signed_for_the_region_of_the_job(
    wire: responses.RequestsMock, aws_keys: Keys
) -> None:
    url = "https://job-runtime.sagemaker.us-west-2.api.aws"
    script(wire, "/update-reward", 200, url=url)
    make(endpoint=None).update_reward(1.0)
    assert "/us-west-2/sagemaker/aws4_request" in wire.calls[0].request.headers["Authorization"]


@pytest.mark.parametrize(
    ("kwargs", "region"),
    [({"region": "eu-west-1"}, "eu-west-1"), ({}, "eu-west-3")],
    ids=["argument", "metadata"],
)
def test_auth_when_regions_differ_then_the_argument_wins_over_the_payload(
    wire: responses.RequestsMock, aws_keys: Keys, kwargs: Any, region: str
) -> None:
    script(wire, "/update-reward", 200)
    make(source=RolloutMetadata(JOB_ARN, "t", region="eu-west-3"), **kwargs).update_reward(1.0)
    assert f"/{region}/sagemaker/" in wire.calls[0].request.headers["Authorization"]


def test_auth_when_bearer_then_a_token_is_sent(wire: responses.RequestsMock, aws_keys: Keys) -> None:
    script(wire, "/update-reward", 200)
    make(auth="bearer").update_reward(1.0)
    assert wire.calls[0].request.headers["Authorization"].startswith("Bearer sagemaker-api-key-")


@pytest.mark.parametrize("auth", ["sigv4", "bearer"])
def test_auth_when_there_are_no_keys_then_loopback_goes_unsigned_and_nothing_else(
    wire: responses.RequestsMock, auth: str
) -> None:
    script(wire, "/update-reward", 200)
    make(auth=auth).update_reward(1.0)
    assert "Authorization" not in wire.calls[0].request.headers
    with pytest.raises(errors.CredentialsError):
        make(auth=auth, endpoint="https://job-runtime.sagemaker.us-west-2.api.aws").update_reward(1.0)
    assert len(wire.calls) == 1


def test_session_when_it_is_an_aws_session_then_its_credentials_sign(wire: responses.RequestsMock) -> None:
    import boto3

    script(wire, "/update-reward", 200)
    session = boto3.Session("AKIDOTHER", "secret", region_name="us-west-2")
    make(session=session).update_reward(1.0)
    assert "AKIDOTHER" in wire.calls[0].request.headers["Authorization"]


def test_session_when_it_is_a_requests_session_then_it_sends(wire: responses.RequestsMock) -> None:
    script(wire, "/update-reward", 200)
    with requests.Session() as session:
        session.headers["X-Mine"] = "1"
        make(session=session).update_reward(1.0)
    assert wire.calls[0].request.headers["X-Mine"] == "1"


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"max_seconds": 0}, "max_seconds"),
        ({"max_seconds": float("inf")}, "max_seconds"),
        ({"timeout_seconds": 0}, "timeout_seconds"),
        ({"timeout_seconds": float("nan")}, "timeout_seconds"),
        ({"auth": "basic"}, "auth"),
        ({"session": object()}, "session"),
        ({"api": "beta"}, "api="),
        ({"endpoint": "nope"}, "endpoint="),
    ],
)
def test_client_when_an_argument_is_wrong_then_configuration_error(kwargs: Any, match: str) -> None:
    with pytest.raises(errors.ConfigurationError, match=match):
        make(**kwargs)


@pytest.mark.parametrize("source", [{}, {"prompt": "x"}, {"metadata": {"x": 1}}, None], ids=str)
def test_client_when_there_is_no_rollout_then_payload_error(source: Any) -> None:
    with pytest.raises(errors.PayloadError):
        make(source=source)


def test_client_when_made_from_any_form_then_it_is_the_same_rollout() -> None:
    payload = ga_payload("t-1")
    request = RolloutRequest.parse(payload)
    assert request is not None
    for source in (
        payload,
        payload["metadata"],
        request,
        request.metadata,
        RFTContext(request),
        {"body": json.dumps(payload)},
    ):
        assert make(source=source).metadata == request.metadata


def test_client_when_the_payload_names_a_strange_endpoint_then_no_credential_is_read() -> None:
    class Trap:
        def get_credentials(self) -> None:
            raise AssertionError("credentials were read")

    with pytest.raises(errors.UntrustedEndpointError):
        make(source=ga_payload(endpoint="https://evil.example"), endpoint=None, session=Trap())
    trusted = make(
        source=ga_payload(endpoint="https://mine.example"), endpoint=None, trusted_endpoints=["mine.example"]
    )
    assert trusted.endpoint.url == "https://mine.example"


# --- loopback --------------------------------------------------------------------------------------------------------


def test_auth_when_only_the_payload_names_a_loopback_port_then_no_token_goes_there(
    service: Service, aws_keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scheme(**options: Any) -> str:
        RolloutFeedbackClient(service.payload(), auth="bearer", **options).update_reward(1.0)
        return service.requests[-1].headers["authorization"].split()[0]

    assert scheme() == "AWS4-HMAC-SHA256"
    assert scheme(trusted_endpoints=[service.endpoint]) == "Bearer"
    assert scheme(endpoint=service.endpoint) == "Bearer"
    monkeypatch.setenv("RFT_RUNTIME_ENDPOINT", service.endpoint)
    assert scheme() == "Bearer"


def test_auth_when_the_environment_names_it_then_it_counts_unless_an_argument_does(
    wire: responses.RequestsMock, aws_keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(wire, "/update-reward", 200)
    monkeypatch.setenv("RFT_AUTH", "bearer")
    make().update_reward(1.0)
    make(auth="sigv4").update_reward(1.0)
    schemes = [str(call.request.headers["Authorization"]).split()[0] for call in wire.calls]
    assert schemes == ["Bearer", "AWS4-HMAC-SHA256"]

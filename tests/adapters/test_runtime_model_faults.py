"""runtime_model: endpoints that are not trusted, credentials that are refused, calls that fail."""

from __future__ import annotations

import base64
import os
from typing import Any

import openai
import pytest
from fakes import Answer, Recorded, Service, error, ga_payload, refused_endpoint

from aws_rft_sdk import RFTContext, credentials
from aws_rft_sdk._backoff import Backoff
from aws_rft_sdk.adapters import _http_turns
from aws_rft_sdk.adapters.runtime_model import runtime_model
from aws_rft_sdk.credentials import Keys
from aws_rft_sdk.errors import CredentialsError, UntrustedEndpointError

from .scripted import ScriptedModel, said, turn


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_http_turns, "BACKOFF", Backoff(0, 0))


# --- trust and credentials -------------------------------------------------------------------------------------------


class CountingCredentials(credentials.Credentials):
    """Credentials that count how often they are read."""

    reads = 0

    def keys(self) -> Keys | None:
        self.reads += 1
        return super().keys()


def test_runtime_model_when_the_endpoint_is_untrusted_then_no_credential_is_read(aws_keys: Keys) -> None:
    watched = CountingCredentials()
    credentials._shared.update({True: watched, False: watched})
    model = runtime_model(ScriptedModel())
    with RFTContext.bind(ga_payload(endpoint="https://evil.example")) as rollout:
        with pytest.raises(UntrustedEndpointError, match=r"evil\.example"):
            turn(model)
        assert rollout.turns.begun == 0
    assert watched.reads == 0


def test_runtime_model_when_the_operator_trusts_the_endpoint_then_it_is_called() -> None:
    # Without keys the call ends right after the endpoint was accepted, and before it is sent.
    model = runtime_model(trusted_endpoints=["mine.example"])
    with RFTContext.bind(ga_payload(endpoint="https://mine.example")) as rollout:
        with pytest.raises(CredentialsError):
            turn(model)
        assert rollout.turns.begun == 0


@pytest.mark.parametrize("auth", ["bearer", "sigv4"])
def test_runtime_model_when_there_are_no_keys_on_loopback_then_it_goes_unsigned(service: Service, auth: Any) -> None:
    with RFTContext.bind(service.payload()):
        assert said(turn(runtime_model(auth=auth))) == "ok"
    assert service.inference[0].headers["authorization"] == "Bearer unsigned"


def access_key_of(request: Recorded) -> str:
    authorization = request.headers["authorization"]
    if authorization.startswith("Bearer sagemaker-api-key-"):
        authorization = base64.b64decode(authorization.removeprefix("Bearer sagemaker-api-key-")).decode()
    return authorization.split("Credential=")[1].replace("%2F", "/").split("/")[0]


@pytest.mark.parametrize("auth", ["bearer", "sigv4"])
@pytest.mark.parametrize("stream", [True, False])
def test_runtime_model_when_a_signature_is_refused_then_newer_credentials_sign_the_same_turn(
    service: Service, aws_keys: Keys, monkeypatch: pytest.MonkeyPatch, auth: Any, stream: bool
) -> None:
    policy = service.policy

    def rotate(request: Recorded) -> Answer:
        service.policy = policy
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDROTATED")
        return error(403, "the security token is expired")

    service.policy = rotate
    with RFTContext.bind(service.payload()) as rollout:
        assert said(turn(runtime_model(auth=auth, stream=stream, trusted_endpoints=[service.endpoint]))) == "ok"
        assert (rollout.turns.begun, rollout.turns.answered) == (1, 1)
    refused, accepted = service.inference
    assert refused.span_id == accepted.span_id
    assert refused.body == accepted.body
    assert (access_key_of(refused), access_key_of(accepted)) == ("AKIDEXAMPLE", "AKIDROTATED")


@pytest.mark.parametrize("auth", ["bearer", "sigv4"])
def test_runtime_model_when_refused_twice_then_it_gives_up(service: Service, aws_keys: Keys, auth: Any) -> None:
    service.script(error(403), error(403), error(403))
    with RFTContext.bind(service.payload()) as rollout:
        with pytest.raises(openai.PermissionDeniedError):
            turn(runtime_model(auth=auth))
        assert (rollout.turns.begun, rollout.turns.failed) == (1, 1)
    assert len(service.inference) == 2


def test_runtime_model_when_keys_rotate_then_the_next_call_uses_them(
    service: Service, aws_keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = runtime_model(auth="sigv4")
    with RFTContext.bind(service.payload()):
        turn(model)
        os.environ["AWS_ACCESS_KEY_ID"] = "AKIDROTATED"
        credentials.shared_credentials(network=False).refresh()
        turn(model)
    assert [access_key_of(request) for request in service.inference] == ["AKIDEXAMPLE", "AKIDROTATED"]


@pytest.mark.parametrize("auth", [None, "sigv4", "bearer"])
def test_runtime_model_when_only_the_payload_names_a_loopback_port_then_it_gets_no_token(
    service: Service, aws_keys: Keys, monkeypatch: pytest.MonkeyPatch, auth: Any
) -> None:
    """Whatever listens there could use the token at the real service; a signature names its host."""
    with RFTContext.bind(service.payload()):
        turn(runtime_model(auth=auth))
        monkeypatch.setenv("RFT_TRUSTED_ENDPOINTS", service.endpoint)
        turn(runtime_model(auth=auth))
    unlisted, listed = (request.headers["authorization"].partition(" ")[0] for request in service.inference)
    assert (unlisted, listed) == ("AWS4-HMAC-SHA256", "Bearer" if auth == "bearer" else "AWS4-HMAC-SHA256")


def test_runtime_model_when_auth_is_left_open_then_the_environment_decides(
    service: Service, aws_keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = runtime_model(trusted_endpoints=[service.endpoint])
    monkeypatch.setenv("RFT_AUTH", "bearer")
    with RFTContext.bind(service.payload()):
        turn(model)
    assert service.inference[0].headers["authorization"].startswith("Bearer sagemaker-api-key-")


# --- faults ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 503])
def test_runtime_model_when_turned_away_then_the_same_turn_is_sent_again(service: Service, status: int) -> None:
    service.script(error(status), error(status))
    with RFTContext.bind(service.payload()) as rollout:
        assert said(turn(runtime_model())) == "ok"
        assert (rollout.turns.begun, rollout.turns.answered) == (1, 1)
    assert len(service.inference) == 3
    assert len({request.span_id for request in service.inference}) == 1


@pytest.mark.parametrize("answer", [error(500), error(502), Answer(reset=True)], ids=["500", "502", "reset"])
def test_runtime_model_when_it_may_have_been_sampled_then_it_is_not_sent_again(
    service: Service, answer: Answer
) -> None:
    service.script(answer)
    with RFTContext.bind(service.payload()) as rollout:
        with pytest.raises(openai.APIError):
            turn(runtime_model())
        assert (rollout.turns.begun, rollout.turns.failed) == (1, 1)
    assert len(service.inference) == 1


def test_runtime_model_when_nobody_listens_then_it_says_so() -> None:
    with refused_endpoint() as endpoint, RFTContext.bind(ga_payload(endpoint=endpoint)) as rollout:
        with pytest.raises(openai.APIConnectionError):
            turn(runtime_model())
        assert (rollout.turns.begun, rollout.turns.failed) == (1, 1)


def test_runtime_model_when_redirected_then_nothing_follows(service: Service, aws_keys: Keys) -> None:
    service.script(Answer(307, headers={"Location": f"{service.endpoint}/elsewhere"}))
    with RFTContext.bind(service.payload()), pytest.raises(openai.APIStatusError):
        turn(runtime_model())
    assert [request.path for request in service.requests] == ["/v1/chat/completions"]

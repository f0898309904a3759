from __future__ import annotations

import openai
import pytest
from fakes import Service, ga_payload

from aws_rft_sdk import RFTContext
from aws_rft_sdk.adapters.openai import UNSIGNED, runtime_client_args
from aws_rft_sdk.credentials import Keys
from aws_rft_sdk.errors import CredentialsError, NoActiveRolloutError, UntrustedEndpointError


def test_runtime_client_args_when_outside_a_rollout_then_the_error_says_what_to_do() -> None:
    with pytest.raises(NoActiveRolloutError, match="rft_handler"):
        runtime_client_args()


def test_runtime_client_args_when_the_endpoint_is_untrusted_then_no_token_is_made(aws_keys: Keys) -> None:
    with RFTContext.bind(ga_payload(endpoint="https://evil.example")), pytest.raises(UntrustedEndpointError):
        runtime_client_args()
    with RFTContext.bind(ga_payload(endpoint="https://mine.example")):
        arguments = runtime_client_args(trusted_endpoints=["mine.example"])
    assert arguments["base_url"] == "https://mine.example/v1"
    assert arguments["api_key"].startswith("sagemaker-api-key-")


def test_runtime_client_args_when_there_are_no_keys_then_only_loopback_goes_without() -> None:
    with RFTContext.bind(ga_payload()), pytest.raises(CredentialsError):
        runtime_client_args()
    with RFTContext.bind(ga_payload(endpoint="http://127.0.0.1:1")):
        assert runtime_client_args() == {"base_url": "http://127.0.0.1:1/v1", "api_key": UNSIGNED}


def test_runtime_client_args_when_given_to_the_real_client_then_it_reaches_the_runtime(
    service: Service, aws_keys: Keys
) -> None:
    trusted = [service.endpoint]
    with (
        RFTContext.bind(service.payload("t-5")) as context,
        openai.OpenAI(**runtime_client_args(trusted_endpoints=trusted)) as client,
    ):
        client.chat.completions.create(
            model="default", messages=[{"role": "user", "content": "x"}], extra_headers=RFTContext.get_headers()
        )
    (request,) = service.inference
    assert request.headers["authorization"].startswith("Bearer sagemaker-api-key-")
    assert (request.trajectory_id, request.span_id) == ("t-5", context.span_ids[0])


def test_runtime_client_args_when_only_the_payload_names_a_loopback_port_then_it_gets_no_token(
    aws_keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever listens there could use the token at the real service."""
    endpoint = "http://127.0.0.1:8123"
    with RFTContext.bind(ga_payload(endpoint=endpoint)):
        assert runtime_client_args() == {"base_url": f"{endpoint}/v1", "api_key": UNSIGNED}
        assert runtime_client_args(trusted_endpoints=["http://127.0.0.1:8124"])["api_key"] == UNSIGNED
        assert runtime_client_args(trusted_endpoints=[endpoint])["api_key"].startswith("sagemaker-api-key-")
        for name in ("RFT_TRUSTED_ENDPOINTS", "RFT_RUNTIME_ENDPOINT"):
            with monkeypatch.context() as patch:
                patch.setenv(name, endpoint)
                assert runtime_client_args()["api_key"].startswith("sagemaker-api-key-")

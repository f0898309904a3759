"""Who presents RFT_RUNTIME_KEY to whom: every client to the runtime that the operator named, none to another server."""

from __future__ import annotations

import asyncio
import os

import openai
import pytest
from fakes import Answer, Service, ga_payload
from langchain_openai import ChatOpenAI
from strands import Agent
from strands.models.openai import OpenAIModel

from aws_rft_sdk import RFTContext, RolloutFeedbackClient, instrument, runtime_model, wrap_model
from aws_rft_sdk.adapters.langchain import http_clients
from aws_rft_sdk.adapters.openai import runtime_client_args
from aws_rft_sdk.errors import AccessDeniedError, ConfigurationError, UntrustedEndpointError
from aws_rft_sdk.rollout.starting import access_at
from aws_rft_sdk.runtime import LocalRuntime
from aws_rft_sdk.settings import resolve_endpoint, runtime_key_at, runtime_key_for
from aws_rft_sdk.types import InferenceParams, RolloutMetadata

from .conftest import echo

KEY = "k3y-that-nobody-may-see"
ARN = "arn:aws:sagemaker:us-west-2:123456789012:job/AgentRFT/j"
REAL = "https://job-runtime.sagemaker.us-west-2.api.aws"
QUESTION = [{"role": "user", "content": "hello"}]


def _runtime_model(endpoint):
    Agent(model=runtime_model(), callback_handler=None)("hello")


def _wrapped(endpoint):
    model = OpenAIModel(client_args={"base_url": f"{endpoint}/v1", "api_key": "other"}, model_id="m")
    Agent(model=wrap_model(model), callback_handler=None)("hello")


def _wrapped_client(endpoint):
    async def call():
        async with openai.AsyncOpenAI(base_url=f"{endpoint}/v1", api_key="other") as client:
            model = wrap_model(OpenAIModel(client=client, model_id="m"))
            await Agent(model=model, callback_handler=None).invoke_async("hello")

    asyncio.run(call())


def _instrumented(endpoint):
    with instrument(openai.OpenAI(base_url=f"{endpoint}/v1", api_key="other")) as client:
        client.chat.completions.create(model="m", messages=QUESTION)


def _instrumented_async(endpoint):
    async def call():
        async with instrument(openai.AsyncOpenAI(base_url=f"{endpoint}/v1", api_key="other")) as client:
            await client.chat.completions.create(model="m", messages=QUESTION)

    asyncio.run(call())


def _langchain(endpoint):
    ChatOpenAI(model="m", base_url=f"{endpoint}/v1", api_key="other", **http_clients()).invoke("hello")


def _langchain_async(endpoint):
    chat = ChatOpenAI(model="m", base_url=f"{endpoint}/v1", api_key="other", **http_clients())
    asyncio.run(chat.ainvoke("hello"))


def _litellm(endpoint):
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or it asks the network while it is imported
    litellm = pytest.importorskip("strands.models.litellm")
    arguments = {"api_base": f"{endpoint}/v1", "api_key": "other"}
    model = litellm.LiteLLMModel(client_args=arguments, model_id="openai/m")
    Agent(model=wrap_model(model), callback_handler=None)("hello")


def _client_args(endpoint):
    with instrument(openai.OpenAI(**runtime_client_args())) as client:
        client.chat.completions.create(model="m", messages=QUESTION)


CLIENTS = [
    *(_runtime_model, _wrapped, _wrapped_client, _instrumented),
    *(_instrumented_async, _langchain, _langchain_async, _litellm, _client_args),
]
each_client = pytest.mark.parametrize("infer", CLIENTS, ids=lambda value: value.__name__.strip("_"))


@each_client
@pytest.mark.parametrize("named", ["nowhere", "endpoint", "trusted"])
def test_key_when_the_runtime_asks_for_it_then_a_whole_rollout_presents_it(infer, named, monkeypatch):
    monkeypatch.setenv("RFT_RUNTIME_KEY", KEY)
    with LocalRuntime(echo, key=KEY) as runtime:
        if named != "nowhere":
            variable = {"endpoint": "RFT_RUNTIME_ENDPOINT", "trusted": "RFT_TRUSTED_ENDPOINTS"}[named]
            monkeypatch.setenv(variable, runtime.endpoint)
        payload = access_at(runtime.endpoint, InferenceParams()).start("p")
        with RFTContext.bind(payload):
            infer(runtime.endpoint)
            RolloutFeedbackClient(payload).report_complete(1.0)
        (trajectory,) = runtime.trajectories()
        assert (len(trajectory.turns), trajectory.rewards) == (1, (1.0,))


@each_client
def test_key_when_there_are_aws_credentials_too_then_the_key_is_what_is_presented(infer, monkeypatch, aws_keys):
    monkeypatch.setenv("RFT_RUNTIME_KEY", KEY)
    with LocalRuntime(echo, key=KEY) as runtime:
        payload = runtime.new_rollout("p")
        with RFTContext.bind(payload):
            infer(runtime.endpoint)
            RolloutFeedbackClient(payload, auth="bearer").report_complete(1.0)
        assert runtime.trajectories()[0].rewards == (1.0,)


@each_client
@pytest.mark.parametrize("variable", ["RFT_RUNTIME_ENDPOINT", "RFT_TRUSTED_ENDPOINTS"])
def test_key_when_a_payload_names_another_server_then_that_server_never_sees_it(
    infer, variable, monkeypatch, service, aws_keys
):
    monkeypatch.setenv("RFT_RUNTIME_KEY", KEY)
    with LocalRuntime(echo, key=KEY) as runtime, Service() as other:
        monkeypatch.setenv(variable, runtime.endpoint)
        for server in (service, other):
            payload = server.payload()
            with RFTContext.bind(payload):
                infer(server.endpoint)
            RolloutFeedbackClient(payload).report_complete(1.0)
            assert len(server.inference) == 1
            assert server.feedback
            assert KEY not in str([(request.headers, request.body) for request in server.requests])


@each_client
def test_key_when_a_server_redirects_then_it_does_not_follow(infer, monkeypatch, service):
    monkeypatch.setenv("RFT_RUNTIME_KEY", KEY)
    with Service() as elsewhere:
        redirect = Answer(307, b"{}", {"Location": f"{elsewhere.endpoint}/v1/chat/completions"})
        service.script(redirect)
        with RFTContext.bind(service.payload()), pytest.raises(openai.APIError):
            infer(service.endpoint)
        assert service.requests[0].headers["authorization"] == f"Bearer {KEY}"
        assert elsewhere.requests == []


def test_key_when_outside_a_rollout_then_clients_are_left_alone(monkeypatch, service):
    monkeypatch.setenv("RFT_RUNTIME_KEY", KEY)
    _wrapped(service.endpoint)
    _instrumented(service.endpoint)
    assert [request.headers["authorization"] for request in service.requests] == ["Bearer other"] * 2


def test_key_when_it_is_refused_then_said_once_and_not_shown(monkeypatch):
    monkeypatch.setenv("RFT_RUNTIME_KEY", "another-k3y")
    with LocalRuntime(echo, key=KEY) as runtime:
        payload = runtime.new_rollout("p")
        with pytest.raises(AccessDeniedError, match="RFT_RUNTIME_KEY") as caught:
            RolloutFeedbackClient(payload).report_complete(1.0)
        assert caught.value.attempts == 1
        assert "another-k3y" not in str(caught.value)
        with RFTContext.bind(payload), pytest.raises(openai.PermissionDeniedError, match="RFT_RUNTIME_KEY"):
            Agent(model=runtime_model(), callback_handler=None)("hello")


def test_key_when_it_cannot_be_one_then_a_clear_error_before_anything_is_sent(monkeypatch, service):
    monkeypatch.setenv("RFT_RUNTIME_KEY", "k3y\u00e9")
    payload = service.payload()
    with RFTContext.bind(payload):
        for use in (_runtime_model, _wrapped):
            with pytest.raises(ConfigurationError, match="RFT_RUNTIME_KEY must be printable ASCII"):
                use(service.endpoint)
        with pytest.raises(ConfigurationError, match="RFT_RUNTIME_KEY"):
            RolloutFeedbackClient(payload).report_complete(1.0)
    assert service.requests == []


# --- the rule --------------------------------------------------------------------------------------------------------

NODE = "http://10.0.0.5:8080"


@pytest.mark.parametrize(
    ("url", "configured", "listed", "argument", "receives"),
    [
        pytest.param("http://127.0.0.1:8080", None, None, (), True, id="loopback and nothing is named"),
        pytest.param("http://127.0.0.1:8080", "http://127.0.0.1:8080", None, (), True, id="loopback, configured"),
        pytest.param("http://127.0.0.1:8081", "http://127.0.0.1:8080", None, (), False, id="another port"),
        pytest.param("http://127.0.0.1:8080", NODE, None, (), False, id="loopback, and the runtime is elsewhere"),
        pytest.param("http://127.0.0.1:8080", None, "my.host", (), False, id="loopback, and another is listed"),
        pytest.param("http://127.0.0.1:8080", None, None, ("my.host",), False, id="loopback, another in code"),
        pytest.param("http://127.0.0.1:8080", None, None, ("127.0.0.1:8080",), True, id="loopback, in code"),
        pytest.param(NODE, NODE, None, (), True, id="a plain http endpoint that is configured"),
        pytest.param("https://my.host:8443", None, "my.host:8443", (), True, id="listed"),
        pytest.param("https://my.host:8443", None, None, ("my.host:8443",), True, id="in code"),
        pytest.param(REAL, None, None, (), False, id="the service"),
        pytest.param(REAL, REAL, REAL, (REAL,), False, id="the service, wherever it is named"),
    ],
)
def test_rule_when_a_payload_names_an_endpoint_then_the_key_goes_only_to_a_named_runtime(
    url, configured, listed, argument, receives, monkeypatch
):
    monkeypatch.setenv("RFT_RUNTIME_KEY", KEY)
    if configured:
        monkeypatch.setenv("RFT_RUNTIME_ENDPOINT", configured)
    if listed:
        monkeypatch.setenv("RFT_TRUSTED_ENDPOINTS", listed)
    expected = KEY if receives else None
    endpoint = resolve_endpoint(RolloutMetadata(ARN, "t", endpoint=url), trusted_endpoints=argument)
    assert runtime_key_for(endpoint) == expected
    if not argument:
        assert runtime_key_at(f"{url}/v1/chat/completions") == expected


def test_rule_when_code_or_the_environment_names_the_endpoint_then_it_receives_the_key(monkeypatch):
    monkeypatch.setenv("RFT_RUNTIME_KEY", KEY)
    metadata = RolloutMetadata(ARN, "t")
    assert runtime_key_for(resolve_endpoint(metadata)) is None  # the service
    assert runtime_key_for(resolve_endpoint(metadata, endpoint=NODE)) == KEY
    assert runtime_key_for(resolve_endpoint(metadata, endpoint=REAL)) is None
    monkeypatch.setenv("RFT_RUNTIME_ENDPOINT", NODE)
    assert runtime_key_for(resolve_endpoint(metadata)) == KEY


def test_rule_when_a_runtime_is_configured_after_the_outbox_kept_a_loopback_endpoint_then_no_key_goes_there(
    monkeypatch,
):
    monkeypatch.setenv("RFT_RUNTIME_KEY", KEY)
    kept = resolve_endpoint(RolloutMetadata(ARN, "t", endpoint="http://127.0.0.1:8080"))
    assert runtime_key_for(kept) == KEY
    monkeypatch.setenv("RFT_RUNTIME_ENDPOINT", NODE)
    assert runtime_key_for(kept) is None


@pytest.mark.parametrize("url", ["http://10.0.0.6:8080", "http://10.0.0.5:8081", "http://x@10.0.0.5:8080", f"{NODE}?x"])
def test_trust_when_a_plain_http_endpoint_is_configured_then_no_other_passes(url, monkeypatch):
    monkeypatch.setenv("RFT_RUNTIME_ENDPOINT", NODE)
    assert resolve_endpoint(RolloutMetadata(ARN, "t", endpoint=f"{NODE}/")).url == NODE
    with pytest.raises(UntrustedEndpointError):
        resolve_endpoint(RolloutMetadata(ARN, "t", endpoint=url))


def test_access_when_another_server_is_asked_then_the_key_goes_there_only_by_its_own_name(monkeypatch, service):
    monkeypatch.setenv("RFT_RUNTIME_KEY", KEY)
    with pytest.raises(ConfigurationError, match="is not a local runtime"):
        access_at(service.endpoint, InferenceParams())
    payload = access_at(service.endpoint, InferenceParams(), ARN).start("p")
    assert payload == ga_payload(payload["metadata"]["rolloutId"], job_arn=ARN, endpoint=service.endpoint, prompt="p")

"""Sampling is not idempotent: a turn is sent again only where it cannot have been sampled, under the same span id."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest
from fakes import Answer, Service, error, ga_payload, refused_endpoint

from aws_rft_sdk import RFTContext, wrap_model
from aws_rft_sdk._backoff import Backoff
from aws_rft_sdk.adapters import _http_turns, strands
from aws_rft_sdk.adapters._http_library import http

from .models import PROVIDERS, by_client, by_client_args, client_args, litellm_model, one_turn, turn

# LiteLLM and the Responses API of `openai` warn about their own types when they make and dump them.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
every_provider = pytest.mark.parametrize("provider", PROVIDERS, ids=lambda provider: provider.__name__)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_http_turns, "BACKOFF", Backoff(0, 0))


def tracked_turn(model: Any) -> tuple[RFTContext, Exception | None]:
    with RFTContext.bind(ga_payload("t")) as context:
        try:
            turn(wrap_model(model))
        except Exception as caught:
            return context, caught
    return context, None


@every_provider
@pytest.mark.parametrize("status", [429, 503])
def test_turn_when_it_is_turned_away_then_it_is_sent_again_under_the_same_span_id(
    provider: Any, status: int, service: Service
) -> None:
    service.script(error(status), error(status))
    context, caught = tracked_turn(provider(service.endpoint))
    assert caught is None
    assert [request.span_id for request in service.inference] == [context.span_ids[0]] * 3
    assert (context.turns.begun, context.turns.answered, context.turns.failed) == (1, 1, 0)


@every_provider
@pytest.mark.parametrize("status", [400, 401, 408, 409, 422, 500, 502, 504])
def test_turn_when_it_may_have_been_sampled_then_it_is_sent_once(provider: Any, status: int, service: Service) -> None:
    service.script(error(status))
    context, caught = tracked_turn(provider(service.endpoint))
    assert caught is not None
    assert len(service.inference) == 1
    assert (context.turns.begun, context.turns.answered, context.turns.failed) == (1, 0, 1)


@every_provider
def test_turn_when_the_connection_breaks_before_the_answer_then_it_is_sent_once(
    provider: Any, service: Service
) -> None:
    service.script(Answer(reset=True))
    context, caught = tracked_turn(provider(service.endpoint))
    assert caught is not None
    assert len(service.inference) == 1
    assert context.turns.failed == 1


@pytest.mark.parametrize("provider", [by_client_args, by_client], ids=lambda p: p.__name__)
def test_turn_when_the_stream_breaks_off_then_it_is_sent_once(provider: Any, service: Service) -> None:
    service.script(Answer(chunks=[b'data: {"choices":'], reset=True, headers={"Content-Type": "text/event-stream"}))
    context, caught = tracked_turn(provider(service.endpoint))
    assert caught is not None
    assert len(service.inference) == 1
    assert context.turns.failed == 1


def test_turn_when_the_answer_is_late_then_it_is_sent_once(service: Service) -> None:
    service.script(Answer(gate=service.gate()))
    late = openai.Timeout(30, read=0.05)  # a busy machine may take longer to connect
    model = strands.OpenAIModel(model_id="default", client_args=client_args(service.endpoint, timeout=late))
    context, caught = tracked_turn(model)
    assert isinstance(caught, openai.APITimeoutError)
    assert len(service.inference) == 1
    assert context.turns.failed == 1


@every_provider
def test_turn_when_nobody_listens_then_it_is_tried_again_until_somebody_does(
    provider: Any, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = []

    class Counting(Backoff):
        def delay(self, attempt: int, retry_after: float | None = None, uniform: Any = None) -> float:
            attempts.append(attempt)
            return 0.0

    monkeypatch.setattr(_http_turns, "BACKOFF", Counting())
    with refused_endpoint() as endpoint:
        context, caught = tracked_turn(provider(endpoint))
    assert caught is not None
    assert attempts == [1, 2, 3, 4]
    assert (context.turns.begun, context.turns.failed) == (1, 1)


@every_provider
def test_turn_when_it_is_turned_away_for_ever_then_the_error_comes_out(provider: Any, service: Service) -> None:
    service.policy = lambda request: error(429)
    context, caught = tracked_turn(provider(service.endpoint))
    assert caught is not None
    assert len(service.inference) == 5
    assert len({request.span_id for request in service.inference}) == 1
    assert context.turns.failed == 1


def test_turn_when_the_service_names_a_wait_then_it_is_kept(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Recording(Backoff):
        def delay(self, attempt: int, retry_after: float | None = None, uniform: Any = None) -> float:
            asked.append(retry_after)
            return 0.0

    monkeypatch.setattr(_http_turns, "BACKOFF", Recording())
    service.script(error(429, Retry_After="7"), error(503))
    tracked_turn(by_client_args(service.endpoint))
    assert asked == [7.0, None]


@every_provider
def test_turn_when_outside_a_rollout_then_the_clients_own_retries_are_what_they_were(
    provider: Any, service: Service
) -> None:
    config = {"max_retries": 1} if provider is not by_client else {}
    model = provider(service.endpoint)
    if provider is by_client:
        model._custom_client = model._custom_client.with_options(max_retries=1)
    else:
        model.client_args.update(config)
    service.script(error(500, Retry_After="0.001"))
    turn(wrap_model(model))
    assert len(service.inference) == 2


@every_provider
def test_turn_when_the_caller_is_handling_an_older_refusal_then_a_500_is_not_sent_again(
    provider: Any, service: Service
) -> None:
    # An agent that falls back to another model in an `except` block.
    service.script(error(500))
    with RFTContext.bind(ga_payload("t")):

        async def main() -> None:
            try:
                raise http.ConnectError("the other model is down")
            except http.ConnectError:
                await one_turn(wrap_model(provider(service.endpoint)))

        with pytest.raises(Exception, match=r"."):
            asyncio.run(main())
    assert len(service.inference) == 1


@pytest.mark.parametrize(
    ("provider", "text"),
    [
        pytest.param(by_client_args, "rate limit reached upstream", id="openai-rate-limit"),
        pytest.param(by_client_args, "Too Many Requests", id="openai-too-many"),
        pytest.param(by_client_args, "Error 429", id="openai-429"),
        pytest.param(litellm_model, "rate limit reached upstream", id="litellm-rate-limit"),
        pytest.param(litellm_model, "Error 429", id="litellm-429"),
        pytest.param(litellm_model, "service unavailable", id="litellm-unavailable"),
    ],
)
def test_turn_when_the_text_of_a_500_speaks_of_throttling_then_the_status_decides(
    provider: Any, text: str, service: Service
) -> None:
    service.script(Answer(500, b'{"error": {"message": "%s"}}' % text.encode(), {"Content-Type": "application/json"}))
    tracked_turn(provider(service.endpoint))
    assert len(service.inference) == 1


def test_turn_when_events_have_come_then_even_a_refusal_does_not_send_it_again(service: Service) -> None:
    class FallsOver(strands.OpenAIModel):
        async def stream(self, *args: Any, **kwargs: Any) -> Any:
            async for event in super().stream(*args, **kwargs):
                yield event
            raise http.ConnectError("too late")

    context, caught = tracked_turn(FallsOver(model_id="default", client_args=client_args(service.endpoint)))
    assert isinstance(caught, http.ConnectError)
    assert len(service.inference) == 1
    assert (context.turns.begun, context.turns.answered) == (1, 1)  # its answer had arrived whole

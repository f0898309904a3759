"""instrument: what is sent again within a rollout, and what is not."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest
from fakes import Answer, Recorded, Service, chat_answer, error, ga_payload, refused_endpoint, say

from aws_rft_sdk import RFTContext
from aws_rft_sdk.adapters.openai import instrument

from .callers import CHAT, Caller, turns


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [429, 503])
def test_turn_when_turned_away_then_it_is_sent_again_under_the_same_span_id(
    service: Service, clients: Any, caller: Caller, waits: list[Any], status: int, stream: bool
) -> None:
    service.script(error(status, retry_after="3"), error(status))
    client = instrument(clients(service.endpoint, max_retries=0))
    with RFTContext.bind(service.payload()) as rollout:
        assert caller.chat(client, stream=stream)
        assert turns(rollout) == (1, 1, 0)
    assert len(service.inference) == 3
    assert {request.span_id for request in service.inference} == set(rollout.span_ids)
    assert waits == [(1, 3.0), (2, None)]


@pytest.mark.parametrize("status", [429, 503])
def test_turn_when_turned_away_for_good_then_the_client_does_not_begin_anew(
    service: Service, clients: Any, caller: Caller, status: int
) -> None:
    service.policy = lambda request: error(status)
    client = instrument(clients(service.endpoint, max_retries=3))
    with RFTContext.bind(service.payload()) as rollout:
        with pytest.raises(openai.APIStatusError):
            caller.chat(client)
        assert turns(rollout) == (1, 0, 1)
    assert len(service.inference) == 5


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (error(500), openai.InternalServerError),
        (error(409), openai.ConflictError),
        (error(500, x_should_retry="true"), openai.InternalServerError),
        (Answer(reset=True), openai.APIConnectionError),
        (Answer(promised_bytes=1000, body=b"{"), openai.APIConnectionError),
    ],
    ids=["500", "409", "500-retry", "reset", "cut"],
)
def test_turn_when_it_may_have_been_sampled_then_the_client_does_not_retry(
    service: Service, clients: Any, caller: Caller, answer: Answer, kind: Any, stream: bool
) -> None:
    service.script(answer)
    client = instrument(clients(service.endpoint, max_retries=3))
    with RFTContext.bind(service.payload()) as rollout:
        # A body that is cut shows only to its reader, which is the caller itself when streaming.
        with pytest.raises((kind, httpx.TransportError)):
            caller.chat(client, stream=stream)
        assert turns(rollout) == (1, 0, 1)
    assert len(service.inference) == 1


def test_turn_when_the_answer_is_late_then_the_client_does_not_retry(
    service: Service, clients: Any, caller: Caller
) -> None:
    service.script(Answer(gate=service.gate()))
    client = instrument(clients(service.endpoint, max_retries=3, timeout=0.1))
    with RFTContext.bind(service.payload()) as rollout:
        with pytest.raises(openai.APITimeoutError):
            caller.chat(client)
        assert turns(rollout) == (1, 0, 1)
    assert len(service.inference) == 1


def test_turn_when_nobody_listens_then_it_is_tried_again_and_reported_once(
    clients: Any, caller: Caller, waits: list[Any]
) -> None:
    with refused_endpoint() as endpoint, RFTContext.bind(ga_payload(endpoint=endpoint)) as rollout:
        with pytest.raises(openai.APIConnectionError) as caught:
            caller.chat(instrument(clients(endpoint, max_retries=3)))
        assert not isinstance(caught.value, openai.APITimeoutError)
        assert isinstance(caught.value.__cause__, (httpx.ConnectError, httpx.ConnectTimeout))  # as aiohttp's is called
        assert turns(rollout) == (1, 0, 1)
    assert waits == [(attempt, None) for attempt in range(1, 5)]


def test_turn_when_a_client_repeats_it_on_its_own_account_then_it_is_refused(
    service: Service, clients: Any, caller: Caller
) -> None:
    # As OpenAI clients mark their retries; older ones retry after every exception.
    client = instrument(clients(service.endpoint, max_retries=0))
    repeated = {"x-stainless-retry-count": "1"}
    with RFTContext.bind(service.payload()) as rollout:
        with pytest.raises(openai.APIConnectionError, match="not sent again"):
            caller.chat(client, extra_headers=repeated)
        assert rollout.turns.begun == 0
    assert service.requests == []
    caller.chat(client, extra_headers=repeated)
    assert len(service.requests) == 1


def test_turn_when_redirected_then_its_headers_stay_here(service: Service, clients: Any, caller: Caller) -> None:
    redirect = Answer(307, headers={"Location": f"{service.endpoint}/elsewhere"})
    service.script(redirect)
    client = instrument(clients(service.endpoint))
    with RFTContext.bind(service.payload()) as rollout:
        with pytest.raises(openai.APIStatusError):
            caller.chat(client)
        assert turns(rollout) == (1, 0, 1)
    assert [request.path for request in service.requests] == ["/v1/chat/completions"]
    service.script(redirect)
    caller.chat(client)
    assert service.requests[-1].path == "/elsewhere"  # outside a rollout as ever


def test_turn_when_a_stream_is_given_up_or_cut_then_it_has_failed(
    service: Service, clients: Any, caller: Caller
) -> None:
    client = instrument(clients(service.endpoint))

    def without_its_end(request: Recorded) -> Answer:
        # What has arrived whole counts as answered, read or not.
        whole = chat_answer(request, say("ok"))
        return Answer(headers=whole.headers, chunks=(whole.chunks or [])[:-1])

    def leave_early() -> None:
        if not caller.asynchronous:
            with client.chat.completions.create(**CHAT, stream=True) as stream:
                next(iter(stream))
            return

        async def main() -> None:
            async with await client.chat.completions.create(**CHAT, stream=True) as stream:
                await anext(aiter(stream))

        caller.run(main())

    answer, service.policy = service.policy, without_its_end
    with RFTContext.bind(service.payload()) as rollout:
        leave_early()
        service.policy = answer
        assert turns(rollout) == (1, 0, 1)
        whole = chat_answer(service.inference[0], say("ok"))
        assert whole.chunks is not None
        service.script(Answer(headers=whole.headers, chunks=whole.chunks[:1], reset=True))
        with pytest.raises(httpx.TransportError):
            caller.chat(client, stream=True)
        assert turns(rollout) == (2, 0, 2)
        caller.chat(client, stream=True)
        assert turns(rollout) == (3, 1, 2)
    assert len(service.inference) == 3

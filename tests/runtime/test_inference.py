"""Inference without a socket, where the order of events can be arranged exactly."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aws_rft_sdk.runtime.answers import Refusal
from aws_rft_sdk.runtime.decode import read_completion, read_reward
from aws_rft_sdk.runtime.inference import RESPONSES_PATH, Inference, Inquiry
from aws_rft_sdk.runtime.policies import make_policy
from aws_rft_sdk.runtime.trajectories import Trajectories

HEADERS = [(b"x-rft-job-arn", b"job"), (b"x-trajectory-id", b"t"), (b"x-span-id", b"s")]
BODY = json.dumps({"messages": [{"role": "user", "content": "x"}]}).encode()


def _play(policy, script):
    """Run `script(inference, call)` against a runtime without a server; `call` returns the body that was answered."""

    async def run():
        ledger = Trajectories(":memory:")
        ledger.attach(asyncio.get_running_loop())
        inference = Inference(ledger, make_policy(policy), strict=False)

        async def call(headers=HEADERS, body=BODY, path="/sample"):
            answered = []

            async def send(message):
                answered.append(message.get("body", b""))

            await inference.serve(path, headers, body, send)
            return b"".join(answered)

        try:
            return await script(call), ledger.trajectories(ledger.entries())
        finally:
            await inference.aclose()
            ledger.close()

    return asyncio.run(run())


async def _settle():
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.mark.parametrize("fails", [False, True])
def test_span_when_repeated_while_in_flight_then_one_outcome_for_all(fails):
    calls, begun, gate = [], asyncio.Event(), asyncio.Event()

    async def policy(request):
        calls.append(request)
        begun.set()
        await gate.wait()
        if fails:
            raise ValueError("planned")
        return "once"

    async def script(call):
        first = asyncio.create_task(call())
        await begun.wait()
        others = [asyncio.create_task(call()) for _ in range(3)]
        await _settle()
        gate.set()
        return await asyncio.gather(first, *others, return_exceptions=True)

    outcomes, trajectories = _play(policy, script)
    assert len(calls) == 1
    if fails:
        assert all(isinstance(outcome, Refusal) and outcome.status == 500 for outcome in outcomes)
    else:
        assert outcomes == [outcomes[0]] * 4
    assert [len(trajectory.turns) for trajectory in trajectories] == [0 if fails else 1]


def test_span_when_the_first_call_is_cancelled_then_those_waiting_fail_and_it_can_be_tried_again():
    calls, begun, gate = [], asyncio.Event(), asyncio.Event()

    async def policy(request):
        calls.append(request)
        begun.set()
        if len(calls) == 1:
            await gate.wait()
        return "second try"

    async def script(call):
        first = asyncio.create_task(call())
        await begun.wait()
        other = asyncio.create_task(call())
        await _settle()
        first.cancel()
        outcomes = await asyncio.gather(first, other, return_exceptions=True)
        assert isinstance(outcomes[0], asyncio.CancelledError)
        assert outcomes[1].status == 500
        return await call()

    answer, trajectories = _play(policy, script)
    assert b"second try" in answer
    assert len(trajectories[0].turns) == 1


@pytest.mark.parametrize("fails", [(), (0,), (1,), (0, 1)], ids=["none", "first", "second", "both"])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["first-ends-first", "second-ends-first"])
@pytest.mark.parametrize("streams", [(), (1,), (0, 1)], ids=["plain", "one-streamed", "streamed"])
def test_span_when_two_requests_at_once_share_it_and_not_strict_then_each_is_a_turn(fails, order, streams):
    begun = [asyncio.Event() for _ in range(2)]
    gates = [asyncio.Event() for _ in range(2)]

    async def policy(request):
        number = int(request["messages"][0]["content"])
        begun[number].set()
        await gates[number].wait()
        if number in fails:
            raise ValueError("planned")
        return f"answer {number}"

    async def script(call):
        tasks = []
        for number in range(2):
            body = {"messages": [{"role": "user", "content": str(number)}], "stream": number in streams}
            tasks.append(asyncio.create_task(call(body=json.dumps(body).encode())))
            await begun[number].wait()
        for number in order:
            gates[number].set()
            await asyncio.wait([tasks[number]])
        return await asyncio.gather(*tasks, return_exceptions=True)

    outcomes, trajectories = _play(policy, script)
    for number, outcome in enumerate(outcomes):
        if number in fails:
            assert (outcome.status, "planned" in outcome.message) == (500, True)
        else:
            assert f"answer {number}".encode() in outcome
    assert [len(trajectory.turns) for trajectory in trajectories] == [2 - len(fails)]


def test_turns_when_no_span_id_is_sent_then_each_is_new():
    async def script(call):
        return [await call(HEADERS[:2]) for _ in range(2)]

    answers, trajectories = _play(lambda request: "x", script)
    assert len(trajectories[0].turns) == len(answers) == 2


def test_responses_call_when_repeated_as_stream_then_the_same_turn():
    body = {"input": [{"role": "user", "content": [{"type": "input_text", "text": "x"}]}], "max_output_tokens": 5}

    async def script(call):
        plain = await call(body=json.dumps(body).encode(), path="/v1/responses")
        streamed = await call(body=json.dumps({**body, "stream": True}).encode(), path="/v1/responses")
        return plain, streamed

    def policy(request):
        assert request == {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}], "max_tokens": 5}
        return {"content": "hi", "reasoning_content": "because"}

    (plain, streamed), trajectories = _play(policy, script)
    assert [item["type"] for item in json.loads(plain)["output"]] == ["reasoning", "message"]
    for event in (b"response.reasoning_text.delta", b"response.output_text.delta", b"response.completed"):
        assert event in streamed
    assert len(trajectories[0].turns) == 1


@pytest.mark.parametrize(
    ("finish_reason", "status"), [("length", "incomplete"), ("content_filter", "incomplete"), ("stop", "completed")]
)
def test_responses_answer_when_cut_off_then_incomplete(finish_reason, status):
    async def script(call):
        return await call(body=b'{"input": "x", "stream": true}', path="/v1/responses")

    answer, _ = _play(lambda _: {"choices": [{"message": {"content": "x"}, "finish_reason": finish_reason}]}, script)
    assert f"event: response.{status}\n".encode() in answer


@pytest.mark.parametrize(
    "fields",
    [
        {"input": None},
        {"input": []},
        {"input": [5]},
        {"input": [{"type": "item_reference"}]},
        {"input": [{"role": "user", "content": 5}]},
        {"input": [{"role": "user", "content": [{"type": "input_audio"}]}]},
        {"conversation": "c"},
        {"prompt": {"id": "p"}},
        {"background": True},
        {"include": "message.output_text.logprobs"},
        {"top_logprobs": 21},
        {"top_logprobs": True},
        {"top_logprobs": "2"},
        {"tools": [5]},
        {"tools": 5},
        {"reasoning": 5},
        {"text": "x"},
        {"stream": 1},
    ],
)
def test_responses_request_when_it_has_no_counterpart_then_400(fields):
    async def script(call):
        with pytest.raises(Refusal) as caught:
            await call(body=json.dumps({"input": "x", **fields}).encode(), path="/v1/responses")
        return caught.value.status

    assert _play(lambda _: "x", script)[0] == 400


_keys = st.sampled_from(
    [
        *("messages", "stream", "stream_options", "input", "instructions", "tools", "tool_choice", "type", "role"),
        *("content", "text", "format", "reasoning", "effort", "function", "name", "arguments", "output", "call_id"),
        *("JobArn", "TrajectoryId", "Rewards", "Status", "ClientToken"),
    ]
)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_keys, inner, max_size=4),
    max_leaves=12,
)
_kinds = st.sampled_from(["message", "function_call", "function_call_output", "function", "json_schema", "input_text"])
_items = st.lists(st.dictionaries(_keys, _json | _kinds, max_size=4), min_size=1, max_size=3)


@pytest.mark.parametrize("body", ['{"input": "x", "instructions": Infinity}', '{"messages": [{"n": NaN}]}'])
def test_decoding_when_a_number_is_no_json_then_refused_as_400(body):
    with pytest.raises(Refusal) as refused:
        Inquiry.read(RESPONSES_PATH if "input" in body else "/sample", [], body.encode(), strict=False)

    assert (refused.value.status, "is no JSON value" in str(refused.value)) == (400, True)


# The machine may be busy: how long it takes to make an example says nothing.
@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    body=st.dictionaries(_keys, _json | _items, max_size=6).map(
        lambda value: json.dumps({"input": "x", **value}).encode()
    )
    | st.binary(max_size=20),
    headers=st.lists(st.tuples(st.sampled_from([name for name, _ in HEADERS]), st.binary(max_size=5)), max_size=3),
    strict=st.booleans(),
)
def test_decoding_when_given_anything_then_read_or_refused_as_400(body, headers, strict):
    for read in (
        lambda: Inquiry.read("/sample", headers, body, strict=strict),
        lambda: Inquiry.read(RESPONSES_PATH, headers, body, strict=strict),
        lambda: read_completion(headers, body, alpha=strict, strict=strict),
        lambda: read_reward(headers, body, strict=strict),
    ):
        try:
            read()
        except Refusal as refusal:
            _refused_as_400(refusal)


def _refused_as_400(refusal):
    assert refusal.status == 400
    assert refusal.message

"""Functions, recordings and other servers as the policy; chat chunks there and back."""

from __future__ import annotations

import asyncio
import json
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import Response, StreamingResponse

from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.runtime import CallablePolicy, LocalRuntime, PolicyError, ReplayPolicy, UpstreamPolicy
from aws_rft_sdk.runtime.chat import encode_stream, parse_stream, read_answer

from .conftest import echo, tracking

TOOL_CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}


def _recording(prompt, *turns):
    return {"prompt": prompt, "turns": [{"role": "assistant", "content": turn} for turn in turns]}


def _content(answer):
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["message"]["content"]


# --- functions -------------------------------------------------------------------------------------------------------


def test_callable_when_sync_then_many_block_at_once(runtime, open_wire):
    together = threading.Barrier(64)

    def meet(request):
        together.wait(60)
        return "met"

    runtime.policy = meet
    payload = runtime.new_rollout("p")
    threads = [threading.Thread(target=open_wire(runtime).chat, args=(payload,)) for _ in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(runtime.trajectory(payload["metadata"]["rolloutId"]).turns) == 64


def test_callable_when_async_or_an_object_or_stopping_then_answered(runtime, wire):
    class Callable:
        async def __call__(self, request):
            await asyncio.sleep(0)
            return {"content": None, "tool_calls": [TOOL_CALL]}

    async def later(request):
        return "later"

    payload = runtime.new_rollout("p")
    runtime.policy = Callable()
    choice = wire.chat(payload).json()["choices"][0]
    assert (choice["finish_reason"], choice["message"]["tool_calls"]) == ("tool_calls", [TOOL_CALL])
    runtime.policy = lambda request: later(request)
    assert _content(wire.chat(payload)) == "later"
    runtime.policy = lambda request: next(iter(()))
    assert "StopIteration" in wire.chat(payload).json()["Message"]
    with pytest.raises(ConfigurationError):
        CallablePolicy("not callable")


def test_callable_when_it_gives_usage_and_tokens_then_recorded(runtime, wire):
    logprobs = {"content": [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -1}]}
    choice = {"message": {"content": "ab"}, "logprobs": logprobs, "token_ids": [3, 4]}
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    runtime.policy = lambda request: {"choices": [choice], "usage": usage, "prompt_token_ids": [1, 2]}
    payload = runtime.new_rollout("p")
    assert wire.chat(payload).json()["choices"][0]["token_ids"] == [3, 4]
    assert '"usage"' not in wire.chat(payload, stream=True).text
    assert '"usage"' in wire.chat(payload, stream=True, stream_options={"include_usage": True}).text
    turn = runtime.trajectory(payload["metadata"]["rolloutId"]).turns[0]
    assert (turn.token_ids, turn.logprobs, turn.usage) == ((3, 4), (-0.5, -1.0), usage)
    assert turn.response["prompt_token_ids"] == [1, 2]


# --- recordings ------------------------------------------------------------------------------------------------------


def test_replay_when_a_prompt_has_two_recordings_then_round_robin_in_order_of_creation(runtime, wire, tmp_path):
    file = tmp_path / "recording.jsonl"
    rows = [_recording("q", "a0", "a1"), _recording("other", "o0"), _recording("q", "b0")]
    file.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n", encoding="utf-8")
    runtime.policy = ReplayPolicy(file)
    first, second, third = [runtime.new_rollout("q") for _ in range(3)]
    assert _content(wire.chat(third, "q")) == "a0"
    assert _content(wire.chat(second, "q")) == "b0"
    assert _content(wire.chat(first, [{"type": "text", "text": "q"}])) == "a0"
    assert _content(wire.chat(first, "q")) == "a1"
    over = wire.chat(first, "q")
    assert over.status_code == 400
    assert "recording is over" in over.json()["Message"]
    unknown = wire.chat(first, "never seen")
    assert unknown.status_code == 400
    assert "never seen" in unknown.json()["Message"]


def test_replay_when_the_prompt_cell_is_not_the_message_then_counted_by_cell(runtime, wire):
    runtime.policy = ReplayPolicy([_recording("q", "a"), _recording("q", "b")])
    payloads = [runtime.new_rollout({"question": "q"}) for _ in range(2)]
    assert [_content(wire.chat(payload, "q")) for payload in reversed(payloads)] == ["b", "a"]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "no recordings"),
        ('{"prompt": "q", "turns": [{"content": "x"}]}\n{', "line 2 is not JSON"),
        ('{"prompt": 5, "turns": []}', "line 1"),
        ('\n{"prompt": "q", "turns": []}', "line 2"),
        ('{"prompt": "q", "turns": [{"content": "x"}, {"content": 5}]}', "line 1, turn 1"),
    ],
)
def test_replay_when_a_line_is_bad_then_an_error_names_it(tmp_path, text, match):
    file = tmp_path / "recording.jsonl"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=match):
        ReplayPolicy(file)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        ReplayPolicy(tmp_path / "missing.jsonl")


def test_export_when_replayed_then_the_same_answers(runtime, wire, tmp_path):
    payload = runtime.new_rollout("q")
    runtime.new_rollout("without turns")
    answers = [_content(wire.chat(payload, text)) for text in ("one", "two")]
    assert runtime.export(tmp_path / "out.jsonl") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["out.jsonl"]
    runtime.policy = ReplayPolicy(tmp_path / "out.jsonl")
    again = runtime.new_rollout("one")
    assert [_content(wire.chat(again, "one")) for _ in answers] == answers


# --- other servers ---------------------------------------------------------------------------------------------------

CHUNKS = encode_stream(
    read_answer({"choices": [{"message": {"content": "hi [DONE] data: x"}}], "usage": {"total_tokens": 9}}, {}),
    include_usage=True,
)


def test_upstream_when_it_answers_then_byte_for_byte(upstream, runtime, wire):
    body = b'{ "choices" : [{"index":0,"message":{"role":"assistant","content":"raw"}}],  "odd": 1}'
    upstream.answer = lambda: Response(body, media_type="application/json")
    runtime.policy = UpstreamPolicy(upstream.url + "/", api_key="key", model="renamed")
    payload = runtime.new_rollout("p")
    assert wire.chat(payload, temperature=0.5).content == body
    headers, request = upstream.requests[0]
    assert (request["model"], request["temperature"]) == ("renamed", 0.5)
    assert headers["authorization"] == "Bearer key"
    assert not [name for name in headers if name.startswith("x-")]
    assert runtime.trajectory(payload["metadata"]["rolloutId"]).turns[0].response["odd"] == 1


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_upstream_when_it_streams_then_byte_for_byte_in_any_pieces(upstream, runtime, wire, size):
    upstream.streams(*[CHUNKS[start : start + size] for start in range(0, len(CHUNKS), size)])
    runtime.policy = UpstreamPolicy(upstream.url)
    payload = runtime.new_rollout("p")
    assert wire.chat(payload, stream=True, span="s").content == CHUNKS
    assert wire.chat(payload, stream=True, span="s").content == CHUNKS
    assert _content(wire.chat(payload, span="s")) == "hi [DONE] data: x"
    turns = runtime.trajectory(payload["metadata"]["rolloutId"]).turns
    assert [turn.usage for turn in turns] == [{"total_tokens": 9}]
    assert len(upstream.requests) == 1


def test_upstream_when_it_streams_then_recorded_before_the_end_is_sent(upstream, runtime, wire):
    go_on = threading.Event()

    async def generate():
        end = CHUNKS.index(b"data: [DONE]")
        yield CHUNKS[:end]
        await asyncio.to_thread(go_on.wait, 30)
        yield CHUNKS[end:]

    upstream.answer = lambda: StreamingResponse(generate(), media_type="text/event-stream")
    runtime.policy = UpstreamPolicy(upstream.url)
    payload = runtime.new_rollout("p")
    body = {"messages": [{"role": "user", "content": "x"}], "stream": True}
    url = runtime.endpoint + "/v1/chat/completions"
    with wire.session.post(url, json=body, headers=tracking(payload), stream=True, timeout=30) as answer:
        lines = answer.iter_lines()
        assert next(lines).startswith(b"data: {")
        assert runtime.trajectory(payload["metadata"]["rolloutId"]).turns == ()
        go_on.set()
        for line in lines:
            if line == b"data: [DONE]":
                assert len(runtime.trajectory(payload["metadata"]["rolloutId"]).turns) == 1


def test_upstream_when_it_refuses_then_status_text_and_retry_after_pass(upstream, runtime, wire):
    upstream.answer = lambda: Response(b'{"error":{"message":"slow down"}}', 429, {"Retry-After": "7"})
    runtime.policy = UpstreamPolicy(upstream.url)
    payload = runtime.new_rollout("p")
    for stream in (False, True):
        answer = wire.chat(payload, stream=stream)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")
        assert answer.content == b'{"error":{"message":"slow down"}}'
    assert runtime.trajectory(payload["metadata"]["rolloutId"]).turns == ()


def test_upstream_when_it_cannot_be_reached_or_talks_nonsense_then_an_error_says_so(upstream, runtime, wire):
    payload = runtime.new_rollout("p")
    runtime.policy = UpstreamPolicy("http://127.0.0.1:1/v1")
    assert wire.chat(payload).status_code == 503
    runtime.policy = UpstreamPolicy(upstream.url)
    for answer in (
        Response(b"hello"),
        Response(b"{}"),
        Response(b"", 302),
        Response(b"null"),
        Response(b'{"choices": []}'),
    ):
        upstream.answer = lambda answer=answer: answer
        assert wire.chat(payload).status_code == 500
    with pytest.raises(ConfigurationError):
        UpstreamPolicy("ftp://x")


def test_upstream_when_the_stream_breaks_or_the_trajectory_is_sealed_then_no_done_and_no_turn(upstream, runtime, wire):
    runtime.policy = UpstreamPolicy(upstream.url)
    payload = runtime.new_rollout("p")
    upstream.streams(CHUNKS[:200], RuntimeError("planned"))
    broken = wire.chat(payload, stream=True, span="s")
    assert '"error"' in broken.text
    assert "[DONE]\n" not in broken.text
    upstream.answer = lambda: (wire.complete(payload), Response(CHUNKS, media_type="text/event-stream"))[1]
    assert "not in valid status" in wire.chat(payload, stream=True, span="s").text
    assert runtime.trajectory(payload["metadata"]["rolloutId"]).turns == ()


def test_upstream_when_the_form_differs_from_what_was_asked_then_converted(upstream, runtime, wire):
    runtime.policy = UpstreamPolicy(upstream.url)
    payload = runtime.new_rollout("p")
    upstream.streams(CHUNKS)
    assert _content(wire.chat(payload)) == "hi [DONE] data: x"
    upstream.answer = lambda: Response(json.dumps(parse_stream(CHUNKS)), media_type="application/json")
    assert wire.chat(payload, stream=True).text.endswith("data: [DONE]\n\n")
    wire.chat(payload, path="/sample-with-response-stream")
    assert upstream.requests[-1][1]["stream"] is True


# --- chunks ----------------------------------------------------------------------------------------------------------

_text = st.text(max_size=120)
_calls = st.lists(
    st.builds(
        lambda name, arguments, key: {
            "id": key,
            "type": "function",
            "function": {"name": name, "arguments": arguments},
        },
        st.text(min_size=1, max_size=9),
        _text,
        st.text(min_size=1, max_size=9),
    ),
    min_size=1,
    max_size=3,
)
_message = st.fixed_dictionaries(
    {"content": _text}, optional={"tool_calls": _calls, "reasoning_content": st.text(min_size=1)}
)
_choice = st.fixed_dictionaries(
    {"message": _message},
    optional={
        "token_ids": st.lists(st.integers(0, 9), min_size=1),
        "logprobs": st.just({"content": [{"logprob": -1.0}]}),
    },
)


@given(choices=st.lists(_choice, min_size=1, max_size=2), usage=st.booleans())
def test_stream_when_parsed_then_the_completion_again(choices, usage):
    extra = {"usage": {"total_tokens": 3}} if usage else {}
    completion = read_answer({"choices": choices, "system_fingerprint": "f", **extra}, {"model": "m"})
    assert parse_stream(encode_stream(completion, include_usage=True)) == completion


def test_policy_error_when_raised_by_a_thread_then_kept(open_wire):
    def refuse(request):
        raise PolicyError("no", 402)

    with LocalRuntime(refuse) as runtime:
        answer = open_wire(runtime).chat(runtime.new_rollout("p"))
        assert (answer.status_code, answer.headers["x-amzn-ErrorType"]) == (402, "ServiceQuotaExceededException")
        runtime.policy = echo


def test_upstream_when_its_timeout_is_impossible_or_has_the_old_name_then_said_where_it_is_made():
    for seconds in (0, -1, "5", float("inf"), None):
        with pytest.raises(ConfigurationError, match="timeout_seconds"):
            UpstreamPolicy("http://127.0.0.1:1/v1", timeout_seconds=seconds)
    with pytest.warns(DeprecationWarning, match="timeout_seconds") as warned:
        UpstreamPolicy("http://127.0.0.1:1/v1", timeout=5)
    assert warned[0].filename == __file__

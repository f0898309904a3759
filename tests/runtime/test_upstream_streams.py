"""What model servers stream apart from OpenAI's form. Each case works, or is a clear error and no turn is recorded."""

from __future__ import annotations

import json

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import Response

from aws_rft_sdk.runtime import UpstreamPolicy
from aws_rft_sdk.runtime.chat import StreamError, parse_stream

from .conftest import tracking

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def chunk(delta=None, finish=None, **fields):
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice], **fields}


def sse(*events, done=b"data: [DONE]\n\n", end=b"\n\n", field=b"data: "):
    return b"".join(field + json.dumps(event).encode() + end for event in events) + done


def call(index, arguments, name=None, key=None, **fields):
    function = {"name": name, "arguments": arguments} if name else {"arguments": arguments}
    found = {"index": index, "function": function, **fields}
    return {"tool_calls": [{**found, "id": key, "type": "function"} if key else found]}


SAYS = [chunk({"role": "assistant", "content": "4"}), chunk({"content": "2"}), chunk({}, "stop")]
CALLS = [call(0, "", "add", "a"), call(0, '{"x"'), call(0, ": 1}")]
TWO_CALLS = [*CALLS, call(1, "", "sub", "b"), call(1, "{}")]


def without_index(deltas):
    return [{"tool_calls": [{**item["tool_calls"][0], "index": None}]} for item in deltas]


def no_index(deltas):
    kept = [dict(item["tool_calls"][0]) for item in deltas]
    for item in kept:
        del item["index"]
    return [{"tool_calls": [item]} for item in kept]


def with_empty_id(delta):
    return {"tool_calls": [{**delta["tool_calls"][0], "id": "", "type": ""}]}


def calling(deltas):
    return [*(chunk(delta) for delta in deltas), chunk({}, "tool_calls")]


def several_lines(event):
    return b"".join(b"data: " + line + b"\n" for line in json.dumps(event, indent=1).encode().splitlines()) + b"\n"


TEXT = {
    "as-openai": sse(*SAYS),
    "done-without-space": sse(*SAYS, done=b"data:[DONE]\n\n", field=b"data:"),
    "crlf": sse(*SAYS, done=b"data: [DONE]\r\n\r\n", end=b"\r\n\r\n"),
    "cr": sse(*SAYS, done=b"data: [DONE]\r\r", end=b"\r\r"),
    "comments-and-empty-lines": b": ping\n\n\n" + sse(*SAYS[:1], done=b"") + b":\n\n\n\n: OK\n" + sse(*SAYS[1:]),
    "other-fields": b"event: message\nid: 7\nretry: 10\n" + sse(*SAYS),
    "data-in-several-lines": b"".join(map(several_lines, SAYS)) + b"data: [DONE]\n\n",
    "no-blank-lines": sse(*SAYS, end=b"\n"),
    "no-newline-at-the-end": sse(*SAYS, done=b"data: [DONE]"),
    "no-done-but-finished": sse(*SAYS, done=b""),
    "no-finish-reason-but-done": sse(*SAYS[:2]),
    "usage-null": sse(*[{**event, "usage": None} for event in SAYS]),
    "delta-null": sse(*SAYS[:2], chunk(None), SAYS[2]),
    "tool-calls-null": sse(*[chunk({**c["choices"][0]["delta"], "tool_calls": None}) for c in SAYS[:2]], SAYS[2]),
    "role-repeated": sse(*[chunk({**c["choices"][0]["delta"], "role": "assistant"}) for c in SAYS[:2]], SAYS[2]),
    "role-null": sse(chunk({"role": None, "content": "42"}), SAYS[2]),
    "choices-empty-first": sse({**SAYS[0], "choices": []}, *SAYS),
    "choices-null": sse({**SAYS[0], "choices": None}, *SAYS),
    "no-json": b"data: hello\n\n" + sse(*SAYS),
    "no-object": sse([1], "x", None, 5, *SAYS),
    "another-object": sse({"type": "ping"}, *SAYS),
    "error-null": sse(*[{**event, "error": None} for event in SAYS]),
    "byte-order-mark": b"\xef\xbb\xbf\n" + sse(*SAYS),
}
TOOLS = {
    "as-openai": sse(*calling(TWO_CALLS)),
    "index-null": sse(*calling(without_index(TWO_CALLS))),
    "no-index": sse(*calling(no_index(TWO_CALLS))),
    "id-empty-later": sse(
        *calling([delta if "id" in delta["tool_calls"][0] else with_empty_id(delta) for delta in TWO_CALLS])
    ),
    "id-repeated": sse(*calling([call(None, '{"x"', "add", "a"), call(None, ": 1}", key="a")])),
    "content-null": sse(*calling([{**delta, "content": None} for delta in TWO_CALLS])),
}
ERRORS = {
    "error-object-then-done": (sse(*SAYS[:2], {"error": {"message": "out of memory", "code": 500}}), "out of memory"),
    "error-text": (sse(*SAYS[:2], {"error": "out of memory", "error_type": "x"}), "out of memory"),
    "error-first": (sse({"error": {"message": "too long", "type": "BadRequestError"}}), "too long"),
    "error-event": (sse(*SAYS[:1], done=b'event: error\ndata: {"message": "overloaded"}\n\n'), "overloaded"),
    "error-field": (sse(*SAYS[:1], done=b'error: {"code": 500, "message": "slot gone"}\n\n'), "slot gone"),
    "error-type": (sse(*SAYS[:1], {"object": "error", "message": "no such model"}), "no such model"),
    "ends-early": (sse(*SAYS[:2], done=b""), "ended before"),
    "nothing-but-usage": (sse({**SAYS[0], "choices": [], "usage": USAGE}), "no chat completion"),
    "only-done": (b"data: [DONE]\n\n", "no chat completion"),
    "empty": (b"", "no chat completion"),
    "infinite": (sse(*SAYS[:2]).replace(b'"created": 1', b'"created": Infinity'), "cannot be written as JSON"),
}


@pytest.fixture(scope="module")
def client(shared_runtime):
    with openai.OpenAI(base_url=f"{shared_runtime.endpoint}/v1", api_key="x", max_retries=0) as client:
        yield client


@pytest.fixture
def played(upstream, runtime, client):
    """A function that asks the upstream server through the runtime, and one that returns what the runtime recorded."""
    runtime.policy = UpstreamPolicy(upstream.url)
    payload = runtime.new_rollout("p")

    def ask(form, stream, size=17):
        upstream.streams(*[stream[start : start + size] for start in range(0, len(stream), size)])
        return FORMS[form](client, tracking(payload))

    return ask, lambda: runtime.trajectory(payload["metadata"]["rolloutId"]).turns


def _streamed(client, headers):
    messages = [{"role": "user", "content": "x"}]
    with client.chat.completions.create(model="m", messages=messages, stream=True, extra_headers=headers) as stream:
        deltas = [event.choices[0].delta for event in stream if event.choices and event.choices[0].delta]
    return "".join(delta.content or "" for delta in deltas)


def _plain(client, headers):
    messages = [{"role": "user", "content": "x"}]
    choice = client.chat.completions.create(model="m", messages=messages, extra_headers=headers).choices[0]
    assert choice.finish_reason in ("stop", "tool_calls")
    assert all(tool_call.id for tool_call in choice.message.tool_calls or ())
    return choice.message.content or ""


def _responses(client, headers):
    with client.responses.stream(model="m", input="x", extra_headers=headers) as stream:
        return stream.get_final_response().output_text


FORMS = {"streamed": _streamed, "plain": _plain, "responses": _responses}
# The client itself cannot read these, so they are checked in the other forms only.
UNREADABLE = {"no-blank-lines", "no-json", "choices-null", "no-object", "cr"}


@pytest.mark.parametrize("form", list(FORMS))
@pytest.mark.parametrize("name", list(TEXT))
def test_stream_of_text_when_it_deviates_then_answered_and_recorded(played, form, name):
    ask, turns = played
    if not (form == "streamed" and name in UNREADABLE):
        assert ask(form, TEXT[name]) == "42"
    else:
        ask("plain", TEXT[name])
    (turn,) = turns()
    assert turn.message["content"] == "42"
    assert turn.message["role"] == "assistant"


@pytest.mark.parametrize("form", list(FORMS))
@pytest.mark.parametrize("name", list(TOOLS))
def test_stream_of_tool_calls_when_it_deviates_then_answered_and_recorded(played, form, name):
    ask, turns = played
    ask(form, TOOLS[name])
    (turn,) = turns()
    calls = [(item["id"], item["function"]) for item in turn.message["tool_calls"]]
    expected = [("a", {"name": "add", "arguments": '{"x": 1}'}), ("b", {"name": "sub", "arguments": "{}"})]
    assert calls == (expected[:1] if name == "id-repeated" else expected)


def test_stream_of_tool_calls_when_they_have_neither_index_nor_id_then_a_name_begins_each(played):
    ask, turns = played
    ask("plain", sse(*calling([call(None, "{", "add"), call(None, "}"), call(None, "{}", "add")])))
    (turn,) = turns()
    assert [item["function"] for item in turn.message["tool_calls"]] == [{"name": "add", "arguments": "{}"}] * 2


@pytest.mark.parametrize("form", list(FORMS))
@pytest.mark.parametrize("name", list(ERRORS))
def test_stream_when_it_fails_then_a_clear_error_no_turn_and_the_rollout_goes_on(played, form, name):
    ask, turns = played
    stream, text = ERRORS[name]
    with pytest.raises(openai.APIError) as raised:
        ask(form, stream)
    if form != "streamed":  # there the client has raised over the server's own event, and may have a text of its own
        assert text in str(raised.value)
    assert turns() == ()
    assert ask(form, TEXT["as-openai"]) == "42"
    assert len(turns()) == 1


def test_stream_when_logprobs_tokens_and_usage_come_in_pieces_then_all_are_recorded(played):
    ask, turns = played

    def piece(text, logprob, token):
        logprobs = {"content": [{"token": text, "logprob": logprob}]}
        return {"index": 0, "delta": {"content": text}, "logprobs": logprobs, "token_ids": [token]}

    first, second = chunk(choices=[piece("4", -0.5, 7)]), chunk(choices=[piece("2", -1, 8)], usage={"total_tokens": 1})
    ask("streamed", sse(first, second, chunk({}, "stop"), chunk(choices=[], usage=USAGE)))
    (turn,) = turns()
    assert (turn.logprobs, turn.token_ids, turn.usage) == ((-0.5, -1.0), (7, 8), USAGE)


@pytest.mark.parametrize("mark", [b"data:[DONE]", b"data: [DONE]", b"data:\t [DONE]"])
@pytest.mark.parametrize("size", [1, 5, 10_000])
def test_stream_when_the_mark_is_sent_then_the_turn_is_recorded(upstream, runtime, wire, mark, size):
    """An agent that has read the mark may seal at once, and must not lose its turn."""
    stream = sse(*SAYS, done=mark + b"\n\n", end=b"\r\n\r\n")
    upstream.streams(*[stream[start : start + size] for start in range(0, len(stream), size)])
    runtime.policy = UpstreamPolicy(upstream.url)
    payload, seen = runtime.new_rollout("p"), b""
    body = {"messages": [{"role": "user", "content": "x"}], "stream": True}
    url = f"{runtime.endpoint}/v1/chat/completions"
    with wire.session.post(url, json=body, headers=tracking(payload), stream=True, timeout=30) as answer:
        for piece in answer.iter_content(None):
            seen += piece
            if mark in seen:
                assert len(runtime.trajectory(payload["metadata"]["rolloutId"]).turns) == 1
    assert seen == stream


@pytest.mark.parametrize(
    "choice",
    [
        pytest.param({"message": {"content": "42"}}, id="bare"),
        pytest.param({"message": {"role": "assistant", "content": "42", "tool_calls": None}}, id="null-calls"),
        pytest.param({"message": {"content": "42"}, "finish_reason": None, "logprobs": None}, id="nulls"),
    ],
)
@pytest.mark.parametrize("form", list(FORMS))
def test_completion_when_it_comes_without_envelope_then_answered_in_every_form(
    upstream, runtime, wire, client, choice, form
):
    answer = {"choices": [choice], "usage": None}
    upstream.answer = lambda: Response(json.dumps(answer), media_type="application/json")
    runtime.policy = UpstreamPolicy(upstream.url)
    payload = runtime.new_rollout("p")
    if form == "plain":
        # Byte for byte what the server said, even without a finish reason.
        assert wire.chat(payload).json() == answer
    else:
        assert FORMS[form](client, tracking(payload)) == "42"
    assert len(runtime.trajectory(payload["metadata"]["rolloutId"]).turns) == 1


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["index", "id", "function"]), inner),
    max_leaves=6,
)
_delta = st.fixed_dictionaries({}, optional={"content": _json, "role": _json, "tool_calls": _json})
_choice = st.fixed_dictionaries({}, optional={"index": _json, "delta": _delta | _json, "finish_reason": _json})
_chunk = st.fixed_dictionaries({}, optional={"choices": st.lists(_choice | _json, max_size=3) | _json, "usage": _json})


@given(events=st.lists(_chunk | _json, max_size=4), done=st.booleans())
def test_parse_when_given_any_json_then_a_completion_none_or_a_stream_error(events, done):
    try:
        completion = parse_stream(sse(*events, done=b"data: [DONE]\n\n" if done else b""))
    except StreamError:
        return
    assert completion is None or completion["choices"]

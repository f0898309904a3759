"""Markers: put into any prompt, found in any request."""

from __future__ import annotations

import json

import pytest

from aws_rft_sdk.proof.markers import find_markers, markers_of, new_marker, place, placements

A, B = "rft-proof-00000000000a", "rft-proof-00000000000b"


def test_markers_are_new_each_time_and_found():
    one, two = new_marker(), new_marker()

    assert one != two
    assert find_markers(f"{one}x {two}") == (one, two)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        pytest.param("", (), id="none"),
        pytest.param(f"{A} {B} {A}", (B, A), id="by last occurrence, each once"),
        pytest.param("rft-proof-00000000000g", (), id="no hexadecimal number"),
    ],
)
def test_find_markers(text, found):
    assert find_markers(text) == found


def chat(*messages: tuple[str, object]) -> bytes:
    return json.dumps({"messages": [{"role": role, "content": content} for role, content in messages]}).encode()


@pytest.mark.parametrize(
    ("body", "found"),
    [
        pytest.param(chat(("user", f"hello {A}")), (A,), id="user"),
        pytest.param(chat(("system", A)), (A,), id="system alone"),
        pytest.param(chat(("system", A), ("user", "hello")), (A,), id="system, none in user"),
        pytest.param(chat(("user", A), ("tool", B)), (A,), id="a tool quotes another rollout"),
        pytest.param(chat(("user", A), ("assistant", B), ("user", "go on")), (A,), id="the policy does"),
        pytest.param(chat(("user", A), ("user", B)), (A, B), id="two prompts, the last one counts"),
        pytest.param(chat(("user", [{"type": "text", "text": A}])), (A,), id="blocks"),
        pytest.param(chat(("system", A), ("tool", B)), (A, B), id="none in user, two elsewhere"),
        pytest.param(json.dumps({"input": f"{A}", "instructions": B}).encode(), (A,), id="responses, text"),
        pytest.param(
            json.dumps({"instructions": B, "input": [{"role": "user", "content": A}]}).encode(),
            (A,),
            id="responses, list",
        ),
        pytest.param(f"no json {A} {B}".encode(), (A, B), id="no JSON"),
        pytest.param(f'["{A}", "{B}"]'.encode(), (A, B), id="no object"),
        pytest.param(b"\xff" + A.encode(), (A,), id="no UTF-8"),
    ],
)
def test_markers_of(body, found):
    assert markers_of(body) == found


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        pytest.param("plain text", [()], id="text"),
        pytest.param("12", [()], id="a number is text"),
        pytest.param('"quoted"', [()], id="a JSON string is text"),
        pytest.param('{"n": 1}', [()], id="an object without strings"),
        pytest.param('{"a": "x", "b": "longer"}', [("b",), ("a",)], id="object, the longest first"),
        pytest.param('[{"role": "user", "content": "hello"}]', [(0, "content"), (0, "role")], id="list"),
    ],
)
def test_placements(cell, expected):
    assert placements(cell) == expected


def test_placements_are_few():
    assert len(placements(json.dumps([str(n) for n in range(100)]))) == 8


@pytest.mark.parametrize(
    ("cell", "placement", "expected"),
    [
        pytest.param("hello", (), f"hello\n\n({A})", id="text"),
        pytest.param('{"q": "é", "n": 1}', ("q",), f'{{"q": "é ({A})", "n": 1}}', id="object"),
        pytest.param('[{"c": ["x"]}]', (0, "c", 0), f'[{{"c": ["x ({A})"]}}]', id="deep"),
    ],
)
def test_place(cell, placement, expected):
    assert place(cell, placement, A) == expected


@pytest.mark.parametrize(
    ("cell", "placement"),
    [pytest.param('{"q": 1}', ("q",), id="a number"), pytest.param('{"q": "x"}', ("r",), id="nothing")],
)
def test_place_where_there_is_no_string_raises(cell, placement):
    with pytest.raises(LookupError):
        place(cell, placement, A)

"""The page of one rollout: long conversations in parts, texts to the letter, and which tokens are trained."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from runs.making import CREATED, Database, calculating, calling, record, said, write_records
from viewer.browsing import KEY, served

from aws_rft_sdk.runtime.records import TurnRow, turn_key
from aws_rft_sdk.viewer.contents import MESSAGES_PER_PART

LONG = "\u202e" + "x" * 30_000
TURNS = 210
"""Of the long rollout: a question, and then an answer and another question each."""


def turn_with_tokens(number: int, index: int, messages: list[Any], answer: Any, read: list[int], words: str) -> TurnRow:
    """Return a turn whose answer is made of one token for each word. Token n has the log-probability -n / 2."""
    content = [{"token": f"{word} ", "logprob": -place / 2} for place, word in enumerate(words.split())]
    ids = [1000 * (index + 1) + place for place in range(len(content))]
    choice = {"message": answer, "finish_reason": "stop", "token_ids": ids, "logprobs": {"content": content}}
    bodies = ({"messages": messages}, {"choices": [choice], "prompt_token_ids": read})
    request, response = (json.dumps(body).encode() for body in bodies)
    return TurnRow(
        turn_key(number, index), f"span-{number}-{index}", "/sample", CREATED + index, 0.5, request, response
    )


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = tmp_path_factory.mktemp("runs") / "run"
    history: list[dict[str, Any]] = []
    growing = []
    for index in range(TURNS):
        history = [*history, said("user", f"question {index}.")]
        growing.append((history, said("assistant", f"answer {index}.")))
        history = [*history, growing[-1][1]]
    asked, called = calculating()
    first, second = [1, 2, 3], [1, 2, 3, 1000, 1001, 7, 8]
    with Database(path) as database:
        database.add("t-long", growing)
        database.add("t-texts", [([said("user", LONG)], calling("", ("calculator", f'{{"a": "{LONG}"}}')))])
        number = 2
        one = turn_with_tokens(number, 0, asked[0], asked[1], first, "see 42")
        two = turn_with_tokens(number, 1, called[0], called[1], second, "it is so")
        another = turn_with_tokens(number, 2, [said("user", "Another?")], said("assistant", "no"), [9], "no")
        database.add("t-tokens", rows=[one, two, another])
        no_ids = json.loads(one.response)
        del no_ids["choices"][0]["token_ids"]
        rows = [one._replace(key=turn_key(3, 0), response=json.dumps(no_ids).encode())]
        database.add("t-logprobs", rows=rows)
    names = ("t-long", "t-texts", "t-tokens", "t-logprobs")
    write_records(path, *(record(name, place, reward=None if place == 3 else 1.0) for place, name in enumerate(names)))
    with served(path) as found:
        yield found


@pytest.fixture(scope="module")
def session(address: str) -> requests.Session:
    found = requests.Session()
    assert found.get(f"{address}/?key={KEY}", timeout=20).status_code == 200
    return found


def page_of(session: requests.Session, url: str) -> str:
    answer = session.get(url, timeout=20)
    assert answer.status_code == 200, answer.text
    return answer.text.replace("&amp;", "&")


def test_conversation_when_it_is_long_then_its_parts_hold_each_message_once(
    address: str, session: requests.Session
) -> None:
    found, path, pages = list[str](), "/view/0/rollout?id=t-long", 0
    while path:
        page = page_of(session, address + path)
        messages = re.findall(r"<pre>((?:question|answer) \d+\.)</pre>", page)
        assert len(messages) <= MESSAGES_PER_PART
        found, pages = [*found, *messages], pages + 1
        (path, *_) = [*re.findall(r'<a rel="next" href="([^"]+page=\d+)">Next part', page), ""]
    assert found == [text for index in range(TURNS) for text in (f"question {index}.", f"answer {index}.")]
    assert pages == -(-2 * TURNS // MESSAGES_PER_PART)


def test_texts_when_asked_for_then_they_are_whole_and_to_the_letter(address: str, session: requests.Session) -> None:
    page = page_of(session, f"{address}/view/0/rollout?id=t-texts")
    assert "10,001 more characters are left out" in page
    assert "\u202e" not in page
    sources = re.findall(r'data-copy-from="(/view/0/text[^"]+)"', page)
    texts = [session.get(address + source, timeout=20) for source in sources]
    assert [text.text for text in texts] == [LONG, f'{{"a": "{LONG}"}}']
    assert {text.headers["content-type"] for text in texts} == {"text/plain; charset=utf-8"}
    assert all(text.headers["content-security-policy"].startswith("default-src 'none'") for text in texts)
    assert session.get(f"{address}/view/0/rollout.json?id=t-texts", timeout=20).json()["messages"][0]["text"] == LONG


@pytest.mark.parametrize(
    "query", ["id=t-texts&message=9&what=text", "id=t-texts&message=-1&what=text", "id=t-texts", "id=no", "", "what=x"]
)
def test_texts_when_they_are_not_there_then_not_found(address: str, session: requests.Session, query: str) -> None:
    assert session.get(f"{address}/view/0/text?{query}", timeout=20).status_code == 404


def test_mask_when_tokens_were_captured_then_it_is_what_a_trainer_trains(
    address: str, session: requests.Session
) -> None:
    page = page_of(session, f"{address}/view/0/rollout?id=t-tokens&tokens=mask")
    trained = re.findall(r'<span class="trained" title="([-\d.]+)">([^<]+)</span>', page)
    assert trained == [
        *(("0.000", "see "), ("-0.500", "42 ")),
        *(("0.000", "it "), ("-0.500", "is "), ("-1.000", "so ")),
        ("0.000", "no "),
    ]
    assert re.findall(r'<span class="read">(\d+) tokens read', page) == ["3", "2", "1"]
    assert re.findall(r"<li>(row \d+: \d+ of \d+ tokens are trained, in turns? [\d, ]+)", page) == [
        "row 0: 5 of 10 tokens are trained, in turns 0, 1",
        "row 1: 1 of 2 tokens are trained, in turn 2",
    ]
    assert "turn 2 has not even its first token in common with an earlier row" in page
    assert re.findall(r"<small>((?:not )?trained)</small>", page) == [
        *(["not trained"] * 2 + ["trained"]),  # system, user, a call
        *("not trained", "trained"),
        *("not trained", "trained"),
    ]


def test_logprobs_when_switched_on_then_each_token_has_its_number(address: str, session: requests.Session) -> None:
    page = page_of(session, f"{address}/view/0/rollout?id=t-tokens&tokens=logprobs")
    numbers = re.findall(r'<span class="p\d" title="[-\d.]+">[^<]+<sub>([-\d.]+)</sub>', page)
    assert [float(number) for number in numbers] == [0.0, -0.5, 0.0, -0.5, -1.0, 0.0]


def test_mask_when_token_ids_are_not_known_then_it_says_so_and_shows_log_probabilities(
    address: str, session: requests.Session
) -> None:
    page = page_of(session, f"{address}/view/0/rollout?id=t-logprobs&tokens=mask")
    assert "Which tokens are trained is not known" in page
    assert 'class="trained"' not in page
    assert 'title="-0.500">42 </span>' in page


@pytest.mark.parametrize("tokens", ["mask", "logprobs", "<script>", ""])
def test_overlay_when_there_are_no_tokens_then_there_is_none(
    address: str, session: requests.Session, tokens: str
) -> None:
    page = page_of(session, f"{address}/view/0/rollout?id=t-texts&tokens={tokens}")
    assert "loss mask" not in page
    assert "<script>" not in page

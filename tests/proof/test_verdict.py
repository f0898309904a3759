"""The verdict: what each request claims against whose it is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from aws_rft_sdk import wire
from aws_rft_sdk.proof.stage import ANSWER_LOST, THROTTLED, Arrival, Claim, Fate, Probe, Watch, read_claim
from aws_rft_sdk.proof.verdict import ModelCall, Verdict, judge

JOB = "arn:aws:sagemaker:us-west-2:123456789012:job/AgentRFT/j"
MARK = {name: f"rft-proof-00000000000{name}" for name in "abc"}
A, B = Probe(MARK["a"], JOB, "A"), Probe(MARK["b"], JOB, "B")
OUTSIDE = Probe(MARK["c"])
NOTHING = Claim()


def claim(trajectory_id: str | None, span: str | None = "s", job: str | None = JOB) -> Claim:
    return Claim(job, trajectory_id, span)


def counts(verdict: Verdict) -> dict[str, int]:
    names = ("wrong", "untracked", "stray", "duplicates", "reused_spans", "shared", "unproven")
    return {name: len(getattr(verdict, name)) for name in names if getattr(verdict, name)}


@pytest.mark.parametrize(
    ("arrival", "expected"),
    [
        pytest.param(Arrival(claim("A"), (MARK["a"],)), {}, id="right"),
        pytest.param(Arrival(claim("A", span=None), (MARK["a"],)), {}, id="right, without a span"),
        pytest.param(Arrival(claim("B"), (MARK["a"],)), {"wrong": 1}, id="another trajectory"),
        pytest.param(Arrival(claim("A", job=f"{JOB}2"), (MARK["a"],)), {"wrong": 1}, id="another job"),
        pytest.param(Arrival(claim("unknown"), (MARK["a"],)), {"wrong": 1}, id="a trajectory that does not exist"),
        pytest.param(Arrival(replace(claim("A"), agrees=False), (MARK["a"],)), {"wrong": 1}, id="contradiction"),
        pytest.param(Arrival(NOTHING, (MARK["a"],)), {"untracked": 1}, id="no headers"),
        pytest.param(Arrival(claim("A", job=None), (MARK["a"],)), {"untracked": 1}, id="no job"),
        pytest.param(Arrival(claim(None), (MARK["a"],)), {"untracked": 1}, id="no trajectory"),
        pytest.param(Arrival(NOTHING, (MARK["c"],)), {}, id="outside, nothing"),
        pytest.param(Arrival(claim("A"), (MARK["c"],)), {"stray": 1}, id="outside, headers"),
        pytest.param(Arrival(Claim(span_id="s"), (MARK["c"],)), {"stray": 1}, id="outside, a span alone"),
        pytest.param(Arrival(claim("B"), (MARK["a"], MARK["b"])), {"shared": 1}, id="two prompts in one conversation"),
        pytest.param(
            Arrival(claim("B"), (MARK["b"], MARK["a"])), {"shared": 1, "wrong": 1}, id="the last prompt counts"
        ),
        pytest.param(Arrival(claim("B"), fate=Fate.TURNED_AWAY, markers=(MARK["a"],)), {"wrong": 1}, id="turned away"),
    ],
)
def test_request_with_a_marker(arrival, expected):
    assert counts(judge([A, B, OUTSIDE], [arrival])) == expected


def seen(claim: Claim, *in_flight: str) -> Arrival:
    return Arrival(claim, in_flight=frozenset(in_flight))


@pytest.mark.parametrize(
    ("arrival", "expected"),
    [
        pytest.param(seen(claim("A"), "A"), {}, id="the only rollout in progress"),
        pytest.param(seen(claim("B"), "A"), {"wrong": 1}, id="another than the only one"),
        pytest.param(seen(NOTHING, "A"), {"untracked": 1}, id="nothing, one in progress"),
        pytest.param(seen(claim("A"), "A", "B"), {"unproven": 1}, id="one of two"),
        pytest.param(seen(claim("C"), "A", "B"), {"wrong": 1}, id="none of two"),
        pytest.param(seen(NOTHING, "A", "B"), {"untracked": 1}, id="nothing, two in progress"),
        pytest.param(seen(replace(claim("A"), agrees=False), "A", "B"), {"wrong": 1}, id="contradiction"),
        pytest.param(seen(claim("A")), {"stray": 1}, id="headers when all is over"),
        pytest.param(seen(NOTHING), {}, id="nothing when all is over"),
    ],
)
def test_request_without_a_marker(arrival, expected):
    assert counts(judge([A, B], [arrival])) == expected


def test_headers_used_for_two_requests_are_wrong_where_nobody_knows_whose_they_are():
    first = Arrival(claim("A"), digest="1", in_flight=frozenset("AB"))
    second = replace(first, digest="2")

    assert counts(judge([A, B], [first, second])) == {"unproven": 1, "wrong": 1, "reused_spans": 1}


def test_span_used_for_two_requests_of_one_rollout_is_counted_apart():
    first = Arrival(claim("A"), (MARK["a"],), "1")

    assert counts(judge([A], [first, replace(first, digest="2")])) == {"reused_spans": 1}


FIRST = Arrival(claim("A"), (MARK["a"],), "1")
AGAIN = replace(FIRST, follows_answer=True, claim=claim("A", "t"))


@pytest.mark.parametrize(
    ("first", "second", "duplicates"),
    [
        pytest.param(FIRST, AGAIN, 0, id="the same question twice"),
        pytest.param(FIRST, replace(AGAIN, claim=FIRST.claim), 1, id="the same span"),
        pytest.param(FIRST, replace(AGAIN, resend=1), 1, id="the client says so"),
        pytest.param(replace(FIRST, fate=Fate.ANSWER_LOST), AGAIN, 1, id="the answer was lost"),
        pytest.param(replace(FIRST, fate=Fate.ANSWER_LOST), FIRST, 0, id="at the same time"),
        pytest.param(replace(FIRST, fate=Fate.TURNED_AWAY), replace(AGAIN, resend=1), 0, id="turned away before"),
        pytest.param(
            replace(FIRST, fate=Fate.ANSWER_LOST), replace(AGAIN, fate=Fate.TURNED_AWAY), 0, id="turned away now"
        ),
        pytest.param(replace(FIRST, fate=Fate.ANSWER_LOST), replace(AGAIN, digest="2"), 0, id="another question"),
        pytest.param(
            replace(FIRST, fate=Fate.ANSWER_LOST),
            replace(AGAIN, markers=(MARK["b"],), claim=claim("B")),
            0,
            id="another rollout",
        ),
        pytest.param(
            replace(FIRST, claim=NOTHING),
            replace(AGAIN, claim=NOTHING, resend=1, markers=(MARK["c"],)),
            0,
            id="recorded nowhere",
        ),
    ],
)
def test_duplicates(first, second, duplicates):
    assert len(judge([A, B, OUTSIDE], [first, second]).duplicates) == duplicates


# --- calls of models -------------------------------------------------------------------------------------------------


def model_call(run: Probe | None = A, span_id: str = "s", began: float = 1.0, **fields: bool) -> ModelCall:
    return ModelCall(
        run, "agent", "Model", "id", span_id, knows_rollout=True, where="", began=began, ended=2.0, **fields
    )


BARE = Arrival(NOTHING, (MARK["a"],), at=1.5)


@pytest.mark.parametrize(
    ("arrivals", "call", "foreign"),
    [
        pytest.param([], model_call(), 1, id="nothing arrived"),
        pytest.param([Arrival(claim("A"), (MARK["a"],))], model_call(), 0, id="its turn arrived"),
        pytest.param([Arrival(claim("A", "t"), (MARK["a"],), at=0.5)], model_call(), 1, id="an earlier turn arrived"),
        pytest.param([BARE], model_call(), 0, id="a request without headers arrived meanwhile"),
        pytest.param([BARE], model_call(B), 1, id="a request of another rollout arrived meanwhile"),
        pytest.param([Arrival(NOTHING, at=1.5)], model_call(), 0, id="a request arrived, nobody knows whose"),
        pytest.param([BARE], model_call(None), 0, id="a call, nobody knows whose"),
        pytest.param([], model_call(is_turn=True, raised=True), 0, id="a turn that failed before it was sent"),
        pytest.param([], model_call(is_turn=True), 1, id="a turn that was answered elsewhere"),
        pytest.param([], model_call(raised=True), 1, id="a call that failed elsewhere"),
        pytest.param([], model_call(is_allowed=True), 0, id="a model that may be asked"),
    ],
)
def test_call_without_a_request_of_its_own_went_elsewhere(arrivals, call, foreign):
    verdict = judge([A, B], arrivals, [call])

    assert len(verdict.foreign) == foreign
    assert foreign == 0 or not verdict.is_clean


def test_one_request_explains_one_call():
    calls = [model_call(span_id="1"), model_call(span_id="2")]

    verdict = judge([A], [BARE], calls)

    assert (verdict.untracked_by, verdict.foreign) == ((calls[0],), (calls[1],))


def test_call_that_is_sent_again_takes_no_request_from_another():
    first, second = model_call(span_id="1"), replace(model_call(span_id="2"), began=1.6)

    verdict = judge([A], [BARE, replace(BARE, resend=1), replace(BARE, at=1.7)], [first, second])

    assert (verdict.untracked_by, verdict.foreign) == ((first, first, second), ())


def test_numbers():
    away = replace(FIRST, fate=Fate.TURNED_AWAY)
    verdict = judge([A, OUTSIDE], [away, AGAIN, Arrival(NOTHING, (MARK["c"],))])

    assert (verdict.requests, verdict.turns, verdict.rollout_requests) == (3, 2, 2)
    assert verdict.is_clean


@pytest.mark.parametrize("name", ["wrong", "untracked", "stray", "duplicates"])
def test_each_of_the_four_spoils_the_verdict(name):
    assert not Verdict(**{name: (FIRST,)}).is_clean


# --- what is read ----------------------------------------------------------------------------------------------------


def pairs(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]


def test_claim_is_read_from_both_generations():
    headers = wire.inference_headers(JOB, "A", "s")

    assert read_claim(pairs(headers)) == Claim(JOB, "A", "s", agrees=True)
    for alone in (wire.ALPHA_TRAJECTORY_HEADER, wire.GA_TRAJECTORY_HEADER):
        assert read_claim(pairs({alone: "A"})) == Claim(trajectory_id="A")
        assert not read_claim(pairs({**headers, alone: "B"})).agrees
    assert read_claim(pairs({"Accept": "x", wire.SPAN_HEADER: ""})).is_empty


def test_watch_notes_inference_calls_only_and_makes_the_trouble_that_is_ordered():
    watch, body = Watch(), f'{{"messages": [{{"role": "user", "content": "{MARK["a"]}"}}]}}'.encode()
    watch.order(MARK["a"], THROTTLED, ANSWER_LOST)
    resent = [*pairs(wire.inference_headers(JOB, "A", "s")), (b"x-stainless-retry-count", b"2")]

    faults = [
        watch.draw("inference", [], body),
        watch.draw("complete", [], body),
        watch.draw("inference", resent, body),
    ]
    watch.answered(body, "A")
    faults.append(watch.draw("inference", resent, body))

    arrivals = watch.take()
    assert faults == [THROTTLED, None, ANSWER_LOST, None]
    assert [a.fate for a in arrivals] == [Fate.TURNED_AWAY, Fate.ANSWER_LOST, Fate.SERVED]
    assert [a.resend for a in arrivals] == [0, 2, 2]
    assert [a.follows_answer for a in arrivals] == [False, False, True]
    assert len({a.digest for a in arrivals}) == 1
    assert watch.take() == []


def test_watch_knows_what_is_in_progress_when_there_is_no_marker():
    watch = Watch()
    with watch.in_progress("A"):
        watch.draw("inference", [], b"{}")
        watch.draw("inference", [], MARK["a"].encode())
    watch.draw("inference", [], b"{}")

    assert [arrival.in_flight for arrival in watch.take()] == [frozenset("A"), frozenset(), frozenset()]

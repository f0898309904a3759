import asyncio
import json
import pickle
import re
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aws_rft_sdk.errors import ConfigurationError, PayloadError, RewardError
from aws_rft_sdk.rewards import Component, Format, RewardResult, check_reply, gsm8k, reward_lambda

handler = reward_lambda(gsm8k, floor=-1.0)
ASKED = {"role": "user", "content": "2 + 2?"}


def row(answer="#### 4", role="assistant", **fields):
    return {"id": "a", "messages": [ASKED, {"role": role, "content": answer}], **fields}


def score(item):
    (result,) = handler([item], None)
    (metric,) = result["metrics_list"]
    assert metric["name"] == "unscored"
    return result["aggregate_reward_score"], bool(metric["value"])


SCORED = [
    pytest.param(row(metadata={"reference_answer": "4"}), id="in-metadata"),
    pytest.param(row(reference_answer="4"), id="top-level"),
    pytest.param(row(reference_answer={"text": "2 + 2 = 4\n#### 4"}), id="wrapped-text"),
    pytest.param(row(metadata={"reference_answer": {"text": "4"}}), id="wrapped-text-in-metadata"),
    pytest.param(row(metadata={"reference_answer": "4"}, reference_answer="5"), id="metadata-first"),
    pytest.param(row(metadata={}, reference_answer={"final_answer": 4}), id="object"),
    pytest.param(row(metadata=None, reference_answer={"final_answer": "4"}), id="metadata-null"),
    pytest.param(row(metadata={"reference_answer": None}, reference_answer="4"), id="reference-null-in-metadata"),
    pytest.param(row(metadata={"reference_answer": ""}, reference_answer="4"), id="reference-empty-in-metadata"),
    pytest.param(row(metadata={"reference_answer": {"text": " "}}, reference_answer="4"), id="wrapped-empty"),
    pytest.param(row(metadata={"reference_answer": {}}, reference_answer={"text": "4"}), id="empty-object"),
    pytest.param(row(metadata={"reference_answer": "", "ground_truth": "4"}, reference_answer=[]), id="all-empty"),
    pytest.param(row(ground_truth="4"), id="ground-truth"),
    pytest.param(row(role="nova_assistant", reference_answer="4"), id="nova-assistant"),
    pytest.param(
        row([{"type": "text", "text": "#### "}, {"type": "text", "text": "4"}], reference_answer="4"), id="parts"
    ),
    pytest.param({k: v for k, v in row(reference_answer="4").items() if k != "id"}, id="no-id"),
]


@pytest.mark.parametrize("item", SCORED)
def test_row_when_in_any_shape_that_the_service_sends_then_scored(item):
    assert score(item) == (1.0, False)


UNSCORED = [
    pytest.param("text", id="string"),
    pytest.param(None, id="null"),
    pytest.param([], id="list"),
    pytest.param({}, id="empty"),
    pytest.param({"id": "a", "messages": []}, id="no-messages"),
    pytest.param({"id": "a", "messages": None}, id="messages-null"),
    pytest.param({"id": "a", "messages": ["text"]}, id="messages-of-strings"),
    pytest.param({"id": "a", "messages": [ASKED], "reference_answer": "4"}, id="no-answer"),
    pytest.param(row(), id="no-reference"),
    pytest.param(row("#### ,"), id="published-free-reward"),
    pytest.param(row(reference_answer=None), id="reference-null"),
    pytest.param(row(reference_answer=""), id="reference-empty"),
]


@pytest.mark.parametrize("item", UNSCORED)
def test_row_when_it_cannot_be_judged_then_the_floor_and_a_metric(item):
    """Most of these lose the whole batch in the published handlers, and one of them is a free 1.0."""
    assert score(item) == (-1.0, True)


@pytest.mark.parametrize("content", [None, [], [{"type": "image"}], 5], ids=repr)
def test_row_when_the_answer_has_no_text_then_wrong(content):
    assert score(row(content, reference_answer="4")) == (0.0, False)


def test_reply_when_rows_are_mixed_then_all_ids_in_order():
    event = [{**row(reference_answer="4"), "id": "x"}, None, {**row("#### 5", reference_answer="4"), "id": 7}, row()]
    event.append({"task_id": "t", "messages": []})
    reply = handler(event, None)
    assert [result["id"] for result in reply] == ["x", "row-1", 7, "a", "t"]
    assert [result["aggregate_reward_score"] for result in reply] == [1.0, -1.0, 0.0, -1.0, -1.0]
    assert check_reply(event, reply) == []
    json.dumps(reply, allow_nan=False)


@pytest.mark.parametrize(
    "event",
    [[row(reference_answer="4")], {"trajectories": [row(reference_answer="4")]}, row(reference_answer="4")],
    ids=["list", "trajectories", "one-row"],
)
def test_event_when_in_any_form_then_its_rows_are_scored(event):
    assert [result["aggregate_reward_score"] for result in handler(event, None)] == [1.0]
    assert check_reply(event, handler(event)) == []


@pytest.mark.parametrize("event", [None, "text", {}, {"trajectories": None}, 5], ids=repr)
def test_event_when_it_has_no_rows_then_payload_error(event):
    """An empty list, as one published handler answers, would lose the batch without a word."""
    with pytest.raises(PayloadError):
        handler(event, None)


def test_event_when_empty_then_an_empty_reply():
    assert handler([], None) == []


def test_reply_when_the_reward_raises_then_that_row_gets_the_floor(caplog):
    def reward(rollout):
        return 1 / len(rollout.answer)

    reply = reward_lambda(reward, floor=-2.0)([row("ab"), row(""), row("abcd")])
    assert [result["aggregate_reward_score"] for result in reply] == [0.5, -2.0, 0.25]
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("error", [SystemExit(0), GeneratorExit(), asyncio.CancelledError(), BaseException("panic")])
def test_reply_when_the_reward_raises_what_is_no_exception_then_the_batch_is_not_lost(error):
    """As a panic in an extension written in Rust, or the cancellation of a task."""

    def reward(rollout):
        if rollout.answer == "bad":
            raise error
        return 1.0

    reply = reward_lambda(reward, floor=-2.0)([row("good"), row("bad"), row("good")])
    assert [result["aggregate_reward_score"] for result in reply] == [1.0, -2.0, 1.0]


def test_handler_when_the_reward_lacks_what_all_rows_need_then_no_floor_hides_it():
    def reward(rollout):
        if rollout.answer == "good":
            return 1.0
        raise ConfigurationError("pip install it")

    with pytest.raises(ConfigurationError, match="pip install it"):
        reward_lambda(reward)([row("bad"), row("bad")])
    reply = reward_lambda(reward, floor=-2.0)([row("bad"), row("good")])
    assert [result["aggregate_reward_score"] for result in reply] == [-2.0, 1.0]


def test_handler_when_interrupted_then_it_stops():
    def reward(rollout):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reward_lambda(reward)([row()])


class Context:
    """Lambda's context, with the milliseconds that are left when each row begins."""

    def __init__(self, *millis):
        self._millis = iter(millis)

    def get_remaining_time_in_millis(self):
        return next(self._millis)


def loop_for_ever(rollout):
    while True:
        try:
            len(rollout.answer)
        except Exception:
            return 1.0


HANGING = [
    pytest.param(lambda rollout: threading.Event().wait(), id="waits"),
    pytest.param(loop_for_ever, id="loops"),
    pytest.param(lambda rollout: re.match(r"(a|a)+$", "a" * 100 + "b"), id="backtracks"),
]


@pytest.mark.parametrize("hanging", HANGING)
def test_reply_when_a_row_hangs_then_it_gets_the_floor_and_the_others_their_rewards(hanging, caplog):
    before = signal.getsignal(signal.SIGALRM)
    runners = signal.setitimer(signal.ITIMER_REAL, 100)  # as a test runner does
    handler = reward_lambda(lambda rollout: hanging(rollout) if rollout.answer == "bad" else 1.0, floor=-2.0)
    reply = handler([row("good"), row("bad"), row("good")], Context(60_000, 600, 60_000))
    assert [result["aggregate_reward_score"] for result in reply] == [1.0, -2.0, 1.0]
    assert [result["metrics_list"][-1]["value"] for result in reply] == [0.0, 1.0, 0.0]
    assert "the time is over" in caplog.text
    assert signal.getsignal(signal.SIGALRM) == before
    assert 0 < signal.setitimer(signal.ITIMER_REAL, *runners)[0] <= 100


@pytest.mark.parametrize("context", [None, object(), Context("soon"), SimpleNamespace(aws_request_id="1")])
def test_handler_when_the_context_does_not_know_the_time_then_rows_are_scored(context):
    assert handler([row(reference_answer="4")], context)[0]["aggregate_reward_score"] == 1.0


def test_handler_when_called_in_a_thread_then_rows_are_scored():
    with ThreadPoolExecutor(1) as pool:
        (result,) = pool.submit(handler, [row(reference_answer="4")], Context(60_000)).result()
    assert result["aggregate_reward_score"] == 1.0


def test_reply_when_the_reward_has_components_then_they_are_metrics():
    reply = reward_lambda(Format.final_answer())([row("so\n#### The final answer is 4", reference_answer="4")])
    assert reply[0]["aggregate_reward_score"] == 1.5
    assert reply[0]["metrics_list"] == [
        {"name": "correct", "value": 1.0, "type": "Reward"},
        {"name": "format", "value": 1.0, "type": "Reward"},
        {"name": "unscored", "value": 0.0, "type": "Metric"},
    ]


def test_rollout_when_a_row_has_more_fields_then_the_reward_sees_them():
    seen = []
    reward_lambda(lambda rollout: seen.append(rollout) or 1.0)([row(difficulty=3, metadata={"source": "x"})])
    assert dict(seen[0].metadata) == {"difficulty": 3, "source": "x"}
    assert seen[0].prompt == [ASKED]


def test_handler_when_pickled_then_the_same():
    assert pickle.loads(pickle.dumps(handler)) == handler


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["id", "messages", "role", "content", "metadata", "reference_answer", "assistant", "text"]),
            inner,
        )
    ),
    max_leaves=12,
)


@given(st.lists(json_values, max_size=4))
def test_handler_when_rows_are_anything_then_one_finite_score_for_each(event):
    good = row("#### 4", metadata={"reference_answer": "4"})
    event = [*event, good]  # or all may be unusable for one reason
    reply = handler(event, None)
    assert len(reply) == len(event)
    assert all(result["aggregate_reward_score"] in (-1.0, 0.0, 1.0) for result in reply)


GOOD = {"id": "a", "aggregate_reward_score": 1.0, "metrics_list": [{"name": "n", "value": 1, "type": "Reward"}]}


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        pytest.param([GOOD], None, id="good"),
        pytest.param([{**GOOD, "metrics_list": None, "extra": 1}], None, id="no-metrics"),
        pytest.param({"body": []}, "must be a list", id="no-list"),
        pytest.param([], "0 results for 1 rows", id="too-few"),
        pytest.param([GOOD, GOOD], "2 results for 1 rows", id="too-many"),
        pytest.param([{**GOOD, "id": "0"}], "has the id '0', not 'a'", id="other-id"),
        pytest.param(["text"], "is a str", id="no-object"),
        pytest.param([{"id": "a"}], "aggregate_reward_score", id="no-score"),
        pytest.param([{**GOOD, "aggregate_reward_score": float("nan")}], "finite", id="nan"),
        pytest.param([{**GOOD, "aggregate_reward_score": float("inf")}], "finite", id="inf"),
        pytest.param([{**GOOD, "aggregate_reward_score": 10**400}], "finite", id="too-long-for-a-float"),
        pytest.param([{**GOOD, "aggregate_reward_score": True}], "finite", id="bool"),
        pytest.param([{**GOOD, "aggregate_reward_score": "1"}], "finite", id="string"),
        pytest.param([{**GOOD, "metrics_list": {}}], "must be a list", id="metrics-no-list"),
        pytest.param([{**GOOD, "metrics_list": [5]}], "must be an object", id="metric-no-object"),
        pytest.param(
            [{**GOOD, "metrics_list": [{"name": "n", "type": "Metric"}]}], "finite number as value", id="no-value"
        ),
        pytest.param(
            [{**GOOD, "metrics_list": [{"name": "n", "value": 1, "type": "reward"}]}], "Reward or Metric", id="type"
        ),
    ],
)
def test_check_reply_when_a_reply_is_wrong_then_it_says_so(reply, problem):
    problems = check_reply([{"id": "a", "messages": []}], reply)
    assert problems == [] if problem is None else problem in problems[0]


def test_component_when_its_name_is_no_text_then_refused():
    """A metric has to have one, or the reply breaks the service's rules."""
    with pytest.raises(RewardError, match="name of a component"):
        Component(5, 1.0)


def test_rewards_when_they_have_turns_then_the_aggregate_counts():
    reply = reward_lambda(lambda rollout: RewardResult(0.5, turns_rewards=(0.0, 0.5)))([row()])
    assert reply[0]["aggregate_reward_score"] == 0.5


@pytest.mark.parametrize(("truth", "other"), [(0, "5"), (False, "5")])
def test_rollout_when_the_reference_is_nought_or_false_then_it_is_not_empty(truth, other):
    seen = []
    reward_lambda(lambda rollout: seen.append(rollout.ground_truth) or 1.0)(
        [row(metadata={"reference_answer": truth}, reference_answer=other)]
    )
    assert seen == [truth]


@pytest.mark.parametrize(("truth", "seen"), [({}, {}), ([], []), ({"text": ""}, ""), (None, None)], ids=repr)
def test_rollout_when_the_only_reference_is_empty_then_it_is_the_answer(truth, seen):
    """An empty object is a right answer of a tool, for example."""
    rollouts = []
    reward_lambda(lambda rollout: rollouts.append(rollout) or 1.0)([row(metadata={}, reference_answer=truth)])
    assert rollouts[0].ground_truth == seen

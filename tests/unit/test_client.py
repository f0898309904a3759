"""The feedback client against scripted HTTP outcomes (`responses`), where nothing sleeps and nothing leaves."""

from __future__ import annotations

import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
import responses
from fakes import JOB_ARN, ONCE, TWICE, AtMost, ga_payload
from requests.exceptions import ConnectTimeout, ReadTimeout

from aws_rft_sdk import errors
from aws_rft_sdk._backoff import Backoff
from aws_rft_sdk._decision import TrajectoryOutcome
from aws_rft_sdk.client import RolloutFeedbackClient
from aws_rft_sdk.context import RFTContext
from aws_rft_sdk.credentials import Keys
from aws_rft_sdk.feedback import _requests

from .client_wire import LOCAL, PATHS, bodies, broken, make, refused, script

# --- what is sent ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("api", ["alpha", "ga"])
def test_report_complete_when_called_then_completion_and_reward_in_this_order(
    wire: responses.RequestsMock, api: str
) -> None:
    for path in PATHS[api]:
        script(wire, path, 200)
    make(api=api).report_complete([1, 0.5])
    assert [call.request.path_url for call in wire.calls] == list(PATHS[api])
    completion, reward = bodies(wire)
    assert (completion["JobArn"], completion["TrajectoryId"]) == (JOB_ARN, "t-1")
    assert completion.get("Status") == (None if api == "alpha" else "ready")
    assert reward["Rewards"] == [1.0, 0.5]
    assert reward["JobArn"] == JOB_ARN
    assert completion["ClientToken"] != reward["ClientToken"]
    header = "X-Rft-Job-Arn" if api == "alpha" else "X-Amzn-SageMaker-Job-Arn"
    for call in wire.calls:
        assert call.request.headers[header] == JOB_ARN
        assert call.request.headers["Content-Type"] == "application/json"
        assert call.request.method == "POST"


def test_complete_rollout_when_called_then_it_is_complete_trajectory(wire: responses.RequestsMock) -> None:
    script(wire, "/complete-rollout", 200)
    make().complete_rollout("failed")
    assert bodies(wire)[0]["Status"] == "failed"
    assert RolloutFeedbackClient.complete_rollout is RolloutFeedbackClient.complete_trajectory


def test_complete_trajectory_when_failed_on_alpha_then_a_warning_and_no_status(
    wire: responses.RequestsMock, caplog: pytest.LogCaptureFixture
) -> None:
    script(wire, "/CompleteTrajectory", 200)
    make(api="alpha").complete_trajectory("failed")
    assert "Status" not in bodies(wire)[0]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


@pytest.mark.parametrize(
    ("reward", "calls"),
    [
        (None, [("/complete-rollout", "failed")]),
        (0.0, [("/complete-rollout", "ready"), ("/update-reward", [0.0])]),
        ([0.0, -1.0], [("/complete-rollout", "ready"), ("/update-reward", [0.0, -1.0])]),
    ],
)
def test_report_error_when_called_then_the_floor_or_failed_is_reported_and_the_type_logged(
    wire: responses.RequestsMock, caplog: pytest.LogCaptureFixture, reward: Any, calls: list[tuple[str, Any]]
) -> None:
    for path in PATHS["ga"]:
        script(wire, path, 200)
    make().report_error(KeyError("hunter2"), reward)
    sent = [(c.request.path_url, json.loads(c.request.body or b"")) for c in wire.calls]
    assert [(path, body.get("Status") or body["Rewards"]) for path, body in sent] == calls
    assert "KeyError" in caplog.text
    assert "hunter2" not in caplog.text


def test_report_error_when_it_is_a_text_then_it_is_logged_without_what_looks_like_a_secret(
    wire: responses.RequestsMock, caplog: pytest.LogCaptureFixture
) -> None:
    for path in PATHS["ga"]:
        script(wire, path, 200)
    token = "sagemaker-api-key-" + "A" * 40
    make().report_error(f"the tool failed\n{token} " + "x y " * 500, reward=0.0)
    (record,) = caplog.records
    assert "the tool failed" in record.getMessage()
    assert token not in record.getMessage()
    assert "\n" not in record.getMessage()
    assert len(record.getMessage()) < 400


@pytest.mark.parametrize("call", ["report_complete", "update_reward"])
def test_report_when_the_reward_is_named_then_it_is_taken(wire: responses.RequestsMock, call: str) -> None:
    for path in PATHS["ga"]:
        script(wire, path, 200)
    getattr(make(), call)(reward=0.5)
    assert bodies(wire)[-1]["Rewards"] == [0.5]


@pytest.mark.parametrize("reward", [True, "0.5", float("nan"), float("inf"), None, [], [1.0, None], {}])
def test_report_when_the_reward_is_none_then_reward_error_and_nothing_is_sent(
    wire: responses.RequestsMock, reward: Any
) -> None:
    for call in (make().report_complete, make().update_reward):
        with pytest.raises(errors.RewardError):
            call(reward)
    assert not wire.calls


def test_complete_trajectory_when_the_status_is_unknown_then_nothing_is_sent(wire: responses.RequestsMock) -> None:
    with pytest.raises(errors.ConfigurationError, match="ready, failed"):
        make().complete_trajectory("done")  # type: ignore[arg-type] # that is the point
    assert not wire.calls


# --- retries ---------------------------------------------------------------------------------------------------------

RETRIED: list[Any] = [429, 500, 502, 503, 504, broken(), refused(), ReadTimeout("slow"), ConnectTimeout("slow")]
FINAL = [400, 401, 402, 404, 405, 413, 418, 501, 301, 302, 307]


@pytest.mark.parametrize("outcome", RETRIED, ids=lambda x: str(x)[:20])
def test_call_when_the_outcome_may_pass_then_it_is_sent_again_with_the_same_token(
    wire: responses.RequestsMock, outcome: Any
) -> None:
    script(wire, "/update-reward", outcome, outcome, 200)
    make().update_reward(1.0)
    assert len({body["ClientToken"] for body in bodies(wire)}) == 1
    assert len(wire.calls) == 3


@pytest.mark.parametrize("status", FINAL)
def test_call_when_the_status_is_final_then_it_is_sent_once(wire: responses.RequestsMock, status: int) -> None:
    script(wire, "/update-reward", (status, {"Location": LOCAL + "/elsewhere"}))
    with pytest.raises(errors.StatusError) as caught:
        make().update_reward(1.0)
    assert len(wire.calls) == 1
    assert (caught.value.status, caught.value.attempts) == (status, 1)


@pytest.mark.parametrize(
    ("outcome", "cls"),
    [
        (400, errors.InvalidRequestError),
        (402, errors.QuotaExceededError),
        (403, errors.AccessDeniedError),
        (404, errors.TrajectoryNotFoundError),
        (409, errors.TrajectoryConflictError),
        (429, errors.ThrottledError),
        (500, errors.ServiceFaultError),
        (503, errors.ServiceFaultError),
        (418, errors.StatusError),
        (broken(), errors.ServiceConnectionError),
        (ReadTimeout("x"), errors.ServiceTimeoutError),
        (ConnectTimeout("x"), errors.ServiceTimeoutError),
    ],
    ids=lambda x: str(x)[:20],
)
def test_call_when_it_fails_then_the_error_of_the_tree_says_all(
    wire: responses.RequestsMock, outcome: Any, cls: type[errors.ServiceError]
) -> None:
    if isinstance(outcome, int):
        outcome = (outcome, {"x-amzn-RequestId": "req-7", "x-amzn-ErrorType": "SomeException", "Retry-After": "0"})
    script(wire, "/update-reward", outcome)
    with pytest.raises(errors.ServiceError) as caught:
        make(backoff=TWICE).update_reward(1.0)
    error = caught.value
    assert type(error) is cls
    assert "t-1" in str(error)
    assert error.attempts == len(wire.calls)
    if isinstance(error, errors.StatusError):
        assert (error.request_id, error.code, error.body) == ("req-7", "SomeException", f"message {error.status}")
        assert error.retry_after_seconds == 0.0
        assert "req-7" in str(error)


@pytest.mark.parametrize("text", ["not in valid status", "Cannot transition trajectory", "404", "already processed"])
def test_call_when_the_text_of_an_error_says_something_else_then_the_status_decides(
    wire: responses.RequestsMock, text: str
) -> None:
    wire.post(LOCAL + "/update-reward", status=400, json={"Message": text})
    with pytest.raises(errors.InvalidRequestError):
        make().update_reward(1.0)


@pytest.mark.parametrize("attempts", [1, 2, 5])
def test_call_when_it_keeps_failing_and_a_pause_is_longer_than_its_patience_then_it_is_raised(
    wire: responses.RequestsMock, attempts: int
) -> None:
    script(wire, "/update-reward", 500)
    with pytest.raises(errors.ServiceFaultError) as caught:
        make(backoff=AtMost(attempts=attempts)).update_reward(1.0)
    assert len(wire.calls) == caught.value.attempts == attempts


class RecordingBackoff(Backoff):
    asked: list[tuple[int, float | None]]

    def delay(self, attempt: int, retry_after: float | None = None, uniform: Any = None) -> float:
        self.asked.append((attempt, retry_after))
        return 0.0


def test_call_when_the_service_names_a_wait_then_it_reaches_the_backoff(wire: responses.RequestsMock) -> None:
    backoff = RecordingBackoff()
    object.__setattr__(backoff, "asked", [])
    past = "Thu, 01 Jan 1970 00:00:00 GMT"
    script(wire, "/update-reward", (429, {"Retry-After": "7"}), (503, {"Retry-After": past}), 500, 200)
    make(backoff=backoff).update_reward(1.0)
    assert backoff.asked == [(1, 7.0), (2, 0.0), (3, None)]


# --- 403 and 409 -----------------------------------------------------------------------------------------------------


def test_call_when_403_then_credentials_are_loaded_anew_and_it_is_sent_once_more(
    wire: responses.RequestsMock, aws_keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(request: requests.PreparedRequest) -> tuple[int, dict[str, str], str]:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDFRESH")
        fresh = "AKIDFRESH" in str(request.headers["Authorization"])
        return (200 if fresh else 403), {}, "{}"

    wire.add_callback("POST", LOCAL + "/update-reward", answer)
    make().update_reward(1.0)
    assert len(wire.calls) == 2


def test_call_when_403_again_then_it_is_raised(wire: responses.RequestsMock, aws_keys: Keys) -> None:
    script(wire, "/update-reward", 403)
    with pytest.raises(errors.AccessDeniedError) as caught:
        make().update_reward(1.0)
    assert len(wire.calls) == caught.value.attempts == 2


def test_call_when_403_and_unsigned_then_it_is_not_repeated(wire: responses.RequestsMock) -> None:
    script(wire, "/update-reward", 403)
    with pytest.raises(errors.AccessDeniedError):
        make().update_reward(1.0)
    assert len(wire.calls) == 1


@pytest.mark.parametrize("before", [500, 502, 503, 504, broken(), ReadTimeout("x")], ids=lambda x: str(x)[:20])
def test_call_when_409_follows_an_ambiguous_attempt_then_it_is_done(wire: responses.RequestsMock, before: Any) -> None:
    script(wire, "/complete-rollout", before, 409)
    make().complete_trajectory()
    assert len(wire.calls) == 2


@pytest.mark.parametrize("before", [429, refused(), ConnectTimeout("x")], ids=lambda x: str(x)[:20])
def test_call_when_409_follows_an_attempt_without_effect_then_conflict(
    wire: responses.RequestsMock, before: Any
) -> None:
    script(wire, "/complete-rollout", before, 409)
    with pytest.raises(errors.TrajectoryConflictError):
        make().complete_trajectory()


def test_call_when_409_at_once_then_conflict_and_the_next_client_starts_clean(wire: responses.RequestsMock) -> None:
    script(wire, "/complete-rollout", 500, 200, 409)
    make().complete_trajectory()
    with pytest.raises(errors.TrajectoryConflictError):
        make().complete_trajectory()  # the ambiguity of the call before does not excuse this one


def test_call_when_it_is_confirmed_then_it_is_not_sent_again(wire: responses.RequestsMock) -> None:
    script(wire, "/complete-rollout", 200, 409)
    script(wire, "/update-reward", 429, 200, 409)
    client = make(backoff=ONCE)
    with pytest.raises(errors.ThrottledError):
        client.report_complete(1.0)
    client.report_complete(1.0)
    client.report_complete(1.0)
    assert [call.request.path_url for call in wire.calls] == ["/complete-rollout", "/update-reward", "/update-reward"]


def test_update_reward_when_the_seal_has_not_come_through_then_it_goes_first(wire: responses.RequestsMock) -> None:
    script(wire, "/complete-rollout", 503, 200)
    script(wire, "/update-reward", 200)
    client = make(backoff=ONCE)
    with pytest.raises(errors.ServiceFaultError):
        client.complete_trajectory()
    client.update_reward(1.0)
    assert [call.request.path_url for call in wire.calls] == ["/complete-rollout"] * 2 + ["/update-reward"]


def test_report_when_someone_else_sealed_it_as_failed_then_the_first_409_of_the_reward_is_a_conflict(
    wire: responses.RequestsMock,
) -> None:
    script(wire, "/complete-rollout", 503, 409)
    script(wire, "/update-reward", 409)
    client = make()
    with pytest.raises(errors.TrajectoryConflictError):
        client.report_complete(1.0)
    assert client.holder.seen.outcome is TrajectoryOutcome.FAILED


def test_call_when_it_was_refused_then_it_may_be_tried_again(wire: responses.RequestsMock) -> None:
    script(wire, "/update-reward", 409, 200)
    client = make()
    with pytest.raises(errors.TrajectoryConflictError):
        client.update_reward(1.0)  # nobody has sealed it yet
    client.update_reward(0.5)
    assert client.holder.seen.outcome is TrajectoryOutcome.REWARDED


def test_client_when_another_decision_comes_then_it_is_not_sent(wire: responses.RequestsMock) -> None:
    script(wire, "/update-reward", 200)
    client = make()
    client.update_reward(1.0)
    with pytest.raises(errors.DecisionConflictError, match="t-1"):
        client.update_reward(0.5)
    assert len(wire.calls) == 1


# --- what is shared --------------------------------------------------------------------------------------------------


def test_clients_when_made_in_many_threads_then_they_share_one_session() -> None:
    _requests._forget_after_fork()
    barrier = threading.Barrier(8)

    def shared(_: int) -> int:
        barrier.wait(10)
        return id(_requests.shared_session())

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(shared, range(8)))) == 1


def test_cookies_when_the_service_sets_one_then_it_does_not_travel_to_the_next_rollout(
    wire: responses.RequestsMock,
) -> None:
    script(wire, "/update-reward", (200, {"Set-Cookie": "who=rollout-1; Path=/"}))
    make().update_reward(1.0)
    make(source=ga_payload("t-2")).update_reward(1.0)
    assert "Cookie" not in wire.calls[1].request.headers


def test_context_when_a_client_of_its_trajectory_reports_then_it_is_marked(wire: responses.RequestsMock) -> None:
    for path in PATHS["ga"]:
        script(wire, path, 200)
    with RFTContext.bind(ga_payload("t-1")) as mine, RFTContext.bind(ga_payload("t-2")) as other:
        make().complete_trajectory()
        assert (mine.completion, mine.rewards) == ("ready", None)
        make().update_reward(1.0)
        assert (mine.completion, mine.rewards) == ("ready", (1.0,))
        assert (other.completion, other.rewards) == (None, None)


def test_context_when_the_report_fails_then_it_is_not_marked(wire: responses.RequestsMock) -> None:
    for path in PATHS["ga"]:
        script(wire, path, 404)
    with RFTContext.bind(ga_payload("t-1")) as context:
        for call in (make().complete_trajectory, lambda: make().update_reward(1.0)):
            with pytest.raises(errors.TrajectoryNotFoundError):
                call()
        assert (context.completion, context.rewards) == (None, None)

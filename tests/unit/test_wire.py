from __future__ import annotations

import json
from typing import Any

import pytest
from fakes import JOB_ARN
from hypothesis import given
from hypothesis import strategies as st

from aws_rft_sdk import errors, wire
from aws_rft_sdk.errors import PayloadError
from aws_rft_sdk.wire import Api


def test_inference_headers_when_made_then_both_generations_are_there() -> None:
    assert wire.inference_headers("arn", "t", "s") == {
        "X-Rft-Job-Arn": "arn",
        "X-Trajectory-Id": "t",
        "X-Span-Id": "s",
        "X-Amzn-SageMaker-Job-Arn": "arn",
        "X-Amzn-SageMaker-Trajectory-Id": "t",
    }


@pytest.mark.parametrize(
    ("api", "path", "job_header"),
    [
        pytest.param(Api.ALPHA, "/CompleteTrajectory", "X-Rft-Job-Arn", id="alpha"),
        pytest.param(Api.GA, "/complete-rollout", "X-Amzn-SageMaker-Job-Arn", id="ga"),
    ],
)
def test_completion_request_when_encoded_then_job_stands_in_header_and_body(
    api: Api, path: str, job_header: str
) -> None:
    request = wire.completion_request(api, JOB_ARN, "t-1", "failed")
    body = json.loads(request.body)
    assert request.path == path
    assert request.headers == {"Content-Type": "application/json", job_header: JOB_ARN}
    assert body.pop("ClientToken")
    assert body == {"JobArn": JOB_ARN, "TrajectoryId": "t-1"} | ({"Status": "failed"} if api is Api.GA else {})


@pytest.mark.parametrize(
    ("api", "path"),
    [pytest.param(Api.ALPHA, "/UpdateReward", id="alpha"), pytest.param(Api.GA, "/update-reward", id="ga")],
)
def test_reward_request_when_encoded_then_rewards_are_a_list_in_order(api: Api, path: str) -> None:
    request = wire.reward_request(api, JOB_ARN, "t-1", (0.5, -1.0))
    body = json.loads(request.body)
    assert request.path == path
    assert body["Rewards"] == [0.5, -1.0]
    assert body["TrajectoryId"] == "t-1"


def token(request: wire.FeedbackRequest) -> str:
    value = json.loads(request.body)["ClientToken"]
    assert isinstance(value, str)
    return value


DECISIONS = [
    wire.completion_request(Api.GA, JOB_ARN, "t", "ready"),
    wire.completion_request(Api.GA, JOB_ARN, "t", "failed"),
    wire.completion_request(Api.GA, JOB_ARN, "u", "ready"),
    wire.completion_request(Api.GA, JOB_ARN + "2", "t", "ready"),
    wire.completion_request(Api.ALPHA, JOB_ARN, "t", "ready"),
    wire.reward_request(Api.GA, JOB_ARN, "t", [1.0]),
    wire.reward_request(Api.GA, JOB_ARN, "t", [0.0]),
    wire.reward_request(Api.GA, JOB_ARN, "t", [1.0, 0.0]),
    wire.reward_request(Api.GA, JOB_ARN, "t", [0.0, 1.0]),
    wire.reward_request(Api.ALPHA, JOB_ARN, "t", [1.0]),
]


def test_client_token_when_decisions_differ_then_tokens_do() -> None:
    assert len({token(request) for request in DECISIONS}) == len(DECISIONS)


def test_client_token_when_made_again_then_it_is_the_same() -> None:
    first, again = (wire.reward_request(Api.GA, JOB_ARN, "t", [1.0]) for _ in range(2))
    assert first == again
    assert 1 <= len(token(first)) <= 64


def test_reward_request_when_a_number_is_not_finite_then_it_cannot_be_encoded() -> None:
    with pytest.raises(ValueError, match="JSON"):
        wire.reward_request(Api.GA, JOB_ARN, "t", [float("nan")])


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, errors.InvalidRequestError),
        (402, errors.QuotaExceededError),
        (403, errors.AccessDeniedError),
        (404, errors.TrajectoryNotFoundError),
        (409, errors.TrajectoryConflictError),
        (429, errors.ThrottledError),
        (500, errors.ServiceFaultError),
        (502, errors.ServiceFaultError),
        (503, errors.ServiceFaultError),
        (504, errors.ServiceFaultError),
        (599, errors.ServiceFaultError),
        (301, errors.StatusError),
        (401, errors.StatusError),
        (418, errors.StatusError),
    ],
)
def test_error_class_when_asked_then_the_status_alone_decides(status: int, expected: type) -> None:
    assert wire.error_class(status) is expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(b'{"Message": "no such job"}', "no such job", id="message"),
        pytest.param(b'{"message": "lower case"}', "lower case", id="lower-case"),
        pytest.param(b'{"Message": 5}', "5", id="not-a-string"),
        pytest.param(b"<html>", "<html>", id="not-json"),
        pytest.param(b"", "", id="empty"),
        pytest.param(b"\xff\xfe", "\N{REPLACEMENT CHARACTER}" * 2, id="not-utf-8"),
        pytest.param(b'{"Message": "a\\nb\\u001b[31m"}', "a b [31m", id="control-characters"),
        pytest.param(b'["x"]', '["x"]', id="array"),
        pytest.param(json.dumps({"Message": "no " * 5000}).encode(), ("no " * 5000)[:1024], id="long"),
    ],
)
def test_error_message_when_read_then_it_is_safe_to_log(body: bytes, expected: str) -> None:
    assert wire.error_message(body) == expected


@given(st.binary(max_size=200))
def test_error_message_when_the_body_is_anything_then_it_is_printable_and_short(body: bytes) -> None:
    text = wire.error_message(body)
    assert text.isprintable()
    assert len(text) <= 1024


def test_error_message_when_the_body_nests_deeply_then_it_is_text_like_any_other() -> None:
    assert wire.error_message(b"[" * 100_000)


# --- the job ARN and the id ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arn",
    [
        pytest.param(JOB_ARN, id="aws"),
        pytest.param("arn:aws-cn:sagemaker:cn-north-1:123456789012:job/AgentRFT/x", id="china"),
        pytest.param("arn:aws-us-gov:sagemaker:us-gov-west-1:123456789012:job/a_b-C/x-1--y", id="gov"),
        pytest.param("arn:aws:sagemaker::123456789012:job/AgentRFT/x", id="no-region"),
        pytest.param("arn:aws:sagemaker:us-west-2:123456789012:job/AgentRFT/" + "x" * 63, id="longest-name"),
    ],
)
def test_check_job_arn_when_it_matches_the_contract_then_it_is_taken(arn: str) -> None:
    assert wire.check_job_arn(arn, "f") == arn


BAD_ARNS: list[Any] = [
    pytest.param(None, id="none"),
    pytest.param("", id="empty"),
    pytest.param(5, id="int"),
    pytest.param(b"arn", id="bytes"),
    pytest.param("arn:aws:sagemaker:us-west-2:12345678901:job/AgentRFT/x", id="11-digits"),
    pytest.param("arn:aws:sagemaker:us-west-2:123456789012:job/AgentRFT", id="no-name"),
    pytest.param("arn:aws:sagemaker:us-west-2:123456789012:job//x", id="no-category"),
    pytest.param("arn:aws:sagemaker:us-west-2:123456789012:training-job/x", id="training-job"),
    pytest.param("arn:aws:s3:us-west-2:123456789012:job/AgentRFT/x", id="other-service"),
    pytest.param("arn:gcp:sagemaker:us-west-2:123456789012:job/AgentRFT/x", id="other-cloud"),
    pytest.param("arn:aws:sagemaker:US-WEST-2:123456789012:job/AgentRFT/x", id="upper-case-region"),
    pytest.param(JOB_ARN + "\n", id="newline"),
    pytest.param(" " + JOB_ARN, id="space"),
    pytest.param(JOB_ARN + "-", id="hyphen-at-the-end"),
    pytest.param("arn:aws:sagemaker:us-west-2:123456789012:job/AgentRFT/" + "x" * 64, id="long-name"),
    pytest.param("arn:aws:sagemaker:us-west-2:123456789012:job/" + "c" * 200 + "/" + "x" * 60, id="over-256"),
    pytest.param("arn:aws:sagemaker:us-west-2:१२३४५६७८९०१२:job/AgentRFT/x", id="other-digits"),
]


@pytest.mark.parametrize("arn", BAD_ARNS)
def test_check_job_arn_when_it_does_not_match_then_the_field_is_named(arn: object) -> None:
    with pytest.raises(PayloadError) as caught:
        wire.check_job_arn(arn, "metadata.jobArn")
    assert caught.value.field == "metadata.jobArn"
    assert "metadata.jobArn" in str(caught.value)


@pytest.mark.parametrize("text", ["x", "x" * 256, "a b", "a/b:c", "r-1.2_3~"])
def test_check_trajectory_id_when_it_fits_a_header_then_it_is_taken(text: str) -> None:
    assert wire.check_trajectory_id(text, "f") == text


@pytest.mark.parametrize(
    "text", [None, "", 7, [], "x" * 257, "a\nb", "a\x00", "a\x7f", "\t", " a", "a ", "é", "\u2028", True]
)
def test_check_trajectory_id_when_it_does_not_then_the_field_is_named(text: object) -> None:
    with pytest.raises(PayloadError) as caught:
        wire.check_trajectory_id(text, "metadata.rolloutId")
    assert caught.value.field == "metadata.rolloutId"


@pytest.mark.parametrize(
    ("arn", "region"),
    [
        (JOB_ARN, "us-west-2"),
        ("arn:aws:sagemaker::123456789012:job/AgentRFT/x", None),
        ("no arn", None),
    ],
)
def test_job_region_when_asked_then_it_is_the_arns(arn: str, region: str | None) -> None:
    assert wire.job_region(arn) == region


@pytest.mark.parametrize(
    "text",
    [
        "refused: Bearer s3cret",
        "aws_secret_access_key=s3cret",
        "SecretAccessKey: s3cret",
        "X-Amz-Security-Token=s3cret",
        "Signature=s3cret",
    ],
)
def test_loggable_when_a_text_holds_a_credential_then_it_is_removed(text: str) -> None:
    assert "s3cret" not in wire.loggable(text, 200)
    assert "s3cret" not in wire.loggable("x" * 180 + " " + text, 200)
